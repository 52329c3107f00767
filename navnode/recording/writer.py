"""Writes MCAP files: messages in chunks, and an index."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from mcap import records
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode

from navnode.recording.container import CHUNK, CHUNK_BYTES, MAGIC, MESSAGE, MESSAGE_BODY, RECORD, Channel, Parts

__all__ = ["ContainerWriter"]

_MOST_PARTS = 512
"""Largest number of parts for one system call, below the system's limit."""


class ContainerWriter:
    """Writes one file.

    Args:
        file: empty and unbuffered.
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
        """Size so far in bytes, with the open chunk."""
        return self._at + self._size

    @property
    def waiting(self) -> int:
        """Size of the open chunk in bytes, which a crash would lose."""
        return self._size

    def attach(self, name: str, data: bytes, media_type: str, time_ns: int) -> None:
        """Attach a file."""
        record = records.Attachment(create_time=time_ns, log_time=time_ns, name=name, media_type=media_type, data=data)
        at, length = self._record(record)
        self._summary.append(
            records.AttachmentIndex(
                offset=at,
                length=length,
                create_time=time_ns,
                log_time=time_ns,
                data_size=len(data),
                name=name,
                media_type=media_type,
            )
        )

    def describe(self, name: str, about: Mapping[str, str]) -> None:
        """Add a metadata record."""
        at, length = self._record(records.Metadata(name=name, metadata=dict(about)))
        self._summary.append(records.MetadataIndex(offset=at, length=length, name=name))

    def add(self, channel: Channel, parts: Parts, log_time_ns: int, publish_time_ns: int, sequence: int) -> None:
        """Add a message to the open chunk; its parts must not change until the chunk is closed."""
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
            MESSAGE.pack(
                Opcode.MESSAGE, MESSAGE_BODY.size + size, number, sequence & 0xFFFFFFFF, log_time_ns, publish_time_ns
            )
        )
        self._parts += parts
        self._size += MESSAGE.size + size
        if self._size >= CHUNK_BYTES:
            self.close_chunk()

    def close_chunk(self) -> None:
        """Write the open chunk."""
        if not self._size:
            return
        crc = 0
        for part in self._parts:
            crc = zlib.crc32(part, crc)
        head = CHUNK.pack(
            Opcode.CHUNK, CHUNK.size - RECORD.size + self._size, *self._span, self._size, crc, 0, self._size
        )
        began = self._at
        self._write([head, *self._parts])
        offsets, indexes, at = {}, [], self._at
        for number, entries in self._index.items():
            listed = struct.pack(f"<{len(entries)}Q", *entries)
            self._counts[number] = self._counts.get(number, 0) + len(entries) // 2
            offsets[number] = at
            indexes.append(
                RECORD.pack(Opcode.MESSAGE_INDEX, 6 + len(listed)) + struct.pack("<HI", number, len(listed)) + listed
            )
            at += len(indexes[-1])
        length = self._at - began
        self._write(indexes)
        self._chunks.append(
            records.ChunkIndex(
                chunk_length=length,
                chunk_start_offset=began,
                compression="",
                compressed_size=self._size,
                message_end_time=self._span[1],
                message_index_length=at - began - length,
                message_index_offsets=offsets,
                message_start_time=self._span[0],
                uncompressed_size=self._size,
            )
        )
        first = self._times[0] or self._span[0]
        self._times = min(first, self._span[0]), max(self._times[1], self._span[1])
        self._parts, self._index, self._size, self._span = [], {}, 0, (0, 0)

    def finish(self) -> None:
        """Write the index; nothing may be added afterwards."""
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
        foot = RECORD.pack(Opcode.FOOTER, 20) + struct.pack("<QQ", start, start + len(summary))
        crc = zlib.crc32(foot, zlib.crc32(summary + offsets))
        self._write([summary, offsets, foot, struct.pack("<I", crc), MAGIC])

    def _statistics(self) -> records.Statistics:
        attachments = sum(isinstance(r, records.AttachmentIndex) for r in self._summary)
        return records.Statistics(
            attachment_count=attachments,
            channel_count=len(self._channels),
            channel_message_counts=self._counts,
            chunk_count=len(self._chunks),
            message_count=sum(self._counts.values()),
            metadata_count=len(self._summary) - attachments,
            message_start_time=self._times[0],
            message_end_time=self._times[1],
            schema_count=len(self._schemas),
        )

    def _new(self, channel: Channel) -> tuple[int, bytes]:
        """Number a new channel; returns the number, and the records that declare it."""
        if channel.encoding not in self._schemas:
            number = len(self._schemas) + 1
            self._schemas[channel.encoding] = number, _bytes_of(_schema(number, channel.encoding))
        of, schema_record = self._schemas[channel.encoding]
        number = len(self._channels) + 1
        self._channels[channel] = number, schema_record + _bytes_of(_channel(number, channel, of))
        return self._channels[channel]

    def _record(self, record: records.McapRecord) -> tuple[int, int]:
        """Write a record after the open chunk; returns where it is, and its length."""
        self.close_chunk()
        at, data = self._at, _bytes_of(record)
        self._write([data])
        return at, len(data)

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
    return bytes(builder.end())


def _schema(number: int, name: str) -> records.Schema:
    return records.Schema(id=number, data=b"", encoding="", name=name)


def _channel(number: int, channel: Channel, schema: int) -> records.Channel:
    return records.Channel(
        id=number, topic=channel.topic, message_encoding=channel.encoding, schema_id=schema, metadata={}
    )
