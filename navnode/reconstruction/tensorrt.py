"""Runs networks on NVIDIA GPUs with TensorRT, or with TensorRT for RTX, which has the same interface.

A plan is built on the machine that runs it, and cached. Plans are executable code: each carries an HMAC under the
user's own key, and its name is a hash of all that it depends on. Deserialising a plan without a driver kills the
process, so a child process looks for a device first.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import importlib
import importlib.metadata
import importlib.util
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from navnode.errors import ConfigError
from navnode.files.whole import write_whole
from navnode.types import Array, FloatArray

__all__ = ["Plan", "build", "cached", "device", "package", "version"]

_PACKAGES = ("tensorrt", "tensorrt_rtx")
_LARGEST_PLAN_BYTES = 512 * 2**20
_HMAC_BYTES = 32
_PROBE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
count, name, version = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
    sys.exit(1)
cuda.cuDriverGetVersion(ctypes.byref(version))
cuda.cuDeviceGetName(name, 256, 0)
print(name.value.decode(), version.value)
"""


def package() -> str | None:
    """Name of the installed package, or None."""
    return next((name for name in _PACKAGES if importlib.util.find_spec(name) is not None), None)


def version() -> str:
    """Package and version, for display and for the cache; '' if not installed."""
    name = package()
    return f"{name} {importlib.metadata.version(name.replace('_', '-'))}" if name else ""


@functools.cache
def device() -> str:
    """GPU and driver, or '' if none responds; a child process asks."""
    try:
        command = [sys.executable, "-c", _PROBE]
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def build(onnx: bytes) -> bytes:
    """Build the plan of a graph; TensorRT for RTX needs no GPU for this.

    Raises:
        ConfigError: TensorRT is not installed, or rejects the graph.
    """
    trt = _module()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        problems = "; ".join(parser.get_error(n).desc() for n in range(parser.num_errors))
        raise ConfigError(f"TensorRT rejects the graph: {problems}")
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise ConfigError("TensorRT could not build a plan")
    return bytes(plan)


def cached(onnx: bytes, folder: Path) -> tuple[bytes, bool]:
    """The plan of a graph, and whether it was cached; a plan that fails authentication is rebuilt.

    Raises:
        ConfigError: as :func:`build`, or the plan cannot be stored.
    """
    secret = _secret(folder)
    path = folder / f"{_plan_name(onnx)}.plan"
    kept = _read(path)
    if kept is not None and hmac.compare_digest(kept[:_HMAC_BYTES], _seal(secret, path.name, kept[_HMAC_BYTES:])):
        return kept[_HMAC_BYTES:], True
    plan = build(onnx)
    write_whole(path, _seal(secret, path.name, plan) + plan)
    return plan, False


class Plan:
    """A plan on the GPU: it uses torch's memory and stream, and runs as a CUDA graph.

    Raises:
        ConfigError: no GPU responds, or the plan was not built for it.
    """

    def __init__(self, plan: bytes) -> None:
        if not device():
            raise ConfigError("TensorRT needs an NVIDIA GPU and its driver; none responds")
        import torch

        trt = _module()
        self._torch = torch
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ConfigError("the plan was not built for this GPU and driver")
        self._kept = (runtime, engine)
        self._context = engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        self._tensors: dict[str, Any] = {}
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            tensor = torch.zeros(tuple(engine.get_tensor_shape(name)), dtype=torch.float32, device="cuda")
            self._tensors[name] = tensor
            self._context.set_tensor_address(name, tensor.data_ptr())
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self._inputs if is_input else self._outputs).append(name)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            self._execute()  # warm up: a graph cannot capture allocations
            self._stream.synchronize()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._execute()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._torch.cuda.current_stream().cuda_stream):
            raise ConfigError("TensorRT cannot run the plan")

    def __call__(self, inputs: Mapping[str, Array]) -> list[FloatArray]:
        """Inputs by name -> outputs in the graph's order."""
        torch = self._torch
        with torch.cuda.stream(self._stream):
            for name in self._inputs:
                self._tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(inputs[name], np.float32)))
            self._graph.replay()
            found = [self._tensors[name].cpu().numpy() for name in self._outputs]
        return found


def _module() -> Any:
    name = package()
    if name is None:
        raise ConfigError("TensorRT is not installed; try: pip install tensorrt-rtx")
    return importlib.import_module(name)


def _plan_name(onnx: bytes) -> str:
    what = (hashlib.sha256(onnx).hexdigest(), version(), device())
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:32]


def _seal(secret: bytes, name: str, plan: bytes) -> bytes:
    return hmac.new(secret, name.encode() + b"\0" + plan, hashlib.sha256).digest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST_PLAN_BYTES + _HMAC_BYTES else None
    except OSError:
        return None


def _secret(folder: Path) -> bytes:
    """The user's key, created if missing; nobody else may read it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "key"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        except FileExistsError:
            pass
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot store plans ({error.strerror})") from error
    if len(secret) != 32 or path.stat().st_mode & 0o077 or path.stat().st_uid != os.getuid():
        raise ConfigError(f"{path}: not a key that only this user can read; remove it")
    return secret
