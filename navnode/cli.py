"""The ``navnode`` command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from navnode import __version__, calibrated, config, curve, sessions
from navnode.clock import now_ns
from navnode.config import Config, PlayerSection, SimulatorSection
from navnode.errors import CalibrationError, ConfigError, NavError
from navnode.live import free_port, run_supervised, tell
from navnode.options import Ct, Json, Record, Threads, messages, percent, print_json
from navnode.processes import ForPeople, Sparingly, die_with, output_address, say_ready, worker_address
from navnode.reconstruction import Method
from navnode.reconstruction.methods import engine_name
from navnode.supervisor import read_config, read_room
from navnode.types import Effort

app = typer.Typer(
    name="navnode",
    help="Real-time intraoperative navigation node. [bold]Research use only, not a medical device.[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; exit 0 done, 1 the work failed, 2 bad arguments or configuration."""
    handler = _ToTerminal()
    handler.setFormatter(ForPeople())
    handler.addFilter(Sparingly())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        app()
    except (ConfigError, CalibrationError) as error:
        print(f"navnode: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except NavError as error:
        print(f"navnode: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


class _ToTerminal(logging.Handler):
    """Log lines above the live table, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)  # noqa: T201
        raise typer.Exit


@app.command(epilog="Example:  navnode demo --headless --seconds 30 --json")
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="Without the page.")] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Stop by itself and report.")] = None,
    ct: Ct = None,
    ctless: Annotated[bool, typer.Option("--ctless", help="Without a CT: the first X-rays give the volume.")] = False,
    size: Annotated[int, typer.Option("--size", help="Detector pixels: 256, 512 or 1024.")] = 512,
    rate: Annotated[float, typer.Option("--rate", min=1, max=30, help="X-ray frames per second.")] = 15.0,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port for consoles.")] = 18944,
    page_port: Annotated[int, typer.Option("--page-port", min=1, max=65535, help="Port of the page.")] = 8080,
    simulator_port: Annotated[
        int, typer.Option("--simulator-port", min=1, max=65535, help="Port of the operating room.")
    ] = 18945,
    threads: Threads = 0,
    record: Record = None,
    as_json: Json = False,
) -> None:
    """Show a navigated operation: virtual operating room, node and display on this machine."""
    # Imported here: only a demo scores itself against a simulator.
    from navnode.simulation import room
    from navnode.simulation.sample_ct import resolve_ct

    loaded = config.load(config.shipped("ctless.toml" if ctless else "demo.toml"))
    given = _simulator(port=simulator_port, ct=ct or "sample", size_px=size, frame_rate_hz=rate)
    simulator = msgspec.structs.replace(given, ct=str(resolve_ct(given.ct, messages)))
    loaded = _recorded(_demo_config(loaded, simulator, headless, (port, page_port), threads, ctless), record)
    # Rendering happens here, where its progress can be seen; the processes find it done.
    prepared = room.prepare(simulator, messages, threads)
    report = run_supervised(loaded, simulator, seconds, as_json, room.load_scenario(prepared))
    tell(report, as_json, seconds)


@app.command(epilog="Example:  navnode simulate --port 18945 --ct chest.nii.gz")
def simulate(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to serve on.")] = 18945,
    ct: Ct = None,
    size: Annotated[int, typer.Option("--size", help="Detector pixels: 256, 512 or 1024.")] = 512,
    rate: Annotated[float, typer.Option("--rate", min=1, max=30, help="X-ray frames per second.")] = 15.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise.")] = 0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Stop by itself.")] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="The hardware is not what its maker says: something to calibrate.")
    ] = False,
    scene: Annotated[
        str,
        typer.Option(
            help="operation; or what comes before, in a room with errors: pivot, spin, beads, sweep, points, targets."
        ),
    ] = "operation",
    references: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the phantom, planned points, targets and the nominal C-arm there."),
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Only the virtual operating room: an OpenIGTLink server with X-rays, tracker poses and the truth."""
    from navnode.igtl import Server
    from navnode.simulation import practice, room

    known = ("operation", *practice.SCENES)
    if scene not in known:
        raise ConfigError(f"--scene {scene}: there is no such scene; there are: {', '.join(known)}")
    settings = _simulator(port=port, ct=ct or "sample", size_px=size, frame_rate_hz=rate, seed=seed, errors=errors)
    prepared = practice.Practice(settings.size_px, settings.seed)
    if references is not None:
        prepared.write_references(references)
    simulated = None
    if scene == "operation":
        simulated = room.Room(room.load(room.prepare(settings, messages, threads), settings), settings)
    server = simulated.server if simulated is not None else Server(settings.host, settings.port, name="Room")

    async def serve() -> None:
        await server.start()
        messages.print(f"Virtual operating room on port {server.port}; Ctrl-C ends it.", highlight=False)
        with contextlib.suppress(TimeoutError):
            if simulated is not None:
                await asyncio.wait_for(simulated.run(), seconds)
            else:
                await asyncio.wait_for(room.practise(server, prepared.messages(scene)), seconds)
                messages.print("The scene is over.")

    asyncio.run(serve())
    if as_json:
        print_json({"port": port, "frames": simulated.frames_sent if simulated else 0, "seconds": seconds})


@app.command(epilog="Example:  navnode run launch/demo.toml")
def run(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Such as those in launch/.")],
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Stop by itself and report.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=0, help="For registration; 0: all cores.")] = None,
    record: Record = None,
    as_json: Json = False,
) -> None:
    """The node: registration, reconstruction worker and display, from a configuration."""
    loaded = calibrated.applied(_recorded(config.load(configuration), record), now_ns())
    if check:
        _check_files(loaded)
        messages.print(f"{configuration}: fine", markup=False, highlight=False)
        if as_json:
            print_json({"configuration": str(configuration), "status": "fine"})
        return
    if threads is not None:
        registration = msgspec.structs.replace(loaded.registration, threads=threads)
        loaded = msgspec.structs.replace(loaded, registration=registration)
    if loaded.volume.ct:  # here, where fetching it can be seen
        from navnode.simulation.sample_ct import resolve_ct

        ct = str(resolve_ct(loaded.volume.ct, messages))
        loaded = msgspec.structs.replace(loaded, volume=msgspec.structs.replace(loaded.volume, ct=ct))
    tell(run_supervised(loaded, None, seconds, as_json, None), as_json, seconds)


