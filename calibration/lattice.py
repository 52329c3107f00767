"""Finds the holes (or beads) of a plate in a picture, thousands of them, and says which is which.

A hole is named by its neighbours, step by step, so that what a shutter, a rim or text hides costs only what it hides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial import cKDTree

from navnode.types import Array, FloatArray, Matrix

__all__ = ["Form", "Holes", "Lattice", "UnclearError", "holes", "polynomials"]

Form = Literal["hexagonal", "square"]
Indices = npt.NDArray[np.int64]
"""(N, 2)"""

_SEARCHED = 0.2
"""Sigma of the spots that are searched for, over the spacing: even a wide hole has one peak then."""
_SPOT, _AROUND, _MOVES = 0.15, 0.24, 0.15
"""Sigmas of a hole and of what is around it when its middle is measured, and how far that may lie from where it was
found, over the spacing."""
_NEAR = 0.35
"""Radius around a hole without another, over the spacing."""
_WINDOW, _ACROSS = 0.7, 15
"""Radius of a hole's surroundings that are compared with those of others, over the spacing, and samples across."""
_EXPECTED, _WEAKEST = 0.2, 0.35
"""Share of the picture in which holes are surely seen, and smallest contrast of a hole, over that of most there."""
_LEAST_ALIKE, _WORSE, _TOLERATED = 0.7, 3.0, 0.03
"""Smallest correlation of a hole's surroundings with those of most; how many times farther from 1 than usual it may be,
and how far it may be in any case. A rim or a shutter beside a hole would move it."""
_STEPS = 8
_MOST = 60_000
_STRAY = 0.25
"""How far from where its neighbour expects it a hole may lie, over the spacing."""
_SEED_STRAY, _SHEARED = 0.15, 1.3
_DEGREE = 5
_OFF_SHARE = 0.08
"""Distance, over the spacing, from a smooth bending of the lattice at which a hole is none."""
_MOST_OFF = 0.03
"""Largest share of such holes; with more, the names themselves are doubtful."""
_TIED = 0.3
"""Largest distance of a hole from its place in the picture before, over the spacing; at half it would be another."""


class UnclearError(Exception):
    """Why the holes of a picture cannot be named."""


@dataclass(frozen=True)
class Lattice:
    """A plate's pattern."""

    form: Form
    spacing_mm: float

    @property
    def basis_mm(self) -> Matrix:
        """(2, 2): columns are the steps of both indices on the plate."""
        second = (0.5, np.sqrt(0.75)) if self.form == "hexagonal" else (0.0, 1.0)
        return self.spacing_mm * np.array([[1.0, second[0]], [0.0, second[1]]])

    @property
    def turn(self) -> Indices:
        """(2, 2) of the smallest rotation of the plate that looks the same, in indices."""
        return np.array([[0, -1], [1, 1]] if self.form == "hexagonal" else [[0, -1], [1, 0]])

    @property
    def steps(self) -> Indices:
        """(K, 2) to the nearest neighbours, in the order of their directions."""
        order = 6 if self.form == "hexagonal" else 4
        return np.stack([np.linalg.matrix_power(self.turn, n) @ [1, 0] for n in range(order)])


@dataclass(frozen=True)
class Holes:
    """The named holes of a picture."""

    lattice: Lattice
    at_px: Matrix
    """(N, 2) u, v"""
    index: Indices
    """(N, 2) along both steps of the lattice."""
    size_px: tuple[int, int]
    """The picture's width and height."""

    @property
    def plate_mm(self) -> Matrix:
        """(N, 2) on the plate."""
        return np.asarray(self.index @ self.lattice.basis_mm.T)

    def at(self, place_px: Matrix) -> Matrix:
        """Index (..., 2) at any place (..., 2) of the picture, between the holes."""
        return np.asarray(polynomials(place_px, self.size_px, _DEGREE) @ _fitted(self.at_px, self.index, self.size_px))

    def tied(self, other: Holes) -> Holes:
        """These holes with the names that ``other`` has for them; the plate is fixed, the picture moved by little.

        Raises:
            UnclearError: it moved by so much that a hole could be its neighbour.
        """
        near = cKDTree(other.at_px).query(self.at_px, distance_upper_bound=self.spacing_px)[0] < np.inf
        if near.sum() < len(self.lattice.steps):
            raise UnclearError("shows another part of the plate than the others")
        places, index = self.at_px[near], self.index
        slope, theirs = _slope(self, places.mean(axis=0)), _slope(other, places.mean(axis=0))
        turns = [np.linalg.matrix_power(self.lattice.turn, n) for n in range(len(self.lattice.steps))]
        turn = min(turns, key=lambda each: float(np.linalg.norm(each @ slope - theirs)))
        index = index @ turn.T
        apart = np.median(other.at(places) - index[near], axis=0)
        moved = np.rint(apart)
        if float(np.linalg.norm(self.lattice.basis_mm @ (apart - moved))) > _TIED * self.lattice.spacing_mm:
            raise UnclearError("is shifted against the others by so much that a hole could be its neighbour")
        return replace(self, index=index + moved.astype(np.int64))

    @property
    def spacing_px(self) -> float:
        """Distance between neighbours in the middle of the holes."""
        middle = self.at_px.mean(axis=0)
        return self.lattice.spacing_mm / float(
            np.sqrt(np.abs(np.linalg.det(self.lattice.basis_mm @ _slope(self, middle))))
        )


