"""Refines solid bone: collects what the views say about every voxel, and lets the shipped network decide.

:mod:`lift` knows no anatomy: where bones share a slice, it leaves ghosts at the crossings of their shadows. Here a
three-dimensional network gets the lift and what every view shows at a voxel, pooled over views so that neither their
number nor their order matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from navnode.errors import ComputeError
from navnode.reconstruction import engines, models
from navnode.reconstruction.lift import level
from navnode.reconstruction.pooling import pool
from navnode.reconstruction.reader import BONE_KINDS, BONE_SCALE_MM, reading_channels
from navnode.reconstruction.reading import Reading
from navnode.types import Array, FloatArray, Grid, Matrix, Volume

__all__ = [
    "BLOCK",
    "COARSE",
    "Evidence",
    "FEATURES",
    "FINE",
    "LEAST_SIDE_MM",
    "MOST_SIZE",
    "PICTURES",
    "PICTURE_PX",
    "Refined",
    "Refiner",
    "SEEN",
    "SPACINGS_MM",
    "averaged",
    "evidence",
    "own_grid",
    "pixels_from_carm",
    "pooled",
]

FINE = 3
"""Channels per voxel: the lift's occupancy above its level, and over views the mean and the least probability of bone;
the latter stands for the visual hull."""
COARSE = 10 + len(BONE_KINDS)
"""Channels per block of 2 x 2 x 2 voxels: the lift's level; over views: mean and least thickness of bone, mean
logarithm of its scale, mean and largest detail of the line integrals, mean line integral; share of views that see it,
their number, size of a voxel; over views: the least share of bone of each kind, since a voxel of the tibia shows tibia
in every view."""
SEEN = 7
"""Index in :data:`COARSE` of the share of views that see a voxel."""
PICTURES = 6
"""Channels of a picture, from which a network finds a view's features: line integrals, their detail, thickness of bone,
its probability, logarithm of its scale, 1 where measured."""
PICTURE_PX = 128
"""Pixels along each side: half the resolution of the canvas."""
FEATURES = 8
"""Features per pixel of a view; their mean and variance over views are further channels per block of 2 x 2 x 2
voxels."""
BLOCK = 16
"""Sides of the network's grids are multiples of this."""

SPACINGS_MM = (1.6, 2.5)
"""Voxel sizes that the network was trained on."""
LEAST_SIDE_MM = 240.0
"""Smallest side of a grid to find bone on."""
MOST_SIZE = 192
"""Most voxels along each side of a grid to refine on; limited by memory."""

_HALVED = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])
"""Pixels of the pictures from pixels of the canvas."""
_MOST_VIEWS = 4
"""The most views in training; more are counted as this many."""


@dataclass(frozen=True)
class Evidence:
    """The network's input from views and lift; sides are multiples of :data:`BLOCK`."""

    fine: FloatArray
    """(FINE, k, j, i)"""
    coarse: FloatArray
    """(COARSE, k/2, j/2, i/2)"""
    pictures: FloatArray
    """(V, PICTURES, PICTURE_PX, PICTURE_PX)"""
    pixels_from_coarse: Matrix
    """(V, 3, 4): voxel (i, j, k, 1) of the coarse grid -> (u w, v w, w); (u, v) in pixels of the pictures, w the depth
    in mm."""


class Refined(NamedTuple):
    """Solid bone on a grid."""

    likely: Volume
    """Its probability, 0..1."""
    shown: FloatArray
    """(k, j, i), least probability of bone among the views at a voxel, 0..1."""