@app.command(epilog="Example:  navnode worker launch/gpu-worker.toml   (on the machine with the GPU)")
def worker(
    configuration: Annotated[Path, typer.Argument(metavar="WORKER.toml", help="Such as launch/gpu-worker.toml.")],
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration.")] = False,
) -> None:
    """A reconstruction worker for a node on another machine."""
    from navnode.reconstruction.worker import serve

    loaded = config.load_worker(configuration)
    own, node = Path(loaded.key), Path(loaded.node_key)
    curve.check(own, node)
    method = Method(loaded.method)
    messages.print(f"{engine_name(method)} for the node at {loaded.node}", markup=False, highlight=False)
    if not check:
        serve(
            f"tcp://{loaded.node}",
            method,
            threads=loaded.threads or None,
            secured=lambda socket: curve.join(socket, own, node),
            tell=lambda line: messages.print(line, markup=False, highlight=False),
        )


@app.command(epilog="Example:  navnode keys keys/   then copy node.key and worker.key_secret to the worker's machine")
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the four files go.")],
) -> None:
    """Keys for a node and a worker on another machine."""
    for path in curve.create(folder):
        messages.print(str(path), markup=False, highlight=False)


@app.command(epilog="Example:  navnode doctor node.toml")
def doctor(
    configuration: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="A node's configuration: what it still lacks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What this machine has, what the node will use of it, and what a configuration still lacks."""
    from navnode.doctor import examine

    found = examine()
    if configuration is not None:
        lacks = calibrated.lacking(config.load(configuration), now_ns())
        found["lacks"] = dict(lacks) or {"nothing": "every calibration is there and may be used"}
    if as_json:
        print_json(found)
        return
    table = Table.grid(padding=(0, 2))
    for key, value in found.items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(f"[bold]{key}[/]", shown)
    Console().print(table)


VolumeOption = Annotated[
    Path, typer.Option("--volume", metavar="CT", help="A CT that SimpleITK reads, or a DICOM folder.")
]
ViewsOption = Annotated[Path, typer.Option("--views", metavar="V.json", help="A set of views, navnode/views/1.")]


@app.command("project", epilog="Example:  navnode project --volume ct.nii.gz --views views.json --out xrays --i0 60000")
def project_command(
    volume: VolumeOption,
    views: ViewsOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the images.")],
    i0: Annotated[
        float | None, typer.Option("--i0", min=1, max=65535, help="Write counts of this open beam, not line integrals.")
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Render the views' X-ray images of a CT."""
    from navnode import offline

    with percent("Rendering") as progress:
        report = offline.project(volume, views, out, i0, threads, progress)
    _tell_offline(report, as_json, f"{len(report['images'])} images in {out}")


@app.command("register", epilog="Example:  navnode register --volume ct.nii.gz --views views.json --search --json")
def register_command(
    volume: VolumeOption,
    views: ViewsOption,
    joint: Annotated[bool, typer.Option("--joint", help="The views share one rigid motion of the patient.")] = False,
    search: Annotated[bool, typer.Option("--search", help="The starts may be far off.")] = False,
    track: Annotated[
        bool, typer.Option("--track", help="A sequence: each view starts from the result before it.")
    ] = False,
    landmarks: Annotated[
        Path | None,
        typer.Option("--landmarks", metavar="L.json", help="Points named in volume and views, as starts."),
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """2D/3D registration: where did the C-arm stand?

    Each view's volume_from_carm is the start; without one, its "station" ("AP", "lateral", ...) or its landmarks are.
    """
    from navnode import offline

    if joint and track:
        raise ConfigError("--joint and --track exclude each other")
    effort = Effort.SEARCH if search else Effort.FIND
    with percent("Registering") as progress:
        report = offline.register(
            volume, views, effort=effort, joint=joint, track=track, landmarks=landmarks, threads=threads,
            progress=progress,
        )  # fmt: skip
    if not as_json:
        table = Table("view", "status", "similarity", "sigma (mm)", "ms", "reason")
        for index, view in enumerate(report["views"]):
            sigma = "  ".join(f"{value:.2f}" for value in view["sigma"]["translation_mm"])
            table.add_row(str(index), view["status"], f"{view['similarity']:.3f}", sigma, f"{view['elapsed_ms']:.0f}",
                          view["reason"])  # fmt: skip
        Console().print(table)
    _tell_offline(report, as_json, "")


@app.command(
    "reconstruct", epilog="Example:  navnode reconstruct --views views.json --out volume.nii.gz --mesh bone.stl"
)
def reconstruct_command(
    views: ViewsOption,
    out: Annotated[Path, typer.Option("--out", metavar="VOL.nii.gz", help="NIfTI, NRRD or MHA, HU.")],
    size: Annotated[int, typer.Option("--size", min=16, max=256, help="Voxels along each axis.")] = 128,
    spacing_mm: Annotated[float, typer.Option("--spacing-mm", min=0.2, max=20, help="Voxel size.")] = 2.0,
    center_mm: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--center-mm", help="Middle of the volume, RAS; default: where the principal rays meet."),
    ] = None,
    mesh: Annotated[
        Path | None, typer.Option("--mesh", metavar="BONE.stl", help="Also the bone surface: STL, PLY or OBJ.")
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option("--uncertainty", metavar="U.nii.gz", help="Also half of every voxel's 95 % interval, HU."),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option("--prior", metavar="CT", help="A CT in the views' frame; what they contradict is changed."),
    ] = None,
    prior_map: Annotated[
        Path | None,
        typer.Option("--prior-map", metavar="M.nii.gz", help="Also 1 where a voxel rests on the prior alone, else 0."),
    ] = None,
    dicom: Annotated[
        Path | None,
        typer.Option("--dicom", metavar="DIR", help="Also a DICOM series, marked derived and not for diagnosis."),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method", help="auto: prior if there is one; learned if its model is the better one; else sart."
        ),
    ] = Method.AUTO,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Networks of your own, from `navnode train`.")
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """A volume from views with poses."""
    from navnode import offline

    with percent("Reconstructing") as progress:
        report = offline.reconstruct_views(
            views, out, size=size, spacing_mm=spacing_mm, center_mm=center_mm, method=method, model=model,
            mesh=mesh, uncertainty=uncertainty, prior=prior, prior_map=prior_map, dicom=dicom,
            threads=threads, progress=progress,
        )  # fmt: skip
    line = f"{out}: {report['method']} ({report['engine']}), {report['elapsed_ms']:.0f} ms; {report['status']}: "
    _tell_offline(report, as_json, line + report["reason"])


@app.command(
    epilog="Example:  navnode train --ct cts --hold-out pat7 --out run/ --hours 8  (pip install 'navnode\\[train]')"
)
def train(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Checkpoint, losses and the exported model.")],
    ct: Annotated[
        Path | None, typer.Option("--ct", metavar="DIR", help="A folder of CTs; without it procedural bodies only.")
    ] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="Do not train on files whose name contains this; repeat.")
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option(
            "--validate", help="Do not train on these either: their voxels say how wide intervals are; repeat."
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps in all; the rate falls until then.")] = 12_000,
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="Stop then; the next call goes on.")] = 24.0,
    procedural: Annotated[int, typer.Option("--procedural", min=0, help="Procedural bodies, made once.")] = 72,
    real_share: Annotated[float, typer.Option("--real-share", min=0, max=1, help="Share of examples from CTs.")] = 0.57,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Train the learned reconstruction, or go on training it, and export it."""
    from navnode.reconstruction import training

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal) as progress:
        task = progress.add_task("Training", total=steps)
        report = training.run(
            out, ct, hold_out or [], validate or [], steps=steps, hours=hours, procedural=procedural,
            real_share=real_share, threads=threads, report=lambda step, loss: progress.update(
                task, completed=step, description=f"Training, loss {loss:.3f}"
            ),
        )  # fmt: skip
    _tell_offline(report, as_json, f"{report['model']}: {report['steps']} steps")


def _tell_offline(report: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(report)
    elif line:
        Console().print(line, markup=False, highlight=False)


engine = typer.Typer(help="What runs the networks of the learned reconstruction.", no_args_is_help=True)
app.add_typer(engine, name="engine")
ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="Networks of your own, from `navnode train`.")
]


@engine.command("list", epilog="Example:  navnode engine list")
def engine_list(as_json: Json = False) -> None:
    """The engines that navnode knows, best first, and whether they run here."""
    from navnode.reconstruction import engines

    known = engines.known()
    if as_json:
        print_json({"engines": [asdict(one) for one in known], "uses": engine_name()})
        return
    table = Table("engine", "version", "runs here")
    for one in known:
        table.add_row(one.title, one.version or "-", "yes" if one.runs else f"no: {one.why_not}")
    Console().print(table)
    Console().print(f"Volumes are made by: {engine_name()}", highlight=False)


@engine.command("check", epilog="Example:  navnode engine check --json")
def engine_check(model: ModelOption = None, threads: Threads = 0, as_json: Json = False) -> None:
    """Every engine that runs here against plain FP32: largest error, change of bone, times. Exit 1 if one is wrong."""
    from navnode.reconstruction import engines

    compared = engines.check(model or engines.SHIPPED, threads)
    wrong = [engines.title(name) for name, found in compared.items() if not found.good]
    if as_json:
        print_json({"engines": {name: {**asdict(found), "good": found.good} for name, found in compared.items()}})
    else:
        table = Table("engine", "largest error HU", "1 - Dice of bone", "a view ms", "the volume ms", "")
        for name, found in compared.items():
            numbers = (f"{found.max_error_hu:.3f}", f"{found.dice_change:.5f}")
            times = (f"{found.view_ms:.0f}", f"{found.volume_ms:.0f}")
            table.add_row(engines.title(name), *numbers, *times, "fine" if found.good else "[red]wrong[/]")
        Console().print(table)
    if wrong:
        raise NavError(f"{', '.join(wrong)}: computes something else than FP32 does")


@engine.command("build", epilog="Example:  navnode engine build   (pip install tensorrt-rtx)")
def engine_build(model: ModelOption = None, as_json: Json = False) -> None:
    """Build TensorRT's plans ahead, so that the first start does not wait; needs no GPU with TensorRT for RTX."""
    from navnode.reconstruction import engines

    with messages.status("TensorRT parses and builds …"):
        built = engines.build(model or engines.SHIPPED)
    if as_json:
        keys = ("bytes", "seconds", "was_there")
        print_json({"plans": {name: dict(zip(keys, facts, strict=True)) for name, facts in built.items()}})
        return
    for name, (size, seconds, was_there) in built.items():
        how = "was there" if was_there else f"built in {seconds:.1f} s"
        Console().print(f"{name}: {size / 1e6:.1f} MB, {how}", highlight=False)


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
    for column in ("", *report["implementations"]):
        table.add_column(column)
    for name, by in report["results"].items():
        table.add_row(name, *(_bench_cell(by[i]) for i in report["implementations"]))
    Console().print(table)
    ratios = "   ".join(f"{name}: {ratio:g}x" for name, ratio in report["ratios"].items())
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
    size = f"{report['voxels']}³ to {report['image_px']}², {report['threads']} threads, median ms"
    first = next(iter(report["directions"].values()))["ms"]
    table = Table("direction", *(name.replace(" with derivatives", "+d") for name in first), "error", title=size)
    for name, figures in report["directions"].items():
        times = (f"{ms:.1f}" for ms in figures["ms"].values())
        table.add_row(name, *times, f"{figures['error']:.1e}")
    Console().print(table)
    lines = [
        "+d: with the six derivatives by the pose",
        f"adjoint: dot products agree to {report['adjoint_error']:.1e}",
    ]
    if "RTK forward" in first:
        for isa in next(iter(report["directions"].values()))["rtk_over"]:
            ratios = [figures["rtk_over"][isa] for figures in report["directions"].values()]
            lines.append(
                f"RTK's forward takes {min(ratios):g} to {max(ratios):g} times as long as {isa} with derivatives"
            )
    if "nanodrr" in report:
        lines.append(f"nanodrr's forward and backward take {report['nanodrr']['ratio']:g} times as long")
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
    rows = {**figures["singles"], "two views together": figures["joint"], "tracked sequences": figures["sequences"]}
    for name, row in rows.items():
        medians = [f"{row[key]['median']:.3f}" for key in ("lateral_mm", "depth_mm", "full_mm")]
        table.add_row(name, _told_rate(row["under_1_mm_lateral"]), *medians, f"{row['ms']['median']:.0f}")
    Console().print(table)
    trust = Table("", "VALID or not", title="Trust")
    trust.add_row("right, but not VALID", _told_rate(figures["quality"]["false_reject"]))
    trust.add_row("wrong, but VALID", _told_rate(figures["quality"]["false_accept"]))
    for kind, rate in figures["quality"]["wrong_image_valid"].items():
        trust.add_row(f"{kind}: VALID", _told_rate(rate))
    Console().print(trust)
    Console().print(f"Tracking: {figures['sequences']['frames_per_s']:g} frames/s", highlight=False)


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
    for count, methods in report["mean"].items():
        for name, row in methods.items():
            parts = ("psnr_db", "ssim", "dice", "threshold", "assd_mm", "elapsed_ms")
            shown = (
                f"{row[key]:.{digits}f}" if key in row else "-"
                for key, digits in zip(parts, (1, 3, 3, 2, 1, 0), strict=True)
            )
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
        report = recording.run(kills, progress)
    runs: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="navnode-bench-", dir=folder) as name:
        for n in range(pairs if minutes else 0):
            for way, found in runs.items():
                path = Path(name) / f"{n}.mcap" if way == "with" else None
                found.append(_loop(size, rate, tools, 60 * minutes, path))
                for part in Path(name).glob("*.mcap"):
                    part.unlink()
    if minutes:
        told = ("frames", "fps", "latency_ms", "overlay_latency_ms", "memory_mb", "recording")
        report["loop"] = {way: [{key: run[key] for key in told} for run in found] for way, found in runs.items()}
        for which in ("latency_ms", "overlay_latency_ms"):
            p99 = {way: statistics.median(run[which]["p99"] for run in found) for way, found in runs.items()}
            report["loop"][f"{which}_p99_ratio"] = round(p99["with"] / p99["without"], 3)
    if as_json:
        print_json(report)
        return
    Console().print_json(json.dumps(report))


def _loop(size: int, rate: float, tools: int, seconds: float, record: Path | None) -> dict[str, Any]:
    """A demo without a page, and its figures."""
    from navnode.simulation import room
    from navnode.simulation.sample_ct import resolve_ct

    given = _simulator(size_px=size, frame_rate_hz=rate, more_tools=tools - 1, port=free_port("127.0.0.1"))
    simulator = msgspec.structs.replace(given, ct=str(resolve_ct(given.ct, messages)))
    ports = free_port("127.0.0.1"), 8080
    loaded = _demo_config(config.load(config.shipped("demo.toml")), simulator, True, ports, 0, False)
    drill = loaded.tools[0]
    more = [msgspec.structs.replace(drill, name=n, device=f"{n}ToTracker") for n in room.more_tools(tools - 1)]
    loaded = _recorded(msgspec.structs.replace(loaded, tools=(drill, *more)), record)
    prepared = room.prepare(simulator, messages)
    return run_supervised(loaded, simulator, seconds, True, room.load_scenario(prepared))


def _told_rate(rate: dict[str, float]) -> str:
    return f"{rate['rate']:.1%} ({rate['hits']} of {rate['of']}; {rate['low']:.1%}-{rate['high']:.1%})"


def _bench_cell(figures: dict[str, float]) -> str:
    parts = [f"p50 {figures['p50_ms']:g}, p99 {figures['p99_ms']:g} ms"] if "p50_ms" in figures else []
    parts += [f"{figures['per_s']:,.0f}/s"] if "per_s" in figures else []
    parts += [f"{figures['delivered']:.0%} delivered"] if figures["delivered"] < 1 else []
    return "\n".join([*parts, f"{figures['cpu_ms']:g} ms CPU each"])


@app.command("_process", hidden=True)
def process(name: str, folder: Path, parent: int) -> None:
    """One of the supervised processes."""
    die_with(parent)
    logging.getLogger().setLevel(logging.INFO)
    loaded = read_config(folder)
    if name == "worker":
        from navnode.reconstruction.worker import run_beside_the_loop

        method = Method(loaded.reconstruction.method)
        say_ready(engine_name(method))
        run_beside_the_loop(worker_address(folder), method)
    elif name == "node":
        _run_node(loaded, folder)
    elif name == "display":
        from navnode.display.server import run_display

        asyncio.run(run_display(loaded, output_address(folder)))
    elif name in ("simulator", "player"):
        _run_room(read_room(folder))
    else:
        raise ConfigError(f"there is no process {name!r}")


def _run_node(loaded: Config, folder: Path) -> None:
    from navnode.app import Node, prepare_interpreter, serve
    from navnode.simulation.sample_ct import load_ct

    prepare_interpreter()
    volume = load_ct(loaded.volume.ct, messages) if loaded.volume.ct else None
    asyncio.run(serve(Node(loaded, volume, worker_address(folder), output_address(folder))))


def _run_room(settings: SimulatorSection | PlayerSection) -> None:
    if isinstance(settings, PlayerSection):
        from navnode.recording.player import play

        asyncio.run(play(settings, lambda port: say_ready(str(port))))
        return
    from navnode.simulation import room

    async def serve() -> None:
        simulated = room.Room(room.load(room.prepare(settings, messages), settings), settings)
        await simulated.server.start()
        say_ready(str(simulated.server.port))
        await simulated.run()

    asyncio.run(serve())


def _recorded(loaded: Config, record: Path | None) -> Config:
    """With the recording that ``--record`` asks for."""
    if record is None:
        return loaded
    if os.path.lexists(record):
        raise ConfigError(f"--record {record}: exists already; a recording never replaces one")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--record {record}: cannot be made ({error.strerror})") from error
    if not os.access(record.parent, os.W_OK):
        raise ConfigError(f"--record {record}: nothing may be written there")
    recording = msgspec.structs.replace(loaded.recording, file=str(record.absolute()))
    return msgspec.structs.replace(loaded, recording=recording)


def _check_files(loaded: Config) -> None:
    """Whether what a configuration names is there."""
    ct = loaded.volume.ct
    if ct not in ("", "sample", "procedural") and not Path(ct).exists():
        raise ConfigError(f"volume.ct: {ct}: there is no such file or folder")
    remote = loaded.reconstruction.remote
    if remote is not None:
        curve.check(Path(remote.key), Path(remote.worker_key))
    if loaded.console.tls is not None:
        loaded.console.tls.server_context()
    for source in loaded.sources:
        if source.tls is not None:
            source.tls.client_context()


def _simulator(**given: Any) -> SimulatorSection:
    """Checked settings from the command line."""
    return config.convert(given, SimulatorSection, "arguments")


def _demo_config(
    loaded: Config,
    simulator: SimulatorSection,
    headless: bool,
    ports: tuple[int, int],
    threads: int,
    ctless: bool,
) -> Config:
    """launch/demo.toml with what the command line changes."""
    from navnode.simulation.scenario import carm_of_size

    carm = carm_of_size(simulator.size_px)
    replace = msgspec.structs.replace
    demo = replace(
        loaded,
        carm=replace(
            loaded.carm,
            width_px=carm.width_px,
            height_px=carm.height_px,
            pixel_spacing_mm=carm.pixel_spacing_mm,
            principal_point_px=carm.principal_point_px,
        ),
        volume=loaded.volume if ctless else replace(loaded.volume, ct=simulator.ct),
        registration=replace(loaded.registration, threads=threads),
        sources=(replace(loaded.sources[0], port=simulator.port),),
        console=replace(loaded.console, port=ports[0]),
        display=replace(loaded.display, port=ports[1], enabled=loaded.display.enabled and not headless),
    )
    return config.convert(msgspec.to_builtins(demo), Config, "arguments")  # checked as a whole: ports, say


app.add_typer(sessions.app)
for _found in entry_points(
    group="navnode.commands"
):  # calibration's, which imports navnode and not the other way round
    app.add_typer(_found.load(), name=_found.name)
