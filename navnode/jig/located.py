"""The geometry of an X-ray from the jig's beads in it: focal length, principal point and pose.

Rows are named by their spacings (:mod:`rows`). A row and one more spot give poses; the one that explains the picture is
refined, with the geometry free, until only beads fit.
"""

from __future__ import annotations

import cv2
import numpy as np

from navnode import geometry as g
from navnode.jig.judged import Located, judged, nothing
from navnode.jig.layout import Jig
from navnode.jig.refined import COARSE, LEAST_BEADS, State, accepted, projected, refined, within_picture, worth
from navnode.jig.rows import RowGuess, row_guesses
from navnode.jig.spots import NONE_CORRECTED, Corrected, spots_px
from navnode.types import Array, Matrix
from navnode.xray.counts import blank_reason
from navnode.xray.points import rigid_of, three_point

__all__ = ["LEAST_BEADS", "Located", "locate", "locate_spots", "why_unfound"]

_FOCAL_SHARES = (2.2, 2.9, 3.8, 5.0, 6.6)
"""Focal lengths tried, as shares of the picture's larger side: from wide films to small fields."""
_MOST_GUESSES, _MOST_THIRDS = 16, 14
_REFINED = 5
_ENOUGH, _MORE_GUESSES = 0.8, 4
"""Share of the spots, or of the beads that must be in the picture, whose explanation needs no rival; and from how many
more rows one is looked for otherwise."""
_SPOT_PX = 0.3
"""1-sigma of a spot, while none is named: noise, and overlap with bone."""


def locate(
    counts: Array,
    jig: Jig,
    pixel_spacing_mm: tuple[float, float] | float | None = None,
    corrected: Corrected = NONE_CORRECTED,
) -> Located:
    """Find a picture's geometry.

    Args:
        counts: (H, W) counts or grey values; beads are darker than what is around them.
        pixel_spacing_mm: of the detector, if known (not of a magnification "corrected" by the archive); one number, or
            (along u, along v), which must be equal.
        corrected: what a person says of the picture's spots.

    Returns:
        INVALID, with the reason, where the jig is not found; ``beads`` is then 0.
    """
    height, width = counts.shape
    if reason := blank_reason(counts):
        return nothing((width, height), pixel_spacing_mm, reason)
    return locate_spots(spots_px(counts, jig, corrected), (width, height), jig, pixel_spacing_mm)


def why_unfound(counts: Array, jig: Jig, found: Located) -> str:
    """Why a picture (H, W) in which the jig was not found does not show it, or that light and dark are exchanged."""
    inverted = locate(float(counts.max()) + float(counts.min()) - np.asarray(counts, np.float32), jig)
    if inverted.beads:
        return "inverted: its beads are light; store it so that more radiation is a higher value"
    return found.validity.reason


def locate_spots(
    at_px: Matrix, size_px: tuple[int, int], jig: Jig, pixel_spacing_mm: tuple[float, float] | float | None = None
) -> Located:
    """Find a picture's geometry from spots of which some are beads.

    Args:
        at_px: (N, 2) u, v; the best first.
        size_px: (width, height)
    """
    if len(at_px) < LEAST_BEADS:
        reason = f"{len(at_px)} spots look like beads; {LEAST_BEADS} are needed"
        return nothing(size_px, pixel_spacing_mm, reason, at_px)
    side = max(size_px)
    flipped = np.column_stack([size_px[0] - 1 - at_px[:, 0], at_px[:, 1]])
    sigma_px = _SPOT_PX + jig.sigma_mm * side / 250.0 / 2
    guesses = row_guesses(at_px, side, jig, sigma_px, _MOST_GUESSES)
    if not guesses:
        reason = (
            f"no row of the jig {jig.name} among {len(at_px)} spots: another jig, or hardly any of it in the picture"
        )
        return nothing(size_px, pixel_spacing_mm, reason, at_px)
    mirrored, states, other = _explained(at_px, flipped, size_px, jig, guesses)
    if not states:
        reason = f"the jig {jig.name} does not explain {len(at_px)} spots"
        reason += f": another jig, or fewer than {LEAST_BEADS} of its beads"
        return nothing(size_px, pixel_spacing_mm, reason, at_px)
    return judged(states, other, mirrored, flipped if mirrored else at_px, size_px, jig, pixel_spacing_mm)


