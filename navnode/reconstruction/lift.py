"""Solid bone in space from its thickness in a few views, without learning.

Each view states how many millimetres of bone every ray crosses. Of all volumes that agree with the views, the one that
assumes least beyond them is a product of their back-projections (maximum entropy; Minerbo, Comput. Graph. Image
Process. 10, 1979). Multiplicative corrections find it (MART; Gordon, Bender and Herman, J. Theor. Biol. 29, 1970), with
the project's own projector and its adjoint. Occupancy is capped at 1 after each correction.

Where the shadows of several bones cross, the product has ghosts. If each kind of bone has thicknesses of its own, each
is lifted by itself first; their sum is then the prior of the whole, which the same corrections change as little as the
views allow (minimum cross-entropy).

Most corrections run on voxels twice as large, at an eighth of the cost; the last ones sharpen the result. On validation
patients this finds the same bone as ten corrections on the fine voxels, in a quarter of the time.
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
"""Sigma on the coarse grid, after its first sweeps; the later sweeps sharpen."""
_DOUBTED = 0.05
"""Weight of the lift of all bone in the prior, beside the lifts of its kinds."""
_LEAST_MM = 0.3
"""Thinner bone along a ray counts as none."""
_LEAST_WEIGHT = 1e-3
"""A view does not see voxels of less weight, in voxel widths."""
_RATIOS = (0.2, 5.0)
"""Smallest and largest factor of a single correction."""
_LEAST_WITHIN = 0.4
"""Share of the grid's side that a ray must cross to be judged; shorter ones meet bone beyond the grid, which is
unknown."""
_MATCHED = 1.1
"""Pixels at the patient may be this many times as large as voxels."""
_OFTEN_BELOW = 0.05
"""Occupancy that most voxels are below."""
_START_MM = 10.0
"""Thickness that multiplies the first guess by one."""


def lift(
    thicknesses: Sequence[View], grid: Grid, *, kinds: Sequence[Sequence[View]] = (), threads: int | None = None
) -> Volume:
    """Share of bone in every voxel of a grid, 0..1.

    Args:
        thicknesses: views with poses whose "line integrals" are millimetres of bone along each ray, NaN where nothing
            was measured.
        grid: where to lift to.
        kinds: the same views for each kind of bone by itself, if kinds were told apart; they add up to all bone.
        threads: default: all cores.

    Raises:
        ComputeError: there are no views.
    """
    if not thicknesses:
        raise ComputeError("there are no views to lift")
    half = Grid((grid.size + 1) // 2, 2 * grid.spacing_mm, grid.center_mm)
    coarse = _Level([_as_coarse(view, half) for view in thicknesses], half, threads)
    coarse.solve()
    if len(kinds) > 1:
        # Kinds may be mistaken: what the views show together stays possible.
        prior = _DOUBTED * coarse.occupancy
        for kind in kinds:
            alone = _Level([_as_coarse(view, half) for view in kind], half, threads)
            alone.solve()
            prior += alone.occupancy
        coarse.begin_with(np.minimum(prior, 1.0))
        coarse.sweep()
    fine = _Level([_as_coarse(view, grid) for view in thicknesses], grid, threads)
    fine.begin_with(doubled(coarse.occupancy, grid.size))
    for _ in range(_FINE_SWEEPS):
        fine.sweep()
    name = f"solid bone, lifted from {len(thicknesses)} views"
    return Volume(fine.occupancy.copy(), grid.volume_from_index, name)


def disagreement(
    thicknesses: Sequence[View], occupancy: FloatArray, grid: Grid, *, threads: int | None = None
) -> float:
    """Error of the bone thickness along the rays of the view that agrees least: mean difference over mean thickness
    read, 0 where no bone was read.

    For lifted bone, a few tenths are reading errors; if one view has a wrong pose or shows another patient, no body can
    explain them all.

    Args:
        thicknesses: as for :func:`lift`.
        occupancy: share of bone in every voxel, (k, j, i), on the grid.
        grid: that of the occupancy.
        threads: default: all cores.
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
    """The most occupied voxels, as many as the occupancy sums to; bool, (k, j, i)."""
    return np.asarray(occupancy.voxels >= level(occupancy))


def level(occupancy: Volume) -> float:
    """The least occupancy of :func:`solid` voxels; above 1 if there is no bone."""
    share = occupancy.voxels
    count = round(float(share.sum()))
    if count < 1:
        return float(np.nextafter(np.float32(1), np.float32(2)))
    most = share[share > _OFTEN_BELOW]  # nearly all of a volume is not bone, and need not be sorted
    among = most if len(most) >= count else share.ravel()
    return max(float(np.partition(among, len(among) - count)[len(among) - count]), 1e-6)


