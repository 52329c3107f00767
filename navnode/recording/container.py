"""MCAP files, byte by byte (https://mcap.dev/spec): chunks without compression, each whole in itself.

The library's writer ends a chunk by its size only, and copies every message four times; its reader allocates what a
file says. Here a chunk goes to the disk from where its messages lie, ends after a second at the latest, and repeats the
channels it uses, so that whatever happens to the rest of a file it can be read. Small records are the library's.
docs/decisions/0012 says more. Here are records, limits and what files hold; ``writer`` writes, ``reader`` reads.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAGIC = b"\x89MCAP0\r\n"
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 30
"""Longer records than any that a session has are damage."""
MAX_CHUNK_BYTES = 1 << 29
"""Of a chunk once it is decompressed."""

RECORD = struct.Struct("<BQ")
MESSAGE = struct.Struct("<BQHIQQ")
MESSAGE_BODY = struct.Struct("<HIQQ")
CHUNK = struct.Struct("<BQQQQIIQ")  # with an empty name of a compression
CHUNK_BODY = struct.Struct("<QQQI")
FOOTER = struct.Struct("<BQQQI")
CHUNK_INDEX = struct.Struct("<QQQQ")

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
