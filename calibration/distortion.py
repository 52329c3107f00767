"""What an image intensifier does to an image, and its undoing: ``ideal = raw + sum c_ij x^i y^j``.

Cushion, spiral and what a magnetic field adds are smooth; polynomials over the image describe them (Gronenschild, Med.
Phys. 26, 1999). Their parts of degree 0 and 1 are left out: a shift, a turn and a scale belong to the
C-arm's geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.types import Matrix
from navnode.xray.correction import GRID_STEP_PX

_DEGREES = {"none": 0, "poly3": 3, "poly5": 5}
MODELS = tuple(_DEGREES)


@dataclass(frozen=True)
class Distortion:
    """One model, with its coefficients."""

    model: str
    coefficients: Matrix
    """(K,) px, of the terms in :func:`terms`."""
    size_px: tuple[int, int]
    """width, height"""

    def undistorted(self, raw_px: Matrix) -> Matrix:
        """Where an ideal detector would have raw pixels (..., 2)."""
        return np.asarray(raw_px + terms(self.model, raw_px, self.size_px) @ self.coefficients)

    def distorted(self, ideal_px: Matrix) -> Matrix:
        """The inverse, by fixed point."""
        raw = np.array(ideal_px, np.float64)
        for _ in range(30):
            raw = raw - (self.undistorted(raw) - ideal_px)
        return raw

    def grid(self) -> Matrix:
        """(rows, columns, 2): undistorted places of raw pixels 0, 64, ... up to the first at or beyond the last one."""
        columns, rows = (np.arange(-(-(n - 1) // GRID_STEP_PX) + 1) * float(GRID_STEP_PX) for n in self.size_px)
        return self.undistorted(np.stack(np.meshgrid(columns, rows), axis=-1))


def unknowns(model: str) -> int:
    """How many terms a model has."""
    degree = _DEGREES[model]
    return (degree + 1) * (degree + 2) - 6 - 2 if degree else 0


def terms(model: str, raw_px: Matrix, size_px: tuple[int, int]) -> Matrix:
    """(..., 2, K): by how much each term moves u and v; x^i y^j with 2 <= i + j <= degree, x and y in -1..1 over the
    longer side. Of the terms of degree 2, those two that a turn of the C-arm and another principal point do together
    are left out, too: nothing could tell them from each other."""
    width, height = size_px
    half = (max(width, height) - 1) / 2
    x = (raw_px[..., 0] - (width - 1) / 2) / half
    y = (raw_px[..., 1] - (height - 1) / 2) / half
    none = np.zeros_like(x)
    moves = []
    if degree := _DEGREES[model]:
        moves += [(x * x, -x * y), (x * y, -y * y), (y * y, none), (none, x * x)]
        for total in range(3, degree + 1):
            for j in range(total + 1):
                part = x ** (total - j) * y**j
                moves += [(part, none), (none, part)]
    if not moves:
        return np.zeros((*x.shape, 2, 0))
    return np.stack([np.stack(move, axis=-1) for move in moves], axis=-1)
