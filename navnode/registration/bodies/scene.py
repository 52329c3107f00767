"""A CT taken apart: bodies, and what is left when they are taken out. X-rays show both, each at a pose of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.projector import Projector
from navnode.projector.grids import coarsened
from navnode.registration.appearance import Observed, XrayImage
from navnode.registration.bodies.body import Body, Shadow, soft_tissue
from navnode.registration.carm.descent import in_detail
from navnode.registration.carm.stated import Evidence, evidence_of
from navnode.types import Array, CArm, FloatArray, Matrix, Volume

__all__ = ["Scene"]

_JUDGED_PX, _JUDGED_MM = 170, 1.4
"""Pixels across an image, and voxels, with which a geometry is judged."""
_RIM_PX = 3


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

    def linearised(
        self, observed: Observed, parts_from_carm: Sequence[Matrix], pivot_mm: float, voxel_mm: float
    ) -> tuple[FloatArray, FloatArray]:
        """Line integrals (N,) of all parts together, and derivatives (6 parts, N) by the pose of each.

        Args:
            parts_from_carm: 4x4, of the rest, then of every body.
            pivot_mm: distance from the source to the point on the principal ray that rotations turn about.
        """
        carm = observed.carm
        pixels = _grid(carm) if observed.pixels is None else observed.pixels
        jacobian = np.zeros((6 * len(parts_from_carm), len(pixels)), np.float32)
        predicted, jacobian[:6] = self.rest(voxel_mm).render(
            carm, parts_from_carm[0], pixels, jacobian=True, pivot_mm=pivot_mm
        )
        for n, (body, pose) in enumerate(zip(self.bodies, parts_from_carm[1:], strict=True), start=1):
            inside = _behind(body, carm, pose, pixels)
            if inside.size:
                line, change = body.at(voxel_mm).render(carm, pose, pixels[inside], jacobian=True, pivot_mm=pivot_mm)
                predicted[inside] += line
                jacobian[6 * n : 6 * n + 6, inside] = change
        return predicted, jacobian

    def evidence(self, image: XrayImage, parts_from_carm: Sequence[Matrix], pivot_mm: float) -> Evidence:
        """What an image says of its C-arm's geometry, wherever the parts are; arguments as of :meth:`linearised`."""
        observed = image.observed(_JUDGED_PX)
        predicted, jacobian = self.linearised(observed, parts_from_carm, pivot_mm, _JUDGED_MM)
        equations = in_detail(observed, predicted, jacobian, pivot_mm)
        return evidence_of(equations, image.carm, parts_from_carm[0], pivot_mm)


def _grid(carm: CArm) -> FloatArray:
    """All pixels (N, 2)."""
    v, u = np.mgrid[: carm.height_px, : carm.width_px]
    return np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float32)


def _behind(body: Body, carm: CArm, body_from_carm: Matrix, pixels: FloatArray) -> npt.NDArray[np.intp]:
    """Which of the pixels (N, 2) lie in the box of a body's shadow."""
    box_px = g.project(carm, g.inverse(body_from_carm), body.corners_mm)
    if not np.isfinite(box_px).all():
        return np.empty(0, np.intp)
    low, high = box_px.min(axis=0) - _RIM_PX, box_px.max(axis=0) + _RIM_PX
    return np.flatnonzero(((pixels >= low) & (pixels <= high)).all(axis=1))
