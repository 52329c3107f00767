"""``navnode train-reader`` and ``train-refiner``: the networks that find bone in X-rays."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui
from navnode.config.fields import Threads, option

app = typer.Typer()


class Device(StrEnum):
    """Where to train."""

    CPU = "cpu"
    CUDA = "cuda"


class _TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both trainings are asked."""

    ct: Annotated[Path, option("Train on these CTs, in folders limbs, heads and trunks.", "DIR")]
    bones: Annotated[Path, option("Also build knees from these surfaces of leg bones.", "DIR")] | None = None
    hours: Annotated[float, option("Stop after this many hours; the next run resumes.", ge=0.01)] = 8.0
    device: Annotated[Device, option("Train on the CPU or on a GPU.")] = Device.CPU
    threads: Threads = 0


class TrainReaderRequest(_TrainRequest, frozen=True, kw_only=True):
    """Train the network that reads bone off X-rays."""

    out: Annotated[Path, option("Write rendered X-rays, checkpoint, losses and scores here.", "DIR")]
    rounds: Annotated[int, option("Bodies to render: limbs 6 each a round.", ge=1)] = 1


class TrainRefinerRequest(_TrainRequest, frozen=True, kw_only=True):
    """Train the networks that refine bone in space."""

    out: Annotated[Path, option("Use the reader's checkpoint here; write bodies, checkpoint and model here.", "DIR")]
    rounds: Annotated[int, option("Bodies to render: limbs 6 each a round.", ge=1)] = 6


@command(
    app,
    TrainReaderRequest,
    name="train-reader",
    example="navnode train-reader --ct cts --out run/ --hours 8  (pip install 'navnode\\[train]')",
)
def train_reader(request: TrainReaderRequest, ui: Ui) -> None:
    """Render X-rays of labelled CTs, then train the reader on them, or resume both."""
    from navnode.reconstruction import training

    report = training.run_reader(**msgspec.structs.asdict(request), progress=ui.progress("Rendering, then training"))
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

    report = training.run_refiner(**msgspec.structs.asdict(request), progress=ui.progress("Rendering, then training"))
    ui.answer(report, f"{report.model}: {report.steps} steps")
