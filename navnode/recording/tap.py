"""Feeds the node's recordings: numbers arrivals and steps, keeps the last seconds, starts and stops recordings."""

from __future__ import annotations

import platform
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from navnode import __version__
from navnode.clock import NS_PER_S, now_ns
from navnode.config import CaseSection, Config
from navnode.errors import RecordingError
from navnode.igtl import Message, RawBytes
from navnode.loop.backends import Backends, backends_of
from navnode.loop.calibrations import Calibrations
from navnode.loop.runner import Step
from navnode.recording import format as session_format
from navnode.recording.recorder import About, Item, Recorder, Written, arrival, noted
from navnode.types import RecordingState, Volume, VolumeReady, WorkerAnswer

__all__ = ["Tap", "Versions", "about", "about_for"]

_NONE: Mapping[str, bytes] = MappingProxyType({})
_KEPT_BYTES = 1 << 29
"""Largest size of the kept last seconds."""


class Tap:
    """Receives everything that a node records, for the node's lifetime.

    Args:
        config: the node's configuration with calibrated values; ``recording`` sets how much is kept and how files are
            split.
        volume: the CT; None: there is none.
        backends: what the node computes with.
        calibrations: configuration key -> bytes of the calibration file.
    """

    def __init__(
        self, config: Config, volume: Volume | None, backends: Backends, calibrations: Mapping[str, bytes] = _NONE
    ) -> None:
        self._config, self._volume = config, volume
        self._about = about(config, backends, calibrations, from_start=True)  # now: the loop must not wait for it
        self._arrivals = self._steps = 0
        self._recorder: Recorder | None = None
        self._ending: list[Recorder] = []
        self._kept: deque[Item] = deque()
        self._kept_bytes = 0
        self._keep_ns = round(config.recording.keep_last_s * NS_PER_S)
        self._running = bool(self._keep_ns)

    # --- events -------------------------------------------------------------------------------------------------------

    def on_arrival(self, message: Message, raw: RawBytes, received_ns: int) -> int:
        """A message arrived, before anything may drop it; returns its number."""
        self._arrivals += 1
        if self._running:
            self._put(arrival(message, raw, received_ns, self._arrivals))
        return self._arrivals

    def on_console_arrival(self, message: Message, raw: RawBytes, received_ns: int) -> int:
        """A console sent a message that the loop does not get; returns its number."""
        self._arrivals += 1
        if self._running:
            self._put(arrival(message, raw, received_ns, self._arrivals, from_console=True))
        return self._arrivals

    def on_step(self, step: Step) -> None:
        """The loop made a step."""
        self._steps += 1
        if self._running:
            size = 500 + 500 * len(step.outputs)
            if isinstance(step.message, VolumeReady) and step.message.volume is not None:
                size += step.message.volume.voxels.nbytes
            if isinstance(step.message, WorkerAnswer):
                lungs = step.message.lungs if isinstance(step.message, VolumeReady) else None
                for surface in (step.message.bone, lungs):
                    if surface is not None:
                        size += surface.vertices_mm.nbytes + surface.triangles.nbytes
            self._put(Item(partial(_step, step), step.began_ns, step.began_ns, self._steps, size))

    def note(self, what: str, data: object) -> None:
        """Another event happened.

        Args:
            what: name of the event.
            data: recorded as JSON.
        """
        if self._running:
            self._put(noted(what, data, now_ns()))

    def _put(self, item: Item) -> None:
        if self._recorder is not None:
            self._recorder.put(item)
            return
        self._kept.append(item)
        self._kept_bytes += item.size
        while self._kept and (
            item.log_time_ns - self._kept[0].log_time_ns > self._keep_ns or self._kept_bytes > _KEPT_BYTES
        ):
            self._kept_bytes -= self._kept.popleft().size

    # --- recordings ---------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Path of the running recording; None: there is none, or it failed."""
        return self._recorder.path if self._recorder is not None and not self._recorder.failed else None

    def start(self, path: Path) -> None:
        """Start a recording, beginning with the kept last seconds; returns at once."""
        kept, self._kept, self._kept_bytes = self._kept, deque(), 0
        metadata = {**self._about.metadata, **_new_identity(from_start=self._steps == 0)}
        session = About(metadata, self._about.attachments)
        if self._volume is not None:
            at_ns = kept[0].log_time_ns if kept else now_ns()
            kept.appendleft(Item(partial(_ct, self._volume, at_ns), at_ns, at_ns, 0, 500))
        self._recorder = Recorder(path, session, kept, self._config.recording.max_file_mb << 20, wait=False)
        self._running = True

    def stop(self) -> str:
        """Stop the recording without waiting for the disk; returns a line for the operator.

        Raises:
            RecordingError: there is no recording, or it failed before.
        """
        if self._recorder is None:
            raise RecordingError("no recording is under way")
        recorder, self._recorder = self._recorder, None
        self._running = bool(self._keep_ns)
        recorder.put(noted("end", {"lost": recorder.lost}, now_ns()))
        self._ending = [other for other in self._ending if not other.ended] + [recorder]
        return recorder.end()

    def close(self) -> Iterable[str]:
        """Stop all recordings and wait for the disk; yields a line about each.

        Raises:
            RecordingError: a recording could not be written.
        """
        if self._recorder is not None:
            self._recorder.put(noted("end", {"lost": self._recorder.lost}, now_ns()))
            self._ending.append(self._recorder)
            self._recorder = None
        while self._ending:
            yield self._ending.pop().stop()

    @property
    def state(self) -> RecordingState:
        """State of the running recording."""
        if (recorder := self._recorder) is None:
            return RecordingState()
        counts = recorder.messages, recorder.bytes, recorder.lost
        return RecordingState(recorder.path.name, *counts, recorder.failed, recorder.minutes_left)


