"""Replays a session through the same ingest and loop as live, with time from the recording.

*Lockstep*: every arrival in order, heavy work done at once, ticks and volumes at fixed times of the session: outputs
depend on the recording and the code alone. *As consumed*: exactly the steps that the live node took, in order, with the
volumes that it got.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from navnode.clock import NS_PER_S
from navnode.config import Config, VolumeSection, decode, is_ct_file
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
    PlanCommand,
    RegisteredFrame,
    RegistrationDone,
    SourceState,
    Status,
    SurfaceReady,
    SurfaceRequest,
    Tick,
    Volume,
    VolumeReady,
    VolumeUpdate,
    WorkerAnswer,
    WorkerRequest,
)

__all__ = [
    "Findings",
    "Replay",
    "ReplayReport",
    "ReplaySetup",
    "ReplayedStep",
    "Rerun",
    "attachments_folder",
    "configuration",
    "volume_of",
]

log = logging.getLogger(__name__)

_JUMP_NS = 30 * NS_PER_S
"""A longer silence is a jump of the clock, or nothing was connected: it is skipped."""
_UNCONSUMED_NS = 10 * NS_PER_S
"""An arrival to which no step refers within this time was not used."""


@dataclass(frozen=True)
class ReplaySetup:
    """Configuration and CT of a replay."""

    config: Config
    volume: Volume | None
    """The CT; None: there is none."""


@dataclass(frozen=True)
class ReplayedStep:
    """One step and its outputs."""

    number: int
    """The step's number, to which recorded outputs refer as their cause."""
    time_ns: int
    message: Input
    outputs: list[Output]


@dataclass
class Findings:
    """Counts and notes of a replay."""

    arrivals: int = 0
    """Number of messages that arrived."""
    lost: int = 0
    """Number of messages missing, as the recording states."""
    clock_jumps: int = 0
    jumped_s: float = 0.0
    """Sum of the clock's jumps."""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)


def volume_of(config: Config, override: str | None) -> VolumeSection:
    """The CT for a replay, and how to read it.

    Args:
        override: use this CT instead of the configured one.

    Raises:
        ConfigError: the file does not exist.
    """
    ct = override or config.volume.ct
    if is_ct_file(ct) and not Path(ct).exists():
        raise ConfigError(f"{ct}: the CT of this session does not exist; give it with --ct")
    return msgspec.structs.replace(config.volume, ct=ct)


