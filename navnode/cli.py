"""The ``navnode`` command: mounts the commands, and turns what went wrong into exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from navnode import __version__
from navnode.commands.logs import log_to_terminal
from navnode.commands.mounted import Commands
from navnode.errors import CalibrationError, ConfigError, NavError

__all__ = ["app", "main"]

app = typer.Typer(
    name="navnode",
    cls=Commands,
    help="Real-time intraoperative navigation node. [bold]Research use only, not a medical device.[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; exit 0 done, 1 the work failed, 2 bad arguments or configuration."""
    os.umask(0o077)  # recordings, calibrations and keys are their owner's
    log_to_terminal()
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


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)  # noqa: T201
        raise typer.Exit
