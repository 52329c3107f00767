"""``navnode calibrate import`` and ``export``: other programs' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from calibration import exchange
from calibration.commands.rendering import show_exchanged
from navnode.clock import now_ns
from navnode.commands.ui import print_json
from navnode.errors import CalibrationError
from navnode.files import artifacts


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=f"Read are {exchange.READS}.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=".json for a C-arm, .csv for points, .npy for a transform."),
    ] = None,
    a: Annotated[str, typer.Option("--from", metavar="NAME", help="Which transform, if there are several.")] = "",
    b: Annotated[str, typer.Option("--to", metavar="NAME", help="Which transform, if there are several.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """What another program's calibration file says, in our words: RAS, millimetres, to_from_from."""
    found = exchange.read(file)
    if out is not None:
        exchange.write_imported(found, out, a, b)
    if as_json:
        print_json(found.document())
    else:
        show_exchanged(found)


def export(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A calibration.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help=f"Written are {exchange.WRITES}.")],
) -> None:
    """A calibration in another program's format; a PLUS device set that is there is changed, not replaced."""
    found = artifacts.read(artifact)
    if problem := artifacts.wrong(found, now_ns()):
        raise CalibrationError(f"{artifact}: {problem}")
    exchange.write(found, out)
    Console(stderr=True).print(f"written to {out}", markup=False, highlight=False)
