"""Registration of several views at once: all share one rigid motion of the patient.

The views' poses relative to each other are known (tracked, or the same C-arm calibrated over its orbit); what is not is
where the patient lies: volume_from_carm of view i is ``motion @ start_i`` with one ``motion`` for all. Each view's
normal equations are carried to that motion and added; what one view leaves open, its depth, another one sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import POSE_SCALE, Appearance, Image, Observed
from navnode.registration.fit import MODEL_ERROR, NOISE_FLOOR, Fit
from navnode.registration.search import Reach, convincing, find_pose
from navnode.registration.tracking import ImageRegistration, Level, linearised
from navnode.types import Matrix

_DAMPING = 1e-6
_ROUNDS = 2
"""Times that pixels are chosen at the finest level."""


@dataclass(frozen=True)
class JointView:
    """One image and where it would have been taken from, had the patient not moved."""

    image: Image
    start_volume_from_carm: Matrix
    pivot_mm: float


def fit_jointly(registration: ImageRegistration, views: Sequence[JointView], reaches: Sequence[Reach]) -> list[Fit]:
    """One fit for each view, all of one motion.

    Args:
        reaches: how far to search, one after the other until it convinces, when the starts do not lead there.
    """
    best = _refined(registration, views, np.eye(4))
    for reach in reaches:
        if all(map(convincing, best)):
            break
        for view in views:
            found = find_pose(registration, view.image, view.start_volume_from_carm, view.pivot_mm, reach)
            motion = found.fit.volume_from_carm @ g.inverse(view.start_volume_from_carm)
            best = min(best, _refined(registration, views, motion), key=_rank)
            if all(map(convincing, best)):
                break
    return best


def _rank(fits: list[Fit]) -> tuple[bool, float]:
    return any(fit.incredible for fit in fits), -min(fit.similarity for fit in fits)


def _refined(registration: ImageRegistration, views: Sequence[JointView], motion: Matrix) -> list[Fit]:
    """Coarse to fine from one motion."""
    pivot_mm = np.mean([g.transform(v.start_volume_from_carm, np.array([0, 0, v.pivot_mm])) for v in views], axis=0)
    through = [
        g.perturbation_through(v.start_volume_from_carm, pivot_mm, np.array([0.0, 0.0, v.pivot_mm])) for v in views
    ]
    fits: list[Fit] = []
    levels = (registration.coarse, registration.middle, *[registration.fine] * _ROUNDS)
    for level in levels:
        poses = [motion @ view.start_volume_from_carm for view in views]
        observed = [
            registration.look(level, view.image, pose, view.pivot_mm) for view, pose in zip(views, poses, strict=True)
        ]
        fits, motion = _refined_at(level, views, observed, through, motion, pivot_mm)
    return fits


def _refined_at(
    level: Level,
    views: Sequence[JointView],
    observed: Sequence[Observed],
    through: Sequence[Matrix],
    motion: Matrix,
    pivot_mm: Matrix,
) -> tuple[list[Fit], Matrix]:
    said: list[Appearance | None] = [None] * len(views)
    moved_mm = np.inf
    for iteration in range(level.iterations + 1):
        hessian, gradient = np.zeros((6, 6)), np.zeros(6)
        poses = [motion @ view.start_volume_from_carm for view in views]
        for k, view in enumerate(views):
            appearance = linearised(level.projector, observed[k], poses[k], view.pivot_mm, said[k])
            said[k] = appearance
            if np.isfinite(appearance.noise):
                scaled = through[k].T * POSE_SCALE / max(appearance.noise, NOISE_FLOOR)
                hessian += scaled @ appearance.hessian @ scaled.T
                gradient += scaled @ appearance.gradient / max(appearance.noise, NOISE_FLOOR)
        if moved_mm < level.still_mm or iteration == level.iterations or not hessian.any():
            break
        balance = 1 / np.outer(POSE_SCALE, POSE_SCALE)
        damped = hessian * balance + _DAMPING * np.diag(np.diag(hessian * balance)) + 1e-9 * np.eye(6)
        step = np.linalg.solve(damped, gradient / POSE_SCALE)
        motion = motion @ g.exp(step / POSE_SCALE, pivot_mm)
        moved_mm = float(np.linalg.norm(step))
    uncertain = hessian + 1e-9 * (np.trace(hessian) + 1.0) * np.eye(6)
    covariance = MODEL_ERROR**2 * np.linalg.inv(uncertain)
    fits = [
        replace(
            Fit.of(pose, appearance, iteration, moved_mm),
            covariance=carry @ covariance @ carry.T,
        )
        for pose, appearance, carry in zip(poses, said, through, strict=True)
        if appearance is not None
    ]
    return fits, motion
