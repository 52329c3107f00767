"""MCAP files, byte by byte (https://mcap.dev/spec): chunks without compression, each whole in itself.

The library's writer ends a chunk by its size only, and copies every message four times; its reader allocates what a
file says. Here a chunk goes to the disk from where its messages lie, ends after a second at the latest, and repeats the
channels it uses, so that whatever happens to the rest of a file it can be read. Small records are the library's.
docs/decisions/0012 says more.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
import numpy as np
import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from navnode.errors import RecordingError

MAGIC = b"\x89MCAP0\r\n"
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 30
"""Longer records than any that a session has are damage."""
MAX_CHUNK_BYTES = 1 << 29
"""Of a chunk once it is decompressed."""

_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<BQHIQQ")
_MESSAGE_BODY = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<BQQQQIIQ")  # with an empty name of a compression
_CHUNK_BODY = struct.Struct("<QQQI")
_FOOTER = struct.Struct("<BQQQI")
_CHUNK_INDEX = struct.Struct("<QQQQ")
_SEARCHED_BYTES = 1 << 24
_MOST_PARTS = 512
"""That one call writes, under the system's limit."""

Parts = Sequence[bytes | memoryview]


class Channel(NamedTuple):
    """What a message belongs to."""

    topic: str
    encoding: str


class Entry(NamedTuple):
    """One message of a file; its data are a view of the chunk."""

    channel: Channel
    sequence: int
    log_time_ns: int
    publish_time_ns: int
    data: memoryview


