"""``navnode bench``: figures for this machine."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import UNSET, UnsetType
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from navnode import config
from navnode.commands.demo import demo_config
from navnode.commands.options import (
    Json,
    Threads,
    messages,
    percent,
    print_json,
)
from navnode.commands.simulate import simulator_section
from navnode.commands.supervised import (
    MemoryFigures,
    RunReport,
    free_port,
    recorded,
    run_supervised,
    tell,
)
from navnode.errors import ConfigError
from navnode.types import LatencyFigures, RecordingState

if TYPE_CHECKING:  # each benchmark imports what it needs when it runs
    from navnode.bench.igtl import LinkFigures
    from navnode.bench.recording import Killed, Seeking, Throughput
    from navnode.bench.registration import Rate

app = typer.Typer()


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
    """What recording costs, and what it keeps."""

    throughput: Throughput
    seek: Seeking
    killed: Killed
    loop: LoopCost | UnsetType = UNSET
    """Where the loop was run."""


BenchSize = Annotated[int, typer.Option("--size", help="Detector pixels: 256, 512 or 1024.")]


BenchRate = Annotated[float, typer.Option("--rate", min=1, max=30, help="X-ray frames per second.")]


BenchTools = Annotated[int, typer.Option("--tools", min=1, max=16, help="Tracked at 100 Hz.")]


bench = typer.Typer(
    help="Figures for this machine, beside other implementations in the same run.", no_args_is_help=True
)
app.add_typer(bench, name="bench")


@bench.command("igtl", epilog="Example:  navnode bench igtl --json   (after `make peers`, beside the C++ library)")
def bench_igtl(
    seconds: Annotated[float, typer.Option("--seconds", min=0.2, help="Time for each measurement.")] = 3.0,
    peer: Annotated[
        Path | None, typer.Option("--peer", metavar="PROGRAM", help="The C++ peer; default: what `make peers` made.")
    ] = None,
    as_json: Json = False,
) -> None:
    """OpenIGTLink over loopback: round trip, throughput, tools, images and volumes."""
    from navnode.bench import igtl

    cpp_peer = peer or igtl.CPP_PEER
    if peer is not None and not peer.exists():
        raise ConfigError(f"--peer {peer}: there is no such program")
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=messages) as progress:
        task = progress.add_task("", total=igtl.steps(cpp_peer))

        def step(what: str) -> None:
            progress.update(task, description=what, advance=1)

        report = igtl.run(seconds, cpp_peer, step)
    if as_json:
        print_json(report)
        return
    table = Table(title="OpenIGTLink over loopback")
    for column in ("", *report.implementations):
        table.add_column(column)
    for name, by in report.results.items():
        table.add_row(name, *(_bench_cell(by[i]) for i in report.implementations))
    Console().print(table)
    ratios = "   ".join(f"{name}: {ratio:g}x" for name, ratio in report.ratios.items())
    Console().print(f"As quick as the others: {ratios}", highlight=False)


@bench.command("projector", epilog="Example:  navnode bench projector --json   (peers: pip install 'navnode\\[bench]')")
def bench_projector(
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Of each measurement.")] = 7,
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """X-ray projection with pose derivatives, in every kind of direction, beside RTK and nanodrr."""
    from navnode.bench import projector
    from navnode.projector.native import default_threads

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=messages) as progress:
        task = progress.add_task("", total=projector.steps())
        report = projector.run(
            repeats, threads or default_threads(), lambda what: progress.update(task, description=what, advance=1)
        )
    if as_json:
        print_json(report)
        return
    size = f"{report.voxels}³ to {report.image_px}², {report.threads} threads, median ms"
    every = list(report.directions.values())
    ways = (name.replace(" with derivatives", "+d") for name in every[0].ms)
    table = Table("direction", *ways, "error", title=size)
    for name, figures in report.directions.items():
        table.add_row(name, *(f"{ms:.1f}" for ms in figures.ms.values()), f"{figures.error:.1e}")
    Console().print(table)
    lines = [
        "+d: with the six derivatives by the pose",
        f"adjoint: dot products agree to {report.adjoint_error:.1e}",
    ]
    over = [figures.rtk_over for figures in every if figures.rtk_over is not UNSET]
    for isa in over[0] if over else ():
        ratios = [each[isa] for each in over]
        lines.append(f"RTK's forward takes {min(ratios):g} to {max(ratios):g} times as long as {isa} with derivatives")
    if report.nanodrr is not UNSET:
        lines.append(f"nanodrr's forward and backward take {report.nanodrr.ratio:g} times as long")
    Console().print("\n".join(lines), highlight=False)


@bench.command(
    "registration", epilog="Example:  navnode bench registration --ct chest.nii.gz --ct pelvis.nii.gz --out report.html"
)
def bench_registration(
    ct: Annotated[
        list[str] | None,
        typer.Option("--ct", metavar="FILE", help="CTs to make X-rays of; default: the sample and a drawn one."),
    ] = None,
    cases: Annotated[int, typer.Option("--cases", min=2, help="X-rays of every CT.")] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="REPORT.html", help="Report with overlays and error plots.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Other cases for another number.")] = 0,
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """2D/3D registration of X-rays with known poses: how right, how fast, how honest."""
    from navnode.bench import registration, report
    from navnode.simulation.sample_ct import resolve_ct

    paths = [resolve_ct(given, messages) for given in ct or ["sample", "procedural"]]
    with percent("Registering") as progress:
        measured = registration.run(paths, cases, threads or None, seed, progress)
    figures = registration.summary(measured)
    if out is not None:
        report.write(out, measured, figures)
        messages.print(f"{out}", markup=False, highlight=False)
    if as_json:
        print_json(figures)
        return
    table = Table("start", "under 1 mm lateral", "lateral mm", "depth mm", "full mm", "ms", title="Medians")
    rows = {**figures.singles, "two views together": figures.joint, "tracked sequences": figures.sequences}
    for name, row in rows.items():
        medians = [f"{part.median:.3f}" for part in (row.lateral_mm, row.depth_mm, row.full_mm)]
        table.add_row(name, _told_rate(row.under_1_mm_lateral), *medians, f"{row.ms.median:.0f}")
    Console().print(table)
    trust = Table("", "VALID or not", title="Trust")
    trust.add_row("right, but not VALID", _told_rate(figures.quality.false_reject))
    trust.add_row("wrong, but VALID", _told_rate(figures.quality.false_accept))
    for kind, rate in figures.quality.wrong_image_valid.items():
        trust.add_row(f"{kind}: VALID", _told_rate(rate))
    Console().print(trust)
    Console().print(f"Tracking: {figures.sequences.frames_per_s:g} frames/s", highlight=False)


@bench.command(
    "reconstruction", epilog="Example:  navnode bench reconstruction --ct hip.nii.gz --ct knee.nii.gz --out slices.png"
)
def bench_reconstruction(
    ct: Annotated[
        list[str] | None,
        typer.Option("--ct", metavar="FILE", help="CTs to make X-rays of; default: the sample and a drawn one."),
    ] = None,
    views: Annotated[
        list[int] | None, typer.Option("--views", min=2, max=64, help="How many; repeat. Default: 2, 4, 8, 16.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Networks of your own, from `navnode train`.")
    ] = None,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Also RTK's methods, which take minutes.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="SLICES.png", help="A picture of what every method made.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Other X-rays for another number.")] = 0,
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Volumes from a few X-rays of CTs, by every method: how right, how fast, how honest.

    A model has seen the CTs that it was trained on; judge it by others.
    """
    from navnode.bench import reconstruction
    from navnode.projector.native import default_threads
    from navnode.simulation.sample_ct import resolve_ct

    paths = [resolve_ct(given, messages) for given in ct or ["sample", "procedural"]]
    with percent("Reconstructing") as progress:
        report = reconstruction.run(
            paths, model=model, peers=peers, counts=views or reconstruction.COUNTS, picture=out,
            threads=threads or default_threads(), seed=seed, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(report)
        return
    table = Table("views", "method", "PSNR dB", "SSIM", "Dice", "at", "surface mm", "ms", title="Means over CTs")
    for count, methods in report.mean.items():
        for name, row in methods.items():
            values = (row.psnr_db, row.ssim, row.dice, row.threshold, row.assd_mm, row.elapsed_ms)
            digits = (1, 3, 3, 2, 1, 0)
            shown = ("-" if v is UNSET else f"{v:.{d}f}" for v, d in zip(values, digits, strict=True))
            table.add_row(count, name, *shown)
        table.add_section()
    Console().print(table)


@bench.command("loop", epilog="Example:  navnode bench loop --size 1024 --rate 30 --tools 8 --seconds 60 --json")
def bench_loop(
    size: BenchSize = 512,
    rate: BenchRate = 30.0,
    tools: BenchTools = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=2, help="How long.")] = 30.0,
    as_json: Json = False,
) -> None:
    """The live loop beside the virtual operating room: latencies, and the error against the truth."""
    report = _loop(size, rate, tools, seconds, None)
    if as_json:
        print_json(report)
    else:
        tell(report, as_json, seconds)