class Refiner:
    """Refines what was lifted from readings.

    Args:
        folder: the model.
        threads: 0: all cores.
        exactly: compute in FP32 on every processor.

    Raises:
        ConfigError: the model is missing, or no engine runs it.
    """

    def __init__(self, folder: Path, *, threads: int = 0, exactly: bool = False) -> None:
        self._find_features, self._run, self.engine = engines.load_refiner(folder, threads=threads, exactly=exactly)
        self._threads = threads or None
        self.threshold = models.read_card(folder).bone_threshold
        """Probability at which the surface is most accurate, 0..1."""

    def refine(self, occupancy: Volume, readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid) -> Refined:
        """Solid bone on the grid.

        Args:
            occupancy: lifted from the readings, on the grid.
            poses: volume_from_carm of every reading.

        Raises:
            ComputeError: there are no readings.
        """
        given = evidence(occupancy, readings, poses, grid, threads=self._threads)
        features = np.concatenate([self._find_features({"pictures": picture[None]})[0] for picture in given.pictures])
        inputs = {"fine": given.fine, "coarse": given.coarse, "felt": pooled(features, given, threads=self._threads)}
        # Anatomy prefers no side, but a network may: average with what it finds in the mirror image.
        logit = np.mean([self._mirrored(inputs, along_i) for along_i in (1, -1)], axis=0)
        size = grid.size
        likely = 1 / (1 + np.exp(-np.clip(logit[:size, :size, :size], -30, 30)))
        name = f"solid bone, refined from {len(readings)} views"
        shown = np.ascontiguousarray(given.fine[2, :size, :size, :size])
        return Refined(Volume(likely.astype(np.float32), grid.volume_from_index, name), shown)

    def _mirrored(self, inputs: Mapping[str, FloatArray], along_i: int) -> FloatArray:
        """The network's output, (k, j, i), its inputs mirrored along i where that is -1, and the output back."""
        turned = {name: np.ascontiguousarray(part[..., ::along_i])[None] for name, part in inputs.items()}
        return np.asarray(self._run(turned)[0][0, 0][..., ::along_i])


def own_grid(grid: Grid) -> Grid:
    """The grid to find bone on: the requested one, or another around the same center. Its voxels are of a size that the
    network knows, and it holds what lies in front and behind, since rays cross that bone too."""
    side_mm = max(grid.size * grid.spacing_mm, LEAST_SIDE_MM)
    spacing_mm = float(np.clip(grid.spacing_mm, *SPACINGS_MM))
    size = min(max(1, round(side_mm / spacing_mm)), MOST_SIZE)
    own = Grid(size, side_mm / size, grid.center_mm)
    return grid if (own.size, own.spacing_mm) == (grid.size, grid.spacing_mm) else own


