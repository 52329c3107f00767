"""``navnode bench``: figures for this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import typer

from navnode.bench.requests import (
    AllRequest,
    ArchiveBenchRequest,
    BodiesRequest,
    CapacityRequest,
    GpuRequest,
    IgtlRequest,
    LoopRequest,
    ModelsRequest,
    ProjectorRequest,
    RealRequest,
    ReconstructionRequest,
    RecordingRequest,
    RegistrationRequest,
    TrustRequest,
)
from navnode.commands import bench_figures as figures
from navnode.commands import bench_loop
from navnode.commands.command import command
from navnode.commands.fetch import ct_path
from navnode.commands.supervised import show_figures
from navnode.commands.ui import Ui, say, standard_output
from navnode.errors import NavError
from navnode.files.whole import write_whole

if TYPE_CHECKING:  # a benchmark's module is loaded only when it runs
    from navnode.bench.reconstruction import Subject

app = typer.Typer()
bench = typer.Typer(help="Measure this machine, next to other implementations in the same run.", no_args_is_help=True)
app.add_typer(bench, name="bench")
# Each benchmark imports what it needs when it runs.

_CTS = ("sample", "procedural")


@command(
    bench,
    AllRequest,
    example=(
        "navnode bench all --history benchmarks/history.jsonl   (after `make peers`)",
        "navnode bench all --part projector --part wire --against benchmarks/history.jsonl",
    ),
    name="all",
)
def every(request: AllRequest, ui: Ui) -> None:
    """Measure all parts in a few minutes, beside their peers, and keep the figures as a line of a history.

    A ratio to a peer that seems to have fallen is measured twice more before it counts.
    """
    from navnode.bench import every, history

    before = history.read(request.against) if request.against is not None else ()
    parts = request.part or tuple(every.PARTS)
    measure = every.Measurement(
        ct_path(request.ct), lambda: bench_loop.latencies(request.loop_s), request.runs, request.threads
    )
    made, fallen = measure.beside(before, parts, ui.steps(len(parts)))
    if request.history is not None:
        history.append(request.history, made)
    ui.show(made, figures.draw_all)
    if fallen:
        raise NavError(f"slower beside its peers than before: {'; '.join(map(str, fallen))}")


@command(
    bench,
    IgtlRequest,
    example="navnode bench igtl --json   (after `make peers`, beside the C++ library)",
)
def igtl(request: IgtlRequest, ui: Ui) -> None:
    """Measure OpenIGTLink over loopback: round trip, throughput, tools, images and volumes."""
    from navnode.bench import igtl

    peer = request.peer or igtl.CPP_PEER
    ui.show(igtl.run(request.seconds, peer, ui.steps(igtl.steps(peer))), figures.draw_igtl)


@command(bench, GpuRequest, example=r"navnode bench gpu --out gpu.json   (pip install 'navnode\[gpu,train]')")
def gpu(request: GpuRequest, ui: Ui) -> None:
    """Try everything that needs an NVIDIA GPU, and compare it with the CPU; exit 1 if something differs."""
    from navnode.bench import gpu

    report = gpu.run(request.pack, request.train_s, ui.steps(gpu.CHECKS))
    if request.out is not None:
        write_whole(request.out, msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    ui.show(report, figures.draw_gpu)
    if report.failed:
        raise NavError(f"failed: {', '.join(report.failed)}")


@command(
    bench,
    ProjectorRequest,
    example=r"navnode bench projector --json   (peers: pip install 'navnode\[bench]')",
)
def projector(request: ProjectorRequest, ui: Ui) -> None:
    """Measure X-ray projection with pose derivatives, in every kind of direction, next to RTK and nanodrr."""
    from navnode.bench import projector, sizes

    if request.sizes:
        grown = sizes.run(request.repeats, request.threads, ui.steps(sizes.steps()))
        return ui.show(grown, figures.draw_sizes)
    ui.show(projector.run(request.repeats, request.threads, ui.steps(projector.steps())), figures.draw_projector)


@command(
    bench,
    RegistrationRequest,
    example="navnode bench registration --ct chest.nii.gz --ct pelvis.nii.gz --out report.html",
)
def registration(request: RegistrationRequest, ui: Ui) -> None:
    """Measure 2D/3D registration of X-rays with known poses: accuracy, speed, and reliability of its verdicts."""
    from navnode.bench import registration, report

    paths = [ct_path(name) for name in request.ct or _CTS]
    progress = ui.progress("Registering")
    measured = registration.run(paths, request.cases, request.threads or None, request.seed, progress)
    summary = registration.summary(measured)
    if request.out is not None:
        report.write(request.out, measured, summary)
        say(str(request.out))
    ui.show(summary, figures.draw_registration)


@command(bench, BodiesRequest, example="navnode bench bodies labels.nii.gz --ct pelvis.nii.gz --label 1 --label 2")
def bodies(request: BodiesRequest, ui: Ui) -> None:
    """Measure how bones that moved since CT are found in two X-rays, and followed in many."""
    from navnode.bench import bodies

    progress = ui.progress("Registering")
    asked = request.ct, request.labels, request.label, request.cases, request.threads or None, request.seed
    ui.show(bodies.run(*asked, progress), figures.draw_bodies)


@command(bench, RealRequest, example="navnode bench real wrist --bone radius --bone ulna --json")
def real(request: RealRequest, ui: Ui) -> None:
    """Measure how bones are found in real X-rays: from nowhere and from nearby, by outlines, and by one view alone."""
    from navnode.bench import real

    asked = request.folder, request.bone or real.BONES, request.starts, request.threads or 2, request.seed
    ui.show(real.run(*asked, ui.progress("Registering")), figures.draw_real)


@command(bench, TrustRequest, example="navnode bench trust --ct chest.nii.gz --traps 10000 --out rows.jsonl")
def trust(request: TrustRequest, ui: Ui) -> None:
    """Traps for the registration: how often an X-ray ends in VALID and wrong, with the 95 % bound."""
    from navnode.bench import trust

    paths = [ct_path(name) for name in request.ct or _CTS]
    report = trust.run(paths, request.traps, request.out, request.threads or None, ui.progress("Setting traps"))
    ui.show(report, figures.draw_trust)


@command(
    bench,
    ReconstructionRequest,
    example="navnode bench reconstruction --patients cts --views 2 --views 4 --out report.html",
)
def reconstruction(request: ReconstructionRequest, ui: Ui) -> None:
    """Measure volumes from a few X-rays of CTs, by every method: accuracy, speed, and reliability of its intervals.

    Judge a model by CTs that it was not trained on.
    """
    from navnode.bench import reconstruction
    from navnode.bench.gallery import Gallery

    report = reconstruction.run(
        _subjects(request),
        model=request.model,
        peers=request.peers,
        counts=request.views or reconstruction.COUNTS,
        threads=request.threads,
        seed=request.seed,
        gallery=Gallery(request.out) if request.out is not None else None,
        progress=ui.progress("Reconstructing"),
    )
    ui.show(report, figures.draw_reconstruction)


@command(
    bench,
    ModelsRequest,
    example=(
        "navnode bench model --patients cts --rounds 2",
        "navnode bench model --out demo --open   (a drawn knee, as make model-demo does)",
    ),
    name="model",
)
def models(request: ModelsRequest, ui: Ui) -> None:
    """Measure models of limbs from two ordinary X-rays with a jig, against their CTs: bone, intervals, geometry, time.

    Without CTs, on a drawn knee, which shows that the chain works and no more.
    """
    from navnode.bench import models

    rooms = ui.progress("Modelling")
    ui.show(models.run(models.limbs(request), request, rooms), figures.draw_models)
    if request.open and request.out is not None:
        typer.launch((request.out / "01" / "model" / "report.html").resolve().as_uri())


def _subjects(request: ReconstructionRequest) -> list[Subject]:
    """Held-out patients by region, and CTs by name as a group of their own."""
    from navnode.bench import reconstruction

    patients = [] if request.patients is None else reconstruction.held_out(request.patients, request.per_group)
    names = request.ct or (() if patients else _CTS)
    return [*patients, *(reconstruction.Subject(ct_path(name), "CTs") for name in names)]


@command(bench, LoopRequest, example="navnode bench loop --size 1024 --rate 30 --tools 8 --seconds 60 --json")
def loop(request: LoopRequest, ui: Ui) -> None:
    """Measure the live loop on the virtual operating room: latencies, and the error against the truth."""
    show_figures(bench_loop.run(request, request.seconds), ui.as_json, request.seconds)


@command(
    bench,
    CapacityRequest,
    example=r"navnode bench capacity --rooms 4 --consoles 50 --cores 8 --cores 16   (pip install 'navnode\[bench]')",
)
def capacity(request: CapacityRequest, ui: Ui) -> None:
    """Measure what a node costs here, and simulate rooms, consoles and cores that are not here."""
    from navnode.bench import capacity

    ui.show(bench_loop.reach(request, ui.steps(capacity.steps())), figures.draw_capacity)


@command(bench, RecordingRequest, example="navnode bench recording --minutes 10 --size 1024 --rate 30 --tools 8")
def recording(request: RecordingRequest, ui: Ui) -> None:
    """Measure recording: its cost to the loop, losses, what survives a kill, and the time of a seek."""
    report = bench_loop.recording_cost(request, ui.progress("Writing, seeking, killing"))
    ui.show(report, lambda cost: standard_output().print_json(json.dumps(msgspec.to_builtins(cost))))


@command(
    bench,
    ArchiveBenchRequest,
    example="navnode bench archive room.mcap --count 100 --count 1000 --to s3://bucket/bench",
)
def archive(request: ArchiveBenchRequest, ui: Ui) -> None:
    """Measure archives of many short sessions: putting one there, scoring it, and how cost grows with their number.

    What it puts below a URL stays there.
    """
    from navnode.bench import archive

    ui.show(archive.run(request, ui.counted("Measuring")), figures.draw_archive)
