"""The compiled projector (navnode/native/rays.cpp) behind arrays."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Literal, overload

import numpy as np

from navnode import native
from navnode.errors import ComputeError
from navnode.projector.nanodrr import NanodrrRays
from navnode.types import Array, CArm, FloatArray, Matrix, Volume

__all__ = [
    "MU_WATER_PER_MM",
    "Projector",
    "attenuation",
    "backend_name",
    "default_threads",
    "hounsfield",
    "instruction_sets",
]

MU_WATER_PER_MM = 0.02
"""Attenuation of water, 1/mm, near 60 keV; mu = mu_water (1 + HU/1000)."""

PADDING = 2
"""Zero voxels around the volume: rays outside are clamped into them, where value and gradient are 0."""

_INT16_FULL_SCALE = 32_000

_RIGID, _IDENTITY = 1e-2, np.eye(3)
"""Of poses in half precision, too."""
_FARTHEST_MM = 1e6
"""Far beyond any room, yet within float32 precision."""


class _AxisView(ctypes.Structure):
    _fields_ = (
        ("voxels", ctypes.c_void_p),
        ("stride", ctypes.c_int64 * 3),
        ("size", ctypes.c_int32 * 3),
        ("source", ctypes.c_float * 3),
        ("corner", ctypes.c_float * 3),
        ("per_u", ctypes.c_float * 3),
        ("per_v", ctypes.c_float * 3),
        ("from_carm", ctypes.c_float * 9),
    )


class _Scene(ctypes.Structure):
    _fields_ = (
        ("axis", _AxisView * 3),
        ("scale", ctypes.c_float),
        ("center_px", ctypes.c_float * 2),
        ("spacing_mm", ctypes.c_float * 2),
        ("source_to_detector_mm", ctypes.c_float),
        ("pivot_mm", ctypes.c_float),
    )


class _Rays(ctypes.Structure):
    _fields_ = (
        ("u_px", ctypes.c_void_p),
        ("v_px", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("width", ctypes.c_int32),
        ("down", ctypes.c_int32),
    )


def backend_name() -> str:
    """Name of the back end in use, for people, such as ``native avx512``."""
    return f"native {instruction_sets()[0]}"


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets that a :class:`Projector` may be asked for on this CPU, best first."""
    return native.instruction_sets()


