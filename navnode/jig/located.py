"""The geometry of an X-ray from the jig's beads in it: focal length, principal point and pose.

Rows are named by their spacings (:mod:`rows`). A row and one more spot give poses; the one that explains the picture is
refined, with the geometry free, until only beads fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import least_squares

from navnode import geometry as g
from navnode.jig.layout import Jig
from navnode.jig.rows import RowGuess, row_guesses
from navnode.types import Array, CArm, Matrix, Status, Validity
from navnode.xray.beads import Shot
from navnode.xray.counts import blank_reason
from navnode.xray.points import matched, rigid_of, three_point

__all__ = ["LEAST_BEADS", "Located", "locate", "locate_spots"]

LEAST_BEADS = 10
"""Beads that must be seen."""
MAX_FOCAL, MAX_MM, MAX_DEG = 0.003, 0.3, 0.2
"""Largest 1-sigma of the focal length (a share), of the limb across the rays, and of the pose's rotation: VALID."""
NOMINAL_MM = 1000.0
"""Source to detector, where nothing states the pixel spacing."""

_FOCAL_SHARES = (2.2, 2.9, 3.8, 5.0, 6.6)
"""Focal lengths tried, as shares of the picture's larger side: from wide films to small fields."""
_FOCAL_LIMITS = (1.2, 14.0)
_FIELD_MM = (90.0, 480.0)
"""The picture's larger side, at the jig."""
_MOST_SPOTS, _MOST_GUESSES, _MOST_THIRDS = 140, 16, 14
_COARSE = 0.02
"""Tolerance of a rough pose, as a share of the picture's larger side."""
_REFINED = 5
_SPOT_PX = 0.3
"""1-sigma of a spot, while none is named: noise, and overlap with bone."""
_WITHIN_PX = 1.5
_LEAST_SHARE = 0.4
"""Of the beads within the picture, which must be found."""
_HALF = 0.6
"""Share of the jig's beads below which it is half outside."""
_MOST_RMS_PX = 0.8
_RIVAL = 0.7
_CENTER_SIGMA = 0.12
"""1-sigma of the principal point about the middle, as a share of the larger side: pictures may be cropped."""
_USUAL_PX, _USUAL_COUNT = 0.1, 30
_BINNED_ABOVE_PX = 1800
_UNIT = np.array([0.01] * 3 + [5.0] * 3 + [0.05, 20.0, 20.0])
"""Of the unknowns: rad, mm, logarithm of the focal length, px."""


@dataclass(frozen=True)
class Located:
    """What the jig tells of one picture."""

    carm: CArm
    """Of the picture after mirroring, if it is mirrored. Without a stated pixel spacing its millimetres are nominal:
    the source is 1000 mm from the detector; all else is independent of that."""
    jig_from_carm: Matrix
    """4x4"""
    covariance: Matrix
    """9x9 of (rotation rad, translation mm, as ``jig_from_carm @ geometry.exp(xi, (0, 0, pivot_mm))``; focal length px;
    principal point u, v px)."""
    residual_px: float
    """rms distance of the beads from where the geometry has them."""
    beads: int
    """Number of beads found and named; 0: not located."""
    mirrored: bool
    """Left and right are exchanged in the picture."""
    validity: Validity
    pivot_mm: float = NOMINAL_MM
    """Distance from the source to the middle of the limb."""
    focal_px: float = 0.0
    ids: tuple[str, ...] = ()
    """Names of the beads found."""
    spots_px: Matrix | None = None
    """(beads, 2) where they are in the picture, mirrored back."""
    limb_mm: float = float("inf")
    """1-sigma of a point of the limb across its ray."""

    @property
    def focal_sigma(self) -> float:
        """1-sigma of the focal length, as a share of it."""
        return float(np.sqrt(self.covariance[6, 6])) / max(self.focal_px, 1e-9)


@dataclass
class _State:
    carm_from_jig: Matrix
    focal_px: float
    center_px: Matrix
    spots: Matrix
    beads: Matrix
    rms_px: float = np.inf


