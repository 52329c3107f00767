"""Inputs and outputs of the network that reads X-rays: millimetres of solid bone and of lung behind every pixel.

Each view is read on its own, in two dimensions. Two views read well make up most of a volume: from true thicknesses, an
outer product per slice reaches a Dice coefficient of 0.83 (docs/reconstruction.md). :mod:`network` holds the network.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from navnode.types import FloatArray

__all__ = [
    "BONE_KINDS",
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
"""Views are read on a square canvas whose pixels are about a millimetre at the patient."""
CHANNELS = 4
"""Line integrals, their detail, 1 where measured, and the logarithm of the pixel size."""
BONE_KINDS = ("femur", "tibia", "fibula", "patella", "pelvis", "other")
"""Kinds of bone that are told apart; ``other`` is every other bone."""
OUTPUTS = 5 + len(BONE_KINDS)
"""Thickness of solid bone over :data:`BONE_SCALE_MM`, logit of its outline, logarithm of the thickness's scale
(Laplace, same unit), thickness of lung over :data:`LUNG_SCALE_MM`, logit of its outline; of each of
:data:`BONE_KINDS`, the logarithm of its share of the thickness of bone, up to a constant per pixel."""
BONE_SCALE_MM, LUNG_SCALE_MM = 20.0, 60.0
OUTLINE_MM = 1.0
"""From this thickness on, a pixel counts as bone or lung."""
LOG_SCALES = (-5.0, 1.5)

_LINE_SCALE, _MOST_LINE = 3.0, 12.0
_DETAIL_MM = 10.0


def reading_channels(line: FloatArray, measured: npt.NDArray[np.bool_], pixel_mm: float) -> FloatArray:
    """The network's input for a canvas of line integrals, (4, H, W).

    Args:
        line: (H, W) -ln(I / I0); ignored where nothing was measured.
        measured: (H, W)
        pixel_mm: pixel size at the patient.
    """
    known = measured.astype(np.float32)
    clean = np.where(measured, np.clip(line, -1.0, _MOST_LINE), 0).astype(np.float32)
    sigma_px = _DETAIL_MM / pixel_mm
    # Blur over measured pixels alone (normalised convolution), so that shutters make no edges.
    weight = cv2.GaussianBlur(known, (0, 0), sigma_px)
    smooth = cv2.GaussianBlur(clean, (0, 0), sigma_px) / np.maximum(weight, 1e-3)
    detail = (clean - smooth) * known
    size = np.full_like(clean, np.log(pixel_mm))
    return np.stack([clean / _LINE_SCALE, detail * 2, known, size])
