"""A likeness for what is explained in part: edges, each of which counts about the same.

Where a body is all that is known of an image, whatever else it shows (soft tissue, other bones, metal, a gamma, a
logarithm, a shutter) is no error of the pose. So edges are compared rather than grey values, and compressed: beyond the
usual strength around it, an edge's direction counts, not its strength.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from navnode.types import Array, CArm, FloatArray, Matrix
from navnode.xray.counts import covered

__all__ = ["Picture", "compressed", "edges", "soft_limit"]

_BLUR_PX = 0.8
_WIDE_PX = 31
"""Pixels around a pixel whose edges are usual there."""
_SOFT = 0.35
"""Edges weaker than this times the usual ones count less."""
_EIGHT_BITS = 255
_DARK_GREY = 6
"""Of eight bits: up to here is a shutter, or outside of a round field."""
_SHUT_PX = 64
"""Shutters are looked for at this size."""
_FLOORS = (2.0, 1e-3)
"""What is added before the logarithm: grey values of eight bits, share of the brightest of more bits."""


_ROUGH = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True)
class Picture:
    """An X-ray at one level of the pyramid."""

    carm: CArm
    world_from_carm: Matrix
    edges: FloatArray
    """(2, H, W), compressed: along u and v."""
    seen: npt.NDArray[np.bool_]
    """(H, W), no shutter."""
    noise: FloatArray
    """(H, W), expected square of the compressed edges that noise alone makes."""

    def without(self, explained: FloatArray) -> Picture:
        """The X-ray with edges (2, H, W), compressed, taken off."""
        return Picture(self.carm, self.world_from_carm, self.edges - explained, self.seen, self.noise)

    @classmethod
    def of(cls, counts: Array, carm: CArm, world_from_carm: Matrix, binning: int) -> Picture:
        """The X-ray with ``binning`` x ``binning`` pixels averaged.

        Args:
            counts: (H, W), proportional to the dose, or grey values that grow with it.
        """
        height, width = (n // binning * binning for n in counts.shape)
        size = (width // binning, height // binning)
        whole = np.ascontiguousarray(counts[:height, :width]).astype(np.float32)
        small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
        brightest = max(float(np.percentile(small, 99.9)), 1.0)
        if counts.dtype == np.uint8 or whole.max() <= _EIGHT_BITS:
            lit = cv2.resize((whole > _DARK_GREY).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
            floor = _FLOORS[0]
        else:
            lit, floor = ~_shut(small), _FLOORS[1] * brightest
        seen = cv2.erode(lit.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
        line = -np.log(np.maximum(small, 0) + np.float32(floor))
        found = edges(line)
        found[:, ~seen] = 0
        sharp, strength = compressed(found, soft_limit(found, seen))
        return cls(carm.binned(binning), world_from_carm, sharp, seen, _noise(line) / strength**2)


def _shut(small: FloatArray) -> npt.NDArray[np.bool_]:
    """(H, W), behind a shutter."""
    height, width = small.shape
    share = min(1.0, _SHUT_PX / max(height, width))
    lead = covered(cv2.resize(small, None, fx=share, fy=share, interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(lead.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _noise(line: FloatArray) -> FloatArray:
    """Expected square (H, W) of the gradient of noise, estimated by a difference of Laplacians that structure hardly
    excites (Immerkaer, Comput. Vis. Image Underst. 64:300, 1996)."""
    rough = cv2.filter2D(line, cv2.CV_32F, _ROUGH, borderType=cv2.BORDER_REPLICATE) ** 2
    size = (_WIDE_PX, _WIDE_PX)
    variance = cv2.blur(np.minimum(rough, 4 * cv2.blur(rough, size)), size)  # an edge in the window counts little
    return np.asarray(variance * np.float32(_NOISE_GAIN / float((_ROUGH**2).sum())))


def edges(line: FloatArray) -> FloatArray:
    """Gradient (..., 2, H, W) per pixel of line integrals (..., H, W), slightly smoothed."""
    if line.ndim > 2:
        return np.stack([edges(each) for each in line])
    smooth = cv2.GaussianBlur(line, (0, 0), _BLUR_PX)
    return np.stack([cv2.Scharr(smooth, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1))])


def soft_limit(found: FloatArray, mask: Array) -> FloatArray:
    """Strength (H, W) at which edges are weak there: a share of the usual strength in the mask around."""
    weight = mask.astype(np.float32)
    size = (_WIDE_PX, _WIDE_PX)
    strength = cv2.blur((found**2).sum(axis=0) * weight, size, borderType=cv2.BORDER_CONSTANT)
    share = cv2.blur(weight, size, borderType=cv2.BORDER_CONSTANT)
    everywhere = float(((found**2).sum(axis=0) * weight).sum() / max(float(weight.sum()), 1.0))
    local = strength / np.maximum(share, 0.05)
    return np.asarray(_SOFT * np.sqrt(0.5 * (local + everywhere)) + 1e-6, np.float32)


def compressed(found: FloatArray, limit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Edges (2, H, W) of at most unit strength, and what each was divided by, (H, W)."""
    strength = np.sqrt((found**2).sum(axis=0) + limit**2)
    return found / strength, strength


def _gain() -> float:
    """Mean square of the edges of white noise of unit variance."""
    impulse = np.zeros((15, 15), np.float32)
    impulse[7, 7] = 1
    return float((edges(impulse) ** 2).sum())


_NOISE_GAIN = _gain()
