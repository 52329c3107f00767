"""Volumes from any few views by the network, updated with every view.

What the views say is added up (:mod:`network`), so that a new view costs its own encoding and one pass over the
volume, in whatever order they come, and a view that has become stale can be taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navnode.projector.grids import AIR_HU
from navnode.projector.native import attenuation, hounsfield
from navnode.reconstruction.classical import Pyramid
from navnode.reconstruction.engines import Networks
from navnode.reconstruction.features import GRID, HU_RANGE, picture, starting_volumes
from navnode.reconstruction.reading import view_key
from navnode.types import FloatArray, Grid, Matrix, View, Volume

__all__ = ["Accumulator", "BONE_HU", "Reconstructed", "SCALES", "UNKNOWN_HU"]

_LAPLACE_95 = float(np.log(20.0))
"""95 % of a Laplace distribution lie within so many scales."""
UNKNOWN_HU = 4000.0
"""Half of the interval where nothing is known: all HU there are."""
BONE_HU = 200.0
_BONE_LACKS_HU = 200.0
"""By how much the network's HU are too low where bone was found: 40 to 500 on 15 validation patients."""
_BONE_VARIES_HU, _EDGE_VARIES_HU = 700.0, 800.0
"""What the 95 % interval is wider by inside bone, and where bone is as likely as not: it then holds 92 to 96 % of the
voxels of true bone, and 97 to 99 % of those of the bone that was found, by group."""
SCALES = (-4.5, 1.5)
"""Logarithm of the stated scale, 1000 HU, from 11 HU on; as trained, and as read."""


@dataclass(frozen=True)
class Reconstructed:
    """What some views say about the grid."""

    volume: Volume
    """HU, (128, 128, 128); air where fewer than two views look."""
    uncertainty_hu: Volume
    """Half of the 95 % interval of the HU, on the same grid."""


class Accumulator:
    """The views of one grid, added up.

    Args:
        center_mm: RAS of the grid's middle.
        spacing_mm: of its voxels, 128 along each side.
    """

    def __init__(self, networks: Networks, center_mm: Matrix, spacing_mm: float, threads: int | None = None) -> None:
        grid = Grid.around(center_mm, GRID, spacing_mm)
        self.volume_from_grid = grid.volume_from_index
        self.spacing_mm = spacing_mm
        self.center_mm = np.array(center_mm, np.float64)
        self._networks = networks
        self._sums: FloatArray | None = None
        self._pyramid = Pyramid(grid, threads=threads)
        self._views: dict[bytes, View] = {}

    @property
    def views(self) -> int:
        """How many have been added up."""
        return len(self._views)

    @property
    def overlap(self) -> bool:
        """Whether there is anything that two views see, or the only one."""
        return bool((self._pyramid.fine.seen >= min(2, self.views)).any())

    def add(self, view: View) -> None:
        """Take a view in; one that is in already counts once."""
        name = view_key(view)
        if name not in self._views:
            self._views[name] = view
            self._take(view, 1)
            self._pyramid.add(name, view)

    def keep(self, views: Sequence[View]) -> None:
        """Take out all but these."""
        for name in self._views.keys() - {view_key(view) for view in views}:
            self._take(self._views.pop(name), -1)
            self._pyramid.remove(name)

    def _take(self, view: View, sign: int) -> None:
        made = picture(view, self.volume_from_grid)
        (said,) = self._networks.view(
            {"picture": made.channels[None], "picture_from_grid": made.picture_from_grid[None]}
        )
        if self._sums is None:
            self._sums = np.zeros_like(said)
        if sign > 0:
            self._sums += said
        else:
            self._sums -= said

    def result(self, bone: FloatArray | None = None) -> Reconstructed:
        """What all views together say, brought into agreement with their detail; there must be one.

        The network has seen little bone and says too little of it, with too much confidence: where bone was found in
        the X-rays, HU and their intervals are raised.

        Args:
            bone: probability of solid bone, (k, j, i).
        """
        assert self._sums is not None
        coarse, fine = starting_volumes(self._pyramid)
        fit = self._pyramid.fine
        inputs = {
            "sums": self._sums,
            "coarse": coarse[None, None],
            "fine": fine[None, None],
            "views": np.array([float(self.views)], np.float32),
        }
        mean, _, scale = self._networks.volume(inputs)[0][0]
        likely = np.zeros_like(mean) if bone is None else bone
        fit.mu[:] = attenuation(np.clip(1000.0 * mean + _BONE_LACKS_HU * likely, *HU_RANGE))
        fit.agree()
        hu = hounsfield(fit.mu)
        unknown = fit.seen < min(2, self.views)
        hu[unknown] = AIR_HU
        half = 1000.0 * _LAPLACE_95 * self._networks.card.sigma_factor * np.exp(np.clip(scale, *SCALES))
        half = np.sqrt(half**2 + (_BONE_VARIES_HU * likely) ** 2 + _EDGE_VARIES_HU**2 * likely * (1 - likely))
        half[unknown] = UNKNOWN_HU
        return Reconstructed(
            *(
                Volume(part.astype(np.float32, copy=False), self.volume_from_grid, name)
                for part, name in (
                    (hu, f"learned, {self.views} views"),
                    (half, "half of the 95 % interval, HU"),
                )
            )
        )
