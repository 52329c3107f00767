"""Guided calibration: one measurement at a time, its verdicts while it runs, and what is kept of it.

The terminal (``navnode calibrate all``) and the page show the same guide.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from navnode.clock import now_ns
from navnode.config import Config
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts, whole
from navnode.files.artifacts import Artifact, FlatFieldResult
from navnode.igtl import Arrival, Client, Message
from navnode.types import Array

from . import results, samples
from .heard import Heard, record
from .inputs import Files
from .results import Change, Found, Measured
from .room import Kept, Lack, Need, Room, Step
from .samples import Coverage, Glance
from .verdict import Calibration, plain

__all__ = ["Guide", "GuideState", "Run", "RunState", "StepState", "VerdictState"]

_EVERY_S = 0.5
_PASSES = 4
"""Number of complete verdicts in a row that end a measurement."""
_SILENT_S = 3.0
"""A stream that said something, and then nothing for this long, has ended."""
_NOTHING_S = 15.0
_PAUSE_S = 2.5
"""Shots are judged, which takes long, when none has come for this long."""
_LEAST_S = {"tip": 10.0}
"""Measurement -> how long it takes at least, for a result better than it needs to be."""


@dataclass
class Run:
    """One measurement, running or finished."""

    steps: tuple[Step, ...]
    tool: str
    """The tool that touches points."""
    devices: Mapping[str, str]
    """Role -> device."""
    heard: Heard = field(default_factory=Heard)
    verdicts: dict[str, Calibration[Any]] = field(default_factory=dict)
    """By routine."""
    covered: Coverage = field(default_factory=lambda: Coverage(""))
    shot: Glance | None = None
    """How the newest shot of the phantom looks by itself."""
    running: bool = True
    judging: bool = False
    judged: tuple[int, ...] = ()
    """Number of samples of every device that the verdicts rest on, if on all of them."""
    problem: str = ""
    unheard: str = ""
    """Why a source cannot be heard."""
    kept: list[str] = field(default_factory=list)
    """Names of the steps of which something was kept."""
    discarded: bool = False
    before: dict[str, Artifact[Any] | None] = field(default_factory=dict)
    """By step: what was kept when it began."""

    @property
    def told(self) -> str:
        """What went wrong, or why not all that was received is used, unless that sufficed."""
        return self.problem or ("" if self.complete else self.heard.left_out)

    def counts(self) -> tuple[int, ...]:
        """Number of samples of every device."""
        return tuple(len(self.heard.times_s.get(device, [])) for device in self.devices.values())

    @property
    def passed(self) -> list[Step]:
        """The steps that passed, in their order."""
        return [step for step in self.steps if (v := self.verdicts.get(step.kind.name)) is not None and v.passed]

    @property
    def complete(self) -> bool:
        """Whether every step passed, and every planned point was touched."""
        return len(self.passed) == len(self.steps) and all(done for _, done in self.covered.labels)


class VerdictState(msgspec.Struct, frozen=True):
    """A verdict, for people."""

    step: str
    routine: str
    passed: bool
    code: str
    reason: str
    advice: str
    """What to do next, if it did not pass."""
    figures: list[Measured]
    found: list[Found]
    changes: list[Change]
    """Against what was kept before."""
    points: dict[str, float | None]
    """Label -> error, mm."""


class StepState(msgspec.Struct, frozen=True):
    """A step, for people."""

    name: str
    routine: str
    measurement: str
    tool: str
    need: str
    state: str
    used: str
    reason: str
    skipped: bool
    created_ns: int
    expires_ns: int
    path: str
    found: list[Found]
    lacks: list[Lack]


class RunState(msgspec.Struct, frozen=True):
    """A measurement, for people."""

    measurement: str
    steps: list[str]
    tool: str
    running: bool
    judging: bool
    problem: str
    samples: dict[str, int]
    """Device -> number of samples."""
    coverage: Coverage
    shot: Glance | None
    """The newest shot of the phantom."""
    share: float
    """How much of what is needed has been measured, 0 to 1."""
    complete: bool
    verdicts: list[VerdictState]
    kept: list[str]
    discarded: bool
    unheard: str = ""
    """Why nothing is heard from a source now; '': something is."""


class GuideState(msgspec.Struct, frozen=True):
    """The whole guide, for people."""

    steps: list[StepState]
    tools: list[str]
    folder: str
    run: RunState | None
    next: str
    """The step that is next; '': none is left."""


class Guide:
    """The room's calibrations, and the measurement under way.

    Args:
        config: whose kept calibrations are named.
    """

    def __init__(self, config: Config) -> None:
        self.room = Room(config)
        self.run: Run | None = None
        self._judging = threading.Lock()

    # --- measuring --------------------------------------------------------------------------------------------------

    def begin(self, step: Step, tool: str = "") -> Run:
        """A new measurement, for a step and those that the same samples serve; it replaces the one before.

        Args:
            tool: the tool that touches points; '': the first.

        Raises:
            ConfigError: something must be there before; names it.
        """
        tools = [each.name for each in self.room.config.tools]
        tool = tool or (tools[0] if tools else "")
        if tools and tool not in tools:
            raise ConfigError(f"there is no tool {tool!r}; known tools: {tools}")
        if lacks := self.room.lacks(step, tool):
            raise ConfigError("; ".join(lack_in_words(each) for each in lacks))
        steps = self.room.together(step)
        before = {each.name: self.room.kept(each).artifact for each in steps}
        self.run = Run(steps, tool, samples.devices(self.room, step, tool), before=before)
        return self.run

    async def listen(
        self,
        run: Run,
        *,
        seconds: float,
        until_complete: bool = True,
        with_stream: bool = False,
        show: Callable[[Run], None] = lambda run: None,
    ) -> None:
        """Listen to all sources of the configuration, and judge the samples, until the time is over or it is cancelled.

        Args:
            until_complete: end also when everything passed and keeps passing.
            with_stream: end also when the devices fall silent.
            show: called twice a second.
        """
        wanted = set(run.devices.values())

        def keep(message: Message, arrival: Arrival) -> None:
            record(run.heard, message, arrival.received_ns, wanted)

        def state(connected: bool, reason: str) -> None:
            run.unheard = "" if connected else reason

        sources = self.room.config.sources
        clients = [Client(each.host, each.port, keep, state, tls=each.client_tls) for each in sources]
        tasks = [asyncio.create_task(client.run()) for client in clients]
        judging = asyncio.create_task(self._judge_on(run, until_complete))
        began_s = changed_s = time.monotonic()
        counts = run.counts()
        try:
            while (now_s := time.monotonic()) - began_s < seconds and not judging.done():
                show(run)
                await asyncio.wait((judging,), timeout=_EVERY_S)
                if run.counts() != counts:
                    counts, changed_s = run.counts(), now_s
                if with_stream and now_s - changed_s > (_SILENT_S if any(counts) else _NOTHING_S):
                    break
        finally:
            run.running = False
            for task in (judging, *tasks):
                task.cancel()
            await asyncio.gather(judging, *tasks, return_exceptions=True)

    async def conclude(self, run: Run) -> None:
        """Judge all samples of a measurement that has ended."""
        run.running = False
        silent = [device for device, count in zip(run.devices.values(), run.counts(), strict=True) if not count]
        if silent:
            run.problem = f"nothing received from {', '.join(silent)}" + (f" ({run.unheard})" if run.unheard else "")
        else:
            await asyncio.to_thread(self.judge, run, final=True)
        self._forget(run)

    async def _judge_on(self, run: Run, until_complete: bool) -> None:
        """Judge new samples again and again; returns when everything keeps passing, if that ends the measurement."""
        measurement, began_s = run.steps[0].measurement, time.monotonic()
        shots, came_s, passes = 0, began_s, 0
        judged: tuple[int, ...] = ()
        while True:
            await asyncio.sleep(_EVERY_S)
            now_s, counts = time.monotonic(), run.counts()
            if measurement == "shots":
                run.covered = samples.coverage(self.room, run.steps[0], run.heard, run.verdicts)
                taken = run.heard.taken(run.devices["xray"])
                if taken != shots:
                    shots, came_s = taken, now_s
                if taken and (run.shot is None or run.shot.number != taken):
                    run.shot = await asyncio.to_thread(samples.newest_shot, self.room, run.heard)
                if now_s - came_s < _PAUSE_S or not samples.worth_judging(self.room, run.steps[0], run.heard):
                    continue
                counts = (shots,)
            if not all(counts) or counts == judged:
                continue
            judged = counts
            await asyncio.to_thread(self.judge, run, final=False)
            passes = passes + 1 if run.complete else 0
            enough = 1 if measurement == "shots" else _PASSES
            if until_complete and passes >= enough and now_s - began_s >= _LEAST_S.get(measurement, 0.0):
                return

    def judge(self, run: Run, *, final: bool) -> None:
        """Judge a measurement's samples so far.

        Args:
            final: judge all of them.
        """
        step, heard = run.steps[0], run.heard
        with self._judging:  # a preliminary verdict may still be at work
            counts = run.counts()
            if counts == run.judged:
                return
            run.judging = True
            try:
                verdicts: dict[str, Calibration[Any]] = {}
                for each in run.steps:
                    verdicts[each.kind.name] = samples.judged(self.room, each, run.tool, heard, verdicts, final=final)
                    run.verdicts = {**run.verdicts, **verdicts}
                run.problem = ""
            except (ConfigError, CalibrationError) as error:
                run.problem = str(error)
            finally:
                run.judging = False
            run.judged = counts if final or step.measurement == "shots" else ()
            run.covered = samples.coverage(self.room, step, heard, run.verdicts)

    def replay(self, run: Run, recording: Path) -> None:
        """Judge a measurement that was recorded.

        Raises:
            ConfigError: the recording cannot be read, or lacks a device.
        """
        run.heard = samples.from_recording(recording, run.devices, Files())
        self.judge(run, final=True)
        run.running = False
        self._forget(run)

    @staticmethod
    def _forget(run: Run) -> None:
        """Let the samples of a measurement go, which are many: verdicts stay."""
        run.heard = run.heard.forgotten()

    # --- keeping ----------------------------------------------------------------------------------------------------

    def keep(self, run: Run) -> list[Step]:
        """Keep what passed; what was kept before of the same steps is replaced.

        Raises:
            ConfigError: nothing passed, or a file cannot be written.
        """
        passed = [] if run.discarded else run.passed
        if not passed:
            raise ConfigError("only a calibration that passed can be kept")
        for step in passed:
            self.room.make_folder(step.path.parent)
            verdict = run.verdicts[step.kind.name]
            if isinstance(verdict.result, FlatFieldResult):
                whole.write_whole(step.path, _packed(verdict.arrays))
            else:
                device, mode, case = self.room.whose(step)
                artifacts.write(step.path, verdict.artifact(now_ns(), device=device, mode=mode, case=case))
            self.room.skip(step, skipped=False)
        run.kept = [step.name for step in passed]
        return passed

    def discard(self, run: Run) -> None:
        """Drop a measurement; what was kept before stays."""
        run.discarded = True
        self._forget(run)

    # --- for people -------------------------------------------------------------------------------------------------

    def next(self) -> Step | None:
        """The first step that remains to be done, of those that can be measured; None: none is left."""
        for step in self.room.steps:
            if step.need is not Need.OPTIONAL and not self.room.kept(step).settled:
                return step
        return None

    def state(self) -> GuideState:
        """Everything, for people."""
        tools = [each.name for each in self.room.config.tools]
        following = self.next()
        return GuideState(
            [self._step_state(step, self.run.tool if self.run else (tools or [""])[0]) for step in self.room.steps],
            tools,
            str(self.room.folder),
            None if self.run is None else self._run_state(self.run),
            "" if following is None else following.name,
        )

    def _step_state(self, step: Step, tool: str) -> StepState:
        kept: Kept = self.room.kept(step)
        artifact = kept.artifact
        return StepState(
            step.name,
            step.kind.name,
            step.measurement,
            step.tool,
            step.need.value,
            kept.state.value,
            kept.used.value,
            kept.reason,
            kept.skipped,
            artifact.created_ns if artifact is not None else 0,
            artifact.expires_ns if artifact is not None else 0,
            str(step.path),
            results.found(artifact) if artifact is not None else [],
            self.room.lacks(step, tool),
        )

    @staticmethod
    def share(run: Run) -> float:
        """How much of what is needed has been measured, 0 to 1: the least of all that must be large enough."""
        labels, verdicts = run.covered.labels, run.verdicts.values()
        shares = [sum(done for _, done in labels) / len(labels)] if labels else []
        if run.steps[0].measurement == "shots":
            shares.append(min(len(run.covered.places) / samples.LEAST_SHOTS, 1.0))
        figures = (figure for verdict in verdicts for figure in verdict.figures)
        shares += [
            min((each.value or 0.0) / each.limit, 1.0) for each in figures if each.gate.at_least and each.limit > 0
        ]
        return round(min(shares, default=0.0), 3)

    def _run_state(self, run: Run) -> RunState:
        shown = [verdict_state(step, run) for step in run.steps if step.kind.name in run.verdicts]
        return RunState(
            run.steps[0].measurement,
            [step.name for step in run.steps],
            run.tool,
            run.running,
            run.judging,
            run.told,
            {device: len(run.heard.times_s.get(device, [])) for device in run.devices.values()},
            run.covered,
            run.shot,
            self.share(run),
            run.complete,
            shown,
            run.kept,
            run.discarded,
            run.unheard,
        )


def verdict_state(step: Step, run: Run) -> VerdictState:
    """A step's verdict in a measurement, for people."""
    verdict = run.verdicts[step.kind.name]
    errors_mm = plain(verdict.quality.get("fre_mm") or verdict.quality.get("per_target_mm") or {})
    return VerdictState(
        step.name,
        step.kind.name,
        verdict.passed,
        verdict.code,
        verdict.reason,
        verdict.reason.rpartition("; ")[2] if verdict.reason else "",
        [results.measured(each) for each in verdict.figures],
        results.found(verdict),
        results.changes(verdict, run.before.get(step.name)),
        errors_mm,
    )


def lack_in_words(lack: Lack) -> str:
    """What must be there before, as a sentence."""
    return {
        "key": f"{lack.what} is not set in the configuration",
        "file": f"{lack.what}: no such file",
        "first": f"{lack.what} must be calibrated first",
    }[lack.code]


def _packed(images: Mapping[str, Array]) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **images)
    return packed.getvalue()
