"""Which commands there are, and where; each is loaded when it is asked for."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_OWN = {
    "demo": "demo", "simulate": "simulate", "run": "run", "worker": "worker", "keys": "worker", "doctor": "doctor",
    "project": "offline", "register": "offline", "reconstruct": "offline", "train": "train",
    "train-reader": "train_reader", "_process": "process",
    "engine": "engine", "bench": "bench", "record": "record", "replay": "replay", "inspect": "inspect",
    "recover": "edit", "cut": "edit", "merge": "edit", "export": "exchange", "import": "exchange",
    "evaluate": "evaluate",
}  # fmt: skip
"""Command -> its module in :mod:`navnode.commands`."""
_OTHERS = {found.name: found for found in entry_points(group="navnode.commands")}
"""calibration's, which imports navnode and not the other way round."""


class Commands(TyperGroup):
    """Loads a command's module, and what that imports, when the command is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name) for name in (*_OWN, *_OTHERS)}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        mounted = typer.Typer(rich_markup_mode="rich")
        if cmd_name in _OWN:
            mounted.add_typer(importlib.import_module(f"navnode.commands.{_OWN[cmd_name]}").app)
        elif cmd_name in _OTHERS:
            mounted.add_typer(_OTHERS[cmd_name].load(), name=cmd_name)
        else:
            return None
        return typer.main.get_group(mounted).get_command(ctx, cmd_name)
