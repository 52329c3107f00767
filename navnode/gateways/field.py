"""Where in a display's picture the X-ray is, and what is written in it: by what changes over time, or does not."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from navnode.errors import ComputeError
from navnode.types import Array, FloatArray

__all__ = ["activity_of", "field_of", "inside_of", "shape_of", "static_in", "texts_in"]

_LEAST_ACTIVE = 1.0
"""Standard deviation over time, grey levels, below which a pixel shows no X-ray."""
_ABOVE_STATIC = 3.0
_ROUND_RESIDUAL, _ROUND_SHARE = 0.012, 0.94
_LEAST_SHARE = 0.02
"""Of a picture, that is an X-ray."""


def activity_of(pairs: Sequence[tuple[Array, Array]]) -> FloatArray:
    """How much each pixel changes over time: (H, W), grey levels.

    Args:
        pairs: pictures that follow each other, (H, W) uint8 each, from all of the time.
    """
    firsts = [first for first, _ in pairs]
    total = np.zeros(firsts[0].shape, np.float32)
    squares = np.zeros_like(total)
    for first in firsts:
        cv2.accumulate(first, total)
        cv2.accumulateSquare(first, squares)
    mean = total / len(firsts)
    return np.asarray(np.sqrt(np.maximum(squares / len(firsts) - mean * mean, 0)), np.float32)


def _threshold(activity: FloatArray) -> float:
    static = float(np.percentile(activity, 5))
    return max(_LEAST_ACTIVE, _ABOVE_STATIC * static) if static < _LEAST_ACTIVE else _LEAST_ACTIVE


def shape_of(activity: FloatArray) -> Array:
    """The largest part that changes, its holes filled, (H, W) uint8 of 0 and 1.

    Args:
        activity: (H, W) as :func:`activity_of`.

    Raises:
        ComputeError: nothing changes that could be an X-ray.
    """
    smooth = cv2.blur(activity, (5, 5))
    active = (smooth > _threshold(activity)).astype(np.uint8)
    active = cv2.erode(active, np.ones((5, 5), np.uint8))  # as far as smoothing has widened it
    active = cv2.morphologyEx(active, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(active, connectivity=4)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else 0
    if not largest or stats[largest, cv2.CC_STAT_AREA] < _LEAST_SHARE * active.size:
        raise ComputeError("nothing changes that could be an X-ray: take X-rays while it is watched")
    contours, _ = cv2.findContours((labels == largest).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(active.shape, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled


def field_of(shape: Array) -> tuple[tuple[int, int, int, int], tuple[float, float, float] | None]:
    """Region x, y, width, height (px) of the X-ray, and the round field (u, v, radius, px) within it; None: not round.

    Args:
        shape: (H, W) as :func:`shape_of`.
    """
    height, width = shape.shape
    contours, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len)[:, 0].astype(np.float64)
    x, y, w, h = (int(value) for value in cv2.boundingRect(shape))
    margin = 3
    free = (outline > margin).all(1) & (outline < np.array([width, height]) - 1 - margin).all(1)
    if free.sum() > 50:
        circle = _circle(outline[free])
        if circle is not None:
            u, v, radius = circle
            grid_v, grid_u = np.ogrid[:height, :width]
            disc = (grid_u - u) ** 2 + (grid_v - v) ** 2 <= radius**2
            overlap = float((disc & (shape > 0)).sum()) / max(1.0, float((disc | (shape > 0)).sum()))
            if overlap > _ROUND_SHARE:
                x0, y0 = max(0, int(np.floor(u - radius))), max(0, int(np.floor(v - radius)))
                x1, y1 = min(width, int(np.ceil(u + radius)) + 1), min(height, int(np.ceil(v + radius)) + 1)
                return (x0, y0, x1 - x0, y1 - y0), (u - x0, v - y0, radius)
    return (x, y, w, h), None


def _circle(points: FloatArray) -> tuple[float, float, float] | None:
    """The circle through points (N, 2), those that lie off it left out (Kasa's fit); None: they lie on none."""
    for _ in range(4):
        design = np.column_stack([2 * points, np.ones(len(points))])
        solved, *_ = np.linalg.lstsq(design, (points**2).sum(1), rcond=None)
        center = solved[:2]
        radius = float(np.sqrt(max(solved[2] + center @ center, 0)))
        off = np.abs(np.hypot(*(points - center).T) - radius)
        if radius <= 0:
            return None
        near = off <= max(2.5 * float(np.median(off)), 1.0)
        if near.all() or near.sum() < 30:
            break
        points = points[near]
    return (float(center[0]), float(center[1]), radius) if np.median(off) < _ROUND_RESIDUAL * radius else None


def inside_of(region: tuple[int, int, int, int], field_px: tuple[float, float, float] | None) -> Array:
    """The X-ray's pixels in the region, (h, w), away from its edge."""
    _, _, w, h = region
    v, u = np.ogrid[:h, :w]
    if field_px is None:
        edge = min(w, h) // 32
        return np.asarray((u >= edge) & (u < w - edge) & (v >= edge) & (v < h - edge))
    x, y, radius = field_px
    return np.asarray((u - x) ** 2 + (v - y) ** 2 < (0.96 * radius) ** 2)


def static_in(activity: FloatArray, shape: Array) -> float | None:
    """How much changes where no X-ray is, grey levels; None where all is X-ray.

    Args:
        activity, shape: (H, W) as :func:`activity_of` and :func:`shape_of`.
    """
    around = cv2.erode(1 - shape, np.ones((9, 9), np.uint8)) > 0
    return float(np.percentile(activity[around], 75)) if around.any() else None


def texts_in(activity: FloatArray, inside: Array, static: float) -> tuple[tuple[int, int, int, int], ...]:
    """Rectangles x, y, width, height (px) around what stands still within the X-ray, in the region's pixels.

    Args:
        activity, inside: (h, w) of the region.
        static: as :func:`static_in`, grey levels.
    """
    typical = float(np.median(activity[inside]))
    # What is written keeps its value, up to noise of capture; the darkest X-ray has some of its own.
    still = (activity < min(max(1.4 * static, 0.4), 0.5 * typical)) & inside
    apart = max(9, activity.shape[1] // 40) | 1
    joined = cv2.morphologyEx(
        cv2.morphologyEx(still.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)),
        cv2.MORPH_CLOSE,
        np.ones((apart, apart), np.uint8),
    )
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    found = []
    for x, y, w, h, area in stats[1:count].tolist():
        if area < 20 or w * h > 0.2 * activity.size:
            continue
        x0, y0 = max(0, x - 3), max(0, y - 3)
        found.append((x0, y0, min(activity.shape[1], x + w + 3) - x0, min(activity.shape[0], y + h + 3) - y0))
    return tuple(sorted(found, key=lambda mask: -mask[2] * mask[3])[:64])
