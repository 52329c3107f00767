"""The X-ray transform: all views of a volume as one linear map, with its adjoint, for iterative reconstruction.

:class:`Projector` renders one volume in HU from any pose. Here the views stay and the volume changes, in the units
of reconstruction: attenuation per millimetre in, line integrals out. The adjoint is matched: it takes the same samples
with the same weights as the map itself (Joseph, IEEE Trans. Med. Imaging 1(3), 1982), so that solvers converge.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from threading import Lock
from typing import Any

import numpy as np

from navnode.projector.native import Projector
from navnode.types import Array, CArm, FloatArray, Matrix, Volume

__all__ = ["XrayTransform"]

_AIR_HU = -1000.0


class XrayTransform:
    """Line integrals of volumes on one grid in several views, and their adjoint.

    Memory: the volume once (three times while it is made), and once more per thread, for the sum and for the result as
    soon as the adjoint is asked for. It cannot be pickled: other processes make one of their own.

    Args:
        shape: (k, j, i) voxels of the grid.
        volume_from_index: (4, 4), mm; voxels may be of any spacing and orientation.
        carms: one for all views, or one for each; detectors of one size.
        volume_from_carm: (N, 4, 4), mm, rigid.
        threads: default: one per core that this process may use.

    Raises:
        ValueError: shapes do not fit each other, or detectors differ in size.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        volume_from_index: Matrix,
        carms: CArm | Sequence[CArm],
        volume_from_carm: Array,
        *,
        threads: int | None = None,
    ) -> None:
        poses = _kept(volume_from_carm)
        if poses.ndim != 3 or poses.shape[1:] != (4, 4):
            raise ValueError(f"poses must have the shape (N, 4, 4), not {poses.shape}")
        self.volume_from_carm: Matrix = poses
        self.carms = [carms] * len(poses) if isinstance(carms, CArm) else list(carms)
        sizes = {(carm.height_px, carm.width_px) for carm in self.carms}
        if len(self.carms) != len(poses) or len(sizes) != 1:
            raise ValueError(f"{len(poses)} poses need as many C-arms, or one, with detectors of one size")
        k, j, i = map(int, shape)
        self.domain_shape: tuple[int, int, int] = (k, j, i)
        """(k, j, i)"""
        self.range_shape: tuple[int, int, int] = (len(poses), *sizes.pop())
        """(N, H, W)"""
        air = Volume(np.full(self.domain_shape, _AIR_HU, np.float32), volume_from_index)
        self._projector = Projector(air, precision="float32", threads=threads)
        self._in_use = Lock()  # PyTorch differentiates in threads of its own

    def forward(self, attenuation_per_mm: Array) -> FloatArray:
        """Line integrals (..., N, H, W) of volumes (..., k, j, i), 1/mm.

        Raises:
            ValueError: the volumes are not on the grid.
        """
        batch, volumes = _stacked(attenuation_per_mm, self.domain_shape, "volumes")
        views = np.empty((len(volumes), *self.range_shape), np.float32)
        for volume, each in zip(volumes, views, strict=True):
            with self._in_use:
                self._projector.attenuation_per_mm[...] = volume
                for view, carm, pose in zip(each, self.carms, self.volume_from_carm, strict=True):
                    view[...] = self._projector.render(carm, pose)
        return views.reshape(*batch, *self.range_shape)

    def adjoint(self, line_integrals: Array) -> FloatArray:
        """The transpose of :meth:`forward`: (..., N, H, W) to (..., k, j, i), mm times what is given.

        Raises:
            ValueError: the views are not as many, or not as large, as those of the transform.
        """
        batch, given = _stacked(line_integrals, self.range_shape, "views")
        volumes = np.zeros((len(given), *self.domain_shape), np.float32)
        for volume, views in zip(volumes, given, strict=True):
            for view, carm, pose in zip(views, self.carms, self.volume_from_carm, strict=True):
                with self._in_use:
                    volume += self._projector.backproject(carm, pose, view)
        return volumes.reshape(*batch, *self.domain_shape)

    def derivatives(self, attenuation_per_mm: Array) -> tuple[FloatArray, FloatArray]:
        """Line integrals (N, H, W) of one volume (k, j, i), 1/mm, and their derivatives (N, 6, H, W) by each view's
        pose: ``volume_from_carm @ geometry.exp(xi)``, rad and mm.

        Raises:
            ValueError: the volume is not on the grid.
        """
        batch, volumes = _stacked(attenuation_per_mm, self.domain_shape, "volumes")
        if batch:
            raise ValueError("derivatives are of one volume at a time")
        with self._in_use:
            self._projector.attenuation_per_mm[...] = volumes[0]
            made = [
                self._projector.render(carm, pose, jacobian=True)
                for carm, pose in zip(self.carms, self.volume_from_carm, strict=True)
            ]
        return np.stack([integrals for integrals, _ in made]), np.stack([slopes for _, slopes in made])

    def at(self, volume_from_carm: Array) -> XrayTransform:
        """The same with other poses (N, 4, 4) of the same C-arms; the two share their memory.

        Raises:
            ValueError: there are not as many.
        """
        other = copy(self)
        other.volume_from_carm = _kept(volume_from_carm)
        if other.volume_from_carm.shape != self.volume_from_carm.shape:
            raise ValueError(f"poses must have the shape {self.volume_from_carm.shape}")
        return other

    def linear_operator(self) -> Any:
        """The transform as SciPy's ``LinearOperator``, for its solvers, PyLops and PyProximal; needs SciPy."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            (int(np.prod(self.range_shape)), int(np.prod(self.domain_shape))),
            matvec=lambda volume: self.forward(volume.reshape(self.domain_shape)).ravel(),
            rmatvec=lambda views: self.adjoint(views.reshape(self.range_shape)).ravel(),
            dtype=np.float32,
        )


def _kept(volume_from_carm: Array) -> Matrix:
    """Poses of one's own: who gave them may change them."""
    poses = np.array(volume_from_carm, np.float64)
    poses.setflags(write=False)
    return poses


def _stacked(given: Array, shape: tuple[int, ...], what: str) -> tuple[tuple[int, ...], FloatArray]:
    """The shape of a batch, and what it holds, one after another."""
    if np.iscomplexobj(given):
        raise ValueError(f"{what} must be real")
    values = np.asarray(given, np.float32)
    if values.shape[-len(shape) :] != shape:
        raise ValueError(f"{what} must have the shape (..., {', '.join(map(str, shape))}), not {values.shape}")
    batch = values.shape[: -len(shape)]
    return batch, values.reshape(int(np.prod(batch)), *shape)