def polynomials(at_px: Matrix, size_px: tuple[int, int], degree: int) -> Matrix:
    """(..., K): Chebyshev's T_i(x) T_j(y), i + j <= degree, x and y in -1..1 over a picture's longer side; the first is
    1."""
    half = (max(size_px) - 1) / 2
    x = (at_px[..., 0] - (size_px[0] - 1) / 2) / half
    y = (at_px[..., 1] - (size_px[1] - 1) / 2) / half
    along_x, along_y = chebvander(x, degree), chebvander(y, degree)
    pairs = [(total - j, j) for total in range(degree + 1) for j in range(total + 1)]
    return np.stack([along_x[..., i] * along_y[..., j] for i, j in pairs], axis=-1)


def holes(counts: Array, lattice: Lattice, spacing_px: float) -> Holes:
    """Find and name the holes in a picture.

    Args:
        counts: (H, W); holes brighter than the plate, or beads darker than what holds them.
        spacing_px: expected, within a fifth.

    Raises:
        UnclearError: there is no such lattice, or it contradicts itself.
    """
    size_px = counts.shape[1], counts.shape[0]
    unclear: UnclearError | None = None
    for at_px in _spots(counts, spacing_px):
        try:
            if len(at_px) <= len(lattice.steps):
                raise UnclearError(f"shows {len(at_px)} spots that look like holes")
            index = _named(at_px, lattice, spacing_px)
            known = index[:, 0] != _NONE
            return _smooth(Holes(lattice, at_px[known], index[known], size_px))
        except UnclearError as error:
            unclear = unclear or error
    assert unclear is not None
    raise unclear


# --- where -----------------------------------------------------------------------------------------------------------


def _spots(counts: Array, spacing_px: float) -> Iterator[Matrix]:
    """(N, 2): middles of all bright spots that look alike, and of all dark ones; the more distinct ones first."""
    bright = float(np.quantile(counts, 0.99))
    line = np.log(np.asarray(counts, np.float32) + max(0.02 * bright, 1.0))
    # Symmetric, and blind to brightness that changes slowly: its peaks are the middles of whatever is symmetric.
    answer = cv2.GaussianBlur(line, (0, 0), _SPOT * spacing_px) - cv2.GaussianBlur(line, (0, 0), _AROUND * spacing_px)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(_NEAR * spacing_px)) + 1,) * 2)
    margin = _WINDOW * spacing_px + 1
    most = np.array([counts.shape[1] - 1, counts.shape[0] - 1]) - margin
    expected = max(8, round(_EXPECTED * counts.size / spacing_px**2))
    found = []
    for sign in (1, -1):
        spotted = _round(sign * line, _SEARCHED * spacing_px)
        v, u = np.nonzero((spotted == cv2.dilate(spotted, disc)) & (spotted > 0))
        strength = spotted[v, u]
        strongest = np.argsort(-strength)[:_MOST]
        typical = float(np.median(strength[strongest[:expected]])) if len(u) else 0.0
        start = np.column_stack([u, v])[strongest[strength[strongest] > _WEAKEST * typical]].astype(np.float64)
        found.append((typical, sign, start[((start >= margin) & (start <= most)).all(axis=1)]))
    for _, sign, start in sorted(found, key=lambda each: -each[0]):
        yield _alike(_peaks(sign * answer, start, max(1.5, _MOVES * spacing_px)), line, spacing_px)


def _round(picture: FloatArray, sigma: float) -> FloatArray:
    """How much brighter each pixel is than what is around it, in the direction in which that is least: no edge is."""
    smooth = cv2.GaussianBlur(picture, (0, 0), sigma)
    across, down = (-cv2.Sobel(smooth, cv2.CV_32F, 2 - n, n, ksize=3) for n in (0, 2))
    slanted = cv2.Sobel(smooth, cv2.CV_32F, 1, 1, ksize=3)
    return np.asarray((across + down) / 2 - np.sqrt(((across - down) / 2) ** 2 + slanted**2))