def locate(counts: Array, jig: Jig, pixel_spacing_mm: tuple[float, float] | float | None = None) -> Located:
    """Find a picture's geometry.

    Args:
        counts: (H, W) counts or grey values; beads are darker than what is around them.
        pixel_spacing_mm: of the detector, if known (not of a magnification "corrected" by the archive); one number, or
            (along u, along v), which must be equal.

    Returns:
        INVALID, with the reason, where the jig is not found; ``beads`` is then 0.
    """
    height, width = counts.shape
    if reason := blank_reason(counts):
        return _nothing((width, height), pixel_spacing_mm, reason)
    factor = int(np.ceil(max(height, width) / _BINNED_ABOVE_PX))
    small = np.asarray(counts, np.float32)
    if factor > 1:
        small = cv2.resize(
            small[: height // factor * factor, : width // factor * factor],
            (width // factor, height // factor),
            interpolation=cv2.INTER_AREA,
        )
    spots = Shot(small, _radii_px(jig, max(small.shape))).spots()
    best = np.argsort(-spots.alike * np.sqrt(np.maximum(spots.depth, 1e-3)))[:_MOST_SPOTS]
    at_px = spots.at_px[best] * factor + (factor - 1) / 2
    return locate_spots(at_px, (width, height), jig, pixel_spacing_mm)


def locate_spots(
    at_px: Matrix, size_px: tuple[int, int], jig: Jig, pixel_spacing_mm: tuple[float, float] | float | None = None
) -> Located:
    """Find a picture's geometry from spots of which some are beads.

    Args:
        at_px: (N, 2) u, v; the best first.
        size_px: (width, height)
    """
    if len(at_px) < LEAST_BEADS:
        return _nothing(size_px, pixel_spacing_mm, f"{len(at_px)} spots look like beads; {LEAST_BEADS} are needed")
    side = max(size_px)
    flipped = np.column_stack([size_px[0] - 1 - at_px[:, 0], at_px[:, 1]])
    sigma_px = _SPOT_PX + jig.sigma_mm * side / 250.0 / 2
    guesses = row_guesses(at_px, side, jig, sigma_px, _MOST_GUESSES)
    if not guesses:
        reason = (
            f"no row of the jig {jig.name} among {len(at_px)} spots: another jig, or hardly any of it in the picture"
        )
        return _nothing(size_px, pixel_spacing_mm, reason)
    mirrored, states, other = _explained(at_px, flipped, size_px, jig, guesses)
    if not states:
        reason = f"the jig {jig.name} does not explain {len(at_px)} spots"
        reason += f": another jig, or fewer than {LEAST_BEADS} of its beads"
        return _nothing(size_px, pixel_spacing_mm, reason)
    return _judged(states, other, mirrored, flipped if mirrored else at_px, size_px, jig, pixel_spacing_mm)


def _radii_px(jig: Jig, side_px: float) -> tuple[float, float]:
    """Least and greatest radius of a bead's shadow."""
    radius_mm = jig.diameter_mm / 2
    return radius_mm * side_px / _FIELD_MM[1], radius_mm * side_px / _FIELD_MM[0]


# --- the search ------------------------------------------------------------------------------------------


def _explained(
    at_px: Matrix, flipped: Matrix, size_px: tuple[int, int], jig: Jig, guesses: list[RowGuess]
) -> tuple[bool, list[_State], _State | None]:
    """Whether the picture is mirrored; what explains at least LEAST_BEADS spots, the best first; and what explains the
    picture read the other way round."""
    pictures = (at_px, flipped)
    near = [_nearness(points, size_px) for points in pictures]
    found: tuple[list[_State], list[_State]] = ([], [])
    for guess in guesses:
        for way in (0, 1):
            of_row = _of_row(pictures[way], size_px, jig, guess, near[way])
            found[way].extend(each for each in of_row if _accepted(each, size_px, jig))
            if found[way]:
                # The names are those of the mirror image as well: perspective tells the two apart.
                best = max(found[way], key=_worth)
                found[1 - way].extend(_the_other_way(best, pictures[1 - way], size_px, jig))
        both = found[0] + found[1]
        if both:
            best = max(both, key=_worth)
            if len(best.beads) >= min(2 * LEAST_BEADS, 0.5 * _inside(best, size_px, jig).sum()):
                break
    ranked = [sorted(states, key=_worth, reverse=True) for states in found]
    mirrored = bool(ranked[1]) and (not ranked[0] or _worth(ranked[1][0]) > _worth(ranked[0][0]))
    other = ranked[not mirrored]
    return mirrored, ranked[mirrored], other[0] if other else None


def _the_other_way(state: _State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> list[_State]:
    """The same names in the picture read the other way round."""
    middle = (np.array(size_px) - 1) / 2
    states = []
    for share in _FOCAL_SHARES:
        focal = share * max(size_px)
        matrix = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1.0]])
        points, spots = jig.positions_mm[state.beads], at_px[state.spots]
        good, turn, shift = cv2.solvePnP(points, spots, matrix, None, flags=cv2.SOLVEPNP_SQPNP)
        if good and shift[2, 0] > 1.0:
            pose = g.rigid(g.rotation_exp(turn[:, 0]), tuple(shift[:, 0]))
            off = np.linalg.norm(_projected(pose, focal, middle, points) - spots, axis=1)
            states.append((float(np.nan_to_num(off, nan=1e6).mean()), focal, pose))
    if not states:
        return []
    _, focal, pose = min(states, key=lambda each: each[0])
    start = _State(pose, focal, middle, np.zeros(0, int), np.zeros(0, int))
    refined = _refined(start, at_px, size_px, jig)
    return [refined] if _accepted(refined, size_px, jig) else []


