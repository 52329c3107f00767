"""Calibration artifacts on disk, ``navnode/calibration/1``: what calibration writes and the node loads.

An artifact is the document that a routine printed, with whose it is and until when it holds. Only what passed is ever
written, and nothing that failed, expired, or belongs to another device or mode is given out. Every kind has one row in
:data:`KINDS` and one struct for its result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, cast

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from navnode.errors import CalibrationError
from navnode.files.whole import write_whole
from navnode.geometry import CARM_SCHEMA, CArmDocument, is_rigid
from navnode.types import Array, CArm

SCHEMA: Final = "navnode/calibration/1"
NS_PER_DAY = 86_400_000_000_000
UNITS = {"mm": "millimetre", "rad": "radian", "px": "pixel", "ns": "nanosecond"}
"""What the ends of names in results mean."""
_MAX_BYTES = 1 << 26
_INDICES = r"(\[[\d.]*\])+$"
"""At the end of where an error is."""

Vector = tuple[float, float, float]
Pixel = tuple[float, float]
"""u, v"""
_Row = tuple[float, float, float, float]
Rows = tuple[_Row, _Row, _Row, _Row]
"""A 4x4 matrix, row by row."""


# --- results ---------------------------------------------------------------------------------------------------------


class Result(msgspec.Struct, frozen=True):
    """What a routine found. Fields that older artifacts, or those of others, may lack can be UNSET."""


class NoResult(Result, frozen=True):
    """Of a calibration that failed: nothing may load it."""


class PivotResult(Result, frozen=True):
    """A tool's tip."""

    tip_mm: Vector
    """Tool frame."""
    pivot_mm: Vector | UnsetType = UNSET
    """Where the tip rested, in the frame of the tracker or of the reference."""


class SpinResult(Result, frozen=True):
    """A tool's axis."""

    axis: Vector
    """Unit vector, tool frame."""
    axis_point_mm: Vector | UnsetType = UNSET
    """The point of the axis nearest to the tool's origin, tool frame."""


class CArmGeometry(CArmDocument, frozen=True, tag_field="schema", tag=CARM_SCHEMA):
    """``navnode/carm/1``, as a part of a result."""

    @classmethod
    def of(cls, carm: CArm) -> CArmGeometry:
        return cls(
            carm.width_px,
            carm.height_px,
            carm.pixel_spacing_mm,
            carm.source_to_detector_mm,
            carm.principal_point_px,
        )


class Angles(msgspec.Struct, frozen=True):
    """As an X-ray states them, rad."""

    orbital: float
    angulation: float


class SeenBead(msgspec.Struct, frozen=True):
    """A bead of the phantom in a shot."""

    id: str | int
    image_px: Pixel


class ShotResult(msgspec.Struct, frozen=True):
    """One shot of the phantom."""

    phantom_from_carm: Rows | None
    """None: the phantom was not recognised."""
    beads: tuple[SeenBead, ...] = ()
    rms_px: float | None = None
    timestamp_ns: int | UnsetType = UNSET
    carm: CArmGeometry | UnsetType = UNSET
    """Of a C-arm that bends: its geometry at this shot."""
    angles_rad: Angles | UnsetType = UNSET


class DistortionResult(msgspec.Struct, frozen=True):
    """What the detector does to the image."""

    model: str = "none"
    params: tuple[float, ...] | UnsetType = UNSET
    grid_step_px: int | UnsetType = UNSET
    undistorted_px: tuple[tuple[Pixel, ...], ...] | UnsetType = UNSET
    """[j][i]: where an ideal detector would have the raw pixel (i step, j step)."""


class CArmResult(Result, frozen=True):
    """Source, detector and distortion."""

    carm: CArmGeometry
    views: tuple[ShotResult, ...] | UnsetType = UNSET
    """In the order of the shots."""
    distortion: DistortionResult | UnsetType = UNSET


class FlexParameters(msgspec.Struct, frozen=True):
    """An ideal arc and what bends it; see :class:`navnode.xray.flex.FlexModel`."""

    volume_from_base: Rows
    arm_from_carm: Rows
    carm: CArmGeometry
    angles_rad: tuple[tuple[float, float], ...]
    """Orbital, angulation."""
    weights: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    length_rad: float