def _peaks(picture: FloatArray, start: Matrix, within_px: float) -> Matrix:
    """(N, 2): where a smooth picture is highest near pixels (N, 2), by Newton's method on a cubic spline."""
    spline = spline_filter(picture.astype(np.float64), order=3)
    offsets = np.array([(x, y) for y in (-0.5, 0.0, 0.5) for x in (-0.5, 0.0, 0.5)])
    place = start.copy()
    for _ in range(_STEPS):
        at = _sampled(spline, place[:, None] + offsets)
        slope = np.stack([at[:, 5] - at[:, 3], at[:, 7] - at[:, 1]], axis=1)
        bend = np.empty((len(place), 2, 2))
        bend[:, 0, 0] = 4 * (at[:, 5] - 2 * at[:, 4] + at[:, 3])
        bend[:, 1, 1] = 4 * (at[:, 7] - 2 * at[:, 4] + at[:, 1])
        bend[:, 0, 1] = bend[:, 1, 0] = at[:, 8] - at[:, 6] - at[:, 2] + at[:, 0]
        peaked = (bend[:, 0, 0] < 0) & (np.linalg.det(bend) > 0)
        bend[~peaked] = -np.eye(2)
        place = place - np.clip(np.linalg.solve(bend, slope[:, :, None])[:, :, 0], -0.5, 0.5)
    place = place[peaked & (np.linalg.norm(place - start, axis=1) < within_px)]
    twice = cKDTree(place).query_pairs(1.0) if len(place) else set()  # of two pixels that are equally high
    return np.delete(place, [max(pair) for pair in twice], axis=0)


def _alike(place: Matrix, line: FloatArray, spacing_px: float) -> Matrix:
    """Those of the spots (N, 2) whose surroundings look like those of most."""
    if not len(place):
        return place
    across = np.linspace(-_WINDOW, _WINDOW, _ACROSS) * spacing_px
    window = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2)
    window = window[np.linalg.norm(window, axis=1) <= _WINDOW * spacing_px]
    smooth = cv2.GaussianBlur(line, (0, 0), 0.5 * _SPOT * spacing_px)  # noise would make all look different
    around = _sampled(spline_filter(smooth.astype(np.float64), order=3), place[:, None] + window)
    around -= around.mean(axis=1, keepdims=True)
    around /= np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-9)
    usual = np.median(around, axis=0)
    alike = around @ usual / max(float(np.linalg.norm(usual)), 1e-9)
    least = max(1 - max(_WORSE * (1 - float(np.median(alike))), _TOLERATED), _LEAST_ALIKE)
    return np.asarray(place[alike >= least])


def _sampled(spline: Matrix, place_px: Matrix) -> Matrix:
    """A filtered picture at places (..., 2)."""
    return np.asarray(map_coordinates(spline, np.moveaxis(place_px[..., ::-1], -1, 0), order=3, prefilter=False))


# --- which -----------------------------------------------------------------------------------------------------------

_NONE = np.iinfo(np.int64).min


def _named(at_px: Matrix, lattice: Lattice, spacing_px: float) -> Indices:
    """Index of every spot, _NONE of those that no neighbour expects: from one seed outwards, wave by wave."""
    tree, steps = cKDTree(at_px), lattice.steps
    seed, slope = _seed(at_px, tree, lattice, spacing_px)
    index = np.full((len(at_px), 2), _NONE)
    index[seed] = 0
    slopes = np.zeros((len(at_px), 2, 2))
    slopes[seed] = slope
    at_index = {(0, 0): seed}
    wave = [seed]
    while wave:
        expected = at_px[wave][:, None] + np.einsum("nij,kj->nki", slopes[wave], steps)
        reach = np.linalg.norm(expected - at_px[wave][:, None], axis=2)
        away, nearest = tree.query(expected)
        following: dict[int, list[int]] = {}
        for n, parent in enumerate(wave):
            for k, step in enumerate(steps):
                if away[n, k] > _STRAY * reach[n, k]:
                    continue
                spot, wanted = int(nearest[n, k]), index[parent] + step
                name = (int(wanted[0]), int(wanted[1]))
                if index[spot, 0] == _NONE and name not in at_index:
                    index[spot], at_index[name] = wanted, spot
                    following[spot] = [parent]
                elif at_index.get(name) != spot:
                    raise UnclearError("shows a lattice that contradicts itself: two ways to a hole give it two names")
                elif spot in following:
                    following[spot].append(parent)
        for spot, parents in following.items():
            slopes[spot] = slopes[parents].mean(axis=0)
        wave = list(following)
        for spot in wave:  # how far its neighbours lie, as seen, for those beyond
            slopes[spot] = _local(spot, at_px, index, at_index, steps, slopes[spot])
    return index


