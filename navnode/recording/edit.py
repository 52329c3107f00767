"""Repair, cut, merge and de-identify sessions."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from navnode.clock import NS_PER_S, now_ns
from navnode.config import decode
from navnode.errors import ConfigError, RecordingError
from navnode.files.whole import refuse_existing, whole
from navnode.igtl import Message, encode
from navnode.igtl.conventions import ANGLE_KEYS, DOSE_KEY, REPLAY_KEY, STATUS_KEY, VALID_KEY
from navnode.recording.container import Channel, Entry
from navnode.recording.format import CONFIGURATION, FORMAT, JSON, OPENIGTLINK, VERSIONS, encoded
from navnode.recording.reader import ContainerReader
from navnode.recording.recorder import part_path
from navnode.recording.recording import Recording
from navnode.recording.writer import ContainerWriter

_KEPT_METADATA = frozenset({STATUS_KEY, VALID_KEY, "Validity", "Reason", "AgeMs", DOSE_KEY, REPLAY_KEY, *ANGLE_KEYS})
"""Keys of messages that say nothing of a person; others may hold anything."""
_KEPT_TYPES = ("IMAGE", "TRANSFORM", "TDATA", "QTDATA", "POSITION", "SENSOR")
"""Types that are numbers. Texts, tables of images and commands may name people."""


@dataclass
class Kept:
    """What became of a session's content."""

    messages: int = 0
    lost_bytes: int = 0
    damaged: int = 0
    """Chunks that could not be read."""
    paths: list[Path] | None = None


def recover(path: Path, out: Path, progress: Callable[[float], None] = lambda share: None) -> Kept:
    """A session as far as it can be read, finished; every part of it.

    Raises:
        RecordingError: not a session, or ``out`` cannot be written.
        ConfigError: ``out`` exists.
    """
    kept, part = Kept(paths=[]), 0
    while part == 0 or part_path(path, part).exists():
        source = ContainerReader(part_path(path, part))
        if (known := source.metadata.get("navnode", {}).get("format", "")).isdigit() and int(known) > FORMAT:
            raise RecordingError(f"{path}: a session of format {known}; this version reads up to {FORMAT}")
        with written(part_path(out, part)) as writer:
            _copy_about(source, writer)
            for chunk in source.chunks:
                progress(chunk.offset / source.size)
                try:
                    entries = list(source.entries(chunk))
                except RecordingError:
                    kept.lost_bytes += chunk.length
                    kept.damaged += 1
                    continue
                for entry in entries:
                    _copy(writer, entry)
                    kept.messages += 1
                writer.close_chunk()
        kept.lost_bytes += source.lost_bytes
        assert kept.paths is not None
        kept.paths.append(part_path(out, part))
        source.close()
        part += 1
    return kept


def _copy_about(source: ContainerReader, writer: ContainerWriter, replaced: Mapping[str, str] | None = None) -> None:
    for name, about in source.metadata.items():
        if name != "navnode":
            writer.describe(name, about)
    own = source.metadata.get("navnode", {})
    known = own.get("format", "")
    written_as = known if known.isdigit() else str(FORMAT)  # a flipped bit must not make it unreadable
    writer.describe("navnode", {**own, **(replaced or {}), "format": written_as})
    for name in source.attachments:
        try:
            data = source.attachment(name)
        except RecordingError:
            continue  # damaged: a replay names what is missing
        writer.attach(name, data, "application/octet-stream", now_ns())


def _copy(writer: ContainerWriter, entry: Entry) -> None:
    writer.add(entry.channel, (entry.data,), entry.log_time_ns, entry.publish_time_ns, entry.sequence)


def cut(
    recording: Recording,
    out: Path,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    topics: Iterable[str] = (),
    identified: bool = True,
) -> Kept:
    """A piece of a session.

    Args:
        topics: patterns; none: all.
        identified: False: without what tells whose it is, see :class:`Anonymous`.

    Raises:
        RecordingError: it is damaged before the end of the piece, there is nothing in it, or ``out`` cannot be written.
    """
    begin_ns = recording.start_ns + round(start_s * NS_PER_S)
    end_ns = recording.end_ns if duration_s is None else begin_ns + round(duration_s * NS_PER_S)
    patterns, kept = list(topics), Kept(paths=[out])
    anonymous = None if identified else Anonymous()
    from_start = recording.metadata.get("from_start", "true") if start_s <= 0 else "false"
    with written(out) as writer:
        about = {"session": uuid.uuid4().hex, "from_start": from_start, "part": "0"}
        if anonymous is None:
            _copy_about(recording.files[0], writer, about)
        else:
            anonymous.copy_about(recording, writer, about)
        for entry in recording.raw(begin_ns):
            if not begin_ns <= entry.log_time_ns <= end_ns and entry.channel.topic != "node/ct":
                continue
            if patterns and not any(fnmatchcase(entry.channel.topic, pattern) for pattern in patterns):
                continue
            if anonymous is None:
                _copy(writer, entry)
            elif not anonymous.copy(recording, entry, writer):
                continue
            kept.messages += 1
            if writer.waiting > (1 << 19):
                writer.close_chunk()
        if not kept.messages:
            raise RecordingError(f"{recording.path}: nothing is recorded there")
    return kept


