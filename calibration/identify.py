"""Identifies spots as beads and estimates a rough pose, without a start."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import least_squares

from navnode import geometry as g
from navnode.types import CArm, Matrix
from navnode.xray.points import matched, rigid_of, three_point

__all__ = ["identify"]

_MOST_TRIPLES = 250_000
_TRIES = 14
_COARSE = 0.02
"""Largest distance of a spot from its bead's position by a rough pose, as a share of the image's width."""
_LOOKED_AT, _KEPT = 100, 8
_SAME_RAD = 0.15
_LEAST_BEADS = 8
_LEAST_SHARE = 0.5
"""Smallest share of the beads within the image that must be found."""
_ENOUGH_SHARE = 0.7
_RIVAL = 0.85
"""Share of the best pose's beads at which another pose with other identities makes the result ambiguous."""
_RIVAL_RMS, _RIVAL_PX = 2.0, 0.2
"""A pose whose error is larger than this factor and offset is no rival."""
_SIZE_RATIO = 1.17
"""Largest ratio between a spot and its bead's shadow, for phantoms with beads of several sizes."""
_DEPTH = (0.25, 0.98)
"""Range of depths of beads, relative to the source-to-detector distance."""
_FINE = 0.004


@dataclass(frozen=True)
class Identified:
    """Identities of spots."""

    phantom_from_carm: Matrix
    spots: Matrix
    """(K,) indices of the spots"""
    beads: Matrix
    """(K,) indices of their beads"""
    rival: float
    """Number of beads by the best other identification over that of this one; near 1: the phantom is ambiguous."""


def identify(
    at_px: Matrix,
    radius_px: Matrix,
    beads_mm: Matrix,
    diameters_mm: Matrix,
    carm: CArm,
    start: Matrix | None = None,
    *,
    seed: int = 0,
) -> Identified | None:
    """Find the pose that explains most spots as beads, and their identities; None if no pose does, or two do.

    Triples of spots are matched to all ordered triples of beads (perspective three-point problem, Grunert 1841; after
    Haralick et al., IJCV 13, 1994). Each pose is scored by the number of beads that fall on spots, and the best ones
    are refined.

    Args:
        at_px, radius_px: (N, 2) and (N,), best first; not all need to be beads.
        beads_mm, diameters_mm: (M, 3) and (M,)
        carm: nominal; may be off by a few percent and some tens of pixels.
        start: phantom_from_carm; used only to decide between poses that explain the spots equally well.
    """
    if len(at_px) < _LEAST_BEADS or len(beads_mm) < _LEAST_BEADS:
        return None
    rng = np.random.default_rng(seed)
    nearness = _nearness(at_px, carm)
    candidates: list[tuple[float, Matrix]] = []
    for attempt in range(_TRIES):
        chosen = _wide_triple(at_px, carm, attempt, rng)
        poses = _poses_of_triples(at_px[chosen], beads_mm, carm, rng)
        if len(poses):
            scores = _scores(poses, beads_mm, carm, nearness)
            best = np.argsort(-scores)[:_LOOKED_AT]
            candidates += [(float(scores[n]), poses[n]) for n in best]
        candidates = _distinct(candidates)
        if candidates and candidates[0][0] > _ENOUGH_SHARE * min(len(at_px), len(beads_mm)):
            break
    if start is not None:
        candidates.append((np.inf, g.inverse(start)))
    solved: list[tuple[int, float, Matrix, Matrix, Matrix]] = []
    for _, carm_from_phantom in candidates:
        refined, spots, beads, rms = _refined(carm_from_phantom, at_px, beads_mm, carm)
        if len(beads) >= _LEAST_BEADS:
            right = _right_size(refined, radius_px[spots], beads_mm[beads], diameters_mm[beads], carm)
            solved.append((int(right.sum()), rms, refined, spots[right], beads[right]))
    if not solved:
        return None
    solved.sort(key=lambda each: (-each[0], each[1]))
    best_count, best_rms, pose, spots, beads = solved[0]
    if best_count < _LEAST_BEADS:
        return None
    expected = int(_in_picture(pose, beads_mm, carm).sum())
    if best_count < _LEAST_SHARE * expected or best_count < _LEAST_SHARE * min(len(at_px), expected):
        return None
    names = dict(zip(spots.tolist(), beads.tolist(), strict=True))
    rival = 0.0
    for count, rms, other, other_spots, other_beads in solved[1:]:
        same = sum(names.get(s) == b for s, b in zip(other_spots.tolist(), other_beads.tolist(), strict=True))
        if same < 0.5 * count and rms < _RIVAL_RMS * best_rms + _RIVAL_PX:
            rival = max(rival, count / best_count)
            if rival >= _RIVAL:
                if start is None:
                    return None
                if _apart(other, g.inverse(start)) < _apart(pose, g.inverse(start)):
                    pose, spots, beads = other, other_spots, other_beads
                break
    return Identified(g.inverse(pose), spots, beads, rival)


