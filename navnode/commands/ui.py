"""Output of commands, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def standard_output(width: int | None = None) -> Console:
    """Standard output, for people. Names and reasons come from anywhere: nothing in them is read as markup."""
    return Console(markup=False, width=width)


messages = Console(stderr=True, markup=False)
"""Standard error: for people, with and without ``--json``."""


def say(line: str) -> None:
    """Print a line on standard error, unchanged."""
    messages.print(line, highlight=False)


def print_json(report: object) -> None:
    """Print one JSON document on standard output; the only place where reports become JSON."""
    document = msgspec.to_builtins(report, enc_hook=_plain)
    print(json.dumps(document))  # noqa: T201 - the document is the only thing on standard output


def _plain(value: object) -> object:
    if isinstance(value, float):  # NumPy's
        return float(value)
    raise TypeError(f"a report cannot contain a {type(value).__name__}")


class Ui:
    """Shows a command's progress while it works, and its report at the end.

    Args:
        as_json: print the report as one JSON document on standard output.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._bars = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.close()

    def progress(self, what: str) -> Callable[[float], None]:
        """A function to call with the share that is done; its bar stays from the first call until the report."""
        bar = self._bar(TimeRemainingColumn())
        task = bar.add_task(what, total=1.0)
        return lambda share: self._shown(bar).update(task, completed=share)

    def counted(self, what: str) -> Callable[[int, int, str], None]:
        """A function to call with the number done, the total and the current item; shows a bar that counts."""
        bar = self._bar(MofNCompleteColumn(), TimeRemainingColumn())
        task = bar.add_task(what, total=None)
        return lambda done, total, now: self._shown(bar).update(task, completed=done, total=total, description=now)

    def steps(self, total: int) -> Callable[[str], None]:
        """A function to call with each step's name; shows a bar that counts the steps."""
        bar = self._bar(MofNCompleteColumn())
        task = bar.add_task("", total=total)
        return lambda now: self._shown(bar).update(task, description=now, advance=1)

    def _bar(self, *columns: ProgressColumn) -> Progress:
        parts = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
        return Progress(*parts, console=messages, transient=True, disable=not messages.is_terminal)

    def _shown(self, bar: Progress) -> Progress:
        """Start the bar at its first use: a terminal shows one at a time, and a download before may need its own."""
        if not bar.disable and not bar.live.is_started:
            self._bars.enter_context(bar)
        return bar

    def show(self, report: T, draw: Callable[[T], None]) -> None:
        """Show a report: as one JSON document, or drawn."""
        self._bars.close()
        if self.as_json:
            print_json(report)
        else:
            draw(report)

    def answer(self, report: object, line: str) -> None:
        """Show a report: as one JSON document, or as a line on standard output."""
        self.show(report, lambda _: standard_output().print(line, highlight=False))

    def done(self, report: object, line: str) -> None:
        """Show what was done: as one JSON document, or as a line on standard error."""
        self.show(report, lambda _: say(line))
