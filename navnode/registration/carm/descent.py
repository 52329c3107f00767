"""Gauss-Newton over the poses of all views and one geometry.

Derivatives need no other renderings: a changed focal length or principal point turns each pixel's ray about the source,
and the projector knows how its integral changes when all rays turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.registration.appearance import (
    NOTHING,
    POSE_SCALE,
    Appearance,
    Observed,
    XrayImage,
    between_neighbours,
    fitted,
    residuals,
)
from navnode.registration.tracking import Level
from navnode.types import CArm, FloatArray, Matrix

__all__ = [
    "CENTER_SIGMA",
    "FOCAL_SIGMA",
    "LONGEST_STEP_MM",
    "Linear",
    "RELATIVE_SIGMA",
    "SCALE",
    "State",
    "Views",
    "geometry_apart",
    "in_detail",
    "linearised",
    "moved",
    "ray_derivatives",
    "through_geometry",
]

FOCAL_SIGMA, CENTER_SIGMA = 0.1, 0.1
"""How well the start is known: a share of the focal length, and of the image's width."""
SCALE = np.concatenate([POSE_SCALE, [60.0, 0.7, 0.7]])
"""By how many mm the image's content at the patient moves with each of (rotation rad, translation mm, logarithm of the
focal length, principal point mm on the detector)."""

_MODEL_ERROR = 5.0
"""As in ``fit.MODEL_ERROR``, for the whole image instead of chosen pixels: neighbours are less independent."""
_NOISE_FLOOR = 0.004
"""Line-integral units."""
_SMOOTH = 0.18
"""Structures wider than this share of the image say nothing of the geometry."""
_DAMPING = 1e-6
_AT_ONCE = 8192
"""Pixels whose products in double precision stay in the cache."""
LONGEST_STEP_MM = 40.0
_ITERATIONS, _STILL_MM = 30, 0.02

RELATIVE_SIGMA = np.array([0.0012] * 3 + [0.35] * 3)
"""How right poses from a tracker are relative to each other, at the patient (rad, mm): noise and hand-eye error."""


@dataclass(frozen=True)
class Linear:
    """Normal equations of one view's pose, or those of several bodies, and geometry, in units of ``SCALE``."""

    appearance: Appearance
    hessian: Matrix
    """9x9; (6 bodies + 3) along each side. With bends, 12 more of each body between poses and geometry."""
    gradient: Matrix
    """(9,), as many as along a side of ``hessian``."""
    noise: float
    """Standard deviation of image minus model in detail, line-integral units."""
    own_noise: float
    """The part of it that every pixel has by itself, as photons have it; neighbours share the rest."""

    @property
    def weight(self) -> float:
        """Inverse variance of a pixel, as if neighbours shared all of the noise."""
        return (_MODEL_ERROR * max(self.noise, _NOISE_FLOOR)) ** -2 if self.seen else 0.0

    @property
    def sharp_weight(self) -> float:
        """Inverse variance of a pixel whose own noise its neighbours do not share: up to 25 times ``weight``."""
        if not self.seen:
            return 0.0
        shared = self.noise**2 - self.own_noise**2
        return 1 / max(_MODEL_ERROR**2 * shared + self.own_noise**2, (_MODEL_ERROR * _NOISE_FLOOR) ** 2)

    @property
    def pose_covariance(self) -> Matrix:
        """6x6 (rad, mm), were the geometry known."""
        information = self.weight * self.hessian[:6, :6] + 1e-6 * np.eye(6)
        covariance: Matrix = np.linalg.inv(information) / np.outer(POSE_SCALE, POSE_SCALE)
        return covariance

    @property
    def seen(self) -> bool:
        """Whether the image shows the volume."""
        return bool(np.isfinite(self.appearance.noise))

    def rigid(self) -> Linear:
        """The same of one body, without how it bends."""
        assert len(self.gradient) in (9, 21)
        kept = np.r_[:6, len(self.gradient) - 3 : len(self.gradient)]
        return replace(self, hessian=self.hessian[np.ix_(kept, kept)], gradient=self.gradient[kept])


_UNSEEN = Linear(NOTHING, np.zeros((9, 9)), np.zeros(9), np.inf, np.inf)