@bench.command("recording", epilog="Example:  navnode bench recording --minutes 10 --size 1024 --rate 30 --tools 8")
def bench_recording(
    size: BenchSize = 1024,
    rate: BenchRate = 30.0,
    tools: BenchTools = 8,
    minutes: Annotated[float, typer.Option("--minutes", min=0, help="Of each run of the loop; 0: none.")] = 0.5,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Runs with and without, alternating.")] = 1,
    kills: Annotated[int, typer.Option("--kills", min=0, help="How often a recording is killed.")] = 20,
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help="Where it is recorded.")] = None,
    as_json: Json = False,
) -> None:
    """Recording: what it costs the loop, what is lost, what a kill leaves, how quickly a place is found."""
    from navnode.bench import recording

    with percent("Writing, seeking, killing") as progress:
        figures = recording.run(kills, progress)
    without: list[RunReport] = []
    beside: list[RunReport] = []
    with tempfile.TemporaryDirectory(prefix="navnode-bench-", dir=folder) as name:
        for n in range(pairs if minutes else 0):
            without.append(_loop(size, rate, tools, 60 * minutes, None))
            beside.append(_loop(size, rate, tools, 60 * minutes, Path(name) / f"{n}.mcap"))
            for part in Path(name).glob("*.mcap"):
                part.unlink()
    report = RecordingCost(
        throughput=figures.throughput,
        seek=figures.seek,
        killed=figures.killed,
        loop=_cost(without, beside) if without else UNSET,
    )
    if as_json:
        print_json(report)
        return
    Console().print_json(json.dumps(msgspec.to_builtins(report)))


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


