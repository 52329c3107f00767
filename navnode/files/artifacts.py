"""Calibration artifacts on disk, ``navnode/calibration/1``: written by calibration, loaded by the node.

An artifact is the document that a routine printed, plus its device and expiry. Only calibrations that passed are
written, and one that failed, expired, or belongs to another device or mode is never returned for use. Every kind has
one row in :data:`KINDS` and one struct for its result.
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

from navnode.errors import CalibrationError, ConfigError
from navnode.files.ordinary import refuse_special
from navnode.files.strict import refuse_repeated_keys
from navnode.files.whole import write_whole
from navnode.geometry import CARM_SCHEMA, CArmDocument, is_rigid
from navnode.types import Array, CArm

__all__ = [
    "Angles",
    "Artifact",
    "CARM",
    "CArmGeometry",
    "CArmResult",
    "DistortionResult",
    "FieldParameters",
    "FLATFIELD",
    "FLEX",
    "FlatFieldResult",
    "FlexModelResult",
    "FlexParameters",
    "FlexResult",
    "GeometryAt",
    "HANDEYE",
    "HandEyeResult",
    "IMAGE_LAG",
    "ImageLagResult",
    "KINDS",
    "Kind",
    "NS_PER_DAY",
    "OF_ANOTHER_CASE",
    "PATIENT",
    "PHANTOM",
    "PIVOT",
    "PLATE",
    "PatientResult",
    "PhantomResult",
    "PivotResult",
    "PlateResult",
    "SCHEMA",
    "SPIN",
    "SeenBead",
    "ShotResult",
    "SpinResult",
    "TOOL",
    "ToolResult",
    "UNITS",
    "Vector",
    "checked",
    "content",
    "hashed",
    "read",
    "rows",
    "usable",
    "vector",
    "write",
    "wrong",
]

SCHEMA: Final = "navnode/calibration/1"
NS_PER_DAY = 86_400_000_000_000
UNITS = {"mm": "millimetre", "rad": "radian", "px": "pixel", "ns": "nanosecond"}
"""Units that name endings in results stand for."""
OF_ANOTHER_CASE = "of another case, or of an unknown one (by CT, and name and side of [case]); measure it again"
_MAX_BYTES = 1 << 26
_INDICES = r"(\[[\d.]*\])+$"
"""Indices at the end of an error's location."""

Vector = tuple[float, float, float]
Pixel = tuple[float, float]
"""u, v"""
_Row = tuple[float, float, float, float]
Rows = tuple[_Row, _Row, _Row, _Row]
"""A 4x4 matrix, row by row."""


# --- results ---------------------------------------------------------------------------------------------------------


class Result(msgspec.Struct, frozen=True):
    """Result of a routine. Fields that may be missing in older or foreign artifacts can be UNSET."""


class NoResult(Result, frozen=True):
    """Stands for the result of a calibration that failed; never loaded."""


class PivotResult(Result, frozen=True):
    """A tool's tip."""

    tip_mm: Vector
    """Tool frame."""
    pivot_mm: Vector | UnsetType = UNSET
    """The point on which the tip rested, in the frame of the tracker or of the reference."""


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
        """The geometry of a C-arm."""
        return cls(
            carm.width_px,
            carm.height_px,
            carm.pixel_spacing_mm,
            carm.source_to_detector_mm,
            carm.principal_point_px,
        )


class Angles(msgspec.Struct, frozen=True):
    """C-arm angles of an X-ray, rad."""

    orbital: float
    angulation: float


class SeenBead(msgspec.Struct, frozen=True):
    """A bead of the phantom, identified in a shot."""

    id: str | int
    image_px: Pixel


class ShotResult(msgspec.Struct, frozen=True):
    """One shot of the phantom."""

    phantom_from_carm: Rows | None
    """None if the phantom was not recognised."""
    beads: tuple[SeenBead, ...] = ()
    rms_px: float | None = None
    timestamp_ns: int | UnsetType = UNSET
    carm: CArmGeometry | UnsetType = UNSET
    """Geometry at this shot, for a C-arm that bends."""
    angles_rad: Angles | UnsetType = UNSET


class FieldParameters(msgspec.Struct, frozen=True):
    """Distortion by angle; see :class:`navnode.xray.distortion.DistortionField`."""

    size_px: tuple[int, int]
    """Width, height."""
    angles_rad: tuple[Pixel, Pixel] | None
    """Smallest and largest (orbital, angulation) that were measured; None: at none in particular."""
    outline_px: tuple[Pixel, ...]
    """Convex outline of what was measured, raw pixels."""
    grid_step_px: int
    shifts_px: tuple[tuple[tuple[Pixel, ...], ...], ...]
    """[k][j][i]: ideal minus raw pixel at (i step, j step), over the k-th function of the angles."""


