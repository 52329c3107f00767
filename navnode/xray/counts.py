"""From detector counts to line integrals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

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


def binned_counts(counts: Array, factor: int, saturated: float | None = None) -> FloatArray:
    """Mean of ``factor`` x ``factor`` pixels, (H / factor, W / factor) float32; NaN where one is saturated.

    Args:
        saturated: from which counts on it is; default: :func:`saturation_of` the image.
    """
    height, width = counts.shape[0] // factor, counts.shape[1] // factor
    cropped = counts[: height * factor, : width * factor]
    mean: FloatArray = cv2.resize(cropped.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    bright = cropped >= (saturation_of(counts) if saturated is None else saturated)
    if bright.any():
        share = cv2.resize(bright.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
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
        size = max(1, round(width * share)), max(1, round(height * share))
        small = cv2.resize(np.nan_to_num(mean, nan=float(SATURATION_COUNTS)), size, interpolation=cv2.INTER_AREA)
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
_COVERED_EVEN, _COVERED_FRAME = 1.6, 0.75
"""What surrounds a field within the patient: lead, so equally dark, as a factor, and along so large a share of
the image's edge. Without any open beam in the image, what scatters behind lead is no small share of the brightest."""
_COVERED_LEAST_PX = 6
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (5, 5))
_COVERED_PX = 64
"""Covered regions are looked for at this size."""


_BLADE_STEP, _BLADE_CHORD, _BLADE_DARK, _BLADE_EVEN = 0.5, 0.85, 90.0, 70.0
"""Least fall of the logarithm at a blade's edge; share of the edge that shows it; percentile of what is beyond that is
darker than the edge's inner side; percentile up to which it is equally dark, as lead is and a patient is not."""
_GAP_PX, _GAP_LIKE = (6.0, 8.0, 10.0, 12.0, 14.0), 0.4
"""How far inside an edge a band of light may end; within which logarithm its other side is like what is beyond, at two
of these in turn: a patient who darkens passes lead's grey once."""
_ANGLES, _SAMPLES, _SAMPLE_PX, _EDGE_PX, _LEAST_INSIDE = 48, 40, 0.5, 1.6, 0.12
"""Directions and pixels of a line that are tried; their least distance; how far from an edge its sides are looked at;
offset from the middle, as a share of the width."""


@cache
def _chords(height: int, width: int) -> tuple[Array, Array, Array]:
    """Lines across an image, in every direction: pixels on their inner and outer sides (2, lines, samples), index into
    the flattened image; angle of the outward normal, and offset from the middle, (lines,)."""
    along = np.arange(-max(height, width), max(height, width), _SAMPLE_PX)
    every_px = np.arange(_LEAST_INSIDE * width, 0.72 * max(height, width), 1.0)
    sides, angles, offsets_px = [], [], []
    for angle in np.arange(_ANGLES) * (2 * np.pi / _ANGLES):
        for offset_px in every_px:
            normal = np.array([[offset_px - _EDGE_PX], [offset_px + _EDGE_PX]])
            u = width / 2 + normal * np.cos(angle) - along * np.sin(angle)
            v = height / 2 + normal * np.sin(angle) + along * np.cos(angle)
            inside = ((u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)).all(axis=0)
            if inside.sum() * _SAMPLE_PX < width / 4:
                continue
            within = np.flatnonzero(inside)
            samples = within[np.linspace(0, len(within) - 1, _SAMPLES).round().astype(int)]
            sides.append((np.rint(v) * width + np.rint(u))[:, samples].astype(np.intp))
            angles.append(angle)
            offsets_px.append(offset_px)
    chosen = np.array(sides, np.intp).reshape(-1, 2, _SAMPLES)  # none, of a sliver
    return np.ascontiguousarray(chosen.swapaxes(0, 1)), np.array(angles), np.array(offsets_px)


def covered(light: FloatArray) -> npt.NDArray[np.bool_]:
    """Mask (H, W) of collimator blades and lead in a small image (about 64 x 64, any unit).

    They are dark regions that touch the image's edge and end in a step.
    """
    known = np.nan_to_num(light, nan=np.inf)
    bright = float(np.percentile(light[np.isfinite(light)], 99)) if np.isfinite(light).any() else 0.0
    lead = max(_COVERED_SPREAD * float(np.percentile(known, _COVERED_LEAST)), _COVERED_LIGHT**2 * bright)
    result = np.zeros(light.shape, bool)
    for region in _framed_regions(known < min(_COVERED_LIGHT * bright, lead)):
        if region.sum() >= _COVERED_LEAST_PX and _ends_in_a_step(known, region):
            result |= cv2.dilate(region, np.ones((3, 3), np.uint8)) > 0
    for region in _framed_regions(known < _COVERED_SPREAD * float(np.percentile(known, _COVERED_LEAST))):
        inner = cv2.erode(region, _CROSS, borderValue=1) > 0
        if not inner.any() or _frame_of(region).mean() < _COVERED_FRAME or not _ends_in_a_step(known, region):
            continue
        darkest, brightest = np.percentile(known[inner], (5, 95))
        if brightest < _COVERED_EVEN * max(darkest, 1e-9):
            result |= cv2.dilate(region, np.ones((3, 3), np.uint8)) > 0
    return result | _behind_blades(known)