class FlexModelResult(msgspec.Struct, frozen=True):
    kind: str
    parameters: FlexParameters


class GeometryAt(msgspec.Struct, frozen=True):
    """A C-arm's geometry and pose at two angles."""

    carm: CArmGeometry
    volume_from_carm: Rows


class FlexResult(Result, frozen=True):
    """How a C-arm bends."""

    model: FlexModelResult
    at: tuple[GeometryAt, ...] | UnsetType = UNSET
    """At the angles that were asked for."""


class HandEyeResult(Result, frozen=True):
    """The marker on the C-arm, seen from the X-ray source; and where the phantom was."""

    marker_from_carm: Rows
    tracker_from_phantom: Rows | UnsetType = UNSET
    """Of a phantom that did not move."""
    phantom_marker_from_phantom: Rows | UnsetType = UNSET
    """Of one with a marker of its own."""


class PatientResult(Result, frozen=True):
    volume_from_patient: Rows


class ImageLagResult(Result, frozen=True):
    """How much later images are stamped than tracker poses."""

    image_lag_ns: int | float
    """Image stamp less tracker stamp of the same event."""
    sign: int | UnsetType = UNSET
    """-1: both motions are opposite."""


class FlatFieldResult(Result, frozen=True):
    """What the detector adds; dark, gain and bad pixels themselves are a file beside it."""

    out: str | None
    """That file."""
    i0: float
    """Counts of the unattenuated beam."""
    bad_pixels: tuple[tuple[int, int], ...]
    """u, v; not all when there are very many."""


class PhantomResult(Result, frozen=True):
    measured_mm: dict[str, Vector]
    """Label -> place, volume RAS."""


class ToolResult(Result, frozen=True):
    """A marker's template."""

    markers_mm: tuple[Vector, ...]
    """About the centroid, along the principal axes."""
    pairs_mm: tuple[float, ...]
    """Their distances, sorted."""


def rows(matrix: Array) -> Rows:
    """A matrix (4, 4) as results have it."""
    found: Rows = msgspec.convert(np.asarray(matrix, np.float64).tolist(), Rows)
    return found


def vector(at: Array) -> Vector:
    """A vector (3,) as results have it."""
    found: Vector = msgspec.convert(np.asarray(at, np.float64).tolist(), Vector)
    return found


# --- the registry ----------------------------------------------------------------------------------------------------

R = TypeVar("R")


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of calibration."""

    name: str
    """Of the routine, and in documents."""
    result: type[R]
    days_valid: float = 90.0
    """Unless the operator says otherwise."""
    key: str = ""
    """In a configuration's ``[calibration]``, or that of a tool; empty: a node does not load it."""
    of_tool: bool = False
    old_keys: tuple[str, ...] = ()
    """What the key was called before."""
    frames: Mapping[str, str] = field(default_factory=dict)
    """Field of the result -> in which frame, or from which to which."""
    lacking: str = ""
    """What a node does without it, and what helps."""

    @property
    def names(self) -> tuple[str, ...]:
        """What documents may call it."""
        return (self.name,) if self.key in ("", self.name) else (self.name, self.key)

    def expires_ns(self, now_ns: int, days: float | None = None) -> int:
        """When a calibration that is made now expires; 0: never.

        Args:
            days: that it is valid; None: as usual, 0: for ever.
        """
        days = self.days_valid if days is None else days
        return now_ns + round(days * NS_PER_DAY) if days else 0