class DistortionResult(msgspec.Struct, frozen=True):
    """Distortion of the image by the detector."""

    model: str = "none"
    params: tuple[float, ...] | UnsetType = UNSET
    grid_step_px: int | UnsetType = UNSET
    undistorted_px: tuple[tuple[Pixel, ...], ...] | UnsetType = UNSET
    """[j][i]: where an ideal detector would have the raw pixel (i step, j step)."""
    field: FieldParameters | UnsetType = UNSET
    """Of model ``plate``, instead: by angle."""


class CArmResult(Result, frozen=True):
    """Source, detector and distortion."""

    carm: CArmGeometry
    views: tuple[ShotResult, ...] | UnsetType = UNSET
    """In the order of the shots."""
    distortion: DistortionResult | UnsetType = UNSET


class PlateResult(Result, frozen=True):
    """Distortion of an image intensifier, as a plate of holes shows it."""

    field: FieldParameters
    pixel_mm: float
    """Length on the plate, mm, that a pixel of the corrected image covers."""
    largest_shift_px: float
    """Of all angles that were measured."""


class FlexParameters(msgspec.Struct, frozen=True):
    """An ideal arc and its deviations; see :class:`navnode.xray.flex.FlexModel`."""

    volume_from_base: Rows
    arm_from_carm: Rows
    carm: CArmGeometry
    angles_rad: tuple[tuple[float, float], ...]
    """Orbital, angulation."""
    weights: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    length_rad: float


class FlexModelResult(msgspec.Struct, frozen=True):
    """A flex model and its kind."""

    kind: str
    parameters: FlexParameters


class GeometryAt(msgspec.Struct, frozen=True):
    """A C-arm's geometry and pose at one pair of angles."""

    carm: CArmGeometry
    volume_from_carm: Rows


class FlexResult(Result, frozen=True):
    """How a C-arm bends."""

    model: FlexModelResult
    at: tuple[GeometryAt, ...] | UnsetType = UNSET
    """At the requested angles."""


class HandEyeResult(Result, frozen=True):
    """Pose of the marker on the C-arm relative to the X-ray source, and the phantom's pose."""

    marker_from_carm: Rows
    tracker_from_phantom: Rows | UnsetType = UNSET
    """For a phantom that did not move."""
    phantom_marker_from_phantom: Rows | UnsetType = UNSET
    """For a phantom with a marker."""


class PatientResult(Result, frozen=True):
    """A start for the patient's registration."""

    volume_from_patient: Rows


class ImageLagResult(Result, frozen=True):
    """How much later images are stamped than tracker poses."""

    image_lag_ns: int | float
    """Image stamp minus tracker stamp of the same event."""
    sign: int | UnsetType = UNSET
    """-1 if the two motions have opposite directions."""


class FlatFieldResult(Result, frozen=True):
    """Properties of the detector; dark, gain and bad-pixel images are in a separate file."""

    out: str | None
    """That file."""
    i0: float
    """Counts of the unattenuated beam."""
    bad_pixels: tuple[tuple[int, int], ...]
    """u, v; incomplete if there are very many."""


class PhantomResult(Result, frozen=True):
    """Measured positions of the phantom's targets."""

    measured_mm: dict[str, Vector]
    """Label -> position, volume RAS."""


class ToolResult(Result, frozen=True):
    """A marker's template."""

    markers_mm: tuple[Vector, ...]
    """Relative to the centroid, along the principal axes."""
    pairs_mm: tuple[float, ...]
    """Distances between all pairs, sorted."""


def rows(matrix: Array) -> Rows:
    """A matrix (4, 4) in the form that results use."""
    return cast(Rows, msgspec.convert(np.asarray(matrix, np.float64).tolist(), Rows))


def vector(point_mm: Array) -> Vector:
    """A vector (3,) in the form that results use."""
    return cast(Vector, msgspec.convert(np.asarray(point_mm, np.float64).tolist(), Vector))


# --- the registry ----------------------------------------------------------------------------------------------------

