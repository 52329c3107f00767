"""What an explanation of a picture by the jig's beads is worth: its covariance, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.jig.layout import Jig, strains
from navnode.jig.refined import CENTER_SIGMA, UNIT, State, moved, projected, within_picture, worth
from navnode.types import CArm, Matrix, Status, Validity

__all__ = ["Located", "judged", "nothing"]

MAX_FOCAL, MAX_MM, MAX_DEG = 0.003, 0.3, 0.2
"""Largest 1-sigma of the focal length (a share), of the limb across the rays, and of the pose's rotation: VALID."""
NOMINAL_MM, _BEYOND_MM = 1000.0, 60.0
"""Source to detector, where nothing states the pixel spacing; and at least so far beyond the jig."""

_HALF = 0.6
"""Share of the jig's beads below which it is half outside."""
_RIVAL, _DECISIVE = 0.7, 4
"""Worth of another explanation, as a share, from which it might be the right one; and more beads, as near, by which one
is better beyond doubt: a plate that is seen face-on is explained mirrored as well, one beside it is not."""
_OPEN_FOCAL = 0.05
"""1-sigma of the focal length, a share, from which the beads leave it open: its error is then no small one."""
_MOST_BESIDE = 0.6
"""Share of the larger side by which the beam's middle may lie beside the picture's: it may be cropped."""
_NEARLY, _MOST_NEARLY = 4.0, 0.1
"""Times the largest distance of a named bead, within which a spot without a name is of a bead without one but for the
geometry; and the largest share of beads of which that may be so."""
_USUAL_PX, _USUAL_COUNT = 0.1, 30


@dataclass(frozen=True)
class Located:
    """What the jig tells of one picture."""

    carm: CArm
    """Of the picture after mirroring, if it is mirrored. Without a stated pixel spacing its millimetres are nominal:
    the source is 1000 mm from the detector, or as far as the jig and a little more; all else is independent of that."""
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
    """(beads, 2) where they are in the picture, as it was given."""
    others_px: Matrix | None = None
    """(N, 2) spots that look like beads but have no name, as the picture was given; None: not looked for."""
    limb_mm: float = float("inf")
    """1-sigma of a point of the limb across its ray."""

    @property
    def focal_sigma(self) -> float:
        """1-sigma of the focal length, as a share of it."""
        return float(np.sqrt(self.covariance[6, 6])) / max(self.focal_px, 1e-9)


