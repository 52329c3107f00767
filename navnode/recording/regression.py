"""A session run again: the same ingest and the same loop as live, with time from the recording.

*Lockstep*: every arrival in its order, heavy work done at once, ticks and volumes at fixed times of the session: what
comes out depends on the recording and the code alone. *As consumed*: exactly the steps that live took, in their order,
with the volumes that it was given.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from navnode.clock import NS_PER_S
from navnode.config import Config, decode, is_ct_file
from navnode.errors import CalibrationError, ConfigError, DamagedError, RecordingError
from navnode.igtl import Message
from navnode.loop import calibrations
from navnode.loop.executors import AsRecorded, AtOnce
from navnode.loop.ingest import Ingest
from navnode.loop.lockstep_worker import FixedTimeWorker
from navnode.loop.pipeline import Pipeline
from navnode.loop.runner import Runner, Step
from navnode.loop.topics import TICK_NS
from navnode.recording import format as session_format
from navnode.recording.compare import ComparisonReport, RecordedOutput
from navnode.recording.container import Channel
from navnode.recording.integrity import Integrity
from navnode.recording.recording import Recorded, Recording
from navnode.recording.requests import Mode
from navnode.types import (
    Input,
    OperatorCommand,
    Output,
    RegisteredFrame,
    RegistrationDone,
    SourceState,
    Status,
    SurfaceReady,
    Tick,
    Volume,
    VolumeReady,
    VolumeUpdate,
    WorkerAnswer,
)

log = logging.getLogger(__name__)

_JUMP_NS = 30 * NS_PER_S
"""A longer silence is a jump of the clock, or nobody was there: time does not pass, it is another one."""
_UNCONSUMED_NS = 10 * NS_PER_S
"""An arrival that no step has named for so long was for nobody."""


@dataclass(frozen=True)
class ReplaySetup:
    """What a session is run with.

    Args:
        volume: the CT, or None.
    """

    config: Config
    volume: Volume | None


@dataclass(frozen=True)
class Stepped:
    """One step and what it led to."""

    number: int
    """The cause's, as outputs of a recording name it."""
    time_ns: int
    message: Input
    outputs: list[Output]


