"""Reads MCAP files: whole files by their index, torn or damaged ones record by record."""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import lz4.frame
import numpy as np
import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from navnode.errors import DamagedError, RecordingError
from navnode.recording.container import (
    CHUNK,
    CHUNK_BODY,
    CHUNK_BYTES,
    CHUNK_INDEX,
    FOOTER,
    MAGIC,
    MAX_CHUNK_BYTES,
    MAX_RECORD_BYTES,
    MESSAGE_BODY,
    RECORD,
    Channel,
    ChunkAt,
    Entry,
)

__all__ = ["ContainerReader"]

_SEARCHED_BYTES = 1 << 24


@dataclass
class ContainerReader:
    """Reads a file, which may be whole, torn or damaged.

    Args:
        path: path of the file.

    Raises:
        RecordingError: the file cannot be read, or is not MCAP.
    """

    path: Path
    chunks: list[ChunkAt] = field(default_factory=list)
    """In the order of the file."""
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    torn_at: int | None = None
    """Offset at which the file ends unfinished, or its first damage begins; None: it is whole."""
    lost_bytes: int = 0
    """Number of bytes that belong to no whole record."""
    index_damaged: bool = False
    """Whether the file was finished, but its index is damaged."""
    own: bool = False
    """Whether navnode wrote it: then its order is that of arrivals, whatever the clock did."""
    messages: int | None = None
    """Number of messages that the index states; None: the file was not finished."""
    _channels: dict[int, Channel] = field(default_factory=dict)
    _searched: bool = False
    _attachments: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self._file = self.path.open("rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error
        if self._read(0, len(MAGIC)) != MAGIC:
            self._file.close()
            raise RecordingError(f"{self.path}: not an MCAP file")
        self.own = self._is_own()
        if not self._indexed():
            self._scan()
        elif self._index_lacks():
            self._scan()
            self.torn_at, self.index_damaged = None, False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0: there is none."""
        return min((chunk.start_ns for chunk in self.chunks), default=0)

    @property
    def end_ns(self) -> int:
        """Time of the last message; 0: there is none."""
        return max((chunk.end_ns for chunk in self.chunks), default=0)

    @property
    def attachments(self) -> list[str]:
        """Names of the attachments."""
        return list(self._attachments)

    def attachment(self, name: str) -> bytes:
        """The content of an attachment.

        Raises:
            RecordingError: there is no such attachment.
            DamagedError: it is damaged.
        """
        if name not in self._attachments:
            raise RecordingError(f"{self.path}: {name} is not attached to this session")
        offset, length = self._attachments[name]
        record = self._read(offset, min(length, MAX_RECORD_BYTES))
        try:
            attachment = records.Attachment.read(ReadDataStream(BytesIO(record[RECORD.size :])))
        except (McapError, ValueError, struct.error) as error:
            raise DamagedError(f"{self.path}: the attachment {name} is damaged") from error
        stated = int.from_bytes(record[-4:], "little")
        if (stated and zlib.crc32(record[RECORD.size : -4]) != stated) or attachment.name != name:
            raise DamagedError(f"{self.path}: the attachment {name} is damaged (its checksum is wrong)")
        return bytes(attachment.data)

    def entries(self, chunk: ChunkAt) -> Iterator[Entry]:
        """The messages of a chunk.

        Raises:
            DamagedError: the chunk is damaged.
        """
        data = memoryview(self._read(chunk.offset, chunk.length)) if chunk.bare else self._chunk(chunk)
        at, end = 0, len(data)
        while at < end:
            if end - at < RECORD.size:
                raise self._damaged(chunk, "a record is cut off")
            opcode, length = RECORD.unpack_from(data, at)
            body = at + RECORD.size
            at = body + length
            if at > end:
                raise self._damaged(chunk, "a record extends beyond the chunk")
            if opcode == Opcode.MESSAGE:
                if length < MESSAGE_BODY.size:
                    raise self._damaged(chunk, "a message is cut off")
                number, sequence, log_ns, publish_ns = MESSAGE_BODY.unpack_from(data, body)
                channel = self._channels.get(number)
                if channel is None and not self._searched:
                    self._learn_all()
                    channel = self._channels.get(number)
                if channel is None:
                    raise self._damaged(chunk, f"channel {number} is unknown")
                yield Entry(channel, sequence, log_ns, publish_ns, data[body + MESSAGE_BODY.size : at])
            elif opcode == Opcode.CHANNEL:
                self._learn(bytes(data[body:at]))

    def _learn_all(self) -> None:
        """Learn the channels of all chunks: other programs describe a channel in one chunk, not in each."""
        self._searched = True
        for chunk in self.chunks:
            try:
                data = self._read(chunk.offset, chunk.length) if chunk.bare else bytes(self._chunk(chunk))
                for opcode, body in _records(data):
                    if opcode == Opcode.CHANNEL:
                        self._learn(body)
            except DamagedError:
                continue  # told when it is read

    def first_at(self, time_ns: int) -> int:
        """The index of the first chunk that may hold messages from a time on."""
        ends: list[int] = []
        for chunk in self.chunks:  # the clock may have stepped back: bisect needs ends that only grow
            ends.append(max(chunk.end_ns, ends[-1] if ends else 0))
        return bisect_right(ends, time_ns - 1)

    def _chunk(self, chunk: ChunkAt) -> memoryview:
        record = memoryview(self._read(chunk.offset, min(chunk.length, MAX_RECORD_BYTES)))
        try:
            opcode, length = RECORD.unpack_from(record)
            _, _, size, crc = CHUNK_BODY.unpack_from(record, RECORD.size)
            at = RECORD.size + CHUNK_BODY.size
            (name_size,) = struct.unpack_from("<I", record, at)
            compression = bytes(record[at + 4 : at + 4 + name_size]).decode()
            (stored,) = struct.unpack_from("<Q", record, at + 4 + name_size)
        except (struct.error, UnicodeDecodeError) as error:
            raise self._damaged(chunk, "its head is cut off") from error
        data = record[at + 12 + name_size :]
        if opcode != Opcode.CHUNK or length != len(record) - RECORD.size or stored != len(data):
            raise self._damaged(chunk, "its lengths contradict each other")
        if size > MAX_CHUNK_BYTES:
            raise self._damaged(chunk, f"{size} bytes decompressed are over the limit of {MAX_CHUNK_BYTES}")
        data = self._decompressed(chunk, compression, data, size)
        if len(data) != size or (crc and zlib.crc32(data) != crc):
            raise self._damaged(chunk, "its checksum is wrong")
        return data

    def _decompressed(self, chunk: ChunkAt, compression: str, data: memoryview, size: int) -> memoryview:
        try:
            if compression == "zstd":
                decompressed = zstandard.ZstdDecompressor().stream_reader(data).read(size + 1)
            elif compression == "lz4":
                decompressed = lz4.frame.LZ4FrameDecompressor().decompress(bytes(data), max_length=size + 1)
            elif compression == "":
                return data
            else:
                raise self._damaged(chunk, f"compression {compression!r} is unknown")
        except (zstandard.ZstdError, RuntimeError, EOFError) as error:
            raise self._damaged(chunk, f"it cannot be decompressed ({error})") from error
        return memoryview(decompressed)

    def _damaged(self, chunk: ChunkAt, what: str) -> DamagedError:
        return DamagedError(f"{self.path}: damaged at byte {chunk.offset}: {what}; navnode recover keeps the rest")

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _learn(self, body: bytes) -> None:
        try:
            channel = records.Channel.read(ReadDataStream(BytesIO(body)))
        except (McapError, ValueError, struct.error) as error:
            raise DamagedError(f"{self.path}: damaged: a channel cannot be read") from error
        self._channels[channel.id] = Channel(channel.topic, channel.message_encoding)

    # --- index --------------------------------------------------------------------------------------------------------

    def _indexed(self) -> bool:
        """Read the index; False: there is none, or it is damaged."""
        tail = self._read(max(0, self.size - FOOTER.size - len(MAGIC)), FOOTER.size + len(MAGIC))
        if len(tail) < FOOTER.size + len(MAGIC) or tail[FOOTER.size :] != MAGIC:
            return False
        opcode, _, start, _, crc = FOOTER.unpack_from(tail)
        end = self.size - len(tail)
        if opcode != Opcode.FOOTER or not 0 < start < end or end - start > MAX_RECORD_BYTES:
            return False
        summary = self._read(start, end - start)
        if crc and zlib.crc32(tail[: FOOTER.size - 4], zlib.crc32(summary)) != crc:
            return False
        try:
            self._read_summary(summary)
        except (McapError, ValueError, struct.error):  # written elsewhere without a checksum, and damaged
            self.chunks, self.metadata, self._channels, self._attachments = [], {}, {}, {}
            return False
        return True

    def _is_own(self) -> bool:
        """Whether the header names this program."""
        opcode, length = RECORD.unpack(self._read(len(MAGIC), RECORD.size).ljust(RECORD.size, b"\0"))
        if opcode != Opcode.HEADER or length > _SEARCHED_BYTES:
            return False
        try:
            header = records.Header.read(ReadDataStream(BytesIO(self._read(len(MAGIC) + RECORD.size, length))))
        except (McapError, ValueError, struct.error):
            return True  # damaged; another program's would not be navnode's sessions
        return str(header.library).startswith("navnode")

    def _index_lacks(self) -> bool:
        """Whether the index leaves out what the file may hold: messages without chunks are in none, and other writers
        may index chunks or metadata or neither."""
        return not self.chunks or (not self.own and not self.metadata)

    def _read_summary(self, summary: bytes) -> None:
        for opcode, body in _records(summary):
            if opcode == Opcode.CHUNK_INDEX:
                begin_ns, end_ns, offset, length = CHUNK_INDEX.unpack_from(body)
                self.chunks.append(ChunkAt(offset, length, begin_ns, end_ns))
            elif opcode == Opcode.CHANNEL:
                self._learn(body)
            elif opcode == Opcode.ATTACHMENT_INDEX:
                about = records.AttachmentIndex.read(ReadDataStream(BytesIO(body)))
                self._attachments[about.name] = about.offset, about.length
            elif opcode == Opcode.METADATA_INDEX:
                described = records.MetadataIndex.read(ReadDataStream(BytesIO(body)))
                record = self._read(described.offset, min(described.length, MAX_RECORD_BYTES))
                self._read_metadata(record[RECORD.size :])
            elif opcode == Opcode.STATISTICS:
                self.messages = records.Statistics.read(ReadDataStream(BytesIO(body))).message_count
        self.chunks.sort(key=lambda chunk: chunk.offset)

    def _scan(self) -> None:
        """Read a file without an index, record by record."""
        self.chunks = []
        at = len(MAGIC)
        while at < self.size:
            head = self._read(at, RECORD.size + CHUNK_BODY.size)
            if len(head) < RECORD.size:
                self.lost_bytes += self.size - at
                break
            opcode, length = RECORD.unpack_from(head)
            whole = RECORD.size + length
            if not 0 < opcode <= Opcode.DATA_END or length > MAX_RECORD_BYTES or at + whole > self.size:
                further = self._next_chunk(at + 1)
                self.torn_at = at if self.torn_at is None else self.torn_at
                self.lost_bytes += (self.size if further is None else further) - at
                if further is None:
                    return
                at = further
                continue
            if opcode == Opcode.CHUNK:
                begin_ns, end_ns, _, _ = CHUNK_BODY.unpack_from(head, RECORD.size)
                self.chunks.append(ChunkAt(at, whole, begin_ns, end_ns))
            elif opcode == Opcode.MESSAGE and length >= MESSAGE_BODY.size:
                self._add_bare(at, whole, MESSAGE_BODY.unpack_from(head, RECORD.size)[2])
            elif opcode == Opcode.CHANNEL:
                self._learn(self._read(at + RECORD.size, length))
            elif opcode == Opcode.METADATA:
                self._read_metadata(self._read(at + RECORD.size, length))
            elif opcode == Opcode.ATTACHMENT:
                name = _attachment_name(self._read(at + RECORD.size, min(length, 1 << 16)))
                if name is not None:
                    self._attachments[name] = at, whole
            elif opcode == Opcode.FOOTER:
                (summary_start,) = struct.unpack_from("<Q", self._read(at + RECORD.size, 8).ljust(8, b"\xff"))
                if summary_start == 0 and at + whole + len(MAGIC) == self.size and self.torn_at is None:
                    return  # finished, without a summary
                self.index_damaged = True
                self.lost_bytes += max(self.size - at - whole - len(MAGIC), 0)  # bytes appended to the file
                break
            at += whole
        self.torn_at = at if self.torn_at is None else self.torn_at

    def _add_bare(self, at: int, whole: int, time_ns: int) -> None:
        """Add a message without a chunk; consecutive ones are read together."""
        last = self.chunks[-1] if self.chunks else None
        if last is not None and last.bare and last.offset + last.length == at and last.length < CHUNK_BYTES:
            span = min(last.start_ns, time_ns), max(last.end_ns, time_ns)
            self.chunks[-1] = ChunkAt(last.offset, last.length + whole, *span, bare=True)
        else:
            self.chunks.append(ChunkAt(at, whole, time_ns, time_ns, bare=True))

    def _next_chunk(self, start: int) -> int | None:
        """Offset of the next uncompressed chunk whose lengths are consistent."""
        overlap = CHUNK.size
        while start < self.size:
            block = np.frombuffer(self._read(start, _SEARCHED_BYTES + overlap), np.uint8)
            if len(block) < overlap:
                return None
            last = len(block) - overlap
            likely = np.flatnonzero((block[: last + 1] == Opcode.CHUNK) & (block[8 : last + 9] == 0))
            for place in likely[(block[likely + 7] == 0) & (block[likely + 6] == 0)]:
                _, length, _, _, size, _, name_size, stored = CHUNK.unpack_from(block.data, int(place))
                end = start + int(place) + RECORD.size + length
                if name_size == 0 and stored == size == length - CHUNK.size + RECORD.size and end <= self.size:
                    return start + int(place)
            start += last + 1
        return None

    def _read_metadata(self, body: bytes) -> None:
        try:
            record = records.Metadata.read(ReadDataStream(BytesIO(body)))
        except (McapError, ValueError, struct.error):
            return  # damaged
        self.metadata[record.name] = record.metadata


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Opcode and body of every whole record in a piece of a file."""
    at = 0
    while at + RECORD.size <= len(data):
        opcode, length = RECORD.unpack_from(data, at)
        if at + RECORD.size + length > len(data):
            return
        yield opcode, data[at + RECORD.size : at + RECORD.size + length]
        at += RECORD.size + length


def _attachment_name(body: bytes) -> str | None:
    if len(body) < 20:
        return None
    (size,) = struct.unpack_from("<I", body, 16)
    return body[20 : 20 + size].decode("utf-8", "replace") if size <= len(body) - 20 else None