def configuration(recording: Recording, override: Config | None, folder: Path) -> Config:
    """The configuration for a replay.

    Args:
        override: use this configuration instead of the recorded one.
        folder: the session's calibrations are unpacked here.

    Raises:
        ConfigError: the session holds no configuration, and there is no other.
        RecordingError: a calibration is not in the session, or cannot be read.
    """
    if override is not None:
        return override
    if session_format.CONFIGURATION not in recording.attachments:
        raise ConfigError(f"{recording.path}: holds no configuration; give --config")
    try:
        config = decode(recording.attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    except ConfigError as error:
        raise RecordingError(f"{recording.path}: its configuration cannot be read ({error})") from error
    paths = {}
    for number, (key, path) in enumerate(calibrations.files(config).items()):
        kept = folder / f"{number}{Path(path).suffix}"  # a session's file names are untrusted, and not used as paths
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
    """Name of a calibration's attachment: from its configuration key, or from an old name of that key."""
    names = [f"{session_format.CALIBRATION}{name}" for name in (key, *calibrations.OLD_KEYS.get(key, ()))]
    return next((name for name in names if name in recording.attachments), names[0])


class Replay:
    """Replays a session, once.

    Args:
        threads: number of threads for registration; 0: as configured.

    Raises:
        RecordingError: a calibration of the session could not be used at the time of the session.
    """

    def __init__(self, recording: Recording, setup: ReplaySetup, *, threads: int = 0) -> None:
        config = setup.config
        if threads:
            config = msgspec.structs.replace(
                config, registration=msgspec.structs.replace(config.registration, threads=threads)
            )
        self._recording, self._config, self._volume = recording, config, setup.volume
        self.findings = Findings()
        try:
            detector = calibrations.detector(config, recording.start_ns)
        except CalibrationError as error:
            raise RecordingError(f"{recording.path}: {error}") from error
        self._ingest = Ingest(config, detector)
        self._pipeline = Pipeline(config, setup.volume)
        self._at_once = AtOnce(config, setup.volume, self._time)
        self._now_ns = self._number = 0
        self._steps: list[ReplayedStep] = []

    def _time(self) -> int:
        return self._now_ns

    def _record(self, step: Step) -> None:
        self._number += 1
        self._steps.append(ReplayedStep(self._number, self._now_ns, step.message, step.outputs))

    def _stepped(self) -> list[ReplayedStep]:
        """The steps since the last call."""
        steps, self._steps = self._steps, []
        return steps

    # --- lockstep -----------------------------------------------------------------------------------------------------

    def lockstep(self) -> Iterator[ReplayedStep]:
        """Feed every arrival, operator's command and change of a source, in order.

        Raises:
            DamagedError: the recording is damaged; steps before that are yielded first.
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
                    self.findings.arrivals += 1
                    runner.receive(arrival, entry.time_ns)
                yield from self._stepped()
        finally:
            if worker is not None:
                worker.close()

    def _ticks(self, first_ns: int, now_ns: int) -> Iterator[int]:
        """The ticks up to now; if the clock jumped, enough to let everything go stale."""
        if now_ns - first_ns > _JUMP_NS or first_ns - now_ns > _JUMP_NS:
            self.findings.clock_jumps += 1
            self.findings.jumped_s += (now_ns - first_ns) / NS_PER_S
            self.findings.note(f"the clock jumped by {(now_ns - first_ns) / NS_PER_S:+.0f} s")
            now_ns = first_ns + 5 * NS_PER_S
        yield from range(first_ns, now_ns + 1, TICK_NS)

    def _other_input(self, entry: Recorded) -> Input | None:
        """Recorded commands and source states; the replay makes its own ticks and worker states."""
        if entry.topic != session_format.STEP.topic or not isinstance(entry.content, dict):
            return None
        kind = entry.content.get("kind")
        if kind not in (SourceState.__name__, OperatorCommand.__name__, PlanCommand.__name__):
            return None
        return session_format.step_of(entry.content)

    # --- as consumed --------------------------------------------------------------------------------------------------

    def as_consumed(self) -> Iterator[ReplayedStep]:
        """Repeat the steps that the live node took.

        Raises:
            DamagedError: the recording is damaged; steps before that are yielded first.
            RecordingError: the recording holds no steps.
        """
        arrivals: OrderedDict[int, Recorded] = OrderedDict()
        worker_answer: WorkerAnswer | None = None
        answers = AsRecorded(self._at_once)
        surface_request = 0

        def ask_worker(request: WorkerRequest) -> None:
            nonlocal surface_request
            if isinstance(request, SurfaceRequest):
                surface_request = request.request

        runner = Runner(
            self._pipeline,
            self._ingest,
            register=answers,
            ask_worker=ask_worker,
            now_ns=self._time,
            record=self._record,
        )
        if self._recording.metadata.get("from_start") == "false":
            self.findings.note("recorded from the middle of a session: what was known before is not in it")
        steps = 0
        for entry in self._entries():
            if entry.topic.startswith("in/"):
                self.findings.arrivals += 1
                arrivals[entry.sequence] = entry
                while arrivals and entry.time_ns - next(iter(arrivals.values())).time_ns > _UNCONSUMED_NS:
                    arrivals.popitem(last=False)
            elif entry.topic == session_format.VOLUME.topic and isinstance(entry.content, WorkerAnswer):
                worker_answer = entry.content
                if isinstance(worker_answer, SurfaceReady) and not worker_answer.request:  # answers had no numbers once
                    worker_answer = replace(worker_answer, request=surface_request)
            elif entry.topic == session_format.STEP.topic and isinstance(entry.content, dict):
                message = self._consumed(entry.content, arrivals, answers, worker_answer)
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
        worker_answer: WorkerAnswer | None,
    ) -> Input | None:
        """The input of a recorded step."""
        kind = document.get("kind")
        if "of" in document:
            arrived = arrivals.pop(int(document["of"]), None)
            if arrived is None or not isinstance(arrived.content, Message):
                self.findings.note(f"a {kind} that the live node used is not in the recording")
                return None
            return self._ingest(arrived.content, arrived.time_ns)
        if kind == RegistrationDone.__name__:
            done = answers.answer(document.get("frame"), int(document["now_ns"]))
            if done is None:
                self.findings.note("a recorded registration was not requested in the replay")
            return done
        if kind in (VolumeReady.__name__, SurfaceReady.__name__):
            return worker_answer
        return session_format.step_of(document)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[Recorded]:
        """The entries that a replay needs."""

        def wanted(channel: Channel) -> bool:
            return channel.topic.startswith("in/") or channel.topic in ("step", "volume", session_format.GAP)

        self._recording.check_ct(self._volume)
        for entry in self._recording.entries(wanted):
            if entry.topic == session_format.GAP and isinstance(entry.content, dict):
                self.findings.lost += int(entry.content.get("lost", 0))
                self.findings.note("the recording has gaps")
            else:
                yield entry


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a replay."""

    mode: Mode
    digest: str
    """SHA-256 of all outputs in order."""
    messages: int
    """Number of messages that arrived."""
    steps: int
    outputs: int
    frames: int
    registered: int
    volumes: int
    status_counts: dict[str, int]
    """Status -> number of frames."""
    lost: int
    """Number of messages missing, as the recording states."""
    clock_jumps: int
    notes: list[str]
    seconds: float
    """Duration of the session, without jumps of its clock."""
    elapsed_s: float
    realtime_factor: float
    picture: str | UnsetType | None = UNSET
    """File with the X-ray at the first difference from the reference."""
    damage: str
    """Why the session was not replayed to its end; '': it was."""
    loading_s: float
    out: str | UnsetType | None = UNSET
    """File with the outputs."""
    comparison: ComparisonReport | UnsetType = UNSET
    """Comparison with the reference."""


@dataclass
class _Tally:
    """Counts and hashes outputs."""

    outputs: int = 0
    steps: int = 0
    frames: int = 0
    registered: int = 0
    volumes: int = 0
    status_counts: dict[str, int] = field(default_factory=lambda: {status.value: 0 for status in Status})
    _hash: Any = field(default_factory=hashlib.sha256)

    def count(self, step: ReplayedStep) -> list[RecordedOutput]:
        """Count a step; returns its outputs as recorded."""
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
            self.volumes += isinstance(output, VolumeUpdate) and output.views > 0  # not the CT
            written.append(RecordedOutput(channel.topic, step.number, step.time_ns, data))
        return written

    @property
    def digest(self) -> str:
        """SHA-256 of all outputs in order."""
        return str(self._hash.hexdigest())


class Rerun:
    """Replays a session to its end, or to where it is damaged; shared by ``replay`` and ``evaluate``.

    Args:
        threads: number of threads for registration; 0: as configured.

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

    def steps(self) -> Iterator[tuple[ReplayedStep, list[RecordedOutput]]]:
        """Every step with its outputs as recorded; call it once.

        Raises:
            DamagedError: the session is damaged before its first step.
            RecordingError: it cannot be replayed in this mode.
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
        """The results; complete once all steps have been iterated."""
        findings, tally, verdict = self._replay.findings, self._tally, self._verdict
        if verdict.text:
            findings.note(verdict.text)
        seconds = max(self._recording.seconds - max(findings.jumped_s, 0.0), 0.0)
        return ReplayReport(
            mode=self._mode,
            digest=tally.digest,
            messages=findings.arrivals,
            steps=tally.steps,
            outputs=tally.outputs,
            frames=tally.frames,
            registered=tally.registered,
            volumes=tally.volumes,
            status_counts=tally.status_counts,
            lost=findings.lost,
            clock_jumps=findings.clock_jumps,
            notes=findings.notes,
            seconds=round(seconds, 3),
            elapsed_s=round(self._elapsed_s, 3),
            realtime_factor=round(seconds / max(self._elapsed_s, 1e-9), 2),
            damage=verdict.text if verdict.integrity is Integrity.DAMAGED else "",
            loading_s=round(self._loading_s, 3),
        )


@contextlib.contextmanager
def attachments_folder() -> Iterator[Path]:
    """A temporary folder for a session's attachments."""
    with tempfile.TemporaryDirectory(prefix="navnode-replay-") as folder:
        yield Path(folder)