R = TypeVar("R")


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of calibration."""

    name: str
    """Name of the routine, also used in documents."""
    result: type[R]
    days_valid: float = 90.0
    """Default validity."""
    key: str = ""
    """Key in a configuration's ``[calibration]`` or tool; empty: nodes do not load it."""
    of_tool: bool = False
    """Whether the key belongs to a tool."""
    of_case: bool = False
    """Whether it holds in one patient's volume only."""
    old_keys: tuple[str, ...] = ()
    """Former names of the key."""
    frames: Mapping[str, str] = field(default_factory=dict)
    """Field of the result -> its frame, or the frames that it maps between."""
    lacking: str = ""
    """What a node assumes without it, and the command that helps."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of this kind in documents."""
        return (self.name,) if self.key in ("", self.name) else (self.name, self.key)

    def file_name(self, tool: str = "") -> str:
        """Name under which it is kept in a folder of calibrations.

        Args:
            tool: name of the tool, of kinds that are a tool's.
        """
        stem = self.key or self.name
        return f"{stem}-{tool}.json" if tool else f"{stem}.npz" if self is FLATFIELD else f"{stem}.json"

    def expires_ns(self, now_ns: int, days: float | None = None) -> int:
        """Expiry of a calibration made now; 0: never.

        Args:
            days: validity; None: the default, 0: unlimited.
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
    lacking="the position of its tip is unknown: navnode calibrate pivot",
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
PLATE = Kind(
    "plate",
    PlateResult,
    frames={"field": "image"},
)
FLEX = Kind(
    "flex",
    FlexResult,
    key="flex",
    frames={"at": "volume"},
    lacking="the C-arm is assumed not to bend: navnode calibrate flex",
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
    of_case=True,
    frames={"volume_from_patient": "patient marker to volume (RAS)"},
    lacking="the registration has no start: navnode calibrate patient",
)
IMAGE_LAG = Kind(
    "temporal",
    ImageLagResult,
    key="image_lag",
    old_keys=("latency",),
    lacking="images are assumed to be stamped like poses: navnode calibrate temporal",
)
FLATFIELD = Kind(
    "flatfield",
    FlatFieldResult,
    days_valid=7.0,
    key="flatfield",
    lacking="the detector is assumed to correct itself: navnode calibrate flatfield",
)
PHANTOM = Kind("phantom", PhantomResult, days_valid=1.0, of_case=True, frames={"measured_mm": "volume (RAS)"})
TOOL = Kind("tool", ToolResult, days_valid=365.0, frames={"markers_mm": "tool"})

KINDS: tuple[Kind[Any], ...] = (PIVOT, SPIN, PLATE, CARM, FLEX, HANDEYE, PATIENT, IMAGE_LAG, FLATFIELD, PHANTOM, TOOL)
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
    """Figures by name, and the gates."""
    device: str = ""
    """Name of the tool, C-arm or detector; empty: unknown."""
    mode: str = ""
    """Mode of the detector, such as field of view and binning; empty: unknown."""
    case: str = ""
    """Of kinds that are a case's: :func:`navnode.loop.calibrations.case_of`; empty: unknown."""
    created_ns: int = 0
    expires_ns: int = 0
    """0: never."""
    inputs: dict[str, str] = {}
    """File -> SHA-256."""
    frames: dict[str, str] = {}
    """Field of the result -> its frame, or the frames that it maps between."""
    units: dict[str, str] = {}

    @property
    def failed(self) -> bool:
        """Whether the calibration did not pass."""
        return self.status != "PASS" or bool(self.reason)


def kind_of(artifact: Artifact[Any]) -> Kind[Any]:
    """The row of :data:`KINDS` for an artifact."""
    return _BY_NAME[artifact.kind]


def content(path: str | Path, most: int = _MAX_BYTES) -> bytes:
    """Bytes of a calibration file.

    Raises:
        CalibrationError: the file cannot be read, or is too large.
    """
    try:
        refuse_special(path)
        with Path(path).open("rb") as file:
            read = file.read(most + 1)
    except ConfigError as error:
        raise CalibrationError(str(error)) from error
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from error
    if len(read) > most:
        raise CalibrationError(f"{path}: too large for a calibration")
    return read


def decode(content: bytes, path: str | Path) -> Artifact[Any]:
    """Decode an artifact, passed or failed.

    Args:
        path: of the file, for error messages.

    Raises:
        CalibrationError: not an artifact, or one that passed without a valid result of its kind.
    """
    raw = _raw(content, path)
    try:
        return _with_result(raw, path)
    except CalibrationError:
        if not raw.failed:
            raise
        return _replaced(raw, NoResult())


def read(path: str | Path) -> Artifact[Any]:
    """Read an artifact, passed or failed.

    Raises:
        CalibrationError: as :func:`content` and :func:`decode`.
    """
    return decode(content(path), path)


def usable(
    path: str | Path, kind: Kind[R], now_ns: int, *, device: str = "", mode: str = "", case: str = ""
) -> Artifact[R]:
    """Read an artifact that must be usable.

    Args:
        device, mode, case: what it must be of; compared unless empty here or in the artifact.

    Raises:
        CalibrationError: the artifact must not be used; names it and the reason.
    """
    return checked(content(path), path, kind, now_ns, device=device, mode=mode, case=case)


