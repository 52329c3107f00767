"""OpenIGTLink over loopback: this implementation, pyigtl, and the C++ library if its peer is built.

Both ends of every scenario are separate processes. Every implementation receives with its own checks: this one and the
C++ library check the CRC, pyigtl does not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from navnode.errors import NavError
from navnode.igtl import Arrival, BlockingClient, Image, Message, Server, Transform

__all__ = ["CPP_PEER", "SCENARIOS", "LinkFigures", "Scenario", "run", "steps"]

_TOOLS, _TOOL_HZ = 8, 250.0
_IMAGE_PX, _VOLUME_VOXELS = 1024, 128
_TIMEOUT_S = 120.0
_QUIET_S = 1.5
"""After silence for this long, nothing more is expected."""

CPP_PEER = Path(__file__).parents[2] / "tests" / "peers" / "build" / "bench"
"""Built by ``make peers``."""


@dataclass(frozen=True)
class Scenario:
    """One measured scenario."""

    name: str
    kind: str
    size: int = 0

    def count(self, implementation: str, seconds: float) -> int:
        """Number of messages that take about that long."""
        per_s: float = _EXPECTED_PER_S[self.kind][implementation]
        return max(20, round(per_s * seconds))


SCENARIOS = (
    Scenario("TRANSFORM round trip", "echo"),
    Scenario("TRANSFORM one way", "flood"),
    Scenario(f"{_TOOL_HZ:.0f} Hz x {_TOOLS} tools", "tools"),
    Scenario(f"IMAGE {_IMAGE_PX}² uint16", "image", _IMAGE_PX),
    Scenario(f"volume {_VOLUME_VOXELS}³ uint16", "volume", _VOLUME_VOXELS),
)
_EXPECTED_PER_S: dict[str, dict[str, float]] = {
    "echo": {"navnode": 8_000, "pyigtl": 45, "C++": 30_000},
    "flood": {"navnode": 40_000, "pyigtl": 100, "C++": 100_000},
    "tools": dict.fromkeys(("navnode", "pyigtl", "C++"), _TOOLS * _TOOL_HZ),
    "image": {"navnode": 250, "pyigtl": 80, "C++": 60},
    "volume": {"navnode": 120, "pyigtl": 40, "C++": 30},
}


class LinkFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One implementation in one scenario."""

    delivered: float
    """Share of sent messages that arrived."""
    cpu_ms: float
    """CPU time of the receiver per message."""
    p50_ms: float | UnsetType = UNSET
    """One-way or round-trip time, if measured."""
    p99_ms: float | UnsetType = UNSET
    per_s: float | UnsetType = UNSET
    """Throughput, if messages were sent as fast as possible."""


class IgtlReport(msgspec.Struct, frozen=True, kw_only=True):
    """OpenIGTLink over loopback."""

    seconds: float
    implementations: list[str]
    results: dict[str, dict[str, LinkFigures]]
    """Scenario -> implementation."""
    ratios: dict[str, float]
    """Scenario and other implementation -> how many times faster this one is."""


