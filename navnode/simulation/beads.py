"""A phantom of steel beads in plastic and its X-rays: exact chords through spheres, then the detector's counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from navnode import geometry as g
from navnode.types import Array, CArm, FloatArray, Matrix

__all__ = ["Beads", "Undistorted", "exposed", "helix", "rendered"]

_STEEL_PER_MM = 0.30
"""Attenuation at fluoroscopy's energies, with beam hardening."""
_PLASTIC_PER_MM = 0.018

Undistorted = Callable[[Matrix], Matrix]
"""Raw pixels (..., 2) -> their positions on an ideal detector."""


@dataclass(frozen=True)
class Beads:
    """Spheres in the frame ``phantom``."""

    positions_mm: Matrix
    """(N, 3)"""
    diameters_mm: Matrix
    """(N,)"""


def helix(beads: int = 32, radius_mm: float = 55.0, length_mm: float = 130.0, turns: float = 1.9) -> Beads:
    """Beads of two sizes on a helix of falling pitch and so many turns, so that no two parts of it look alike."""
    even = np.linspace(0, 1, beads)
    share = even**1.25
    angle = 2 * np.pi * turns * share
    positions = np.stack([radius_mm * np.cos(angle), radius_mm * np.sin(angle), length_mm * (even - 0.5)], axis=1)
    return Beads(positions, np.where(np.arange(beads) % 3 == 0, 4.0, 3.0))


def rendered(
    beads: Beads,
    carm: CArm,
    phantom_from_carm: Matrix,
    *,
    wall_mm: float = 12.0,
    undistorted: Undistorted | None = None,
    most_off_px: float | None = None,
) -> FloatArray:
    """Line integrals (H, W) of the beads in plastic of uniform thickness.

    Args:
        undistorted: the distortion of an image intensifier.
        most_off_px: the farthest that it moves a pixel; by default every pixel is tested for every bead.
    """
    height, width = carm.height_px, carm.width_px
    picture = np.full((height, width), wall_mm * _PLASTIC_PER_MM, np.float32)
    carm_from_phantom = g.inverse(phantom_from_carm)
    centers = g.transform(carm_from_phantom, beads.positions_mm)
    off = (0.0 if undistorted is None else float(max(height, width))) if most_off_px is None else most_off_px
    for center, diameter in zip(centers, beads.diameters_mm, strict=True):
        if center[2] <= diameter:
            continue
        at = g.project(carm, np.eye(4), center)
        reach = diameter * carm.source_to_detector_mm / center[2] / min(carm.pixel_spacing_mm) + 2
        low = np.maximum(np.floor(at - reach - off), 0).astype(int)
        high = np.minimum(np.ceil(at + reach + off) + 1, (width, height)).astype(int)
        if (low >= high).any():
            continue
        grid = np.stack(np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), axis=-1)
        ideal = grid.astype(np.float64) if undistorted is None else undistorted(grid.astype(np.float64))
        near = (np.abs(ideal - at) < reach).all(axis=-1)
        rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        if len(rows):
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            shade = _STEEL_PER_MM * _chords_mm(carm, ideal[box], center, diameter / 2)
            picture[low[1] : high[1], low[0] : high[0]][box] += shade
    return picture


def _chords_mm(carm: CArm, pixels: Matrix, center_mm: Matrix, radius_mm: float) -> FloatArray:
    """Lengths of the rays through pixels (..., 2) inside a sphere, averaged over 3 x 3 points of each pixel."""
    total = np.zeros(pixels.shape[:-1])
    for shift in np.stack(np.meshgrid(*[np.array([-1, 0, 1]) / 3] * 2), axis=-1).reshape(-1, 2):
        at = (pixels + shift - carm.principal_point_px) * carm.pixel_spacing_mm
        ray = np.concatenate([at, np.full((*at.shape[:-1], 1), carm.source_to_detector_mm)], axis=-1)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        away = center_mm - (ray @ center_mm)[..., None] * ray
        total += 2 * np.sqrt(np.maximum(radius_mm**2 - (away**2).sum(axis=-1), 0.0))
    return np.asarray(total / 9, np.float32)


def exposed(
    line: FloatArray, rng: np.random.Generator, *, i0: float = 20_000.0, blur_px: float = 0.8, scatter: float = 0.05
) -> Array:
    """Counts (H, W), uint16, from line integrals with ``i0`` open-beam counts: focal spot, scatter, quantum noise."""
    primary = cv2.GaussianBlur(i0 * np.exp(-line), (0, 0), blur_px) if blur_px else i0 * np.exp(-line)
    wide = cv2.GaussianBlur(primary, (0, 0), max(line.shape) / 10)
    return np.asarray(np.clip(rng.poisson(primary + scatter * wide), 0, 65_535), np.uint16)