def _distinct(candidates: list[tuple[float, Matrix]]) -> list[tuple[float, Matrix]]:
    """The best candidates, one per direction."""
    kept: list[tuple[float, Matrix]] = []
    for score, pose in sorted(candidates, key=lambda each: -each[0]):
        if all(_apart(pose, other) > _SAME_RAD for _, other in kept):
            kept.append((score, pose))
            if len(kept) == _KEPT:
                break
    return kept


def _right_size(
    carm_from_phantom: Matrix, radius_px: Matrix, beads_mm: Matrix, diameters_mm: Matrix, carm: CArm
) -> Matrix:
    """Mask of the spots whose size, relative to the others, matches their beads' shadows."""
    if np.ptp(np.log(diameters_mm)) < 2 * np.log(_SIZE_RATIO) * 0.75:
        return np.ones(len(beads_mm), bool)
    depth = g.transform(carm_from_phantom, beads_mm)[:, 2]
    ratio = np.log(radius_px / (diameters_mm / np.maximum(depth, 1.0)))
    return np.asarray(np.abs(ratio - np.median(ratio)) < np.log(_SIZE_RATIO))


def _apart(a: Matrix, b: Matrix) -> float:
    """Rotation between two poses, rad."""
    return float(np.linalg.norm(g.rotation_log(a[:3, :3].T @ b[:3, :3])))


def _rays(carm: CArm, at_px: Matrix) -> Matrix:
    """Unit directions (N, 3) of pixels."""
    across = (at_px - carm.principal_point_px) * carm.pixel_spacing_mm
    rays = np.column_stack([across, np.full(len(at_px), carm.source_to_detector_mm)])
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _wide_triple(at_px: Matrix, carm: CArm, attempt: int, rng: np.random.Generator) -> Matrix:
    """Three good spots, well apart but near the middle, where images are less distorted."""
    size = max(carm.width_px, carm.height_px)
    middle = np.array([(carm.width_px - 1) / 2, (carm.height_px - 1) / 2])
    some = [rng.choice(len(at_px), 3, replace=False) for _ in range(200)]

    def worth(triple: Matrix) -> float:
        a, b, c = at_px[triple]
        area = abs(float((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])) / size**2
        far = float(np.linalg.norm(at_px[triple] - middle, axis=1).max()) / size
        return min(area, 0.05) * 20 - 2 * max(far - 0.35, 0.0) - 0.3 * float(triple.max()) / len(at_px)

    some.sort(key=lambda triple: -worth(np.asarray(triple)))
    return np.asarray(some[attempt % 20])


def _poses_of_triples(at_px: Matrix, beads_mm: Matrix, carm: CArm, rng: np.random.Generator) -> Matrix:
    """Poses carm_from_phantom (K, 4, 4) that map some three beads to three spots."""
    count = len(beads_mm)
    i, j, k = (part.ravel() for part in np.meshgrid(*[np.arange(count)] * 3, indexing="ij"))
    keep = (i != j) & (j != k) & (i != k)
    triples = np.stack([i, j, k], axis=1)[keep]
    if len(triples) > _MOST_TRIPLES:
        triples = triples[rng.choice(len(triples), _MOST_TRIPLES, replace=False)]
    points = beads_mm[triples]
    rays = _rays(carm, at_px)
    which, distances = three_point(points, rays)
    if not len(which):
        return np.zeros((0, 4, 4))
    far = distances * rays[:, 2]
    ok = ((far > _DEPTH[0] * carm.source_to_detector_mm) & (far < _DEPTH[1] * carm.source_to_detector_mm)).all(axis=1)
    which, distances = which[ok], distances[ok]
    return rigid_of(points[which], distances[:, :, None] * rays)


