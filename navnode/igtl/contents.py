"""Content after the header: one encoder and one decoder for every message type.

Encoders return a list of buffers to send in order, so that voxels are not copied to join them. Decoders return arrays
that are views of the content where alignment and byte order allow. Numbers are big-endian, except for voxels, which
state their byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from navnode import native
from navnode.errors import LocalError, PeerError
from navnode.igtl import messages as m
from navnode.types import Array, Matrix

__all__ = [
    "ASCII",
    "Buffer",
    "CODECS",
    "Codec",
    "Fields",
    "LAST_TIME_NS",
    "MAX_BODY_BYTES",
    "UTF8",
    "scalar_code",
    "decode_content",
    "encode_content",
    "fixed",
    "max_body_bytes",
    "text_of",
    "time_ns",
    "wire_time",
]

Buffer = bytes | memoryview
Fields = dict[str, Any]
"""Values from header and metadata: keyword arguments of :class:`messages.Message`."""

UTF8, ASCII = 106, 3
"""IANA numbers of character sets."""


MAX_BODY_BYTES = 1 << 29
"""Largest body to receive or send; a CT of 512 x 512 x 800 voxels fits."""

_MAX_BODY_BYTES: Mapping[str, int] = (
    dict.fromkeys(("IMAGE", "NDARRAY", "BIND", "VIDEO"), MAX_BODY_BYTES)
    | dict.fromkeys(("POLYDATA",), 1 << 26)
    | dict.fromkeys(("POINT", "TRAJ", "COMMAND", "RTS_COMMAND", "IMGMETA", "LBMETA", "VIDEOMETA"), 1 << 22)
    | dict.fromkeys(
        ("STATUS", "STRING", "CLIENTINFO", "CAPABILITY", "QTDATA", "TDATA", "COLORT", "COLORTABLE"), 1 << 18
    )
    | dict.fromkeys(("TRANSFORM", "POSITION", "SENSOR"), 1 << 16)  # includes metadata
)
_MAX_QUERY_BYTES, _MAX_UNKNOWN_BYTES = 1 << 16, 1 << 26
_MAX_CHILDREN, _MAX_ATTRIBUTES = 1_024, 256


def max_body_bytes(kind: str) -> int:
    """Largest accepted body of a type; lower for types that decode to many Python objects than for bulk data."""
    query = kind[:4] in _PREFIXES
    return _MAX_BODY_BYTES.get(kind, _MAX_QUERY_BYTES if query else _MAX_UNKNOWN_BYTES)


class Codec(NamedTuple):
    """Encoder and decoder of one type."""

    encode: Callable[[Any], list[Buffer]]
    decode: Callable[[memoryview, Fields], m.Message]


def encode_content(message: m.Message) -> list[Buffer]:
    """Encode a message's content as buffers.

    Raises:
        LocalError: the message cannot be sent.
    """
    encode = _QUERY_ENCODERS.get(type(message)) or CODECS[message.type].encode
    try:
        return encode(message)
    except LocalError as error:
        raise LocalError(f"{message.type} {message.device!r}: {error}") from error
    except (struct.error, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise LocalError(f"{message.type} {message.device!r}: a value does not fit the wire ({error})") from error


def decode_content(kind: str, content: memoryview, fields: Fields) -> m.Message:
    """Decode a message of a type from its content.

    Raises:
        PeerError: the content is invalid; with the offset in it.
    """
    try:
        if (codec := CODECS.get(kind)) is not None:
            return codec.decode(content, fields)
        prefix, short = kind[:4], kind[4:]
        if short and prefix in _PREFIXES:
            return _PREFIXES[prefix](short, content, fields)
    except (ValueError, OverflowError, struct.error) as error:
        raise PeerError(f"impossible values ({error})", 0) from error
    return m.Raw(type_name=kind, body=bytes(content), **fields)


# --- pieces ------------------------------------------------------------------------------------------


def text_of(raw: bytes) -> str:
    """Text up to the first NUL; Latin-1 if it is not valid UTF-8."""
    raw = raw.split(b"\0", 1)[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def fixed(text: str, size: int, what: str = "name") -> bytes:
    """Text for a field of ``size`` bytes, never cut, as cut names could collide.

    Raises:
        LocalError: the text is too long.
    """
    raw = text.encode()
    if len(raw) > size:
        raise LocalError(f"the {what} {text!r} is longer than {size} bytes")
    return raw


def _charset(text: str) -> int:
    return ASCII if text.isascii() else UTF8


def _exactly(content: memoryview, size: int) -> None:
    if len(content) != size:
        raise PeerError(f"{len(content)} bytes of content, {size} expected", min(len(content), size))


def _items(content: memoryview, layout: struct.Struct) -> list[tuple[Any, ...]]:
    """Unpack elements of a fixed size that fill the content."""
    if len(content) % layout.size:
        raise PeerError(f"{len(content)} bytes are not a list of elements of {layout.size}", len(content))
    return list(layout.iter_unpack(content))


def _numbers(content: memoryview, dtype: npt.DTypeLike, count: int, at: int) -> Array:
    """An aligned array in native byte order; a view of the content where possible."""
    dtype = np.dtype(dtype)
    if at + count * dtype.itemsize > len(content):
        raise PeerError(f"{count} numbers of {dtype.itemsize} bytes reach beyond the content", len(content))
    array = np.frombuffer(content, dtype, count, at)
    if not array.dtype.isnative:
        return array.astype(dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


_TRANSFORM = struct.Struct(">12f")


def _matrix_values(matrix: Matrix) -> list[float]:
    """The first three rows of a 4x4 matrix, column by column."""
    if np.shape(matrix) != (4, 4):
        raise LocalError(f"a transform is 4x4, not {np.shape(matrix)}")
    (a, b, c, d), (e, f, g, h), (i, j, k, l_), _ = np.asarray(matrix).tolist()
    return [a, e, i, b, f, j, c, g, k, d, h, l_]


def _matrix_from(v: Sequence[float]) -> Matrix:
    rows = (v[0], v[3], v[6], v[9], v[1], v[4], v[7], v[10], v[2], v[5], v[8], v[11], 0.0, 0.0, 0.0, 1.0)
    return np.array(rows).reshape(4, 4)


# --- status, text, commands --------------------------------------------------------------------------

_STATUS = struct.Struct(">Hq20s")


def _encode_status(message: m.StatusMessage) -> list[Buffer]:
    head = _STATUS.pack(message.code, message.subcode, fixed(message.error_name, 20, "error name"))
    return [head, message.text.encode() + b"\0"]


def _decode_status(content: memoryview, fields: Fields) -> m.Message:
    if len(content) < _STATUS.size:
        raise PeerError(f"a status of {len(content)} bytes", len(content))
    code, subcode, name = _STATUS.unpack_from(content)
    text = text_of(bytes(content[_STATUS.size :]))
    return m.StatusMessage(code=code, subcode=subcode, error_name=text_of(name), text=text, **fields)


def _encode_capability(message: m.Capability) -> list[Buffer]:
    return [struct.pack("12s", fixed(name, 12, "type")) for name in message.types]


def _decode_capability(content: memoryview, fields: Fields) -> m.Message:
    types = tuple(text_of(name) for (name,) in _items(content, struct.Struct("12s")))
    return m.Capability(types=types, **fields)


_STRING = struct.Struct(">HH")


def _encode_string(message: m.String | m.ClientInfo) -> list[Buffer]:
    text = message.text.encode()
    if len(text) > 0xFFFF:
        raise LocalError(f"a text of {len(text)} bytes is too long")
    return [_STRING.pack(_charset(message.text), len(text)) + text]


def _string_decoder(kind: type[m.String] | type[m.ClientInfo]) -> Callable[[memoryview, Fields], m.Message]:
    def decode(content: memoryview, fields: Fields) -> m.Message:
        if len(content) < _STRING.size:
            raise PeerError(f"a string of {len(content)} bytes", len(content))
        _, size = _STRING.unpack_from(content)
        if _STRING.size + size > len(content):
            raise PeerError(f"a string of {size} bytes reaches beyond the content", 2)
        return kind(text=text_of(bytes(content[_STRING.size : _STRING.size + size])), **fields)

    return decode


_COMMAND = struct.Struct(">I128sHI")


def _encode_command(message: m.Command | m.CommandReply) -> list[Buffer]:
    text = message.text.encode()
    name = fixed(message.name, 128)
    return [_COMMAND.pack(message.command_id, name, _charset(message.text), len(text)) + text]


def _command_decoder(kind: type[m.Command] | type[m.CommandReply]) -> Callable[[memoryview, Fields], m.Message]:
    def decode(content: memoryview, fields: Fields) -> m.Message:
        if len(content) < _COMMAND.size:
            raise PeerError(f"a command of {len(content)} bytes", len(content))
        number, name, _, size = _COMMAND.unpack_from(content)
        if _COMMAND.size + size > len(content):
            raise PeerError(f"a command text of {size} bytes reaches beyond the content", _COMMAND.size - 4)
        text = text_of(bytes(content[_COMMAND.size : _COMMAND.size + size]))
        return kind(command_id=number, name=text_of(name), text=text, **fields)

    return decode


# --- poses and points --------------------------------------------------------------------------------


def _encode_transform(message: m.Transform) -> list[Buffer]:
    return [_TRANSFORM.pack(*_matrix_values(message.matrix))]


def _decode_transform(content: memoryview, fields: Fields) -> m.Message:
    _exactly(content, _TRANSFORM.size)
    return m.Transform(matrix=_matrix_from(_TRANSFORM.unpack(content)), **fields)


_PYIGTL_POSITION_SIZE = 152
"""pyigtl (at least up to 0.3.4) writes POSITION in its own layout; see :mod:`navnode.igtl.pyigtl`."""


def _encode_position(message: m.Position) -> list[Buffer]:
    values = (*message.position_mm, *(message.quaternion or ()))
    return [struct.pack(f">{len(values)}f", *values)]


def _decode_position(content: memoryview, fields: Fields) -> m.Message:
    if content and len(content) % _PYIGTL_POSITION_SIZE == 0:
        return m.Raw(type_name=m.Position.TYPE, body=bytes(content), **fields)
    if len(content) not in (12, 24, 28):
        raise PeerError(f"a position of {len(content)} bytes; 12, 24 or 28 expected", len(content))
    x, y, z, *turn = struct.unpack(f">{len(content) // 4}f", content)
    if len(turn) == 3:  # a unit quaternion without its real part
        turn.append(max(0.0, 1.0 - sum(part * part for part in turn)) ** 0.5)
    return m.Position(position_mm=(x, y, z), quaternion=tuple(turn) if turn else None, **fields)


_TRACKED = struct.Struct(">20sBB12f")


def _encode_tracking(message: m.TrackingData) -> list[Buffer]:
    return [_TRACKED.pack(fixed(e.name, 20), e.kind, 0, *_matrix_values(e.matrix)) for e in message.elements]


def _decode_tracking(content: memoryview, fields: Fields) -> m.Message:
    elements = tuple(
        m.TrackedElement(text_of(name), _matrix_from(values), kind)
        for name, kind, _, *values in _items(content, _TRACKED)
    )
    return m.TrackingData(elements=elements, **fields)


_QUATERNION = struct.Struct(">20sBB3f4f")


def _encode_quaternions(message: m.QuaternionTrackingData) -> list[Buffer]:
    return [_QUATERNION.pack(fixed(e.name, 20), e.kind, 0, *e.position_mm, *e.quaternion) for e in message.elements]


def _decode_quaternions(content: memoryview, fields: Fields) -> m.Message:
    elements = tuple(
        m.QuaternionElement(text_of(name), (x, y, z), tuple(turn), kind)
        for name, kind, _, x, y, z, *turn in _items(content, _QUATERNION)
    )
    return m.QuaternionTrackingData(elements=elements, **fields)


_POINT = struct.Struct(">64s32s4B3ff20s")


def _encode_point(message: m.Point) -> list[Buffer]:
    packed: list[Buffer] = []
    for p in message.points:
        name, group, owner = fixed(p.name, 64), fixed(p.group, 32, "group"), fixed(p.owner, 20, "owner")
        packed.append(_POINT.pack(name, group, *p.rgba, *p.position_mm, p.diameter_mm, owner))
    return packed


def _decode_point(content: memoryview, fields: Fields) -> m.Message:
    points = tuple(
        m.PointElement(text_of(name), (x, y, z), text_of(group), (r, g, b, a), diameter, text_of(owner))
        for name, group, r, g, b, a, x, y, z, diameter, owner in _items(content, _POINT)
    )
    return m.Point(points=points, **fields)


_TRAJECTORY = struct.Struct(">64s32sbb4B3f3ff20s")


def _encode_trajectory(message: m.Trajectory) -> list[Buffer]:
    packed: list[Buffer] = []
    for t in message.trajectories:
        name, group, owner = fixed(t.name, 64), fixed(t.group, 32, "group"), fixed(t.owner, 20, "owner")
        path = (*t.entry_mm, *t.target_mm, t.radius_mm)
        packed.append(_TRAJECTORY.pack(name, group, t.kind, 0, *t.rgba, *path, owner))
    return packed


def _decode_trajectory(content: memoryview, fields: Fields) -> m.Message:
    trajectories = []
    for name, group, kind, _, r, g, b, a, *path, radius, owner in _items(content, _TRAJECTORY):
        ex, ey, ez, tx, ty, tz = path
        ends, color = ((ex, ey, ez), (tx, ty, tz)), (r, g, b, a)
        trajectories.append(
            m.TrajectoryElement(text_of(name), *ends, text_of(group), kind, color, radius, text_of(owner))
        )
    return m.Trajectory(trajectories=tuple(trajectories), **fields)


# --- images ------------------------------------------------------------------------------------------

_IMAGE = struct.Struct(">HBBBB3H12f3H3H")
_IMAGE_VERSION = 1  # the C++ library silently ignores images of other versions
_RAS, _LPS = 1, 2
_BIG, _LITTLE = 1, 2
_SCALARS: Mapping[int, str] = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8", 13: "c16"}
_SCALAR_CODES = {np.dtype(code): number for number, code in _SCALARS.items()}
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def scalar_code(array: Array) -> int:
    """The wire's number for the type of an array, of any shape.

    Raises:
        LocalError: the wire has none.
    """
    code = _SCALAR_CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise LocalError(f"numbers of type {array.dtype} cannot be sent")
    return code


def _bytes_of(array: Array) -> memoryview:
    """An array's memory, without a copy if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encode_image(message: m.Image) -> list[Buffer]:
    voxels = message.voxels if message.voxels.ndim == 4 else message.voxels[..., None]
    if voxels.ndim != 4 or 0 in voxels.shape:
        raise LocalError(f"voxels are (k, j, i) or (k, j, i, components), not {message.voxels.shape}")
    *part, components = voxels.shape
    part.reverse()
    size = message.size or tuple(part)
    if max(size) > 0xFFFF or components > 0xFF:
        raise LocalError(f"{size} voxels of {components} components are too many for the wire")
    if any(not 0 <= o <= n - p for o, p, n in zip(message.offset, part, size, strict=True)):
        raise LocalError(f"a part of {part} at {message.offset} does not lie within {size}")
    world = _RAS_FROM_LPS @ message.ras_from_index if message.lps else message.ras_from_index
    center = world[:3, 3] + world[:3, :3] @ ((np.array(size) - 1) / 2)
    ordered = voxels.astype(voxels.dtype.newbyteorder(">" if message.big_endian else "<"), copy=False)
    endian, coordinates = _BIG if message.big_endian else _LITTLE, _LPS if message.lps else _RAS
    form = _IMAGE_VERSION, components, scalar_code(voxels), endian, coordinates
    matrix = world[:3, :3].T.ravel().tolist()
    head = _IMAGE.pack(*form, *size, *matrix, *center.tolist(), *message.offset, *part)
    return [head, _bytes_of(ordered)]


