"""Registration of several views at once: all share one rigid motion of the patient.

The views' poses relative to each other are known (tracked, or from one C-arm calibrated over its orbit); the patient's
position is not: volume_from_carm of view i is ``motion @ start_i`` with one ``motion`` for all. The normal equations of
every view are carried to that motion and added, so the depth that one view leaves open is seen by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import POSE_SCALE, Appearance, Observed, XrayImage
from navnode.registration.fit import MODEL_ERROR, NOISE_FLOOR, Fit
from navnode.registration.search import Reach, convincing, find_pose
from navnode.registration.tracking import ImageRegistration, Level, linearised
from navnode.types import Matrix

__all__ = ["JointView", "fit_jointly"]

_DAMPING = 1e-6
_ROUNDS = 2
"""Number of times that pixels are chosen at the finest level."""


@dataclass(frozen=True)
class JointView:
    """One image and its pose had the patient not moved."""

    image: XrayImage
    start_volume_from_carm: Matrix
    pivot_mm: float


def fit_jointly(registration: ImageRegistration, views: Sequence[JointView], reaches: Sequence[Reach]) -> list[Fit]:
    """Fit one motion to all views; returns one fit per view.

    Args:
        reaches: how far to search if the starts do not lead to a convincing fit; tried in order.
    """
    best = _refined(registration, views, np.eye(4))
    for reach in reaches:
        if all(map(convincing, best)):
            break
        for view in views:
            alone = find_pose(registration, view.image, view.start_volume_from_carm, view.pivot_mm, reach)
            motion = alone.fit.volume_from_carm @ g.inverse(view.start_volume_from_carm)
            best = min(best, _refined(registration, views, motion), key=_rank)
            if all(map(convincing, best)):
                break
    return best


def _rank(fits: list[Fit]) -> tuple[bool, float]:
    return any(fit.incredible for fit in fits), -min(fit.similarity for fit in fits)


def _refined(registration: ImageRegistration, views: Sequence[JointView], motion: Matrix) -> list[Fit]:
    """Refine one motion from coarse to fine."""
    pivots_mm = [np.array([0.0, 0.0, view.pivot_mm]) for view in views]
    starts = [view.start_volume_from_carm for view in views]
    center_mm = np.mean([g.transform(*pair) for pair in zip(starts, pivots_mm, strict=True)], axis=0)
    through = [
        g.perturbation_through(start, center_mm, pivot_mm) for start, pivot_mm in zip(starts, pivots_mm, strict=True)
    ]
    fits: list[Fit] = []
    levels = (registration.coarse, registration.middle, *[registration.fine] * _ROUNDS)
    for level in levels:
        poses = [motion @ start for start in starts]
        observed = [
            registration.look(level, view.image, pose, view.pivot_mm) for view, pose in zip(views, poses, strict=True)
        ]
        fits, motion = _refined_at(level, views, observed, through, motion, center_mm)
    return fits


def _refined_at(
    level: Level,
    views: Sequence[JointView],
    observed: Sequence[Observed],
    through: Sequence[Matrix],
    motion: Matrix,
    center_mm: Matrix,
) -> tuple[list[Fit], Matrix]:
    """Gauss-Newton on the motion at one level; rotations turn about ``center_mm`` (3,)."""
    appearances: list[Appearance | None] = [None] * len(views)
    moved_mm = np.inf
    for iteration in range(level.iterations + 1):
        hessian, gradient = np.zeros((6, 6)), np.zeros(6)
        poses = [motion @ view.start_volume_from_carm for view in views]
        for k, view in enumerate(views):
            appearance = linearised(level.projector, observed[k], poses[k], view.pivot_mm, appearances[k])
            appearances[k] = appearance
            if np.isfinite(appearance.noise):
                scaled = through[k].T * POSE_SCALE / max(appearance.noise, NOISE_FLOOR)
                hessian += scaled @ appearance.hessian @ scaled.T
                gradient += scaled @ appearance.gradient / max(appearance.noise, NOISE_FLOOR)
        if moved_mm < level.still_mm or iteration == level.iterations or not hessian.any():
            break
        balance = 1 / np.outer(POSE_SCALE, POSE_SCALE)
        damped = hessian * balance + _DAMPING * np.diag(np.diag(hessian * balance)) + 1e-9 * np.eye(6)
        step = np.linalg.solve(damped, gradient / POSE_SCALE)
        motion = motion @ g.exp(step / POSE_SCALE, center_mm)
        moved_mm = float(np.linalg.norm(step))
    information = hessian + 1e-9 * (np.trace(hessian) + 1.0) * np.eye(6)
    covariance = MODEL_ERROR**2 * np.linalg.inv(information)
    fits = [
        replace(
            Fit.of(pose, appearance, iteration, moved_mm),
            covariance=carry @ covariance @ carry.T,
        )
        for pose, appearance, carry in zip(poses, appearances, through, strict=True)
        if appearance is not None
    ]
    return fits, motion