def _local(
    spot: int, at_px: Matrix, index: Indices, at_index: dict[tuple[int, int], int], steps: Indices, before: Matrix
) -> Matrix:
    """(2, 2) px per index around a spot, from its named neighbours where they suffice."""
    around = [(step, at_index.get((int(index[spot, 0] + step[0]), int(index[spot, 1] + step[1])))) for step in steps]
    named = [(step, other) for step, other in around if other is not None]
    if len(named) < 2:
        return before
    indices = np.array([step for step, _ in named], np.float64)
    away = at_px[[other for _, other in named]] - at_px[spot]
    # The parents' slope counts as one neighbour in every direction: two neighbours in a line say nothing across it.
    every = np.concatenate([indices, steps / 2])
    aims = np.concatenate([away, steps @ before.T / 2])
    return np.asarray(np.linalg.lstsq(every, aims, None)[0].T)


def _seed(at_px: Matrix, tree: cKDTree, lattice: Lattice, spacing_px: float) -> tuple[int, Matrix]:
    """The spot nearest to the middle whose neighbours lie as the lattice says, and px per index around it."""
    order = np.argsort(np.linalg.norm(at_px - np.median(at_px, axis=0), axis=1))
    count = len(lattice.steps)
    around = lattice.steps @ lattice.basis_mm.T / lattice.spacing_mm
    for spot in order[:400]:
        away, nearest = tree.query(at_px[spot], count + 1)
        to = at_px[nearest[1:]] - at_px[spot]
        if not (0.8 * spacing_px < away[1:].mean() < 1.25 * spacing_px):
            continue
        directions = np.arctan2(to[:, 1], to[:, 0])
        to = to[np.argsort(directions)]
        first = int(np.argmin(np.abs(np.sort(directions))))  # the first step goes to the right
        to = np.roll(to, -first, axis=0)
        slope = np.linalg.lstsq(around, to, None)[0].T
        sizes = np.linalg.svd(slope, compute_uv=False)
        regular = np.linalg.det(slope) > 0 and sizes[0] < _SHEARED * sizes[1]  # or hexagons would be sheared squares
        if regular and np.linalg.norm(to - around @ slope.T, axis=1).max() < _SEED_STRAY * spacing_px:
            return int(spot), slope @ lattice.basis_mm / lattice.spacing_mm
    raise UnclearError("shows spots, but none whose neighbours lie as the lattice and its spacing say")


def _fitted(at_px: Matrix, index: Indices, size_px: tuple[int, int], weight: Array | None = None) -> Matrix:
    """Coefficients (K, 2) of index by place."""
    rows = polynomials(at_px, size_px, _DEGREE)
    scale = 1.0 if weight is None else weight[:, None]
    return np.asarray(np.linalg.lstsq(rows * scale, index * scale, None)[0])


def _slope(found: Holes, place_px: Matrix) -> Matrix:
    """(2, 2): change of the index by px, at a place."""
    step = 2.0
    ends = np.stack([place_px + step * e for e in np.eye(2)] + [place_px - step * e for e in np.eye(2)])
    at = found.at(ends)
    return np.asarray(((at[:2] - at[2:]) / (2 * step)).T)


def _smooth(found: Holes) -> Holes:
    """Those holes that lie where a smoothly bent lattice has them.

    Raises:
        UnclearError: too many do not.
    """
    unknowns = (_DEGREE + 1) * (_DEGREE + 2) // 2
    if len(found.index) < 2 * unknowns:
        raise UnclearError(f"shows {len(found.index)} holes in a lattice, at least {2 * unknowns} are needed")
    weight = np.ones(len(found.index))
    for _ in range(5):
        coefficients = _fitted(found.at_px, found.index, found.size_px, weight)
        off = polynomials(found.at_px, found.size_px, _DEGREE) @ coefficients - found.index
        away = np.linalg.norm(off @ found.lattice.basis_mm.T, axis=1) / found.lattice.spacing_mm
        weight = 1 / (1 + (away / max(3 * float(np.median(away)), 1e-3)) ** 2)
    bad = away > _OFF_SHARE
    if bad.mean() > _MOST_OFF:
        raise UnclearError(
            f"shows a lattice that no smooth bending explains: {100 * bad.mean():.0f} % of its holes lie off"
        )
    return replace(found, at_px=found.at_px[~bad], index=found.index[~bad])