def _decode_image(content: memoryview, fields: Fields) -> m.Message:
    if len(content) < _IMAGE.size:
        raise PeerError(f"an image of {len(content)} bytes", len(content))
    _, components, scalar, endian, coordinates, *numbers = _IMAGE.unpack_from(content)
    size, matrix, center, offset, part = numbers[:3], numbers[3:12], numbers[12:15], numbers[15:18], numbers[18:]
    if scalar not in _SCALARS:
        raise PeerError(f"unknown scalar type {scalar}", 3)
    if 0 in size or 0 in part or components == 0:
        raise PeerError(f"an image of {size} voxels, {part} sent, {components} components", 2)
    if any(o + p > n for o, p, n in zip(offset, part, size, strict=True)):
        raise PeerError(f"the part of {part} at {offset} reaches beyond the image of {size}", 60)
    dtype = np.dtype(_SCALARS[scalar]).newbyteorder(">" if endian == _BIG else "<")
    count = part[0] * part[1] * part[2] * components
    _exactly(content, _IMAGE.size + count * dtype.itemsize)
    voxels = _numbers(content, dtype, count, _IMAGE.size)
    ras_from_index = np.eye(4)
    ras_from_index[:3, :3] = np.reshape(matrix, (3, 3)).T
    ras_from_index[:3, 3] = center
    if not np.isfinite(ras_from_index).all():
        raise PeerError("the image's position contains NaN or infinity", 12)
    ras_from_index[:3, 3] -= ras_from_index[:3, :3] @ ((np.array(size) - 1) / 2)
    lps = coordinates == _LPS
    if lps:
        ras_from_index = _RAS_FROM_LPS @ ras_from_index
    shape = (*part[::-1], components) if components > 1 else tuple(part[::-1])
    return m.Image(
        voxels=voxels.reshape(shape),
        ras_from_index=ras_from_index,
        size=None if part == size else (size[0], size[1], size[2]),
        offset=(offset[0], offset[1], offset[2]),
        lps=lps,
        big_endian=endian == _BIG,
        **fields,
    )


