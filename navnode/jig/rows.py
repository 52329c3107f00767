"""Rows of a jig's beads among the spots of a picture: straight lines whose spacings are those of a row.

A row's picture is the row through a projective map of one dimension, whatever the geometry. Four points keep their
cross-ratio through it; more must fit the map.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from navnode.jig.layout import Jig
from navnode.types import Matrix

IntArray = npt.NDArray[np.intp]

__all__ = ["RowGuess", "row_guesses"]

_MOST_LINES, _MOST_ON_LINE = 150, 12
_LEAST_ON_LINE = 4
_MOST_STEEP = 0.3
"""Largest change of depth along half a row, as a share of the distance."""
_PER_LINE = 6
_LEAST_LENGTH = 0.08
"""Of a line, as a share of the picture's larger side."""


@dataclass(frozen=True)
class RowGuess:
    """Spots that may be a row's beads."""

    spots: tuple[int, ...]
    beads: tuple[int, ...]
    """Of the jig, one for each spot."""
    off: float
    """rms distance from the map, in units of the tolerance."""


def row_guesses(at_px: Matrix, size_px: float, jig: Jig, sigma_px: float, most: int) -> list[RowGuess]:
    """The likeliest rows, those with the most beads first.

    Args:
        at_px: (N, 2) spots.
        size_px: the picture's larger side.
        sigma_px: how far a spot may be from its bead, 1-sigma.
    """
    table, rows = _table(jig)
    tolerance = 3.0 * sigma_px
    guesses: list[RowGuess] = []
    for members in _lines(at_px, tolerance, _LEAST_LENGTH * size_px):
        guesses += _on_line(at_px, members, jig, table, rows, sigma_px)
    guesses.sort(key=lambda guess: (-len(guess.spots), guess.off))
    unique = {(guess.spots, guess.beads): guess for guess in reversed(guesses)}
    return sorted(unique.values(), key=lambda guess: (-len(guess.spots), guess.off))[:most]


def _table(jig: Jig) -> tuple[Matrix, IntArray]:
    """Cross-ratios (K,) of the quadruples of beads of every row, and the beads (K, 4)."""
    quads = np.array([quad for row in jig.rows for quad in itertools.combinations(row, 4)])
    return _cross_ratio(jig.positions_mm[quads, 2]), quads


def _cross_ratio(x: Matrix) -> Matrix:
    """Of (..., 4) in order; the same in reverse order."""
    return np.asarray(
        (x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) / ((x[..., 2] - x[..., 1]) * (x[..., 3] - x[..., 0]))
    )


def _lines(at_px: Matrix, tolerance_px: float, least_px: float) -> list[IntArray]:
    """Indices of the spots of straight lines, from end to end; those with the most spots first."""
    first, second = np.triu_indices(len(at_px), 1)
    along = at_px[second] - at_px[first]
    length = np.linalg.norm(along, axis=1)
    long = length >= least_px
    first, second, along, length = first[long], second[long], along[long], length[long]
    along = along / length[:, None]
    normal = np.column_stack([-along[:, 1], along[:, 0]])
    off = at_px @ normal.T - (at_px[first] * normal).sum(axis=1)  # (N, lines)
    place = at_px @ along.T - (at_px[first] * along).sum(axis=1)
    on = (np.abs(off) <= tolerance_px) & (place >= -1e-6) & (place <= length + 1e-6)
    counts = on.sum(axis=0)
    order = [n for n in np.lexsort((-length, -counts)) if counts[n] >= _LEAST_ON_LINE]
    kept: list[IntArray] = []
    seen: list[set[int]] = []
    for n in order:
        members = np.flatnonzero(on[:, n])
        as_set = set(members.tolist())
        if any(as_set <= other for other in seen):
            continue
        seen.append(as_set)
        kept.append(np.asarray(members[np.argsort(place[members, n])]))
        if len(kept) == _MOST_LINES:
            break
    return kept


def _on_line(
    at_px: Matrix, members: IntArray, jig: Jig, table: Matrix, quads: IntArray, sigma_px: float
) -> list[RowGuess]:
    """Rows that some of the spots of one line may be."""
    if len(members) > _MOST_ON_LINE:
        members = members[np.unique(np.linspace(0, len(members) - 1, _MOST_ON_LINE).round().astype(int))]
    points = at_px[members]
    direction = points[-1] - points[0]
    t = (points - points[0]) @ direction / np.linalg.norm(direction)
    scale = float(t[-1])
    four = np.array(list(itertools.combinations(range(len(t)), 4)))
    seen = t[four]
    closest = np.diff(seen, axis=1).min(axis=1)
    four, seen = four[closest > 4 * sigma_px], seen[closest > 4 * sigma_px]
    if not len(four):
        return []
    ratio = _cross_ratio(seen)
    # A cross-ratio is a product of four differences: its relative error is that of each of them.
    gaps = np.stack(
        [seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1], seen[:, 2] - seen[:, 1], seen[:, 3] - seen[:, 0]]
    )
    allowed = 3.0 * sigma_px * ratio * np.sqrt((2 / gaps**2).sum(axis=0))
    k, q = np.nonzero(np.abs(ratio[:, None] - table[None]) <= allowed[:, None])
    guesses = []
    for flipped in (False, True):
        z = jig.positions_mm[quads[q], 2] / 100.0
        z = z[:, ::-1] if flipped else z
        s = seen[k] / scale
        design = np.stack([z, np.ones_like(z), -z * s], axis=2)
        normal = np.swapaxes(design, 1, 2) @ design + 1e-12 * np.eye(3)
        a, b, c = np.linalg.solve(normal, np.swapaxes(design, 1, 2) @ s[:, :, None])[:, :, 0].T
        half = jig.length_mm / 200.0
        for n in np.flatnonzero(np.abs(c) * half <= _MOST_STEEP):
            row = next(row for row in jig.rows if quads[q[n]][0] in row)
            along = jig.positions_mm[list(row), 2] / 100.0
            expected = scale * (a[n] * along + b[n]) / (1 + c[n] * along)
            off = np.abs(expected[:, None] - t[None])
            near = off.argmin(axis=1)
            good = np.flatnonzero(off[np.arange(len(row)), near] <= 3 * sigma_px)
            if len(good) < 4 or len(set(near[good])) < len(good):
                continue
            rms = float(np.sqrt(np.mean(off[good, near[good]] ** 2))) / (3 * sigma_px)
            guesses.append(RowGuess(tuple(members[near[good]].tolist()), tuple(row[i] for i in good), rms))
    guesses.sort(key=lambda guess: (-len(guess.spots), guess.off))
    return guesses[:_PER_LINE]
