"""From thicknesses of bone in a few views to solid bone in space, without learning anything.

Each view says how many millimetres of bone every ray crosses. Of all volumes that agree with that, the one that claims
least beyond it is a product of what the views say (maximum entropy; Minerbo, Comput. Graph. Image Process. 10, 1979);
it is found by multiplicative corrections (MART; Gordon, Bender and Herman, J. Theor. Biol. 29, 1970) with the project's
own projector and its adjoint. No voxel holds more than itself: occupancy is cut off at 1 after each correction.

Most corrections are made on voxels of twice the size, where they cost an eighth; the last ones sharpen what those
found. On validation patients bone is the same as by ten corrections on the fine voxels, in a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU
from navnode.reconstruction.voxels import doubled, smooth
from navnode.types import Array, CArm, FloatArray, Grid, Matrix, View, Volume

__all__ = ["disagreement", "level", "lift", "solid"]

_COARSE_SWEEPS, _SMOOTHED_SWEEPS, _FINE_SWEEPS = 8, 6, 2
_SMOOTHING_VOXELS = 0.5
"""Of the coarse grid, after its first sweeps; the others sharpen."""
_LEAST_MM = 0.3
"""Less bone along a ray is none."""
_LEAST_WEIGHT = 1e-3
"""A voxel that weighs less than this in a view, in voxel widths, is not seen by it."""
_RATIOS = (0.2, 5.0)
"""Least and largest factor of a single correction."""
_LEAST_WITHIN = 0.4
"""Of the grid's side; rays that cross less of it meet bone beyond it, of which it knows nothing."""
_START_MM = 10.0
"""Thickness that multiplies the first guess by one."""


