"""Runs of the live loop that ``navnode bench loop`` and ``bench recording`` measure."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from navnode import config
from navnode.bench.requests import CapacityRequest, LoopRequest, RecordingRequest
from navnode.commands.demo import DemoRequest, demo_config
from navnode.commands.fetch import ct_path, rendered
from navnode.commands.supervised import (
    MemoryFigures,
    RunReport,
    free_port,
    run_supervised,
)
from navnode.config import Config
from navnode.errors import NavError
from navnode.recording.node_config import with_recording
from navnode.types import LatencyFigures, RecordingState

if TYPE_CHECKING:  # loaded only when they are measured
    from navnode.bench.capacity import Capacity, Observed
    from navnode.bench.recording import Killed, Seeking, Throughput
    from navnode.bench.simulated_rooms import Load


class LoopRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the live loop."""

    frames: int
    fps: float
    latency_ms: LatencyFigures
    overlay_latency_ms: LatencyFigures
    memory_mb: MemoryFigures
    recording: RecordingState


class LoopCost(msgspec.Struct, frozen=True, kw_only=True):
    """What recording costs the live loop."""

    without: list[LoopRun]
    beside: list[LoopRun] = msgspec.field(name="with")
    latency_ms_p99_ratio: float
    overlay_latency_ms_p99_ratio: float


class RecordingCost(msgspec.Struct, frozen=True, kw_only=True):
    """What recording costs, and what survives a kill."""

    throughput: Throughput
    seek: Seeking
    killed: Killed
    loop: LoopCost | UnsetType = UNSET
    """Present if the loop was run."""


def run(request: LoopRequest | RecordingRequest, seconds: float, record: Path | None = None) -> RunReport:
    """Run a demo without a page and report its figures.

    Args:
        record: file to record it into, if any.
    """
    from navnode.bench.readers import readers
    from navnode.simulation import room

    ports = free_port("127.0.0.1"), free_port("127.0.0.1")
    demo = DemoRequest(headless=True, size=request.size, rate=request.rate, port=ports[0], simulator_port=ports[1])
    settings = demo.simulator(more_tools=request.tools - 1)
    simulator = msgspec.structs.replace(settings, ct=str(ct_path(settings.ct)), pose_rate_hz=request.tracker)
    loaded = demo_config(config.load(config.shipped("demo.toml")), simulator, demo)
    loaded = with_recording(_with_tools(loaded, room.more_tools(request.tools - 1)), record)
    scenario = room.load_scenario(rendered(simulator))
    with readers(demo.port, request.consoles):
        return run_supervised(loaded, simulator, seconds, True, scenario)


def latencies(seconds: float) -> tuple[LatencyFigures, LatencyFigures]:
    """Of X-rays and of overlays, in one run of the demo."""
    report = run(LoopRequest(seconds=seconds), seconds)
    return report.latency_ms, report.overlay_latency_ms


def reach(request: CapacityRequest, progress: Callable[[str], None]) -> Capacity:
    """Measure what a node costs here, and simulate other machines.

    Raises:
        ConfigError: simpy is missing.
        NavError: this system does not tell processor times, or a run registered nothing.
    """
    from navnode.bench.capacity import capacity
    from navnode.node.processes import may_take_loop_priority
    from navnode.projector.native import default_threads

    return capacity(
        lambda load: observed(load, request.seconds),
        request.rooms,
        request.consoles,
        request.cores,
        default_threads(),
        progress,
        loop_first=may_take_loop_priority(),
    )


def observed(load: Load, seconds: float) -> Observed:
    """A live run at some load.

    Raises:
        NavError: this system does not tell processor times, or nothing was registered.
    """
    from navnode.bench.capacity import Observed

    asked = LoopRequest(
        rate=load.xrays_hz, tools=load.tools, consoles=load.consoles, tracker=load.poses_hz, seconds=seconds
    )
    report = run(asked, seconds)
    used, xrays, overlays = report.processor_percent, report.latency_ms, report.overlay_latency_ms
    figures = (
        used.loop,
        used.others,
        used.room,
        used.worker,
        used.cores,
        xrays.p50,
        xrays.p99,
        overlays.p50,
        overlays.p99,
    )
    if any(figure is None for figure in figures):
        raise NavError("nothing was registered, or this system does not tell processor times")
    loop, others, room, worker, cores, *waits = (float(figure) for figure in figures if figure is not None)
    return Observed(
        load=load,
        loop_percent=loop,
        others_percent=others,
        room_percent=room,
        worker_percent=worker,
        beside_percent=round(max(cores - loop - others - room - worker, 0.0), 1),
        registered_hz=report.fps,
        xray_p50_ms=waits[0],
        xray_p99_ms=waits[1],
        overlay_p50_ms=waits[2],
        overlay_p99_ms=waits[3],
    )


def recording_cost(request: RecordingRequest, progress: Callable[[float], None]) -> RecordingCost:
    """Measure recording by itself, then the loop alternating without and with it."""
    from navnode.bench import recording

    figures = recording.run(request.kills, progress)
    without: list[RunReport] = []
    beside: list[RunReport] = []
    with tempfile.TemporaryDirectory(prefix="navnode-bench-", dir=request.folder) as name:
        for n in range(request.pairs if request.minutes else 0):
            without.append(run(request, 60 * request.minutes))
            beside.append(run(request, 60 * request.minutes, Path(name) / f"{n}.mcap"))
            for part in Path(name).glob("*.mcap"):
                part.unlink()
    return RecordingCost(
        throughput=figures.throughput,
        seek=figures.seek,
        killed=figures.killed,
        loop=_cost(without, beside) if without else UNSET,
    )


def _with_tools(loaded: Config, names: list[str]) -> Config:
    """The configuration with more tools like its first."""
    drill = loaded.tools[0]
    more = [msgspec.structs.replace(drill, name=name, device=f"{name}ToTracker") for name in names]
    return msgspec.structs.replace(loaded, tools=(drill, *more))


def _cost(without: list[RunReport], beside: list[RunReport]) -> LoopCost:
    def ratio(late: Callable[[RunReport], float | None]) -> float:
        slow, plain = (statistics.median(filter(None, map(late, runs))) for runs in (beside, without))
        return round(slow / plain, 3)

    return LoopCost(
        without=[_loop_run(run) for run in without],
        beside=[_loop_run(run) for run in beside],
        latency_ms_p99_ratio=ratio(lambda run: run.latency_ms.p99),
        overlay_latency_ms_p99_ratio=ratio(lambda run: run.overlay_latency_ms.p99),
    )


def _loop_run(run: RunReport) -> LoopRun:
    return LoopRun(
        frames=run.frames,
        fps=run.fps,
        latency_ms=run.latency_ms,
        overlay_latency_ms=run.overlay_latency_ms,
        memory_mb=run.memory_mb,
        recording=run.recording,
    )
