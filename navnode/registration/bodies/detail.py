"""Whether the detail of an image is that of a body, whatever else is there."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from navnode.registration.appearance import Appearance, Observed, modelled
from navnode.registration.bodies.body import Shadow
from navnode.types import FloatArray

__all__ = ["LIKELY", "added", "likenesses"]

LIKELY = 0.78
"""Likeness from which on a body is believed. Bones at their places reach 0.8 and more where they are shown, those of
mirrored CTs at most 0.6 in the less like of two views, others 0.64 in one."""

_DETAIL = 0.06
"""Share of an image's width; what is wider is no detail."""
_FEWEST_PX = 15
_MEDIAN_CHI2, _OF_DIFFERENCES = 0.4549, 6.0
"""Median of a squared standard normal; variance of second differences of one."""
_LEAST_SIGNAL = 0.4
"""Share of an image's detail that is taken for more than noise, at least."""


def added(rest: FloatArray, shadows: Sequence[Shadow | None]) -> FloatArray:
    """Line integrals (H, W) of everything.

    Args:
        rest: (H, W), of all but the bodies.
    """
    total = rest.copy()
    for shadow in shadows:
        if shadow is not None:
            total[shadow.part] += shadow.line
    return total


def likenesses(
    observed: Observed, rest: FloatArray, shadows: Sequence[Shadow | None], appearance: Appearance
) -> list[float]:
    """Correlation of each body's detail with what the image has beyond all else, corrected for counting noise, -1..1.

    NaN: it is not in the picture.

    Args:
        observed: all pixels of the image.
        rest: (H, W), line integrals of all but the bodies.
        appearance: as fitted to all of that, at these pixels.
    """
    total = added(rest, shadows)
    seen = -np.log(observed.counts).reshape(total.shape)
    whole = modelled(observed, total.ravel(), appearance).reshape(total.shape)
    trust = observed.trust.reshape(total.shape)
    width_px = round(_DETAIL * max(total.shape)) // 2 * 2 + 1
    found = []
    for shadow in shadows:
        if shadow is None or shadow.hit.sum() < _FEWEST_PX:
            found.append(float("nan"))
            continue
        around = _grown(shadow.part, width_px)
        others = total.copy()
        others[shadow.part] -= shadow.line
        without = modelled(observed, others.ravel(), appearance, total.ravel()).reshape(total.shape)
        weight = np.zeros(total.shape, np.float32)
        weight[shadow.part] = trust[shadow.part] * shadow.hit
        there, this, used = (
            _detail((whole - without)[around], width_px),
            _detail((seen - without)[around], width_px),
            weight[around],
        )
        noise = _noise2((seen - whole)[shadow.part], shadow.hit) * float(used.sum())
        energy = float((used * this**2).sum())
        size = max(energy - noise, _LEAST_SIGNAL * energy) * float((used * there**2).sum())
        found.append(float((used * this * there).sum()) / max(np.sqrt(size), 1e-9))
    return found


def _grown(part: tuple[slice, slice], by_px: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(span.start - by_px, 0), span.stop + by_px) for span in part)
    return rows, columns


def _noise2(left: FloatArray, hit: npt.NDArray[np.bool_]) -> float:
    """Variance of white noise in what a fit has left, (h, w): of second differences, which pass little else."""
    differences = left[:, :-2] - 2 * left[:, 1:-1] + left[:, 2:]
    there = differences[hit[:, 1:-1]]
    return float(np.median(there**2)) / _MEDIAN_CHI2 / _OF_DIFFERENCES if there.size else 0.0


def _detail(image: FloatArray, width_px: int) -> FloatArray:
    return np.asarray(image - cv2.blur(image, (width_px, width_px)), np.float32)
