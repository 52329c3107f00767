"""OpenIGTLink as a console needs it: bytes to messages, and the messages that a console sends. NumPy alone.

3D Slicer's Python is older than navnode's, and its own OpenIGTLink modules know neither TRAJ nor SENSOR and hand on no
metadata, which state whether a pose may be shown; hence this reader. It reads header version 2 of protocol 3.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

__all__ = ["Framer", "Image", "Message", "PolyData", "Trajectory", "WireError", "command", "hello"]

_HEADER = struct.Struct(">H12s20sQQQ")
_EXTENDED = struct.Struct(">HHII")
_KEY = struct.Struct(">HHI")
_IMAGE = struct.Struct(">HBBBB3H12f3H3H")
_POLYDATA = struct.Struct(">10I")
_TRAJECTORY = struct.Struct(">64s32sBB4B3f3ff20s")
_COMMAND = struct.Struct(">I128sHI")
_STATUS = struct.Struct(">Hq20s")
_SENSOR = struct.Struct(">BBQ")
_SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}
_US_ASCII = 3

_MOST_BYTES = 1 << 28
"""Of one message: more than any volume that a node makes."""
_CHECKED_BYTES = 1 << 14
"""Checksums in plain Python take 0.1 ms a kilobyte: poses, plans and states are checked, pictures and
surfaces are not."""

_POLYNOMIAL, _64_BITS = 0x42F0E1EBA9EA3693, (1 << 64) - 1


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 56
        for _ in range(8):
            crc = ((crc << 1) & _64_BITS) ^ (_POLYNOMIAL if crc >> 63 else 0)
        table.append(crc)
    return table


_CRC = _crc_table()


class WireError(Exception):
    """What arrived is no OpenIGTLink message, or a damaged one: the connection must be closed."""


@dataclass(frozen=True)
class Message:
    """A message; ``content`` is what its type holds.

    TRANSFORM: (4, 4) in mm. STATUS: text. SENSOR: (N,). IMAGE: :class:`Image`. POLYDATA: :class:`PolyData`.
    TRAJ: a list of :class:`Trajectory`. RTS_COMMAND: its number. Others: None.
    """

    type: str
    device: str
    stamp: int
    """The time stamp as it came: seconds in units of 2**-32."""
    metadata: dict[str, str]
    content: Any


@dataclass(frozen=True)
class Image:
    """A picture or volume."""

    voxels: np.ndarray
    """(k, j, i)"""
    ras_from_index: np.ndarray
    """(4, 4): voxel (i, j, k, 1) to mm."""


@dataclass(frozen=True)
class PolyData:
    """Points, lines and triangles."""

    points_mm: np.ndarray
    """(N, 3)"""
    lines: np.ndarray
    """Flat cells as in VTK: (n, i1 ... in, n ...)."""
    polygons: np.ndarray
    """Likewise."""


@dataclass(frozen=True)
class Trajectory:
    """A plan from entry to target."""

    name: str
    entry_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    rgba: tuple[int, int, int, int]


@dataclass
class Framer:
    """Bytes as they arrive to messages."""

    _held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Message]:
        """All messages that are complete now.

        Raises:
            WireError: the bytes are no messages.
        """
        self._held += data
        messages = []
        while len(self._held) >= _HEADER.size:
            version, kind, device, stamp, size, crc = _HEADER.unpack_from(self._held)
            if version not in (1, 2):
                raise WireError(f"header version {version}")
            if size > _MOST_BYTES:
                raise WireError(f"a message of {size} bytes")
            end = _HEADER.size + size
            if len(self._held) < end:
                break
            body = bytes(self._held[_HEADER.size : end])
            del self._held[:end]
            if size <= _CHECKED_BYTES and crc != crc64(body):
                raise WireError(f"wrong checksum of {_text(kind)} {_text(device)}")
            messages.append(_message(version, _text(kind), _text(device), stamp, body))
        return messages


def command(number: int, name: str, parameters: dict[str, str]) -> bytes:
    """A COMMAND: ``<Command Name="..." Key="..."/>``."""
    attributes = "".join(f" {key}={quoteattr(value)}" for key, value in {"Name": name, **parameters}.items())
    text = f"<Command{attributes}/>".encode()
    return _framed("COMMAND", _COMMAND.pack(number, name.encode()[:127], _US_ASCII, len(text)) + text)


def hello() -> bytes:
    """A CLIENTINFO of version 2: the sender reads and obeys the status of transforms."""
    text = b"<ClientInfo/>"
    return _framed("CLIENTINFO", struct.pack(">HH", _US_ASCII, len(text)) + text)


def crc64(data: bytes) -> int:
    """Checksum of a body (ECMA-182, as in OpenIGTLink)."""
    crc = 0
    for byte in data:
        crc = ((crc << 8) & _64_BITS) ^ _CRC[(crc >> 56) ^ byte]
    return crc


def _framed(kind: str, content: bytes) -> bytes:
    body = _EXTENDED.pack(_EXTENDED.size, 2, 0, 0) + content + struct.pack(">H", 0)
    stamp = time.time_ns() * (1 << 32) // 1_000_000_000
    return _HEADER.pack(2, kind.encode(), b"NavnodeConsole", stamp, len(body), crc64(body)) + body


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _message(version: int, kind: str, device: str, stamp: int, body: bytes) -> Message:
    metadata: dict[str, str] = {}
    try:
        if version == 2:
            size, keys_size, values_size, _ = _EXTENDED.unpack_from(body)
            start, end = size, len(body) - keys_size - values_size
            if not _EXTENDED.size <= start <= end:
                raise WireError(f"contradictory sizes in {kind} {device}")
            metadata = _metadata(body[end : end + keys_size], body[end + keys_size :])
            body = body[start:end]
        read = _READ.get(kind)
        content = read(body) if read else None
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise WireError(f"{kind} {device} cannot be read ({error})") from error
    return Message(kind, metadata.get("IGTL_DEVICE_NAME", device), stamp, metadata, content)


def _metadata(keys: bytes, values: bytes) -> dict[str, str]:
    metadata, at = {}, 0
    (count,) = struct.unpack_from(">H", keys)
    for number in range(count):
        key_size, _, value_size = _KEY.unpack_from(keys, 2 + number * _KEY.size)
        key = values[at : at + key_size].decode("utf-8", "replace")
        metadata[key] = values[at + key_size : at + key_size + value_size].decode("utf-8", "replace")
        at += key_size + value_size
    return metadata


def _transform(content: bytes) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3] = np.frombuffer(content, ">f4", 12).reshape(4, 3).T
    return matrix


def _image(content: bytes) -> Image:
    head = _IMAGE.unpack_from(content)
    _, components, scalar, endian, coordinates, *size = head[:8]
    if components != 1 or list(head[20:23]) != [0, 0, 0] or list(head[23:26]) != size:
        raise ValueError("parts and colours are not read")
    kind = np.dtype((">" if endian == 1 else "<") + _SCALARS[scalar])
    voxels = np.frombuffer(content, kind, int(np.prod(size, dtype=np.int64)), _IMAGE.size).reshape(size[::-1])
    ras_from_index = np.eye(4)
    ras_from_index[:3] = np.array(head[8:20]).reshape(4, 3).T
    if coordinates == 2:  # LPS
        ras_from_index[:2] *= -1
    # The wire states the middle of the volume.
    ras_from_index[:3, 3] -= ras_from_index[:3, :3] @ ((np.array(size) - 1) / 2)
    return Image(voxels.astype(kind.newbyteorder("=")), ras_from_index)


def _polydata(content: bytes) -> PolyData:
    count, *sizes, _ = _POLYDATA.unpack_from(content)
    points_mm = np.frombuffer(content, ">f4", 3 * count, _POLYDATA.size).reshape(-1, 3).astype(np.float32)
    at, cells = _POLYDATA.size + 12 * count, []
    for size in sizes[1::2]:
        cells.append(np.frombuffer(content, ">u4", size // 4, at).astype(np.int64))
        at += size
    _, lines, polygons, _ = cells
    for flat in (lines, polygons):
        _check_cells(flat, count)
    return PolyData(points_mm, lines, polygons)


def _check_cells(flat: np.ndarray, count: int) -> None:
    """Raises ValueError where a cell names a point that there is not: VTK would read beyond its memory."""
    for width in (3, 2):
        if flat.size % (width + 1) == 0 and (flat[:: width + 1] == width).all():
            if (flat.reshape(-1, width + 1)[:, 1:] >= count).any():
                raise ValueError("a cell names a missing point")
            return
    at = 0
    while at < flat.size:
        end = at + 1 + int(flat[at])
        if end > flat.size or (flat[at + 1 : end] >= count).any():
            raise ValueError("a cell names a missing point")
        at = end


def _trajectories(content: bytes) -> list[Trajectory]:
    elements = _TRAJECTORY.iter_unpack(content)
    return [Trajectory(_text(each[0]), each[8:11], each[11:14], each[4:8]) for each in elements]


def _status(content: bytes) -> str:
    return _text(content[_STATUS.size :])


def _sensor(content: bytes) -> np.ndarray:
    count, _, _ = _SENSOR.unpack_from(content)
    return np.frombuffer(content, ">f8", count, _SENSOR.size).astype(float)


def _reply(content: bytes) -> int:
    number: int = _COMMAND.unpack_from(content)[0]
    return number


_READ = {
    "TRANSFORM": _transform,
    "IMAGE": _image,
    "POLYDATA": _polydata,
    "TRAJ": _trajectories,
    "STATUS": _status,
    "SENSOR": _sensor,
    "RTS_COMMAND": _reply,
}
