"""What the grey values of a picture mean that was made to be looked at: 8 bits, and of unknown gradation.

Displays and frame grabbers show a power of the counts (gamma), or their logarithm, bright where counts are many or, as
on film, where they are few. Radiographs for viewing bend the logarithm to an S (toe and shoulder, as film has them).
Which it is, and how steep, registration finds out: the right one is the one that fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

from navnode.types import Array
from navnode.xray.counts import SATURATION_COUNTS

__all__ = ["Curve", "Gradation", "is_picture"]

_WHITE = 255
_CLIPPED = 0.003
"""Share of pixels that are all as bright, or as dark, as any: above it they are clipped, and say nothing."""
_BRIGHTEST = 60_000.0
_LONG_ENDS = 6.0
"""Toe and shoulder with which an S is twice as long as what its middle shows."""
_SMALL_PX = 64


class Curve(StrEnum):
    """How grey values grow with counts."""

    POWER = "a power of the counts"
    LOGARITHM = "their logarithm"
    FILM = "their logarithm, as on film: few counts are bright"
    INVERTED = "a power of the counts, inverted"


_FIRST = {Curve.POWER: 1.0, Curve.LOGARITHM: 4.0, Curve.FILM: 4.0, Curve.INVERTED: 1.0}
_POSSIBLE = {
    Curve.POWER: (0.7, 4.0),
    Curve.LOGARITHM: (1.5, 9.0),
    Curve.FILM: (1.5, 9.0),
    Curve.INVERTED: (0.7, 4.0),
}


def is_picture(counts: Array) -> bool:
    """Whether an image (H, W) has the grey values of a display, at most 255, and not a detector's counts."""
    return bool(counts.max(initial=0) <= _WHITE)


@dataclass(frozen=True)
class Gradation:
    """One way to make counts of grey values."""

    curve: Curve
    steepness: float
    """Exponent of a power, 1 / gamma; line integral between black and white of a logarithm."""
    toe: float = 0.0
    shoulder: float = 0.0
    """How far a logarithm is bent at its dark and its bright end: logits of a logistic curve; 0: straight."""

    @classmethod
    def first(cls, curve: Curve) -> Gradation:
        """A typical one."""
        return cls(curve, _FIRST[curve])

    def corrected(self, contrast: float) -> Gradation | None:
        """The one with which a fit would find a contrast of 1 instead; None: no display is so steep, or so flat."""
        least, most = _POSSIBLE[self.curve]
        if self.toe + self.shoulder:  # an S comes to its ends only far away, and what it shows may be thin
            least, most = least / 2, most * (1 + (self.toe + self.shoulder) / _LONG_ENDS)
        steepness = self.steepness / contrast if contrast > 0 else 0.0
        return replace(self, steepness=steepness) if least <= steepness <= most else None

    def counts(self, grey: Array) -> npt.NDArray[np.uint16]:
        """Counts (H, W) of grey values 0 to 255; saturated where they are clipped, at either end."""
        levels = np.arange(_WHITE + 1) / _WHITE
        if self.dark_is_white:
            levels = 1 - levels
        if self.curve in (Curve.LOGARITHM, Curve.FILM):
            light = np.exp(-self.steepness * (1 - _straightened(levels, self.toe, self.shoulder)))
        else:
            light = np.maximum(levels, 0.5 / _WHITE) ** self.steepness
        table = np.maximum(np.round(_BRIGHTEST * light), 1).astype(np.uint16)
        table[_clipped(grey)] = SATURATION_COUNTS
        return table[np.clip(grey, 0, _WHITE).astype(np.uint8)]

    def dark_share(self, grey: Array) -> float:
        """Share of an image (H, W) in which grey values are clipped at the dark end, 0..1: lead, no field, or too much
        anatomy. Of small images, where a pixel is unknown if anything in it is."""
        clipped = (grey == self._ends(grey)[0]).astype(np.float32)
        if clipped.mean() <= _CLIPPED:
            return 0.0
        scale = min(1.0, _SMALL_PX / max(grey.shape))
        return float(np.mean(cv2.resize(clipped, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) > 0))

    @property
    def dark_is_white(self) -> bool:
        """Whether few counts are bright."""
        return self.curve in (Curve.FILM, Curve.INVERTED)

    def _ends(self, grey: Array) -> tuple[int, int]:
        """The grey values of the fewest and of the most counts."""
        ends = int(grey.min()), int(grey.max())
        return ends[::-1] if self.dark_is_white else ends


def _clipped(grey: Array) -> list[int]:
    """Grey values at the ends of those of a picture (H, W) that too many pixels have."""
    return [int(end) for end in {grey.min(), grey.max()} if np.mean(grey[::2, ::2] == end) > _CLIPPED]


def _straightened(levels: npt.NDArray[np.float64], toe: float, shoulder: float) -> npt.NDArray[np.float64]:
    """Shares of the way from black to white, 0..1, of levels 0..1 that an S shows them by."""
    if toe + shoulder == 0:
        return levels
    black, white = 1 / (1 + np.exp(toe)), 1 / (1 + np.exp(-shoulder))
    shown = black + (white - black) * levels
    straight: npt.NDArray[np.float64] = (np.log(shown / (1 - shown)) + toe) / (toe + shoulder)
    return straight