def checked(
    content: bytes, path: str | Path, kind: Kind[R], now_ns: int, *, device: str = "", mode: str = "", case: str = ""
) -> Artifact[R]:
    """:func:`usable` for the content of a file.

    Raises:
        CalibrationError: as :func:`usable`.
    """
    raw = _raw(content, path)
    if problem := _refused(raw, kind, now_ns, device, mode, case):
        raise CalibrationError(f"{path}: {problem}")
    artifact = _with_result(raw, path)
    if problem := _not_rigid(artifact.result):
        raise CalibrationError(f"{path}: {problem}")
    return artifact


def wrong(artifact: Artifact[Any], now_ns: int, *, device: str = "", mode: str = "", case: str = "") -> str:
    """Why an artifact must not be used, or ''."""
    return _refused(artifact, kind_of(artifact), now_ns, device, mode, case) or _not_rigid(artifact.result)


def _raw(content: bytes, path: str | Path) -> Artifact[msgspec.Raw]:
    """An artifact of a known kind, with its result undecoded."""
    try:
        artifact = msgspec.json.decode(content, type=Artifact[msgspec.Raw])
        refuse_repeated_keys(content, path)
    except ConfigError as error:
        raise CalibrationError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not a calibration file ({error})") from error
    if artifact.kind not in _BY_NAME:
        known = ", ".join(each.name for each in KINDS)
        raise CalibrationError(f"{path}: unknown kind of calibration {artifact.kind!r}; known: {known}")
    return artifact


def _with_result(raw: Artifact[msgspec.Raw], path: str | Path) -> Artifact[Any]:
    try:
        return _replaced(raw, msgspec.json.decode(raw.result, type=kind_of(raw).result))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: {_explained(str(error))}") from error


def _replaced(raw: Artifact[msgspec.Raw], result: object) -> Artifact[Any]:
    return cast(Artifact[Any], msgspec.structs.replace(raw, result=result))


def _refused(artifact: Artifact[Any], kind: Kind[Any], now_ns: int, device: str, mode: str, case: str) -> str:
    """Why an artifact must not be used, regardless of its result, or ''."""
    if kind_of(artifact) is not kind:
        return f"a {artifact.kind} calibration, not {kind.name}"
    if artifact.failed:
        return f"this calibration failed ({artifact.reason or artifact.status})"
    if artifact.expires_ns and now_ns > artifact.expires_ns:
        return f"expired {(now_ns - artifact.expires_ns) / NS_PER_DAY:.1f} days ago; calibrate again"
    for what, wanted, own in (("device", device, artifact.device), ("detector mode", mode, artifact.mode)):
        if wanted and own and wanted != own:
            return f"for {what} {own!r}, not {wanted!r}"
    return OF_ANOTHER_CASE if case and artifact.case and case != artifact.case else ""


def _not_rigid(result: Result) -> str:
    """Which transform in a result is not rigid, or ''."""
    for name in result.__struct_fields__:
        value = getattr(result, name)
        if "_from_" in name and value is not UNSET and not is_rigid(np.array(value)):
            return f"{name} is not a rigid transform"
    return ""


def write(path: Path, artifact: Artifact[Any]) -> None:
    """Write an artifact that passed; an existing file is replaced only by a complete one.

    Raises:
        ConfigError: the file cannot be written.
    """
    assert artifact.status == "PASS", "failed calibrations are never written"
    write_whole(path, encoded(artifact))


def encoded(artifact: Artifact[Any]) -> bytes:
    """Content of an artifact's file."""
    return msgspec.json.format(msgspec.json.encode(artifact), indent=1) + b"\n"


def hashed(path: Path) -> str:
    """SHA-256 of a file; or of the names and contents of all files in and below a folder.

    Raises:
        ConfigError: it is neither, or something in it is not.
        OSError: it cannot be read.
    """
    refuse_special(path)
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if not each.is_dir())
        content = [(str(each.relative_to(path)), hashed(each)) for each in inside]
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explained(error: str) -> str:
    """msgspec's message in plain words."""
    problem, _, place = error.partition(" - at `$")
    name = place.strip("`.")
    missing = re.match(r"Object missing required field `(.*)`", problem)
    if missing:
        return f"{name or 'result'} has no {missing[1]}"
    if "_from_" in name:
        return f"{re.sub(_INDICES, '', name)} is not a rigid transform"
    return f"the result cannot be used ({name}: {problem})" if name else f"the result cannot be used ({problem})"
