"""Whether images contradict the geometry that is stated for their C-arm.

A principal point or a pixel size that is not what is said looks, in one X-ray, nearly like a patient who lies
elsewhere: the pose adapts. What is left is perspective, which no pose imitates: outlines a fraction of a pixel off,
near the image's edge. At the registered pose, derivatives by focal length and principal point without what pose and
X-ray chain imitate tell by how much another geometry would explain the detail better, and which one (score test; Rao,
Proc. Cambridge Philos. Soc. 44, 1948). It takes one rendering. Where it says that another geometry might be better, a
step or three are made towards that one, since the first goes half the way only.

The same equations tell whether the patient is the rigid body that the CT shows: how much better would a pose explain
the detail that changes across the image, as where one half has moved against the other?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import POSE_SCALE, Observed, XrayImage
from navnode.registration.carm.descent import (
    LONGEST_STEP_MM,
    SCALE,
    Linear,
    geometry_apart,
    linearised,
    moved,
    through_geometry,
)
from navnode.registration.tracking import ImageRegistration, Level, apart_mm
from navnode.types import CArm, Matrix, Status, Validity

__all__ = [
    "Evidence",
    "StatedGeometry",
    "bent",
    "contradicted",
    "doubted",
    "evidence",
    "evidence_of",
    "of_carms",
    "of_one_carm",
    "worse",
]

_TOLERATED = np.array([0.003, 0.007, 0.007])
"""Errors of the focal length, a share, and of the principal point, a share of the image's width, that are no matter of
trust: the softness of a CT's outlines alone is a focal length 0.1 % off. Of 144 right X-rays of 18 CTs, 2000 to 60 000
photons a pixel, half say a focal length within 0.1 %, 95 % within 0.5 %; one percent is a patient 7 mm too deep."""
_TOLERATED_BESIDE = 0.01
"""The same of all three, where it is asked whether the patient bent."""
_POSSIBLE = 0.3
"""No geometry is farther from the stated one; keeps what an image does not tell finite."""
_DOUBTED, _REFUSED = 10.0, 20.0
"""Squared distance of the stated geometry from the one that fits, in units of sigma and of what is tolerated, from
which an image is DEGRADED and INVALID."""

_UNTOLD, _ONE_SIDED = 0.12, 1.64
"""Error of the focal length (a share), or of the principal point (a share of the image's width), that images must
exclude with 95 % to show that what is stated is right, and how many sigma these are to one side. Of 887 right X-rays of
ten CTs all but one did, a thigh's (0.122); the two of wrong geometry that were VALID by their squared distance, thighs
too, did not."""
_SUSPICIOUS, _STEPS = 1.0, 3
"""Squared distance from which another geometry is tried, and how often it is stepped towards one that fits better."""
_ASTRAY = 2.0
"""Times as much noise that a step may leave, since the next one often mends it; what leaves more has lost the image."""

_MOST, _APART_MM = 8, 40.0
"""Images that are remembered, and how far their poses are apart at least (rotations times ``POSE_SCALE``)."""
_NOT_SHOWN = "the image does not show whether the C-arm's geometry is as stated"

_BENT = 10.0
"""Squared distance of a rigid body from what fits best, in units of sigma and of what is tolerated, from which an image
is DEGRADED: of 353 right X-rays of twelve CTs none exceeded 7.4; of ten whose halves had moved unnoticed or nearly so
all but three, which other figures refuse, exceeded 12."""
_RIGID_STEPS = 10
"""Steps of a pose before a bend is believed. Of 475 X-rays of the virtual room, its C-arm under way, 6 looked bent at
the pose that was tracked, by up to 15; after four steps one did (10.6), after five none. Of 44 patients whose halves
had moved by 1 to 5 mm all stayed above 10."""
_BEND_TOLERATED_MM, _BEND_POSSIBLE_MM = (0.1, 0.1, 0.1, 0.1, 0.1, 1.0), 20.0
"""Change of a pose across the image's width (rotations times ``POSE_SCALE``) that is no matter of trust; the most."""
_MOVED_APART = "parts of the patient have moved against each other since the CT"

_BADNESS = {Status.VALID: 0, Status.DEGRADED: 1, Status.INVALID: 2}

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
    bent: float = 0.0
    """Squared distance of a rigid body from what fits best; 0: not looked at."""


def evidence(registration: ImageRegistration, image: XrayImage, volume_from_carm: Matrix, pivot_mm: float) -> Evidence:
    """What a registered image says of its C-arm's geometry.

    Args:
        pivot_mm: distance from the source to the anatomy.
    """
    level = registration.fine
    observed = level.observed(image)
    bending = linearised(level.projector, observed, volume_from_carm, pivot_mm, None, bends=True)
    equations = bending.rigid()
    own = evidence_of(equations, image.carm, volume_from_carm, pivot_mm)
    pose, carm = volume_from_carm, image.carm
    for _ in range(_STEPS):
        fitting = _fitting([own])
        if not _SUSPICIOUS < fitting.squared <= _REFUSED:
            break
        step = (fitting.off - geometry_apart(carm, image.carm)) * SCALE[6:]
        adapted = _adapted(equations, 6)
        turn = adapted[:, 3] - adapted[:, :3] @ step
        shortened = min(1.0, LONGEST_STEP_MM / float(np.linalg.norm([*turn, *step])))
        pose = pose @ g.exp(shortened * turn / POSE_SCALE, (0.0, 0.0, pivot_mm))
        carm = moved(carm, shortened * step / SCALE[6:])
        seen = through_geometry(carm, image.carm, observed)
        before, equations = equations, linearised(level.projector, seen, pose, pivot_mm, equations.appearance)
        if not equations.noise <= _ASTRAY * before.noise:
            break
        own = evidence_of(equations, image.carm, volume_from_carm, pivot_mm, geometry_apart(carm, image.carm))
    return replace(own, bent=_bent_wherever(level, observed, bending, volume_from_carm, pivot_mm))


def _bent_wherever(level: Level, observed: Observed, bending: Linear, pose: Matrix, pivot_mm: float) -> float:
    """As :func:`_bent`, at the pose that fits the detail best: a tracked one is some hundredths of a mm off, which a
    bend would explain as well. A body whose parts have moved looks no straighter from there."""
    if not bending.seen:
        return 0.0
    bent = _bent(bending, observed.carm)
    for _ in range(_RIGID_STEPS):
        if not bent > _BENT:
            break
        step = _adapted(bending, 6)[:, -1]
        shortened = min(1.0, LONGEST_STEP_MM / max(float(np.linalg.norm(step)), 1e-12))
        pose = pose @ g.exp(shortened * step / POSE_SCALE, (0.0, 0.0, pivot_mm))
        before = bending
        bending = linearised(level.projector, observed, pose, pivot_mm, before.appearance, bends=True)
        if not bending.noise <= _ASTRAY * before.noise:
            break
        bent = _bent(bending, observed.carm)
    return bent


def _bent(equations: Linear, carm: CArm) -> float:
    """Squared distance of a rigid body from what fits an image best, wherever it is, and with a geometry that may be
    off by what is tolerated."""
    width_mm = carm.width_px * carm.pixel_spacing_mm[0]
    geometry_sigma = SCALE[6:] * _TOLERATED_BESIDE * np.array([1.0, width_mm, width_mm])
    free = slice(6, None)
    adapted = _adapted(equations, 6)
    told = equations.hessian[free, free] - equations.hessian[free, :6] @ adapted[:, :-1]
    pull = equations.gradient[free] - equations.hessian[free, :6] @ adapted[:, -1]
    weight = equations.sharp_weight
    known = np.concatenate([np.full(12, _BEND_POSSIBLE_MM), geometry_sigma]) ** -2.0
    covariance = np.linalg.inv(weight * told + np.diag(known))
    bend = (covariance @ (weight * pull))[:12]
    tolerated = np.tile(np.square(_BEND_TOLERATED_MM), 2)
    return float(bend @ np.linalg.solve(covariance[:12, :12] + np.diag(tolerated), bend))


def evidence_of(
    equations: Linear, carm: CArm, volume_from_carm: Matrix, pivot_mm: float, apart: Matrix | None = None
) -> Evidence:
    """The same from the normal equations of an image, whatever it shows; all poses are eliminated.

    Args:
        carm: as stated, of the whole image.
        volume_from_carm: of the first body.
        apart: (3,) how far from what is stated the geometry of the equations is (logarithm, mm); default: not at all.
    """
    hessian, gradient = equations.hessian, equations.gradient
    pose, geometry = slice(0, -3), slice(-3, None)
    adapted = _adapted(equations, len(gradient) - 3)
    units = SCALE[6:]
    told = hessian[geometry, geometry] - hessian[geometry, pose] @ adapted[:, :3]
    information = equations.sharp_weight * told * np.outer(units, units)
    pull = equations.sharp_weight * (gradient[geometry] - hessian[geometry, pose] @ adapted[:, 3]) * units
    if apart is not None:
        pull += information @ apart
    return Evidence(carm, volume_from_carm, pivot_mm, information, pull)


def _adapted(equations: Linear, poses: int) -> Matrix:
    """(P, F + 1): how poses, the first P parameters, make up for each of the F others, and their step towards what is
    left unexplained."""
    hessian, gradient = equations.hessian, equations.gradient
    pose = slice(0, poses)
    least = 1e-9 * (np.trace(hessian[pose, pose]) + 1e-9)
    known = hessian[pose, pose] + least * np.eye(poses)
    adapted: Matrix = np.linalg.solve(known, np.column_stack([hessian[pose, poses:], gradient[pose]]))
    return adapted


def contradicted(seen: Sequence[Evidence]) -> tuple[Status, str] | None:
    """The verdict on images of one C-arm that contradict its geometry, or the patient's; None: they do not."""
    return _other_geometry(seen) or bent(seen)


def of_one_carm(seen: Sequence[Evidence]) -> tuple[Status, str] | None:
    """As :func:`contradicted`, where one image that contradicts the geometry speaks of all: they are of one C-arm."""
    alone = [verdict for each in seen if (verdict := _other_geometry([each])) and verdict[1] != _NOT_SHOWN]
    return max([*alone, contradicted(seen)], key=lambda verdict: -1 if verdict is None else _BADNESS[verdict[0]])


def of_carms(seen: Sequence[Evidence]) -> tuple[Status, str] | None:
    """The worst verdict of :func:`of_one_carm`, of images that are explained together: one wrong C-arm spoils all."""
    verdicts = [of_one_carm([each for each in seen if each.carm == carm]) for carm in {each.carm for each in seen}]
    return max(verdicts, key=lambda verdict: -1 if verdict is None else _BADNESS[verdict[0]], default=None)


def bent(seen: Sequence[Evidence]) -> tuple[Status, str] | None:
    """The verdict on images of one patient who is not the rigid body that the CT shows; None: he is."""
    return (Status.DEGRADED, _MOVED_APART) if any(not each.bent <= _BENT for each in seen) else None


def _other_geometry(seen: Sequence[Evidence]) -> tuple[Status, str] | None:
    """The verdict on images of one C-arm whose geometry is not, or may well not be, the stated one; None: it is."""
    if not seen:
        return None
    fitting = _fitting(seen)
    if not fitting.squared > _DOUBTED:
        return None if fitting.bound <= _UNTOLD else (Status.DEGRADED, _NOT_SHOWN)
    focal, *center = fitting.sigmas
    which = "focal length (or pixel size)" if focal > max(center) else "principal point"
    reason = f"the C-arm's geometry does not fit the image: its {which} is not what is stated"
    return Status.INVALID if fitting.squared > _REFUSED else Status.DEGRADED, reason


class _Fitting(NamedTuple):
    """The geometry that fits images best, beside the one that is stated."""

    off: Matrix
    """(3,) logarithm of the focal length, mm of the principal point."""
    squared: float
    """Squared distance of the stated one, in units of sigma and of what is tolerated."""
    sigmas: Matrix
    """(3,) the same of each part by itself, not squared."""
    bound: float
    """No error is larger, with 95 %, as a share: of the focal length, of the image's width."""


def _fitting(seen: Sequence[Evidence]) -> _Fitting:
    """Of images of one C-arm."""
    carm = seen[0].carm
    width_mm = carm.width_px * carm.pixel_spacing_mm[0]
    unit = np.array([1.0, width_mm, width_mm])
    values, vectors = np.linalg.eigh(np.sum([each.information for each in seen], axis=0) * np.outer(unit, unit))
    values, told = np.maximum(values, 0.0), values > 0  # rounding leaves what nothing is known of slightly negative
    variances = 1 / (values + _POSSIBLE**-2)
    off = vectors @ (variances * told * (vectors.T @ (unit * np.sum([each.gradient for each in seen], axis=0))))
    bound = float(np.linalg.norm(off) + _ONE_SIDED * np.sqrt(variances.max()))
    covariance = (vectors * variances) @ vectors.T + np.diag(_TOLERATED**2)
    squared = float(off @ np.linalg.solve(covariance, off))
    return _Fitting(unit * off, squared, np.abs(off) / np.sqrt(np.diag(covariance)), bound)


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
        self._in_doubt = self._changed = False
        self._alone: Evidence | None = None
        """Of the last image since something may have changed: what those before said does not speak for it."""

    def verdict(self, carm: CArm) -> tuple[Status, str] | None:
        """As :func:`contradicted`, of the images so far; call once for each image."""
        self._images += 1
        self._seen = [(each, number) for each, number in self._seen if self._images - number <= _FORGOTTEN]
        seen = [each for each, _ in self._seen if each.carm == carm]
        verdict = _other_geometry(seen)
        if self._alone is not None and self._alone.carm == carm:
            own = _other_geometry([self._alone])
            if own is None or own[1] == _NOT_SHOWN:
                self._alone = None
            else:
                verdict = own if verdict is None else worse(verdict, own)
        self._in_doubt = verdict is not None  # a patient who bent is no matter of the C-arm
        return verdict or bent(seen)

    def wants(self, carm: CArm, volume_from_carm: Matrix, pivot_mm: float) -> bool:
        """Whether a registered image would say something new; in doubt each does."""
        near = [
            number
            for each, number in self._seen
            if each.carm == carm and apart_mm(each.volume_from_carm, volume_from_carm, pivot_mm) < _APART_MM
        ]
        return self._in_doubt or self._changed or not near or self._images - max(near) >= _REPEATED

    def change(self) -> None:
        """X-rays jumped: perhaps the picture did, on the detector. The next image is looked at, and believed alone."""
        self._changed = True

    def add(self, own: Evidence) -> None:
        """Remember an image, instead of those near it or of the oldest."""
        if self._changed or self._alone is not None:
            self._alone, self._changed = own, False
        kept = [(each, number) for each, number in self._seen if each.carm == own.carm and not _near(each, own)]
        self._seen = [*kept[-_MOST + 1 :], (own, self._images)]


def _near(one: Evidence, other: Evidence) -> bool:
    return apart_mm(one.volume_from_carm, other.volume_from_carm, other.pivot_mm) < _APART_MM