# --- surfaces ----------------------------------------------------------------------------------------

_POLYDATA = struct.Struct(">10I")
_ATTRIBUTE = struct.Struct(">BBI")
_OF_CELLS = 0x10


def _count_cells(section: Array, points: int) -> int:
    """Number of cells in big-endian words; -1 if the words are not cells of that many points."""
    count: int = native.library().navnode_count_cells(section.ctypes.data, section.size, min(points, 0xFFFFFFFF))
    return count


def _encode_polydata(message: m.PolyData) -> list[Buffer]:
    points = np.ascontiguousarray(message.points_mm, ">f4").reshape(-1, 3)
    sections = [
        np.ascontiguousarray(flat, ">u4")
        for flat in (message.vertices, message.lines, message.polygons, message.strips)
    ]
    counts = [_count_cells(section, len(points)) for section in sections]
    if min(counts) < 0:
        raise LocalError("a cell refers to a missing point, or is incomplete")
    sizes = [number for section, count in zip(sections, counts, strict=True) for number in (count, section.nbytes)]
    head = _POLYDATA.pack(len(points), *sizes, len(message.attributes))
    return [head, _bytes_of(points), *map(_bytes_of, sections), *_encode_attributes(message.attributes)]


def _encode_attributes(attributes: Sequence[m.Attribute]) -> list[Buffer]:
    heads, names, values = [], [], []
    for attribute in attributes:
        array = np.ascontiguousarray(attribute.values, ">f4")
        if array.ndim != 2:
            raise LocalError(f"the values of attribute {attribute.name!r} are (N, components), not {array.shape}")
        kind = attribute.kind | (_OF_CELLS if attribute.of_cells else 0)
        heads.append(_ATTRIBUTE.pack(kind, array.shape[1], len(array)))
        names.append(fixed(attribute.name, 255) + b"\0")
        values.append(_bytes_of(array))
    table = b"".join(names)
    return [b"".join(heads) + table + b"\0" * (len(table) % 2), *values]


