"""What commands have in common: their options, and how they talk to people and to programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]
Ct = Annotated[
    str | None,
    typer.Option("--ct", metavar="FILE", help="A CT that SimpleITK reads, a DICOM folder, 'sample' or 'procedural'."),
]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="FILE.mcap", help="Record the session, from its start.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads for computing; 0: all cores.")]

messages = Console(stderr=True)


def print_json(document: object) -> None:
    """``--json``: exactly one document on standard output."""
    print(json.dumps(document))  # noqa: T201 - it is what standard output is for


@contextlib.contextmanager
def percent(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal, gone when all is done; called with the share that is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)