@dataclass(frozen=True)
class State:
    """Geometry and poses, with the normal equations there."""

    carm: CArm
    poses: list[Matrix]
    """volume_from_carm, 4x4 each."""
    pivots_mm: list[float]
    views: list[Linear]
    maps: list[Matrix]
    """Of each view: (9, P) from all parameters to the view's pose and geometry, in units of ``SCALE``."""
    covariance: Matrix
    """(P, P) of all parameters, in units of ``SCALE``."""
    iterations: int
    step_mm: float
    deviation: Matrix
    """(6 per view,) from the common motion, in units of ``SCALE``; empty: there is none."""

    @property
    def unexplained(self) -> float:
        """Sum over the views of what they leave unexplained."""
        return sum(1 - view.appearance.similarity for view in self.views)

    def covariance_of(self, view: int) -> Matrix:
        """9x9 of one view's pose (rad, mm) and the geometry (logarithm of the focal length; mm on the detector)."""
        through = self.maps[view] / SCALE[:, None]
        covariance: Matrix = through @ self.covariance @ through.T
        return covariance


@dataclass(frozen=True)
class Views:
    """Images of one C-arm."""

    images: Sequence[XrayImage]
    carm: CArm
    """As stated."""
    center_mm: Matrix
    """Middle of the volume, (3,)."""
    joint: bool = False

    def descended(self, level: Level, poses: list[Matrix], carm: CArm, deviation: Matrix | None = None) -> State:
        """Gauss-Newton at one level, from poses and a geometry nearby.

        Args:
            poses: volume_from_carm, 4x4 each.
            deviation: (6 per view,) of the poses from one common motion, as the level before left it.
        """
        pivots_mm = [float(np.linalg.norm(self.center_mm - pose[:3, 3])) for pose in poses]
        maps = self._maps(poses, pivots_mm)
        seen = [level.observed(image) for image in self.images]
        before: list[Appearance | None] = [None] * len(seen)
        geometry = maps[0].shape[1] - 3
        precision = np.zeros(geometry + 3)
        width_mm = self.carm.width_px * self.carm.pixel_spacing_mm[0]
        apart = slice(6, geometry) if self.joint else slice(0, 0)
        precision[apart] = np.tile((POSE_SCALE * RELATIVE_SIGMA) ** -2.0, len(poses) if self.joint else 0)
        deviation = np.zeros(len(precision[apart])) if deviation is None else deviation
        precision[geometry:] = (SCALE[6:] * (FOCAL_SIGMA, CENTER_SIGMA * width_mm, CENTER_SIGMA * width_mm)) ** -2.0
        moved_mm, steps = np.inf, 0
        while True:
            views = [
                linearised(level.projector, through_geometry(carm, self.carm, at), pose, pivot_mm, last)
                for at, pose, pivot_mm, last in zip(seen, poses, pivots_mm, before, strict=True)
            ]
            before = [view.appearance if view.seen else None for view in views]
            information = np.diag(precision)
            gradient = np.zeros(len(precision))
            gradient[apart] = -precision[apart] * deviation
            gradient[geometry:] = -precision[geometry:] * SCALE[6:] * geometry_apart(carm, self.carm)
            for view, through in zip(views, maps, strict=True):
                information += view.weight * through.T @ view.hessian @ through
                gradient += view.weight * through.T @ view.gradient
            information += 1e-9 * np.trace(information) / len(information) * np.eye(len(information))
            if moved_mm < _STILL_MM or steps == _ITERATIONS:
                break
            step = np.linalg.solve(information + _DAMPING * np.diag(np.diag(information)), gradient)
            step *= min(1.0, LONGEST_STEP_MM / max(float(np.linalg.norm(step)), 1e-9))
            for k, through in enumerate(maps):
                xi = (through @ step)[:6] / POSE_SCALE
                poses = [*poses[:k], poses[k] @ g.exp(xi, (0.0, 0.0, pivots_mm[k])), *poses[k + 1 :]]
            carm, deviation = moved(carm, step[geometry:] / SCALE[6:]), deviation + step[apart]
            moved_mm, steps = float(np.linalg.norm(step)), steps + 1
        return State(carm, poses, pivots_mm, views, maps, np.linalg.inv(information), steps, moved_mm, deviation)

    def _maps(self, poses: Sequence[Matrix], pivots_mm: Sequence[float]) -> list[Matrix]:
        """From one common motion if there is one, every view's own, and the geometry."""
        maps = []
        first = 6 if self.joint else 0
        count = first + 6 * len(poses)
        pivots = [np.array([0.0, 0.0, pivot_mm]) for pivot_mm in pivots_mm]
        middle_mm = np.mean([g.transform(*pair) for pair in zip(poses, pivots, strict=True)], axis=0)
        for k, (pose, pivot) in enumerate(zip(poses, pivots, strict=True)):
            through = np.zeros((9, count + 3))
            through[6:, count:] = np.eye(3)
            if self.joint:
                carried = g.perturbation_through(pose, middle_mm, pivot)
                through[:6, :6] = POSE_SCALE[:, None] * carried / POSE_SCALE
            through[:6, first + 6 * k : first + 6 * k + 6] = np.eye(6)
            maps.append(through)
        return maps


