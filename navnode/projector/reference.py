"""Projection in its simplest form, as the reference for tests of the native kernels."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from navnode.projector.native import attenuation
from navnode.types import CArm, Matrix, Volume

__all__ = ["render"]


def render(volume: Volume, carm: CArm, volume_from_carm: Matrix, step_mm: float = 0.1) -> Matrix:
    """Line integrals (H, W) by trilinear sampling every ``step_mm`` from the source to the detector."""
    mu = np.pad(attenuation(volume.voxels), 1)
    index_from_volume = np.linalg.inv(volume.volume_from_index)
    index_from_volume[:3, 3] += 1
    index_from_carm = index_from_volume @ volume_from_carm
    v, u = np.mgrid[: carm.height_px, : carm.width_px]
    pixels_mm = np.stack(
        [
            (u - carm.principal_point_px[0]) * carm.pixel_spacing_mm[0],
            (v - carm.principal_point_px[1]) * carm.pixel_spacing_mm[1],
            np.full(u.shape, carm.source_to_detector_mm),
        ]
    ).reshape(3, -1)
    lengths_mm = np.linalg.norm(pixels_mm, axis=0)
    total = np.zeros(u.size)
    for distance_mm in np.arange(step_mm / 2, lengths_mm.max(), step_mm):
        points = index_from_carm[:3, :3] @ (pixels_mm / lengths_mm * distance_mm) + index_from_carm[:3, 3:]
        samples = map_coordinates(mu, points[::-1], order=1, mode="constant")
        total += np.where(distance_mm < lengths_mm, samples, 0.0) * step_mm
    return total.reshape(u.shape)