def _nearness(at_px: Matrix, carm: CArm) -> tuple[Matrix, float]:
    """Map at every fourth pixel, 1 at spots and falling to 0 at the tolerance of a rough pose; and the step."""
    step = 4
    reach = _COARSE * max(carm.width_px, carm.height_px)
    free = np.ones((carm.height_px // step + 1, carm.width_px // step + 1), np.uint8)
    u, v = np.clip(np.round(at_px / step).astype(int), 0, np.array(free.shape[::-1]) - 1).T
    free[v, u] = 0
    distance = step * cv2.distanceTransform(free, cv2.DIST_L2, 5)
    return np.maximum(1 - (distance / reach) ** 2, 0.0).astype(np.float32), float(step)


def _scores(poses: Matrix, beads_mm: Matrix, carm: CArm, nearness: tuple[Matrix, float]) -> Matrix:
    """Number of beads that fall on spots, minus a small penalty for expected beads without a spot."""
    table, step = nearness
    scores = np.empty(len(poses))
    for first in range(0, len(poses), 20_000):
        some = poses[first : first + 20_000]
        x, y, z = np.moveaxis(beads_mm @ np.swapaxes(some[:, :3, :3], 1, 2) + some[:, None, :3, 3], -1, 0)
        scale = carm.source_to_detector_mm / np.maximum(z, 1.0)
        u = (carm.principal_point_px[0] + x * scale / carm.pixel_spacing_mm[0]) / step
        v = (carm.principal_point_px[1] + y * scale / carm.pixel_spacing_mm[1]) / step
        inside = (u >= 0) & (v >= 0) & (u < table.shape[1] - 1) & (v < table.shape[0] - 1)
        values = table[np.where(inside, v + 0.5, 0).astype(int), np.where(inside, u + 0.5, 0).astype(int)] * inside
        scores[first : first + 20_000] = values.sum(axis=1) - 0.2 * (inside & (values == 0)).sum(axis=1)
    return scores


def _in_picture(carm_from_phantom: Matrix, beads_mm: Matrix, carm: CArm) -> Matrix:
    at = g.project(carm, carm_from_phantom, beads_mm)
    return np.asarray(((at >= 0) & (at <= (carm.width_px - 1, carm.height_px - 1))).all(axis=1))


def _refined(
    carm_from_phantom: Matrix, at_px: Matrix, beads_mm: Matrix, carm: CArm
) -> tuple[Matrix, Matrix, Matrix, float]:
    """Refine a pose. In the last stages the geometry (distance, principal point, barrel or cushion) is free as well, so
    that only the true identities fit closely."""
    size = float(max(carm.width_px, carm.height_px))
    middle = np.array([(carm.width_px - 1) / 2, (carm.height_px - 1) / 2])
    state = np.zeros(10)  # pose 6; log distance; principal point 2 (in hundredths of the size); cushion
    pose = carm_from_phantom
    spots = beads = np.zeros(0, int)

    def projected(state: Matrix, some: Matrix, pose: Matrix) -> Matrix:
        u, v = np.asarray(carm.principal_point_px) + state[7:9] * size / 100
        distance_mm = carm.source_to_detector_mm * float(np.exp(state[6]))
        changed = replace(carm, source_to_detector_mm=distance_mm, principal_point_px=(float(u), float(v)))
        about = g.transform(pose, beads_mm).mean(axis=0)
        at = g.project(changed, g.exp(state[:6] * _UNIT, about) @ pose, some)
        away = (at - middle) / (size / 2)
        return np.asarray(at + state[9] * size / 100 * away * (away**2).sum(axis=1, keepdims=True))

    rms = np.inf
    for within, unknowns in _STAGES:
        spots, beads = matched(at_px, projected(state, beads_mm, pose), within * size)
        if len(beads) < max(_LEAST_BEADS - 2, unknowns // 2 + 1):
            return pose, spots[:0], beads[:0], np.inf
        fixed = state

        def off(free: Matrix, fixed: Matrix = fixed, spots: Matrix = spots, beads: Matrix = beads) -> Matrix:
            changed = fixed.copy()
            changed[: len(free)] = free
            reprojection = (projected(changed, beads_mm[beads], pose) - at_px[spots]).ravel()
            # The nominal geometry is off by at most a few percent and some tens of pixels.
            return np.asarray(
                np.nan_to_num(np.concatenate([reprojection, changed[6:] * [30.0, 1.0, 1.0, 1.0]]), nan=1e3)
            )

        solution = least_squares(off, state[:unknowns], loss="soft_l1", f_scale=within * size / 3, max_nfev=12)
        state = np.concatenate([solution.x, state[unknowns:]])
        rms = float(np.sqrt(np.mean(np.sum((projected(state, beads_mm[beads], pose) - at_px[spots]) ** 2, axis=1))))
    about = g.transform(pose, beads_mm).mean(axis=0)
    return g.exp(state[:6] * _UNIT, about) @ pose, spots, beads, rms


_STAGES = ((1.5 * _COARSE, 6), (_COARSE, 6), (_COARSE, 10), (_COARSE / 2, 10), (_FINE, 10))
_UNIT = np.array([0.01] * 3 + [5.0] * 3)
"""Of a pose's unknowns: rad, mm."""