def default_threads() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Projector:
    """Line integrals through one volume.

    Args:
        volume: HU; converted to attenuation (1/mm), values below air clipped to 0.
        backend: ``native`` (compiled kernels on the CPU) or ``nanodrr`` (GPU; needs the extra ``gpu``), which uses only
            ``mu_water_per_mm`` of the other arguments.
        precision: ``int16`` packs voxel pairs (quantised to 1/32000 of the largest attenuation; fastest),
            ``float32`` keeps the values and allows :meth:`backproject`.
        threads: default: one per core that this process may use.
        instruction_set: one of :func:`instruction_sets`; default: the best.

    It may be used by several threads at once; what changes the volume (:meth:`correct`, :meth:`scale`) by one.

    Raises:
        ValueError: an argument is none of those above, the voxels are not three-dimensional, real and finite, or the
            grid is not one.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        backend: Literal["native", "nanodrr"] = "native",
        precision: Literal["int16", "float32"] = "int16",
        threads: int | None = None,
        instruction_set: str | None = None,
        mu_water_per_mm: float = MU_WATER_PER_MM,
    ) -> None:
        _check_volume(volume)
        if backend not in ("native", "nanodrr") or precision not in ("int16", "float32"):
            raise ValueError(f"there is no back end {backend!r} of precision {precision!r}")
        if (threads or 0) < 0 or not (np.isfinite(mu_water_per_mm) and mu_water_per_mm > 0):
            raise ValueError("threads must not be negative, and mu_water_per_mm must be positive")
        names = instruction_sets()
        if instruction_set is not None and instruction_set not in names:
            raise ValueError(f"this CPU has {', '.join(names)}, not {instruction_set}")
        self.volume_from_index = volume.volume_from_index
        self.shape = volume.voxels.shape
        self.threads = threads or default_threads()
        self._isa = names.index(instruction_set) if instruction_set else 0
        self._precision = precision
        self._nanodrr: NanodrrRays | None = None
        self._spare: list[FloatArray] = []
        """Sums of back-projections that nobody uses now, all zero. A list gives and takes one at once."""
        if backend == "nanodrr":
            self._nanodrr = NanodrrRays(attenuation(volume.voxels, mu_water_per_mm), volume.volume_from_index)
            return
        # Padding moves voxel 0 to index PADDING.
        shift = np.eye(4)
        shift[:3, 3] = PADDING
        self._index_from_volume = shift @ np.linalg.inv(volume.volume_from_index)
        padded = np.zeros([n + 2 * PADDING for n in self.shape], np.float32)
        self._core = (slice(PADDING, -PADDING),) * 3
        padded[self._core] = attenuation(volume.voxels, mu_water_per_mm)
        largest = float(padded.max())
        if not np.isfinite(largest):
            raise ValueError("voxels must be finite")
        if precision == "int16":
            self._scale = max(largest, 1e-9) / _INT16_FULL_SCALE
            padded *= np.float32(1 / self._scale)
            packed = np.rint(padded, out=padded).astype(np.int16)
            # Axis order (step, row, pair): pairs must be neighbours in memory, so rays that step along
            # the fastest axis need another copy.
            self._layouts = [
                _layout(packed, (0, 1, 2)),
                _layout(packed, (1, 0, 2)),
                _layout(np.ascontiguousarray(packed.transpose(0, 2, 1)).transpose(0, 2, 1), (2, 0, 1)),
            ]
        else:
            self._scale = 1.0
            self._padded = padded
            self._layouts = [
                _layout(padded, (0, 1, 2)),
                _layout(padded, (1, 0, 2)),
                _layout(padded, (2, 0, 1)),
            ]

    @overload
    def render(
        self,
        carm: CArm,
        volume_from_carm: Matrix,
        pixels: Array | None = None,
        jacobian: Literal[False] = False,
        *,
        pivot_mm: float = 0.0,
    ) -> FloatArray: ...
    @overload
    def render(
        self,
        carm: CArm,
        volume_from_carm: Matrix,
        pixels: Array | None = None,
        *,
        jacobian: Literal[True],
        pivot_mm: float = 0.0,
    ) -> tuple[FloatArray, FloatArray]: ...
    def render(
        self,
        carm: CArm,
        volume_from_carm: Matrix,
        pixels: Array | None = None,
        jacobian: bool = False,
        *,
        pivot_mm: float = 0.0,
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Line integrals (dimensionless) by Joseph's method.

        Args:
            pixels: (N, 2) of (u, v) in px, or None for the whole detector.
            jacobian: also return (6, ...) derivatives with respect to the right perturbation
                ``volume_from_carm @ geometry.exp(xi, (0, 0, pivot_mm))``.

        Raises:
            ComputeError: the pose is not rigid, contains NaN or infinity, or lies a kilometre away.
            ValueError: the C-arm's geometry cannot be, or the pixels are not (N, 2).

        Returns:
            (H, W) or (N,) float32; with ``jacobian`` a pair (integrals, derivatives).
        """
        _check_pose(volume_from_carm)
        listed = None if pixels is None else _as_list(pixels)
        shape = (carm.height_px, carm.width_px) if listed is None else (len(listed),)
        if self._nanodrr is not None:
            integrals, derivatives = self._nanodrr.project(carm, volume_from_carm, listed, pivot_mm, jacobian)
        else:
            integrals, derivatives = self._project(carm, volume_from_carm, listed, pivot_mm, jacobian)
        if derivatives is None:
            return integrals.reshape(shape)
        return integrals.reshape(shape), derivatives.reshape(6, *shape)

    def _project(
        self, carm: CArm, volume_from_carm: Matrix, pixels: FloatArray | None, pivot_mm: float, jacobian: bool
    ) -> tuple[FloatArray, FloatArray | None]:
        """Line integrals (N,) and derivatives (6, N) by the compiled kernels."""
        columns = None if pixels is None else np.ascontiguousarray(pixels.T)
        rays = _whole_detector(carm) if columns is None else _listed(columns)
        scene = self._scene(carm, volume_from_carm, pivot_mm)
        integrals = np.empty(rays.count, np.float32)
        derivatives = np.empty((6, rays.count), np.float32) if jacobian else None
        native.library().navnode_project(
            self._isa,
            ctypes.byref(scene),
            0 if self._precision == "int16" else 1,
            ctypes.byref(rays),
            integrals.ctypes.data,
            derivatives.ctypes.data if derivatives is not None else None,
            self.threads,
        )
        return integrals, derivatives

    def backproject(self, carm: CArm, volume_from_carm: Matrix, values: FloatArray) -> FloatArray:
        """Adjoint of :meth:`render` for a whole detector: (H, W) -> (k, j, i); float32 volumes only.

        Raises:
            ValueError: the projector is not native of float32, or values are not (H, W).
            ComputeError: as :meth:`render`.
        """
        sums = self._backprojected(carm, volume_from_carm, values)
        total = np.empty_like(self._padded)
        native.library().navnode_sum(sums.ctypes.data, total.ctypes.data, total.size, self.threads)
        self._spare.append(sums)
        return total[self._core]

    def correct(
        self, carm: CArm, volume_from_carm: Matrix, values: FloatArray, gain: FloatArray, factor: float, least: float
    ) -> None:
        """Add ``factor gain`` times the adjoint of ``values`` to the volume, and raise values below ``least`` to it.

        Args:
            gain: (k, j, i) float32, contiguous.

        Raises:
            ValueError: as :meth:`backproject`, or the gain is another.
            ComputeError: as :meth:`render`.
        """
        self._check_beside(gain)
        sums = self._backprojected(carm, volume_from_carm, values)
        self._sum_into(native.library().navnode_correct, sums, gain, factor, least)

    def scale(
        self, carm: CArm, volume_from_carm: Matrix, values: FloatArray, weight: FloatArray, least: float, most: float
    ) -> None:
        """Multiply the volume by the adjoint of ``values`` over ``weight`` where that exceeds ``least``, at most to
        ``most``; higher values are lowered to it.

        Args:
            weight: (k, j, i) float32, contiguous; the adjoint of ones, for a weighted mean of ``values``.

        Raises:
            ValueError: as :meth:`backproject`, or the weight is another.
            ComputeError: as :meth:`render`.
        """
        self._check_beside(weight)
        sums = self._backprojected(carm, volume_from_carm, values)
        self._sum_into(native.library().navnode_scale, sums, weight, least, most)

    def _check_beside(self, voxels: FloatArray) -> None:
        if voxels.dtype != np.float32 or voxels.shape != self.shape or not voxels.flags.c_contiguous:
            raise ValueError(f"values beside the volume must be contiguous float32 of shape {self.shape}")

    def _sum_into(self, change: Callable[..., None], sums: FloatArray, beside: FloatArray, *factors: float) -> None:
        size = (ctypes.c_int32 * 3)(*self._padded.shape)
        change(sums.ctypes.data, self._padded.ctypes.data, beside.ctypes.data, *factors, size, PADDING, self.threads)
        self._spare.append(sums)

    def _backprojected(self, carm: CArm, volume_from_carm: Matrix, values: FloatArray) -> FloatArray:
        """The adjoint with its border, one part per thread; reading the parts must reset them to zero."""
        if self._precision != "float32" or self._nanodrr is not None:
            raise ValueError("back-projection needs a native projector of float32 precision")
        if np.shape(values) != (carm.height_px, carm.width_px):
            raise ValueError(f"values must have the shape {(carm.height_px, carm.width_px)}, not {np.shape(values)}")
        _check_pose(volume_from_carm)
        scene = self._scene(carm, volume_from_carm, 0.0)
        try:
            sums = self._spare.pop()
        except IndexError:  # the first call, or as many at once as never before
            sums = np.zeros((self.threads, *self._padded.shape), np.float32)
        rays = _whole_detector(carm)
        values = np.ascontiguousarray(values, np.float32).ravel()
        native.library().navnode_backproject(
            self._isa,
            ctypes.byref(scene),
            ctypes.byref(rays),
            values.ctypes.data,
            sums.ctypes.data,
            self._padded.size,
            self.threads,
        )
        return sums

    @property
    def memory_bytes(self) -> int:
        """What is kept of the volume; :meth:`backproject` also needs as much of float32 for every thread."""
        if self._nanodrr is not None:
            return 4 * int(np.prod(self.shape))
        kept = {id(array): array.nbytes for array, _ in self._layouts}
        return sum(kept.values())

    @property
    def attenuation_per_mm(self) -> FloatArray:
        """The volume of a float32 projector, (k, j, i), 1/mm; write into it to change it."""
        return self._padded[self._core]

    def _scene(self, carm: CArm, volume_from_carm: Matrix, pivot_mm: float) -> _Scene:
        index_from_carm = self._index_from_volume @ volume_from_carm
        source, linear = index_from_carm[:3, 3], index_from_carm[:3, :3]
        (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
        if not (0 < carm.source_to_detector_mm < _FARTHEST_MM and 0 < abs(su * sv) < np.inf and abs(cu + cv) < np.inf):
            raise ValueError(
                f"no C-arm has {carm.source_to_detector_mm} mm, pixels of {su} x {sv} mm, center {cu}, {cv}"
            )
        corner = linear @ (-cu * su, -cv * sv, carm.source_to_detector_mm)
        scene = _Scene()
        for axis, (array, order) in enumerate(self._layouts):
            view = scene.axis[axis]
            xyz = [2 - a for a in order]  # array axes are (k, j, i), index coordinates (i, j, k)
            view.voxels = array.ctypes.data
            view.stride[:] = [array.strides[a] // array.itemsize for a in order]
            view.size[:] = [array.shape[a] for a in order]
            view.source[:] = source[xyz].tolist()
            view.corner[:] = corner[xyz].tolist()
            view.per_u[:] = (linear[:, 0] * su)[xyz].tolist()
            view.per_v[:] = (linear[:, 1] * sv)[xyz].tolist()
            view.from_carm[:] = linear[xyz].ravel().tolist()
        scene.scale = self._scale
        scene.center_px[:] = cu, cv
        scene.spacing_mm[:] = su, sv
        scene.source_to_detector_mm = carm.source_to_detector_mm
        scene.pivot_mm = pivot_mm
        return scene


def attenuation(hu: Array, mu_water_per_mm: float = MU_WATER_PER_MM) -> FloatArray:
    """Attenuation in 1/mm from HU, clipped at 0; shape like ``hu``."""
    mu = hu.astype(np.float32)
    mu += 1000.0
    mu *= mu_water_per_mm / 1000.0
    return np.maximum(mu, 0.0, out=mu)


def hounsfield(attenuation_per_mm: Array, mu_water_per_mm: float = MU_WATER_PER_MM) -> FloatArray:
    """HU from attenuation in 1/mm, of the same shape."""
    hu: FloatArray = (attenuation_per_mm * (1000.0 / mu_water_per_mm) - 1000.0).astype(np.float32)
    return hu


def _layout(array: Array, order: tuple[int, int, int]) -> tuple[Array, tuple[int, int, int]]:
    return array, order


def _whole_detector(carm: CArm) -> _Rays:
    return _Rays(None, None, carm.width_px * carm.height_px, carm.width_px, 0)


def _listed(columns: FloatArray) -> _Rays:
    """Rays that point into ``columns`` (2, N)."""
    return _Rays(columns[0].ctypes.data, columns[1].ctypes.data, columns.shape[1], 0, 0)


def _check_pose(volume_from_carm: Matrix) -> None:
    if np.shape(volume_from_carm) != (4, 4):
        raise ComputeError(f"the C-arm's pose must be 4x4, not {np.shape(volume_from_carm)}")
    if not (np.isfinite(volume_from_carm).all() and np.abs(volume_from_carm).max() < _FARTHEST_MM):
        raise ComputeError("the C-arm's pose is not finite or out of range")
    axes = volume_from_carm[:3, :3]
    if np.abs(axes @ axes.T - _IDENTITY).max() > _RIGID:
        raise ComputeError("the C-arm's pose is not rigid: it scales or shears")


def _check_volume(volume: Volume) -> None:
    if volume.voxels.ndim != 3 or not volume.voxels.size or np.iscomplexobj(volume.voxels):
        raise ValueError(f"voxels must be real, and have the shape (k, j, i), not {volume.voxels.shape}")
    grid = np.asarray(volume.volume_from_index)
    if grid.shape != (4, 4) or not np.isfinite(grid).all() or not abs(np.linalg.det(grid[:3, :3])) > 0:
        raise ValueError("volume_from_index must be 4x4, finite and invertible")


def _as_list(pixels: Array) -> FloatArray:
    uv = np.asarray(pixels, np.float32)
    if uv.ndim != 2 or uv.shape[1] != 2:
        raise ValueError(f"pixels must have the shape (N, 2), not {uv.shape}")
    return uv
