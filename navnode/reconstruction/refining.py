"""Refines solid bone: collects what the views say about every voxel, and lets the shipped network decide.

:mod:`lift` knows no anatomy: where bones share a slice, it leaves ghosts at the crossings of their shadows. Here a
three-dimensional network gets the lift and what every view shows at a voxel, pooled over views so that neither their
number nor their order matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from navnode.errors import ComputeError
from navnode.reconstruction import engines
from navnode.reconstruction.lift import level
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
    "Refiner",
    "SEEN",
    "SPACINGS_MM",
    "evidence",
    "own_grid",
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

_NEAREST_MM = 1.0
"""Voxels closer to the source than this are not seen."""
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


class Refiner:
    """Refines what was lifted from readings.

    Args:
        folder: the model.
        threads: 0: all cores.

    Raises:
        ConfigError: the model is missing, or no engine runs it.
    """

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        self._find_features, self._run, self.engine = engines.load_refiner(folder, threads=threads)
        self.threshold = engines.read_card(folder).bone_threshold
        """Probability at which the surface is most accurate, 0..1."""

    def refine(self, occupancy: Volume, readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid) -> Volume:
        """Probability of solid bone, 0..1, on the grid.

        Args:
            occupancy: lifted from the readings, on the grid.
            poses: volume_from_carm of every reading.

        Raises:
            ComputeError: there are no readings.
        """
        given = evidence(occupancy, readings, poses, grid)
        features = np.concatenate([self._find_features({"pictures": picture[None]})[0] for picture in given.pictures])
        felt = pooled(features, given)
        logit = self._run({"fine": given.fine[None], "coarse": given.coarse[None], "felt": felt[None]})[0][0, 0]
        size = grid.size
        likely = 1 / (1 + np.exp(-np.clip(logit[:size, :size, :size], -30, 30)))
        return Volume(
            likely.astype(np.float32), grid.volume_from_index, f"solid bone, refined from {len(readings)} views"
        )


def own_grid(grid: Grid) -> Grid:
    """The grid to find bone on: the requested one, or another around the same center. Its voxels are of a size that the
    network knows, and it holds what lies in front and behind, since rays cross that bone too."""
    side_mm = max(grid.size * grid.spacing_mm, LEAST_SIDE_MM)
    spacing_mm = float(np.clip(grid.spacing_mm, *SPACINGS_MM))
    size = min(max(1, round(side_mm / spacing_mm)), MOST_SIZE)
    own = Grid(size, side_mm / size, grid.center_mm)
    return grid if (own.size, own.spacing_mm) == (grid.size, grid.spacing_mm) else own


def evidence(occupancy: Volume, readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid) -> Evidence:
    """The network's input on a grid.

    Args:
        occupancy: lifted from the readings, on the grid.
        poses: volume_from_carm of every reading.

    Raises:
        ComputeError: there are no readings.
    """
    if not readings:
        raise ComputeError("there are no views to refine from")
    size = -(-grid.size // BLOCK) * BLOCK
    beyond = [(0, size - grid.size)] * 3
    half_from_index = np.diag([2.0, 2.0, 2.0, 1.0])
    half_from_index[:3, 3] = 0.5
    finely = _Pool(1, size, least=True)
    coarsely = _Pool(4, size // 2, least=True, most=True)
    kinds = _Pool(len(BONE_KINDS), size // 2, least=True)
    pictures, pixels_from_coarse = [], []
    for reading, pose in zip(readings, poses, strict=True):
        carm_from_index = np.linalg.inv(pose) @ grid.volume_from_index
        pixels = _pixels_from_carm(reading) @ carm_from_index
        measured = np.isfinite(reading.line_integrals)
        shown = _shown(reading, measured)
        pictures.append(_picture(shown, measured))
        pixels_from_coarse.append(_HALVED @ pixels @ half_from_index)
        finely.add([shown.bone], measured, pixels)
        across_px = 2 * round(grid.spacing_mm / reading.pixel_mm) + 1  # odd, to shift nothing
        seen = (shown.thickness, shown.scale, shown.detail, shown.line)
        parts = [_averaged(part, measured, across_px) for part in seen]
        coarsely.add(parts, measured, pixels @ half_from_index)
        shares = [_averaged(part * shown.bone, measured, across_px) for part in np.nan_to_num(reading.kinds)]
        kinds.add(shares, measured, pixels @ half_from_index)
    threshold = min(level(occupancy), 1.0)
    above = np.pad(occupancy.voxels - np.float32(threshold), beyond, constant_values=-threshold)
    fine = np.stack([above, finely.mean[0], finely.least[0]])
    everywhere = np.ones((size // 2,) * 3, np.float32)
    thickness, log_scale, detail, line = coarsely.mean
    coarse = np.stack(
        [
            threshold * everywhere,
            thickness,
            coarsely.least[0],
            log_scale,
            detail,
            coarsely.most[2],
            line,
            coarsely.count / len(readings),
            min(len(readings), _MOST_VIEWS) / _MOST_VIEWS * everywhere,
            np.log(grid.spacing_mm / 2) * everywhere,
            *kinds.least,
        ]
    )
    return Evidence(
        fine.astype(np.float32), coarse.astype(np.float32), np.stack(pictures), np.stack(pixels_from_coarse)
    )


def pooled(features: FloatArray, given: Evidence) -> FloatArray:
    """Mean and variance of features over the views that see a voxel, (2 FEATURES, k/2, j/2, i/2).

    Args:
        features: (V, FEATURES, PICTURE_PX, PICTURE_PX), found in the evidence's pictures.
    """
    pool = _Pool(2 * FEATURES, given.coarse.shape[1])
    for found, picture, pixels in zip(features, given.pictures, given.pixels_from_coarse, strict=True):
        pool.add([*found, *(found * found)], picture[-1] > 0.5, pixels)
    mean = pool.mean
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
    whole = np.stack([*shown._replace(scale=shown.scale / np.float32(3)), measured.astype(np.float32)])
    channels, height, width = whole.shape
    halves = whole.reshape(channels, PICTURE_PX, height // PICTURE_PX, PICTURE_PX, width // PICTURE_PX)
    return np.asarray(halves.mean(axis=(2, 4)), np.float32)


class _Pool:
    """Samples pictures at the voxels of a cube, and pools the samples over views.

    Args:
        least, most: whether minimum and maximum over the views are asked for.
    """

    def __init__(self, channels: int, size: int, *, least: bool = False, most: bool = False) -> None:
        shape = (size, size, size, channels)  # the pictures' values of a voxel together: sampled at once
        self._size = size
        self._sum = np.zeros(shape, np.float32)
        self._least = np.full(shape, np.nan, np.float32) if least else None
        self._most = np.full(shape, np.nan, np.float32) if most else None
        self.count = np.zeros(shape[:-1], np.float32)
        """Number of views that see a voxel."""

    def add(self, pictures: Sequence[FloatArray], measured: Array, pixels_from_index: Matrix) -> None:
        """Add one view.

        Args:
            pictures: (H, W) each.
            measured: (H, W), where the pictures are valid.
            pixels_from_index: (3, 4), voxel (i, j, k, 1) -> (u w, v w, w), w the voxel's depth in mm.
        """
        axis = np.arange(self._size, dtype=np.float32)
        rows = pixels_from_index.astype(np.float32)
        across = rows[:, 0, None, None] * axis + rows[:, 1, None, None] * axis[:, None] + rows[:, 3, None, None]
        weight, together = measured.astype(np.float32), cv2.merge(list(pictures))
        for k in range(self._size):  # a volume exceeds OpenCV's largest map
            uw, vw, depth_mm = across + rows[:, 2, None, None] * np.float32(k)
            seen_from = depth_mm > _NEAREST_MM
            depth_mm = np.where(seen_from, depth_mm, np.float32(1))
            u, v = uw / depth_mm, vw / depth_mm
            seen = (cv2.remap(weight, u, v, cv2.INTER_LINEAR, borderValue=0) > 0.5) & seen_from
            self.count[k] += seen
            at = cv2.remap(together, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            at[~seen] = 0
            at = at.reshape(self._sum[k].shape)
            self._sum[k] += at
            if self._least is None and self._most is None:
                continue
            at[~seen] = np.nan
            if self._least is not None:
                np.fmin(self._least[k], at, out=self._least[k])
            if self._most is not None:
                np.fmax(self._most[k], at, out=self._most[k])

    @property
    def mean(self) -> FloatArray:
        """(C, k, j, i), mean over the views that see a voxel; 0 where none does."""
        return _channels_first(np.divide(self._sum, np.maximum(self.count, 1)[..., None], dtype=np.float32))

    @property
    def least(self) -> FloatArray:
        """(C, k, j, i), minimum over the views that see a voxel; 0 where none does."""
        assert self._least is not None
        return np.nan_to_num(_channels_first(self._least), copy=False)

    @property
    def most(self) -> FloatArray:
        """(C, k, j, i), maximum over the views that see a voxel; 0 where none does."""
        assert self._most is not None
        return np.nan_to_num(_channels_first(self._most), copy=False)


def _channels_first(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def _averaged(picture: FloatArray, measured: Array, across_px: int) -> FloatArray:
    """Means over squares, of the measured pixels in them; the picture must be 0 elsewhere."""
    size = (across_px, across_px)
    share = cv2.blur(measured.astype(np.float32), size, borderType=cv2.BORDER_REPLICATE)
    total = cv2.blur(picture, size, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(total / np.maximum(share, 1e-3), np.float32)


def _pixels_from_carm(reading: Reading) -> Matrix:
    """(3, 4): point (x, y, z, 1) mm in the C-arm's frame -> (u z, v z, z), (u, v) in pixels of the canvas."""
    carm = reading.carm
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    sdd_mm = carm.source_to_detector_mm
    return np.array([[sdd_mm / su, 0, cu, 0], [0, sdd_mm / sv, cv, 0], [0, 0, 1, 0]])