def lift(thicknesses: Sequence[View], grid: Grid, *, threads: int | None = None) -> Volume:
    """Share of every voxel that is bone, 0..1, on a grid.

    Args:
        thicknesses: views with poses whose "line integrals" are millimetres of bone along each ray, NaN where nothing
            was measured.
        grid: where to lift to.
        threads: None: all cores.

    Raises:
        ComputeError: there is no view.
    """
    if not thicknesses:
        raise ComputeError("nothing to lift: no view")
    half = Grid((grid.size + 1) // 2, 2 * grid.spacing_mm, grid.center_mm)
    coarse = _Level([_binned(view) for view in thicknesses], half, threads)
    coarse.guess()
    for sweep in range(_COARSE_SWEEPS):
        coarse.sweep()
        if sweep < _SMOOTHED_SWEEPS:
            smooth(coarse.occupancy, _SMOOTHING_VOXELS)
    fine = _Level(thicknesses, grid, threads)
    fine.begin_with(doubled(coarse.occupancy, grid.size))
    for _ in range(_FINE_SWEEPS):
        fine.sweep()
    name = f"solid bone, lifted from {len(thicknesses)} views"
    return Volume(fine.occupancy.copy(), grid.volume_from_index, name)


def disagreement(
    thicknesses: Sequence[View], occupancy: FloatArray, grid: Grid, *, threads: int | None = None
) -> float:
    """How far the thickness of bone along the rays of a view is from what was read, of the view that agrees least: mean
    difference over mean thickness read; 0 where no bone was read.

    Of what was lifted, a few tenths are the reader's own errors; views of which one has a wrong pose, or shows somebody
    else, cannot all be explained by one body.

    Args:
        thicknesses: as for :func:`lift`.
        occupancy: share of every voxel that is bone, (k, j, i), on the grid.
        grid: of the occupancy.
        threads: None: all cores.
    """
    projector = Projector(grid.filled(AIR_HU), precision="float32", threads=threads)
    small = [_binned(view) for view in thicknesses]

    def crossed_mm(voxels: FloatArray | float) -> list[FloatArray]:
        projector.attenuation_per_mm[:] = voxels
        return [
            projector.render(view.carm, view.volume_from_carm) for view in small if view.volume_from_carm is not None
        ]

    worst = 0.0
    for view, mm, within_mm in zip(small, crossed_mm(occupancy), crossed_mm(1.0), strict=True):
        counts = np.isfinite(view.line_integrals) & (within_mm > _LEAST_WITHIN * grid.size * grid.spacing_mm)
        read_mm = view.line_integrals[counts]
        if read_mm.sum() > 0:
            worst = max(worst, float(np.abs(mm[counts] - read_mm).sum() / read_mm.sum()))
    return worst


def solid(occupancy: Volume) -> Array:
    """The most occupied voxels, as many as fill the volume that the occupancy adds up to; bool, (k, j, i)."""
    return np.asarray(occupancy.voxels >= level(occupancy))


def level(occupancy: Volume) -> float:
    """The share from which on a voxel is :func:`solid`; above 1 where there is no bone."""
    share = occupancy.voxels
    count = round(float(share.sum()))
    if count < 1:
        return float(np.nextafter(np.float32(1), np.float32(2)))
    return max(float(np.partition(share.ravel(), share.size - count)[share.size - count]), 1e-6)


@dataclass(frozen=True)
class _Thickness:
    """A view, and what does not change from sweep to sweep."""

    carm: CArm
    volume_from_carm: Matrix
    mm: FloatArray
    """(H, W), 0 where nothing was measured."""
    measured: FloatArray
    """(H, W), 1 or 0."""
    weight: FloatArray
    """(k, j, i), what a voxel gets of a picture of ones."""


class _Level:
    """Occupancy on one grid that is being brought into agreement with views."""

    def __init__(self, thicknesses: Sequence[View], grid: Grid, threads: int | None) -> None:
        self._projector = Projector(grid.filled(AIR_HU), precision="float32", threads=threads)
        self.occupancy: FloatArray = self._projector.attenuation_per_mm
        """(k, j, i); rays cross millimetres of it."""
        self._views = [self._prepared(view) for view in thicknesses]
        self._least = _LEAST_WEIGHT * grid.spacing_mm
        seen = np.sum([view.weight > self._least for view in self._views], axis=0)
        self._unknown: Array = seen < min(2, len(self._views))
        """What a single view crosses may lie anywhere along it."""

    def _prepared(self, view: View) -> _Thickness:
        assert view.volume_from_carm is not None
        measured = np.isfinite(view.line_integrals).astype(np.float32)
        mm = np.where(measured > 0, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32)
        weight = self._projector.backproject(view.carm, view.volume_from_carm, measured)
        return _Thickness(view.carm, view.volume_from_carm, mm, measured, weight)

    def guess(self) -> None:
        """Begin with the product of what the views say."""
        self.occupancy[:] = 1.0
        for view in self._views:
            said = self._projector.backproject(view.carm, view.volume_from_carm, view.mm * view.measured)
            # What a view does not see stays as likely as the others make it.
            start = np.full_like(said, _START_MM)
            self.occupancy *= np.divide(said, view.weight, out=start, where=view.weight > self._least) / _START_MM
        self.begin_with(self.occupancy)
        self.occupancy *= 0.5 / max(float(self.occupancy.max()), 1e-6)

    def begin_with(self, occupancy: FloatArray) -> None:
        """Begin with an occupancy, (k, j, i), where at least two views see it."""
        self.occupancy[:] = occupancy
        self.occupancy[self._unknown] = 0.0

    def sweep(self) -> None:
        """Correct by every view once."""
        for view in self._views:
            crossed_mm = self._projector.render(view.carm, view.volume_from_carm)
            ratio = np.clip((view.mm + 1e-3) / (crossed_mm + 1e-3), *_RATIOS)
            ratio[view.mm < _LEAST_MM] = 0.0
            ratio *= view.measured
            factor = self._projector.backproject(view.carm, view.volume_from_carm, ratio.astype(np.float32, copy=False))
            seen = view.weight > self._least
            np.divide(factor, view.weight, out=factor, where=seen)
            factor[~seen] = 1.0
            self.occupancy *= factor
            np.minimum(self.occupancy, 1.0, out=self.occupancy)


def _binned(view: View) -> View:
    """Pixels of twice the size, for voxels of twice the size; NaN where less than half of one was measured."""
    height, width = (size // 2 for size in view.line_integrals.shape)
    blocks = view.line_integrals[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3), dtype=np.float32)
    total = np.where(known, blocks, 0).sum(axis=(1, 3), dtype=np.float32)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count >= 2)
    return View(mean, view.carm.binned(2), view.volume_from_carm, view.timestamp_ns)