@dataclass(frozen=True)
class _Thickness:
    """A view, and what stays constant from sweep to sweep."""

    carm: CArm
    volume_from_carm: Matrix
    mm: FloatArray
    """(H, W), 0 where nothing was measured."""
    measured: FloatArray
    """(H, W), 1 or 0."""
    weight: FloatArray
    """(k, j, i), back-projection of a picture of ones."""


class _Level:
    """Occupancy on one grid, adjusted to agree with views."""

    def __init__(self, thicknesses: Sequence[View], grid: Grid, threads: int | None) -> None:
        self._projector = Projector(grid.filled(AIR_HU), precision="float32", threads=threads)
        self.occupancy: FloatArray = self._projector.attenuation_per_mm
        """(k, j, i); its line integrals are millimetres of bone."""
        self._views = [self._prepared(view) for view in thicknesses]
        self._least = _LEAST_WEIGHT * grid.spacing_mm
        seen = np.zeros(self.occupancy.shape, np.uint16)
        for view in self._views:
            seen += view.weight > self._least
        self._unknown: Array = seen < min(2, len(self._views))
        """Bone that a single view shows may lie anywhere along the ray."""

    def _prepared(self, view: View) -> _Thickness:
        assert view.volume_from_carm is not None
        measured = np.isfinite(view.line_integrals).astype(np.float32)
        mm = np.where(measured > 0, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32)
        weight = np.ascontiguousarray(self._projector.backproject(view.carm, view.volume_from_carm, measured))
        return _Thickness(view.carm, view.volume_from_carm, mm, measured, weight)

    def guess(self) -> None:
        """Start from the product of the views' back-projections."""
        self.occupancy[:] = 1.0
        for view in self._views:
            projected = self._projector.backproject(view.carm, view.volume_from_carm, view.mm * view.measured)
            # A view does not change what it does not see.
            start = np.full_like(projected, _START_MM)
            self.occupancy *= np.divide(projected, view.weight, out=start, where=view.weight > self._least) / _START_MM
        self.begin_with(self.occupancy)
        self.occupancy *= 0.5 / max(float(self.occupancy.max()), 1e-6)

    def begin_with(self, occupancy: FloatArray) -> None:
        """Start from an occupancy, (k, j, i), where at least two views see it."""
        self.occupancy[:] = occupancy
        self.occupancy[self._unknown] = 0.0

    def solve(self) -> None:
        """Guess, and correct until the views agree."""
        self.guess()
        for sweep in range(_COARSE_SWEEPS):
            self.sweep()
            if sweep < _SMOOTHED_SWEEPS:
                smooth(self.occupancy, _SMOOTHING_VOXELS)

    def sweep(self) -> None:
        """Correct by every view once."""
        for view in self._views:
            crossed_mm = self._projector.render(view.carm, view.volume_from_carm)
            ratio = np.clip((view.mm + 1e-3) / (crossed_mm + 1e-3), *_RATIOS)
            ratio[view.mm < _LEAST_MM] = 0.0
            ratio *= view.measured
            # A view does not change what it does not see.
            self._projector.scale(view.carm, view.volume_from_carm, ratio, view.weight, self._least, most=1.0)


def _as_coarse(view: View, grid: Grid) -> View:
    """The view with pixels as large as voxels, or up to twice as small: smaller ones cost time and add nothing."""
    assert view.volume_from_carm is not None
    away_mm = float(np.linalg.norm(view.volume_from_carm[:3, 3] - np.array(grid.center_mm)))
    pixel_mm = max(view.carm.pixel_spacing_mm) * away_mm / view.carm.source_to_detector_mm
    while 2 * pixel_mm <= _MATCHED * grid.spacing_mm:
        view, pixel_mm = _binned(view), 2 * pixel_mm
    return view


def _binned(view: View) -> View:
    """Bin 2 x 2 pixels; NaN where fewer than two of the four were measured."""
    height, width = (size // 2 for size in view.line_integrals.shape)
    blocks = view.line_integrals[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3), dtype=np.float32)
    total = np.where(known, blocks, 0).sum(axis=(1, 3), dtype=np.float32)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count >= 2)
    return View(mean, view.carm.binned(2), view.volume_from_carm, view.timestamp_ns)
