"""``navnode doctor``: what this machine has, and what a configuration lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from navnode import config
from navnode.clock import now_ns
from navnode.commands.options import (
    Json,
    print_json,
)
from navnode.loop import calibrations
from navnode.node.processes import may_take_loop_priority

app = typer.Typer()


@app.command(epilog="Example:  navnode doctor node.toml")
def doctor(
    configuration: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="A node's configuration: what it still lacks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What this machine has, what the node will use of it, and what a configuration still lacks."""
    from navnode.bench.machine import examine

    found = examine(may_take_loop_priority())
    if configuration is not None:
        lacks = calibrations.lacking(config.load(configuration), now_ns())
        told = dict(lacks) or {"nothing": "every calibration is there and may be used"}
        found = msgspec.structs.replace(found, lacks=told)
    if as_json:
        print_json(found)
        return
    table = Table.grid(padding=(0, 2))
    for key, value in msgspec.to_builtins(found).items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(f"[bold]{key}[/]", shown)
    Console().print(table)
