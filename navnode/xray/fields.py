"""Pictures of two fields: interlaced video shows every other row a moment later."""

from __future__ import annotations

import cv2
import numpy as np

from navnode.types import Array, FloatArray
from navnode.xray.gradation import is_picture

__all__ = ["fields_apart_px", "one_moment"]

_MOVED_PX = 0.5
"""Nearer fields are taken for one moment: of several hundred pictures of one, none seemed farther apart than 0.22."""
_SMOOTH_PX = 4.0
"""Along the rows: fields are some pixels apart, and noise has no place."""
_STRONGEST = 6.0
"""Grey values per pixel, smoothed; more is text or a frame, which is drawn into both fields."""


def one_moment(counts: Array) -> Array:
    """The earlier field of a picture (H, W) whose fields show something that moved in between, its rows filled in; any
    other image as it is."""
    if not is_picture(counts) or fields_apart_px(counts) <= _MOVED_PX:
        return counts
    between = 0.5 * (counts[:-2:2].astype(np.float32) + counts[2::2])
    filled = counts.copy()
    filled[1:-1:2] = np.rint(between[: len(filled[1:-1:2])])
    return filled


def fields_apart_px(grey: Array) -> float:
    """How far the odd rows of a picture (H, W), grey values 0 to 255, show everything beside where the even ones do,
    along the rows.

    Least squares over the whole picture of what the mean of two even rows lacks of the odd one between them, as a shift
    along their gradient (Lucas and Kanade, IJCAI 1981). An edge, however slanted, of a picture of one moment gives 0.
    """
    rows = (len(grey) - 1) // 2
    if rows < 1 or grey.shape[1] < 3:
        return 0.0
    even, odd = (_smooth(grey[row::2]) for row in (0, 1))
    between = 0.5 * (even[:rows] + even[1 : rows + 1])
    lacking = (odd[:rows] - between)[:, 1:-1]
    gradient = 0.5 * (between[:, 2:] - between[:, :-2])
    plain = np.abs(gradient) < _STRONGEST
    power = float(np.sum(gradient * gradient, where=plain))
    return abs(float(np.sum(gradient * lacking, where=plain))) / max(power, 1e-6)


def _smooth(rows: Array) -> FloatArray:
    smooth: FloatArray = cv2.GaussianBlur(rows.astype(np.float32), (0, 0), sigmaX=_SMOOTH_PX, sigmaY=1e-3)
    return smooth
