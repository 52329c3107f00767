"""How the learned reconstruction sees a view, in training and in the operating room alike.

Every view becomes a square picture of fixed size with four channels, and three rows that project the reconstruction
grid into it. The filtered channel is what filtered back-projection smears along the rays (Feldkamp, Davis and Kress, J.
Opt. Soc. Am. A 1, 1984): the cosine-weighted line integrals, ramp-filtered in the direction in which the views go round
the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from navnode.projector.native import MU_WATER_PER_MM, hounsfield
from navnode.reconstruction.classical import RELAXATION, Pyramid
from navnode.reconstruction.filtered import ramp_filtered
from navnode.types import CArm, FloatArray, Matrix, View

__all__ = ["CHANNELS", "GRID", "HU_RANGE", "PICTURE_PX", "Picture", "picture", "starting_volumes"]

GRID = 128
"""Voxels along each side of the network's grid."""
PICTURE_PX = 256
CHANNELS = 4
HU_RANGE = (-1000.0, 3000.0)

_LINE_SCALE = 4.0
_MOST_LINE = 12.0
_FILTERED_SCALE = 3.0
"""Scales the filtered back-projection to about the size of attenuation relative to water's."""
_PATIENT_AXIS = np.array([0.0, 0.0, 1.0])
"""C-arms turn about the patient's long axis."""


@dataclass(frozen=True)
class Picture:
    """One view as the network's input."""

    channels: FloatArray
    """(4, 256, 256): line integrals, the same filtered, mean attenuation inside the grid relative to water's, 1 where
    measured."""
    picture_from_grid: FloatArray
    """(3, 4): voxel (i, j, k, 1) -> (x w, y w, w); x and y run from -1 to 1 between the picture's edges, w is the
    voxel's depth relative to that of the grid's center."""


def picture(view: View, volume_from_grid: Matrix) -> Picture:
    """Prepare a view for a grid of cubic voxels, ``GRID`` along each side.

    Args:
        view: with a pose.
        volume_from_grid: 4x4, voxel index (i, j, k) -> RAS mm.
    """
    assert view.volume_from_carm is not None
    spacing_mm = float(np.linalg.norm(volume_from_grid[:3, 0]))
    line, measured, carm = _on_canvas(view)
    carm_from_volume = np.linalg.inv(view.volume_from_carm)
    middle_mm = volume_from_grid @ [*[(GRID - 1) / 2] * 3, 1.0]
    depth_mm = max(float((carm_from_volume @ middle_mm)[2]), 1.0)
    axis_in_carm = carm_from_volume[:3, :3] @ _PATIENT_AXIS
    filtered = ramp_filtered(line, carm, depth_mm, axis_in_carm[:2], cutoff_mm=spacing_mm)
    chord_mm = _chords_mm(carm, view.volume_from_carm, volume_from_grid)
    crossed = line / np.maximum(chord_mm, 10 * spacing_mm) / MU_WATER_PER_MM * (chord_mm > 0)
    channels = np.stack(
        [
            np.minimum(line, _MOST_LINE) / _LINE_SCALE,
            filtered / MU_WATER_PER_MM * _FILTERED_SCALE,
            np.minimum(crossed, 5.0),
            measured,
        ]
    )
    channels[:3] *= measured
    return Picture(channels.astype(np.float32), _picture_from_grid(carm, carm_from_volume @ volume_from_grid, depth_mm))


def starting_volumes(pyramid: Pyramid) -> tuple[FloatArray, FloatArray]:
    """SART's starting volumes for the network, coarse (64, 64, 64) and fine (128, 128, 128): attenuation relative to
    water's, minus 1. The pyramid keeps the fine one."""
    coarse = pyramid.begin()
    pyramid.fine.sweep(RELAXATION)

    def scaled(mu: FloatArray) -> FloatArray:
        return np.clip(hounsfield(mu), *HU_RANGE) / np.float32(1000.0)

    return scaled(coarse), scaled(pyramid.fine.mu)


def _on_canvas(view: View) -> tuple[FloatArray, FloatArray, CArm]:
    """Line integrals on the square canvas, 1 where measured, and the geometry of the canvas."""
    finite = np.isfinite(view.line_integrals)
    height, width = finite.shape
    share = PICTURE_PX / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    method = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    known = cv2.resize(finite.astype(np.float32), size, interpolation=method)
    line = cv2.resize(
        np.where(finite, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32), size, interpolation=method
    )
    canvas, measured = np.zeros((2, PICTURE_PX, PICTURE_PX), np.float32)
    canvas[: size[1], : size[0]] = np.where(known > 0.5, line / np.maximum(known, 0.5), 0.0)
    measured[: size[1], : size[0]] = known > 0.5
    # The image may be binned, unlike its C-arm: scale from the C-arm's pixels.
    carm = view.carm
    across, down = carm.width_px / size[0], carm.height_px / size[1]
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    principal_point_px = ((cu + 0.5) / across - 0.5, (cv + 0.5) / down - 0.5)
    spacing_mm = (su * across, sv * down)
    return canvas, measured, CArm(PICTURE_PX, PICTURE_PX, spacing_mm, carm.source_to_detector_mm, principal_point_px)


def _chords_mm(carm: CArm, volume_from_carm: Matrix, volume_from_grid: Matrix) -> FloatArray:
    """Length of each pixel's ray inside the grid, (H, W) mm."""
    grid_from_carm = np.linalg.inv(volume_from_grid) @ volume_from_carm
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    u, v = (np.arange(carm.width_px) - cu) * su, (np.arange(carm.height_px) - cv) * sv
    enter, leave = np.full((2, carm.height_px, carm.width_px), -np.inf, np.float32)
    leave[:] = np.inf
    for row, source in zip(grid_from_carm[:3, :3], grid_from_carm[:3, 3], strict=True):
        d = (row[0] * u + row[1] * v[:, None] + row[2] * carm.source_to_detector_mm).astype(np.float32)
        d = np.where(np.abs(d) < 1e-6, np.float32(1e-6), d)
        sides = (np.float32(-0.5 - source) / d, np.float32(GRID - 0.5 - source) / d)
        np.maximum(enter, np.minimum(*sides), out=enter)
        np.minimum(leave, np.maximum(*sides), out=leave)
    to_pixel = np.sqrt(u**2 + v[:, None] ** 2 + carm.source_to_detector_mm**2)
    chord: FloatArray = (np.maximum(leave - np.maximum(enter, 0.0), 0.0) * to_pixel).astype(np.float32)
    return chord


def _picture_from_grid(carm: CArm, carm_from_grid: Matrix, depth_mm: float) -> FloatArray:
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    sdd = carm.source_to_detector_mm
    # u = cu + sdd / su x / z, and x_picture = (u + 1/2) 2 / width - 1.
    x = 2 / carm.width_px * (sdd / su * carm_from_grid[0] + (cu + 0.5) * carm_from_grid[2]) - carm_from_grid[2]
    y = 2 / carm.height_px * (sdd / sv * carm_from_grid[1] + (cv + 0.5) * carm_from_grid[2]) - carm_from_grid[2]
    rows: FloatArray = (np.stack([x, y, carm_from_grid[2]]) / depth_mm).astype(np.float32)
    return rows
