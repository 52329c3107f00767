"""From thicknesses of bone in a few views to solid bone in space, without learning anything.

Each view says how many millimetres of bone every ray crosses. Of all volumes that agree with that, the one that claims
least beyond it is a product of what the views say (maximum entropy; Minerbo, Comput. Graph. Image Process. 10, 1979);
it is found by multiplicative corrections (MART; Gordon, Bender and Herman, J. Theor. Biol. 29, 1970) with the project's
own projector and its adjoint. No voxel holds more than itself: occupancy is cut off at 1 after each correction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU
from navnode.types import Array, CArm, FloatArray, Grid, Matrix, View, Volume

_SWEEPS = 10
_LEAST_MM = 0.3
"""Of bone along a ray; less is none."""
_LEAST_WEIGHT = 1e-3
"""Of a voxel in a view, in voxels' widths; less is not seen."""
_RATIOS = (0.2, 5.0)
"""A single correction multiplies by no more and no less."""
_SMOOTHING_VOXELS = 0.7
_SMOOTHED_SWEEPS = 6
"""The last ones sharpen what the first ones found."""


def lift(
    thicknesses: Sequence[View],
    grid: Grid,
    *,
    threads: int | None = None,
) -> Volume:
    """Share of every voxel that is bone, 0..1, on a grid.

    Args:
        thicknesses: views with poses whose "line integrals" are millimetres of bone along each ray, NaN where nothing
            was measured.

    Raises:
        ComputeError: there is no view.
    """
    if not thicknesses:
        raise ComputeError("nothing to lift: no view")
    projector = Projector(grid.filled(AIR_HU), precision="float32", threads=threads)
    occupancy = projector.attenuation_per_mm  # rays then cross millimetres of what is there
    occupancy[:] = 1.0
    views = [_prepared(projector, view) for view in thicknesses]
    least = _LEAST_WEIGHT * grid.spacing_mm
    for carm, pose, mm, measured, weight in views:
        said = projector.backproject(carm, pose, mm * measured)
        # What a view does not see stays as likely as the others make it.
        mean_mm = np.divide(said, weight, out=np.full_like(said, 10.0), where=weight > least)
        occupancy *= mean_mm / 10.0
    seen = sum((weight > least).astype(np.uint8) for *_, weight in views)
    occupancy[seen < min(2, len(views))] = 0.0  # what a single view crosses may lie anywhere along it
    occupancy *= 0.5 / max(float(occupancy.max()), 1e-6)
    for sweep in range(_SWEEPS):
        for carm, pose, mm, measured, weight in views:
            crossed_mm = projector.render(carm, pose)
            ratio = np.clip((mm + 1e-3) / (crossed_mm + 1e-3), *_RATIOS)
            ratio[mm < _LEAST_MM] = 0.0
            factor = projector.backproject(carm, pose, (ratio * measured).astype(np.float32))
            np.divide(factor, weight, out=factor, where=weight > least)
            factor[weight <= least] = 1.0
            occupancy *= factor
            np.minimum(occupancy, 1.0, out=occupancy)
        if sweep < _SMOOTHED_SWEEPS:
            occupancy[:] = gaussian_filter(occupancy, _SMOOTHING_VOXELS)
    return Volume(occupancy.copy(), grid.volume_from_index, f"solid bone, lifted from {len(thicknesses)} views")


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


def _prepared(projector: Projector, view: View) -> tuple[CArm, Matrix, FloatArray, FloatArray, FloatArray]:
    """A view's geometry, thickness, 1 where measured, and what every voxel gets of a picture of ones."""
    assert view.volume_from_carm is not None
    measured = np.isfinite(view.line_integrals).astype(np.float32)
    mm = np.where(measured > 0, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32)
    weight = projector.backproject(view.carm, view.volume_from_carm, measured)
    return view.carm, view.volume_from_carm, mm, measured, weight
