"""``navnode train``: trains the networks of the learned reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui
from navnode.config.fields import Threads, option

app = typer.Typer()

_VALIDATE = "Set interval widths by files whose name contains this, without training on them; repeat."


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Train networks for the learned reconstruction."""

    out: Annotated[Path, option("Write checkpoint, losses and the exported model here.", "DIR")]
    ct: Annotated[Path, option("Train on these CTs; default: procedural bodies only.", "DIR")] | None = None
    hold_out: Annotated[tuple[str, ...], option("Do not train on files whose name contains this; repeat.")] = ()
    validate: Annotated[tuple[str, ...], option(_VALIDATE)] = ()
    steps: Annotated[int, option("Total steps; the learning rate decays over them.", ge=1)] = 12_000
    hours: Annotated[float, option("Stop after this many hours; the next run resumes.", ge=0.01)] = 24.0
    procedural: Annotated[int, option("Number of procedural bodies, generated once.", ge=0)] = 72
    real_share: Annotated[float, option("Share of examples from CTs.", ge=0, le=1)] = 0.57
    threads: Threads = 0


_EXAMPLE = "navnode train --ct cts --hold-out pat7 --out run/ --hours 8  (pip install 'navnode\\[train]')"


@command(app, TrainRequest, example=_EXAMPLE)
def train(request: TrainRequest, ui: Ui) -> None:
    """Train the learned reconstruction, or resume training it, and export it."""
    from navnode.reconstruction import training

    counted = ui.counted("Training")
    report = training.run(
        **msgspec.structs.asdict(request),
        report=lambda step, loss: counted(step, request.steps, f"Training, loss {loss:.3f}"),
    )
    ui.answer(report, f"{report.model}: {report.steps} steps")
