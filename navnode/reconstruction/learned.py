"""Volumes from any number of views, by the network, updated with every view.

The network's outputs per view are summed (:mod:`network`): a new view costs only its own encoding and one pass over the
volume, views may arrive in any order, and an outdated one can be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navnode.projector.grids import AIR_HU
from navnode.projector.native import attenuation, hounsfield
from navnode.reconstruction.bones import BoneFound
from navnode.reconstruction.classical import Pyramid
from navnode.reconstruction.engines import Networks
from navnode.reconstruction.features import GRID, HU_RANGE, picture, starting_volumes
from navnode.reconstruction.reading import view_key
from navnode.types import FloatArray, Grid, Matrix, View, Volume

__all__ = ["Accumulator", "BONE_HU", "Reconstructed", "SCALES", "UNKNOWN_HU"]

_LAPLACE_95 = float(np.log(20.0))
"""Half-width of a Laplace distribution's 95 % interval, in scales."""
UNKNOWN_HU = 4000.0
"""Half-width of the interval where nothing is known: the whole range of HU."""
BONE_HU = 200.0
_BONE_LACKS_HU = 200.0
"""How much too low the network's HU are where bone was found: 40 to 500 on 15 validation patients."""
_BONE_VARIES_HU, _EDGE_VARIES_HU = 700.0, 800.0
"""Widening of the 95 % interval inside bone, and where bone is as likely as not, of two views."""
_SHOWN_VARIES_HU = 650.0
"""The same where all views show bone, if none of the shadows is explained: some of it may have been missed."""
_LEAST_SHARE, _SHARE_OF_UNEXPLAINED = 0.7, 0.5
"""The network's own interval counts by this share and that of the unexplained, away from bone: a body whose bone was
read and is explained, a limb, is simpler than what the network was calibrated on."""
_MOST_VIEWS = 4
"""More views do not make what was found of bone surer."""
SCALES = (-4.5, 1.5)
"""Range of the logarithm of the stated scale (1000 HU), from 11 HU up; the same in training and in use."""


@dataclass(frozen=True)
class Reconstructed:
    """A volume and its uncertainty, from some views."""

    volume: Volume
    """HU, (128, 128, 128); air where fewer than two views look."""
    uncertainty_hu: Volume
    """Half-width of the 95 % interval, on the same grid."""


class Accumulator:
    """Sums what the network says about the views of one grid.

    Args:
        center_mm: RAS position of the grid's center, (3,).
        spacing_mm: voxel size; the grid has 128 voxels along each side.
        threads: default: all cores.
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
        """Number of views added."""
        return len(self._views)

    @property
    def overlap(self) -> bool:
        """Whether two views (or the only one) see the same voxel."""
        return bool((self._pyramid.fine.seen >= min(2, self.views)).any())

    def add(self, view: View) -> None:
        """Add a view; adding it again changes nothing."""
        name = view_key(view)
        if name not in self._views:
            self._views[name] = view
            self._take(view, 1)
            self._pyramid.add(name, view)

    def keep(self, views: Sequence[View]) -> None:
        """Remove all views but these."""
        for name in self._views.keys() - {view_key(view) for view in views}:
            self._take(self._views.pop(name), -1)
            self._pyramid.remove(name)

    def _take(self, view: View, sign: int) -> None:
        made = picture(view, self.volume_from_grid)
        (output,) = self._networks.view(
            {"picture": made.channels[None], "picture_from_grid": made.picture_from_grid[None]}
        )
        if self._sums is None:
            self._sums = np.zeros_like(output)
        if sign > 0:
            self._sums += output
        else:
            self._sums -= output

    def result(self, bone: BoneFound | None = None) -> Reconstructed:
        """The volume from all views, made to agree with their detail; there must be a view.

        The network has seen little bone: its HU there are too low, and too certain. Where bone was found in the X-rays,
        HU and their intervals are raised.

        Args:
            bone: on the volume's grid.
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
        likely = np.zeros_like(mean) if bone is None else bone.likely.voxels
        fit.mu[:] = attenuation(np.clip(1000.0 * mean + _BONE_LACKS_HU * likely, *HU_RANGE))
        fit.agree()
        hu = hounsfield(fit.mu)
        unknown = fit.seen < min(2, self.views)
        hu[unknown] = AIR_HU
        half = 1000.0 * _LAPLACE_95 * self._networks.card.sigma_factor * np.exp(np.clip(scale, *SCALES))
        half = half if bone is None else _widened(half, bone, self.views)
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


def _widened(half_hu: FloatArray, bone: BoneFound, views: int) -> FloatArray:
    """Half of the 95 % interval where bone was found or missed, from what the network states, (k, j, i) HU."""
    likely, shown, few = bone.likely.voxels, bone.shown, 2 / min(max(views, 2), _MOST_VIEWS)
    share = np.float32(min(1.0, _LEAST_SHARE + _SHARE_OF_UNEXPLAINED * bone.unexplained) if bone.unexplained else 1.0)
    own = half_hu * (share + (1 - share) * np.maximum(likely, shown))
    found = (_BONE_VARIES_HU * likely) ** 2 + _EDGE_VARIES_HU**2 * likely * (1 - likely)
    unexplained = _SHOWN_VARIES_HU * min(bone.unexplained, 1.0) * shown
    return np.asarray(np.sqrt(own**2 + few**0.5 * found + few * unexplained**2), np.float32)
