"""Volumes from any few views by the network, updated with every view.

What the views say is added up (:mod:`network`), so that a new view costs its own encoding and one pass over the
volume, in whatever order they come, and a view that has become stale can be taken out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navnode.reconstruction.classical import consistent
from navnode.reconstruction.engines import Networks
from navnode.reconstruction.features import GRID, picture
from navnode.types import FloatArray, Matrix, View, Volume
from navnode.volumes import AIR_HU, centered_grid

_LAPLACE_95 = float(np.log(20.0))
"""95 % of a Laplace distribution lie within so many scales."""
_HU = (-1000.0, 3000.0)
UNKNOWN_HU = 4000.0
"""Half of the interval where nothing is known: all HU there are."""
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

    def __init__(self, networks: Networks, center_mm: Matrix, spacing_mm: float) -> None:
        self.volume_from_grid = centered_grid((GRID,) * 3, spacing_mm, center_mm)
        self.spacing_mm = spacing_mm
        self.center_mm = np.array(center_mm, np.float64)
        self._networks = networks
        self._sums: list[FloatArray] = []
        self._views: dict[bytes, View] = {}

    @property
    def views(self) -> int:
        """How many have been added up."""
        return len(self._views)

    def add(self, view: View) -> None:
        """Take a view in; one that is in already counts once."""
        key = _key(view)
        if key not in self._views:
            self._views[key] = view
            self._take(view, 1)

    def keep(self, views: Sequence[View]) -> None:
        """Take out all but these."""
        for key in self._views.keys() - {_key(view) for view in views}:
            self._take(self._views.pop(key), -1)

    def _take(self, view: View, sign: int) -> None:
        made = picture(view, self.volume_from_grid)
        said = self._networks.view({"picture": made.channels[None], "picture_from_grid": made.picture_from_grid[None]})
        if not self._sums:
            self._sums = [np.zeros_like(part) for part in said]
        for total, part in zip(self._sums, said, strict=True):
            if sign > 0:
                total += part
            else:
                total -= part

    def result(self, threads: int | None = None) -> Reconstructed:
        """What all views together say, brought into agreement with their detail; there must be one."""
        sums, smeared = self._sums
        inputs = {"sums": sums, "smeared": smeared, "views": np.array([float(self.views)], np.float32)}
        mean, _, scale = self._networks.volume(inputs)[0][0]
        name = f"learned, {self.views} views"
        said = Volume(np.clip(1000.0 * mean, *_HU).astype(np.float32), self.volume_from_grid, name)
        hu = consistent(said, list(self._views.values()), threads=threads).voxels
        unknown = np.round(smeared[0, 2]) < min(2, self.views)
        hu[unknown] = AIR_HU
        half = 1000.0 * _LAPLACE_95 * self._networks.card.sigma_factor * np.exp(np.clip(scale, *SCALES))
        half[unknown] = UNKNOWN_HU
        return Reconstructed(
            Volume(hu, self.volume_from_grid, name),
            Volume(half.astype(np.float32), self.volume_from_grid, "half of the 95 % interval, HU"),
        )


def _key(view: View) -> bytes:
    """What makes a view another one: its pixels, its C-arm, its pose."""
    assert view.volume_from_carm is not None
    digest = hashlib.blake2b(view.line_integrals.tobytes(), digest_size=16)
    digest.update(repr(view.carm).encode())
    digest.update(view.volume_from_carm.tobytes())
    return digest.digest()
