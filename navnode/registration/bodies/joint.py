"""Registers several bodies in several views at once: what one explains is no longer a mystery to another.

Gauss-Newton on compressed edges (:mod:`picture`). Shadows add up before they are compressed, so bodies that lie one
behind the other are explained together; every view sees what the others leave open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.registration.bodies.body import Body, Shadow
from navnode.registration.bodies.picture import Picture, compressed, edges, soft_limit
from navnode.types import FloatArray, Matrix

__all__ = ["SCALE", "Seen", "descend", "explained", "look"]

SCALE = np.array([30.0] * 3 + [1.0] * 3)
"""(rad, mm) -> mm: what a rotation moves, at 30 mm from the center."""
_LEAST_DAMPING, _FIRST_DAMPING, _MOST_DAMPING = 1e-3, 1e-2, 10.0
_LONGEST_STEP_MM = 6.0
_FEWEST_PX = 20
_BETTER = 1e-5
_LEAST_SIGNAL = 0.4
"""Share of an X-ray's edges that are taken for more than noise, at least."""
_ERRORS = 7.0
"""Ratio of actual errors to those of independent pixels."""


@dataclass(frozen=True)
class Seen:
    """Bodies at their poses, compared with the pictures."""

    poses: list[Matrix]
    """``world_from_body``."""
    likeness: npt.NDArray[np.float64]
    """(bodies, views): correlation of edges where the body is, -1..1; NaN: not in the picture."""
    shown: npt.NDArray[np.float64]
    """(bodies, views): share of the body's shadow that the picture shows, 0..1."""
    hessian: Matrix
    """(6 bodies, 6 bodies), scaled."""
    gradient: Matrix
    """(6 bodies,), scaled."""
    residual: float
    """Root of the mean squared residual."""

    @property
    def mean(self) -> float:
        """Mean likeness, lower where less is shown: a corner of a picture looks like a corner of many a body."""
        return float(np.mean(np.nan_to_num(self.likeness, nan=-1.0) * np.sqrt(self.shown)))

    def mean_of(self, row: int) -> float:
        """The same of one body."""
        return float(np.mean(np.nan_to_num(self.likeness[row], nan=-1.0) * np.sqrt(self.shown[row])))

    def covariance(self, row: int) -> Matrix:
        """6x6 (rad, mm) of ``world_from_body @ exp(xi, center_mm)`` of one body, wherever the others are."""
        at = slice(6 * row, 6 * row + 6)
        information = self.hessian + 1e-9 * (np.trace(self.hessian) + 1.0) * np.eye(len(self.hessian))
        return np.asarray((_ERRORS * self.residual) ** 2 * np.linalg.inv(information)[at, at] / np.outer(SCALE, SCALE))


def look(bodies: Sequence[Body], pictures: Sequence[Picture], poses: Sequence[Matrix], *, derive: bool = True) -> Seen:
    """Compare bodies with pictures, and how the difference changes with the poses.

    Args:
        poses: ``world_from_body``, 4x4, of every body.
        derive: also the normal equations.
    """
    count = 6 * len(bodies)
    hessian, gradient = np.zeros((count, count)), np.zeros(count)
    likeness = np.full((len(bodies), len(pictures)), np.nan)
    shown = np.zeros((len(bodies), len(pictures)))
    squares = weights = 0.0
    for n, picture in enumerate(pictures):
        shadows = [
            body.shadow(picture.carm, picture.world_from_carm, pose, jacobian=derive)
            for body, pose in zip(bodies, poses, strict=True)
        ]
        found = _view(picture, shadows, derive=derive)
        likeness[:, n] = found.likeness
        shown[:, n] = [_shown(shadow, picture) for shadow in shadows]
        if found.equations is not None:
            hessian += found.equations[0]
            gradient += found.equations[1]
            squares += found.squares
            weights += found.weights
    scaled = np.tile(1 / SCALE, len(bodies))
    return Seen(
        list(poses),
        likeness,
        shown,
        hessian * np.outer(scaled, scaled),
        gradient * scaled,
        float(np.sqrt(squares / max(weights, 1e-9))),
    )


def explained(bodies: Sequence[Body], picture: Picture, poses: Sequence[Matrix]) -> FloatArray:
    """The edges (2, H, W) of a picture that bodies explain."""
    shadows = [
        body.shadow(picture.carm, picture.world_from_carm, pose) for body, pose in zip(bodies, poses, strict=True)
    ]
    line, hit = _added(picture, shadows)
    made = edges(line)
    predicted = compressed(made, soft_limit(made, hit))[0] * hit
    share = float((predicted * picture.edges).sum() / max(float((predicted**2).sum()), 1e-9))
    return np.asarray(max(share, 0.0) * predicted, np.float32)


