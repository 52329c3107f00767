"""OpenIGTLink messages as frozen values; no bytes, no sockets.

Follows the OpenIGTLink specification, protocols 1 to 3 (https://github.com/openigtlink). Poses and images are RAS,
millimetres. Types without a class here pass through as :class:`Raw`. Arrays of decoded messages may be read-only
views of the received bytes; do not write to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from navnode.types import Array, FloatArray, Matrix

__all__ = [
    "Attribute",
    "Bind",
    "Capability",
    "ClientInfo",
    "ColorTable",
    "Command",
    "CommandReply",
    "Get",
    "Image",
    "ImageMeta",
    "ImageMetaElement",
    "LabelMeta",
    "LabelMetaElement",
    "Message",
    "NDArray",
    "Point",
    "PointElement",
    "PolyData",
    "Position",
    "QuaternionElement",
    "QuaternionTrackingData",
    "Raw",
    "Ready",
    "Rgba",
    "Sensor",
    "Start",
    "StatusMessage",
    "Stop",
    "String",
    "TrackedElement",
    "TrackingData",
    "Trajectory",
    "TrajectoryElement",
    "Transform",
    "VideoMeta",
    "VideoMetaElement",
    "Words",
    "cells",
    "full_type",
    "held_bytes",
    "split_cells",
]

Rgba = tuple[int, int, int, int]
Words = npt.NDArray[np.uint32]

_YELLOW: Rgba = (255, 255, 0, 255)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that every message has."""

    TYPE: ClassVar[str] = ""

    device: str = ""
    """Longer than 20 bytes only at header version 2, where the metadata carry it."""
    timestamp_ns: int = 0
    """Nanoseconds since 1970; the wire's resolution of 2^-32 s preserves every nanosecond."""
    stamp: int = 0
    """The 64 bits that ``timestamp_ns`` was read from, so that a message can be forwarded bit by bit."""
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Header version 2 only."""
    version: int = 1
    """Header version: 1 for protocols 1 and 2, 2 for protocol 3."""
    message_id: int = 0
    """Header version 2 only."""

    @property
    def type(self) -> str:
        """The type as spelled on the wire."""
        return self.TYPE


def held_bytes(message: Message) -> int:
    """Approximate memory of a message."""
    values = (getattr(message, name) for name in message.__struct_fields__)
    return 500 + sum(value.nbytes for value in values if isinstance(value, np.ndarray))


class Raw(Message, frozen=True, kw_only=True):
    """A message of a type that has no class here."""

    type_name: str
    body: bytes = b""

    @property
    def type(self) -> str:
        return self.type_name


# --- questions and answers ---------------------------------------------------------------------------

_SHORT = {"TRANSFORM": "TRANS", "CAPABILITY": "CAPABIL", "COLORTABLE": "COLORT", "VIDEOMETA": "VMETA"}
_LONG = {"TRANS": "TRANSFORM", "CAPABIL": "CAPABILITY", "VMETA": "VIDEOMETA"}


def _short(prefix: str, kind: str) -> str:
    return prefix + _SHORT.get(kind, kind)


def full_type(short: str) -> str:
    """The message type that ``GET_``, ``STT_``, ``STP_`` and ``RTS_`` abbreviate: ``TRANS`` is TRANSFORM."""
    return _LONG.get(short, short)


class Get(Message, frozen=True, kw_only=True):
    """``GET_``: requests one message of a type; an empty device requests all devices."""

    kind: str
    """The requested message type, such as ``TRANSFORM``."""
    body: bytes = b""

    @property
    def type(self) -> str:
        return _short("GET_", self.kind)


class Start(Message, frozen=True, kw_only=True):
    """``STT_``: requests a stream of a type."""

    kind: str
    resolution_ms: int | None = None
    """Shortest time between two messages; only TDATA, QTDATA and BIND carry it."""
    coordinate_name: str = ""
    """TDATA and QTDATA: the requested coordinate system."""
    body: bytes = b""
    """Body of other types, and of BIND after its resolution."""

    @property
    def type(self) -> str:
        return _short("STT_", self.kind)


class Stop(Message, frozen=True, kw_only=True):
    """``STP_``: ends a stream."""

    kind: str
    body: bytes = b""

    @property
    def type(self) -> str:
        return _short("STP_", self.kind)


class Ready(Message, frozen=True, kw_only=True):
    """``RTS_``: answers Start and Stop."""

    kind: str
    status: int = 0
    """0: done; otherwise an error."""

    @property
    def type(self) -> str:
        return _short("RTS_", self.kind)


class StatusMessage(Message, frozen=True, kw_only=True):
    """State of a device."""

    TYPE: ClassVar[str] = "STATUS"
    OK: ClassVar[int] = 1
    NOT_READY: ClassVar[int] = 13
    code: int = 1
    subcode: int = 0
    error_name: str = ""
    """At most 20 bytes."""
    text: str = ""


class Capability(Message, frozen=True, kw_only=True):
    """Message types that a peer understands."""

    TYPE: ClassVar[str] = "CAPABILITY"
    types: tuple[str, ...]


class String(Message, frozen=True, kw_only=True):
    """Text of at most 65535 bytes."""

    TYPE: ClassVar[str] = "STRING"
    text: str


class ClientInfo(Message, frozen=True, kw_only=True):
    """Selects what a client of a PlusServer receives, in PLUS's XML."""

    TYPE: ClassVar[str] = "CLIENTINFO"
    text: str