def through_geometry(carm: CArm, stated: CArm, observed: Observed) -> Observed:
    """The same pixels, seen through another geometry than the one that is stated for the whole image."""
    return replace(observed, carm=carm.binned(round(observed.carm.pixel_spacing_mm[0] / stated.pixel_spacing_mm[0])))


def geometry_apart(carm: CArm, stated: CArm) -> Matrix:
    """(3,): logarithm of the focal lengths' ratio, and distance of the principal points, mm on the detector."""
    off_px = np.subtract(carm.principal_point_px, stated.principal_point_px)
    ratio = carm.source_to_detector_mm / stated.source_to_detector_mm
    return np.array([np.log(ratio), *(off_px * carm.pixel_spacing_mm)])


def moved(carm: CArm, step: Matrix) -> CArm:
    """A C-arm with another geometry.

    Args:
        step: (3,) by the logarithm of the focal length, and the principal point, mm on the detector.
    """
    (u, v), (su, sv) = carm.principal_point_px, carm.pixel_spacing_mm
    distance_mm = carm.source_to_detector_mm * float(np.exp(np.clip(step[0], -0.2, 0.2)))
    return replace(
        carm,
        source_to_detector_mm=distance_mm,
        principal_point_px=(float(u + step[1] / su), float(v + step[2] / sv)),
    )


def linearised(
    projector: Projector,
    observed: Observed,
    volume_from_carm: Matrix,
    pivot_mm: float,
    before: Appearance | None,
    *,
    bends: bool = False,
) -> Linear:
    """Normal equations at a pose.

    Args:
        before: the appearance at a pose nearby, to start from.
        bends: also by a pose that changes across the image, as that of a body does whose parts have moved.
    """
    try:
        predicted, jacobian = projector.render(observed.carm, volume_from_carm, jacobian=True, pivot_mm=pivot_mm)
    except ComputeError:  # the pose diverged
        return _UNSEEN
    predicted, jacobian = predicted.ravel(), jacobian.reshape(6, -1)
    return in_detail(observed, predicted, jacobian, pivot_mm, before, bends=bends)


