"""``navnode train-reader``, ``train-refiner``, ``train-lungs``, ``train-pack``: what finds bone and lungs in X-rays."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui
from navnode.config.fields import Threads, argument, option

if TYPE_CHECKING:  # training is imported only by commands that train
    from navnode.reconstruction.training import Data

app = typer.Typer()


class Device(StrEnum):
    """Where to train."""

    CPU = "cpu"
    CUDA = "cuda"


class _PacedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """From where, where and how long to train."""

    start: Annotated[Path, option("Go on from this exported model.", "DIR", flag="--from")] | None = None
    hours: Annotated[float, option("Stop after this many hours; the next run resumes.", ge=0.01)] = 8.0
    device: Annotated[Device, option("Train on the CPU or on a GPU.")] = Device.CPU
    threads: Threads = 0


class _TrainRequest(_PacedRequest, frozen=True, kw_only=True):
    """What both trainings of bone need."""

    ct: Annotated[Path, option("Train on these CTs, in folders limbs, heads and trunks.", "DIR")] | None = None
    bones: Annotated[Path, option("Also build knees from these surfaces of leg bones.", "DIR")] | None = None
    pack: Annotated[Path, option("Train on a pack from `navnode train-pack` instead.", "FILE")] | None = None


class TrainReaderRequest(_TrainRequest, frozen=True, kw_only=True):
    """Train the network that reads bone off X-rays."""

    out: Annotated[Path, option("Write rendered X-rays, checkpoint, losses and scores here.", "DIR")]
    rounds: Annotated[int, option("Bodies to render: limbs 6 each a round.", ge=1)] = 1


class TrainRefinerRequest(_TrainRequest, frozen=True, kw_only=True):
    """Train the networks that refine bone in space."""

    out: Annotated[Path, option("Use the reader's checkpoint here; write bodies, checkpoint and model here.", "DIR")]
    reader: Annotated[Path, option("Use this exported reader instead of a checkpoint.", "DIR")] | None = None
    rounds: Annotated[int, option("Bodies to render: limbs 6 each a round.", ge=1)] = 6


class TrainLungsRequest(_PacedRequest, frozen=True, kw_only=True):
    """Train the network that finds lungs."""

    ct: Annotated[Path, option("Train on the trunks and heads of these CTs, in folders of these names.", "DIR")]
    out: Annotated[Path, option("Write bodies, checkpoint, losses, scores and model here.", "DIR")]
    reader: Annotated[Path, option("Use this exported reader instead of the shipped one.", "DIR")] | None = None
    rounds: Annotated[int, option("Bodies to render: trunks 12 each a round.", ge=1)] = 2


class TrainPackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Pack rendered X-rays and bodies into one file, to train on another machine."""

    run: Annotated[Path, argument("Folder of a training, its --out.", "DIR")]
    out: Annotated[Path, option("Write the pack here.", "FILE")]
    mib: Annotated[float, option("Largest size in MiB.", ge=0.1, le=100_000)] = 50.0
    bodies: Annotated[float, option("Share of it for bodies, which the refiner needs.", ge=0, le=1)] = 0.7
    part: Annotated[int, option("Which part of the data, from 0; every part holds all validation patients.", ge=0)] = 0


def _data(request: _TrainRequest, rounds: int) -> Data:
    from navnode.reconstruction.training import Data

    return Data(ct=request.ct, bones=request.bones, rounds=rounds, pack=request.pack)


def _pace(request: _PacedRequest, ui: Ui) -> dict[str, Any]:
    """How to train, and what shows how far it is."""
    asked = {name: getattr(request, name) for name in ("start", "hours", "device", "threads")}
    return {**asked, "progress": ui.progress("Rendering, then training")}


@command(
    app,
    TrainReaderRequest,
    name="train-reader",
    example="navnode train-reader --ct cts --out run/ --hours 8  (pip install 'navnode\\[train]')",
)
def train_reader(request: TrainReaderRequest, ui: Ui) -> None:
    """Render X-rays of labelled CTs, then train the reader on them, or resume both."""
    from navnode.reconstruction import training

    report = training.run_reader(
        _data(request, request.rounds),
        request.out,
        **_pace(request, ui),
    )
    ui.answer(report, f"{report.checkpoint}: {report.steps} steps")


@command(
    app,
    TrainRefinerRequest,
    name="train-refiner",
    example="navnode train-refiner --ct cts --out run/ --hours 8  (after navnode train-reader)",
)
def train_refiner(request: TrainRefinerRequest, ui: Ui) -> None:
    """Render bodies of labelled CTs, then train on what the reader reads of them, or resume both."""
    from navnode.reconstruction import training

    report = training.run_refiner(
        _data(request, request.rounds),
        request.out,
        reader=request.reader,
        **_pace(request, ui),
    )
    ui.answer(report, f"{report.model}: {report.steps} steps")


@command(
    app,
    TrainLungsRequest,
    name="train-lungs",
    example="navnode train-lungs --ct cts --out run/ --hours 1  (pip install 'navnode\\[train]')",
)
def train_lungs(request: TrainLungsRequest, ui: Ui) -> None:
    """Render chests and necks of labelled CTs, then train on what the reader reads of their lungs, or resume both."""
    from navnode.reconstruction import training

    report = training.run_lungs(
        request.ct,
        request.out,
        rounds=request.rounds,
        reader=request.reader,
        **_pace(request, ui),
    )
    ui.answer(report, f"{report.model}: {report.steps} steps")


@command(app, TrainPackRequest, name="train-pack", example="navnode train-pack run/ --out data.pack --mib 35")
def train_pack(request: TrainPackRequest, ui: Ui) -> None:
    """Pack a training's X-rays and bodies into one file, to train on another machine."""
    from navnode.reconstruction.training.packs import pack

    size, progress = int(request.mib * (1 << 20)), ui.progress("Packing")
    report = pack(
        request.run, request.out, most_bytes=size, bodies_share=request.bodies, part=request.part, progress=progress
    )
    ui.answer(report, f"{request.out}: {report.bodies} bodies, X-rays of {report.xrays}")