def _framed_regions(dark: npt.NDArray[np.bool_]) -> Iterator[npt.NDArray[np.uint8]]:
    """Masks (H, W), 0 or 1, of the connected parts of a mask (H, W) that touch the image's edge."""
    _, labels = cv2.connectedComponents(dark.astype(np.uint8), connectivity=4)
    framed = np.unique(_frame_of(labels))
    for label in framed[framed > 0]:
        yield (labels == label).astype(np.uint8)


def _frame_of(image: Array) -> Array:
    """The pixels at the edge of an image (H, W)."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def _ends_in_a_step(known: FloatArray, region: npt.NDArray[np.uint8]) -> bool:
    """Whether what lies beside a region (H, W) is much brighter than its edge."""
    beside = (cv2.dilate(region, _CROSS) > 0) & (region == 0) & np.isfinite(known)
    edge = (cv2.erode(region, _CROSS, borderValue=1) == 0) & (region > 0)
    if not beside.any():
        return False
    return bool(np.median(known[beside]) > _COVERED_STEP * max(float(np.median(known[edge])), 1e-9))


def _behind_blades(light: FloatArray) -> npt.NDArray[np.bool_]:
    """Mask (H, W) of what lies beyond straight edges that cross the image from side to side, and is dark all over.

    A collimator's blades, at any angle, also where a patient lets hardly more light through than lead does.
    """
    height, width = light.shape
    result = np.zeros(light.shape, bool)
    log_light = np.log(np.clip(light, 1e-6, None, dtype=np.float32))
    finite = np.isfinite(log_light)
    if not finite.all():
        log_light = np.where(finite, log_light, log_light[finite].max(initial=0.0))
    darkest = float(np.percentile(log_light, 99)) + 2 * np.log(_COVERED_LIGHT)
    sides, angles, offsets_px = _chords(height, width)
    flat = log_light.ravel()
    inner = flat[sides[0]]
    step = inner - flat[sides[1]]
    stands = np.count_nonzero(step > _BLADE_STEP, axis=1) >= _BLADE_CHORD * step.shape[1]
    for angle in np.unique(angles[stands]):
        for at in np.flatnonzero(stands & (angles == angle)):  # the innermost of parallel edges first
            v, u = np.mgrid[:height, :width]
            beyond = (u - width / 2) * np.cos(angle) + (v - height / 2) * np.sin(angle) > offsets_px[at]
            edge = float(np.median(inner[at]))
            if not np.median(step[at]) > 1.5 * _BLADE_STEP:
                continue
            least, most, brightest = np.percentile(log_light[beyond], (_COVERED_LEAST, _BLADE_EVEN, _BLADE_DARK))
            even = most < max(least + np.log(_COVERED_SPREAD), darkest)
            if even and brightest < edge - _BLADE_STEP:
                if not _is_gap(log_light, float(angle), float(offsets_px[at])):
                    result |= beyond
                break
    return result


def _is_gap(log_light: FloatArray, angle: float, offset_px: float) -> bool:
    """Whether an edge is one side of a band of light whose other side is as dark as what is beyond.

    Nothing covers a patient who parted, or is bent apart, along a line: muscle is as even as lead, and what lies beyond
    a gap must be explained. Lead beside a strip of light is seldom as dark as the patient on the strip's other side.
    """
    height, width = log_light.shape
    along = np.arange(-max(height, width), max(height, width), 1.0)

    def profile(at_px: float) -> FloatArray:
        u = np.rint(width / 2 + at_px * np.cos(angle) - along * np.sin(angle)).astype(int)
        v = np.rint(height / 2 + at_px * np.sin(angle) + along * np.cos(angle)).astype(int)
        within = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        return np.where(within, log_light[v.clip(0, height - 1), u.clip(0, width - 1)], np.nan)

    beyond = profile(offset_px + 2 * _EDGE_PX)
    differ = np.abs(np.stack([profile(offset_px - depth_px) for depth_px in _GAP_PX]) - beyond)
    seen = np.isfinite(differ)
    if (np.count_nonzero(seen, axis=1) < _SAMPLES / 4).any():
        return False
    like = np.nanmedian(differ, axis=1) < _GAP_LIKE
    return bool((like[:-1] & like[1:]).any())
