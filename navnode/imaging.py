"""From detector counts to line integrals."""

from __future__ import annotations

import cv2
import numpy as np

from navnode.types import Array, FloatArray

SATURATION_COUNTS = 65_500
"""At or above this a 16-bit detector says nothing about attenuation."""

_MIN_COUNTS = 0.5
"""A pixel that saw nothing: finite, and as dark as the detector can tell."""


def open_beam_counts(counts: Array) -> float:
    """I0 as the image itself suggests: its brightest unsaturated part.

    Exact where some of the detector is in the open beam; too low, by the thinnest path's attenuation,
    where the patient covers all of it. Registration does not depend on it, reconstruction does.
    """
    usable = counts[counts < SATURATION_COUNTS]
    return max(1.0, float(np.percentile(usable, 99.9))) if usable.size else float(SATURATION_COUNTS)


def binned_counts(counts: Array, factor: int) -> FloatArray:
    """Mean counts of ``factor`` x ``factor`` pixels, float32; NaN where one of them is saturated."""
    height, width = counts.shape[0] // factor, counts.shape[1] // factor
    cropped = counts[: height * factor, : width * factor]
    mean: FloatArray = cv2.resize(cropped.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    saturated = cropped >= SATURATION_COUNTS
    if saturated.any():
        share = cv2.resize(saturated.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        mean[share > 0] = np.nan
    return mean


def line_integrals(counts: Array, i0: float, factor: int = 1) -> FloatArray:
    """-ln(I / I0), (H / factor, W / factor) float32; NaN where saturated.

    Counts are averaged before the logarithm: the mean of logarithms is biased where counts are few.
    """
    mean = binned_counts(counts, factor)
    line: FloatArray = np.log(np.float32(i0) / np.maximum(mean, _MIN_COUNTS))
    return line


def blank_reason(counts: Array) -> str:
    """Why an image cannot be registered to anything, or ''."""
    usable = counts[::4, ::4]
    usable = usable[usable < SATURATION_COUNTS]
    if usable.size < 0.2 * counts[::4, ::4].size:
        return "the image is saturated"
    low, high = np.percentile(usable, (2, 98))
    if high - low < 0.02 * max(high, 1.0) or high < 4:
        return "the image is blank"
    return ""
