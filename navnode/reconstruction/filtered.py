"""Filtered back-projection for cone beams, from any number of views in any directions.

Feldkamp, Davis and Kress, J. Opt. Soc. Am. A 1, 1984.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from navnode import geometry as g
from navnode.projector.grids import AIR_HU
from navnode.projector.native import hounsfield
from navnode.types import Array, CArm, FloatArray, Grid, Matrix, View, Volume

__all__ = ["fdk", "ramp_filtered", "rotation_axis"]


def fdk(
    views: Sequence[View],
    grid: Grid,
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> Volume:
    """A volume in HU on a grid; air where fewer than two views look.

    Args:
        views: two or more, with poses, roughly on a circle round the patient; the gaps beside a view set its weight.
    """
    volume_from_index = grid.volume_from_index
    poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]
    axis, weights = rotation_axis([pose[:3, 2] for pose in poses])
    total, seen = np.zeros((2, *grid.shape), np.float32)
    for index, (view, pose, weight) in enumerate(zip(views, poses, weights, strict=True)):
        carm_from_volume = g.inverse(pose)
        depth_mm = max(float(g.transform(carm_from_volume, np.array(grid.center_mm))[2]), 1.0)
        measured = np.isfinite(view.line_integrals)
        line = np.where(measured, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32)
        axis_in_carm = carm_from_volume[:3, :3] @ axis
        filtered = ramp_filtered(line, view.carm, depth_mm, axis_in_carm[:2], cutoff_mm=grid.spacing_mm)
        u, v, z = _pixels(view.carm, carm_from_volume @ volume_from_index, grid.size)
        z /= np.float32(depth_mm)
        values = cv2.remap(filtered, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT).reshape(total.shape)
        inside = cv2.remap(measured.astype(np.float32), u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        total += np.float32(weight) * values / (z * z)
        seen += inside.reshape(total.shape)
        progress((index + 1) / len(views))
    hu = hounsfield(np.maximum(total, 0.0))
    hu[seen < 2] = AIR_HU
    return Volume(hu, grid.volume_from_index, f"FDK, {len(views)} views")


def rotation_axis(directions: Sequence[Matrix]) -> tuple[Matrix, Array]:
    """The axis (3,) that the directions (N of (3,)) of views turn about, and each view's share of half a turn, (N,)
    rad; the shares sum to pi."""
    rows = np.stack(directions)
    across = np.linalg.svd(rows, full_matrices=True)[2]
    angle = np.arctan2(rows @ across[1], rows @ across[0]) % np.pi
    order = np.argsort(angle)
    ordered = angle[order]
    gaps = np.diff(np.concatenate([ordered, [ordered[0] + np.pi]]))
    weights = np.empty(len(rows))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return across[2], weights


def _pixels(carm: CArm, carm_from_grid: Matrix, size: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(u, v) of every voxel as maps of (size^2, size), and its depth in mm, (size, size, size)."""
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    m = carm_from_grid.astype(np.float32)
    k, j, i = (np.arange(size, dtype=np.float32).reshape(shape) for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
    x, y, z = (m[r, 0] * i + m[r, 1] * j + m[r, 2] * k + m[r, 3] for r in range(3))
    z = np.maximum(z, np.float32(1.0))
    u = x / z * np.float32(carm.source_to_detector_mm / su) + np.float32(cu)
    v = y / z * np.float32(carm.source_to_detector_mm / sv) + np.float32(cv)
    return u.reshape(size * size, size), v.reshape(size * size, size), z


def ramp_filtered(line: FloatArray, carm: CArm, depth_mm: float, axis_uv: Array, *, cutoff_mm: float) -> FloatArray:
    """Cosine-weighted line integrals after the ramp filter, (H, W), 1/mm.

    Back-projected with ``(depth / z)^2``, their mean over half a turn times pi is the attenuation.

    Args:
        line: (H, W) line integrals.
        depth_mm: depth of the object, at which frequencies are measured.
        axis_uv: (2,) direction of the rotation axis in the picture; the filter acts across it. Where it is short, the
            axis runs along the beam and all directions are alike.
        cutoff_mm: size of the voxels to fill.
    """
    height, width = line.shape
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    sdd = carm.source_to_detector_mm
    v, u = np.ogrid[:height, :width]
    cosine = sdd / np.sqrt(sdd**2 + ((u - cu) * su) ** 2 + ((v - cv) * sv) ** 2)
    pad = (height // 2, width // 2)
    extended = cv2.copyMakeBorder(
        (line * cosine).astype(np.float32), pad[0], pad[0], pad[1], pad[1], cv2.BORDER_REPLICATE
    )
    # Fade to zero beyond the border: a cut would ring, and what lies beyond the detector is unknown.
    extended *= _fading(extended.shape[0], pad[0])[:, None] * _fading(extended.shape[1], pad[1])
    at_object = depth_mm / sdd
    f_u = np.fft.rfftfreq(extended.shape[1], su * at_object)
    f_v = np.fft.fftfreq(extended.shape[0], sv * at_object)[:, None]
    length = float(np.hypot(*axis_uv))
    radius = np.hypot(f_u, f_v)
    across = np.abs(f_u * axis_uv[1] - f_v * axis_uv[0]) / max(length, 1e-9)
    certain = min(length / 0.5, 1.0)
    ramp = certain * across + (1 - certain) * radius / 2
    window = np.cos(np.pi / 2 * np.minimum(radius * 2 * cutoff_mm / 1.5, 1.0)) ** 2
    spectrum = np.fft.rfft2(extended) * (ramp * window)
    filtered: FloatArray = np.fft.irfft2(spectrum, extended.shape)[pad[0] : -pad[0], pad[1] : -pad[1]].astype(
        np.float32
    )
    return filtered


def _fading(size: int, pad: int) -> FloatArray:
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(pad) + 0.5) / pad)
    fading: FloatArray = np.concatenate([ramp, np.ones(size - 2 * pad), ramp[::-1]]).astype(np.float32)
    return fading
