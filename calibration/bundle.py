"""A C-arm's geometry and distortion, and the pose of every shot, by least squares over all beads of all shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import chi2

from navnode import geometry as g
from navnode.types import CArm, Matrix
from navnode.xray.beads import Shot

from .distortion import Distortion, terms, unknowns
from .fitting import rms

__all__ = [
    "Fit",
    "Own",
    "Seen",
    "distances_apart_mm",
    "each_by_itself",
    "inside",
    "left_out_px",
    "off_px",
    "places",
    "settled",
]

_OVERLAP_RADII = 2.2
_OUTLIER_SIGMAS = 4.0
_OUTLIER_PX = 0.6
"""Smaller errors are never outliers, as overlapping beads are located less exactly."""
_ROUNDS = 4
_LARGEST_OFF = 0.03
"""Largest distance, as a share of the image, at which a bead is searched around its predicted position."""
_MOST_STEPS = 40
_UNIT = np.array([0.01] * 3 + [5.0] * 3)
"""Units of a pose's unknowns: rad, mm."""
_SAME_RAD, _SAME_MM = 0.02, 5.0
"""Shots whose poses differ by less are of one place."""
_BY_CHANCE = 0.001
"""Probability with which shots of one geometry differ by chance as much as is taken for several."""


@dataclass(frozen=True)
class Seen:
    """Identified beads of a shot."""

    pose: Matrix
    """phantom_from_carm"""
    beads: Matrix
    """(K,) indices of the beads"""
    at_px: Matrix
    """(K, 2) raw pixels"""


@dataclass(frozen=True)
class Fit:
    """Geometry and distortion that fit all shots, with standard errors."""

    carm: CArm
    distortion: Distortion
    seen: list[Seen]
    sigma_sdd_mm: float
    sigma_pp_px: Matrix
    """(2,)"""
    covariance: Matrix
    """3x3 of distance (mm) and principal point (px)."""


def settled(
    shots: list[Shot], seen: list[Seen], beads_mm: Matrix, diameters_mm: Matrix, nominal: CArm, model: str
) -> Fit:
    """Fit the geometry, searching again for every bead at its predicted position and excluding outliers.

    Beads are (N, 3), their diameters (N,).
    """
    fit = _solved(seen, beads_mm, nominal, model)
    for _ in range(_ROUNDS):
        off = np.concatenate([np.linalg.norm(off_px(fit, s, beads_mm), axis=1) for s in fit.seen])
        sigma = 1.4826 * float(np.median(off)) / 1.1774
        within = float(np.clip(8 * sigma, 2.0, _LARGEST_OFF * nominal.width_px))
        again = [
            _looked_for(shot, s, fit, beads_mm, diameters_mm, within) for shot, s in zip(shots, fit.seen, strict=True)
        ]
        fit = _solved(again, beads_mm, nominal, model, fit)
        fit = _without_outliers(fit, beads_mm, nominal, model)
        if [s.beads.tolist() for s in again] == [s.beads.tolist() for s in seen]:
            break
        seen = again
    return fit


def _looked_for(shot: Shot, seen: Seen, fit: Fit, beads_mm: Matrix, diameters_mm: Matrix, within_px: float) -> Seen:
    """Locate all beads of a shot at their predicted positions; overlapping ones are fitted together."""
    carm_from_phantom = g.inverse(seen.pose)
    expected = fit.distortion.distorted(g.project(fit.carm, carm_from_phantom, beads_mm))
    depth = g.transform(carm_from_phantom, beads_mm)[:, 2]
    radius = diameters_mm / 2 * fit.carm.source_to_detector_mm / depth / min(fit.carm.pixel_spacing_mm)
    visible = np.flatnonzero(inside(fit, seen.pose, beads_mm))
    beads, places = [], []
    left = set(visible.tolist())
    while left:
        group = [left.pop()]
        for bead in group:  # grows during the loop
            near = [
                n
                for n in left
                if np.hypot(*(expected[n] - expected[bead])) < _OVERLAP_RADII * max(radius[n], radius[bead])
            ]
            group += near
            left -= set(near)
        group.sort()
        spots = shot.at(expected[group], radius[group], within_px)
        for bead, spot in zip(group, spots, strict=True):
            if np.isfinite(spot).all():
                beads.append(bead)
                places.append(spot[:2])
    order = np.argsort(beads)
    return replace(seen, beads=np.array(beads, int)[order], at_px=np.array(places).reshape(-1, 2)[order])


def _without_outliers(fit: Fit, beads_mm: Matrix, nominal: CArm, model: str) -> Fit:
    for _ in range(3):
        off = [np.linalg.norm(off_px(fit, s, beads_mm), axis=1) for s in fit.seen]
        sigma = 1.4826 * float(np.median(np.concatenate(off))) / 1.1774
        limit = max(_OUTLIER_SIGMAS * sigma, _OUTLIER_PX)
        if all((length <= limit).all() for length in off):
            break
        kept = [
            replace(s, beads=s.beads[length <= limit], at_px=s.at_px[length <= limit])
            for s, length in zip(fit.seen, off, strict=True)
        ]
        if min(len(s.beads) for s in kept) < 4:
            break
        fit = _solved(kept, beads_mm, nominal, model, fit)
    return fit