def _worth(state: _State) -> float:
    return len(state.beads) / (1 + state.rms_px)


def _accepted(state: _State, size_px: tuple[int, int], jig: Jig) -> bool:
    if len(state.beads) < LEAST_BEADS:
        return False
    inside = _inside(state, size_px, jig)
    depth_mm = float(state.carm_from_jig[2, 3])
    most_rms_px = _MOST_RMS_PX + 2 * jig.sigma_mm * state.focal_px / max(depth_mm, 1.0)
    return bool(len(state.beads) >= _LEAST_SHARE * inside.sum() and state.rms_px <= most_rms_px)


def _of_row(at_px: Matrix, size_px: tuple[int, int], jig: Jig, guess: RowGuess, nearness: Matrix) -> list[_State]:
    """States with the row's ends and one more spot as beads."""
    side = max(size_px)
    middle = (np.array(size_px) - 1) / 2
    ends = at_px[[guess.spots[0], guess.spots[-1]]]
    row = [guess.beads[0], guess.beads[-1]]
    others = [n for n in range(len(at_px)) if n not in guess.spots]
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    away = np.abs((at_px[others] - ends[0]) @ np.array([-along[1], along[0]]))
    far = [n for n, distance in zip(others, away, strict=True) if distance > 0.06 * side]
    thirds = far[:: max(1, len(far) // _MOST_THIRDS)][:_MOST_THIRDS]
    beads = np.setdiff1d(np.arange(len(jig.ids)), guess.beads)
    points = np.stack([np.broadcast_to(jig.positions_mm[bead], (len(beads), 3)) for bead in row], axis=1)
    points = np.concatenate([points, jig.positions_mm[beads][:, None]], axis=1)
    found: list[tuple[float, float, Matrix]] = []
    for share in _FOCAL_SHARES:
        focal = share * side
        rough = []
        for third in thirds:
            rays = np.column_stack([np.vstack([ends, at_px[third]]) - middle, np.full(3, focal)])
            rays /= np.linalg.norm(rays, axis=1, keepdims=True)
            which, distances = three_point(points, rays)
            if len(which):
                rough.append(rigid_of(points[which], distances[:, :, None] * rays))
        if not rough:
            continue
        poses = np.concatenate(rough)
        scores = _scores(poses, jig.positions_mm, focal, middle, size_px, nearness)
        found += [(float(scores[n]), focal, poses[n]) for n in np.argsort(-scores)[:_REFINED]]
    found.sort(key=lambda each: -each[0])
    states: list[_State] = []
    for score, focal, pose in found[: 2 * _REFINED]:
        if score < 0.4 * found[0][0]:
            break
        state = _State(pose, focal, middle, np.zeros(0, int), np.zeros(0, int))
        states.append(_refined(state, at_px, size_px, jig))
        if len(states[-1].beads) >= 2 * LEAST_BEADS and _accepted(states[-1], size_px, jig):
            break
    return states


def _nearness(at_px: Matrix, size_px: tuple[int, int]) -> Matrix:
    """Map at every fourth pixel, 1 at spots and falling to 0 at the tolerance of a rough pose."""
    free = np.ones((size_px[1] // 4 + 1, size_px[0] // 4 + 1), np.uint8)
    u, v = np.clip(np.round(at_px / 4).astype(int), 0, np.array(free.shape[::-1]) - 1).T
    free[v, u] = 0
    distance = 4 * cv2.distanceTransform(free, cv2.DIST_L2, 5)
    return np.asarray(np.maximum(1 - (distance / (_COARSE * max(size_px))) ** 2, 0.0), np.float32)


def _scores(
    poses: Matrix, beads_mm: Matrix, focal: float, middle: Matrix, size_px: tuple[int, int], nearness: Matrix
) -> Matrix:
    """Number of beads that fall on spots, less a little for each that does not."""
    x, y, z = np.moveaxis(beads_mm @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3], -1, 0)
    scale = focal / np.maximum(z, 1.0)
    u, v = (middle[0] + x * scale) / 4, (middle[1] + y * scale) / 4
    inside = (u >= 0) & (v >= 0) & (u < nearness.shape[1] - 1) & (v < nearness.shape[0] - 1) & (z > 1.0)
    values = nearness[np.where(inside, v + 0.5, 0).astype(int), np.where(inside, u + 0.5, 0).astype(int)] * inside
    return np.asarray(values.sum(axis=1) - 0.3 * (inside & (values == 0)).sum(axis=1) - 0.1 * (~inside).sum(axis=1))


# --- refinement ------------------------------------------------------------------------------------------


def _projected(carm_from_jig: Matrix, focal: float, center: Matrix, points_mm: Matrix) -> Matrix:
    p = points_mm @ carm_from_jig[:3, :3].T + carm_from_jig[:3, 3]
    z = np.where(p[:, 2] > 1.0, p[:, 2], np.nan)
    return np.asarray(center + focal * p[:, :2] / z[:, None])


def _moved(state: _State, step: Matrix) -> tuple[Matrix, float, Matrix]:
    """The state changed by 9 unknowns in their units; a pose's are of ``jig_from_carm``, about the limb's middle."""
    xi = step * _UNIT
    pivot = (0.0, 0.0, state.carm_from_jig[2, 3])
    pose = g.inverse(g.exp(xi[:6], pivot)) @ state.carm_from_jig
    return pose, state.focal_px * float(np.exp(np.clip(xi[6], -2, 2))), state.center_px + xi[7:9]


def _residuals(step: Matrix, state: _State, at_px: Matrix, jig: Jig, size_px: tuple[int, int], within: float) -> Matrix:
    full = np.zeros(9)
    full[: len(step)] = step
    pose, focal, center = _moved(state, full)
    off = _projected(pose, focal, center, jig.positions_mm[state.beads]) - at_px[state.spots]
    side = max(size_px)
    apart = (center - (np.array(size_px) - 1) / 2) / (_CENTER_SIGMA * side)
    about = np.log(focal / side / 4.0) / 0.6
    return np.asarray(np.nan_to_num(np.concatenate([off.ravel() / within, apart * 0.3, [about * 0.1]]), nan=1e3))


def _refined(state: _State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> _State:
    """Poses first; then the focal length, at last the principal point as well."""
    side = max(size_px)
    fine_px = _WITHIN_PX + 3.5 * jig.sigma_mm * state.focal_px / max(float(state.carm_from_jig[2, 3]), 1.0)
    stages = ((1.5 * _COARSE * side, 7), (_COARSE * side, 7), (0.5 * _COARSE * side, 9), (0.004 * side, 9))
    for within, unknowns in (*stages, (fine_px, 9), (fine_px, 9)):
        expected = _projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
        state.spots, state.beads = matched(at_px, expected, max(within, fine_px))
        if len(state.beads) < 7:
            state.beads = state.spots = np.zeros(0, int)
            return state
        solution = least_squares(
            _residuals,
            np.zeros(unknowns),
            loss="soft_l1",
            f_scale=1.0,
            max_nfev=15,
            args=(state, at_px, jig, size_px, max(within / 3, 0.3)),
        )
        full = np.zeros(9)
        full[:unknowns] = solution.x
        state.carm_from_jig, state.focal_px, state.center_px = _moved(state, full)
        if not _FOCAL_LIMITS[0] <= state.focal_px / side <= _FOCAL_LIMITS[1]:
            state.beads = state.spots = np.zeros(0, int)
            return state
    expected = _projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
    state.spots, state.beads = matched(at_px, expected, fine_px)
    lone = _apart_from_others(expected, state, jig)
    state.spots, state.beads = state.spots[lone], state.beads[lone]
    if len(state.beads):
        off = np.linalg.norm(expected[state.beads] - at_px[state.spots], axis=1)
        good = off <= max(4.0 * float(np.median(off)), 0.3)  # false spots beside beads that are hidden
        state.spots, state.beads = state.spots[good], state.beads[good]
        state.rms_px = float(np.sqrt(np.mean(off[good] ** 2)))
    return state


def _apart_from_others(expected: Matrix, state: _State, jig: Jig) -> Matrix:
    """Mask of the beads whose shadows no other bead's touches: one spot may be of both."""
    distance = np.linalg.norm(np.nan_to_num(expected[state.beads, None] - expected[None], nan=1e9), axis=2)
    distance[np.arange(len(state.beads)), state.beads] = np.inf
    shadow_px = jig.diameter_mm * state.focal_px / max(float(state.carm_from_jig[2, 3]), 1.0)
    return np.asarray(distance.min(axis=1) > 1.1 * shadow_px)


def _inside(state: _State, size_px: tuple[int, int], jig: Jig) -> Matrix:
    at = _projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
    return np.asarray(((at >= 0) & (at <= np.array(size_px) - 1)).all(axis=1))


# --- verdict ---------------------------------------------------------------------------------------------


def _covariance(state: _State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> tuple[Matrix, float]:
    """9x9 of (rotation, translation, logarithm of the focal length, principal point), and the limb's 1-sigma, mm."""
    beads = jig.positions_mm[state.beads]
    wide, long = jig.limb_mm / 3, jig.length_mm / 3
    limb = np.array([(x, y, z) for x in (-wide, 0, wide) for y in (-wide, 0, wide) for z in (-long, 0, long)])

    def at(step: Matrix, points: Matrix) -> Matrix:
        return _projected(*_moved(state, step), points).ravel()

    def slopes(points: Matrix) -> Matrix:
        steps = 1e-3 * np.eye(9)
        return np.stack([(at(step, points) - at(-step, points)) / 2e-3 for step in steps], axis=1)

    known = slopes(beads)
    count = 2 * len(beads)
    free = max(count - 9, 1)
    told = state.rms_px**2 / 2 * count / free
    # Few beads may fit by chance better than spots are found: a usual error counts as some more of them.
    sigma = np.sqrt(max(told, (free * told + _USUAL_COUNT * _USUAL_PX**2) / (free + _USUAL_COUNT)))
    information = known.T @ known / sigma**2
    prior = np.zeros(9)
    prior[7:9] = (_UNIT[7:9] / (_CENTER_SIGMA * max(size_px))) ** 2
    covariance = np.linalg.inv(information + np.diag(prior) + 1e-12 * np.trace(information) * np.eye(9))
    through = slopes(limb)
    px = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", through, covariance, through), 0.0))
    depth_mm = (limb @ state.carm_from_jig[:3, :3].T + state.carm_from_jig[:3, 3])[:, 2]
    limb_mm = float((np.hypot(px[0::2], px[1::2]) * depth_mm / state.focal_px).max())
    return covariance * np.outer(_UNIT, _UNIT), limb_mm


def _judged(
    states: list[_State],
    other: _State | None,
    mirrored: bool,
    at_px: Matrix,
    size_px: tuple[int, int],
    jig: Jig,
    pixel_spacing_mm: tuple[float, float] | float | None,
) -> Located:
    state = states[0]
    covariance, limb_mm = _covariance(state, at_px, size_px, jig)
    focal_sigma = float(np.sqrt(covariance[6, 6]))
    turn_deg = float(np.rad2deg(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])))
    inside = int(_inside(state, size_px, jig).sum())
    names = dict(zip(state.spots.tolist(), state.beads.tolist(), strict=True))

    def rival(each: _State) -> bool:
        same = sum(names.get(s) == b for s, b in zip(each.spots.tolist(), each.beads.tolist(), strict=True))
        return same < 0.5 * len(each.beads) and _worth(each) > _RIVAL * _worth(state)

    def verdict() -> tuple[Status, str]:
        if any(rival(each) for each in states[1:]):
            return Status.INVALID, "two ways to name the beads explain the picture"
        if other is not None and _worth(other) > _RIVAL * _worth(state):
            return Status.INVALID, "the picture is explained as it is, and mirrored"
        if mirrored:
            return Status.DEGRADED, "the picture is mirrored left to right; the geometry is that of it mirrored back"
        if inside < _HALF * len(jig.ids):
            return Status.DEGRADED, f"the jig is half outside: {inside} of {len(jig.ids)} beads are within the picture"
        if not (focal_sigma <= MAX_FOCAL and limb_mm <= MAX_MM and turn_deg <= MAX_DEG):
            known = f"focal length known to {focal_sigma:.2%}, the limb to {limb_mm:.2f} mm, {turn_deg:.2f} degrees"
            return Status.DEGRADED, known + (
                "" if jig.measured else "; measure the jig that was built: navnode jig check"
            )
        return Status.VALID, ""

    status, reason = verdict()
    spots_px = at_px[state.spots].copy()
    if mirrored:
        spots_px[:, 0] = size_px[0] - 1 - spots_px[:, 0]
    scale = np.ones(9)
    scale[6] = state.focal_px
    invalid = status is Status.INVALID
    return Located(
        carm=_carm(size_px, pixel_spacing_mm, state.focal_px, state.center_px),
        jig_from_carm=g.orthonormal(g.inverse(state.carm_from_jig)),
        covariance=covariance * np.outer(scale, scale),
        residual_px=state.rms_px,
        beads=0 if invalid else len(state.beads),
        mirrored=mirrored,
        validity=Validity(status, reason),
        pivot_mm=float(state.carm_from_jig[2, 3]),
        focal_px=state.focal_px,
        ids=() if invalid else tuple(jig.ids[bead] for bead in state.beads),
        spots_px=None if invalid else spots_px,
        limb_mm=limb_mm,
    )


def _carm(size_px: tuple[int, int], spacing: tuple[float, float] | float | None, focal: float, center: Matrix) -> CArm:
    spacing_mm = NOMINAL_MM / focal if spacing is None else float(np.mean(spacing))
    return CArm(*size_px, (spacing_mm, spacing_mm), focal * spacing_mm, (float(center[0]), float(center[1])))


def _nothing(size_px: tuple[int, int], spacing: tuple[float, float] | float | None, reason: str) -> Located:
    """The result where the jig is not found."""
    focal = 4.0 * max(size_px)
    carm = _carm(size_px, spacing, focal, (np.array(size_px) - 1) / 2)
    unknown = 1e6 * np.eye(9)
    return Located(carm, np.eye(4), unknown, float("inf"), 0, False, Validity(Status.INVALID, reason), focal_px=focal)
