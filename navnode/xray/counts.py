"""From detector counts to line integrals."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from navnode.types import Array, FloatArray

__all__ = [
    "SATURATION_COUNTS",
    "binned_counts",
    "blank_reason",
    "covered",
    "line_integrals",
    "open_beam_counts",
    "saturation_of",
]

SATURATION_COUNTS = 65_500
"""Counts at or above this say nothing about attenuation (16-bit detectors)."""
_LEAST_SATURATED, _CLIPPED = 1023, 0.003
"""Converters of fewer bits saturate lower: where so many pixels have the largest number of some bits, 10 or more."""

_MIN_COUNTS = 0.5
"""Stands for 0 counts: finite, and darker than any count."""


def saturation_of(counts: Array) -> float:
    """From which counts on an image (H, W) is saturated."""
    brightest = float(counts.max(initial=0))
    largest_of_some_bits = brightest >= _LEAST_SATURATED and math.log2(brightest + 1).is_integer()
    if largest_of_some_bits and np.mean(counts[::2, ::2] >= brightest) >= _CLIPPED:
        return min(brightest, SATURATION_COUNTS)
    return SATURATION_COUNTS


def open_beam_counts(counts: Array) -> float:
    """Estimate I0 from an image (H, W): its brightest unsaturated part.

    Exact where some of the detector is in the open beam; too low, by the thinnest path's attenuation,
    where the patient covers all of it. Registration does not depend on it, reconstruction does.
    """
    saturated = saturation_of(counts)
    usable = counts[counts < saturated]
    return max(1.0, float(np.percentile(usable, 99.9))) if usable.size else saturated


def binned_counts(counts: Array, factor: int) -> FloatArray:
    """Mean of ``factor`` x ``factor`` pixels, (H / factor, W / factor) float32; NaN where one is saturated."""
    height, width = counts.shape[0] // factor, counts.shape[1] // factor
    cropped = counts[: height * factor, : width * factor]
    mean: FloatArray = cv2.resize(cropped.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    saturated = cropped >= saturation_of(counts)
    if saturated.any():
        share = cv2.resize(saturated.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        mean[share > 0] = np.nan
    return mean


def line_integrals(counts: Array, i0: float, factor: int = 1, *, see_lead: bool = False) -> FloatArray:
    """-ln(I / ``i0``), (H / factor, W / factor) float32; NaN where saturated.

    Counts are averaged before the logarithm: the mean of logarithms is biased where counts are few.

    Args:
        see_lead: NaN also behind collimator and lead, which would look like the densest bone.
    """
    mean = binned_counts(counts, factor)
    line: FloatArray = np.log(np.float32(i0) / np.maximum(mean, _MIN_COUNTS))
    if see_lead:
        height, width = mean.shape
        share = _COVERED_PX / max(height, width)
        small = cv2.resize(
            np.nan_to_num(mean, nan=float(SATURATION_COUNTS)), None, fx=share, fy=share, interpolation=cv2.INTER_AREA
        )
        lead = covered(np.asarray(small, np.float32)).astype(np.uint8)
        lead = cv2.dilate(lead, np.ones((3, 3), np.uint8))  # an edge in the middle of a pixel is half as dark
        line[cv2.resize(lead, (width, height), interpolation=cv2.INTER_NEAREST) > 0] = np.nan
    return line


def blank_reason(counts: Array) -> str:
    """Why an image (H, W) shows nothing to register, or ''."""
    usable = counts[::4, ::4]
    usable = usable[usable < saturation_of(counts)]
    if usable.size < 0.2 * counts[::4, ::4].size:
        return "the image is saturated"
    low, high = np.percentile(usable, (2, 98))
    if high - low < 0.02 * max(high, 1.0) or high < 4:
        return "the image is blank"
    return ""


_COVERED_LIGHT = 0.02
"""Most light behind lead, as a share of the brightest; a patient lets as little through only in the middle."""
_COVERED_SPREAD = 3.0
"""Lead is equally dark everywhere, within this factor."""
_COVERED_STEP = 3.0
"""Brightness step at an edge of lead, as a factor; patients darken gradually."""
_COVERED_LEAST = 5.0
"""Percent of an image; a smaller area of lead is left to outlier rejection."""
_COVERED_LEAST_PX = 6
_COVERED_PX = 64
"""Covered regions are looked for at this size."""


def covered(light: FloatArray) -> npt.NDArray[np.bool_]:
    """Mask (H, W) of collimator blades and lead in a small image (about 64 x 64, any unit).

    They are dark regions that touch the image's edge and end in a step.
    """
    known = np.nan_to_num(light, nan=np.inf)
    bright = float(np.percentile(light[np.isfinite(light)], 99)) if np.isfinite(light).any() else 0.0
    lead = max(_COVERED_SPREAD * float(np.percentile(known, _COVERED_LEAST)), _COVERED_LIGHT**2 * bright)
    dark = (known < min(_COVERED_LIGHT * bright, lead)).astype(np.uint8)
    result = np.zeros(light.shape, bool)
    count, labels = cv2.connectedComponents(dark, connectivity=4)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (5, 5))
    for label in range(1, count):
        region = (labels == label).astype(np.uint8)
        framed = region.copy()
        framed[1:-1, 1:-1] = 0
        if not framed.any() or region.sum() < _COVERED_LEAST_PX:
            continue
        beside = (cv2.dilate(region, cross) > 0) & (region == 0) & np.isfinite(known)
        edge = (cv2.erode(region, cross, borderValue=1) == 0) & (region > 0)
        if beside.any() and np.median(known[beside]) > _COVERED_STEP * max(float(np.median(known[edge])), 1e-9):
            result |= cv2.dilate(region, np.ones((3, 3), np.uint8)) > 0
    return result