def merge(recordings: list[Recording], out: Path) -> Kept:
    """What came in, of several sessions, in the order in which it came; the clocks must be one.

    Steps and outputs are those of one node and stay only if the others have none.

    Raises:
        RecordingError: one is damaged, or given twice, or ``out`` cannot be written.
    """
    known = [recording.metadata.get("session") or str(recording.path.resolve()) for recording in recordings]
    if len(set(known)) < len(known):
        raise RecordingError("one session is given twice")
    kept = Kept(paths=[out])
    of_nodes = [r for r in recordings if any(True for _ in _some(r, lambda channel: channel.topic == "step"))]
    keep_steps = len(of_nodes) == 1
    leading = of_nodes[0] if keep_steps else next((r for r in recordings if r.attachments), recordings[0])
    with written(out) as writer:
        _copy_about(leading.files[0], writer, {"session": uuid.uuid4().hex, "part": "0"})
        arrivals = 1 << 24  # apart from those that the steps of a node name
        streams = [((entry, recording is leading) for entry in recording.raw()) for recording in recordings]
        for entry, led in heapq.merge(*streams, key=lambda pair: pair[0].log_time_ns):
            if not entry.channel.topic.startswith("in/"):
                if not (keep_steps and led):
                    continue
            elif not (keep_steps and led):
                arrivals += 1
                entry = entry._replace(sequence=arrivals)
            _copy(writer, entry)
            kept.messages += 1
            if writer.waiting > (1 << 19):
                writer.close_chunk()
    return kept


def _some(recording: Recording, wanted: Callable[[Channel], bool]) -> Iterator[Entry]:
    for entry in recording.raw():
        if wanted(entry.channel):
            yield entry
            return


class Anonymous:
    """Takes out of a session what may tell whose it is: texts, names of files and machines, and metadata that are not
    numbers of the X-ray or the tracker. What is written into the pixels stays."""

    def copy_about(self, recording: Recording, writer: ContainerWriter, about: Mapping[str, str]) -> None:
        """Metadata and attachments; calibrations are of devices, not of people."""
        known = {k: v for k, v in recording.metadata.items() if k in ("version", "format", "replay", "reason")}
        writer.describe("navnode", {**known, **about, "deidentified": "true"})
        for name in recording.attachments:
            data = recording.attachment(name)
            if name == CONFIGURATION:
                data = self._configuration(data)
            elif name != VERSIONS and not name.startswith("calibration/"):
                continue
            writer.attach(name, data, "application/octet-stream", now_ns())

    def _configuration(self, data: bytes) -> bytes:
        try:
            config = decode(data, CONFIGURATION)
        except ConfigError:
            return b"{}"
        change = msgspec.structs.replace
        sources = tuple(change(source, host=f"source{n}", tls=None) for n, source in enumerate(config.sources, 1))
        return msgspec.json.encode(
            change(
                config,
                sources=sources,
                volume=change(config.volume, ct="CT" if config.volume.ct else ""),
                recording=change(config.recording, file="", folder=""),
                console=change(config.console, tls=None),
                reconstruction=change(config.reconstruction, remote=None),
            )
        )

    def copy(self, recording: Recording, entry: Entry, writer: ContainerWriter) -> bool:
        """An entry without what it must not say; False where nothing of it is kept."""
        topic, encoding = entry.channel
        if encoding == OPENIGTLINK:
            if topic.split("/")[1] not in _KEPT_TYPES:
                return False
            content = recording.decoded(entry).content
            assert isinstance(content, Message)
            metadata = {key: value for key, value in content.metadata.items() if key in _KEPT_METADATA}
            data = encode(msgspec.structs.replace(content, metadata=metadata))
            writer.add(entry.channel, (data,), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
            return True
        if encoding != JSON:
            _copy(writer, entry)
            return True
        document = _without_names(msgspec.json.decode(entry.data))
        writer.add(entry.channel, (encoded(document),), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
        return True


def _without_names(document: Any) -> Any:
    """Of JSON: volumes' names and sources' addresses are taken out."""
    if not isinstance(document, dict):
        return document
    found = dict(document)
    if document.get("kind") == "SourceState":
        return {**found, "name": "source", "reason": "" if document.get("connected") else "gone"}
    if isinstance(found.get("volume"), str):
        found["volume"] = "volume" if found["volume"] else ""
    if isinstance(found.get("volume"), dict):
        found["volume"] = {**found["volume"], "name": "volume"}
    if "sha256" in found and "name" in found:  # of the CT
        found["name"] = "CT"
    if isinstance(found.get("sources"), dict):
        found["sources"] = {f"source {n}": why for n, why in enumerate(found["sources"].values(), 1)}
    if isinstance(found.get("notices"), list):
        found["notices"] = []
    return found


@contextmanager
def written(path: Path, *, replace: bool = False) -> Iterator[ContainerWriter]:
    """A writer of a session that takes its name once it is whole; nothing that exists is replaced unless it is meant.

    Raises:
        ConfigError: the file exists.
        RecordingError: it cannot be written.
    """
    if not replace:
        refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part, part.open("xb", buffering=0) as file:
            writer = ContainerWriter(file)
            yield writer
            writer.finish()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written ({error.strerror})") from error
