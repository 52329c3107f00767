"""Capabilities of this machine, and which of them the node will use."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping

import msgspec

from navnode import __version__
from navnode.files.cache import cache_folder
from navnode.igtl.server import DEFAULT_PORT
from navnode.projector import backend_name
from navnode.projector.native import instruction_sets
from navnode.reconstruction.choice import Method, engine_name

__all__ = ["MachineReport", "examine"]

_BY_DEFAULT = {str(port): ("127.0.0.1", port) for port in (DEFAULT_PORT, DEFAULT_PORT + 1, 8080)}

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
    """Port on which a node would listen, and for whom, if it is configured -> whether something else does."""
    cache: str
    uses: dict[str, str]
    """Task -> implementation that the node uses."""
    lacks: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    """Missing part of the checked configuration -> consequence."""


def examine(
    real_time: bool, listens: Mapping[str, tuple[str, int]] = _BY_DEFAULT, method: Method = Method.AUTO
) -> MachineReport:
    """Examine this machine.

    Args:
        real_time: whether the loop may use real-time scheduling.
        listens: name -> address and port on which the node will listen.
        method: of its reconstructions.
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
        ports={name: _state_of(*address) for name, address in listens.items()},
        cache=str(cache_folder()),
        uses={"projector": backend_name(), "reconstruction": engine_name(method)},
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


def _state_of(host: str, port: int) -> str:
    """Whether one can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return "in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
    return "free"