def evidence(
    occupancy: Volume, readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid, *, threads: int | None = None
) -> Evidence:
    """The network's input on a grid.

    Args:
        occupancy: lifted from the readings, on the grid.
        poses: volume_from_carm of every reading.
        threads: default: all cores.

    Raises:
        ComputeError: there are no readings.
    """
    if not readings:
        raise ComputeError("there are no views to refine from")
    size = -(-grid.size // BLOCK) * BLOCK
    half_from_index = np.diag([2.0, 2.0, 2.0, 1.0])
    half_from_index[:3, 3] = 0.5
    measured = np.stack([np.isfinite(reading.line_integrals) for reading in readings])
    shown = [_shown(reading, known) for reading, known in zip(readings, measured, strict=True)]
    pixels = np.stack(
        [
            pixels_from_carm(reading) @ np.linalg.inv(pose) @ grid.volume_from_index
            for reading, pose in zip(readings, poses, strict=True)
        ]
    )
    finely = pool(np.stack([each.bone for each in shown])[:, None], measured, pixels, size, least=True, threads=threads)
    around = [
        _around(each, reading, known, 2 * round(grid.spacing_mm / reading.pixel_mm) + 1)  # odd, to shift nothing
        for each, reading, known in zip(shown, readings, measured, strict=True)
    ]
    coarsely = pool(
        np.stack(around), measured, pixels @ half_from_index, size // 2, least=True, most=True, threads=threads
    )
    assert finely.least is not None and coarsely.least is not None and coarsely.most is not None
    threshold = min(level(occupancy), 1.0)
    fine = np.empty((FINE, size, size, size), np.float32)
    fine[0] = -threshold
    fine[0, : grid.size, : grid.size, : grid.size] += occupancy.voxels
    fine[1], fine[2] = finely.mean[0], finely.least[0]
    thickness, log_scale, detail, line = coarsely.mean[:4]
    coarse = np.empty((COARSE, *coarsely.count.shape), np.float32)
    parts = (
        threshold,
        thickness,
        coarsely.least[0],
        log_scale,
        detail,
        coarsely.most[2],
        line,
        coarsely.count / np.float32(len(readings)),
        min(len(readings), _MOST_VIEWS) / _MOST_VIEWS,
        np.log(grid.spacing_mm / 2),
        *coarsely.least[4:],
    )
    for channel, part in zip(coarse, parts, strict=True):
        channel[:] = part
    pictures = np.stack([_picture(each, known) for each, known in zip(shown, measured, strict=True)])
    return Evidence(fine, coarse, pictures, _HALVED @ pixels @ half_from_index)


def pooled(features: FloatArray, given: Evidence, *, threads: int | None = None) -> FloatArray:
    """Mean and variance of features over the views that see a voxel, (2 FEATURES, k/2, j/2, i/2).

    Args:
        features: (V, FEATURES, PICTURE_PX, PICTURE_PX), found in the evidence's pictures.
        threads: default: all cores.
    """
    both = np.concatenate([features, features * features], axis=1)
    measured = given.pictures[:, -1] > 0.5
    mean = pool(both, measured, given.pixels_from_coarse, given.coarse.shape[1], threads=threads).mean
    of_squares = mean[FEATURES:]
    of_squares -= mean[:FEATURES] ** 2
    np.maximum(of_squares, 0, out=of_squares)
    return mean


class _Shown(NamedTuple):
    """Channels of a view, (H, W) each on its canvas, scaled to about one; 0 where nothing was measured."""

    line: FloatArray
    detail: FloatArray
    thickness: FloatArray
    bone: FloatArray
    """Probability."""
    scale: FloatArray
    """Logarithm."""


def _shown(reading: Reading, measured: Array) -> _Shown:
    line, detail = reading_channels(reading.line_integrals, measured, reading.pixel_mm)[:2]
    scale = np.log(np.where(measured, reading.scale_mm, BONE_SCALE_MM) / BONE_SCALE_MM)
    thickness = np.nan_to_num(reading.bone_mm) / BONE_SCALE_MM
    known = (np.where(measured, part, 0) for part in (line, detail, thickness, reading.bone, scale))
    return _Shown(*(np.asarray(part, np.float32) for part in known))


def _picture(shown: _Shown, measured: Array) -> FloatArray:
    """A view's picture to find features in, (PICTURES, PICTURE_PX, PICTURE_PX)."""
    parts = (*shown._replace(scale=shown.scale / np.float32(3)), measured.astype(np.float32))
    return np.stack([cv2.resize(part, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA) for part in parts])


def _around(shown: _Shown, reading: Reading, measured: Array, across_px: int) -> FloatArray:
    """What is pooled at blocks of voxels, (4 + kinds, H, W): thickness, its scale, detail, line integrals and bone of
    each kind, averaged over the measured pixels of squares about as large as a voxel."""
    seen = (shown.thickness, shown.scale, shown.detail, shown.line)
    return averaged((*seen, *(np.nan_to_num(reading.kinds) * shown.bone)), measured, across_px)


def averaged(parts: Iterable[FloatArray], measured: Array, across_px: int) -> FloatArray:
    """Pictures (H, W) averaged over the measured pixels, (H, W), of squares around each pixel, (C, H, W).

    Args:
        parts: 0 where nothing was measured.
        across_px: side of the squares, odd.
    """
    size = (across_px, across_px)
    share = np.maximum(cv2.blur(measured.astype(np.float32), size, borderType=cv2.BORDER_REPLICATE), 1e-3)
    return np.stack([cv2.blur(part, size, borderType=cv2.BORDER_REPLICATE) / share for part in parts])


def pixels_from_carm(reading: Reading) -> Matrix:
    """(3, 4): point (x, y, z, 1) mm in the C-arm's frame -> (u z, v z, z), (u, v) in pixels of the canvas."""
    carm = reading.carm
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    sdd_mm = carm.source_to_detector_mm
    return np.array([[sdd_mm / su, 0, cu, 0], [0, sdd_mm / sv, cv, 0], [0, 0, 1, 0]])
