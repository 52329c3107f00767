"""OpenIGTLink messages: bytes <-> frozen objects, no sockets.

Header versions 1 and 2 (protocol 1-3) of the OpenIGTLink specification, https://github.com/openigtlink.
Types without a class here pass through as :class:`Raw`. Poses and images are RAS, millimetres.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from navnode import native
from navnode.errors import LocalError, PeerError
from navnode.types import Array, FloatArray, Matrix

HEADER = struct.Struct(">H12s20sQQQ")
HEADER_SIZE = HEADER.size
_EXTENDED = struct.Struct(">HHII")
_META_ENTRY = struct.Struct(">HHI")
_UTF8, _ASCII = 106, 3
_TYPE_SIZE, _NAME_SIZE = 12, 20
_LAST_STAMP_NS = (10**9 << 32) - 1
_DEVICE_NAME_KEY = "IGTL_DEVICE_NAME"

MAX_BODY_BYTES = 1 << 29
"""No body larger than this is received or sent."""

MAX_BODY_BYTES_OF: Mapping[str, int] = {
    "TRANSFORM": 1 << 16, "POSITION": 1 << 16, "QTDATA": 1 << 20, "TDATA": 1 << 20, "STATUS": 1 << 20,
    "STRING": 1 << 20, "CAPABILITY": 1 << 20, "POINT": 1 << 26, "COMMAND": 1 << 24, "RTS_COMMAND": 1 << 24,
}  # fmt: skip
_MAX_BODY_OF_QUERY = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Message:
    """What every message carries."""

    TYPE: ClassVar[str] = ""

    device: str = ""
    timestamp_ns: int = 0
    """Nanoseconds since 1970; the wire keeps 2^-32 s, fine enough to get every nanosecond back."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Header version 2 only."""
    version: int = 1
    """Header version."""

    @property
    def type(self) -> str:
        return self.TYPE


@dataclass(frozen=True, kw_only=True)
class Raw(Message):
    """A message of a type without a class of its own, or a query (GET_, STT_, STP_)."""

    type_name: str
    body: bytes = b""

    @property
    def type(self) -> str:
        return self.type_name


@dataclass(frozen=True, kw_only=True)
class Transform(Message):
    """A rigid or affine transform, ``AToB`` = b_from_a."""

    TYPE: ClassVar[str] = "TRANSFORM"
    matrix: Matrix
    """4x4; float32 on the wire."""


@dataclass(frozen=True, kw_only=True)
class Image(Message):
    """A 2-D or 3-D image."""

    TYPE: ClassVar[str] = "IMAGE"
    voxels: Array
    """(k, j, i) or (k, j, i, components)"""
    ras_from_index: Matrix
    """4x4, mm; the wire holds the position of the volume's centre, this that of voxel (0, 0, 0)."""


@dataclass(frozen=True, kw_only=True)
class StatusMessage(Message):
    """How a device is."""

    TYPE: ClassVar[str] = "STATUS"
    OK: ClassVar[int] = 1
    NOT_READY: ClassVar[int] = 13
    code: int = 1
    subcode: int = 0
    error_name: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class String(Message):
    TYPE: ClassVar[str] = "STRING"
    text: str


@dataclass(frozen=True, kw_only=True)
class Capability(Message):
    """The message types a peer understands."""

    TYPE: ClassVar[str] = "CAPABILITY"
    types: tuple[str, ...]


@dataclass(frozen=True)
class PointElement:
    name: str
    position_mm: tuple[float, float, float]
    group: str = ""
    rgba: tuple[int, int, int, int] = (255, 255, 0, 255)
    diameter_mm: float = 0.0
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class Point(Message):
    TYPE: ClassVar[str] = "POINT"
    points: tuple[PointElement, ...]


@dataclass(frozen=True)
class TrackedElement:
    """One instrument of a TDATA message."""

    name: str
    matrix: Matrix
    kind: int = 2
    """1 tracker, 2 6-D instrument, 3 3-D instrument, 4 5-D instrument"""


@dataclass(frozen=True, kw_only=True)
class TrackingData(Message):
    TYPE: ClassVar[str] = "TDATA"
    elements: tuple[TrackedElement, ...]


