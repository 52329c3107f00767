"""``navnode train``: networks for the learned reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from navnode.commands.options import (
    Json,
    Threads,
    messages,
    print_report,
)

app = typer.Typer()


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
    print_report(report, as_json, f"{report.model}: {report.steps} steps")
