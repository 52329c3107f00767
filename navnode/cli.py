"""The ``navnode`` command: mounts the commands, and turns what went wrong into exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

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


_LONGEST = 200


def main() -> None:
    """Run the command line; exit 0 done, 1 the work failed, 2 bad arguments or configuration."""
    os.umask(0o077)  # recordings, calibrations and keys are their owner's
    log_to_terminal()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        app()
    except (ConfigError, CalibrationError) as error:
        _fail(str(error), 2)
    except NavError as error:
        _fail(str(error), 1)
    except OSError as error:  # of a file that nobody expected to be unreadable
        if error.filename is None:
            raise
        _fail(f"{_shown(error.filename)}: {error.strerror}", 2)
    except UnicodeEncodeError as error:
        _fail(f"{_shown(error.object)}: a name that is not UTF-8 cannot be written", 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(problem: str, code: int) -> NoReturn:
    sys.stderr.write(f"navnode: {problem}\n")
    sys.exit(code)


def _shown(name: object) -> str:
    """A file's name, whatever bytes it has, short enough for a line."""
    text = os.fsdecode(name) if isinstance(name, bytes) else str(name)
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