def _explained(
    at_px: Matrix, flipped: Matrix, size_px: tuple[int, int], jig: Jig, guesses: list[RowGuess]
) -> tuple[bool, list[State], State | None]:
    """Whether the picture is mirrored; what explains at least LEAST_BEADS spots, the best first; and what explains the
    picture read the other way round."""
    pictures = (at_px, flipped)
    near = [_nearness(points, size_px) for points in pictures]
    found: tuple[list[State], list[State]] = ([], [])
    followed: list[State | None] = [None, None]
    more = _MORE_GUESSES
    for guess in guesses:
        for way in (0, 1):
            of_row = _of_row(pictures[way], size_px, jig, guess, near[way])
            found[way].extend(each for each in of_row if accepted(each, size_px, jig))
            if found[way]:
                # The names are those of the mirror image as well: perspective tells the two apart.
                best = max(found[way], key=worth)
                if best is followed[way]:
                    continue
                followed[way] = best
                for each in (way, 1 - way):  # a plate that is seen face-on leaves the focal length open
                    found[each].extend(_with_names(best, pictures[each], size_px, jig))
        both = found[0] + found[1]
        if both:
            best = max(both, key=worth)
            more -= 1
            if not more or len(best.beads) >= _ENOUGH * min(len(at_px), within_picture(best, size_px, jig).sum()):
                break
    ranked = [sorted(states, key=worth, reverse=True) for states in found]
    mirrored = bool(ranked[1]) and (not ranked[0] or worth(ranked[1][0]) > worth(ranked[0][0]))
    other = ranked[not mirrored]
    return mirrored, ranked[mirrored], other[0] if other else None


def _with_names(state: State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> list[State]:
    """What the same names explain, from other focal lengths, or in the picture read the other way round."""
    middle = (np.array(size_px) - 1) / 2
    starts = []
    for share in _FOCAL_SHARES:
        focal = share * max(size_px)
        matrix = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1.0]])
        points, spots = jig.positions_mm[state.beads], at_px[state.spots]
        good, turn, shift = cv2.solvePnP(points, spots, matrix, None, flags=cv2.SOLVEPNP_SQPNP)
        if good and shift[2, 0] > 1.0:
            pose = g.rigid(g.rotation_exp(turn[:, 0]), tuple(shift[:, 0]))
            off = np.linalg.norm(projected(pose, focal, middle, points) - spots, axis=1)
            starts.append((float(np.nan_to_num(off, nan=1e6).mean()), focal, pose))
    starts.sort(key=lambda each: each[0])
    none = np.zeros(0, int)
    better = [refined(State(pose, focal, middle, none, none), at_px, size_px, jig) for _, focal, pose in starts]
    return [each for each in better if accepted(each, size_px, jig)]


def _of_row(at_px: Matrix, size_px: tuple[int, int], jig: Jig, guess: RowGuess, nearness: Matrix) -> list[State]:
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
    states: list[State] = []
    for score, focal, pose in found[: 2 * _REFINED]:
        if score < 0.4 * found[0][0]:
            break
        state = State(pose, focal, middle, np.zeros(0, int), np.zeros(0, int))
        states.append(refined(state, at_px, size_px, jig))
        if len(states[-1].beads) >= 2 * LEAST_BEADS and accepted(states[-1], size_px, jig):
            break
    return states


def _nearness(at_px: Matrix, size_px: tuple[int, int]) -> Matrix:
    """Map at every fourth pixel, 1 at spots and falling to 0 at the tolerance of a rough pose."""
    free = np.ones((size_px[1] // 4 + 1, size_px[0] // 4 + 1), np.uint8)
    u, v = np.clip(np.round(at_px / 4).astype(int), 0, np.array(free.shape[::-1]) - 1).T
    free[v, u] = 0
    distance = 4 * cv2.distanceTransform(free, cv2.DIST_L2, 5)
    return np.asarray(np.maximum(1 - (distance / (COARSE * max(size_px))) ** 2, 0.0), np.float32)


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
