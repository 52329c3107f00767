"""Whether images contradict the geometry that is stated for their C-arm.

A principal point or a pixel size that is not what is said looks, in one X-ray, nearly like a patient who lies
elsewhere: the pose adapts. What is left is perspective, which no pose imitates: outlines a fraction of a pixel off,
near the image's edge. At the registered pose, derivatives by focal length and principal point without what pose and
X-ray chain imitate tell by how much another geometry would explain the detail better, and which one (score test; Rao,
Proc. Cambridge Philos. Soc. 44, 1948). It takes one rendering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode.registration.appearance import XrayImage
from navnode.registration.carm.descent import SCALE, Linear, linearised
from navnode.registration.tracking import ImageRegistration, apart_mm
from navnode.types import CArm, Matrix, Status, Validity

__all__ = ["Evidence", "StatedGeometry", "contradicted", "doubted", "evidence", "evidence_of", "worse"]

_TOLERATED = 0.01
"""Errors of the focal length, a share, and of the principal point, a share of the image's width, that are no matter of
trust: the softness of a CT's outlines alone is a focal length 0.1 % off."""
_POSSIBLE = 0.3
"""No geometry is farther from the stated one; keeps what an image does not tell finite."""
_DOUBTED, _REFUSED = 10.0, 20.0
"""Squared distance of the stated geometry from the one that fits, in units of sigma and of what is tolerated, from
which an image is DEGRADED and INVALID."""

_MOST, _APART_MM = 8, 40.0
"""Images that are remembered, and how far their poses are apart at least (rotations times ``POSE_SCALE``)."""
_REPEATED, _FORGOTTEN = 150, 300
"""Number of images after which one near a remembered one takes its place, since somebody may zoom, and after which one
counts no more: a C-arm that returns to what is stated is believed again."""


@dataclass(frozen=True)
class Evidence:
    """What one image says of its C-arm's geometry: logarithm of the focal length, mm of the principal point."""

    carm: CArm
    """As stated, of the whole image."""
    volume_from_carm: Matrix
    pivot_mm: float
    information: Matrix
    """3x3, where the pose is unknown."""
    gradient: Matrix
    """(3,) of half the squared misfit, downwards."""


def evidence(registration: ImageRegistration, image: XrayImage, volume_from_carm: Matrix, pivot_mm: float) -> Evidence:
    """What a registered image says of its C-arm's geometry.

    Args:
        pivot_mm: distance from the source to the anatomy.
    """
    level = registration.fine
    equations = linearised(level.projector, level.observed(image), volume_from_carm, pivot_mm, None)
    return evidence_of(equations, image.carm, volume_from_carm, pivot_mm)


def evidence_of(equations: Linear, carm: CArm, volume_from_carm: Matrix, pivot_mm: float) -> Evidence:
    """The same from the normal equations of an image, whatever it shows; all poses are eliminated.

    Args:
        carm: as stated, of the whole image.
        volume_from_carm: of the first body.
    """
    hessian, gradient = equations.hessian, equations.gradient
    pose, geometry = slice(0, -3), slice(-3, None)
    least = 1e-9 * (np.trace(hessian[pose, pose]) + 1e-9)
    known = hessian[pose, pose] + least * np.eye(len(hessian) - 3)
    adapted = np.linalg.solve(known, np.column_stack([hessian[pose, geometry], gradient[pose]]))
    information = hessian[geometry, geometry] - hessian[geometry, pose] @ adapted[:, :3]
    units = SCALE[6:]
    return Evidence(
        carm,
        volume_from_carm,
        pivot_mm,
        equations.weight * information * np.outer(units, units),
        equations.weight * (gradient[geometry] - hessian[geometry, pose] @ adapted[:, 3]) * units,
    )


def contradicted(seen: Sequence[Evidence]) -> tuple[Status, str] | None:
    """The verdict on images of one C-arm whose geometry is not the stated one; None if they do not say so."""
    if not seen:
        return None
    carm = seen[0].carm
    width_mm = carm.width_px * carm.pixel_spacing_mm[0]
    unit = np.array([1.0, width_mm, width_mm])
    values, vectors = np.linalg.eigh(np.sum([each.information for each in seen], axis=0) * np.outer(unit, unit))
    values, told = np.maximum(values, 0.0), values > 0  # rounding leaves what nothing is known of slightly negative
    variances = 1 / (values + _POSSIBLE**-2)
    off = vectors @ (variances * told * (vectors.T @ (unit * np.sum([each.gradient for each in seen], axis=0))))
    covariance = (vectors * variances) @ vectors.T
    squared = float(off @ np.linalg.solve(covariance + _TOLERATED**2 * np.eye(3), off))
    if not squared > _DOUBTED:
        return None
    focal, *center = np.abs(off) / np.sqrt(np.diag(covariance) + _TOLERATED**2)
    which = "focal length (or pixel size)" if focal > max(center) else "principal point"
    reason = f"the C-arm's geometry does not fit the image: its {which} is not what is stated"
    return Status.INVALID if squared > _REFUSED else Status.DEGRADED, reason


def worse(verdict: tuple[Status, str], other: tuple[Status, str] | None) -> tuple[Status, str]:
    """Of a verdict and what may speak against it, the worse; of two that are as bad, what tells the cause."""
    return verdict if other is None or verdict[0] is Status.INVALID else other


def doubted(validity: Validity, other: tuple[Status, str] | None) -> Validity:
    """The worse of a validity and what may speak against it."""
    status, reason = worse((validity.status, validity.reason), other)
    return replace(validity, status=status, reason=reason)


class StatedGeometry:
    """What the images of a C-arm say of its geometry together: each a little, from each direction something else."""

    def __init__(self) -> None:
        self._seen: list[tuple[Evidence, int]] = []
        """With the number of the image."""
        self._images = 0
        self._in_doubt = False

    def verdict(self, carm: CArm) -> tuple[Status, str] | None:
        """As :func:`contradicted`, of the images so far; call once for each image."""
        self._images += 1
        self._seen = [(each, number) for each, number in self._seen if self._images - number <= _FORGOTTEN]
        verdict = contradicted([each for each, _ in self._seen if each.carm == carm])
        self._in_doubt = verdict is not None
        return verdict

    def wants(self, carm: CArm, volume_from_carm: Matrix, pivot_mm: float) -> bool:
        """Whether a registered image would say something new; in doubt each does."""
        near = [
            number
            for each, number in self._seen
            if each.carm == carm and apart_mm(each.volume_from_carm, volume_from_carm, pivot_mm) < _APART_MM
        ]
        return self._in_doubt or not near or self._images - max(near) >= _REPEATED

    def add(self, own: Evidence) -> None:
        """Remember an image, instead of those near it or of the oldest."""
        kept = [(each, number) for each, number in self._seen if each.carm == own.carm and not _near(each, own)]
        self._seen = [*kept[-_MOST + 1 :], (own, self._images)]


def _near(one: Evidence, other: Evidence) -> bool:
    return apart_mm(one.volume_from_carm, other.volume_from_carm, other.pivot_mm) < _APART_MM
