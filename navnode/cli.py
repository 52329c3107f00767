"""The ``navnode`` command: mounts the commands, and turns what went wrong into exit codes."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from navnode import __version__
from navnode.commands.options import messages
from navnode.errors import CalibrationError, ConfigError, NavError
from navnode.node.processes import ForPeople, Sparingly

_OWN = {
    "demo": "demo", "simulate": "simulate", "run": "run", "worker": "worker", "keys": "worker", "doctor": "doctor",
    "project": "offline", "register": "offline", "reconstruct": "offline", "train": "train", "_process": "process",
    "engine": "engine", "bench": "bench", "record": "record", "replay": "replay", "inspect": "inspect",
    "recover": "edit", "cut": "edit", "merge": "edit", "export": "exchange", "import": "exchange",
    "evaluate": "evaluate",
}  # fmt: skip
"""Command -> its module in :mod:`navnode.commands`."""
_OTHERS = {found.name: found for found in entry_points(group="navnode.commands")}
"""calibration's, which imports navnode and not the other way round."""


class _Commands(TyperGroup):
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


app = typer.Typer(
    name="navnode",
    cls=_Commands,
    help="Real-time intraoperative navigation node. [bold]Research use only, not a medical device.[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; exit 0 done, 1 the work failed, 2 bad arguments or configuration."""
    handler = _ToTerminal()
    handler.setFormatter(ForPeople())
    handler.addFilter(Sparingly())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        app()
    except (ConfigError, CalibrationError) as error:
        print(f"navnode: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except NavError as error:
        print(f"navnode: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


class _ToTerminal(logging.Handler):
    """Log lines above the live table, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)  # noqa: T201
        raise typer.Exit
