"""Reads sessions."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from navnode.errors import DamagedError, RecordingError, WireError
from navnode.igtl import Message, decode
from navnode.recording.container import Channel, Entry
from navnode.recording.format import BUS, CT, FORMAT, JSON, OPENIGTLINK, RECOVERED, VERSIONS, answer_of, is_of
from navnode.recording.integrity import Verdict, damage, judged
from navnode.recording.reader import ContainerReader
from navnode.recording.recorder import part_path
from navnode.types import Volume, WorkerAnswer

__all__ = ["Recorded", "Recording", "Wanted"]

Wanted = Callable[[Channel], bool]


@dataclass(frozen=True)
class Recorded:
    """One entry of a session."""

    topic: str
    time_ns: int
    """When it arrived or happened; node clock."""
    content: Message | WorkerAnswer | dict[str, Any]
    """An OpenIGTLink message, an answer of the reconstruction worker, or a JSON document."""
    sequence: int = 0
    """Number of the arrival, or of the step it belongs to."""
    raw: bytes | memoryview = b""
    """Its bytes in the file."""


class Recording:
    """A session in one file or several; iterating yields its entries in the order in which they were written.

    An unfinished session ends where its recorder ended; :meth:`judged` says so.

    Raises, while iterating:
        RecordingError: not a session, or one of a newer format.
        DamagedError: the session is damaged there; entries before that are yielded first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: list[ContainerReader] | None = None

    def __iter__(self) -> Iterator[Recorded]:
        return self.entries()

    def entries(
        self, wanted: Wanted = lambda channel: True, start_ns: int = 0, *, in_time_order: bool = False
    ) -> Iterator[Recorded]:
        """The entries of the wanted channels, from a time on.

        Args:
            wanted: whether a channel's entries are wanted.
            in_time_order: see :meth:`raw`.
        """
        for entry in self.raw(start_ns, in_time_order=in_time_order):
            if entry.log_time_ns >= start_ns and wanted(entry.channel):
                yield self.decoded(entry)

    def raw(self, start_ns: int = 0, *, in_time_order: bool = False) -> Iterator[Entry]:
        """All entries undecoded, from the chunk that holds a time.

        Args:
            in_time_order: in the order of their times, also where navnode wrote them as they arrived while a clock was
                set back. Files of other programs, whose order means nothing, are always read so.

        Raises:
            DamagedError: the rest of the session cannot be read.
        """
        if in_time_order or not all(file.own for file in self.files):
            yield from self._by_time(start_ns)
            return
        for file in self.files:
            for chunk in file.chunks[file.first_at(start_ns) if start_ns else 0 :]:
                yield from file.entries(chunk)
            if text := damage(file, last=file is self.files[-1]):
                raise DamagedError(text)

    def _by_time(self, start_ns: int) -> Iterator[Entry]:
        """Entries in the order of their times; those of one time in the order of the file."""
        waiting = sorted(
            (chunk.start_ns, number, place)
            for number, file in enumerate(self.files)
            for place, chunk in enumerate(file.chunks)
            if chunk.end_ns >= start_ns
        )[::-1]
        opened: list[tuple[int, int, int, int, Entry]] = []
        while waiting or opened:
            while waiting and (not opened or waiting[-1][0] <= opened[0][0]):
                _, number, place = waiting.pop()
                file = self.files[number]
                for n, entry in enumerate(file.entries(file.chunks[place])):
                    heapq.heappush(opened, (entry.log_time_ns, number, place, n, entry))
            if opened:
                yield heapq.heappop(opened)[-1]
        for file in self.files:
            if text := damage(file, last=file is self.files[-1]):
                raise DamagedError(text)

    def decoded(self, entry: Entry) -> Recorded:
        """Decode an entry.

        Raises:
            DamagedError: its content cannot be read.
        """
        topic, encoding = entry.channel
        content: Message | WorkerAnswer | dict[str, Any]
        try:
            if encoding == OPENIGTLINK:
                content = decode(entry.data)
            elif encoding == BUS:
                content = answer_of(entry.data)
            elif encoding == JSON:
                content = msgspec.json.decode(entry.data)
                if not isinstance(content, dict):
                    raise ValueError("not a JSON object")
            else:
                raise ValueError(f"encoding {encoding!r} is unknown")
        except (WireError, ValueError, msgspec.DecodeError) as error:
            raise DamagedError(f"{self.path}: an entry of {topic} cannot be read ({error})") from error
        return Recorded(topic, entry.log_time_ns, content, entry.sequence, entry.data)

    # --- the session as a whole ---------------------------------------------------------------------------------------

    @property
    def files(self) -> list[ContainerReader]:
        """Its files in order.

        Raises:
            RecordingError: a file cannot be read, or has a newer format.
        """
        if self._files is None:
            first = _opened(self.path)
            self._files = [first]
            session = first.metadata.get("navnode", {}).get("session")
            number = int(first.metadata.get("navnode", {}).get("part", "0"))
            base = self.path if number == 0 else None
            while base is not None and session and part_path(base, len(self._files)).exists():
                following = _opened(part_path(base, len(self._files)))
                if following.metadata.get("navnode", {}).get("session") != session:
                    break
                self._files.append(following)
        return self._files

    @property
    def metadata(self) -> dict[str, str]:
        """The session's metadata."""
        return self.files[0].metadata.get("navnode", {})

    @property
    def format(self) -> int:
        """Format of the session (:data:`format.FORMAT`)."""
        return int(self.metadata.get("format", "1"))

    @property
    def start_ns(self) -> int:
        """Time of the first entry; 0: there is none."""
        return min((file.start_ns for file in self.files if file.chunks), default=0)

    @property
    def end_ns(self) -> int:
        """Time of the last entry; 0: there is none."""
        return max((file.end_ns for file in self.files), default=0)

    @property
    def seconds(self) -> float:
        """Duration of the session."""
        return (self.end_ns - self.start_ns) / 1e9

    def judged(self, failure: DamagedError | None = None) -> Verdict:
        """Whether the session is whole, unfinished or damaged.

        Args:
            failure: the error that ended reading it, if there was one.
        """
        return judged(self.files, failure)

    @property
    def attachments(self) -> list[str]:
        """Names of the attachments."""
        return self.files[0].attachments

    def attachment(self, name: str) -> bytes:
        """The content of an attachment.

        Raises:
            RecordingError: there is no such attachment, or it is damaged.
        """
        return self.files[0].attachment(name)

    @property
    def lost_before(self) -> str:
        """What was lost when the session was repaired; '': nothing, or it never was."""
        return self.files[-1].metadata.get(RECOVERED, {}).get("lost", "")

    @property
    def ct(self) -> dict[str, Any] | None:
        """Which CT the node had (:class:`format.VolumeIdentity`); None: it had none, or none recorded it."""
        entry = self.ct_entry()
        content = None if entry is None else self.decoded(entry).content
        return content if isinstance(content, dict) else None

    def ct_entry(self) -> Entry | None:
        """The entry of :attr:`ct`, with which a node's recording begins.

        Raises:
            DamagedError: it cannot be read.
        """
        first = self.files[0]
        entries = first.entries(first.chunks[0]) if first.chunks else iter(())
        return next((entry for entry in entries if entry.channel.topic == CT), None)

    def check_ct(self, volume: Volume | None) -> None:
        """Check that a replay has the CT that the session was recorded with.

        Raises:
            RecordingError: it has none, or another one.
        """
        if (recorded := self.ct) is None:
            return
        if volume is None:
            raise RecordingError(f"{self.path}: was recorded with the CT {recorded.get('name')}; give --ct")
        if not is_of(recorded, volume):
            name = recorded.get("name")
            raise RecordingError(
                f"{self.path}: was recorded with another CT ({name}), or one that lies elsewhere; give it with --ct"
            )

    def versions(self) -> dict[str, Any]:
        """Versions of the software that recorded it; empty: unknown."""
        if VERSIONS not in self.attachments:
            return {}
        try:
            versions = json.loads(self.attachment(VERSIONS))
        except ValueError:  # damaged
            return {}
        return versions if isinstance(versions, dict) else {}

    def close(self) -> None:
        """Close all files."""
        for file in self._files or ():
            file.close()
        self._files = None


def _opened(path: Path) -> ContainerReader:
    file = ContainerReader(path)
    about = file.metadata.get("navnode", {})
    known, part = about.get("format", "1"), about.get("part", "0")
    for what, number in (("format", known), ("part", part)):
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            file.close()
            raise DamagedError(f"{path}: damaged: its {what} cannot be read; navnode recover keeps the rest")
    if int(known) > FORMAT:
        file.close()
        raise RecordingError(f"{path}: a session of format {known}; this version reads up to {FORMAT}")
    return file