@dataclass(frozen=True, kw_only=True)
class PolyData(Message):
    """A surface or lines; attributes are not read."""

    TYPE: ClassVar[str] = "POLYDATA"
    points_mm: FloatArray
    """(N, 3)"""
    lines: tuple[tuple[int, ...], ...] = ()
    triangles: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, 3), np.uint32))
    """(M, 3)"""


@dataclass(frozen=True)
class Header:
    """The first 58 bytes."""

    version: int
    type: str
    device: str
    timestamp_ns: int
    body_size: int
    crc: int


def crc64(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC-64 of OpenIGTLink (ECMA-182, not reflected, initial 0)."""
    buffer = np.frombuffer(data, np.uint8)
    return int(native.library().navnode_crc64(buffer.ctypes.data, buffer.size, crc))


def encode(message: Message, version: int | None = None) -> bytes:
    """The bytes of a message, at its own header version or the given one.

    Raises:
        LocalError: the message cannot be sent (name too long for version 1, body too large, wrong shape).
    """
    version = version or message.version
    if version not in (1, 2):
        raise LocalError(f"header version {version} does not exist")
    if len(message.type.encode()) > _TYPE_SIZE:
        raise LocalError(f"message type {message.type!r} is longer than {_TYPE_SIZE} bytes")
    content = _encode_content(message)
    metadata = dict(message.metadata)
    device = message.device.encode()
    if len(device) > _NAME_SIZE:
        if version < 2:
            raise LocalError(f"device name {message.device!r} is longer than {_NAME_SIZE} bytes; use version 2")
        metadata[_DEVICE_NAME_KEY] = message.device
        device = device[:_NAME_SIZE]
    if not 0 <= message.timestamp_ns <= _LAST_STAMP_NS:
        raise LocalError(f"{message.type} {message.device!r}: time stamp {message.timestamp_ns} does not fit the wire")
    body = content if version == 1 else _with_metadata(content, metadata)
    if len(body) > MAX_BODY_BYTES:
        raise LocalError(f"{message.type} {message.device!r}: a body of {len(body)} bytes is too large")
    stamp = (message.timestamp_ns // 10**9 << 32) | ((message.timestamp_ns % 10**9 << 32) + 5 * 10**8) // 10**9
    header = HEADER.pack(version, message.type.encode(), device, stamp, len(body), crc64(body))
    return header + body


def decode(data: bytes | bytearray | memoryview) -> Message:
    """The message in exactly these bytes.

    Raises:
        PeerError: anything about the bytes that is not a message.
    """
    header = decode_header(data)
    if len(data) != HEADER_SIZE + header.body_size:
        raise PeerError(f"{header.type}: {len(data) - HEADER_SIZE} bytes of body, the header says {header.body_size}")
    return decode_body(header, memoryview(data)[HEADER_SIZE:])


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """The header at the start of ``data``; limits are checked here, before anything is allocated."""
    if len(data) < HEADER_SIZE:
        raise PeerError(f"a header has {HEADER_SIZE} bytes, not {len(data)}")
    version, type_name, device, stamp, size, crc = HEADER.unpack_from(data)
    if version not in (1, 2):
        raise PeerError(f"header version {version} at offset 0 (not OpenIGTLink?)")
    kind = _text(type_name, "message type")
    if not kind:
        raise PeerError("empty message type at offset 2")
    query = kind.startswith(("GET_", "STT_", "STP_"))
    limit = _MAX_BODY_OF_QUERY if query else MAX_BODY_BYTES_OF.get(kind, MAX_BODY_BYTES)
    if size > limit:
        raise PeerError(f"{kind}: a body of {size} bytes at offset 42 is over the limit of {limit}")
    timestamp_ns = min((stamp >> 32) * 10**9 + ((stamp & 0xFFFFFFFF) * 10**9 + 2**31 >> 32), _LAST_STAMP_NS)
    return Header(version, kind, _text(device, "device name"), timestamp_ns, size, crc)


def decode_body(header: Header, body: memoryview) -> Message:
    """The message of a header and its whole body; the CRC is checked.

    Raises:
        PeerError: wrong CRC, lengths that contradict each other, values that cannot be.
    """
    if crc64(body) != header.crc:
        raise PeerError(f"{header.type} {header.device!r}: wrong CRC")
    content, metadata = (body, {}) if header.version == 1 else _split_metadata(header, body)
    device = metadata.pop(_DEVICE_NAME_KEY, header.device)
    common: dict[str, Any] = {
        "device": device, "timestamp_ns": header.timestamp_ns, "metadata": metadata, "version": header.version,
    }  # fmt: skip
    decoder = _DECODERS.get(header.type)
    if decoder is None:
        return Raw(type_name=header.type, body=bytes(content), **common)
    try:
        return decoder(content, common)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise PeerError(f"{header.type} {header.device!r}: {error}") from error


# --- metadata ----------------------------------------------------------------------------------------


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    entries, texts = [], []
    for key, value in sorted(metadata.items()):  # the order of the reference implementation
        key_bytes, value_bytes = key.encode(), value.encode()
        entries.append(_META_ENTRY.pack(len(key_bytes), _ASCII if value.isascii() else _UTF8, len(value_bytes)))
        texts += [key_bytes, value_bytes]
    header, data = struct.pack(">H", len(entries)) + b"".join(entries), b"".join(texts)
    return _EXTENDED.pack(_EXTENDED.size, len(header), len(data), 0) + content + header + data


def _split_metadata(header: Header, body: memoryview) -> tuple[memoryview, dict[str, str]]:
    where = f"{header.type} {header.device!r}"
    if len(body) < _EXTENDED.size:
        raise PeerError(f"{where}: no room for the extended header")
    extended_size, header_size, data_size, _ = _EXTENDED.unpack_from(body)
    content_end = len(body) - header_size - data_size
    if extended_size < _EXTENDED.size or content_end < extended_size:
        raise PeerError(f"{where}: the lengths at offset {HEADER_SIZE} are more than the body holds")
    metadata: dict[str, str] = {}
    if header_size:
        if header_size < 2:
            raise PeerError(f"{where}: metadata header of {header_size} bytes")
        (count,) = struct.unpack_from(">H", body, content_end)
        if header_size != 2 + count * _META_ENTRY.size:
            raise PeerError(f"{where}: {count} metadata entries do not fill {header_size} bytes")
        at = content_end + header_size
        for entry in range(count):
            key_size, _, value_size = _META_ENTRY.unpack_from(body, content_end + 2 + entry * _META_ENTRY.size)
            if at + key_size + value_size > len(body):
                raise PeerError(f"{where}: metadata entry {entry} reaches beyond the body")
            key = bytes(body[at : at + key_size]).decode("utf-8", "replace")
            metadata[key] = bytes(body[at + key_size : at + key_size + value_size]).decode("utf-8", "replace")
            at += key_size + value_size
    return body[extended_size:content_end], metadata


# --- contents ----------------------------------------------------------------------------------------

_IMAGE = struct.Struct(">HBBBB3H12f3H3H")
_IMAGE_VERSION = 1  # the C++ library ignores images of any other, without a word
_SCALARS: Mapping[int, str] = {
    2: "i1",
    3: "u1",
    4: "i2",
    5: "u2",
    6: "i4",
    7: "u4",
    10: "f4",
    11: "f8",
    13: "c16",
}
_SCALAR_CODES = {np.dtype(code): number for number, code in _SCALARS.items()}
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _encode_content(message: Message) -> bytes:
    match message:
        case Raw():
            return message.body
        case Transform():
            return _matrix_bytes(message.matrix)
        case Image():
            return _encode_image(message)
        case StatusMessage():
            text = message.text.encode() + b"\0"
            return struct.pack(">Hq20s", message.code, message.subcode, message.error_name.encode()[:20]) + text
        case String():
            text = message.text.encode()
            if len(text) > 0xFFFF:
                raise LocalError(f"STRING {message.device!r}: {len(text)} bytes are more than it can hold")
            return struct.pack(">HH", _ASCII if message.text.isascii() else _UTF8, len(text)) + text
        case Capability():
            return b"".join(struct.pack("12s", name.encode()) for name in message.types)
        case Point():
            return b"".join(
                _POINT.pack(p.name.encode()[:64], p.group.encode()[:32], *p.rgba, *p.position_mm, p.diameter_mm,
                            p.owner.encode()[:20])
                for p in message.points
            )  # fmt: skip
        case TrackingData():
            return b"".join(
                struct.pack(">20sBB", e.name.encode()[:20], e.kind, 0) + _matrix_bytes(e.matrix)
                for e in message.elements
            )
        case PolyData():
            return _encode_polydata(message)
    raise LocalError(f"{type(message).__name__} cannot be sent")


def _matrix_bytes(matrix: Matrix) -> bytes:
    """Columns one after the other, last row left out."""
    if np.shape(matrix) != (4, 4):
        raise LocalError(f"a transform is 4x4, not {np.shape(matrix)}")
    return np.asarray(matrix)[:3].T.astype(">f4").tobytes()


def _matrix(content: memoryview, offset: int = 0) -> Matrix:
    matrix = np.eye(4)
    matrix[:3] = np.frombuffer(content, ">f4", 12, offset).reshape(4, 3).T
    return matrix


def _encode_image(message: Image) -> bytes:
    voxels = message.voxels if message.voxels.ndim == 4 else message.voxels[..., None]
    if voxels.ndim != 4 or voxels.dtype not in _SCALAR_CODES:
        raise LocalError(f"IMAGE {message.device!r}: {message.voxels.dtype} {message.voxels.shape} cannot be sent")
    k, j, i, components = voxels.shape
    if max(i, j, k) > 0xFFFF or components > 0xFF:
        raise LocalError(f"IMAGE {message.device!r}: {voxels.shape} is too large for the wire")
    axes = message.ras_from_index[:3, :3]
    center = message.ras_from_index[:3, 3] + axes @ ((np.array([i, j, k]) - 1) / 2)
    native_order = np.ascontiguousarray(voxels).astype(voxels.dtype.newbyteorder("<"), copy=False)
    head = _IMAGE.pack(
        _IMAGE_VERSION,
        components,
        _SCALAR_CODES[voxels.dtype],
        2,
        1,
        i,
        j,
        k,
        *axes.T.ravel(),
        *center,
        0,
        0,
        0,
        i,
        j,
        k,
    )
    return head + native_order.tobytes()


def _decode_image(content: memoryview, common: dict[str, Any]) -> Image:
    fields = _IMAGE.unpack_from(content)
    _, components, scalar, endian, coordinates, i, j, k = fields[:8]
    matrix, offset, part = fields[8:20], fields[20:23], fields[23:26]
    if scalar not in _SCALARS:
        raise ValueError(f"unknown scalar type {scalar}")
    if 0 in (i, j, k, components) or 0 in part:
        raise ValueError(f"an image of {i} x {j} x {k} voxels, {components} components")
    if any(o + n > full for o, n, full in zip(offset, part, (i, j, k), strict=True)):
        raise ValueError("the sub-volume reaches beyond the image")
    dtype = np.dtype(_SCALARS[scalar]).newbyteorder(">" if endian == 1 else "<")
    count = part[0] * part[1] * part[2] * components
    if _IMAGE.size + count * dtype.itemsize != len(content):
        raise ValueError(f"{len(content) - _IMAGE.size} bytes of voxels, {count * dtype.itemsize} expected")
    voxels = np.frombuffer(content, dtype, count, _IMAGE.size).reshape(*part[::-1], components)
    voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
    ras_from_index = np.eye(4)
    ras_from_index[:3, :3] = np.reshape(matrix[:9], (3, 3)).T
    ras_from_index[:3, 3] = matrix[9:]
    if not np.isfinite(ras_from_index).all():
        raise ValueError("the image's position is no number")
    ras_from_index[:3, 3] -= ras_from_index[:3, :3] @ ((np.array([i, j, k]) - 1) / 2 - np.array(offset))
    if coordinates == 2:
        ras_from_index = _LPS @ ras_from_index
    return Image(voxels=voxels[..., 0] if components == 1 else voxels, ras_from_index=ras_from_index, **common)


def _decode_status(content: memoryview, common: dict[str, Any]) -> StatusMessage:
    code, subcode, name = struct.unpack_from(">Hq20s", content)
    text = bytes(content[30:]).rstrip(b"\0").decode("utf-8", "replace")
    return StatusMessage(code=code, subcode=subcode, error_name=_text(name, "error name"), text=text, **common)


def _decode_string(content: memoryview, common: dict[str, Any]) -> String:
    _, length = struct.unpack_from(">HH", content)
    if len(content) != 4 + length:
        raise ValueError(f"{len(content) - 4} bytes of text, {length} expected")
    return String(text=bytes(content[4:]).decode("utf-8", "replace"), **common)


def _decode_capability(content: memoryview, common: dict[str, Any]) -> Capability:
    if len(content) % 12:
        raise ValueError(f"{len(content)} bytes are no list of 12-byte names")
    names = (bytes(content[at : at + 12]) for at in range(0, len(content), 12))
    return Capability(types=tuple(_text(name, "type") for name in names), **common)


_POINT = struct.Struct(">64s32s4B3ff20s")


def _decode_point(content: memoryview, common: dict[str, Any]) -> Point:
    if len(content) % _POINT.size:
        raise ValueError(f"{len(content)} bytes are no list of points")
    points = []
    for name, group, r, gr, b, a, x, y, z, diameter, owner in _POINT.iter_unpack(content):
        points.append(PointElement(_text(name, "name"), (x, y, z), _text(group, "group"), (r, gr, b, a), diameter,
                                   _text(owner, "owner")))  # fmt: skip
    return Point(points=tuple(points), **common)


_TRACKED_SIZE = 70


def _decode_tracking(content: memoryview, common: dict[str, Any]) -> TrackingData:
    if len(content) % _TRACKED_SIZE:
        raise ValueError(f"{len(content)} bytes are no list of instruments")
    elements = []
    for at in range(0, len(content), _TRACKED_SIZE):
        name, kind, _ = struct.unpack_from(">20sBB", content, at)
        elements.append(TrackedElement(_text(name, "name"), _matrix(content, at + 22), kind))
    return TrackingData(elements=tuple(elements), **common)


_POLYDATA = struct.Struct(">10I")


def _encode_polydata(message: PolyData) -> bytes:
    points = np.ascontiguousarray(message.points_mm, ">f4").reshape(-1, 3)
    lines = b"".join(struct.pack(f">{len(line) + 1}I", len(line), *line) for line in message.lines)
    cells = np.empty((len(message.triangles), 4), ">u4")
    cells[:, 0] = 3
    cells[:, 1:] = message.triangles
    head = _POLYDATA.pack(len(points), 0, 0, len(message.lines), len(lines), len(cells), cells.nbytes, 0, 0, 0)
    return head + points.tobytes() + lines + cells.tobytes()


def _decode_polydata(content: memoryview, common: dict[str, Any]) -> PolyData:
    n_points, _, verts_size, n_lines, lines_size, n_polys, polys_size, _, strips_size, _ = _POLYDATA.unpack_from(
        content
    )
    sections = [_POLYDATA.size, n_points * 12, verts_size, lines_size, polys_size, strips_size]
    ends = np.cumsum(sections)
    if ends[-1] > len(content):
        raise ValueError(f"{ends[-1]} bytes of points and cells in a body of {len(content)}")
    points = np.frombuffer(content, ">f4", n_points * 3, ends[0]).reshape(-1, 3).astype(np.float32)
    lines = _cells(content[ends[2] : ends[3]], n_lines, n_points)
    polygons = _cells(content[ends[3] : ends[4]], n_polys, n_points)
    fans = [(cell[0], cell[a], cell[a + 1]) for cell in polygons for a in range(1, len(cell) - 1)]
    triangles = np.array(fans, np.uint32).reshape(-1, 3)
    return PolyData(points_mm=points, lines=tuple(lines), triangles=triangles, **common)


def _cells(section: memoryview, count: int, points: int) -> list[tuple[int, ...]]:
    words = np.frombuffer(section, ">u4").tolist()
    cells, at = [], 0
    for _ in range(count):
        if at >= len(words) or at + 1 + words[at] > len(words):
            raise ValueError("a cell reaches beyond its section")
        cell = tuple(words[at + 1 : at + 1 + words[at]])
        if any(index >= points for index in cell):
            raise ValueError("a cell names a point that does not exist")
        cells.append(cell)
        at += 1 + words[at]
    return cells


def _decode_transform(content: memoryview, common: dict[str, Any]) -> Transform:
    if len(content) != 48:
        raise ValueError(f"{len(content)} bytes, 48 expected")
    return Transform(matrix=_matrix(content), **common)


_DECODERS: Mapping[str, Callable[[memoryview, dict[str, Any]], Message]] = {
    "TRANSFORM": _decode_transform,
    "IMAGE": _decode_image,
    "STATUS": _decode_status,
    "STRING": _decode_string,
    "CAPABILITY": _decode_capability,
    "POINT": _decode_point,
    "TDATA": _decode_tracking,
    "POLYDATA": _decode_polydata,
}


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise PeerError(f"the {what} is no text") from error
