"""An explanation of a picture by the jig's beads, refined until only beads fit: pose, focal length, principal point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.jig.layout import Jig
from navnode.types import Matrix
from navnode.xray.points import matched

__all__ = [
    "COARSE",
    "LEAST_BEADS",
    "UNIT",
    "State",
    "accepted",
    "moved",
    "projected",
    "refined",
    "within_picture",
    "worth",
]

LEAST_BEADS = 10
"""Beads that must be seen."""
_FOCAL_LIMITS = (1.2, 14.0)
COARSE = 0.02
"""Tolerance of a rough pose, as a share of the picture's larger side."""
_WITHIN_PX = 1.5
_LEAST_SHARE = 0.4
"""Of the beads within the picture, which must be found."""
_MOST_RMS_PX = 0.8
CENTER_SIGMA = 0.12
"""1-sigma of the principal point about the middle, as a share of the larger side: pictures may be cropped."""
UNIT = np.array([0.01] * 3 + [5.0] * 3 + [0.05, 20.0, 20.0])
"""Of the unknowns: rad, mm, logarithm of the focal length, px."""
_MOST_STEPS, _LONGEST = 20, 40.0
"""The longest step is in units of each unknown."""


@dataclass
class State:
    """An explanation: a geometry, and which spots are which beads by it."""

    carm_from_jig: Matrix
    focal_px: float
    center_px: Matrix
    """(2,)"""
    spots: Matrix
    """(N,) indices"""
    beads: Matrix
    """(N,) indices into the jig's, one for each spot."""
    rms_px: float = np.inf


def worth(state: State) -> float:
    """How good an explanation is: more beads, nearer to where they should be."""
    return len(state.beads) / (1 + state.rms_px)


def accepted(state: State, size_px: tuple[int, int], jig: Jig) -> bool:
    """Whether an explanation has enough beads, of those that the picture must show, near enough."""
    if len(state.beads) < LEAST_BEADS:
        return False
    there = within_picture(state, size_px, jig)
    depth_mm = float(state.carm_from_jig[2, 3])
    most_rms_px = _MOST_RMS_PX + 2 * jig.sigma_mm * state.focal_px / max(depth_mm, 1.0)
    return bool(len(state.beads) >= _LEAST_SHARE * there.sum() and state.rms_px <= most_rms_px)


def projected(carm_from_jig: Matrix, focal_px: float, center_px: Matrix, points_mm: Matrix) -> Matrix:
    """Where points (N, 3) are in the picture, (N, 2); NaN behind the source. ``center_px`` is (2,)."""
    p = points_mm @ carm_from_jig[:3, :3].T + carm_from_jig[:3, 3]
    z = np.where(p[:, 2] > 1.0, p[:, 2], np.nan)
    return np.asarray(center_px + focal_px * p[:, :2] / z[:, None])


def moved(state: State, step: Matrix) -> tuple[Matrix, float, Matrix]:
    """The state changed by unknowns (9,) in their units; a pose's are of ``jig_from_carm``, about the limb's middle."""
    xi = step * UNIT
    pivot = (0.0, 0.0, state.carm_from_jig[2, 3])
    pose = g.inverse(g.exp(xi[:6], pivot)) @ state.carm_from_jig
    return pose, state.focal_px * float(np.exp(np.clip(xi[6], -2, 2))), state.center_px + xi[7:9]


