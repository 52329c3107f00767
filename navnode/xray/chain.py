"""The simulated X-ray chain: line integrals to counts with scatter, blur, gain and noise; a metal tool in the beam."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.types import CArm, FloatArray, Matrix

__all__ = ["METAL_PER_MM", "XrayChain", "cylinder_chords_mm"]

METAL_PER_MM = 0.25
"""Effective attenuation of a steel drill in a hardened diagnostic beam, 1/mm."""


@dataclass(frozen=True)
class XrayChain:
    """Scatter, blur and noise of a simulated X-ray chain."""

    i0: float = 20_000.0
    """Photons per open-beam pixel and frame; also its counts at gain 1."""
    scatter_fraction: float = 0.06
    """Ratio of scattered to primary radiation, mean behind the patient."""
    scatter_sigma_mm: float = 45.0
    blur_sigma_mm: float = 0.35
    read_noise: float = 3.0
    """1 sigma, counts."""

    def expose(
        self, line_integrals: FloatArray, carm: CArm, gain: float, rng: np.random.Generator
    ) -> npt.NDArray[np.uint16]:
        """uint16 counts (H, W) of one frame; ``gain`` is counts per photon, ``line_integrals`` may be coarser."""
        fine = line_integrals
        if fine.shape != (carm.height_px, carm.width_px):
            fine = cv2.resize(fine, (carm.width_px, carm.height_px), interpolation=cv2.INTER_CUBIC)
        primary = np.exp(-np.maximum(fine, 0.0))
        photons = rng.poisson(self.i0 * (primary + self._scatter(primary, carm))).astype(np.float32)
        blurred = cv2.GaussianBlur(photons, (0, 0), self.blur_sigma_mm / carm.pixel_spacing_mm[0])
        counts = gain * blurred + rng.normal(0, self.read_noise, blurred.shape)
        pixels: npt.NDArray[np.uint16] = np.clip(np.round(counts), 0, 65_535).astype(np.uint16)
        return pixels

    def _scatter(self, primary: FloatArray, carm: CArm) -> FloatArray:
        """Scattered over open-beam intensity, (H, W).

        A ray of line integral p scatters in proportion to p exp(-p): the matter it crosses times the light that is
        left. The scattered light spreads widely (kernel model of Ohnesorge et al., Eur. Radiol. 9, 1999).
        """
        small = cv2.resize(primary, (64, 64), interpolation=cv2.INTER_AREA)
        crossed = -np.log(np.maximum(small, 1e-6))
        sigma = self.scatter_sigma_mm / (carm.pixel_spacing_mm[0] * carm.width_px / 64)
        spread = cv2.GaussianBlur(crossed * small, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        patient = crossed > 0.2
        ratio = small[patient].sum() / max(float(spread[patient].sum()), 1e-9)
        scatter: FloatArray = cv2.resize(spread, (carm.width_px, carm.height_px))
        return scatter * np.float32(self.scatter_fraction * ratio)


def cylinder_chords_mm(carm: CArm, carm_from_tool: Matrix, radius_mm: float, length_mm: float) -> FloatArray:
    """Length of every pixel's ray inside a solid cylinder, (H, W) mm.

    The cylinder reaches from the tool's origin ``length_mm`` back along its -z axis.
    """
    v, u = np.mgrid[: carm.height_px, : carm.width_px].astype(np.float64)
    rays = np.stack(
        [
            (u - carm.principal_point_px[0]) * carm.pixel_spacing_mm[0],
            (v - carm.principal_point_px[1]) * carm.pixel_spacing_mm[1],
            np.full(u.shape, carm.source_to_detector_mm),
        ],
        axis=-1,
    )
    tool_from_carm = g.inverse(carm_from_tool)
    source = tool_from_carm[:3, 3]
    d = rays @ tool_from_carm[:3, :3].T
    a = d[..., 0] ** 2 + d[..., 1] ** 2
    b = d[..., 0] * source[0] + d[..., 1] * source[1]
    discriminant = b * b - a * (source[0] ** 2 + source[1] ** 2 - radius_mm**2)
    root = np.sqrt(np.maximum(discriminant, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        side = np.sort(np.stack([(-b - root) / a, (-b + root) / a]), axis=0)
        caps = np.sort(np.stack([(-length_mm - source[2]) / d[..., 2], -source[2] / d[..., 2]]), axis=0)
    inside = np.minimum(side[1], caps[1]) - np.maximum(side[0], caps[0])
    chord = np.where(discriminant > 0, np.maximum(inside, 0.0), 0.0) * np.linalg.norm(d, axis=-1)
    length_mm_inside: FloatArray = np.nan_to_num(chord).astype(np.float32)
    return length_mm_inside
