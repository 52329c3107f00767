"""What commands have in common: their options, and how they talk to people and to programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from navnode.commands.ui import messages, print_json
from navnode.errors import ConfigError
from navnode.security.address import Address, parse_address

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]
Ct = Annotated[
    str | None,
    typer.Option("--ct", metavar="FILE", help="A CT that SimpleITK reads, a DICOM folder, 'sample' or 'procedural'."),
]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="FILE.mcap", help="Record the session, from its start.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads for computing; 0: all cores.")]


def existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path}: {'a folder, no session' if path.is_dir() else 'there is no such file'}")
    return path


Session = Annotated[
    Path,
    typer.Argument(metavar="FILE.mcap", help="A recorded session; further parts are found.", callback=existing),
]


class WrittenReport(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was written."""

    out: str
    messages: int


@contextlib.contextmanager
def percent(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal, gone when all is done; called with the share that is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def print_report(report: object, as_json: bool, line: str) -> None:
    """A report: JSON, or one line on standard output."""
    if as_json:
        print_json(report)
    elif line:
        Console().print(line, markup=False, highlight=False)


def done(report: object, line: str, as_json: bool) -> None:
    """What was done: JSON, or one line beside standard output."""
    if as_json:
        print_json(report)
    else:
        messages.print(line, markup=False, highlight=False)


def address(text: str, option: str) -> Address:
    """HOST:PORT.

    Raises:
        ConfigError: it is none; names the option.
    """
    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


__all__ = [
    "Ct",
    "Json",
    "Record",
    "Session",
    "Threads",
    "WrittenReport",
    "address",
    "done",
    "existing",
    "messages",
    "percent",
    "print_json",
    "print_report",
]
