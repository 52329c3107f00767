"""OpenIGTLink by pyigtl's own packing; stamps to the nanosecond, which its floating-point seconds cannot hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyigtl
from pyigtl.messages import MessageBase

_HEAD = struct.Struct("> H 12s 20s Q Q Q")
_STAMP_AT = 34


def packed(message: MessageBase, **metadata: str) -> bytearray:
    """A message in header version 2, without a stamp (its CRC does not cover the header)."""
    message.header_version, message.metadata = 2, metadata
    return bytearray(message.pack())


def transform(device: str, matrix: np.ndarray, **metadata: str) -> bytearray:
    return packed(pyigtl.TransformMessage(matrix, device_name=device), **metadata)


def image(device: str, counts: np.ndarray, pixel_mm: float, **metadata: str) -> bytearray:
    index_to_ras = np.diag([pixel_mm, pixel_mm, 1.0, 1.0])
    told = pyigtl.ImageMessage(counts[None], index_to_ras, "ras", device_name=device)
    return packed(told, **metadata)


def command(number: int, name: str, **parameters: str) -> bytearray:
    told = "".join(f' {key}="{value}"' for key, value in parameters.items())
    return packed(pyigtl.StringMessage(f'<Command Name="{name}"{told}/>', device_name=f"CMD_{number}"))


def stamped(wire: bytearray | bytes, stamp_ns: int) -> bytes:
    seconds, rest_ns = divmod(stamp_ns, 1_000_000_000)
    again = bytearray(wire)
    struct.pack_into("> II", again, _STAMP_AT, seconds, (rest_ns << 32) // 1_000_000_000)
    return bytes(again)


class _Status(MessageBase):
    """STATUS, which pyigtl lacks."""

    def _unpack_content(self, content: bytes) -> None:
        self.string = content[30:].decode().rstrip("\0")


_KINDS = {"TRANSFORM": pyigtl.TransformMessage, "STRING": pyigtl.StringMessage, "STATUS": _Status}


@dataclass(frozen=True)
class Heard:
    """One message as it came."""

    kind: str
    device: str
    stamp_ns: int
    arrived_ns: int
    """By the room's clock."""
    metadata: dict[str, str]
    matrix: np.ndarray | None
    """(4, 4) of a TRANSFORM."""
    text: str
    """Of a STRING or a STATUS."""


class Splitter:
    """Bytes in any pieces -> messages; images and meshes without their contents."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes, arrived_ns: int) -> Iterator[Heard]:
        self._bytes += data
        while len(self._bytes) >= _HEAD.size:
            version, _, _, stamp, size, _ = _HEAD.unpack_from(self._bytes)
            assert version in (1, 2) and size < 1 << 28, f"not OpenIGTLink: {bytes(self._bytes[:58])!r}"
            if len(self._bytes) < _HEAD.size + size:
                return
            head, body = bytes(self._bytes[: _HEAD.size]), bytes(self._bytes[_HEAD.size : _HEAD.size + size])
            del self._bytes[: _HEAD.size + size]
            fields = MessageBase.parse_header(head)
            message = _KINDS.get(fields["message_type"], MessageBase)()
            message.unpack(fields, body)
            yield Heard(
                fields["message_type"],
                fields["device_name"],
                (stamp >> 32) * 1_000_000_000 + ((stamp & 0xFFFF_FFFF) * 1_000_000_000 + (1 << 31) >> 32),
                arrived_ns,
                message.metadata,
                np.asarray(message.matrix, float) if isinstance(message, pyigtl.TransformMessage) else None,
                str(getattr(message, "string", "")),
            )