def in_detail(
    observed: Observed,
    predicted: FloatArray,
    jacobian: FloatArray,
    pivot_mm: float,
    before: Appearance | None = None,
    *,
    bends: bool = False,
) -> Linear:
    """Normal equations of the poses of all that an image shows, and of the geometry.

    Args:
        predicted: (N,) line integrals, of all pixels, row by row.
        jacobian: (6 bodies, N), by the pose of each about ``(0, 0, pivot_mm)``.
        before: the appearance at a pose nearby, to start from.
        bends: also by how much the pose of one body changes across the image's width, and down it.
    """
    turned = jacobian.reshape(-1, 6, jacobian.shape[1]).sum(axis=0)  # rays turn for all bodies alike
    across = [jacobian * ramp for ramp in _ramps(observed.carm)] if bends else []
    rows = np.concatenate([jacobian, *across, ray_derivatives(observed.carm, turned, pivot_mm)])
    appearance = fitted(observed, predicted, None, before, rounds=4 if before is None else 2)
    if not np.isfinite(appearance.noise):
        return Linear(NOTHING, np.zeros((len(rows),) * 2), np.zeros(len(rows)), np.inf, np.inf)
    scale = np.concatenate([np.tile(POSE_SCALE, len(rows) // 6), SCALE[6:]])
    return Linear(appearance, *_equations(observed, predicted, rows / scale[:, None], appearance))


def _ramps(carm: CArm) -> FloatArray:
    """(2, N) that grow by 1 across an image's width, and as fast down it; 0 in its middle."""
    v, u = np.mgrid[: carm.height_px, : carm.width_px].astype(np.float32).reshape(2, -1)
    return np.stack([u - carm.width_px / 2, v - carm.height_px / 2]).astype(np.float32) / np.float32(carm.width_px)


def _equations(
    observed: Observed, predicted: FloatArray, rows: FloatArray, appearance: Appearance
) -> tuple[Matrix, Matrix, float, float]:
    """Normal equations (P x P, P) from derivatives (P, N) of the integrals, the noise, and that which pixels do not
    share, all without what is smooth.

    A principal point's error leaves hardly more than a smooth residual, as scatter does that the chain does not know.
    """
    left = residuals(observed, predicted, appearance)
    height, width = observed.carm.height_px, observed.carm.width_px
    stack = np.concatenate([left.slope * rows, left.terms, [left.residual]]).astype(np.float32)
    weight = left.weight.astype(np.float32).reshape(height, width)
    box = (2 * round(_SMOOTH * width / 2) + 1,) * 2
    share = 1 / np.maximum(cv2.blur(weight, box), np.float32(1e-6))
    smooth = np.empty_like(weight)
    for row in stack.reshape(-1, height, width):
        np.multiply(row, weight, out=smooth)
        cv2.blur(smooth, box, dst=smooth)
        smooth *= share
        row -= smooth
    gram = np.zeros((len(stack),) * 2)
    for start in range(0, stack.shape[1], _AT_ONCE):  # what no pose imitates is a millionth of these sums
        exact = stack[:, start : start + _AT_ONCE].astype(np.float64)
        gram += (exact * weight.ravel()[start : start + _AT_ONCE]) @ exact.T
    known, terms, rest = slice(0, len(rows)), slice(len(rows), -1), -1
    inner = gram[terms, terms] + 1e-6 * np.trace(gram[terms, terms]) / len(gram[terms]) * np.eye(len(gram[terms]))
    imitated = np.linalg.solve(inner, gram[terms, :])
    reduced = gram - gram[:, terms] @ imitated
    pixels = max(int(np.count_nonzero(weight)), 1)
    noise = float(np.sqrt(max(gram[rest, rest], 0.0) / pixels))
    own = min(float(np.sqrt(between_neighbours(stack[-1].reshape(height, width), weight) / pixels)), noise)
    return reduced[known, known], reduced[known, rest], noise, own


def ray_derivatives(carm: CArm, jacobian: FloatArray, pivot_mm: float) -> FloatArray:
    """Derivatives (3, N) of the N pixels' line integrals in the geometry, from those in the pose.

    A ray is (a, b, 1) t from the source. A geometry that changes (a, b) turns it about the source by (a, b, 1) x change
    over its squared length, and no part of an integral along the ray knows of anything else.

    Args:
        jacobian: (6, N) by rotation (rad) and translation (mm) about ``(0, 0, pivot_mm)``, for all pixels, row by row.

    Returns:
        By the logarithm of the focal length, and by the principal point along u and v, mm on the detector.
    """
    v, u = np.mgrid[: carm.height_px, : carm.width_px].astype(np.float32).reshape(2, -1)
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    distance_mm = np.float32(carm.source_to_detector_mm)
    a, b = (u - np.float32(cu)) * np.float32(su) / distance_mm, (v - np.float32(cv)) * np.float32(sv) / distance_mm
    # About the source instead of the pivot: the pivot moves by rotation x pivot.
    about_x, about_y = jacobian[0] - pivot_mm * jacobian[4], jacobian[1] + pivot_mm * jacobian[3]
    about_z = jacobian[2]
    squared = 1 + a * a + b * b
    along_a = (about_y - b * about_z) / squared
    along_b = (a * about_z - about_x) / squared
    return np.stack([-a * along_a - b * along_b, -along_a / distance_mm, -along_b / distance_mm]).astype(np.float32)