def _bettered(
    state: State, at_px: Matrix, jig: Jig, size_px: tuple[int, int], within_px: float, unknowns: int
) -> tuple[Matrix, float, Matrix]:
    """Pose, focal length and principal point that minimise soft-l1 distances, by Levenberg and Marquardt's method.

    The derivatives are those at the present state, which moves; loss and weights: Triggs et al., Bundle adjustment,
    2000, section 4.3.
    """
    side, middle = max(size_px), (np.array(size_px) - 1) / 2
    points, spots = jig.positions_mm[state.beads], at_px[state.spots]
    now = State(state.carm_from_jig, state.focal_px, state.center_px, state.spots, state.beads)

    def residuals(pose: Matrix, focal: float, center: Matrix) -> Matrix:
        off = projected(pose, focal, center, points) - spots
        apart = (center - middle) / (CENTER_SIGMA * side)
        about = np.log(focal / side / 4.0) / 0.6
        return np.asarray(np.nan_to_num(np.concatenate([off.ravel() / within_px, apart * 0.3, [about * 0.1]]), nan=1e3))

    def slopes() -> Matrix:
        p = points @ now.carm_from_jig[:3, :3].T + now.carm_from_jig[:3, 3]
        x, y, z = p[:, 0], p[:, 1], np.maximum(p[:, 2], 1.0)
        w = z - now.carm_from_jig[2, 3]  # from the pivot
        none = np.zeros_like(x)
        by_place = (now.focal_px / z)[:, None, None] * np.stack(
            [np.stack([1 + none, none, -x / z], 1), np.stack([none, 1 + none, -y / z], 1)], 1
        )
        # The pose is that of jig_from_carm: points move the other way.
        turn = np.stack([np.stack([none, -w, y], 1), np.stack([w, none, -x], 1), np.stack([-y, x, none], 1)], 1)
        found = np.zeros((2 * len(points) + 3, 9))
        found[:-3, :3] = (by_place @ turn).reshape(-1, 3)
        found[:-3, 3:6] = -by_place.reshape(-1, 3)
        found[:-3, 6] = (now.focal_px * p[:, :2] / z[:, None]).ravel()
        found[:-3, 7:] = np.tile(np.eye(2), (len(points), 1))
        found[:-3] /= within_px
        found[-3:-1, 7:] = 0.3 / (CENTER_SIGMA * side) * np.eye(2)
        found[-1, 6] = 0.1 / 0.6
        return np.asarray((found * UNIT)[:, :unknowns])

    def loss(off: Matrix) -> float:
        return float(np.sum(np.sqrt(1 + off**2) - 1))

    off = residuals(now.carm_from_jig, now.focal_px, now.center_px)
    damping, before = 1e-4, loss(off)
    for _ in range(_MOST_STEPS):
        along = slopes()
        weight = 1 / np.sqrt(1 + off**2)
        normal = (along * weight[:, None]).T @ along
        full = np.zeros(9)
        full[:unknowns] = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -along.T @ (weight * off))
        tried = moved(now, np.clip(full, -_LONGEST, _LONGEST))
        moved_off = residuals(*tried)
        if (after := loss(moved_off)) < before:
            now.carm_from_jig, now.focal_px, now.center_px = tried
            off, damping = moved_off, max(damping / 5, 1e-9)
            if before - after < 1e-8 * before:
                break
            before = after
        else:
            damping *= 10
            if damping > 1e6:
                break
    return now.carm_from_jig, now.focal_px, now.center_px


def refined(state: State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> State:
    """An explanation refined from a rough pose and the spots (N, 2): poses first; then the focal length, at last the
    principal point as well; without beads where that fails."""
    side = max(size_px)
    fine_px = _WITHIN_PX + 3.5 * jig.sigma_mm * state.focal_px / max(float(state.carm_from_jig[2, 3]), 1.0)
    stages = ((1.5 * COARSE * side, 7), (COARSE * side, 7), (0.5 * COARSE * side, 9), (0.004 * side, 9))
    for within, unknowns in (*stages, (fine_px, 9), (fine_px, 9)):
        expected = projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
        state.spots, state.beads = matched(at_px, expected, max(within, fine_px))
        if len(state.beads) < 7:
            state.beads = state.spots = np.zeros(0, int)
            return state
        state.carm_from_jig, state.focal_px, state.center_px = _bettered(
            state, at_px, jig, size_px, max(within / 3, 0.3), unknowns
        )
        if not _FOCAL_LIMITS[0] <= state.focal_px / side <= _FOCAL_LIMITS[1]:
            state.beads = state.spots = np.zeros(0, int)
            return state
    expected = projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
    state.spots, state.beads = matched(at_px, expected, fine_px)
    lone = _apart_from_others(expected, state, jig)
    state.spots, state.beads = state.spots[lone], state.beads[lone]
    if len(state.beads):
        off = np.linalg.norm(expected[state.beads] - at_px[state.spots], axis=1)
        good = off <= max(4.0 * float(np.median(off)), 0.3)  # false spots beside beads that are hidden
        state.spots, state.beads = state.spots[good], state.beads[good]
        state.rms_px = float(np.sqrt(np.mean(off[good] ** 2)))
    return state


def _apart_from_others(expected: Matrix, state: State, jig: Jig) -> Matrix:
    """Mask of the beads whose shadows no other bead's touches: one spot may be of both."""
    distance = np.linalg.norm(np.nan_to_num(expected[state.beads, None] - expected[None], nan=1e9), axis=2)
    distance[np.arange(len(state.beads)), state.beads] = np.inf
    shadow_px = jig.diameter_mm * state.focal_px / max(float(state.carm_from_jig[2, 3]), 1.0)
    return np.asarray(distance.min(axis=1) > 1.1 * shadow_px)


def within_picture(state: State, size_px: tuple[int, int], jig: Jig) -> Matrix:
    """Mask (beads,) of the jig's beads that fall into the picture."""
    at = projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
    return np.asarray(((at >= 0) & (at <= np.array(size_px) - 1)).all(axis=1))