class Writer:
    """Writes one file.

    Args:
        file: without a buffer of its own, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self._channels: dict[Channel, tuple[int, bytes]] = {}
        self._schemas: dict[str, tuple[int, bytes]] = {}
        self._parts: list[bytes | memoryview] = []
        self._index: dict[int, list[int]] = {}
        self._size = 0
        self._span = (0, 0)
        self._chunks: list[records.ChunkIndex] = []
        self._summary: list[records.AttachmentIndex | records.MetadataIndex] = []
        self._counts: dict[int, int] = {}
        self._times = (0, 0)
        self._write([MAGIC, _bytes_of(records.Header("navnode", "navnode"))])

    @property
    def size(self) -> int:
        """Bytes so far, with what waits for its chunk's end."""
        return self._at + self._size

    @property
    def waiting(self) -> int:
        """Bytes of the open chunk: what a crash would cost."""
        return self._size

    def attach(self, name: str, data: bytes, media_type: str, time_ns: int) -> None:
        """Put a file into the file."""
        at = self._at
        record = records.Attachment(
            create_time=time_ns, log_time=time_ns, name=name, media_type=media_type, data=data
        )  # fmt: skip
        length = self._record(record)
        self._summary.append(
            records.AttachmentIndex(
                offset=at, length=length, create_time=time_ns, log_time=time_ns, data_size=len(data), name=name,
                media_type=media_type,
            )
        )  # fmt: skip

    def describe(self, name: str, about: Mapping[str, str]) -> None:
        """Put keys and values into the file."""
        at = self._at
        length = self._record(records.Metadata(name=name, metadata=dict(about)))
        self._summary.append(records.MetadataIndex(offset=at, length=length, name=name))

    def add(self, channel: Channel, parts: Parts, log_time_ns: int, publish_time_ns: int, sequence: int) -> None:
        """Add a message to the open chunk; its parts must stay as they are until the chunk is closed."""
        known = self._channels.get(channel)
        number, record = known if known is not None else self._new(channel)
        index = self._index.get(number)
        if index is None:
            index = self._index[number] = []
            self._parts.append(record)
            self._size += len(record)
        if not self._span[1]:
            self._span = log_time_ns, log_time_ns
        elif not self._span[0] <= log_time_ns <= self._span[1]:
            self._span = min(self._span[0], log_time_ns), max(self._span[1], log_time_ns)
        size = sum(map(len, parts))
        index += (log_time_ns, self._size)
        self._parts.append(
            _MESSAGE.pack(
                Opcode.MESSAGE, _MESSAGE_BODY.size + size, number, sequence & 0xFFFFFFFF, log_time_ns, publish_time_ns
            )
        )
        self._parts += parts
        self._size += _MESSAGE.size + size
        if self._size >= CHUNK_BYTES:
            self.close_chunk()

    def close_chunk(self) -> None:
        """Hand the open chunk to the system."""
        if not self._size:
            return
        crc = 0
        for part in self._parts:
            crc = zlib.crc32(part, crc)
        head = _CHUNK.pack(
            Opcode.CHUNK, _CHUNK.size - _RECORD.size + self._size, *self._span, self._size, crc, 0, self._size
        )  # fmt: skip
        began = self._at
        self._write([head, *self._parts])
        offsets, indexes, at = {}, [], self._at
        for number, entries in self._index.items():
            listed = struct.pack(f"<{len(entries)}Q", *entries)
            self._counts[number] = self._counts.get(number, 0) + len(entries) // 2
            offsets[number] = at
            indexes.append(
                _RECORD.pack(Opcode.MESSAGE_INDEX, 6 + len(listed)) + struct.pack("<HI", number, len(listed)) + listed
            )
            at += len(indexes[-1])
        length = self._at - began
        self._write(indexes)
        self._chunks.append(
            records.ChunkIndex(
                chunk_length=length, chunk_start_offset=began, compression="", compressed_size=self._size,
                message_end_time=self._span[1], message_index_length=at - began - length, message_index_offsets=offsets,
                message_start_time=self._span[0], uncompressed_size=self._size,
            )
        )  # fmt: skip
        first = self._times[0] or self._span[0]
        self._times = min(first, self._span[0]), max(self._times[1], self._span[1])
        self._parts, self._index, self._size, self._span = [], {}, 0, (0, 0)

    def finish(self) -> None:
        """Write what makes the file quick to open."""
        self.close_chunk()
        self._record(records.DataEnd(0))
        start = self._at
        kinds: tuple[tuple[int, Sequence[records.McapRecord]], ...] = (
            (Opcode.SCHEMA, [_schema(n, name) for name, (n, _) in self._schemas.items()]),
            (Opcode.CHANNEL, [_channel(n, c, self._schemas[c.encoding][0]) for c, (n, _) in self._channels.items()]),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, self._chunks),
            (Opcode.ATTACHMENT_INDEX, [r for r in self._summary if isinstance(r, records.AttachmentIndex)]),
            (Opcode.METADATA_INDEX, [r for r in self._summary if isinstance(r, records.MetadataIndex)]),
        )
        summary, offsets = b"", b""
        for opcode, group in kinds:
            data = b"".join(map(_bytes_of, group))
            if data:
                offsets += _bytes_of(records.SummaryOffset(opcode, start + len(summary), len(data)))
            summary += data
        foot = _RECORD.pack(Opcode.FOOTER, 20) + struct.pack("<QQ", start, start + len(summary))
        crc = zlib.crc32(foot, zlib.crc32(summary + offsets))
        self._write([summary, offsets, foot, struct.pack("<I", crc), MAGIC])

    def _statistics(self) -> records.Statistics:
        attachments = sum(isinstance(r, records.AttachmentIndex) for r in self._summary)
        return records.Statistics(
            attachment_count=attachments, channel_count=len(self._channels), channel_message_counts=self._counts,
            chunk_count=len(self._chunks), message_count=sum(self._counts.values()),
            metadata_count=len(self._summary) - attachments, message_start_time=self._times[0],
            message_end_time=self._times[1], schema_count=len(self._schemas),
        )  # fmt: skip

    def _new(self, channel: Channel) -> tuple[int, bytes]:
        """A channel's number, and the records that tell of it."""
        if channel.encoding not in self._schemas:
            number = len(self._schemas) + 1
            self._schemas[channel.encoding] = number, _bytes_of(_schema(number, channel.encoding))
        of, schema_record = self._schemas[channel.encoding]
        number = len(self._channels) + 1
        self._channels[channel] = number, schema_record + _bytes_of(_channel(number, channel, of))
        return self._channels[channel]

    def _record(self, record: records.McapRecord) -> int:
        """A record of its own, after what waits; its length."""
        self.close_chunk()
        data = _bytes_of(record)
        self._write([data])
        return len(data)

    def _write(self, parts: Parts) -> None:
        for begin in range(0, len(parts), _MOST_PARTS):
            some = parts[begin : begin + _MOST_PARTS]
            wanted = sum(map(len, some))
            written = os.writev(self._file.fileno(), some)
            if written < wanted:  # a signal, or the disk is about to be full
                rest = memoryview(b"".join(some))[written:]
                while rest:
                    rest = rest[os.write(self._file.fileno(), rest) :]
            self._at += wanted


