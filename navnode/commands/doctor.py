"""``navnode doctor``: what this machine has, and what a configuration lacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from navnode import config
from navnode.commands.command import command
from navnode.commands.ui import Ui, standard_output
from navnode.config import Config
from navnode.config.fields import argument
from navnode.errors import ConfigError
from navnode.node import readiness
from navnode.node.processes import may_take_loop_priority

if TYPE_CHECKING:  # loaded only when the command runs
    from navnode.bench.machine import MachineReport

app = typer.Typer()


class DoctorRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Examine this machine."""

    config: Annotated[Path, argument("Also list what this configuration lacks.", "[CONFIG.toml]")] | None = None


@command(app, DoctorRequest, example="navnode doctor node.toml")
def doctor(request: DoctorRequest, ui: Ui) -> None:
    """Say what this machine has, what the node will use of it, and what a configuration still lacks."""
    from navnode.bench.machine import examine
    from navnode.reconstruction.choice import Method

    loaded = None if request.config is None else config.load(request.config)
    if loaded is None:
        report = examine(may_take_loop_priority())
    else:
        method = Method(loaded.reconstruction.method)
        report = examine(may_take_loop_priority(), readiness.listening(loaded), method)
        lacks = dict(readiness.lacking(loaded)) | _files(loaded)
        lacks = lacks or {"nothing": "every calibration is present and valid, and so are files and keys"}
        report = msgspec.structs.replace(report, lacks=lacks)
    ui.show(report, _draw)


def _files(loaded: Config) -> dict[str, str]:
    """What is wrong with the first file, key or certificate that is."""
    try:
        readiness.check_files(loaded)
    except ConfigError as error:
        return {"files": str(error)}
    return {}


def _draw(report: MachineReport) -> None:
    table = Table.grid(padding=(0, 2))
    for key, value in msgspec.to_builtins(report).items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(Text(key, "bold"), shown)
    standard_output().print(table)