def inside(fit: Fit, pose: Matrix, beads_mm: Matrix) -> Matrix:
    """Mask (N,) of the beads (N, 3) that a ``phantom_from_carm`` puts within the image."""
    at = fit.distortion.distorted(g.project(fit.carm, g.inverse(pose), beads_mm))
    return np.asarray(((at >= 0) & (at <= (fit.carm.width_px - 1, fit.carm.height_px - 1))).all(axis=1))


def off_px(fit: Fit, seen: Seen, beads_mm: Matrix) -> Matrix:
    """Undistorted positions of beads minus their predicted ones, (K, 2)."""
    return fit.distortion.undistorted(seen.at_px) - g.project(fit.carm, g.inverse(seen.pose), beads_mm[seen.beads])


def _solved(seen: list[Seen], beads_mm: Matrix, nominal: CArm, model: str, start: Fit | None = None) -> Fit:
    """Solve for all unknowns by least squares: log SDD, principal point, distortion, and the pose of every shot."""
    size = (nominal.width_px, nominal.height_px)
    count = unknowns(model)
    shared = 3 + count
    first = start.carm if start is not None else nominal
    state = np.zeros(shared + 6 * len(seen))
    if start is not None and start.distortion.model == model:
        state[3:shared] = start.distortion.coefficients
    abouts = [g.transform(g.inverse(s.pose), beads_mm).mean(axis=0) for s in seen]
    bent = [terms(model, s.at_px, size) for s in seen]

    def carm_at(state: Matrix) -> CArm:
        u, v = np.asarray(first.principal_point_px) + state[1:3]
        distance_mm = first.source_to_detector_mm * float(np.exp(state[0]))
        return replace(nominal, source_to_detector_mm=distance_mm, principal_point_px=(float(u), float(v)))

    def built(state: Matrix) -> Fit:
        poses = [
            s.pose @ g.inverse(g.exp(state[at : at + 6] * _UNIT, about))
            for s, about, at in zip(seen, abouts, range(shared, len(state), 6), strict=True)
        ]
        return Fit(
            carm_at(state),
            Distortion(model, state[3:shared], size),
            [replace(s, pose=pose) for s, pose in zip(seen, poses, strict=True)],
            sigma_sdd_mm=np.inf,
            sigma_pp_px=np.full(2, np.inf),
            covariance=np.full((3, 3), np.inf),
        )

    def off_of(n: int, state: Matrix) -> Matrix:
        at = shared + 6 * n
        pose = g.exp(state[at : at + 6] * _UNIT, abouts[n]) @ g.inverse(seen[n].pose)
        moved = seen[n].at_px + bent[n] @ state[3:shared]
        return np.asarray((moved - g.project(carm_at(state), pose, beads_mm[seen[n].beads])).ravel())

    def off(state: Matrix) -> Matrix:
        return np.concatenate([off_of(n, state) for n in range(len(seen))])

    rows = np.cumsum([0, *(2 * len(s.beads) for s in seen)])

    def slope(state: Matrix) -> Matrix:
        jacobian = np.zeros((rows[-1], len(state)))
        for n in range(len(seen)):
            part = slice(rows[n], rows[n + 1])
            for column in [0, 1, 2, *range(shared + 6 * n, shared + 6 * n + 6)]:
                ahead, behind = state.copy(), state.copy()
                width = 1e-4 if column == 0 else 1e-3
                ahead[column] += width
                behind[column] -= width
                jacobian[part, column] = (off_of(n, ahead) - off_of(n, behind)) / (2 * width)
            jacobian[part, 3:shared] = bent[n].reshape(2 * len(seen[n].beads), count)
        return jacobian

    state = _gauss_newton(off, slope, state)
    fit = built(state)
    residual, jacobian = off(state), slope(state)
    freedom = max(len(residual) - len(state), 1)
    scaled = jacobian * (norm := 1 / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12))
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    if len(residual) <= len(state) or values[0] < 1e-13 * values[-1]:
        return fit
    covariance = (vectors / values) @ vectors.T * np.outer(norm, norm) * float(residual @ residual) / freedom
    unit = np.array([fit.carm.source_to_detector_mm, 1.0, 1.0])  # the first unknown is the distance's logarithm
    shared_covariance = covariance[:3, :3] * np.outer(unit, unit)
    sigma = np.sqrt(np.maximum(np.diag(shared_covariance), 0.0))
    return replace(fit, sigma_sdd_mm=float(sigma[0]), sigma_pp_px=sigma[1:], covariance=shared_covariance)


