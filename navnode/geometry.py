"""Rigid transforms, projection and pose interpolation. Names cancel: ``a_from_b @ b_from_c``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import msgspec
import numpy as np

from navnode import native
from navnode.errors import ConfigError
from navnode.itk import RAS_FROM_LPS
from navnode.types import Array, CArm, Matrix

__all__ = [
    "CARM_SCHEMA",
    "CArmDocument",
    "RAS_FROM_LPS",
    "angle_between_rad",
    "carm_document",
    "carm_of",
    "carry",
    "exp",
    "interpolate",
    "inverse",
    "is_rigid",
    "log",
    "nearest_rigid",
    "orthonormal",
    "perturbation_through",
    "pose_at",
    "project",
    "rigid",
    "rotation_exp",
    "rotation_log",
    "series_at",
    "skew",
    "transform",
    "where_rays_meet",
]

CARM_SCHEMA = "navnode/carm/1"
_LEAST_PX, _MOST_PX = 8, 8192
"""Limits of a detector's sides: fewer pixels show nothing (volumes have at least as many), and a square of more exceeds
the largest image that is read."""
_LEAST_SPACING_MM, _LEAST_DISTANCE_MM = 0.01, 50.0
"""No detector has smaller pixels, and no C-arm is shorter."""


def rigid(rotation: Array | None = None, translation_mm: Array | tuple[float, ...] = (0.0, 0.0, 0.0)) -> Matrix:
    """4x4 from a 3x3 rotation (identity if None) and a translation."""
    a_from_b = np.eye(4)
    if rotation is not None:
        a_from_b[:3, :3] = rotation
    a_from_b[:3, 3] = translation_mm
    return a_from_b


def inverse(a_from_b: Matrix) -> Matrix:
    """``b_from_a`` of a rigid transform."""
    rotation = a_from_b[:3, :3].T
    return rigid(rotation, -rotation @ a_from_b[:3, 3])


def nearest_rigid(matrix: Array, tolerance: float = 1e-3) -> Matrix | None:
    """The rigid transform nearest to a 4x4 that is one but for rounding (float32 on the wire, say), or None.

    None: it is not finite, its last row is not 0 0 0 1, or ``|R^T R - I|`` exceeds ``tolerance``.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (4, 4):
        return None
    nearest = np.empty((4, 4))
    failed = native.holding_library().navnode_nearest_rigid(matrix.tobytes(), tolerance, nearest.ctypes.data)
    return None if failed else nearest


def is_rigid(matrix: Array, tolerance: float = 1e-3) -> bool:
    """Whether a 4x4 is finite, has last row 0 0 0 1, and a rotation: ``|R^T R - I|`` within ``tolerance``."""
    return nearest_rigid(matrix, tolerance) is not None


def orthonormal(a_from_b: Array) -> Matrix:
    """The rigid transform nearest to any 4x4, also one that is far from rigid."""
    if (nearest := nearest_rigid(a_from_b)) is not None:
        return nearest
    rotation, translation_mm = np.asarray(a_from_b, np.float64)[:3, :3], np.asarray(a_from_b)[:3, 3]
    u, _, vt = np.linalg.svd(rotation)
    return rigid(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt, translation_mm)


def carry(a_from_b: Matrix, c_from_b: Matrix, c_from_d: Matrix, d_from_e: Matrix) -> Matrix:
    """``a_from_b @ inverse(c_from_b) @ c_from_d @ d_from_e``, of rigid transforms.

    From a tool to the volume, say, by way of a tracker that sees tool and patient.

    Raises:
        ValueError: one of them is not 4x4.
    """
    chain = b"".join([np.asarray(each, np.float64).tobytes() for each in (a_from_b, c_from_b, c_from_d, d_from_e)])
    a_from_e = np.empty((4, 4))
    if len(chain) != 4 * a_from_e.nbytes:
        raise ValueError("all transforms must be 4x4")
    native.holding_library().navnode_carry(chain, a_from_e.ctypes.data)
    return a_from_e