PIVOT = Kind(
    "pivot",
    PivotResult,
    days_valid=30.0,
    key="pivot",
    of_tool=True,
    frames={"tip_mm": "tool", "pivot_mm": "tracker, or the reference"},
    lacking="where its tip is is not known: navnode calibrate pivot",
)
SPIN = Kind(
    "spin",
    SpinResult,
    days_valid=30.0,
    key="spin",
    of_tool=True,
    frames={"axis": "tool", "axis_point_mm": "tool"},
)
CARM = Kind(
    "carm",
    CArmResult,
    key="carm",
    frames={"carm": "image", "views": "phantom"},
    lacking="distance, principal point and distortion are nominal: navnode calibrate carm",
)
FLEX = Kind(
    "flex",
    FlexResult,
    key="flex",
    frames={"at": "volume"},
    lacking="the C-arm is taken not to bend: navnode calibrate flex",
)
HANDEYE = Kind(
    "handeye",
    HandEyeResult,
    key="handeye",
    frames={"marker_from_carm": "carm to marker"},
    lacking="the pose of the C-arm marker is unknown: navnode calibrate handeye",
)
PATIENT = Kind(
    "patient",
    PatientResult,
    days_valid=1.0,
    key="patient",
    frames={"volume_from_patient": "patient marker to volume (RAS)"},
    lacking="there is no start for the registration: navnode calibrate patient",
)
IMAGE_LAG = Kind(
    "temporal",
    ImageLagResult,
    key="image_lag",
    old_keys=("latency",),
    lacking="images are taken to be stamped as poses are: navnode calibrate temporal",
)
FLATFIELD = Kind(
    "flatfield",
    FlatFieldResult,
    days_valid=7.0,
    key="flatfield",
    lacking="the detector is taken to correct itself: navnode calibrate flatfield",
)
PHANTOM = Kind("phantom", PhantomResult, days_valid=1.0, frames={"measured_mm": "volume (RAS)"})
TOOL = Kind("tool", ToolResult, days_valid=365.0, frames={"markers_mm": "tool"})

KINDS: tuple[Kind[Any], ...] = (PIVOT, SPIN, CARM, FLEX, HANDEYE, PATIENT, IMAGE_LAG, FLATFIELD, PHANTOM, TOOL)
_BY_NAME = {name: kind for kind in KINDS for name in kind.names}


# --- documents -------------------------------------------------------------------------------------------------------


