"""``navnode train-reader``: the network that reads bone off X-rays."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from navnode.commands.options import Json, Threads, percent, print_report

app = typer.Typer()


class Device(StrEnum):
    """What to train on."""

    CPU = "cpu"
    CUDA = "cuda"


@app.command(
    "train-reader",
    epilog="Example:  navnode train-reader --ct cts --out run/ --hours 8  (pip install 'navnode\\[train]')",
)
def train_reader(
    ct: Annotated[Path, typer.Option("--ct", metavar="DIR", help="CTs, in folders limbs, heads and trunks.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Rendered X-rays, checkpoint, losses, scores.")],
    bones: Annotated[
        Path | None, typer.Option("--bones", metavar="DIR", help="Surfaces of leg bones; knees are made of them.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="Stop after this; the next run resumes.")] = 8.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Bodies to render: limbs 6 each a round.")] = 1,
    device: Annotated[Device, typer.Option("--device", help="Train on the CPU or on a GPU.")] = Device.CPU,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Render X-rays of labelled CTs, then train the reader on them, or resume both."""
    from navnode.reconstruction.training import run_reader

    with percent("Rendering, then training") as progress:
        report = run_reader(
            ct, out, bones=bones, hours=hours, rounds=rounds, device=device.value, threads=threads, progress=progress
        )
    print_report(report, as_json, f"{report.checkpoint}: {report.steps} steps")
