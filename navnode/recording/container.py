"""MCAP files (https://mcap.dev/spec): records and limits shared by ``writer`` and ``reader``.

Chunks are uncompressed and self-contained. The library's writer ends a chunk by its size only, and copies every message
four times; its reader allocates whatever a file states. Here a chunk is written without copying its messages, ends
after a second at the latest, and repeats the channels it uses, so that it can be read whatever happens to the rest of
the file. The library handles small records. See docs/decisions/0012.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "CHUNK",
    "CHUNK_BODY",
    "CHUNK_BYTES",
    "CHUNK_INDEX",
    "Channel",
    "ChunkAt",
    "Entry",
    "FOOTER",
    "MAGIC",
    "MAX_CHUNK_BYTES",
    "MAX_RECORD_BYTES",
    "MESSAGE",
    "MESSAGE_BODY",
    "Parts",
    "RECORD",
]

MAGIC = b"\x89MCAP0\r\n"
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 30
"""No session has longer records; a longer one is damage."""
MAX_CHUNK_BYTES = 1 << 29
"""Largest chunk, after decompression."""

RECORD = struct.Struct("<BQ")
MESSAGE = struct.Struct("<BQHIQQ")
MESSAGE_BODY = struct.Struct("<HIQQ")
CHUNK = struct.Struct("<BQQQQIIQ")  # the compression's name is empty
CHUNK_BODY = struct.Struct("<QQQI")
FOOTER = struct.Struct("<BQQQI")
CHUNK_INDEX = struct.Struct("<QQQQ")

Parts = Sequence[bytes | memoryview]


class Channel(NamedTuple):
    """Topic and encoding of messages."""

    topic: str
    encoding: str


class Entry(NamedTuple):
    """One message of a file; ``data`` is a view of the chunk."""

    channel: Channel
    sequence: int
    log_time_ns: int
    publish_time_ns: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """Where a chunk is in the file, and its time span."""

    offset: int
    length: int
    """Length of the whole record."""
    start_ns: int
    end_ns: int
    bare: bool = False
    """Messages without a chunk around them, from another writer."""
