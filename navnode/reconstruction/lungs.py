"""Lungs from what was read of them in a few X-rays: lifted, then refined by a small network.

The lift knows no anatomy: from two views it makes of both lungs a block that throws their shadows, and a view in which
a lung was overlooked cuts it away everywhere. The network gets the lift, and what every view shows at a voxel, pooled
over views (:mod:`pooling`); lungs are large and smooth, so voxels twice as large as those of bone are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from navnode.projector.grids import centered_grid
from navnode.reconstruction import engines
from navnode.reconstruction.lift import level, lift
from navnode.reconstruction.pooling import pool
from navnode.reconstruction.reader import BONE_SCALE_MM, LUNG_SCALE_MM, reading_channels
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.refining import averaged, own_grid, pixels_from_carm
from navnode.reconstruction.surface import Surface, likely_surface
from navnode.reconstruction.voxels import doubled
from navnode.types import FloatArray, Grid, Matrix, View, Volume

__all__ = ["BLOCK", "CHANNELS", "SEEN", "LungRefiner", "LungsFound", "evidence", "lifted", "lung_grid"]

_PICTURES = 6
"""Channels of a view that are pooled: probability and thickness of lung, line integrals and their detail, probability
and thickness of bone."""
CHANNELS = 4 + 3 * _PICTURES
"""Channels per voxel: the lift's occupancy above its level; share of views that see it, their number, size of a voxel;
over views, the mean, the least and the largest of each of a view's channels."""
SEEN = 1
"""Index in :data:`CHANNELS` of the share of views that see a voxel."""
BLOCK = 16
"""Sides of the network's grids are multiples of this."""

_THRESHOLD = 0.5
_COARSER = 2
"""Voxels are so many times as large as those to find bone on."""
_MOST_VIEWS = 4
"""The most views in training; more are counted as this many."""


@dataclass(frozen=True)
class LungsFound:
    """Lungs on a grid."""

    likely: Volume
    """Probability of lung, 0..1."""

    def surface(self, *, coarsely: bool = False) -> Surface | None:
        """A closed surface around the lungs, without an expected error; None if none were found.

        Args:
            coarsely: leave voxels as large as those that lungs are found on, for displays: a quarter of the triangles.
        """
        likely = self.likely
        if not coarsely:
            size, spacing_mm = 2 * len(likely.voxels), likely.spacing_mm[0] / 2
            finer = centered_grid((size,) * 3, spacing_mm, likely.center_mm)
            likely = Volume(doubled(likely.voxels, size), finer, likely.name)
        surface = likely_surface(likely, _THRESHOLD)
        return None if surface is None else replace(surface, error_mm=None)  # nobody has measured what they state


class LungRefiner:
    """Finds lungs in readings.

    Args:
        folder: the model.
        threads: 0: all cores.
        exactly: compute in FP32 on every processor.

    Raises:
        ConfigError: the model is missing, or no engine runs it.
    """

    def __init__(self, folder: Path, *, threads: int = 0, exactly: bool = False) -> None:
        self._run, self.engine = engines.load_lungs(folder, threads=threads, exactly=exactly)
        self._threads = threads or None

    def find(self, readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid) -> LungsFound:
        """Lungs on the :func:`lung_grid` of a grid.

        Args:
            readings: one or more.
            poses: volume_from_carm of every reading.
        """
        own = lung_grid(grid)
        given = evidence(lifted(readings, poses, own, threads=self._threads), readings, poses, own, self._threads)
        # Anatomy prefers no side, but a network may: average with what it finds in the mirror image.
        plain, mirrored = (
            np.asarray(self._run({"evidence": np.ascontiguousarray(shown)[None]})[0][0, 0])
            for shown in (given, given[..., ::-1])
        )
        logit = ((plain + mirrored[..., ::-1]) / 2)[: own.size, : own.size, : own.size]
        likely = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
        return LungsFound(Volume(likely, own.volume_from_index, f"lungs, from {len(readings)} views"))


def lung_grid(grid: Grid) -> Grid:
    """The grid to find lungs on when a volume on ``grid`` was asked for."""
    own = own_grid(grid)
    size = -(-own.size // _COARSER)
    return Grid(size, _COARSER * own.spacing_mm, own.center_mm)


def lifted(readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid, *, threads: int | None = None) -> Volume:
    """Share of lung in every voxel of a grid, 0..1, as lifted from readings whose views have these
    ``volume_from_carm``."""
    return replace(
        lift(_thicknesses(readings, poses), grid, threads=threads), name=f"lungs, lifted from {len(readings)} views"
    )


def _thicknesses(readings: Sequence[Reading], poses: Sequence[Matrix]) -> list[View]:
    """Views whose "line integrals" are millimetres of lung."""
    return [View(reading.lungs_mm, reading.carm, pose) for reading, pose in zip(readings, poses, strict=True)]


def evidence(
    occupancy: Volume, readings: Sequence[Reading], poses: Sequence[Matrix], grid: Grid, threads: int | None = None
) -> FloatArray:
    """The network's input, (CHANNELS, k, j, i); sides are multiples of :data:`BLOCK`.

    Args:
        occupancy: lifted from the readings, on the grid.
        poses: volume_from_carm of every reading.
        threads: default: all cores.
    """
    size = -(-grid.size // BLOCK) * BLOCK
    measured = np.stack([np.isfinite(reading.line_integrals) for reading in readings])
    pixels = np.stack(
        [
            pixels_from_carm(reading) @ np.linalg.inv(pose) @ grid.volume_from_index
            for reading, pose in zip(readings, poses, strict=True)
        ]
    )
    shown = np.stack([_shown(reading, grid.spacing_mm) for reading in readings])
    seen = pool(shown, measured, pixels, size, least=True, most=True, threads=threads)
    assert seen.least is not None and seen.most is not None
    made = np.zeros((CHANNELS, size, size, size), np.float32)
    threshold = min(level(occupancy), 1.0)
    made[0] = -threshold
    made[0, : grid.size, : grid.size, : grid.size] += occupancy.voxels
    made[SEEN] = seen.count / np.float32(len(readings))
    made[2] = min(len(readings), _MOST_VIEWS) / _MOST_VIEWS
    made[3] = np.log(grid.spacing_mm / 4)
    for first, part in enumerate((seen.mean, seen.least, seen.most)):
        made[4 + first * _PICTURES : 4 + (first + 1) * _PICTURES] = part
    return made


def _shown(reading: Reading, voxel_mm: float) -> FloatArray:
    """What is pooled of a view, (6, H, W), averaged over the measured pixels of squares about as large as a voxel."""
    measured = np.isfinite(reading.line_integrals)
    line, detail = reading_channels(reading.line_integrals, measured, reading.pixel_mm)[:2]
    lungs_mm, bone_mm = np.nan_to_num(reading.lungs_mm), np.nan_to_num(reading.bone_mm)
    parts = (
        np.nan_to_num(reading.lungs),
        lungs_mm / LUNG_SCALE_MM,
        line,
        detail,
        np.nan_to_num(reading.bone),
        bone_mm / BONE_SCALE_MM,
    )
    across_px = 2 * round(voxel_mm / reading.pixel_mm / 2) + 1  # odd, to shift nothing
    return averaged((np.asarray(part, np.float32) for part in parts), measured, across_px)
