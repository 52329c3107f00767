"""What a model of bones says of itself: ``navnode/model/1``, the report.json beside it."""

from __future__ import annotations

import msgspec

__all__ = ["AngleReport", "AxisReport", "BoneReport", "ModelReport", "PictureReport"]

SCHEMA = "navnode/model/1"


class PictureReport(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, without anything that names a patient."""

    number: int
    sha256: str
    """Of its counts."""
    volume_from_carm: list[list[float]]
    focal_px: float
    """Of the picture as it was used: averaged to some 256 px, and turned back where it was mirrored."""
    principal_point_px: list[float]
    width_px: int
    height_px: int
    moved_mm: float
    """Along the patient's long axis, so that the pictures agree; 0 where poses are known."""


class BoneReport(msgspec.Struct, frozen=True, kw_only=True):
    """One bone's surface."""

    name: str
    """Its kind, or ``bone 2``."""
    known: bool
    """Whether the name is its kind."""
    stl: str
    ply: str
    triangles: int
    size_mm: list[float]
    volume_cm3: float
    length_mm: float
    """Along the principal axis."""
    whole: bool
    """Whether it ends within all pictures, and none shows that it goes on; else the length is a least one."""
    unseen: float
    """Share of the surface that one picture or more does not show."""
    error_mm: float | None
    """Expected distance from the true surface, on average; scale and angle that are open come on top."""
    error_95_mm: list[float] | None
    """95 % interval of that average."""
    regions_mm: dict[str, float]
    """Expected distance in the lower, middle and upper third."""
    regions_95_mm: dict[str, list[float]]
    """95 % interval of each, as wide as the whole surface's by factor."""
    side: str
    """left or right, by where a femur's back and its lateral side are; '' if it does not show both."""
    doubt: str
    """Why it may not be relied on at all; '' if nothing speaks against it."""
    closed: bool
    oriented: bool


class AxisReport(msgspec.Struct, frozen=True, kw_only=True):
    """An axis of a bone."""

    bone: str
    name: str
    """anatomical: through the middles of the shaft's sections; mechanical: through the middles of both joints."""
    upper_mm: list[float]
    lower_mm: list[float]
    """Its ends, RAS."""


class AngleReport(msgspec.Struct, frozen=True, kw_only=True):
    """An angle that planners use: ``degrees``, and the interval likewise."""

    bone: str
    name: str
    degrees: float | None
    interval_deg: list[float] | None
    """95 % interval, from the expected error of the surface and what the landmarks leave open; None: not known."""
    not_shown: str
    """Why it is not measured; '' if it is."""


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """Models of bones, and how far to trust them."""

    schema: str = SCHEMA
    status: str
    """DEGRADED at best; INVALID: the pictures contradict each other or what was found in them, and no model is
    written."""
    reason: str
    geometry: str
    """Where the pictures' poses come from."""
    scale_open: float
    """Every length may be larger or smaller by this share."""
    angle_open_deg: float
    side_open: bool
    """Left and right were not checked."""
    spread_deg: float
    """Largest angle between two pictures."""
    pictures: list[PictureReport]
    bones: list[BoneReport]
    """Largest first; empty if the model is INVALID."""
    axes: list[AxisReport]
    angles: list[AngleReport]
    landmarks: str
    """Markups of 3D Slicer; '' if no bone shows one."""
    landmarks_placed: int
    """How many a person placed elsewhere than where they were proposed."""
    volume: str
    """HU; '' if it is not written."""
    page: str
    out: str
    engine: str
    elapsed_ms: float
    use: str = "research use only"
