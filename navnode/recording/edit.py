"""Repair, cut and merge sessions."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from navnode.clock import NS_PER_S, now_ns
from navnode.errors import RecordingError
from navnode.files.whole import refuse_existing, whole
from navnode.recording.container import Channel, Entry
from navnode.recording.deidentify import Deidentifier, Names
from navnode.recording.format import FOLLOWED, FORMAT
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


def recover(path: Path, out: Path, progress: Callable[[float], None] = lambda share: None) -> EditResult:
    """Copy whatever can be read of a session, with all of its parts, into a finished one.

    Raises:
        RecordingError: not a session, nothing can be read of it, or ``out`` cannot be written.
        ConfigError: ``out`` exists.
    """
    kept, part = EditResult(paths=[]), 0
    while part == 0 or part_path(path, part).exists():
        source = ContainerReader(part_path(path, part))
        if (known := source.metadata.get("navnode", {}).get("format", "")).isdigit() and int(known) > FORMAT:
            raise RecordingError(f"{path}: a session of format {known}; this version reads up to {FORMAT}")
        with new_session(part_path(out, part)) as writer:
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
    if not kept.messages and (kept.lost_bytes or kept.damaged):
        for written in kept.paths or ():
            written.unlink(missing_ok=True)
        raise RecordingError(f"{path}: nothing can be read of it")
    return kept


def _copy_about(source: ContainerReader, writer: ContainerWriter, replaced: Mapping[str, str] | None = None) -> None:
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
            continue  # damaged; a replay reports what is missing
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
    with new_session(out) as writer:
        about = {"session": uuid.uuid4().hex, "from_start": from_start, "part": "0"}
        if deidentifier is None:
            _copy_about(recording.files[0], writer, about)
        else:
            deidentifier.copy_about(recording, writer, about)
        for entry in recording.raw(begin_ns):
            if not begin_ns <= entry.log_time_ns <= end_ns and entry.channel.topic != "node/ct":
                continue
            if patterns and not any(fnmatchcase(entry.channel.topic, pattern) for pattern in patterns):
                continue
            if deidentifier is None:
                _copy(writer, entry)
            elif not deidentifier.copy(recording, entry, writer):
                continue
            kept.messages += 1
            if writer.waiting > (1 << 19):
                writer.close_chunk()
        if not kept.messages:
            raise RecordingError(f"{recording.path}: nothing is recorded there")
    return kept


def merge(recordings: list[Recording], out: Path) -> EditResult:
    """Merge the arrivals of several sessions, recorded with the same clock, in the order of their times.

    Steps and outputs are copied only if just one of the sessions has any.

    Raises:
        ConfigError: ``out`` exists.
        RecordingError: a session is damaged or given twice, or ``out`` cannot be written.
    """
    known = [recording.metadata.get("session") or str(recording.path.resolve()) for recording in recordings]
    if len(set(known)) < len(known):
        raise RecordingError("one session is given twice")
    kept = EditResult(paths=[out])
    of_nodes = [r for r in recordings if any(True for _ in _some(r, lambda channel: channel.topic == "step"))]
    keep_steps = len(of_nodes) == 1
    leading = of_nodes[0] if keep_steps else next((r for r in recordings if r.attachments), recordings[0])
    with new_session(out) as writer:
        _copy_about(leading.files[0], writer, {"session": uuid.uuid4().hex, "part": "0"})
        arrivals = 1 << 24  # beyond the numbers to which a node's steps refer
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
