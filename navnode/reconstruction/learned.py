"""Volumes from any few views by the network, updated with every view.

What the views say is added up (:mod:`network`), so that a new view costs its own encoding and one pass over the
volume, in whatever order they come, and a view that has become stale can be taken out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navnode.projector.grids import AIR_HU
from navnode.projector.native import attenuation, hounsfield
from navnode.reconstruction.classical import Pyramid
from navnode.reconstruction.engines import Networks
from navnode.reconstruction.features import GRID, HU_RANGE, picture, starting_volumes
from navnode.types import FloatArray, Grid, Matrix, View, Volume

_LAPLACE_95 = float(np.log(20.0))
"""95 % of a Laplace distribution lie within so many scales."""
UNKNOWN_HU = 4000.0
"""Half of the interval where nothing is known: all HU there are."""
BONE_HU = 200.0
SCALES = (-4.5, 1.5)
"""Logarithm of the stated scale, 1000 HU, from 11 HU on; as trained, and as read."""


@dataclass(frozen=True)
class Reconstructed:
    """What some views say about the grid."""

    volume: Volume
    """HU, (128, 128, 128); air where fewer than two views look."""
    uncertainty_hu: Volume
    """Half of the 95 % interval of the HU, on the same grid."""
    bone: Volume
    """Probability of bone, 0..1."""


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

    def add(self, view: View) -> None:
        """Take a view in; one that is in already counts once."""
        name = _hashed(view)
        if name not in self._views:
            self._views[name] = view
            self._take(view, 1)
            self._pyramid.add(name, view)

    def keep(self, views: Sequence[View]) -> None:
        """Take out all but these."""
        for name in self._views.keys() - {_hashed(view) for view in views}:
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

    def result(self) -> Reconstructed:
        """What all views together say, brought into agreement with their detail; there must be one."""
        assert self._sums is not None
        coarse, fine = starting_volumes(self._pyramid)
        fit = self._pyramid.fine
        inputs = {
            "sums": self._sums,
            "coarse": coarse[None, None],
            "fine": fine[None, None],
            "views": np.array([float(self.views)], np.float32),
        }
        mean, bone, scale = self._networks.volume(inputs)[0][0]
        fit.mu[:] = attenuation(np.clip(1000.0 * mean, *HU_RANGE))
        fit.agree()
        hu = hounsfield(fit.mu)
        unknown = fit.seen < min(2, self.views)
        hu[unknown] = AIR_HU
        half = 1000.0 * _LAPLACE_95 * self._networks.card.sigma_factor * np.exp(np.clip(scale, *SCALES))
        half[unknown] = UNKNOWN_HU
        likely = bone_probability(bone, hu, self.views, self._networks.card.bone_density)
        likely[unknown] = 0.0
        return Reconstructed(
            *(
                Volume(part.astype(np.float32, copy=False), self.volume_from_grid, name)
                for part, name in (
                    (hu, f"learned, {self.views} views"),
                    (half, "half of the 95 % interval, HU"),
                    (likely, "probability of bone"),
                )
            )
        )


def bone_probability(logit: FloatArray, hu: FloatArray, views: int, density: float) -> FloatArray:
    """The network's logit, and what the volume says after it was brought into agreement with the X-rays; of that more
    is right the more views there are.

    Args:
        density: of the logit, for a voxel 1000 HU above the border of bone, times log2 of the views.
    """
    denser: FloatArray = np.float32(density * np.log2(views) / 1000) * (hu - np.float32(BONE_HU))
    probability: FloatArray = 1 / (1 + np.exp(-np.clip(logit + denser, -30, 30)))
    return probability


def _hashed(view: View) -> bytes:
    """What makes a view another one: its pixels, its C-arm, its pose."""
    assert view.volume_from_carm is not None
    digest = hashlib.blake2b(view.line_integrals.tobytes(), digest_size=16)
    digest.update(repr(view.carm).encode())
    digest.update(view.volume_from_carm.tobytes())
    return digest.digest()
