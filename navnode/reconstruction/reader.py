"""Reading X-rays: millimetres of solid bone and of lung behind every pixel, in two dimensions and view by view.

Two pictures that are read well are most of a volume: of true thicknesses an outer product per slice makes a Dice
coefficient of 0.83 (docs/reconstruction.md). This module says what a view looks like to the network, and what its
outputs mean; :mod:`network` holds the network.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from navnode.types import FloatArray

__all__ = [
    "BONE_SCALE_MM",
    "CANVAS_PX",
    "CHANNELS",
    "LOG_SCALES",
    "LUNG_SCALE_MM",
    "OUTLINE_MM",
    "OUTPUTS",
    "reading_channels",
]

CANVAS_PX = 256
"""Views are read on a square canvas of pixels that are about a millimetre where the patient is."""
CHANNELS = 4
"""Line integrals, their detail, 1 where measured, and how large a pixel is."""
OUTPUTS = 5
"""Thickness of solid bone over :data:`BONE_SCALE_MM`, logit of its outline, logarithm of the thickness's scale
(Laplace, same unit), thickness of lung over :data:`LUNG_SCALE_MM`, logit of its outline."""
BONE_SCALE_MM, LUNG_SCALE_MM = 20.0, 60.0
OUTLINE_MM = 1.0
"""A pixel is bone or lung from this thickness on."""
LOG_SCALES = (-5.0, 1.5)

_LINE_SCALE, _MOST_LINE = 3.0, 12.0
_DETAIL_MM = 10.0


def reading_channels(line: FloatArray, measured: npt.NDArray[np.bool_], pixel_mm: float) -> FloatArray:
    """A canvas of line integrals as the network is fed, (4, H, W).

    Args:
        line: (H, W) -ln(I / I0); what is not measured does not matter.
        measured: (H, W)
        pixel_mm: of a pixel where the patient is.
    """
    known = measured.astype(np.float32)
    clean = np.where(measured, np.clip(line, -1.0, _MOST_LINE), 0).astype(np.float32)
    sigma_px = _DETAIL_MM / pixel_mm
    # Blurred over what was measured alone (normalised convolution), so that shutters make no edges.
    weight = cv2.GaussianBlur(known, (0, 0), sigma_px)
    smooth = cv2.GaussianBlur(clean, (0, 0), sigma_px) / np.maximum(weight, 1e-3)
    detail = (clean - smooth) * known
    size = np.full_like(clean, np.log(pixel_mm))
    return np.stack([clean / _LINE_SCALE, detail * 2, known, size])