def _added(picture: Picture, shadows: Sequence[Shadow | None]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Line integrals of all shadows (H, W), and where they are seen."""
    line, hit = np.zeros(picture.seen.shape, np.float32), np.zeros(picture.seen.shape, bool)
    for shadow in shadows:
        if shadow is not None:
            line[shadow.part] += shadow.line
            hit[shadow.part] |= shadow.hit
    return line, hit & picture.seen


@dataclass(frozen=True)
class _View:
    likeness: list[float]
    equations: tuple[Matrix, Matrix] | None = None
    """Hessian and gradient."""
    squares: float = 0.0
    weights: float = 0.0


def _view(picture: Picture, shadows: Sequence[Shadow | None], *, derive: bool) -> _View:
    """One view's likeness and normal equations."""
    line, hit = _added(picture, shadows)
    if hit.sum() < _FEWEST_PX:
        return _View([np.nan] * len(shadows))
    box = (_span(np.any(hit, axis=1)), _span(np.any(hit, axis=0)))  # only this is looked at
    made, mask = edges(line[box]), hit[box].astype(np.float32)
    predicted, strength = compressed(made, soft_limit(made, hit[box]))
    observed = picture.edges[:, box[0], box[1]]
    noise = picture.noise[box]
    likeness = [_likeness(predicted, observed, noise, mask, shadow, box) for shadow in shadows]
    if not derive:
        return _View(likeness)
    scale = max(float((mask * predicted * observed).sum() / max((mask * predicted**2).sum(), 1e-9)), 1e-3)
    residual = observed - scale * predicted
    weight = mask / (1 + (residual**2).sum(axis=0))
    changes = [_change(shadow, box, predicted, scale / strength) for shadow in shadows]
    hessian, gradient, along = _normal_equations(changes, predicted, residual, weight)
    # The strength of the edges is fitted along with the poses.
    norm = max(float((weight * predicted**2).sum()), 1e-9)
    gradient -= along * float((weight * predicted * residual).sum()) / norm
    hessian -= np.outer(along, along) / norm
    return _View(likeness, (hessian, gradient), float((weight * residual**2).sum()), float(2 * weight.sum()))


_Change = tuple[tuple[slice, slice], FloatArray]
"""A part of the box, and how compressed edges in it change with a body's pose, (6, 2, h, w)."""


def _change(
    shadow: Shadow | None, box: tuple[slice, slice], predicted: FloatArray, factor: FloatArray
) -> _Change | None:
    """How a body's pose changes the compressed edges; None: not here."""
    if shadow is None or shadow.jacobian is None or _common(shadow.part, box) is None:
        return None
    inner, outer = _overlap(shadow, box)
    derived = edges(shadow.jacobian)[..., inner[0], inner[1]]
    here = predicted[:, outer[0], outer[1]]
    return outer, (derived - here * (here * derived).sum(axis=1, keepdims=True)) * factor[outer]


def _normal_equations(
    changes: Sequence[_Change | None], predicted: FloatArray, residual: FloatArray, weight: FloatArray
) -> tuple[Matrix, Matrix, Matrix]:
    """Hessian and gradient over all bodies, and how their poses change the strength of the edges."""
    count = 6 * len(changes)
    hessian, gradient, along = np.zeros((count, count)), np.zeros(count), np.zeros(count)
    for n, mine in enumerate(changes):
        if mine is None:
            continue
        part, change = mine
        at = slice(6 * n, 6 * n + 6)
        weighted = change * weight[part]
        gradient[at] = weighted.reshape(6, -1) @ residual[:, part[0], part[1]].ravel()
        along[at] = weighted.reshape(6, -1) @ predicted[:, part[0], part[1]].ravel()
        for m, theirs in enumerate(changes[: n + 1]):
            common = None if theirs is None else _common(part, theirs[0])
            if theirs is None or common is None:
                continue
            here, there = _within(common, part), _within(common, theirs[0])
            product = weighted[..., here[0], here[1]].reshape(6, -1)
            product = product @ theirs[1][..., there[0], there[1]].reshape(6, -1).T
            hessian[at, 6 * m : 6 * m + 6] = product
            hessian[6 * m : 6 * m + 6, at] = product.T
    return hessian, gradient, along


def descend(
    bodies: Sequence[Body],
    pictures: Sequence[Picture],
    poses: Sequence[Matrix],
    most: int,
    still_mm: float,
    spread: Matrix | None = None,
) -> Seen:
    """The poses that fit best, from poses nearby.

    Args:
        poses: ``world_from_body``, 4x4, of every body.
        most: iterations.
        still_mm: shortest step.
        spread: (6,), 1-sigma (rad, mm) by which bodies may be off their poses: what pictures leave open stays there.
    """
    best = look(bodies, pictures, poses)
    damping = _FIRST_DAMPING
    for _ in range(most):
        hessian, gradient = best.hessian, best.gradient
        if spread is not None:
            precision = np.tile((_ERRORS * best.residual / (spread * SCALE)) ** 2, len(bodies))
            hessian = hessian + np.diag(precision)
            gradient = gradient - precision * _off(bodies, poses, best.poses)
        diagonal = np.diag(hessian)
        damped = hessian + np.diag(damping * diagonal + 1e-6 * diagonal.max() + 1e-12)
        step = np.asarray(np.linalg.solve(damped, gradient), float).reshape(-1, 6)
        lengths = np.linalg.norm(step, axis=1, keepdims=True)
        shorter: Matrix = step * np.minimum(1.0, _LONGEST_STEP_MM / np.maximum(lengths, 1e-9))
        tried = look(bodies, pictures, _moved(bodies, best.poses, shorter))
        if tried.mean > best.mean - _BETTER:
            best, damping = tried, max(damping / 2, _LEAST_DAMPING)
            if lengths.max() < still_mm:
                break
        else:
            damping *= 5
            if damping > _MOST_DAMPING:
                break
    return best


def _off(bodies: Sequence[Body], starts: Sequence[Matrix], poses: Sequence[Matrix]) -> Matrix:
    """Scaled steps (6 bodies,) from starts to poses."""
    steps = [
        SCALE * g.log(g.inverse(start) @ pose, body.center_mm)
        for body, start, pose in zip(bodies, starts, poses, strict=True)
    ]
    return np.concatenate(steps)


def _moved(bodies: Sequence[Body], poses: Sequence[Matrix], step: Matrix) -> list[Matrix]:
    """Poses after a scaled step (bodies, 6)."""
    return [
        g.orthonormal(pose @ g.exp(each / SCALE, body.center_mm))
        for body, pose, each in zip(bodies, poses, step, strict=True)
    ]


def _likeness(
    predicted: FloatArray,
    observed: FloatArray,
    noise: FloatArray,
    mask: FloatArray,
    shadow: Shadow | None,
    box: tuple[slice, slice],
) -> float:
    """Correlation of edges where a body is, corrected for noise."""
    if shadow is None:
        return np.nan
    inner, outer = _overlap(shadow, box)
    weight = shadow.hit[inner] * mask[outer]
    if weight.sum() < max(_FEWEST_PX, 0.3 * shadow.hit.sum()):
        return np.nan
    made, there = predicted[:, outer[0], outer[1]], observed[:, outer[0], outer[1]]
    energy = float((weight * there**2).sum())
    shown = max(energy - float((weight * noise[outer]).sum()), _LEAST_SIGNAL * energy)
    return float((weight * made * there).sum() / max(np.sqrt(float((weight * made**2).sum()) * shown), 1e-9))


def _shown(shadow: Shadow | None, picture: Picture) -> float:
    """Share of a shadow that the picture shows."""
    if shadow is None:
        return 0.0
    hit = np.asarray(shadow.hit & picture.seen[shadow.part])
    return float(hit.sum() / max(shadow.whole_px, 1.0))


def _span(true: npt.NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(true)
    return slice(int(where[0]), int(where[-1]) + 1)


def _overlap(shadow: Shadow, box: tuple[slice, slice]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a shadow that lies in a box: within the shadow, and within the box."""
    common = _common(shadow.part, box)
    if common is None:
        nothing = (slice(0, 0), slice(0, 0))
        return nothing, nothing
    return _within(common, shadow.part), _within(common, box)


def _common(one: tuple[slice, slice], other: tuple[slice, slice]) -> tuple[slice, slice] | None:
    spans = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)]
    if any(stop <= start for start, stop in spans):
        return None
    return slice(*spans[0]), slice(*spans[1])


def _within(part: tuple[slice, slice], whole: tuple[slice, slice]) -> tuple[slice, slice]:
    rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, whole, strict=True))
    return rows, columns