def run(
    seconds: float,
    cpp_peer: Path | None,
    progress: Callable[[str], None] = lambda step: None,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> IgtlReport:
    """Measure scenarios.

    Args:
        seconds: approximate duration of each measurement.
        cpp_peer: the C++ program, or None.

    Raises:
        NavError: one end failed.
    """
    implementations = ["navnode"]
    implementations += ["pyigtl"] if importlib.util.find_spec("pyigtl") else []
    implementations += ["C++"] if cpp_peer is not None and cpp_peer.exists() else []
    results: dict[str, dict[str, LinkFigures]] = {}
    for scenario in scenarios:
        for implementation in implementations:
            progress(f"{scenario.name}: {implementation}")
            results.setdefault(scenario.name, {})[implementation] = _measure(
                scenario, implementation, seconds, cpp_peer
            )
    return IgtlReport(seconds=seconds, implementations=implementations, results=results, ratios=_ratios(results))


def steps(cpp_peer: Path | None) -> int:
    """Number of measurements in :func:`run`."""
    return len(SCENARIOS) * (1 + bool(importlib.util.find_spec("pyigtl")) + bool(cpp_peer and cpp_peer.exists()))


def _ratios(results: dict[str, dict[str, LinkFigures]]) -> dict[str, float]:
    """How many times faster this implementation is than each of the others."""
    ratios = {}
    for name, by in results.items():
        ours = by["navnode"]
        for other, theirs in by.items():
            if other == "navnode":
                continue
            if ours.per_s is not UNSET and theirs.per_s is not UNSET:
                ratios[f"{name}, {other}"] = round(ours.per_s / theirs.per_s, 2)
            elif name == SCENARIOS[0].name and ours.p50_ms is not UNSET and theirs.p50_ms is not UNSET:
                ratios[f"{name}, {other}"] = round(theirs.p50_ms / ours.p50_ms, 2)
    return ratios


def _measure(scenario: Scenario, implementation: str, seconds: float, cpp_peer: Path | None) -> LinkFigures:
    count = scenario.count(implementation, seconds)
    arguments = [scenario.kind, str(count), str(seconds), str(scenario.size)]
    port = _free_port()
    if implementation == "C++":
        command = [str(cpp_peer)]
    else:
        command = [sys.executable, "-m", "navnode.bench.igtl", implementation]
    serve, receive = [*command, "serve", str(port), *arguments], [*command, "receive", str(port), *arguments]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:  # noqa: S603
        try:
            assert server.stdout is not None
            if server.stdout.readline().strip() != "ready":
                raise NavError(f"{scenario.name}: the {implementation} server did not start")
            done = subprocess.run(receive, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)  # noqa: S603
        except subprocess.SubprocessError as error:
            raise NavError(f"{scenario.name}: the {implementation} client did not finish ({error})") from error
        finally:
            server.kill()
    return _figures(scenario, json.loads(done.stdout.splitlines()[-1]), count)


def _figures(scenario: Scenario, raw: dict[str, float], count: int) -> LinkFigures:
    received = max(1, int(raw["received"]))
    delivered, cpu_ms = round(int(raw["received"]) / count, 4), round(1e3 * raw["cpu_s"] / received, 4)
    if scenario.kind in ("flood", "image", "volume"):
        per_s = round((received - 1) / max(raw["elapsed_s"], 1e-9), 1)
        return LinkFigures(delivered=delivered, cpu_ms=cpu_ms, per_s=per_s)
    p50_ms, p99_ms = (round(1e3 * raw[key], 4 if scenario.kind == "echo" else 3) for key in ("p50_s", "p99_s"))
    return LinkFigures(delivered=delivered, cpu_ms=cpu_ms, p50_ms=p50_ms, p99_ms=p99_ms)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the ends, each in a separate process ------------------------------------------------------------


def _print(line: str) -> None:
    """Send a line to the measuring process, which reads standard output."""
    print(line, flush=True)  # noqa: T201 - a pipe, not a person


class _Tally:
    """Arrival times and CPU time of a receiver."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._arrivals_s: list[float] = []
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu_s = usage.ru_utime + usage.ru_stime

    def arrived(self, stamp_s: float) -> None:
        now = time.time()
        self._arrivals_s.append(now)
        self.times_s.append(now - stamp_s)

    def report(self) -> None:
        """Print the figures as JSON."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        p50, p99 = np.percentile(self.times_s, [50, 99]).tolist() if self.times_s else (-1.0, -1.0)
        arrivals = self._arrivals_s or [0.0]
        report = {
            "received": len(self.times_s),
            "elapsed_s": arrivals[-1] - arrivals[0],
            "cpu_s": usage.ru_utime + usage.ru_stime - self._cpu_s,
            "p50_s": p50,
            "p99_s": p99,
        }
        _print(json.dumps(report))


def _voxels(kind: str, size: int) -> np.ndarray[Any, Any]:
    return np.full((1 if kind == "image" else size, size, size), 0x0707, np.uint16)


def _ticks(seconds: float) -> Iterator[float]:
    """Times at which the tools' poses are due."""
    began = time.time()
    return (began + k / _TOOL_HZ for k in range(round(seconds * _TOOL_HZ)))


async def _serve(port: int, kind: str, count: int, seconds: float, size: int) -> None:
    matrix = np.eye(4)

    def answer(message: Message, peer: Any, _: Arrival) -> None:
        if message.device == "Ping":
            peer.reply(Transform(device="Ping", timestamp_ns=time.time_ns(), matrix=matrix))

    loop = asyncio.get_running_loop()
    joined: asyncio.Future[Any] = loop.create_future()
    server = Server("127.0.0.1", port, answer, on_joined=joined.set_result)
    await server.start()
    _print("ready")
    peer = await joined
    if kind == "tools":
        for due_s in _ticks(seconds):
            await asyncio.sleep(max(0.0, due_s - time.time()))
            for tool in range(_TOOLS):
                server.publish(Transform(device=f"Tool{tool}", timestamp_ns=time.time_ns(), matrix=matrix))
    elif kind == "flood":
        for number in range(count):
            server.send(Transform(device="ToolToTracker", timestamp_ns=time.time_ns(), matrix=matrix))
            if number % 64 == 0:
                await peer.drain()
    elif kind in ("image", "volume"):
        voxels = _voxels(kind, size)
        for _ in range(count):
            server.send(Image(device="XRay", timestamp_ns=time.time_ns(), voxels=voxels, ras_from_index=matrix))
            await peer.drain()
    await asyncio.sleep(3_600)


def _receive(port: int, kind: str, count: int) -> None:
    with BlockingClient("127.0.0.1", port) as client:
        tally, matrix = _Tally(), np.eye(4)
        if kind == "echo":
            for _ in range(count):
                began_s = time.perf_counter()
                client.send(Transform(device="Ping", timestamp_ns=time.time_ns(), matrix=matrix))
                client.wait_for("Ping", timeout_s=5)
                tally.times_s.append(time.perf_counter() - began_s)
        last_s = time.monotonic()
        while kind != "echo" and len(tally.times_s) < count and time.monotonic() - last_s < _QUIET_S:
            message = client.receive(timeout_s=_QUIET_S)
            if isinstance(message, Transform | Image):
                last_s = time.monotonic()
                tally.arrived(message.timestamp_ns / 1e9)
        tally.report()


def _pyigtl_serve(port: int, kind: str, count: int, seconds: float, size: int) -> None:
    import pyigtl

    server, matrix = pyigtl.OpenIGTLinkServer(port=port), np.eye(4)
    _print("ready")
    while not server.is_connected():
        time.sleep(0.01)
    if kind == "echo":
        while True:
            if server.wait_for_message("Ping") is not None:
                server.send_message(pyigtl.TransformMessage(matrix, device_name="Ping"))
    elif kind == "tools":
        for due_s in _ticks(seconds):
            time.sleep(max(0.0, due_s - time.time()))
            for tool in range(_TOOLS):
                server.send_message(pyigtl.TransformMessage(matrix, device_name=f"Tool{tool}"), wait=False)
    elif kind == "flood":
        for number in range(count):
            server.send_message(pyigtl.TransformMessage(matrix, device_name=f"Tool{number}"))
    else:
        voxels = _voxels(kind, size)
        for number in range(count):
            server.send_message(pyigtl.ImageMessage(voxels, device_name=f"XRay{number}"))
    time.sleep(3_600)


def _pyigtl_receive(port: int, kind: str, count: int) -> None:
    import pyigtl

    client, matrix = pyigtl.OpenIGTLinkClient("127.0.0.1", port), np.eye(4)
    while not client.is_connected():
        time.sleep(0.01)
    tally = _Tally()
    if kind == "echo":
        for _ in range(count):
            began_s = time.perf_counter()
            client.send_message(pyigtl.TransformMessage(matrix, device_name="Ping"))
            client.wait_for_message("Ping", timeout=5)
            tally.times_s.append(time.perf_counter() - began_s)
    else:
        # Where every message counts, each has a different name: pyigtl keeps one message per name.
        last_s = time.time()
        while len(tally.times_s) < count and time.time() - last_s < _QUIET_S:
            for message in client.get_latest_messages():
                tally.arrived(message.timestamp)
                last_s = time.time()
            time.sleep(0.001)
    tally.report()


def main(arguments: list[str]) -> None:
    """Run one end: ``navnode|pyigtl serve|receive PORT KIND COUNT SECONDS SIZE``."""
    implementation, role, port, kind, count, seconds, size = arguments
    if role == "serve":
        parsed = int(port), kind, int(count), float(seconds), int(size)
        if implementation == "navnode":
            asyncio.run(_serve(*parsed))
        else:
            _pyigtl_serve(*parsed)
    else:
        (_receive if implementation == "navnode" else _pyigtl_receive)(int(port), kind, int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
