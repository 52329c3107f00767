"""Pictures of an exposure that is held (last-image-hold), told from those of the next exposure."""

from __future__ import annotations

import cv2
import numpy as np

from navnode.types import Array

__all__ = ["Held", "same_exposure"]

_BLOCK_PX = 16
_LOOSE = 1.5
"""Mean squares of noise scatter by less, whatever its spectrum."""


def same_exposure(before: Array, after: Array, noise: float) -> bool:
    """Whether two pictures show one exposure: noise of capture apart, they are equal.

    Noise of capture is the same everywhere and about nothing. Another exposure changes some part by more, or has the
    larger noise of its quanta.

    Args:
        before, after: (H, W) counts or grey values, whole numbers.
        noise: standard deviation of what capture adds to each picture, in their unit; 0: nothing.
    """
    if before.shape != after.shape:
        return False
    coarse = (slice(None, None, 16),) * 2
    some = before[coarse].astype(np.float32) - after[coarse].astype(np.float32)
    allowed = 2 * noise**2 + 1 / 6  # of both pictures, and of their rounding
    # Few pixels scatter more: this only spares the rest, which takes longer.
    if (not noise and some.any()) or float(np.mean(some**2)) > 4 * _LOOSE * allowed:
        return False
    if np.array_equal(before, after):
        return True
    if not noise:
        return False
    apart = before.astype(np.float32) - after.astype(np.float32)
    if float(np.mean(apart**2)) > _LOOSE * allowed:
        return False
    height, width = before.shape
    blocks = max(1, width // _BLOCK_PX), max(1, height // _BLOCK_PX)
    means = cv2.resize(apart, blocks, interpolation=cv2.INTER_AREA)  # of noise a 16th is left in 256 pixels
    return float(np.abs(means).max()) <= max(0.5 * float(np.sqrt(allowed)), 0.5)


class Held:
    """Remembers the last exposure.

    Args:
        noise: see :func:`same_exposure`.
    """

    def __init__(self, noise: float) -> None:
        self._noise = noise
        self._last: Array | None = None

    def repeats(self, picture: Array) -> bool:
        """Whether a picture (H, W) shows the exposure before once more; one that does not is kept."""
        if self._last is not None and same_exposure(self._last, picture, self._noise):
            return True
        self._last = picture
        return False
