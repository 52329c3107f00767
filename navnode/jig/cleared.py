"""A picture without the jig's beads, as it would be without the jig."""

from __future__ import annotations

import cv2
import numpy as np

from navnode import geometry as g
from navnode.jig.layout import Jig
from navnode.jig.located import Located
from navnode.types import Array

__all__ = ["without_beads"]

_WIDER, _BLUR_PX = 1.15, 1.5
_INPAINTED_PX = 3.0


def without_beads(counts: Array, located: Located, jig: Jig) -> Array:
    """Fill the shadows of the jig's beads from what is around them.

    All beads of the jig are taken out, also those that were not found: bone may hide them from detection.

    Args:
        counts: the picture (H, W) that was located, in counts or grey values; also where it is mirrored.

    Returns:
        (H, W) of the same type; the picture itself where it was not located.
    """
    if not located.beads:
        return counts
    carm, carm_from_jig = located.carm, g.inverse(located.jig_from_carm)
    at = g.project(carm, carm_from_jig, jig.positions_mm)
    depth_mm = g.transform(carm_from_jig, jig.positions_mm)[:, 2]
    if located.mirrored:
        at[:, 0] = carm.width_px - 1 - at[:, 0]
    radii = jig.diameter_mm / 2 * located.focal_px / depth_mm * _WIDER + _BLUR_PX
    mask = np.zeros(counts.shape, np.uint8)
    for (u, v), radius in zip(at, radii, strict=True):
        if not np.isfinite((u, v, radius)).all() or max(abs(u), abs(v)) > 1e5:
            continue
        cv2.circle(mask, (round(16 * u), round(16 * v)), round(16 * radius), 255, cv2.FILLED, shift=4)
    filled = cv2.inpaint(np.asarray(counts, np.float32), mask, _INPAINTED_PX, cv2.INPAINT_NS)
    if np.issubdtype(counts.dtype, np.integer):
        limits = np.iinfo(counts.dtype)
        filled = np.clip(np.round(filled), limits.min, limits.max)
    return np.where(mask > 0, filled, counts).astype(counts.dtype)
