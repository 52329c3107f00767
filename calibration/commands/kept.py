"""``navnode calibrate show`` and ``check``: calibrations that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from calibration.commands.rendering import show_artifact
from calibration.kept import why_not_usable
from navnode.clock import now_ns
from navnode.commands.ui import print_json
from navnode.files import artifacts


def show(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A calibration.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Print a calibration."""
    found = artifacts.read(artifact)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        show_artifact(found)


def check(
    paths: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Calibrations.")],
    device_of: Annotated[str, typer.Option("--of", metavar="NAME", help="They must be of this device.")] = "",
    mode: Annotated[str, typer.Option("--mode", metavar="MODE", help="They must be of this detector mode.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Verify calibrations anew: verdict, age, device, and whether the files that they rest on are still the same."""
    told = {str(path): why_not_usable(path, now_ns(), device=device_of, mode=mode) for path in paths}
    if as_json:
        print_json({"artifacts": [{"path": path, "usable": not why, "reason": why} for path, why in told.items()]})
    else:
        for path, why in told.items():
            Console().print(f"{path}: {why or 'fine'}", markup=False, highlight=False)
    if any(told.values()):
        raise typer.Exit(1)
