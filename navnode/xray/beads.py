"""Finds beads in an X-ray, round dark spots of about the right size, to a few hundredths of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from navnode.types import Array, FloatArray, Matrix
from navnode.xray.counts import line_integrals, open_beam_counts

__all__ = ["Shot"]

_RATIO = 1.25
"""Ratio between consecutive sizes in the search."""
_SIGMA_OF_RADIUS = 1 / np.sqrt(2.0)
"""Sigma, relative to a disc's radius, of the Laplacian of a Gaussian that responds most."""
_NOISE_TIMES = 6.0
_LEAST_ALIKE = 0.80
"""Smallest correlation of a spot's surroundings with a sphere's shadow on a plane."""
_LEAST_ALIKE_GUIDED = 0.60
"""The same at a predicted position."""
_MOST = 600
_LARGEST_GROUP = 4
_STEPS = 8
_FINE_PX = 4.0
"""Radius of a spot, in px, below which a picture must not be made coarser."""
_HOPED_FOR, _LEAST_HOPEFUL = 2, 0.6
"""After so many steps a bead's shadow correlates at least so much; most candidates are none, and end there."""
_AT_ONCE = 24
"""Fits in one go: more would leave the cache."""
_OVERSIZE = 1.35
"""Factor by which radii may exceed the possible range, because of blur."""


@dataclass(frozen=True)
class Spots:
    """Spots that look like beads."""

    at_px: Matrix
    """(N, 2) u, v"""
    radius_px: Matrix
    """(N,)"""
    depth: Matrix
    """(N,) line integral through the middle of each spot."""
    alike: Matrix
    """(N,) correlation with a sphere's shadow."""


@dataclass(frozen=True)
class _Fits:
    """A step of many fits, each of one spot."""

    step: Matrix
    """(N, 3) of u, v, radius"""
    depth: Matrix
    """(N,)"""
    alike: Matrix
    """(N,)"""
    good: npt.NDArray[np.bool_]
    """(N,) whether the fit may go on."""


