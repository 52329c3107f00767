"""Capabilities of this machine, and which of them the node will use."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess

import msgspec

from navnode import __version__
from navnode.files.cache import cache_folder
from navnode.igtl.server import DEFAULT_PORT
from navnode.projector import backend_name
from navnode.projector.native import instruction_sets
from navnode.reconstruction.choice import engine_name

__all__ = ["examine"]

_NO_REAL_TIME = "ordinary; `ulimit -r 5` or LimitRTPRIO=5 would allow real-time, with a third of the overlay latency"


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """The processor."""

    cores: int
    """Cores that this process may use."""
    instruction_sets: list[str]
    """Usable instruction sets that kernels are built for, best first."""


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """Capabilities of this machine."""

    navnode: str
    python: str
    machine: str
    cpu: Cpu
    scheduling: str
    gpu: str
    extras: dict[str, bool]
    """Optional package -> whether it is installed."""
    ports: dict[str, str]
    cache: str
    uses: dict[str, str]
    """Task -> implementation that the node uses."""
    lacks: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    """Missing part of the checked configuration -> consequence."""


def examine(real_time: bool) -> MachineReport:
    """Examine this machine.

    Args:
        real_time: whether the loop may use real-time scheduling.
    """
    return MachineReport(
        navnode=__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        cpu=Cpu(cores=len(os.sched_getaffinity(0)), instruction_sets=list(instruction_sets())),
        scheduling="real-time for the loop" if real_time else _NO_REAL_TIME,
        gpu=_gpu(),
        extras={
            name: importlib.util.find_spec(name) is not None
            for name in ("torch", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime")
        },
        ports={str(port): "free" if _is_free(port) else "in use" for port in (DEFAULT_PORT, DEFAULT_PORT + 1, 8080)},
        cache=str(cache_folder()),
        uses={"projector": backend_name(), "reconstruction": engine_name()},
    )


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none found"
    try:
        command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        query = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - fixed arguments
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi does not answer"
    return query.stdout.strip() or "none found"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
