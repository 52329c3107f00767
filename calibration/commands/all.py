"""``navnode calibrate all``: everything that a room needs, one measurement after another."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import typer
from rich.console import RenderableType
from rich.live import Live

from navnode import config
from navnode.commands.logs import only_errors_of
from navnode.commands.ui import Ui, messages, standard_output
from navnode.errors import ConfigError
from navnode.files import whole
from navnode.loop.calibrations import with_kept

from .. import report
from ..guide import Guide, Run, StepState, lack_in_words
from ..requests import AllRequest
from ..room import Need, State, Step
from . import guiding

_WIDTH = 200
"""Columns of what is no terminal."""


class AllReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a room has calibrated."""

    folder: str
    steps: list[StepState]
    lacking: list[str]
    """Steps that it needs, or is advised to have, and that were neither kept nor left out."""
    failed: list[str]
    """Steps that were measured now and did not pass."""


def all_(request: AllRequest, ui: Ui) -> None:
    """Calibrate a room from nothing: what its configuration needs, in order. What is kept is not measured again.

    Each step says what to do, shows what is covered and how good it is, and ends by itself once it passes. On a
    terminal you choose: measure, leave out, or stop; elsewhere all is measured, and kept if it passes. Ends with 1 if
    something that the room needs is lacking.
    """
    guide = Guide(with_kept(config.load(request.config)))
    for name in request.skip:
        guide.room.skip(guide.room.step(name))
    with only_errors_of("navnode.igtl"):  # what is not heard is said with the verdict
        failed = _Session(request, guide, asks=_asks(request, ui)).calibrated()
    guide = Guide(with_kept(config.load(request.config)))  # as a node that starts now reads it
    steps = guide.state().steps
    lacking = [s.name for s in steps if s.need != Need.OPTIONAL and s.state != State.KEPT and not _left_out(s)]
    answer = AllReport(folder=str(guide.room.folder), steps=steps, lacking=lacking, failed=failed)
    ui.show(answer, _draw)
    if lacking or failed:
        raise typer.Exit(1)


def _left_out(step: StepState) -> bool:
    return step.skipped and step.need != Need.NEEDED


def _asks(request: AllRequest, ui: Ui) -> bool:
    return messages.is_terminal and sys.stdin.isatty() and not (request.yes or ui.as_json)


def say(line: str) -> None:
    """Print a line for people, not broken where nobody's terminal ends."""
    messages.print(line, markup=False, highlight=False, soft_wrap=not messages.is_terminal)


