"""What the grey values of a picture mean that was made to be looked at: 8 bits, and of unknown gradation.

Displays and frame grabbers show a power of the counts (gamma), or their logarithm, bright where counts are many or, as
on film, where they are few. Which it is, and how steep, registration finds out: the right one is the one that fits.
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

    @classmethod
    def first(cls, curve: Curve) -> Gradation:
        """A typical one."""
        return cls(curve, _FIRST[curve])

    def corrected(self, contrast: float) -> Gradation | None:
        """The one with which a fit would find a contrast of 1 instead; None: no display is so steep, or so flat."""
        least, most = _POSSIBLE[self.curve]
        steepness = self.steepness / contrast if contrast > 0 else 0.0
        return replace(self, steepness=steepness) if least <= steepness <= most else None

    def counts(self, grey: Array) -> npt.NDArray[np.uint16]:
        """Counts (H, W) of grey values 0 to 255; saturated where they are clipped, at either end."""
        levels = np.arange(_WHITE + 1) / _WHITE
        if self._dark_is_white:
            levels = 1 - levels
        if self.curve in (Curve.LOGARITHM, Curve.FILM):
            light = np.exp(-self.steepness * (1 - levels))
        else:
            light = np.maximum(levels, 0.5 / _WHITE) ** self.steepness
        table = np.maximum(np.round(_BRIGHTEST * light), 1).astype(np.uint16)
        table[[end for end in self._ends(grey) if np.mean(grey[::2, ::2] == end) > _CLIPPED]] = SATURATION_COUNTS
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
    def _dark_is_white(self) -> bool:
        return self.curve in (Curve.FILM, Curve.INVERTED)

    def _ends(self, grey: Array) -> tuple[int, int]:
        """The grey values of the fewest and of the most counts."""
        ends = int(grey.min()), int(grey.max())
        return ends[::-1] if self._dark_is_white else ends