class Artifact(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """One calibration."""

    schema: Literal["navnode/calibration/1"] = SCHEMA
    kind: str
    status: str
    reason: str = ""
    result: R
    quality: dict[str, object] = {}
    """Figure -> its value, as a document has it, and the gates."""
    device: str = ""
    """Which tool, C-arm or detector it is of; empty: not said."""
    mode: str = ""
    """Of the detector: field of view, binning; empty: not said."""
    created_ns: int = 0
    expires_ns: int = 0
    """0: never."""
    inputs: dict[str, str] = {}
    """File -> SHA-256."""
    frames: dict[str, str] = {}
    """Field of the result -> in which frame, or from which to which."""
    units: dict[str, str] = {}

    @property
    def failed(self) -> bool:
        return self.status != "PASS" or bool(self.reason)


def kind_of(artifact: Artifact[Any]) -> Kind[Any]:
    """The row of an artifact that was read."""
    return _BY_NAME[artifact.kind]


def content(path: str | Path, most: int = _MAX_BYTES) -> bytes:
    """A calibration's file, byte by byte.

    Raises:
        CalibrationError: it cannot be read, or has more bytes than it may.
    """
    try:
        with Path(path).open("rb") as file:
            read = file.read(most + 1)
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from error
    if len(read) > most:
        raise CalibrationError(f"{path}: too large for a calibration")
    return read


def decode(content: bytes, path: str | Path) -> Artifact[Any]:
    """An artifact, whatever its verdict.

    Args:
        path: of the file, for messages.

    Raises:
        CalibrationError: it is none, or what passed has not the result of its kind.
    """
    raw = _raw(content, path)
    try:
        return _with_result(raw, path)
    except CalibrationError:
        if not raw.failed:
            raise
        return _replaced(raw, NoResult())


def read(path: str | Path) -> Artifact[Any]:
    """An artifact, whatever its verdict.

    Raises:
        CalibrationError: as :func:`content` and :func:`decode`.
    """
    return decode(content(path), path)


def usable(path: str | Path, kind: Kind[R], now_ns: int, *, device: str = "", mode: str = "") -> Artifact[R]:
    """An artifact that may be used.

    Args:
        device, mode: that it must be of; empty, here or there: not compared.

    Raises:
        CalibrationError: it is not; names it and says why.
    """
    return checked(content(path), path, kind, now_ns, device=device, mode=mode)


def checked(
    content: bytes, path: str | Path, kind: Kind[R], now_ns: int, *, device: str = "", mode: str = ""
) -> Artifact[R]:
    """:func:`usable`, of a file that was read already."""
    raw = _raw(content, path)
    if problem := _refused(raw, kind, now_ns, device, mode):
        raise CalibrationError(f"{path}: {problem}")
    found = _with_result(raw, path)
    if problem := _not_rigid(found.result):
        raise CalibrationError(f"{path}: {problem}")
    return found


def wrong(artifact: Artifact[Any], now_ns: int, *, device: str = "", mode: str = "") -> str:
    """Why an artifact that was read may not be used as what it is; empty when it may."""
    return _refused(artifact, kind_of(artifact), now_ns, device, mode) or _not_rigid(artifact.result)


def _raw(content: bytes, path: str | Path) -> Artifact[msgspec.Raw]:
    """An artifact of a kind that is known, its result as it stands in the file."""
    try:
        found = msgspec.json.decode(content, type=Artifact[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not a calibration file ({error})") from error
    if found.kind not in _BY_NAME:
        there = ", ".join(each.name for each in KINDS)
        raise CalibrationError(f"{path}: {found.kind!r} is no kind of calibration; there are: {there}")
    return found


def _with_result(raw: Artifact[msgspec.Raw], path: str | Path) -> Artifact[Any]:
    try:
        return _replaced(raw, msgspec.json.decode(raw.result, type=kind_of(raw).result))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: {_explained(str(error))}") from error


def _replaced(raw: Artifact[msgspec.Raw], result: object) -> Artifact[Any]:
    return cast(Artifact[Any], msgspec.structs.replace(raw, result=result))


def _refused(artifact: Artifact[Any], kind: Kind[Any], now_ns: int, device: str, mode: str) -> str:
    """Why an artifact may not be used, whatever its result is."""
    if kind_of(artifact) is not kind:
        return f"a {artifact.kind} calibration, not {kind.name}"
    if artifact.failed:
        return f"this calibration failed ({artifact.reason or artifact.status})"
    if artifact.expires_ns and now_ns > artifact.expires_ns:
        return f"expired {(now_ns - artifact.expires_ns) / NS_PER_DAY:.1f} days ago; calibrate again"
    for what, wanted, own in (("device", device, artifact.device), ("detector mode", mode, artifact.mode)):
        if wanted and own and wanted != own:
            return f"it is for {what} {own!r}, not {wanted!r}"
    return ""


def _not_rigid(result: Result) -> str:
    """Which of a result's transforms is none."""
    for name in result.__struct_fields__:
        value = getattr(result, name)
        if "_from_" in name and value is not UNSET and not is_rigid(np.array(value)):
            return f"{name} is no rigid transform"
    return ""


def write(path: Path, artifact: Artifact[Any]) -> None:
    """Write an artifact that passed, all at once: what was there before stays until the new one is whole.

    Raises:
        ConfigError: it cannot be written there.
    """
    assert artifact.status == "PASS", "what failed is not written"
    write_whole(path, encoded(artifact))


def encoded(artifact: Artifact[Any]) -> bytes:
    """An artifact as its file has it."""
    return msgspec.json.format(msgspec.json.encode(artifact), indent=1) + b"\n"


def hashed(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explained(error: str) -> str:
    """What a result lacks, in our words."""
    problem, _, place = error.partition(" - at `$")
    name = place.strip("`.")
    missing = re.match(r"Object missing required field `(.*)`", problem)
    if missing:
        return f"its {name or 'result'} has no {missing[1]}"
    if "_from_" in name:
        return f"{re.sub(_INDICES, '', name)} is no rigid transform"
    return f"its result cannot be used ({name}: {problem})" if name else f"its result cannot be used ({problem})"
