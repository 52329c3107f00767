"""Distortion of an image intensifier and its correction: ``ideal = raw + sum c_ij x^i y^j``.

Cushion, spiral and the effect of magnetic fields are smooth, so polynomials over the image describe them (Gronenschild,
Med. Phys. 26, 1999). Terms of degree 0 and 1 are left out: shift, rotation and scale belong to the C-arm's geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.types import Matrix
from navnode.xray.distortion import nodes

__all__ = ["Distortion", "MODELS", "terms", "unknowns"]

_DEGREES = {"none": 0, "poly3": 3, "poly5": 5}
MODELS = tuple(_DEGREES)


@dataclass(frozen=True)
class Distortion:
    """One model with its coefficients."""

    model: str
    coefficients: Matrix
    """(K,) px, for the terms in :func:`terms`."""
    size_px: tuple[int, int]
    """width, height"""

    def undistorted(self, raw_px: Matrix) -> Matrix:
        """Ideal pixels (..., 2) of raw pixels."""
        return np.asarray(raw_px + terms(self.model, raw_px, self.size_px) @ self.coefficients)

    def distorted(self, ideal_px: Matrix) -> Matrix:
        """Raw pixels (..., 2) of ideal pixels, by fixed-point iteration."""
        raw = np.array(ideal_px, np.float64)
        for _ in range(30):
            raw = raw - (self.undistorted(raw) - ideal_px)
        return raw

    def grid(self) -> Matrix:
        """(rows, columns, 2): undistorted positions of raw pixels 0, 64, ... up to the first at or beyond the last."""
        return self.undistorted(nodes(self.size_px))


def unknowns(model: str) -> int:
    """Number of terms of a model."""
    degree = _DEGREES[model]
    return (degree + 1) * (degree + 2) - 6 - 2 if degree else 0


def terms(model: str, raw_px: Matrix, size_px: tuple[int, int]) -> Matrix:
    """(..., 2, K): shift of u and v by each term x^i y^j, 2 <= i + j <= degree, x and y in -1..1 over the longer side.

    The two terms of degree 2 that a rotation of the C-arm and a shift of the principal point produce together are left
    out, too, as the data cannot separate them.
    """
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