class _Quiet:
    """Shows nothing: where nobody watches, the verdicts say it all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _: RenderableType) -> None:
        """Do not show it."""


class _Session:
    """One walk through the steps."""

    def __init__(self, request: AllRequest, guide: Guide, *, asks: bool) -> None:
        self._request, self._guide, self._asks = request, guide, asks
        self._recordings = request.recordings()
        for name in (*self._recordings, *request.only):
            guide.room.step(name)  # refuses unknown names before anything is measured
        for path in self._recordings.values():
            if not path.exists():
                raise ConfigError(f"--recording {path}: there is no such file")
        self._failed: list[str] = []

    def calibrated(self) -> list[str]:
        """Measure what remains; the names of the steps that failed."""
        if self._request.state:
            return []
        done: set[str] = set()
        for step in self._wanted():
            if step.name in done:
                continue
            together = self._guide.room.together(step)
            done |= {each.name for each in together}
            if not self._measured(step, together):
                break
        return self._failed

    def _wanted(self) -> Iterator[Step]:
        only = set(self._request.only)
        for step in self._guide.room.steps:
            if only or self._recordings:
                if step.name in (only or self._recordings):
                    yield step
            elif step.need is not Need.OPTIONAL and not self._guide.room.kept(step).settled:
                yield step

    def _measured(self, step: Step, together: tuple[Step, ...]) -> bool:
        """One measurement; False: the operator stops."""
        say("")
        for each in together:
            say(guiding.title(each))
        try:
            while True:
                run = self._guide.begin(step, self._request.tool)
                answer = self._asked(step, run)
                if answer == "q":
                    return False
                if answer == "s":
                    for each in together:
                        self._guide.room.skip(each)
                    return True
                self._run(run)
                self._say_verdicts(run)
                if self._kept(run) or not self._asks:
                    return True
        except ConfigError as error:
            say(f"  cannot be measured: {error}")
            self._failed += [each.name for each in together]
            return True

    def _asked(self, step: Step, run: Run) -> str:
        """What to do is said; the operator's choice: '' to measure, s to leave out, q to stop."""
        say(f"  {guiding.TASKS[step.measurement].format(step.tool or run.tool)}")
        if not self._asks:
            return ""
        for each in run.steps:
            say(f"  Left out: {guiding.WITHOUT[each.kind.name]}.")
        choice = typer.prompt("  Enter: measure, s: leave out, q: stop", default="", show_default=False, err=True)
        return str(choice).strip().lower()[:1]

    def _run(self, run: Run) -> None:
        recording = next((self._recordings[s.name] for s in run.steps if s.name in self._recordings), None)
        if recording is not None:
            self._guide.replay(run, recording)
            return
        seconds, began_s = self._request.seconds, time.monotonic()
        live = Live(console=messages, refresh_per_second=4, transient=True) if messages.is_terminal else _Quiet()
        with live as panel:

            def show(run: Run) -> None:
                left_s = seconds - (time.monotonic() - began_s)
                panel.update(guiding.live(run, self._guide.share(run), left_s))

            try:
                asyncio.run(self._guide.listen(run, seconds=seconds, with_stream=not self._asks, show=show))
            except KeyboardInterrupt:
                if not self._asks:
                    raise
            panel.update("judging all samples")
            asyncio.run(self._guide.conclude(run))

    def _say_verdicts(self, run: Run) -> None:
        if run.told:
            say(f"  {run.told}")
        for step in run.steps:
            if step.kind.name in run.verdicts:
                for line in guiding.verdict_lines(step, run):
                    say(f"  {line}")
                self._report(step, run)

    def _report(self, step: Step, run: Run) -> None:
        if self._request.report is not None:
            self._guide.room.make_folder(self._request.report)
            page = report.page(run.verdicts[step.kind.name], device=step.tool, before=run.before.get(step.name))
            whole.write_whole(self._request.report / f"{step.name}.html", page.encode())

    def _kept(self, run: Run) -> bool:
        """Whether the measurement is over; otherwise it is repeated."""
        missed = [step.name for step in run.steps if step not in run.passed]
        if run.passed and (not self._asks or typer.confirm("  Keep what passed?", default=True, err=True)):
            for step in self._guide.keep(run):
                kept = self._guide.room.kept(step)
                say(f"        kept as {_near(step.path)}; {guiding.used(kept.used)}")
        elif run.passed:
            self._guide.discard(run)
            return False
        if missed and self._asks:
            return not typer.confirm(f"  Measure again ({', '.join(missed)} did not pass)?", default=True, err=True)
        self._failed += missed
        return True


def _near(path: Path) -> Path:
    """A path as seen from here, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _draw(found: AllReport) -> None:
    console = standard_output(None if sys.stdout.isatty() else _WIDTH)
    console.print(guiding.summary(found.steps))
    for name in found.lacking:
        step = next(each for each in found.steps if each.name == name)
        why = "; ".join(lack_in_words(lack) for lack in step.lacks)
        line = f"lacking: {name}: {guiding.WITHOUT[step.routine]}"
        console.print(f"{line} ({why})" if why else line, markup=False, highlight=False)
    for name in found.failed:
        console.print(f"did not pass now: {name}", markup=False, highlight=False)
    if not (found.lacking or found.failed):
        line = "Everything that this room needs is calibrated, or left out on purpose."
        console.print(line, markup=False, highlight=False)