def _step(step: Step) -> Iterable[Written]:
    if isinstance(step.message, WorkerAnswer):
        yield session_format.VOLUME, session_format.answer_parts(step.message), step.began_ns
    yield session_format.STEP, (session_format.step_bytes(step.message, step.arrival),), step.began_ns
    for output in step.outputs:
        yield session_format.output_channel(output), (session_format.output_bytes(output),), step.ended_ns


def _ct(volume: Volume, time_ns: int) -> Iterable[Written]:
    yield session_format.note_channel("ct"), (session_format.encoded(session_format.identity(volume)),), time_ns


def about(config: Config, backends: Backends, calibrations: Mapping[str, bytes] = _NONE, *, from_start: bool) -> About:
    """Metadata and attachments that a session needs to be replayed.

    Args:
        config: the node's configuration.
        backends: what it computes with.
        calibrations: configuration key -> bytes of the calibration file.
        from_start: whether the recording starts before the node's first step.
    """
    attached = {
        # Sessions are passed on: what the case is called stays here.
        session_format.CONFIGURATION: msgspec.json.encode(msgspec.structs.replace(config, case=CaseSection())),
        session_format.VERSIONS: session_format.encoded(_versions(backends)),
    }
    attached |= {f"{session_format.CALIBRATION}{key}": content for key, content in calibrations.items()}
    return About(_metadata(from_start=from_start), attached)


def about_for(node: Calibrations | None) -> About:
    """Metadata and attachments of a session that was recorded without a node.

    Args:
        node: configuration and calibrations of the node that will replay it; None: unknown.
    """
    if node is None:
        return About(_metadata(from_start=True))
    return about(node.config, backends_of(node.config.reconstruction), node.files, from_start=True)


def _metadata(*, from_start: bool) -> dict[str, str]:
    return {"version": __version__, **_new_identity(from_start=from_start)}


def _new_identity(*, from_start: bool) -> dict[str, str]:
    return {
        "session": uuid.uuid4().hex,
        "began_ns": str(now_ns()),
        "from_start": "true" if from_start else "false",
    }


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of the software that records a session."""

    navnode: str
    python: str
    numpy: str
    machine: str
    projector: str
    reconstruction: str
    model_sha256: str
    """Checksum of the reconstruction model; '': none is used."""


def _versions(backends: Backends) -> Versions:
    """Versions of packages and back ends, and the checksum of the model."""
    return Versions(
        navnode=__version__,
        python=platform.python_version(),
        numpy=np.__version__,
        machine=platform.machine(),
        projector=backends.projector,
        reconstruction=backends.reconstruction,
        model_sha256=backends.model_sha256,
    )