class Shot:
    """An image of beads, ready to be searched.

    Args:
        counts: (H, W); beads are dark.
        radii_px: smallest and largest possible radius of a bead's shadow.
    """

    def __init__(self, counts: Array, radii_px: tuple[float, float], i0: float | None = None) -> None:
        self.line = np.nan_to_num(line_integrals(counts, i0 or open_beam_counts(counts)), nan=0.0, posinf=12.0)
        self.radii_px = max(radii_px[0], 1.0), max(radii_px[1], 1.2)
        self._noise = _noise(self.line)

    def spots(self) -> Spots:
        """All spots that look like beads, each once."""
        low, high = self.radii_px
        count = max(1, int(np.ceil(np.log(high / low) / np.log(_RATIO))) + 1)
        radii = np.geomspace(low, high, count)
        answers = np.stack([_answer(self.line, radius) for radius in radii])
        best = answers.max(axis=0)
        size = 2 * int(np.ceil(low)) + 1
        peak = (best == cv2.dilate(best, np.ones((size, size), np.uint8))) & (best > 0)
        # White noise of sigma s yields a response of about s / (2 r sqrt(pi)): see _answer.
        level = _NOISE_TIMES * self._noise / (2 * np.sqrt(np.pi) * low)
        v, u = np.nonzero(peak & (best > level))
        strongest = np.argsort(-best[v, u])[:_MOST]
        rows, columns = v[strongest], u[strongest]
        start = np.column_stack([columns, rows, radii[answers[:, rows, columns].argmax(axis=0)]]).astype(np.float64)
        fitted = self._each(start, 1.5 * high)
        return _spots(_each_once(fitted[fitted[:, 4] >= _LEAST_ALIKE]))

    def at(self, near_px: Matrix, radii_px: Matrix, within_px: float) -> Matrix:
        """Locate beads near predicted positions; they may overlap and are fitted together.

        Returns:
            (N, 5): u, v, radius, depth, alike; NaN for beads that are not found.
        """
        located = np.full((len(near_px), 5), np.nan)
        start = np.column_stack([near_px, radii_px])
        if (fitted := self._together(start, within_px)) is not None:
            near = np.hypot(*(fitted[:, :2] - near_px).T) <= within_px
            good = near & (fitted[:, 4] >= _LEAST_ALIKE_GUIDED)
            located[good] = fitted[good]
        if 1 < len(near_px) <= _LARGEST_GROUP and np.isnan(located).any():
            # A missing bead would spoil the fit of the others.
            for n in range(len(near_px)):
                rest = np.arange(len(near_px)) != n
                without = np.full_like(located, np.nan)
                without[rest] = self.at(near_px[rest], radii_px[rest], within_px)
                if np.isfinite(without[:, 0]).sum() > np.isfinite(located[:, 0]).sum():
                    located = without
        return located

    def _each(self, start: Matrix, within_px: float) -> Matrix:
        """As :meth:`_together`, for many spots that do not overlap, each by itself.

        Args:
            start: (N, 3) u, v, radius.

        Returns:
            (N, 5) u, v, radius, depth, alike; NaN where a fit fails.
        """
        found = np.full((len(start), 5), np.nan)
        half = np.ceil(1.9 * np.minimum(1.5 * start[:, 2], self.radii_px[1] * _OVERSIZE) + 2.5).astype(int)
        for size in np.unique(half):  # windows of one size are fitted at once
            of_size = np.flatnonzero(half == size)
            for some in np.array_split(of_size, -(-len(of_size) // _AT_ONCE)):
                found[some] = self._of_one_size(start[some], int(size), within_px)
        return found

    def _of_one_size(self, start: Matrix, half: int, within_px: float) -> Matrix:
        low, high = self.radii_px[0] / _OVERSIZE, self.radii_px[1] * _OVERSIZE
        found = np.full((len(start), 5), np.nan)
        going, spots = np.arange(len(start)), start.copy()
        for step_number in range(_STEPS):
            fit = self._linear(spots, half)
            step, good = fit.step, fit.good
            spots = spots + np.where(good[:, None], step, 0.0)
            spots[:, 2] = np.clip(spots[:, 2], low, high)
            good &= np.hypot(*(spots[:, :2] - start[going, :2]).T) <= within_px
            done = good & ((np.abs(step[:, :2]).max(axis=1) < 2e-3) | (step_number == _STEPS - 1))
            if done.any():
                deep = fit.depth[done] > 2 * self._noise
                usual = (spots[done, 2] > low) & (spots[done, 2] < high) & deep
                found[going[done]] = np.column_stack(
                    [spots[done], fit.depth[done], np.where(usual, fit.alike[done], 0.0)]
                )
            hopeless = (fit.alike < _LEAST_HOPEFUL) & (step_number >= _HOPED_FOR)
            left = good & ~done & ~hopeless
            going, spots = going[left], spots[left]
            if not len(going):
                break
        return found

    def _linear(self, spots: Matrix, half: int) -> _Fits:
        """One step of Gauss-Newton for every spot (N, 3), in windows of 2 ``half`` + 1 px."""
        height, width = self.line.shape
        middle = np.round(spots[:, :2]).astype(int)
        reach = 1.9 * spots[:, 2] + 1.5
        good = (np.floor(spots[:, :2] - reach[:, None]) >= 0).all(axis=1)
        good &= (np.ceil(spots[:, :2] + reach[:, None]) + 1 <= (width, height)).all(axis=1)
        across = np.arange(-half, half + 1)
        columns = np.clip(middle[:, :1] + across, 0, width - 1)
        rows = np.clip(middle[:, 1:] + across, 0, height - 1)
        wanted = self.line[rows[:, :, None], columns[:, None, :]].reshape(len(spots), -1).astype(np.float64)
        x = np.broadcast_to((columns - spots[:, :1])[:, None, :], (len(spots), len(across), len(across)))
        y = np.broadcast_to((rows - spots[:, 1:2])[:, :, None], x.shape)
        x, y = x.reshape(len(spots), -1), y.reshape(len(spots), -1)
        away = np.maximum(np.hypot(x, y), 1e-6)
        radius = spots[:, 2:]
        weight = (away <= 1.9 * radius + 1.0).astype(np.float64)
        good &= weight.sum(axis=1) >= 8
        shape, slope = _shadow(away, radius)
        linear = np.stack([shape, np.ones_like(shape), x, y], axis=1) * weight[:, None]
        solution = _least_squares_of_each(linear, wanted * weight)
        depth = solution[:, 0]
        good &= depth > 0
        turned = depth[:, None] * slope * weight
        moves = np.stack([-turned * x / away, -turned * y / away, -turned * away / radius], axis=1)
        residual = wanted * weight - np.einsum("nk,nkp->np", solution, linear)
        step = _least_squares_of_each(np.concatenate([linear, moves], axis=1), residual)[:, 4:]
        most = 0.5 * radius
        model = depth[:, None] * linear[:, 0]
        image = model + residual
        length = np.sqrt((image**2).sum(axis=1) * (model**2).sum(axis=1))
        alike = (image * model).sum(axis=1) / np.maximum(length, 1e-12)
        return _Fits(np.clip(step, -most, most), depth, alike, good)

    def _together(self, start: Matrix, within_px: float) -> Matrix | None:
        """Fit spheres' shadows on a plane: positions and radii by Gauss-Newton; depths and plane are linear.

        Args:
            start: (N, 3) u, v, radius.

        Returns:
            (N, 5) u, v, radius, depth, alike; None if the fit fails.
        """
        low, high = self.radii_px[0] / _OVERSIZE, self.radii_px[1] * _OVERSIZE
        spots = start.copy()
        count = len(spots)
        for _ in range(_STEPS):
            reach = 1.9 * spots[:, 2:] + 1.5
            left, top = np.floor((spots[:, :2] - reach).min(axis=0)).astype(int)
            right, bottom = np.ceil((spots[:, :2] + reach).max(axis=0)).astype(int) + 1
            if left < 0 or top < 0 or right > self.line.shape[1] or bottom > self.line.shape[0]:
                return None
            x = np.arange(left, right)[None, None] - spots[:, 0, None, None]
            y = np.arange(top, bottom)[None, :, None] - spots[:, 1, None, None]
            away = np.hypot(x, y)
            inside = (away <= 1.9 * spots[:, 2, None, None] + 1.0).any(axis=0)
            wanted = self.line[top:bottom, left:right][inside].astype(np.float64)
            x, y = (np.broadcast_to(part, away.shape)[:, inside] for part in (x, y))
            away = np.maximum(away[:, inside], 1e-6)
            if len(wanted) < 8 * count:
                return None
            shadow = [_shadow(distance, radius) for distance, radius in zip(away, spots[:, 2], strict=True)]
            shape, slope = (np.stack(parts) for parts in zip(*shadow, strict=True))
            linear = np.concatenate([shape, np.ones((1, len(wanted))), x[:1], y[:1]])
            solution = _least_squares(linear, wanted)
            if (solution[:count] <= 0).any():
                return None
            # Moving a shadow f(d / r) by du changes it by -f' x / d, growing it by dr changes it by -f' d / r.
            turned = solution[:count, None] * slope
            moves = np.concatenate([-turned * x / away, -turned * y / away, -turned * away / spots[:, 2:]])
            step = _least_squares(np.concatenate([linear, moves]), wanted - solution @ linear)[count + 3 :]
            most = 0.5 * spots[:, 2:]
            step = np.clip(step.reshape(3, count).T, -most, most)
            spots += step
            spots[:, 2] = np.clip(spots[:, 2], low, high)
            if (np.hypot(*(spots[:, :2] - start[:, :2]).T) > within_px).any():
                return None
            if float(np.abs(step[:, :2]).max()) < 2e-3:
                break
        residual = wanted - solution @ linear
        alike = []
        for n in range(count):
            own = away[n] <= 1.9 * spots[n, 2] + 1.0
            model = solution[n] * shape[n][own]
            image = model + residual[own]
            alike.append(float(image @ model) / max(np.sqrt(float(image @ image) * float(model @ model)), 1e-12))
        good = (spots[:, 2] > low) & (spots[:, 2] < high) & (solution[:count] > 2 * self._noise)
        return np.column_stack([spots, solution[:count], np.where(good, alike, 0.0)])


def _least_squares(rows: Matrix, wanted: Matrix) -> Matrix:
    """Coefficients (K,) of few rows (K, N) whose sum is nearest to (N,), without the cost of an SVD."""
    scale = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    scaled = rows / scale[:, None]
    gram = scaled @ scaled.T + 1e-10 * np.eye(len(rows))
    return np.asarray(np.linalg.solve(gram, scaled @ wanted) / scale)


def _least_squares_of_each(rows: Matrix, wanted: Matrix) -> Matrix:
    """:func:`_least_squares` of (N, K, P) and (N, P): coefficients (N, K)."""
    scale = np.maximum(np.sqrt(np.einsum("nkp,nkp->nk", rows, rows)), 1e-12)
    scaled = rows / scale[:, :, None]
    gram = scaled @ np.swapaxes(scaled, 1, 2) + 1e-10 * np.eye(rows.shape[1])
    return np.asarray(np.linalg.solve(gram, scaled @ wanted[:, :, None])[:, :, 0] / scale)


def _spots(rows: list[tuple[float, ...]]) -> Spots:
    table = np.array(rows).reshape(-1, 5)
    return Spots(table[:, :2], table[:, 2], table[:, 3], table[:, 4])


def _each_once(found: Matrix) -> list[tuple[float, ...]]:
    """The best of every group of overlapping spots."""
    kept: list[tuple[float, ...]] = []
    for spot in found[np.argsort(-found[:, 4], kind="stable")].tolist():
        if all(np.hypot(spot[0] - other[0], spot[1] - other[1]) > 0.7 * max(spot[2], other[2]) for other in kept):
            kept.append(spot)
    return kept


def _shadow(distance: Matrix, radius: float | Matrix) -> tuple[Matrix, Matrix]:
    """Chord of a sphere over its diameter, and its derivative by distance; the edge is softened by half a pixel."""
    soft = 0.6 / radius
    inside = 1 - (distance / radius) ** 2
    # A smooth positive part: sqrt of it begins without a corner.
    positive = 0.5 * (inside + np.sqrt(inside**2 + soft**2))
    shape = np.sqrt(positive)
    d_positive = 0.5 * (1 + inside / np.sqrt(inside**2 + soft**2))
    slope = 0.5 / np.maximum(shape, 1e-9) * d_positive * (-2 * distance / radius**2)
    return shape, slope


def _answer(picture: FloatArray, radius: float) -> FloatArray:
    """How much darker a disc is than its surroundings: a difference of Gaussians, about 1 for a spot of depth 1."""
    height, width = picture.shape
    coarser = max(1, int(radius // _FINE_PX))  # wide spots are found as well in a coarser picture
    size = max(1, width // coarser), max(1, height // coarser)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if coarser > 1 else picture
    sigma = radius * _SIGMA_OF_RADIUS / coarser
    answer = 2.5 * (cv2.GaussianBlur(small, (0, 0), sigma) - cv2.GaussianBlur(small, (0, 0), 1.6 * sigma))
    return np.asarray(cv2.resize(answer, (width, height)) if coarser > 1 else answer, np.float32)


def _noise(line: FloatArray) -> float:
    """Robust noise sigma of one pixel, from a Laplacian."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    return 1.4826 * float(np.median(np.abs(cv2.filter2D(line, -1, kernel)))) + 1e-6
