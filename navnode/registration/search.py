"""2D/3D registration from a start that may be far off.

A coarse grid of orientations and depths is tried on small images. Sideways shifts are found at no extra cost: each
rendering is wider than the detector, and the image is located in it by normalised cross-correlation (Lewis 1995). The
best candidates are refined from coarse to fine; the result is the best fit and a runner-up elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import XrayImage
from navnode.registration.fit import Fit
from navnode.registration.tracking import ImageRegistration, Level, apart_mm, refine
from navnode.types import CArm, FloatArray, Matrix

__all__ = ["FAR", "NEAR", "Reach", "SearchResult", "candidates", "convincing", "find_pose", "rank"]

_SEARCH_PX = 32
_TURN_STEP_RAD = np.deg2rad(10.0)
_DEPTH_STEP_MM = 40.0

_DARKEST = 99.0
"""Percentile at which line integrals are clipped: above it is metal."""

_TRIED_COARSE, _TRIED_MIDDLE, _TRIED_FINE = 16, 5, 2
_SAME_MM = 4.0
"""Poses closer than this (rotations: ``POSE_SCALE``) count as the same."""
_ELSEWHERE_MM = 12.0

_OWN_WEIGHT = np.float32(0.1)
"""Weight of line integrals relative to their edges when images are compared."""

_CONVINCING_SIMILARITY, _CONVINCING_RESIDUAL, _CONVINCING_BEND = 0.985, 0.04, 0.012


@dataclass(frozen=True)
class Reach:
    """How far from the start to search."""

    across_mm: float
    depth_mm: float
    turn_rad: float


NEAR = Reach(30.0, 55.0, np.deg2rad(16.0))
FAR = Reach(105.0, 100.0, np.deg2rad(31.0))
"""Covers the uncertainty of a start from a station's name."""


@dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    fit: Fit
    runner_up: Fit | None
    """The best fit somewhere else."""
    tracked: bool = False
    """The pose was where it was expected: no search was needed."""


def find_pose(
    registration: ImageRegistration, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float, reach: Reach
) -> SearchResult:
    """Find the best fit within reach of a rough pose."""
    poses = candidates(registration.coarse, image, start_volume_from_carm, pivot_mm, reach)
    tries = [(registration.coarse, _TRIED_COARSE), (registration.middle, _TRIED_MIDDLE)]
    fits: list[Fit] = []
    for level, count in tries:
        observed = level.observed(image)
        fits = [refine(level, observed, pose, pivot_mm) for pose in poses[:count]]
        fits = _distinct(sorted(fits, key=rank), pivot_mm)
        poses = [fit.volume_from_carm for fit in fits]
    finals = [registration.finish(image, fit.volume_from_carm, pivot_mm) for fit in fits[:_TRIED_FINE]]
    finals = _distinct(sorted(finals, key=rank), pivot_mm)
    best = finals[0]
    others = [
        fit
        for fit in finals[1:] + fits
        if apart_mm(fit.volume_from_carm, best.volume_from_carm, pivot_mm) > _ELSEWHERE_MM
    ]
    return SearchResult(best, others[0] if others else None)


def convincing(fit: Fit) -> bool:
    """Whether a fit is so good that no other needs to be compared with it."""
    likely = fit.similarity >= _CONVINCING_SIMILARITY and fit.residual <= _CONVINCING_RESIDUAL
    return likely and not fit.incredible and fit.converged and fit.appearance.bend <= _CONVINCING_BEND


def rank(fit: Fit) -> tuple[bool, float]:
    """Sort key: best first."""
    return bool(fit.incredible), -fit.similarity


def candidates(
    level: Level, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float, reach: Reach
) -> list[Matrix]:
    """Poses ``volume_from_carm`` within reach, most similar rendering first."""
    counts, carm = image.binned(_SEARCH_PX)
    wanted = _features(_line(counts / image.brightest))
    margin = int(np.ceil(reach.across_mm * carm.source_to_detector_mm / (pivot_mm * carm.pixel_spacing_mm[0])))
    wide = _widened(carm, margin)
    scored = []
    for turn, depth_mm in product(_turns(reach.turn_rad), _steps(reach.depth_mm, _DEPTH_STEP_MM)):
        pose = start_volume_from_carm @ g.exp(np.concatenate([turn, (0.0, 0.0, depth_mm)]), (0.0, 0.0, pivot_mm))
        rendering = level.projector.render(wide, pose)
        likeness = cv2.matchTemplate(_features(rendering), wanted, cv2.TM_CCOEFF_NORMED)
        _, score, _, (left, top) = cv2.minMaxLoc(likeness)
        per_px = (pivot_mm - depth_mm) / carm.source_to_detector_mm
        shift_mm = [
            (at - margin) * spacing * per_px for at, spacing in zip((left, top), carm.pixel_spacing_mm, strict=True)
        ]
        scored.append((score, pose @ g.rigid(None, (*shift_mm, 0.0))))
    scored.sort(key=lambda pair: -pair[0])
    return [pose for _, pose in scored]


def _line(light: FloatArray) -> FloatArray:
    line = -np.log(np.clip(np.nan_to_num(light, nan=1.0), 1e-4, 1.0)).astype(np.float32)
    return np.minimum(line, np.float32(np.percentile(line, _DARKEST)))


def _features(line: FloatArray) -> FloatArray:
    """Edges in both directions and, at low weight, the line integrals themselves, (h, w, 3)."""
    du, dv = (cv2.Sobel(line, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return np.dstack([du, dv, _OWN_WEIGHT * line])


def _widened(carm: CArm, margin_px: int) -> CArm:
    u, v = carm.principal_point_px
    return replace(
        carm,
        width_px=carm.width_px + 2 * margin_px,
        height_px=carm.height_px + 2 * margin_px,
        principal_point_px=(u + margin_px, v + margin_px),
    )


def _turns(reach_rad: float) -> list[Matrix]:
    """Rotation vectors (3,) on a grid within a ball."""
    steps = _steps(reach_rad, _TURN_STEP_RAD)
    grid = [np.array(turn) for turn in product(steps, repeat=3)]
    return [turn for turn in grid if np.linalg.norm(turn) <= reach_rad]


def _steps(reach: float, step: float) -> list[float]:
    count = int(reach / step + 0.25)
    return [k * step for k in range(-count, count + 1)]


def _distinct(fits: list[Fit], pivot_mm: float) -> list[Fit]:
    kept: list[Fit] = []
    for fit in fits:
        if all(apart_mm(fit.volume_from_carm, other.volume_from_carm, pivot_mm) > _SAME_MM for other in kept):
            kept.append(fit)
    return kept