def _decode_polydata(content: memoryview, fields: Fields) -> m.Message:
    if len(content) < _POLYDATA.size:
        raise PeerError(f"a surface of {len(content)} bytes", len(content))
    points_count, *sizes, attributes_count = _POLYDATA.unpack_from(content)
    if attributes_count > _MAX_ATTRIBUTES:
        raise PeerError(f"{attributes_count} attributes; at most {_MAX_ATTRIBUTES} are read", 36)
    if _POLYDATA.size + 12 * points_count + sum(sizes[1::2]) + _ATTRIBUTE.size * attributes_count > len(content):
        raise PeerError("points, cells and attributes reach beyond the content", 0)
    points = _numbers(content, ">f4", 3 * points_count, _POLYDATA.size).reshape(-1, 3)
    at = _POLYDATA.size + 12 * points_count
    sections = []
    for count, size in zip(sizes[::2], sizes[1::2], strict=True):
        words = np.frombuffer(content[at : at + size // 4 * 4], ">u4")
        if size % 4 or _count_cells(words, points_count) != count:
            raise PeerError(f"{size} bytes are not {count} cells of {points_count} points", at)
        sections.append(words.astype(np.uint32))
        at += size
    vertices, lines, polygons, strips = sections
    return m.PolyData(
        points_mm=points,
        vertices=vertices,
        lines=lines,
        polygons=polygons,
        strips=strips,
        attributes=_decode_attributes(content, at, attributes_count),
        **fields,
    )


def _decode_attributes(content: memoryview, at: int, count: int) -> tuple[m.Attribute, ...]:
    heads = [_ATTRIBUTE.unpack_from(content, at + _ATTRIBUTE.size * i) for i in range(count)]
    at += _ATTRIBUTE.size * count
    names, started = [], at
    for _ in range(count):
        raw = bytes(content[at : at + 256])
        end = raw.find(b"\0")
        if end < 0:
            raise PeerError("the name of an attribute is not terminated", at)
        names.append(text_of(raw))
        at += end + 1
    at += (at - started) % 2
    attributes = []
    for (kind, components, n), name in zip(heads, names, strict=True):
        values = _numbers(content, ">f4", n * components, at).reshape(n, components)
        attributes.append(m.Attribute(name, values, kind & ~_OF_CELLS, bool(kind & _OF_CELLS)))
        at += values.nbytes
    return tuple(attributes)


# --- arrays, bundles ---------------------------------------------------------------------------------

_SENSOR = struct.Struct(">BBQ")


def _encode_sensor(message: m.Sensor) -> list[Buffer]:
    values = np.ascontiguousarray(message.values, ">f8").ravel()
    if values.size > 255:
        raise LocalError(f"{values.size} readings; at most 255 fit")
    return [_SENSOR.pack(values.size, message.status, message.unit), _bytes_of(values)]


def _decode_sensor(content: memoryview, fields: Fields) -> m.Message:
    if len(content) < _SENSOR.size:
        raise PeerError(f"a sensor of {len(content)} bytes", len(content))
    count, status, unit = _SENSOR.unpack_from(content)
    _exactly(content, _SENSOR.size + 8 * count)
    return m.Sensor(values=_numbers(content, ">f8", count, _SENSOR.size), unit=unit, status=status, **fields)


def _encode_ndarray(message: m.NDArray) -> list[Buffer]:
    array = message.array
    if array.ndim > 255 or max(array.shape, default=0) > 0xFFFF:
        raise LocalError(f"an array of shape {array.shape} is too large for the wire")
    head = struct.pack(f">BB{array.ndim}H", scalar_code(array), array.ndim, *array.shape)
    return [head, _bytes_of(array.astype(array.dtype.newbyteorder(">"), copy=False))]


_MAX_DIMENSIONS = 32
"""NumPy's limit."""


def _decode_ndarray(content: memoryview, fields: Fields) -> m.Message:
    if len(content) < 2:
        raise PeerError(f"an array of {len(content)} bytes", len(content))
    scalar, dimensions = content[0], content[1]
    if scalar not in _SCALARS:
        raise PeerError(f"unknown scalar type {scalar}", 0)
    if dimensions > _MAX_DIMENSIONS or len(content) < 2 + 2 * dimensions:
        raise PeerError(f"an array of {dimensions} dimensions", 1)
    shape = struct.unpack_from(f">{dimensions}H", content, 2)
    count = int(np.prod(shape, dtype=object)) if dimensions else 1
    dtype = np.dtype(_SCALARS[scalar]).newbyteorder(">")
    _exactly(content, 2 + 2 * dimensions + count * dtype.itemsize)
    return m.NDArray(array=_numbers(content, dtype, count, 2 + 2 * dimensions).reshape(shape), **fields)


_CHILD = struct.Struct(">12sQ")


def _encode_bind(message: m.Bind) -> list[Buffer]:
    heads, names, bodies = [struct.pack(">H", len(message.children))], [], []
    for child in message.children:
        if isinstance(child, m.Bind):
            raise LocalError("a BIND cannot contain a BIND")
        body = b"".join(encode_content(child))
        heads.append(_CHILD.pack(fixed(child.type, 12, "type"), len(body)))
        names.append(child.device.encode() + b"\0")
        bodies += [body, b"\0" * (len(body) % 2)]
    table = b"".join(names)
    table += b"\0" * (len(table) % 2)
    return [b"".join(heads) + struct.pack(">H", len(table)) + table, *bodies]


def _decode_bind(content: memoryview, fields: Fields) -> m.Message:
    if len(content) < 2:
        raise PeerError(f"a BIND of {len(content)} bytes", len(content))
    (count,) = struct.unpack_from(">H", content)
    if count > _MAX_CHILDREN:
        raise PeerError(f"{count} messages in one; at most {_MAX_CHILDREN} are read", 0)
    at = 2 + count * _CHILD.size
    if at + 2 > len(content):
        raise PeerError(f"{count} messages reach beyond the content", 0)
    heads = [_CHILD.unpack_from(content, 2 + i * _CHILD.size) for i in range(count)]
    (names_size,) = struct.unpack_from(">H", content, at)
    names = bytes(content[at + 2 : at + 2 + names_size]).split(b"\0")
    if len(names) < count:
        raise PeerError(f"{len(names)} names for {count} messages", at)
    at += 2 + names_size
    children = []
    for (raw_kind, size), name in zip(heads, names, strict=False):
        kind = text_of(raw_kind)
        if size > min(len(content) - at, max_body_bytes(kind)) or kind == m.Bind.TYPE:
            raise PeerError(f"a {kind} of {size} bytes within a BIND", min(at, len(content)))
        child_fields = {**fields, "device": text_of(name), "metadata": {}}
        try:
            children.append(decode_content(kind, content[at : at + size], child_fields))
        except PeerError as error:
            raise PeerError(f"{kind} within a BIND: {error}", at) from error
        at += size + size % 2
    return m.Bind(children=tuple(children), **fields)


# --- colour tables, and lists of images, labels and videos -------------------------------------------

_INDEX_SIZES = {3: 256, 5: 65536}
_U8, _U16, _RGB = 3, 5, 19


def _encode_colors(message: m.ColorTable) -> list[Buffer]:
    table = message.table
    index = next((code for code, size in _INDEX_SIZES.items() if len(table) == size), None)
    mapping = {(1, "u1"): _U8, (1, "u2"): _U16, (2, "u1"): _RGB}.get((table.ndim, table.dtype.str[1:]))
    if index is None or mapping is None or (table.ndim == 2 and table.shape[1] != 3):
        raise LocalError(f"a colour table is (256 or 65536[, 3]) uint8 or uint16, not {table.dtype} {table.shape}")
    return [bytes((index, mapping)), _bytes_of(table.astype(table.dtype.newbyteorder(">"), copy=False))]


def _decode_colors(content: memoryview, fields: Fields, long_name: bool = False) -> m.Message:
    if len(content) < 2 or content[0] not in _INDEX_SIZES or content[1] not in (_U8, _U16, _RGB):
        raise PeerError("an unknown kind of colour table", 0)
    size, mapping = _INDEX_SIZES[content[0]], content[1]
    each = 3 if mapping == _RGB else 1
    dtype = np.dtype(">u2" if mapping == _U16 else "u1")
    _exactly(content, 2 + size * each * dtype.itemsize)
    table = _numbers(content, dtype, size * each, 2)
    return m.ColorTable(table=table.reshape(size, 3) if each == 3 else table, long_name=long_name, **fields)


_IMAGE_META = struct.Struct(">64s20s32s64s64sQ3HBB")


def wire_time(timestamp_ns: int, stamp: int = 0) -> int:
    """A time stamp as seconds and 2^-32 seconds; returns ``stamp`` if it stands for the same nanosecond."""
    if stamp and time_ns(stamp) == timestamp_ns:
        return stamp
    seconds, ns = divmod(timestamp_ns, 10**9)
    return seconds << 32 | ((ns << 32) + 5 * 10**8) // 10**9


def time_ns(wire: int) -> int:
    """Nanoseconds from a result of :func:`wire_time`."""
    return min((wire >> 32) * 10**9 + ((wire & 0xFFFFFFFF) * 10**9 + 2**31 >> 32), LAST_TIME_NS)


LAST_TIME_NS = (10**9 << 32) - 1


def _encode_image_meta(message: m.ImageMeta) -> list[Buffer]:
    packed: list[Buffer] = []
    for i in message.images:
        what = fixed(i.name, 64), fixed(i.device, 20, "device"), fixed(i.modality, 32, "modality")
        patient = fixed(i.patient_name, 64, "patient name"), fixed(i.patient_id, 64, "patient id")
        packed.append(_IMAGE_META.pack(*what, *patient, wire_time(i.timestamp_ns, i.stamp), *i.size, i.scalar_type, 0))
    return packed


def _decode_image_meta(content: memoryview, fields: Fields) -> m.Message:
    images = []
    for name, device, modality, patient, number, stamp, *size, scalar, _ in _items(content, _IMAGE_META):
        i, j, k = size
        images.append(
            m.ImageMetaElement(
                name=text_of(name),
                device=text_of(device),
                modality=text_of(modality),
                patient_name=text_of(patient),
                patient_id=text_of(number),
                timestamp_ns=time_ns(stamp),
                stamp=stamp,
                size=(i, j, k),
                scalar_type=scalar,
            )
        )
    return m.ImageMeta(images=tuple(images), **fields)


_LABEL_META = struct.Struct(">64s20sBB4B3H20s")


def _encode_label_meta(message: m.LabelMeta) -> list[Buffer]:
    packed: list[Buffer] = []
    for e in message.labels:
        name, device, owner = fixed(e.name, 64), fixed(e.device, 20, "device"), fixed(e.owner, 20, "owner")
        packed.append(_LABEL_META.pack(name, device, e.label, 0, *e.rgba, *e.size, owner))
    return packed


def _decode_label_meta(content: memoryview, fields: Fields) -> m.Message:
    labels = tuple(
        m.LabelMetaElement(text_of(name), text_of(device), label, (r, g, b, a), (i, j, k), text_of(owner))
        for name, device, label, _, r, g, b, a, i, j, k, owner in _items(content, _LABEL_META)
    )
    return m.LabelMeta(labels=labels, **fields)


_VIDEO_META = struct.Struct(">64s64s64s64shd3H12fBB")


def _encode_video_meta(message: m.VideoMeta) -> list[Buffer]:
    packed: list[Buffer] = []
    for v in message.videos:
        what = fixed(v.name, 64), fixed(v.device, 64, "device")
        patient = fixed(v.patient_name, 64, "patient name"), fixed(v.patient_id, 64, "patient id")
        optics, matrix = (v.zoom_level, v.focal_length), _matrix_values(v.matrix)
        packed.append(_VIDEO_META.pack(*what, *patient, *optics, *v.size, *matrix, v.scalar_type, 0))
    return packed


def _decode_video_meta(content: memoryview, fields: Fields) -> m.Message:
    videos = []
    for name, device, patient, number, zoom, focal, i, j, k, *matrix, scalar, _ in _items(content, _VIDEO_META):
        videos.append(
            m.VideoMetaElement(
                name=text_of(name),
                device=text_of(device),
                patient_name=text_of(patient),
                patient_id=text_of(number),
                zoom_level=zoom,
                focal_length=focal,
                size=(i, j, k),
                matrix=_matrix_from(matrix),
                scalar_type=scalar,
            )
        )
    return m.VideoMeta(videos=tuple(videos), **fields)


# --- questions and answers ---------------------------------------------------------------------------

_START = {"TDATA": struct.Struct(">i32s"), "QTDATA": struct.Struct(">i32s")}
_START_BIND = struct.Struct(">Q")


def _encode_start(message: m.Start) -> list[Buffer]:
    if message.resolution_ms is None:
        return [message.body]
    if message.kind == m.Bind.TYPE:
        return [_START_BIND.pack(message.resolution_ms), message.body]
    if message.kind not in _START:
        raise LocalError(f"a stream of {message.kind} has no resolution")
    name = fixed(message.coordinate_name, 32, "coordinate name")
    return [_START[message.kind].pack(message.resolution_ms, name)]


def _decode_start(short: str, content: memoryview, fields: Fields) -> m.Message:
    kind = m.full_type(short)
    if kind == m.Bind.TYPE and len(content) >= _START_BIND.size:
        (resolution,) = _START_BIND.unpack_from(content)
        return m.Start(kind=kind, resolution_ms=resolution, body=bytes(content[_START_BIND.size :]), **fields)
    if kind in _START and len(content) == _START[kind].size:
        resolution, name = _START[kind].unpack(content)
        return m.Start(kind=kind, resolution_ms=resolution, coordinate_name=text_of(name), **fields)
    if kind in _START and len(content):
        raise PeerError(f"{len(content)} bytes, {_START[kind].size} or none expected", len(content))
    return m.Start(kind=kind, body=bytes(content), **fields)


def _decode_ready(short: str, content: memoryview, fields: Fields) -> m.Message:
    status = struct.unpack_from("b", content)[0] if len(content) else 0
    return m.Ready(kind=m.full_type(short), status=status, **fields)


_PREFIXES: Mapping[str, Callable[[str, memoryview, Fields], m.Message]] = {
    "GET_": lambda short, content, fields: m.Get(kind=m.full_type(short), body=bytes(content), **fields),
    "STT_": _decode_start,
    "STP_": lambda short, content, fields: m.Stop(kind=m.full_type(short), body=bytes(content), **fields),
    "RTS_": _decode_ready,
}


_QUERY_ENCODERS: Mapping[type, Callable[[Any], list[Buffer]]] = {
    m.Raw: lambda message: [message.body],
    m.Get: lambda message: [message.body],
    m.Start: _encode_start,
    m.Stop: lambda message: [message.body],
    m.Ready: lambda message: [struct.pack("b", message.status)],
}
"""Encoders of messages whose class does not follow from the type alone."""

CODECS: Mapping[str, Codec] = {
    "TRANSFORM": Codec(_encode_transform, _decode_transform),
    "POSITION": Codec(_encode_position, _decode_position),
    "TDATA": Codec(_encode_tracking, _decode_tracking),
    "QTDATA": Codec(_encode_quaternions, _decode_quaternions),
    "POINT": Codec(_encode_point, _decode_point),
    "TRAJ": Codec(_encode_trajectory, _decode_trajectory),
    "IMAGE": Codec(_encode_image, _decode_image),
    "POLYDATA": Codec(_encode_polydata, _decode_polydata),
    "SENSOR": Codec(_encode_sensor, _decode_sensor),
    "NDARRAY": Codec(_encode_ndarray, _decode_ndarray),
    "BIND": Codec(_encode_bind, _decode_bind),
    "COLORT": Codec(_encode_colors, _decode_colors),
    "COLORTABLE": Codec(_encode_colors, lambda content, fields: _decode_colors(content, fields, long_name=True)),
    "IMGMETA": Codec(_encode_image_meta, _decode_image_meta),
    "LBMETA": Codec(_encode_label_meta, _decode_label_meta),
    "VIDEOMETA": Codec(_encode_video_meta, _decode_video_meta),
    "STATUS": Codec(_encode_status, _decode_status),
    "CAPABILITY": Codec(_encode_capability, _decode_capability),
    "STRING": Codec(_encode_string, _string_decoder(m.String)),
    "CLIENTINFO": Codec(_encode_string, _string_decoder(m.ClientInfo)),
    "COMMAND": Codec(_encode_command, _command_decoder(m.Command)),
    "RTS_COMMAND": Codec(_encode_command, _command_decoder(m.CommandReply)),
}
"""Codecs of all types that have a class."""