def skew(vector: Array) -> Matrix:
    """3x3 matrix of the cross product with a vector (3,): ``skew(a) @ b == cross(a, b)``."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_exp(rotation_rad: Array) -> Matrix:
    """3x3 rotation from a rotation vector (3,)."""
    return np.asarray(cv2.Rodrigues(np.asarray(rotation_rad, np.float64))[0], np.float64)


def rotation_log(rotation: Array) -> Matrix:
    """Rotation vector (3,) of a 3x3 rotation, angle in 0..pi."""
    return np.asarray(cv2.Rodrigues(np.asarray(rotation, np.float64))[0], np.float64).ravel()


def exp(xi: Array, pivot_mm: Array | tuple[float, ...] = (0.0, 0.0, 0.0)) -> Matrix:
    """Rigid motion of ``xi`` = (rotation vector rad, translation mm), (6,), turning about ``pivot_mm``.

    A simple retraction (rotate about the pivot, then translate), not the SE(3) exponential: the two
    agree to first order, and this one keeps rotation and translation apart for reading.
    """
    rotation = rotation_exp(xi[:3])
    pivot = np.asarray(pivot_mm, np.float64)
    return rigid(rotation, pivot - rotation @ pivot + np.asarray(xi[3:], np.float64))


def log(a_from_b: Matrix, pivot_mm: Array | tuple[float, ...] = (0.0, 0.0, 0.0)) -> Matrix:
    """Inverse of :func:`exp`, (6,)."""
    pivot = np.asarray(pivot_mm, np.float64)
    rotation = a_from_b[:3, :3]
    return np.concatenate([rotation_log(rotation), a_from_b[:3, 3] - pivot + rotation @ pivot])


def perturbation_through(b_from_c: Matrix, pivot_in_b_mm: Array, pivot_in_c_mm: Array) -> Matrix:
    """6x6 matrix that carries a right perturbation across a rigid step, both in the convention of :func:`exp`.

    If ``a_from_b @ exp(xi_b, pivot_in_b)`` then ``a_from_c = a_from_b @ b_from_c`` changes by
    ``@ exp(xi_c, pivot_in_c)`` with ``xi_c = M @ xi_b`` to first order.
    """
    rotation_c_from_b = b_from_c[:3, :3].T
    # Velocity of the material point at pivot_in_c: translation at pivot_in_b plus rotation x lever.
    lever = b_from_c[:3, :3] @ np.asarray(pivot_in_c_mm) + b_from_c[:3, 3] - np.asarray(pivot_in_b_mm)
    through = np.zeros((6, 6))
    through[:3, :3] = rotation_c_from_b
    through[3:, 3:] = rotation_c_from_b
    through[3:, :3] = -rotation_c_from_b @ skew(lever)
    return through


def transform(a_from_b: Matrix, points_b_mm: Array) -> Matrix:
    """Points (..., 3) in frame b to frame a."""
    return np.asarray(points_b_mm, np.float64) @ a_from_b[:3, :3].T + a_from_b[:3, 3]


def angle_between_rad(a: Array, b: Array) -> float:
    """Angle between two directions (3,)."""
    (ax, ay, az), (bx, by, bz) = np.asarray(a).tolist(), np.asarray(b).tolist()
    across = math.hypot(ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    return math.atan2(across, ax * bx + ay * by + az * bz)


def interpolate(at_0: Matrix, at_1: Matrix, fraction: float) -> Matrix:
    """``a_from_b`` between two: the rotation turns about one axis at a steady rate, the origin moves straight.

    ``fraction`` outside 0..1 extrapolates.
    """
    turn = rotation_exp(fraction * rotation_log(at_0[:3, :3].T @ at_1[:3, :3]))
    return rigid(at_0[:3, :3] @ turn, (1 - fraction) * at_0[:3, 3] + fraction * at_1[:3, 3])


def project(carm: CArm, carm_from_points: Matrix, points_mm: Array) -> Matrix:
    """Detector positions (..., 2) in px of points (..., 3); NaN for points not in front of the source."""
    x, y, z = np.moveaxis(transform(carm_from_points, points_mm), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(z > 1e-6, carm.source_to_detector_mm / z, np.nan)
    return np.stack(
        [
            carm.principal_point_px[0] + x * scale / carm.pixel_spacing_mm[0],
            carm.principal_point_px[1] + y * scale / carm.pixel_spacing_mm[1],
        ],
        axis=-1,
    )


def pose_at(
    middle_mm: Matrix, distance_mm: float, *, orbital_deg: float, angulation_deg: float = 0.0, roll_deg: float = 0.0
) -> Matrix:
    """volume_from_carm of a C-arm whose principal ray passes through a point at a distance from the source.

    With all angles 0 the source is behind a supine patient, image right is patient right and image up is superior.

    Args:
        middle_mm: (3,) RAS.
        orbital_deg: rotation about the patient's long axis.
        angulation_deg: tilt towards the head or the feet.
        roll_deg: rotation of the detector about the principal ray.
    """
    at_zero = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # columns: R, -S, A
    turn = rotation_exp(np.deg2rad([0, 0, orbital_deg])) @ rotation_exp(np.deg2rad([angulation_deg, 0, 0]))
    rotation = turn @ at_zero @ rotation_exp(np.deg2rad([0, 0, roll_deg]))
    return rigid(rotation, middle_mm - distance_mm * rotation[:, 2])


def series_at(times_s: Matrix, poses: Matrix, wanted_s: Matrix, most_apart_s: float) -> Matrix:
    """Interpolate a series of poses at other times, (M, 4, 4); NaN in gaps and beside poses that are not rigid.

    Args:
        times_s, poses: (N,) increasing and (N, 4, 4).
        most_apart_s: no interpolation between poses farther apart than this.
    """
    interpolated = np.full((len(wanted_s), 4, 4), np.nan)
    for n, (right, at) in enumerate(zip(np.searchsorted(times_s, wanted_s), wanted_s, strict=True)):
        if right < len(times_s) and times_s[right] == at:
            interpolated[n] = poses[right]
            continue
        if not 0 < right < len(times_s):
            continue
        begin, end = times_s[right - 1], times_s[right]
        pair = poses[right - 1], poses[right]
        if end - begin <= most_apart_s and all(is_rigid(pose) for pose in pair):
            interpolated[n] = interpolate(orthonormal(pair[0]), orthonormal(pair[1]), (at - begin) / (end - begin))
    return interpolated


def where_rays_meet(poses: Sequence[Matrix]) -> Matrix:
    """The point nearest to all principal rays, mm (3,), by least squares.

    Args:
        poses: volume_from_carm of every view, (4, 4).
    """
    across = [np.eye(3) - np.outer(pose[:3, 2], pose[:3, 2]) for pose in poses]
    offsets = [p @ pose[:3, 3] for p, pose in zip(across, poses, strict=True)]
    return np.asarray(np.linalg.lstsq(np.sum(across, axis=0), np.sum(offsets, axis=0), rcond=None)[0])


class CArmDocument(msgspec.Struct, frozen=True):
    """``navnode/carm/1``; unknown keys are ignored. Its limits apply wherever a C-arm is read."""

    width_px: int
    """8 to 8192, as the height."""
    height_px: int
    pixel_spacing_mm: tuple[float, float]
    """Along u and v, at least 0.01."""
    source_to_detector_mm: float
    """At least 50."""
    principal_point_px: tuple[float, float]
    """Where the principal ray meets the detector, (u, v); pixel centres are integers."""

    def __post_init__(self) -> None:
        if not (min(self.width_px, self.height_px) >= _LEAST_PX and max(self.width_px, self.height_px) <= _MOST_PX):
            raise ValueError(f"width_px and height_px must be {_LEAST_PX} to {_MOST_PX}")
        if not (min(self.pixel_spacing_mm) > 0 and self.source_to_detector_mm > 0):
            raise ValueError("pixel_spacing_mm and source_to_detector_mm must be positive")
        if min(self.pixel_spacing_mm) < _LEAST_SPACING_MM or self.source_to_detector_mm < _LEAST_DISTANCE_MM:
            raise ValueError(
                f"pixel_spacing_mm under {_LEAST_SPACING_MM:g} or source_to_detector_mm under {_LEAST_DISTANCE_MM:g}: "
                "are they in metres?"
            )
        if not np.isfinite((*self.pixel_spacing_mm, self.source_to_detector_mm, *self.principal_point_px)).all():
            raise ValueError("pixel_spacing_mm, source_to_detector_mm and principal_point_px must be finite")

    @property
    def geometry(self) -> CArm:
        """The C-arm that the document describes."""
        return CArm(
            self.width_px,
            self.height_px,
            self.pixel_spacing_mm,
            self.source_to_detector_mm,
            self.principal_point_px,
        )


def carm_document(carm: CArm) -> dict[str, Any]:
    """The ``navnode/carm/1`` document of a C-arm."""
    return {
        "schema": CARM_SCHEMA,
        "width_px": carm.width_px,
        "height_px": carm.height_px,
        "pixel_spacing_mm": list(carm.pixel_spacing_mm),
        "source_to_detector_mm": carm.source_to_detector_mm,
        "principal_point_px": list(carm.principal_point_px),
    }


def carm_of(document: Any) -> CArm:
    """The C-arm of a ``navnode/carm/1`` document.

    Raises:
        ConfigError: a value is missing, of the wrong type or out of range.
    """
    try:
        return msgspec.convert(document, CArmDocument).geometry
    except msgspec.ValidationError as error:
        raise ConfigError(f"{CARM_SCHEMA}: {error}") from error