def _covariance(state: State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> tuple[Matrix, float]:
    """9x9 of (rotation, translation, logarithm of the focal length, principal point), and the limb's 1-sigma, mm."""
    beads = jig.positions_mm[state.beads]
    wide, long = jig.limb_mm / 3, jig.length_mm / 3
    limb = np.array([(x, y, z) for x in (-wide, 0, wide) for y in (-wide, 0, wide) for z in (-long, 0, long)])

    def at(step: Matrix, points: Matrix) -> Matrix:
        return projected(*moved(state, step), points).ravel()

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
    prior[7:9] = (UNIT[7:9] / (CENTER_SIGMA * max(size_px))) ** 2
    covariance = np.linalg.inv(information + np.diag(prior) + 1e-12 * np.trace(information) * np.eye(9))
    if jig.strain_covariance is not None:  # beads that are off together are no noise of spots
        moves = 1e-4 * strains(jig.positions_mm).reshape(len(jig.ids), 3, 6)[state.beads]
        none = np.zeros(9)
        seen = [(at(none, beads + moves[:, :, n]) - at(none, beads - moves[:, :, n])) / 2e-4 for n in range(6)]
        taken = covariance @ known.T @ np.stack(seen, axis=1) / sigma**2
        covariance = covariance + taken @ jig.strain_covariance @ taken.T
    through = slopes(limb)
    px = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", through, covariance, through), 0.0))
    depth_mm = (limb @ state.carm_from_jig[:3, :3].T + state.carm_from_jig[:3, 3])[:, 2]
    limb_mm = float((np.hypot(px[0::2], px[1::2]) * depth_mm / state.focal_px).max())
    return covariance * np.outer(UNIT, UNIT), limb_mm


def _decisive(state: State, other: State) -> bool:
    """Whether an explanation is better than another beyond doubt."""
    return len(state.beads) >= len(other.beads) + _DECISIVE and state.rms_px <= 1.5 * other.rms_px


def _nearly_named(state: State, at_px: Matrix, size_px: tuple[int, int], jig: Jig) -> int:
    """How many spots without a name lie just beside beads without one; 0: no more than chance has it, or a jig that was
    not measured, whose beads are elsewhere themselves."""
    if not jig.measured:
        return 0
    expected = projected(state.carm_from_jig, state.focal_px, state.center_px, jig.positions_mm)
    unnamed = np.setdiff1d(np.flatnonzero(within_picture(state, size_px, jig)), state.beads)
    spots = at_px[~np.isin(np.arange(len(at_px)), state.spots)]
    if not (len(unnamed) and len(spots)):
        return 0
    named_px = np.linalg.norm(expected[state.beads] - at_px[state.spots], axis=1).max()
    apart = np.linalg.norm(expected[unnamed, None] - spots[None], axis=2).min(axis=1)
    nearly = int((apart <= max(_NEARLY * named_px, 2.0)).sum())
    return nearly if nearly > max(2, _MOST_NEARLY * len(state.beads)) else 0


def judged(
    states: list[State],
    other: State | None,
    mirrored: bool,
    at_px: Matrix,
    size_px: tuple[int, int],
    jig: Jig,
    pixel_spacing_mm: tuple[float, float] | float | None,
) -> Located:
    """What the explanations of a picture tell, and whether it may be relied on.

    Args:
        states: explanations, the best first.
        other: the best one of the picture read the other way round.
        mirrored: whether ``states`` are of the picture mirrored.
        at_px: (N, 2) spots, as ``states`` count them.
    """
    state = states[0]
    covariance, limb_mm = _covariance(state, at_px, size_px, jig)
    focal_sigma = float(np.sqrt(covariance[6, 6]))
    turn_deg = float(np.rad2deg(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])))
    beside = float(np.linalg.norm(state.center_px - (np.array(size_px) - 1) / 2)) / max(size_px)
    inside = int(within_picture(state, size_px, jig).sum())
    names = dict(zip(state.spots.tolist(), state.beads.tolist(), strict=True))

    def rival(each: State) -> bool:
        same = sum(names.get(s) == b for s, b in zip(each.spots.tolist(), each.beads.tolist(), strict=True))
        return same < 0.5 * len(each.beads) and worth(each) > _RIVAL * worth(state)

    def verdict() -> tuple[Status, str]:
        if any(rival(each) for each in states[1:]):
            return Status.INVALID, "two ways to name the beads explain the picture"
        if other is not None and worth(other) > _RIVAL * worth(state) and not _decisive(state, other):
            return Status.INVALID, "the picture is explained as it is, and mirrored"
        if nearly := _nearly_named(state, at_px, size_px, jig):
            return Status.INVALID, f"{nearly} spots lie beside beads, not on them: another geometry made the picture"
        if not beside <= _MOST_BESIDE:
            how = f"{beside:.0%} of its size beside the beam"
            return Status.INVALID, f"the middle of the picture is {how}: stretched?"
        if not focal_sigma <= _OPEN_FOCAL:
            return Status.INVALID, f"the beads in the picture leave the focal length open ({focal_sigma:.0%})"
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
    spots_px = at_px.copy()
    if mirrored:
        spots_px[:, 0] = size_px[0] - 1 - spots_px[:, 0]
    scale = np.ones(9)
    scale[6] = state.focal_px
    invalid = status is Status.INVALID
    return Located(
        carm=_carm(size_px, pixel_spacing_mm, state, jig),
        jig_from_carm=g.orthonormal(g.inverse(state.carm_from_jig)),
        covariance=covariance * np.outer(scale, scale),
        residual_px=state.rms_px,
        beads=0 if invalid else len(state.beads),
        mirrored=mirrored,
        validity=Validity(status, reason),
        pivot_mm=float(state.carm_from_jig[2, 3]),
        focal_px=state.focal_px,
        ids=() if invalid else tuple(jig.ids[bead] for bead in state.beads),
        spots_px=None if invalid else spots_px[state.spots],
        others_px=spots_px if invalid else spots_px[~np.isin(np.arange(len(spots_px)), state.spots)],
        limb_mm=limb_mm,
    )


def _carm(size_px: tuple[int, int], spacing: tuple[float, float] | float | None, state: State, jig: Jig | None) -> CArm:
    if spacing is not None:
        spacing_mm = float(np.mean(spacing))
        distance_mm = state.focal_px * spacing_mm
    else:
        reach_mm = 0.0 if jig is None else float(np.linalg.norm(jig.positions_mm, axis=1).max())
        behind_mm = float(state.carm_from_jig[2, 3]) + reach_mm + _BEYOND_MM  # no detector is before what it shows
        distance_mm = max(NOMINAL_MM, behind_mm)
        spacing_mm = distance_mm / state.focal_px
    center_px = float(state.center_px[0]), float(state.center_px[1])
    return CArm(*size_px, (spacing_mm, spacing_mm), distance_mm, center_px)


def nothing(
    size_px: tuple[int, int],
    spacing: tuple[float, float] | float | None,
    reason: str,
    others_px: Matrix | None = None,
) -> Located:
    """The result where the jig is not found among spots (N, 2)."""
    none = np.zeros(0, int)
    state = State(np.eye(4), 4.0 * max(size_px), (np.array(size_px) - 1) / 2, none, none)
    carm = _carm(size_px, spacing, state, None)
    unknown = 1e6 * np.eye(9)
    validity = Validity(Status.INVALID, reason)
    return Located(
        carm, np.eye(4), unknown, float("inf"), 0, False, validity, focal_px=state.focal_px, others_px=others_px
    )