def _gauss_newton(off: Callable[[Matrix], Matrix], slope: Callable[[Matrix], Matrix], state: Matrix) -> Matrix:
    """Minimise the sum of residuals with a soft L1 loss (linear beyond a pixel), damping steps that do not help."""

    def cost(residual: Matrix) -> float:
        return float(2 * (np.sqrt(1 + residual**2) - 1).sum())

    residual, damping = off(state), 1e-9
    for _ in range(_MOST_STEPS):
        weight = 1 / np.sqrt(1 + residual**2)
        jacobian = slope(state)
        norm = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)
        scaled = jacobian / norm
        normal, wanted = scaled.T @ (weight[:, None] * scaled), scaled.T @ (weight * residual)
        while True:
            step = -np.linalg.solve(normal + damping * np.eye(len(norm)), wanted) / norm
            after = off(state + step)
            if np.isfinite(after).all() and cost(after) <= cost(residual) * (1 + 1e-12) + 1e-15:
                break
            damping *= 100
            if damping > 1e3:
                return state
        state, gained, residual = state + step, cost(residual) - cost(after), after
        damping = max(damping / 100, 1e-9)
        if gained <= 1e-7 * cost(residual) + 1e-12:
            break
    return state


class Own(NamedTuple):
    """What one shot says by itself."""

    carm: CArm
    phantom_from_carm: Matrix
    sigma_share: float
    """Standard error of the distance from source to detector, a share of it."""


def each_by_itself(fit: Fit, beads_mm: Matrix) -> list[Own]:
    """Every shot's own C-arm and pose, by beads (N, 3): one image determines all nine unless all lie in a plane."""
    results = []
    for seen in fit.seen:
        about = g.transform(g.inverse(seen.pose), beads_mm).mean(axis=0)
        ideal = fit.distortion.undistorted(seen.at_px)

        def built(state: Matrix, pose: Matrix = seen.pose, about: Matrix = about) -> tuple[CArm, Matrix]:
            u, v = np.asarray(fit.carm.principal_point_px) + state[1:3]
            distance = fit.carm.source_to_detector_mm * float(np.exp(state[0]))
            bent = replace(fit.carm, source_to_detector_mm=distance, principal_point_px=(float(u), float(v)))
            return bent, pose @ g.inverse(g.exp(state[3:] * _UNIT, about))

        def off(state: Matrix, seen: Seen = seen, ideal: Matrix = ideal, built: Any = built) -> Matrix:
            bent, pose = built(state)
            return np.asarray((ideal - g.project(bent, g.inverse(pose), beads_mm[seen.beads])).ravel())

        solution = least_squares(off, np.zeros(9), x_scale="jac", loss="soft_l1")
        covariance = np.linalg.pinv(solution.jac.T @ solution.jac) * 2 * solution.cost / max(len(ideal) * 2 - 9, 1)
        results.append(Own(*built(solution.x), float(np.sqrt(covariance[0, 0]))))
    return results


def distances_apart_mm(own: Sequence[Own]) -> float:
    """Standard deviation of the distances from source to detector between shots, beyond what each one's error explains.

    Between studies that each know their own error: DerSimonian and Laird, Controlled Clinical Trials 7, 1986. 0 if
    shots of one geometry would differ as much by chance.
    """
    logs = np.log([each.carm.source_to_detector_mm for each in own])
    weight = np.array([each.sigma_share for each in own]) ** -2.0
    middle = weight @ logs / weight.sum()
    heterogeneity, freedom = float(weight @ (logs - middle) ** 2), len(own) - 1
    if freedom < 1 or heterogeneity < chi2.isf(_BY_CHANCE, freedom):
        return 0.0
    between = (heterogeneity - freedom) / (weight.sum() - (weight @ weight) / weight.sum())
    return float(np.sqrt(between) * np.exp(middle))


def places(seen: Sequence[Seen]) -> list[int]:
    """Of every shot, which place it was taken from, by the first shot from there: shots of one place say the same."""
    found: list[int] = []
    for n, own in enumerate(seen):
        apart = [g.log(g.inverse(seen[m].pose) @ own.pose) for m in sorted(set(found))]
        near = [
            float(np.linalg.norm(off[:3])) < _SAME_RAD and float(np.linalg.norm(off[3:])) < _SAME_MM for off in apart
        ]
        found.append(sorted(set(found))[near.index(True)] if any(near) else n)
    return found


def left_out_px(fit: Fit, beads_mm: Matrix, nominal: CArm) -> float:
    """rms error of each shot of beads (N, 3) with the geometry fitted to all from other places; only its pose is
    fitted. Infinite if there is one place only."""
    lengths, place = [], places(fit.seen)
    if len(set(place)) < 2:
        return float("inf")
    for n, own in enumerate(fit.seen):
        others = [s for m, s in enumerate(fit.seen) if place[m] != place[n]]
        rest = _solved(others, beads_mm, nominal, fit.distortion.model, fit)
        about = g.transform(g.inverse(own.pose), beads_mm).mean(axis=0)
        ideal = rest.distortion.undistorted(own.at_px)

        def off(
            step: Matrix, own: Seen = own, about: Matrix = about, ideal: Matrix = ideal, rest: Fit = rest
        ) -> Matrix:
            pose = g.exp(step * _UNIT, about) @ g.inverse(own.pose)
            return np.asarray((ideal - g.project(rest.carm, pose, beads_mm[own.beads])).ravel())

        solution = least_squares(off, np.zeros(6))
        lengths.append(np.linalg.norm(solution.fun.reshape(-1, 2), axis=1))
    return rms(np.concatenate(lengths))