def _loop(size: int, rate: float, tools: int, seconds: float, record: Path | None) -> RunReport:
    """A demo without a page, and its figures."""
    from navnode.simulation import room
    from navnode.simulation.sample_ct import resolve_ct

    given = simulator_section(size_px=size, frame_rate_hz=rate, more_tools=tools - 1, port=free_port("127.0.0.1"))
    simulator = msgspec.structs.replace(given, ct=str(resolve_ct(given.ct, messages)))
    ports = free_port("127.0.0.1"), 8080
    loaded = demo_config(config.load(config.shipped("demo.toml")), simulator, True, ports, 0, False)
    drill = loaded.tools[0]
    more = [msgspec.structs.replace(drill, name=n, device=f"{n}ToTracker") for n in room.more_tools(tools - 1)]
    loaded = recorded(msgspec.structs.replace(loaded, tools=(drill, *more)), record)
    prepared = room.prepare(simulator, messages)
    return run_supervised(loaded, simulator, seconds, True, room.load_scenario(prepared))


def _told_rate(rate: Rate) -> str:
    return f"{rate.rate:.1%} ({rate.hits} of {rate.of}; {rate.low:.1%}-{rate.high:.1%})"


def _bench_cell(figures: LinkFigures) -> str:
    parts = [] if figures.p50_ms is UNSET else [f"p50 {figures.p50_ms:g}, p99 {figures.p99_ms:g} ms"]
    parts += [] if figures.per_s is UNSET else [f"{figures.per_s:,.0f}/s"]
    parts += [f"{figures.delivered:.0%} delivered"] if figures.delivered < 1 else []
    return "\n".join([*parts, f"{figures.cpu_ms:g} ms CPU each"])