def _bytes_of(record: records.McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]


def _schema(number: int, name: str) -> records.Schema:
    return records.Schema(id=number, data=b"", encoding="", name=name)


def _channel(number: int, channel: Channel, schema: int) -> records.Channel:
    return records.Channel(
        id=number, topic=channel.topic, message_encoding=channel.encoding, schema_id=schema, metadata={}
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """Where a chunk is."""

    offset: int
    length: int
    """Of the whole record."""
    start_ns: int
    end_ns: int
    bare: bool = False
    """Messages that others wrote without a chunk around them."""


@dataclass
class File:
    """A file that is read; whole, torn or damaged.

    Args:
        path: of the file.

    Raises:
        RecordingError: it cannot be read, or is none.
    """

    path: Path
    chunks: list[ChunkAt] = field(default_factory=list)
    """In the order of the file."""
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    torn_at: int | None = None
    """Where the file was not finished, or from where on nothing could be read; None: it is whole."""
    lost_bytes: int = 0
    """That belong to no whole record."""
    messages: int | None = None
    """As the file itself counted them; None where it was not finished."""
    _channels: dict[int, Channel] = field(default_factory=dict)
    _attachments: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self._file = self.path.open("rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error
        if self._read(0, len(MAGIC)) != MAGIC:
            self._file.close()
            raise RecordingError(f"{self.path}: no recording (not an MCAP file)")
        if not self._indexed():
            self._scan()
        elif self.messages and not self.chunks:  # messages without chunks are in no index
            self._scan()
            self.torn_at = None

    def close(self) -> None:
        """No more reading."""
        self._file.close()

    @property
    def start_ns(self) -> int:
        """Of the first message; 0: there is none."""
        return min((chunk.start_ns for chunk in self.chunks), default=0)

    @property
    def end_ns(self) -> int:
        """Of the last message."""
        return max((chunk.end_ns for chunk in self.chunks), default=0)

    @property
    def attachments(self) -> list[str]:
        """Their names."""
        return list(self._attachments)

    def attachment(self, name: str) -> bytes:
        """What is attached under a name.

        Raises:
            RecordingError: there is no such attachment, or it is damaged.
        """
        if name not in self._attachments:
            raise RecordingError(f"{self.path}: {name} is not attached to this session")
        offset, length = self._attachments[name]
        record = self._read(offset, min(length, MAX_RECORD_BYTES))
        try:
            found = records.Attachment.read(ReadDataStream(BytesIO(record[_RECORD.size :])))
        except (McapError, ValueError, struct.error) as error:
            raise RecordingError(f"{self.path}: the attachment {name} is damaged") from error
        stated = int.from_bytes(record[-4:], "little")
        if (stated and zlib.crc32(record[_RECORD.size : -4]) != stated) or found.name != name:
            raise RecordingError(f"{self.path}: the attachment {name} is damaged (its checksum is wrong)")
        return bytes(found.data)

    def entries(self, chunk: ChunkAt) -> Iterator[Entry]:
        """The messages of a chunk.

        Raises:
            RecordingError: it is damaged.
        """
        data = memoryview(self._read(chunk.offset, chunk.length)) if chunk.bare else self._chunk(chunk)
        at, end = 0, len(data)
        while at < end:
            if end - at < _RECORD.size:
                raise self._damaged(chunk, "a record is cut off")
            opcode, length = _RECORD.unpack_from(data, at)
            body = at + _RECORD.size
            at = body + length
            if at > end:
                raise self._damaged(chunk, "a record reaches beyond it")
            if opcode == Opcode.MESSAGE:
                if length < _MESSAGE_BODY.size:
                    raise self._damaged(chunk, "a message is cut off")
                number, sequence, log_ns, publish_ns = _MESSAGE_BODY.unpack_from(data, body)
                channel = self._channels.get(number)
                if channel is None:
                    raise self._damaged(chunk, f"channel {number} is not known")
                yield Entry(channel, sequence, log_ns, publish_ns, data[body + _MESSAGE_BODY.size : at])
            elif opcode == Opcode.CHANNEL:
                self._learn(bytes(data[body:at]))

    def first_at(self, time_ns: int) -> int:
        """The index of the first chunk that may hold messages from a time on."""
        ends: list[int] = []
        for chunk in self.chunks:  # ends that only grow, whatever the clock did
            ends.append(max(chunk.end_ns, ends[-1] if ends else 0))
        return bisect_right(ends, time_ns - 1)

    def _chunk(self, chunk: ChunkAt) -> memoryview:
        record = memoryview(self._read(chunk.offset, min(chunk.length, MAX_RECORD_BYTES)))
        try:
            opcode, length = _RECORD.unpack_from(record)
            _, _, size, crc = _CHUNK_BODY.unpack_from(record, _RECORD.size)
            at = _RECORD.size + _CHUNK_BODY.size
            (name_size,) = struct.unpack_from("<I", record, at)
            compression = bytes(record[at + 4 : at + 4 + name_size]).decode()
            (stored,) = struct.unpack_from("<Q", record, at + 4 + name_size)
        except (struct.error, UnicodeDecodeError) as error:
            raise self._damaged(chunk, "its head is cut off") from error
        data = record[at + 12 + name_size :]
        if opcode != Opcode.CHUNK or length != len(record) - _RECORD.size or stored != len(data):
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
                made = zstandard.ZstdDecompressor().stream_reader(data).read(size + 1)
            elif compression == "lz4":
                made = lz4.frame.LZ4FrameDecompressor().decompress(bytes(data), max_length=size + 1)
            elif compression == "":
                return data
            else:
                raise self._damaged(chunk, f"compression {compression!r} is not known")
        except (zstandard.ZstdError, RuntimeError, EOFError) as error:
            raise self._damaged(chunk, f"it cannot be decompressed ({error})") from error
        return memoryview(made)

    def _damaged(self, chunk: ChunkAt, what: str) -> RecordingError:
        return RecordingError(f"{self.path}: damaged at byte {chunk.offset}: {what}; navnode recover keeps the rest")

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _learn(self, body: bytes) -> None:
        try:
            channel = records.Channel.read(ReadDataStream(BytesIO(body)))
        except (McapError, ValueError, struct.error) as error:
            raise RecordingError(f"{self.path}: damaged: a channel cannot be read") from error
        self._channels[channel.id] = Channel(channel.topic, channel.message_encoding)

    # --- what the file says of itself ---------------------------------------------------------------------------------

    def _indexed(self) -> bool:
        """Take the summary's word, if there is one and its checksum is right."""
        tail = self._read(max(0, self.size - _FOOTER.size - len(MAGIC)), _FOOTER.size + len(MAGIC))
        if len(tail) < _FOOTER.size + len(MAGIC) or tail[_FOOTER.size :] != MAGIC:
            return False
        opcode, _, start, _, crc = _FOOTER.unpack_from(tail)
        end = self.size - len(tail)
        if opcode != Opcode.FOOTER or not 0 < start < end or end - start > MAX_RECORD_BYTES:
            return False
        summary = self._read(start, end - start)
        if crc and zlib.crc32(tail[: _FOOTER.size - 4], zlib.crc32(summary)) != crc:
            return False
        try:
            self._take_summary(summary)
        except (McapError, ValueError, struct.error):  # another writer's, without a checksum
            self.chunks, self.metadata, self._channels, self._attachments = [], {}, {}, {}
            return False
        return True

    def _take_summary(self, summary: bytes) -> None:
        for opcode, body in _records(summary):
            if opcode == Opcode.CHUNK_INDEX:
                begin_ns, end_ns, offset, length = _CHUNK_INDEX.unpack_from(body)
                self.chunks.append(ChunkAt(offset, length, begin_ns, end_ns))
            elif opcode == Opcode.CHANNEL:
                self._learn(body)
            elif opcode == Opcode.ATTACHMENT_INDEX:
                about = records.AttachmentIndex.read(ReadDataStream(BytesIO(body)))
                self._attachments[about.name] = about.offset, about.length
            elif opcode == Opcode.METADATA_INDEX:
                described = records.MetadataIndex.read(ReadDataStream(BytesIO(body)))
                record = self._read(described.offset, min(described.length, MAX_RECORD_BYTES))
                self._take_metadata(record[_RECORD.size :])
            elif opcode == Opcode.STATISTICS:
                self.messages = records.Statistics.read(ReadDataStream(BytesIO(body))).message_count
        self.chunks.sort(key=lambda chunk: chunk.offset)

    def _scan(self) -> None:
        """Walk over the records of a file that was not finished."""
        at = len(MAGIC)
        while at < self.size:
            head = self._read(at, _RECORD.size + _CHUNK_BODY.size)
            if len(head) < _RECORD.size:
                self.lost_bytes += self.size - at
                break
            opcode, length = _RECORD.unpack_from(head)
            whole = _RECORD.size + length
            if not 0 < opcode <= Opcode.DATA_END or length > MAX_RECORD_BYTES or at + whole > self.size:
                further = self._next_chunk(at + 1)
                self.torn_at = at if self.torn_at is None else self.torn_at
                self.lost_bytes += (self.size if further is None else further) - at
                if further is None:
                    return
                at = further
                continue
            if opcode == Opcode.CHUNK:
                begin_ns, end_ns, _, _ = _CHUNK_BODY.unpack_from(head, _RECORD.size)
                self.chunks.append(ChunkAt(at, whole, begin_ns, end_ns))
            elif opcode == Opcode.MESSAGE and length >= _MESSAGE_BODY.size:
                self._take_bare(at, whole, _MESSAGE_BODY.unpack_from(head, _RECORD.size)[2])
            elif opcode == Opcode.CHANNEL:
                self._learn(self._read(at + _RECORD.size, length))
            elif opcode == Opcode.METADATA:
                self._take_metadata(self._read(at + _RECORD.size, length))
            elif opcode == Opcode.ATTACHMENT:
                name = _attachment_name(self._read(at + _RECORD.size, min(length, 1 << 16)))
                if name is not None:
                    self._attachments[name] = at, whole
            elif opcode == Opcode.FOOTER:
                self.lost_bytes += max(self.size - at - whole - len(MAGIC), 0)  # what was put behind its end
                break
            at += whole
        self.torn_at = at if self.torn_at is None else self.torn_at

    def _take_bare(self, at: int, whole: int, time_ns: int) -> None:
        """A message without a chunk; those that follow each other are read together."""
        last = self.chunks[-1] if self.chunks else None
        if last is not None and last.bare and last.offset + last.length == at and last.length < CHUNK_BYTES:
            span = min(last.start_ns, time_ns), max(last.end_ns, time_ns)
            self.chunks[-1] = ChunkAt(last.offset, last.length + whole, *span, bare=True)
        else:
            self.chunks.append(ChunkAt(at, whole, time_ns, time_ns, bare=True))

    def _next_chunk(self, start: int) -> int | None:
        """Where the next chunk begins whose lengths agree with each other; of chunks without compression."""
        overlap = _CHUNK.size
        while start < self.size:
            block = np.frombuffer(self._read(start, _SEARCHED_BYTES + overlap), np.uint8)
            if len(block) < overlap:
                return None
            last = len(block) - overlap
            likely = np.flatnonzero((block[: last + 1] == Opcode.CHUNK) & (block[8 : last + 9] == 0))
            for place in likely[(block[likely + 7] == 0) & (block[likely + 6] == 0)]:
                _, length, _, _, size, _, name_size, stored = _CHUNK.unpack_from(block.data, int(place))
                end = start + int(place) + _RECORD.size + length
                if name_size == 0 and stored == size == length - _CHUNK.size + _RECORD.size and end <= self.size:
                    return start + int(place)
            start += last + 1
        return None

    def _take_metadata(self, body: bytes) -> None:
        try:
            found = records.Metadata.read(ReadDataStream(BytesIO(body)))
        except (McapError, ValueError, struct.error):
            return  # damaged; what it said is not known
        self.metadata[found.name] = found.metadata


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Opcode and body of the records in a piece of a file, as far as they are whole."""
    at = 0
    while at + _RECORD.size <= len(data):
        opcode, length = _RECORD.unpack_from(data, at)
        if at + _RECORD.size + length > len(data):
            return
        yield opcode, data[at + _RECORD.size : at + _RECORD.size + length]
        at += _RECORD.size + length


def _attachment_name(body: bytes) -> str | None:
    if len(body) < 20:
        return None
    (size,) = struct.unpack_from("<I", body, 16)
    return body[20 : 20 + size].decode("utf-8", "replace") if size <= len(body) - 20 else None