class Command(Message, frozen=True, kw_only=True):
    """A command, usually XML, answered by a :class:`CommandReply` with the same number."""

    TYPE: ClassVar[str] = "COMMAND"
    command_id: int
    name: str = ""
    """At most 128 bytes."""
    text: str = ""


class CommandReply(Message, frozen=True, kw_only=True):
    """The answer to a :class:`Command`."""

    TYPE: ClassVar[str] = "RTS_COMMAND"
    command_id: int
    name: str = ""
    text: str = ""


# --- poses and points --------------------------------------------------------------------------------


class Transform(Message, frozen=True, kw_only=True):
    """A rigid or affine transform, ``AToB`` = b_from_a."""

    TYPE: ClassVar[str] = "TRANSFORM"
    matrix: Matrix
    """4x4; float32 on the wire."""


class Position(Message, frozen=True, kw_only=True):
    """A pose as position and quaternion; 28 bytes instead of a TRANSFORM's 48."""

    TYPE: ClassVar[str] = "POSITION"
    position_mm: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] | None = (0.0, 0.0, 0.0, 1.0)
    """(x, y, z, w); None: no orientation was sent."""


class TrackedElement(msgspec.Struct, frozen=True):
    """One instrument of a :class:`TrackingData`."""

    name: str
    matrix: Matrix
    """4x4"""
    kind: int = 2
    """1 tracker, 2 6-D instrument, 3 3-D instrument, 4 5-D instrument"""


class TrackingData(Message, frozen=True, kw_only=True):
    """Poses of several instruments at one time."""

    TYPE: ClassVar[str] = "TDATA"
    elements: tuple[TrackedElement, ...]


class QuaternionElement(msgspec.Struct, frozen=True):
    """One instrument of a :class:`QuaternionTrackingData`."""

    name: str
    position_mm: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """(x, y, z, w)"""
    kind: int = 2


class QuaternionTrackingData(Message, frozen=True, kw_only=True):
    """:class:`TrackingData` with quaternions."""

    TYPE: ClassVar[str] = "QTDATA"
    elements: tuple[QuaternionElement, ...]


class PointElement(msgspec.Struct, frozen=True):
    """One point of a :class:`Point`."""

    name: str
    position_mm: tuple[float, float, float]
    group: str = ""
    rgba: Rgba = _YELLOW
    diameter_mm: float = 0.0
    owner: str = ""


class Point(Message, frozen=True, kw_only=True):
    """Fiducials, landmarks, tips."""

    TYPE: ClassVar[str] = "POINT"
    points: tuple[PointElement, ...]


class TrajectoryElement(msgspec.Struct, frozen=True):
    """One path of a :class:`Trajectory`."""

    name: str
    entry_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    group: str = ""
    kind: int = 3
    """1 entry only, 2 target only, 3 both"""
    rgba: Rgba = _YELLOW
    radius_mm: float = 0.0
    owner: str = ""


class Trajectory(Message, frozen=True, kw_only=True):
    """Planned paths, from entry to target."""

    TYPE: ClassVar[str] = "TRAJ"
    trajectories: tuple[TrajectoryElement, ...]


# --- images, surfaces, numbers -----------------------------------------------------------------------