@dataclass
class Findings:
    """What is noticed on the way."""

    arrivals: int = 0
    """Messages that came in."""
    lost: int = 0
    """That the recording says are missing."""
    clock_jumps: int = 0
    jumped_s: float = 0.0
    """How far, together: time that was not there."""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Once."""
        if text not in self.notes:
            self.notes.append(text)


def ct_of(config: Config, given: str | None) -> str:
    """Which CT a session is run again with: the given one, or its configuration's; '' if there is none.

    Raises:
        ConfigError: there is no such file.
    """
    ct = given or config.volume.ct
    if is_ct_file(ct) and not Path(ct).exists():
        raise ConfigError(f"{ct}: the CT of this session is not there; give it with --ct")
    return ct


def configuration(recording: Recording, given: Config | None, folder: Path) -> Config:
    """The configuration that a session was recorded with, or another one; calibrations are put into a folder.

    Raises:
        ConfigError: the session has none, and none is given.
        RecordingError: a calibration is not in the session, or cannot be read.
    """
    if given is not None:
        return given
    if session_format.CONFIGURATION not in recording.attachments:
        raise ConfigError(f"{recording.path}: holds no configuration; give --config")
    try:
        config = decode(recording.attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    except ConfigError as error:
        raise RecordingError(f"{recording.path}: its configuration cannot be read ({error})") from error
    paths = {}
    for number, (key, path) in enumerate(calibrations.files(config).items()):
        kept = folder / f"{number}{Path(path).suffix}"  # names of a session are not ours: none of them is a path here
        try:
            kept.write_bytes(recording.attachment(_attached(recording, key)))
        except RecordingError as error:
            raise RecordingError(
                f"{recording.path}: the calibration {key} ({Path(path).name}) is not in the session, or damaged; give "
                "--config"
            ) from error
        paths[key] = str(kept)
    return calibrations.with_files(config, paths)


def _attached(recording: Recording, key: str) -> str:
    """What a calibration is attached as: by its key in the configuration, or by what that was called once."""
    names = [f"{session_format.CALIBRATION}{name}" for name in (key, *calibrations.OLD_KEYS.get(key, ()))]
    return next((name for name in names if name in recording.attachments), names[0])


class Replay:
    """A session to be run again, once.

    Args:
        threads: for registration; 0: as the configuration says.

    Raises:
        RecordingError: a calibration of the session cannot be used, at the time of the session.
    """

    def __init__(self, recording: Recording, setup: ReplaySetup, *, threads: int = 0) -> None:
        config = setup.config
        if threads:
            config = msgspec.structs.replace(
                config, registration=msgspec.structs.replace(config.registration, threads=threads)
            )
        self._recording, self._config, self._volume = recording, config, setup.volume
        self.found = Findings()
        try:
            detector = calibrations.detector(config, recording.start_ns)
        except CalibrationError as error:
            raise RecordingError(f"{recording.path}: {error}") from error
        self._ingest = Ingest(config, detector)
        self._pipeline = Pipeline(config, setup.volume)
        self._at_once = AtOnce(config, setup.volume, self._time)
        self._now_ns = self._number = 0
        self._steps: list[Stepped] = []

    def _time(self) -> int:
        return self._now_ns

    def _record(self, step: Step) -> None:
        self._number += 1
        self._steps.append(Stepped(self._number, self._now_ns, step.message, step.outputs))

    def _stepped(self) -> list[Stepped]:
        """What has been stepped since it was last asked."""
        steps, self._steps = self._steps, []
        return steps

    # --- lockstep -----------------------------------------------------------------------------------------------------

    def lockstep(self) -> Iterator[Stepped]:
        """Every arrival, operator's command and change of a source, in their order.

        Raises:
            DamagedError: the recording is damaged; what comes before is given first.
        """
        worker = FixedTimeWorker(self._config, self._time) if self._config.reconstruction.enabled else None
        runner = Runner(
            self._pipeline,
            self._ingest,
            register=self._at_once,
            ask_worker=worker or (lambda request: None),
            now_ns=self._time,
            record=self._record,
        )
        tick_ns = 0
        try:
            for entry in self._entries():
                arrival = entry.content if entry.topic.startswith("in/") else None
                other = None if arrival is not None else self._other_input(entry)
                if arrival is None and other is None:
                    continue
                if not tick_ns:
                    self._now_ns = tick_ns = entry.time_ns
                    if worker is not None:
                        runner.feed(worker.ready())
                for due_ns in self._ticks(tick_ns, entry.time_ns):
                    self._now_ns, tick_ns = due_ns, due_ns + TICK_NS
                    if worker is not None and (ready := worker.due(due_ns)) is not None:
                        runner.feed(ready)
                    runner.feed(Tick(due_ns))
                    yield from self._stepped()
                self._now_ns = entry.time_ns
                if abs(entry.time_ns - tick_ns) > _JUMP_NS:
                    tick_ns = entry.time_ns
                if other is not None:
                    runner.feed(other)
                else:
                    assert isinstance(arrival, Message)
                    self.found.arrivals += 1
                    runner.receive(arrival, entry.time_ns)
                yield from self._stepped()
        finally:
            if worker is not None:
                worker.close()

    def _ticks(self, first_ns: int, now_ns: int) -> Iterator[int]:
        """The ticks up to now; where the clock jumped, as many as make everything stale that can be."""
        if now_ns - first_ns > _JUMP_NS or first_ns - now_ns > _JUMP_NS:
            self.found.clock_jumps += 1
            self.found.jumped_s += (now_ns - first_ns) / NS_PER_S
            self.found.note(f"the clock jumped by {(now_ns - first_ns) / NS_PER_S:+.0f} s")
            now_ns = first_ns + 5 * NS_PER_S
        yield from range(first_ns, now_ns + 1, TICK_NS)

    def _other_input(self, entry: Recorded) -> Input | None:
        """What else went into the loop: commands and sources; time and the worker are the replay's own."""
        if entry.topic != session_format.STEP.topic or not isinstance(entry.content, dict):
            return None
        kind = entry.content.get("kind")
        if kind not in (SourceState.__name__, OperatorCommand.__name__):
            return None
        return session_format.step_of(entry.content)

    # --- as consumed --------------------------------------------------------------------------------------------------

    def as_consumed(self) -> Iterator[Stepped]:
        """The steps that live took.

        Raises:
            DamagedError: the recording is damaged.
            RecordingError: it has no steps.
        """
        arrivals: OrderedDict[int, Recorded] = OrderedDict()
        given: WorkerAnswer | None = None
        answers = AsRecorded(self._at_once)
        runner = Runner(
            self._pipeline,
            self._ingest,
            register=answers,
            ask_worker=lambda request: None,
            now_ns=self._time,
            record=self._record,
        )
        if self._recording.metadata.get("from_start") == "false":
            self.found.note("recorded from the middle of a session: what was known before is not in it")
        steps = 0
        for entry in self._entries():
            if entry.topic.startswith("in/"):
                self.found.arrivals += 1
                arrivals[entry.sequence] = entry
                while arrivals and entry.time_ns - next(iter(arrivals.values())).time_ns > _UNCONSUMED_NS:
                    arrivals.popitem(last=False)
            elif entry.topic == session_format.VOLUME.topic and isinstance(entry.content, WorkerAnswer):
                given = entry.content
            elif entry.topic == session_format.STEP.topic and isinstance(entry.content, dict):
                message = self._consumed(entry.content, arrivals, answers, given)
                if message is None:
                    continue
                steps += 1
                self._number, self._now_ns = entry.sequence - 1, entry.time_ns
                runner.feed(message)
                yield from self._stepped()
        if not steps:
            raise RecordingError(f"{self._recording.path}: holds no steps of a node; replay it with --lockstep")

    def _consumed(
        self,
        document: dict[str, Any],
        arrivals: OrderedDict[int, Recorded],
        answers: AsRecorded,
        given: WorkerAnswer | None,
    ) -> Input | None:
        kind = document.get("kind")
        if "of" in document:
            arrived = arrivals.pop(int(document["of"]), None)
            if arrived is None or not isinstance(arrived.content, Message):
                self.found.note(f"a {kind} that live took is not in the recording")
                return None
            return self._ingest(arrived.content, arrived.time_ns)
        if kind == RegistrationDone.__name__:
            done = answers.answer(document.get("frame"), int(document["now_ns"]))
            if done is None:
                self.found.note("a registration was taken that was not asked for")
            return done
        if kind in (VolumeReady.__name__, SurfaceReady.__name__):
            return given
        return session_format.step_of(document)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[Recorded]:
        """What a replay needs of the session."""

        def wanted(channel: Channel) -> bool:
            return channel.topic.startswith("in/") or channel.topic in ("step", "volume", "node/gap", "node/ct")

        for entry in self._recording.entries(wanted):
            if entry.topic == "node/gap" and isinstance(entry.content, dict):
                self.found.lost += int(entry.content.get("lost", 0))
                self.found.note("the recording has gaps")
            elif entry.topic == "node/ct" and isinstance(entry.content, dict):
                self._check_ct(entry.content)
            else:
                yield entry

    def _check_ct(self, recorded: dict[str, Any]) -> None:
        if self._volume is None:
            raise RecordingError(f"{self._recording.path}: was recorded with the CT {recorded.get('name')}; give --ct")
        if session_format.identity(self._volume).sha256 != recorded.get("sha256"):
            raise RecordingError(
                f"{self._recording.path}: was recorded with another CT ({recorded.get('name')}); give it with --ct"
            )


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a session run again comes to."""

    mode: Mode
    digest: str
    """SHA-256 of all outputs, in their order."""
    messages: int
    """That came in."""
    steps: int
    outputs: int
    frames: int
    registered: int
    volumes: int
    status_counts: dict[str, int]
    """Of frames."""
    lost: int
    """Messages that the recording says are missing."""
    clock_jumps: int
    notes: list[str]
    seconds: float
    """Of the session, without jumps of its clock."""
    elapsed_s: float
    realtime_factor: float
    picture: str | UnsetType | None = UNSET
    """The X-ray at the first difference from a reference, if there is one."""
    damage: str
    """Why it was not run to its end; '' where it was."""
    loading_s: float
    out: str | UnsetType | None = UNSET
    """Where outputs were written."""
    comparison: ComparisonReport | UnsetType = UNSET
    """With a reference."""


@dataclass
class _Tally:
    """Counts what comes out."""

    outputs: int = 0
    steps: int = 0
    frames: int = 0
    registered: int = 0
    volumes: int = 0
    status_counts: dict[str, int] = field(default_factory=lambda: {status.value: 0 for status in Status})
    _hash: Any = field(default_factory=hashlib.sha256)

    def count(self, step: Stepped) -> list[RecordedOutput]:
        """Count a step; its outputs as they are written."""
        self.steps += 1
        written = []
        for output in step.outputs:
            channel = session_format.output_channel(output)
            data = session_format.output_bytes(output)
            self._hash.update(f"{channel.topic}\0{len(data)}\0".encode())
            self._hash.update(data)
            self.outputs += 1
            if isinstance(output, RegisteredFrame):
                self.frames += 1
                self.registered += output.volume_from_carm is not None
                self.status_counts[output.validity.status.value] += 1
            self.volumes += isinstance(output, VolumeUpdate) and output.views > 0  # no CT
            written.append(RecordedOutput(channel.topic, step.number, step.time_ns, data))
        return written

    @property
    def digest(self) -> str:
        """SHA-256 of all outputs, in their order."""
        return str(self._hash.hexdigest())


class Rerun:
    """A session run again to its end, or to where it is damaged: what ``replay`` and ``evaluate`` share.

    Raises:
        RecordingError: as :class:`Replay`.
    """

    def __init__(self, recording: Recording, setup: ReplaySetup, mode: Mode, *, threads: int = 0) -> None:
        began_s = time.perf_counter()
        self._recording, self._mode = recording, mode
        self._replay = Replay(recording, setup, threads=threads)
        self._tally = _Tally()
        self._verdict = recording.judged()
        self._loading_s, self._elapsed_s = time.perf_counter() - began_s, 0.0

    def steps(self) -> Iterator[tuple[Stepped, list[RecordedOutput]]]:
        """Every step with its outputs as they are written; once.

        Raises:
            DamagedError: it is damaged before its first step.
            RecordingError: it cannot be run in this mode.
        """
        began_s = time.perf_counter()
        try:
            for step in self._replay.lockstep() if self._mode is Mode.LOCKSTEP else self._replay.as_consumed():
                yield step, self._tally.count(step)
        except DamagedError as error:
            if not self._tally.steps:
                raise
            self._verdict = self._recording.judged(error)
        self._elapsed_s = time.perf_counter() - began_s

    def report(self) -> ReplayReport:
        """What it came to, once all steps are taken."""
        found, tally, verdict = self._replay.found, self._tally, self._verdict
        if verdict.text:
            found.note(verdict.text)
        seconds = max(self._recording.seconds - max(found.jumped_s, 0.0), 0.0)
        return ReplayReport(
            mode=self._mode,
            digest=tally.digest,
            messages=found.arrivals,
            steps=tally.steps,
            outputs=tally.outputs,
            frames=tally.frames,
            registered=tally.registered,
            volumes=tally.volumes,
            status_counts=tally.status_counts,
            lost=found.lost,
            clock_jumps=found.clock_jumps,
            notes=found.notes,
            seconds=round(seconds, 3),
            elapsed_s=round(self._elapsed_s, 3),
            realtime_factor=round(seconds / max(self._elapsed_s, 1e-9), 2),
            damage=verdict.text if verdict.integrity is Integrity.DAMAGED else "",
            loading_s=round(self._loading_s, 3),
        )


@contextlib.contextmanager
def unpacked() -> Iterator[Path]:
    """A folder for what is attached to a session."""
    with tempfile.TemporaryDirectory(prefix="navnode-replay-") as folder:
        yield Path(folder)
