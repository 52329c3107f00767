"""Simultaneous algebraic reconstruction (SART; Andersen and Kak, Ultrasonic Imaging 6, 1984) with the project's own
projector and its adjoint.

It works from coarse to fine. The coarse grid extends beyond the requested one, because the patient does; what lies
there is subtracted from the X-rays, so that the fine grid need not explain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from navnode.projector.grids import AIR_HU
from navnode.projector.native import MU_WATER_PER_MM, hounsfield
from navnode.reconstruction.fit import Fit
from navnode.reconstruction.voxels import doubled, smooth
from navnode.types import FloatArray, Grid, Progress, View, Volume

__all__ = ["Pyramid", "RELAXATION", "sart"]

RELAXATION = 0.5
_SMOOTHING_VOXELS = 0.7
"""Sigma of the Gaussian between sweeps; with a few views it does as well as total variation, at no cost."""

_BEYOND = 0.5
"""Relaxation beyond the grid, relative to that within: what all views see is more likely inside."""
_COARSE_SWEEPS, _COARSE_RELAXATION = 6, 1.0
_COARSE_SMOOTHING_VOXELS = 0.5

_TV_WEIGHT, _TV_STEPS = 0.03, 15
"""The weight applies to attenuation relative to water's; a larger one would only turn the streaks of a few X-rays into
steps."""


class Pyramid:
    """SART's coarse and fine grids, and the views added so far.

    Args:
        grid: the fine grid. The coarse one has voxels twice as large, and reaches a quarter further on each side.
        threads: default: all cores.
    """

    def __init__(self, grid: Grid, *, threads: int | None = None) -> None:
        self._size, half = grid.size, (grid.size + 1) // 2
        margin = half // 8
        around = half + 2 * margin
        self._within = (slice(margin, margin + half),) * 3
        self._free = np.full((around,) * 3, _BEYOND, np.float32)
        self._free[self._within] = 1.0
        coarse = Grid(around, 2 * grid.spacing_mm, grid.center_mm)
        self._coarse = Fit(coarse.filled(AIR_HU), threads=threads, free=self._free)
        self.fine = Fit(grid.filled(AIR_HU), threads=threads)
        self._views: dict[Any, View] = {}

    def add(self, name: Any, view: View) -> None:
        """Add a view; sweeps follow the order of names."""
        self._coarse.add(name, view)
        self.fine.add(name, view)
        self._views[name] = self.fine.binned(view)

    def remove(self, name: Any) -> None:
        """Remove a view."""
        for part in (self._coarse, self.fine):
            part.remove(name)
        del self._views[name]

    def begin(self, progress: Progress = lambda share: None) -> FloatArray:
        """Sweep the coarse grid, subtract what lies beyond the fine grid from the X-rays, and start the fine grid from
        the rest.

        Returns:
            The start on voxels twice as large, (n, n, n), 1/mm.
        """
        fit = self._coarse
        fit.mu[:] = fit.mean_attenuation() * (fit.seen > 0) * self._free
        for sweep in range(_COARSE_SWEEPS):
            fit.sweep(_COARSE_RELAXATION)
            if sweep < _COARSE_SWEEPS - 1:
                smooth(fit.mu, _COARSE_SMOOTHING_VOXELS)
            progress((sweep + 1) / _COARSE_SWEEPS)
        coarse = fit.mu[self._within].copy()
        start = doubled(coarse, self._size)
        self.fine.mu[:] = start
        fit.mu[self._within] = 0.0
        for name, view in self._views.items():
            self.fine.measure(name, fit.without(view))
        return coarse


def sart(
    views: Sequence[View],
    grid: Grid,
    *,
    sweeps: int = 3,
    total_variation: bool = False,
    threads: int | None = None,
    progress: Progress = lambda share: None,
) -> Volume:
    """A volume in HU on a grid.

    Args:
        views: two or more, with poses.
        sweeps: number of sweeps on the fine grid.
        total_variation: reduce the total variation after every sweep (Sidky and Pan, Phys. Med. Biol. 53, 2008), by
            Chambolle's method; otherwise a Gaussian between sweeps does nearly as well at no cost.
        threads: default: all cores.
    """
    pyramid = Pyramid(grid, threads=threads)
    for index, view in enumerate(views):
        pyramid.add(index, view)
        progress(0.2 * (index + 1) / len(views))
    pyramid.begin(lambda share: progress(0.2 + 0.2 * share))
    fit = pyramid.fine
    for sweep in range(sweeps):
        fit.sweep(RELAXATION)
        if total_variation:
            from skimage.restoration import denoise_tv_chambolle  # here: loads scipy.stats, a second at every start

            fit.mu[:] = MU_WATER_PER_MM * denoise_tv_chambolle(
                fit.mu / MU_WATER_PER_MM, _TV_WEIGHT, max_num_iter=_TV_STEPS
            )
        elif sweep < sweeps - 1:
            smooth(fit.mu, _SMOOTHING_VOXELS)
        progress(0.4 + 0.6 * (sweep + 1) / sweeps)
    hu = hounsfield(fit.mu)
    hu[fit.seen < min(2, len(views))] = AIR_HU  # unknown where fewer than two views look
    name = "SART with total variation" if total_variation else "SART"
    return Volume(hu, fit.volume_from_index, f"{name}, {len(views)} views")
