"""Repair, cut and merge sessions."""

from __future__ import annotations

import glob
import heapq
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path

from navnode.clock import NS_PER_S, now_ns
from navnode.errors import RecordingError
from navnode.files.whole import refuse_existing, whole
from navnode.recording.container import Channel, Entry
from navnode.recording.deidentify import VIDEO, Deidentifier, Names, configuration_of, may_be_video
from navnode.recording.format import CT, FOLLOWED, FORMAT, GAP, RECOVERED
from navnode.recording.reader import ContainerReader
from navnode.recording.recorder import part_path
from navnode.recording.recording import Recording
from navnode.recording.writer import ContainerWriter

__all__ = ["EditResult", "cut", "merge", "new_session", "recover"]


@dataclass
class EditResult:
    """What was written into new sessions, and what was lost."""

    messages: int = 0
    lost_bytes: int = 0
    damaged: int = 0
    """Number of chunks that could not be read."""
    paths: list[Path] | None = None
    """The files written."""
    damaged_attachments: int = 0
    """Number of attachments, such as configuration and calibrations, that could not be read."""
    missing: list[Path] = field(default_factory=list)
    """Files of the session that are not there."""

    def losses(self) -> list[str]:
        """What was lost, in words."""
        counted = (
            (self.lost_bytes, "bytes"),
            (self.damaged_attachments, "attachments (configuration, calibrations)"),
            (len(self.missing), "files, which are missing"),
        )
        return [f"{count} {what}" for count, what in counted if count]


def recover(path: Path, out: Path, progress: Callable[[float], None] = lambda share: None) -> EditResult:
    """Copy whatever can be read of a session, with all of its parts, into a finished one.

    Raises:
        RecordingError: not a session, nothing can be read of it, or ``out`` cannot be written.
        ConfigError: ``out`` exists.
    """
    kept, parts = EditResult(paths=[]), _parts_of(path)
    for number in range(len(parts)):
        refuse_existing(part_path(out, number))
    kept.missing = [part_path(path, part) for part in range(max(parts)) if part not in parts]
    for number, part in enumerate(parts):
        source = ContainerReader(part_path(path, part))
        if (known := source.metadata.get("navnode", {}).get("format", "")).isdigit() and int(known) > FORMAT:
            raise RecordingError(f"{path}: a session of format {known}; this version reads up to {FORMAT}")
        with new_session(part_path(out, number)) as writer:
            kept.damaged_attachments += _copy_about(source, writer, {"part": str(number)})
            if FOLLOWED in source.metadata and part == parts[-1]:
                kept.missing.append(part_path(path, part + 1))
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
            if part == parts[-1] and (lost := kept.losses()):
                writer.describe(RECOVERED, {"lost": "; ".join(lost)})
        assert kept.paths is not None
        kept.paths.append(part_path(out, number))
        source.close()
    if not kept.messages and (kept.lost_bytes or kept.damaged):
        for written in kept.paths or ():
            written.unlink(missing_ok=True)
        raise RecordingError(f"{path}: nothing can be read of it")
    return kept


def _parts_of(path: Path) -> list[int]:
    """Numbers of a session's files that are there; of those behind one that is missing, only what says it belongs."""
    parts = [0]
    while part_path(path, parts[-1] + 1).exists():
        parts.append(parts[-1] + 1)
    if session := _session_of(path):
        for other in path.parent.glob(f"{glob.escape(path.stem)}.[0-9]*{glob.escape(path.suffix)}"):
            number = other.name[len(path.stem) + 1 : len(other.name) - len(path.suffix)]
            if number.isdigit() and len(number) < 10 and int(number) not in parts and _session_of(other) == session:
                parts.append(int(number))
    return sorted(set(parts))


def _session_of(path: Path) -> str:
    """Which session a file says that it belongs to; '': it does not say, or cannot be read."""
    try:
        file = ContainerReader(path)
    except RecordingError:
        return ""
    file.close()
    return file.metadata.get("navnode", {}).get("session", "")


