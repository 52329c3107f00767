"""Bytes <-> messages: header, extended header, metadata, checksum and limits. No sockets.

Header versions 1 and 2 of the OpenIGTLink specification (https://github.com/openigtlink). The content between header
and metadata is in :mod:`navnode.igtl.contents`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from navnode import native
from navnode.errors import LocalError, PeerError
from navnode.igtl.contents import (
    ASCII,
    LAST_TIME_NS,
    MAX_BODY_BYTES,
    UTF8,
    Buffer,
    decode_content,
    encode_content,
    max_body_bytes,
    text_of,
    time_ns,
    wire_time,
)
from navnode.igtl.messages import Message

__all__ = ["HEADER", "HEADER_SIZE", "Header", "crc64", "decode", "decode_body", "decode_header", "encode"]

HEADER = struct.Struct(">H12s20sQQQ")
HEADER_SIZE = HEADER.size
_EXTENDED = struct.Struct(">HHII")
_META_ENTRY = struct.Struct(">HHI")
_TYPE_SIZE, _NAME_SIZE = 12, 20
_DEVICE_NAME_KEY = "IGTL_DEVICE_NAME"
_MAX_METADATA_ENTRIES = 4096

_BRIEF = 1 << 14
"""Up to this many bytes a checksum takes less time than releasing and regaining the GIL."""


class Header(NamedTuple):
    """The first 58 bytes."""

    version: int
    type: str
    device: str
    stamp: int
    """Seconds and 2^-32 seconds."""
    body_size: int
    crc: int

    @property
    def timestamp_ns(self) -> int:
        """Time stamp in nanoseconds since 1970."""
        return time_ns(self.stamp)


def crc64(data: Buffer | bytearray, crc: int = 0) -> int:
    """CRC-64 of OpenIGTLink (ECMA-182, not reflected, initial 0), continued from ``crc``."""
    if len(data) <= _BRIEF:
        checksum: int = _brief_crc64()(bytes(data), len(data), crc)
        return checksum
    return int(native.library().navnode_crc64(np.frombuffer(data, np.uint8).ctypes.data, len(data), crc))


@cache
def _brief_crc64() -> Callable[[bytes, int, int], int]:
    function: Callable[[bytes, int, int], int] = native.holding_library().navnode_crc64
    return function


def encode(message: Message, version: int | None = None) -> bytes:
    """Encode a message, at its own header version unless another is passed.

    Raises:
        LocalError: the message cannot be sent (text too long for its field, wrong shape, body too large).
    """
    version = version or message.version
    if version not in (1, 2):
        raise LocalError(f"header version {version} does not exist")
    try:
        return _encode(message, version)
    except LocalError:
        raise
    except (AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise LocalError(f"{message.type} {message.device!r}: a value does not fit the wire ({error})") from error


def _encode(message: Message, version: int) -> bytes:
    kind = message.type.encode()
    if not 0 < len(kind) <= _TYPE_SIZE:
        raise LocalError(f"message type {message.type!r} must have 1 to {_TYPE_SIZE} bytes")
    if not 0 <= message.timestamp_ns <= LAST_TIME_NS:
        raise LocalError(f"{message.type} {message.device!r}: time stamp {message.timestamp_ns} does not fit the wire")
    parts = encode_content(message)
    device = message.device.encode()
    if version == 2:
        metadata = message.metadata
        if len(device) > _NAME_SIZE:
            metadata = {**metadata, _DEVICE_NAME_KEY: message.device}
            device = device[:_NAME_SIZE]
        head, tail = _metadata(metadata, message.message_id)
        parts = [head, *parts, tail]
    elif len(device) > _NAME_SIZE:
        raise LocalError(f"device name {message.device!r} is longer than {_NAME_SIZE} bytes; use header version 2")
    size = sum(map(len, parts))
    if size <= _BRIEF:  # one checksum over one small copy is faster than one per part
        parts = [b"".join(parts)]
    crc = 0
    for part in parts:
        crc = crc64(part, crc)
    if size > MAX_BODY_BYTES:
        raise LocalError(f"{message.type} {message.device!r}: a body of {size} bytes is too large")
    stamp = wire_time(message.timestamp_ns, message.stamp)
    return b"".join((HEADER.pack(version, kind, device, stamp, size, crc), *parts))


def decode(data: Buffer | bytearray) -> Message:
    """Decode exactly one message.

    Raises:
        PeerError: the bytes are not one valid message.
    """
    header = decode_header(data)
    if len(data) != HEADER_SIZE + header.body_size:
        problem = f"{header.type}: {len(data) - HEADER_SIZE} bytes of body, the header says {header.body_size}"
        raise PeerError(problem, len(data))
    return decode_body(header, memoryview(data)[HEADER_SIZE:])


def decode_header(data: Buffer | bytearray) -> Header:
    """Decode the header at the start of ``data``; checks limits before anything is allocated.

    Raises:
        PeerError: not a header, or a body over the limit of its type.
    """
    if len(data) < HEADER_SIZE:
        raise PeerError(f"a header has {HEADER_SIZE} bytes, not {len(data)}", len(data))
    version, raw_kind, device, stamp, size, crc = HEADER.unpack_from(data)
    if version not in (1, 2):
        raise PeerError(f"header version {version} (not OpenIGTLink?)", 0)
    kind = text_of(raw_kind)
    if not kind or not kind.isascii() or not kind.isprintable():
        raise PeerError(f"message type {kind!r}", 2)
    limit = max_body_bytes(kind)
    if size > limit:
        raise PeerError(f"{kind}: a body of {size} bytes is over the limit of {limit}", 42)
    return Header(version, kind, text_of(device), stamp, size, crc)


def decode_body(header: Header, body: memoryview, *, checked: bool = False) -> Message:
    """Decode a message from its header and whole body; checks the checksum.

    Args:
        checked: leave that to the caller.

    Raises:
        PeerError: wrong checksum, contradictory lengths or impossible values.
    """
    where = f"{header.type} {header.device!r}"
    if not checked and crc64(body) != header.crc:
        raise PeerError(f"{where}: wrong CRC", 50)
    fields: dict[str, Any] = {
        "device": header.device,
        "timestamp_ns": header.timestamp_ns,
        "stamp": header.stamp,
        "version": header.version,
    }
    start = 0
    if header.version == 2:
        start, end, metadata, fields["message_id"] = _split(where, body)
        fields["device"] = metadata.pop(_DEVICE_NAME_KEY, header.device)
        fields["metadata"] = metadata
        body = body[start:end]
    try:
        return decode_content(header.type, body, fields)
    except PeerError as error:
        offset = HEADER_SIZE + start + (error.offset or 0)
        raise PeerError(f"{where}: {error.problem}", offset) from error


def _metadata(metadata: Mapping[str, str], message_id: int) -> tuple[bytes, bytes]:
    """Extended header and metadata: the bytes before the content, and those after it."""
    if not metadata:
        return _EXTENDED.pack(_EXTENDED.size, 2, 0, message_id), b"\0\0"
    if len(metadata) > _MAX_METADATA_ENTRIES:
        raise LocalError(f"{len(metadata)} metadata entries; at most {_MAX_METADATA_ENTRIES} can be sent")
    entries: list[bytes] = []
    texts: list[bytes] = []
    for key, value in sorted(metadata.items()):  # the order of the reference implementation
        raw_key, raw_value = key.encode(), value.encode()
        if len(raw_key) > 0xFFFF:
            raise LocalError(f"a metadata key of {len(raw_key)} bytes cannot be sent")
        entries.append(_META_ENTRY.pack(len(raw_key), ASCII if value.isascii() else UTF8, len(raw_value)))
        texts += (raw_key, raw_value)
    head, data = struct.pack(">H", len(entries)) + b"".join(entries), b"".join(texts)
    return _EXTENDED.pack(_EXTENDED.size, len(head), len(data), message_id), head + data


def _split(where: str, body: memoryview) -> tuple[int, int, dict[str, str], int]:
    """Start and end of the content, the metadata, and the message's id."""
    if len(body) < _EXTENDED.size:
        raise PeerError(f"{where}: the body is too short for the extended header", HEADER_SIZE)
    extended_size, head_size, data_size, message_id = _EXTENDED.unpack_from(body)
    end = len(body) - head_size - data_size
    if extended_size < _EXTENDED.size or end < extended_size:
        raise PeerError(f"{where}: the lengths exceed the body", HEADER_SIZE)
    metadata: dict[str, str] = {}
    if head_size:
        count = int.from_bytes(body[end : end + 2], "big")
        if head_size != 2 + count * _META_ENTRY.size or count > _MAX_METADATA_ENTRIES:
            raise PeerError(f"{where}: {count} metadata entries do not fill {head_size} bytes", HEADER_SIZE + end)
        at = end + head_size
        for key_size, _, value_size in _META_ENTRY.iter_unpack(body[end + 2 : end + head_size]):
            if at + key_size + value_size > len(body):
                raise PeerError(f"{where}: a metadata entry reaches beyond the body", HEADER_SIZE + at)
            key = bytes(body[at : at + key_size]).decode("utf-8", "replace")
            at += key_size
            metadata[key] = bytes(body[at : at + value_size]).decode("utf-8", "replace")
            at += value_size
    return extended_size, end, metadata, message_id