class Image(Message, frozen=True, kw_only=True):
    """A 2-D or 3-D image, or a part of one."""

    TYPE: ClassVar[str] = "IMAGE"
    voxels: Array
    """Voxels of the part that is sent, (k, j, i) or (k, j, i, components)."""
    ras_from_index: Matrix
    """4x4, mm, of the whole image, with the position of voxel (0, 0, 0); the wire carries that of the centre."""
    size: tuple[int, int, int] | None = None
    """(i, j, k) of the whole image; None: the part is the whole."""
    offset: tuple[int, int, int] = (0, 0, 0)
    """(i, j, k) of the part's first voxel in the whole."""
    lps: bool = False
    """Whether the matrix is LPS on the wire; not all receivers check this flag, so RAS is the safe choice."""
    big_endian: bool = False
    """Byte order of the voxels on the wire; here they are in native order."""

    @property
    def part_ras_from_index(self) -> Matrix:
        """4x4, mm, of the part that is sent."""
        shifted: Matrix = self.ras_from_index.copy()
        shifted[:3, 3] += self.ras_from_index[:3, :3] @ np.array(self.offset, np.float64)
        return shifted

    def part_changed_since(self, before: Image) -> Image:
        """The smallest box with all voxels that differ from an earlier whole image on the same grid.

        If no voxel differs, the box is one voxel, so that metadata still arrive. Returns this image if the grids differ
        or either image is a part.
        """
        whole = self.size is None and before.size is None
        alike = self.voxels.shape == before.voxels.shape and self.voxels.dtype == before.voxels.dtype
        if not (whole and alike and np.array_equal(self.ras_from_index, before.ras_from_index)):
            return self
        differs = self.voxels != before.voxels
        if differs.ndim == 4:
            differs = differs.any(axis=3)
        inside = [_first_to_last(differs.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        k, j, i = inside
        return msgspec.structs.replace(
            self,
            voxels=self.voxels[k, j, i],
            size=(differs.shape[2], differs.shape[1], differs.shape[0]),
            offset=(i.start, j.start, k.start),
        )

    def put_into(self, before: Image) -> Image:
        """The whole image: an earlier whole one, updated with this part.

        Raises:
            ValueError: the part belongs to another image.
        """
        if self.size is None:
            return self
        k, j, i, *components = before.voxels.shape
        alike = self.voxels.dtype == before.voxels.dtype and [*self.voxels.shape[3:]] == components
        if before.size is not None or self.size != (i, j, k) or not alike:
            raise ValueError(f"a part of {self.size} voxels does not belong to an image of {(i, j, k)}")
        voxels = before.voxels.copy()
        box = (slice(at, at + n) for at, n in zip(self.offset[::-1], self.voxels.shape[:3], strict=True))
        voxels[tuple(box)] = self.voxels
        return msgspec.structs.replace(self, voxels=voxels, size=None, offset=(0, 0, 0))


def _first_to_last(mask: Array) -> slice:
    """Slice from the first true element to the last; the first element if none is true."""
    true = np.flatnonzero(mask)
    return slice(int(true[0]), int(true[-1]) + 1) if len(true) else slice(0, 1)


class Attribute(msgspec.Struct, frozen=True):
    """Numbers for every point or cell of a :class:`PolyData`."""

    SCALARS: ClassVar[int] = 0
    VECTORS: ClassVar[int] = 1
    NORMALS: ClassVar[int] = 2
    TENSORS: ClassVar[int] = 3
    RGBA: ClassVar[int] = 4

    name: str
    values: FloatArray
    """(N, components)"""
    kind: int = 0
    of_cells: bool = False


def _no_words() -> Words:
    return np.zeros(0, np.uint32)


class PolyData(Message, frozen=True, kw_only=True):
    """Points, lines and surfaces.

    Cells are flat, as in VTK: ``(n, i1 ... in, n, i1 ... in, ...)``; :func:`cells` makes them.
    """

    TYPE: ClassVar[str] = "POLYDATA"
    points_mm: FloatArray
    """(N, 3)"""
    vertices: Words = msgspec.field(default_factory=_no_words)
    lines: Words = msgspec.field(default_factory=_no_words)
    polygons: Words = msgspec.field(default_factory=_no_words)
    """Counter-clockwise seen from outside."""
    strips: Words = msgspec.field(default_factory=_no_words)
    attributes: tuple[Attribute, ...] = ()

    @property
    def triangles(self) -> Words:
        """The polygons as triangles (M, 3); larger ones are split into fans."""
        flat = self.polygons
        if flat.size % 4 == 0 and (flat[::4] == 3).all():
            return np.ascontiguousarray(flat.reshape(-1, 4)[:, 1:])
        fans = [(cell[0], cell[a], cell[a + 1]) for cell in split_cells(flat) for a in range(1, len(cell) - 1)]
        return np.array(fans, np.uint32).reshape(-1, 3)


def cells(each: Iterable[Sequence[int]] | npt.NDArray[np.integer]) -> Words:
    """Flat cells from lists of point indices, or from an array (M, n) with n points per cell."""
    if isinstance(each, np.ndarray):
        flat = np.empty((each.shape[0], each.shape[1] + 1), np.uint32)
        flat[:, 0] = each.shape[1]
        flat[:, 1:] = each
        return flat.ravel()
    return np.array([word for cell in each for word in (len(cell), *cell)], np.uint32)


def split_cells(flat: Words) -> list[tuple[int, ...]]:
    """The cells in a flat array."""
    words, split, at = flat.tolist(), [], 0
    while at < len(words):
        split.append(tuple(words[at + 1 : at + 1 + words[at]]))
        at += 1 + words[at]
    return split


class Sensor(Message, frozen=True, kw_only=True):
    """Up to 255 readings."""

    TYPE: ClassVar[str] = "SENSOR"
    values: npt.NDArray[np.float64]
    """(N,)"""
    unit: int = 0
    """64 bits, as in the specification's table of SI units."""
    status: int = 0


class NDArray(Message, frozen=True, kw_only=True):
    """An array of any number of dimensions."""

    TYPE: ClassVar[str] = "NDARRAY"
    array: Array
    """Of any shape."""


class Bind(Message, frozen=True, kw_only=True):
    """Several messages in one, with one time stamp."""

    TYPE: ClassVar[str] = "BIND"
    children: tuple[Message, ...]


class ColorTable(Message, frozen=True, kw_only=True):
    """Colours of the values in a label image."""

    TYPE: ClassVar[str] = "COLORT"
    table: Array
    """(256,) or (65536,) uint8 or uint16, or (..., 3) uint8 RGB"""
    long_name: bool = False
    """Whether the type is spelled COLORTABLE, as by some releases of the C++ library."""

    @property
    def type(self) -> str:
        return "COLORTABLE" if self.long_name else "COLORT"


class ImageMetaElement(msgspec.Struct, frozen=True):
    """One image of an :class:`ImageMeta`."""

    name: str
    device: str
    """Device name for GET_IMAGE."""
    modality: str = ""
    patient_name: str = ""
    patient_id: str = ""
    timestamp_ns: int = 0
    stamp: int = 0
    """See :class:`Message`."""
    size: tuple[int, int, int] = (0, 0, 0)
    scalar_type: int = 3


class ImageMeta(Message, frozen=True, kw_only=True):
    """Images that a server offers."""

    TYPE: ClassVar[str] = "IMGMETA"
    images: tuple[ImageMetaElement, ...]


class LabelMetaElement(msgspec.Struct, frozen=True):
    """One label of a :class:`LabelMeta`."""

    name: str
    device: str
    label: int = 0
    rgba: Rgba = (0, 0, 0, 0)
    size: tuple[int, int, int] = (0, 0, 0)
    owner: str = ""


class LabelMeta(Message, frozen=True, kw_only=True):
    """Labels that a server offers."""

    TYPE: ClassVar[str] = "LBMETA"
    labels: tuple[LabelMetaElement, ...]


class VideoMetaElement(msgspec.Struct, frozen=True):
    """One video of a :class:`VideoMeta`."""

    name: str
    device: str
    patient_name: str = ""
    patient_id: str = ""
    zoom_level: int = 0
    focal_length: float = 0.0
    """As sent; the standard gives no unit."""
    size: tuple[int, int, int] = (0, 0, 0)
    matrix: Matrix = msgspec.field(default_factory=lambda: np.eye(4))
    """4x4, as in :class:`Transform`"""
    scalar_type: int = 3


class VideoMeta(Message, frozen=True, kw_only=True):
    """Videos that a server offers."""

    TYPE: ClassVar[str] = "VIDEOMETA"
    videos: tuple[VideoMetaElement, ...]
