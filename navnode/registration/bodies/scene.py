"""A CT taken apart: bodies, and what is left when they are taken out. X-rays show both, each at a pose of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from navnode.projector import Projector
from navnode.projector.grids import coarsened
from navnode.registration.bodies.body import Body, Shadow, soft_tissue
from navnode.types import Array, CArm, FloatArray, Matrix, Volume

__all__ = ["Scene"]


class Scene:
    """A CT's rest and its bodies.

    Args:
        ct: HU.
        labels: bool, (k, j, i), of every body.
        bodies: of that CT.
        threads: of the projectors; default: all.
    """

    def __init__(self, ct: Volume, labels: Sequence[Array], bodies: Sequence[Body], threads: int | None) -> None:
        self.bodies = bodies
        self._rest, self._threads = soft_tissue(ct, labels), threads
        self._projectors: dict[float, Projector] = {}

    def rest(self, voxel_mm: float) -> Projector:
        """What is no body, with voxels of a size, at least its own."""
        if voxel_mm not in self._projectors:
            self._projectors[voxel_mm] = Projector(coarsened(self._rest, voxel_mm), threads=self._threads)
        return self._projectors[voxel_mm]

    def shown(
        self, carm: CArm, volume_from_carm: Matrix, bodies_from_carm: Sequence[Matrix], voxel_mm: float
    ) -> tuple[FloatArray, list[Shadow | None]]:
        """Line integrals (H, W) of the rest, and the shadow of every body.

        Args:
            volume_from_carm: 4x4, of the rest.
            bodies_from_carm: 4x4, of every body.
        """
        rest = self.rest(voxel_mm).render(carm, volume_from_carm)
        bodies = zip(self.bodies, bodies_from_carm, strict=True)
        return rest, [body.shadow(carm, body_from_carm, np.eye(4)) for body, body_from_carm in bodies]