def _copy_about(source: ContainerReader, writer: ContainerWriter, replaced: Mapping[str, str] | None = None) -> int:
    """Copy metadata and attachments; returns how many of these are damaged."""
    damaged = 0
    for name, about in source.metadata.items():
        if name not in ("navnode", FOLLOWED):  # a copy need not have the same files
            writer.describe(name, about)
    own = source.metadata.get("navnode", {})
    known = own.get("format", "")
    written_as = known if known.isdigit() else str(FORMAT)  # a flipped bit must not make the session unreadable
    writer.describe("navnode", {**own, **(replaced or {}), "format": written_as})
    for name in source.attachments:
        try:
            data = source.attachment(name)
        except RecordingError:
            damaged += 1  # a replay reports what is missing
            continue
        writer.attach(name, data, "application/octet-stream", now_ns())
    return damaged


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
) -> EditResult:
    """Copy a piece of a session into a new one.

    Args:
        start_s: start of the piece, relative to the start of the session.
        duration_s: None: to the end of the session.
        topics: patterns of topics to copy; empty: all.
        identified: False: remove what may identify people, see :mod:`navnode.recording.deidentify`.

    Raises:
        ConfigError: ``out`` exists.
        RecordingError: the session is damaged before the end of the piece, the piece is empty, or ``out`` cannot be
            written.
    """
    begin_ns = recording.start_ns + round(start_s * NS_PER_S)
    end_ns = recording.end_ns if duration_s is None else begin_ns + round(duration_s * NS_PER_S)
    patterns, kept = list(topics), EditResult(paths=[out])
    deidentifier = None if identified else Deidentifier(Names(recording))
    from_start = recording.metadata.get("from_start", "true") if start_s <= 0 else "false"

    def copied(entry: Entry) -> bool:
        if deidentifier is not None:
            return deidentifier.copy(recording, entry, writer)
        _copy(writer, entry)
        return True

    with new_session(out) as writer:
        about = {"session": uuid.uuid4().hex, "from_start": from_start, "part": "0"}
        if deidentifier is None:
            _copy_about(recording.files[0], writer, about)
        else:
            deidentifier.copy_about(recording, writer, about)
        ct = recording.ct_entry()  # whichever part: a replay with another one would be of another patient
        if ct is not None:
            at_ns = max(begin_ns, ct.log_time_ns)  # the piece does not begin before it
            copied(ct._replace(log_time_ns=at_ns, publish_time_ns=at_ns))
        for entry in recording.raw(begin_ns):
            if entry.channel.topic == CT or not begin_ns <= entry.log_time_ns <= end_ns:
                continue
            if patterns and not any(fnmatchcase(entry.channel.topic, pattern) for pattern in patterns):
                continue
            kept.messages += copied(entry)
            if writer.waiting > (1 << 19):
                writer.close_chunk()
        if not kept.messages:
            raise RecordingError(f"{recording.path}: nothing is recorded there")
    return kept


def merge(recordings: list[Recording], out: Path) -> EditResult:
    """Merge the arrivals of several sessions, recorded with the same clock, in the order of their times.

    Steps and outputs are copied only if just one of the sessions has any. Which CT that one had, or the leading one, is
    copied always, and so is what any of them lost.

    Raises:
        ConfigError: ``out`` exists.
        RecordingError: a session is damaged, or given twice, whole or in overlapping pieces, or ``out`` cannot be
            written.
    """
    known = [recording.metadata.get("session") or str(recording.path.resolve()) for recording in recordings]
    if len(set(known)) < len(known):
        raise RecordingError("one session is given twice")
    kept = EditResult(paths=[out])
    of_nodes = [r for r in recordings if any(_some(r, lambda channel: channel.topic == "step"))]
    keep_steps = len(of_nodes) == 1
    leading = of_nodes[0] if keep_steps else next((r for r in recordings if r.attachments), recordings[0])
    with new_session(out) as writer:
        about = {"session": uuid.uuid4().hex, "part": "0"}
        pictured = [r for r in recordings if any(_some(r, lambda channel: channel.topic.startswith("in/IMAGE/")))]
        if any(may_be_video(recording, configuration_of(recording)) for recording in pictured):
            about[VIDEO] = "true"
        _copy_about(leading.files[0], writer, about)
        arrivals = 1 << 24  # beyond the numbers to which a node's steps refer
        streams = [zip(recording.raw(), repeat(recording)) for recording in recordings]
        if (ct := leading.ct_entry()) is not None:  # at the beginning, where it is looked for
            begin_ns = min(recording.start_ns for recording in recordings)
            _copy(writer, ct._replace(log_time_ns=begin_ns, publish_time_ns=begin_ns))
            kept.messages += 1
        at_ns, given = 0, dict[tuple[Channel, int, int, bytes], Recording]()
        for entry, recording in heapq.merge(*streams, key=lambda pair: pair[0].log_time_ns):
            led = recording is leading
            if entry.log_time_ns != at_ns:
                at_ns = entry.log_time_ns
                given.clear()
            if not entry.channel.topic.startswith("in/"):
                if entry.channel.topic == CT or not ((led and keep_steps) or entry.channel.topic == GAP):
                    continue
            elif given.setdefault(_known_by(entry), recording) is not recording:
                raise RecordingError("pieces of one session overlap: a message is in two of them")
            elif not (keep_steps and led):
                arrivals += 1
                entry = entry._replace(sequence=arrivals)
            _copy(writer, entry)
            kept.messages += 1
            if writer.waiting > (1 << 19):
                writer.close_chunk()
    return kept


def _known_by(entry: Entry) -> tuple[Channel, int, int, bytes]:
    """What tells apart the messages of one moment: a header holds the checksum of the rest."""
    return entry.channel, entry.publish_time_ns, len(entry.data), bytes(entry.data[:64])


def _some(recording: Recording, wanted: Callable[[Channel], bool]) -> Iterator[Entry]:
    for entry in recording.raw():
        if wanted(entry.channel):
            yield entry
            return


@contextmanager
def new_session(path: Path, *, replace: bool = False) -> Iterator[ContainerWriter]:
    """Open a writer of a new session; the file appears under its name once it is complete.

    Args:
        replace: replace the file if it exists.

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
