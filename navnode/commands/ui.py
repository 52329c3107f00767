"""How commands talk to people and to programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")
messages = Console(stderr=True)
"""For people, whatever is asked for."""


class ToTerminal(logging.Handler):
    """Log lines above the live table, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """A line beside standard output, as it is."""
    messages.print(line, markup=False, highlight=False)


def print_json(report: object) -> None:
    """``--json``: exactly one document on standard output. The one place where reports become JSON."""
    document = msgspec.to_builtins(report, enc_hook=_plain)
    print(json.dumps(document))  # noqa: T201 - it is what standard output is for


def _plain(value: object) -> object:
    if isinstance(value, float):  # NumPy's
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in a report")


class Ui:
    """What a command shows: progress while it works, its report at the end.

    Args:
        as_json: ``--json``: the report is one document on standard output.
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
        """Called with the share that is done: a bar on the terminal, from the first call until there is a report."""
        bar = self._bar(TimeRemainingColumn())
        task = bar.add_task(what, total=1.0)
        return lambda share: self._shown(bar).update(task, completed=share)

    def counted(self, what: str) -> Callable[[int, int, str], None]:
        """Called with how many are done, of how many, and which is: a bar that counts."""
        bar = self._bar(MofNCompleteColumn(), TimeRemainingColumn())
        task = bar.add_task(what, total=None)
        return lambda done, total, now: self._shown(bar).update(task, completed=done, total=total, description=now)

    def steps(self, total: int) -> Callable[[str], None]:
        """Called with each step's name: a bar that counts them."""
        bar = self._bar(MofNCompleteColumn())
        task = bar.add_task("", total=total)
        return lambda now: self._shown(bar).update(task, description=now, advance=1)

    def _bar(self, *columns: ProgressColumn) -> Progress:
        parts = (TextColumn("{task.description}"), BarColumn(), *columns)
        return Progress(*parts, console=messages, transient=True, disable=not messages.is_terminal)

    def _shown(self, bar: Progress) -> Progress:
        """A bar, begun late: what is fetched before has a bar of its own, and a terminal shows one at a time."""
        if not bar.disable and not bar.live.is_started:
            self._bars.enter_context(bar)
        return bar

    def show(self, report: T, draw: Callable[[T], None]) -> None:
        """A report: one JSON document, or as it is drawn."""
        self._bars.close()
        if self.as_json:
            print_json(report)
        else:
            draw(report)

    def answer(self, report: object, line: str) -> None:
        """A report: one JSON document, or a line on standard output."""
        self.show(report, lambda _: Console().print(line, markup=False, highlight=False))

    def done(self, report: object, line: str) -> None:
        """What was done: one JSON document, or a line beside standard output."""
        self.show(report, lambda _: say(line))
