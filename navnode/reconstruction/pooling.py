"""What views show at the voxels of a cube, pooled over the views that see a voxel (``native/pool.cpp``)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from navnode import native
from navnode.projector.native import default_threads, instruction_sets
from navnode.types import Array, FloatArray, Matrix

__all__ = ["Pooled", "pool"]

_NEAREST_MM = 1.0
"""Voxels closer to the source than this are not seen."""


@dataclass(frozen=True)
class Pooled:
    """Over the views that see a voxel, (C, k, j, i) each; 0 where none does."""

    mean: FloatArray
    least: FloatArray | None
    """None if not asked for, like :attr:`most`."""
    most: FloatArray | None
    count: FloatArray
    """(k, j, i), number of views that see a voxel."""


def pool(
    pictures: FloatArray,
    measured: Array,
    pixels_from_index: Matrix,
    size: int,
    *,
    least: bool = False,
    most: bool = False,
    threads: int | None = None,
    instruction_set: str | None = None,
) -> Pooled:
    """Sample views' pictures at the voxels of a cube (bilinear), and pool the samples.

    Args:
        pictures: (V, C, H, W), finite; H and W at least 2.
        measured: (V, H, W), where the pictures are valid. A view sees a voxel if more than half of what is around its
            place in the picture is.
        pixels_from_index: (V, 3, 4), voxel (i, j, k, 1) -> (u w, v w, w), w the voxel's depth in mm.
        size: voxels along each side.
        least, most: whether minimum and maximum over the views are wanted.
        threads: default: all cores.
        instruction_set: one of :func:`navnode.projector.instruction_sets`; default: the best.

    Raises:
        ValueError: shapes do not fit each other.
    """
    views, channels, height, width = pictures.shape
    if measured.shape != (views, height, width) or pixels_from_index.shape != (views, 3, 4) or min(height, width) < 2:
        raise ValueError(f"pictures {pictures.shape}, measured {measured.shape}, geometry {pixels_from_index.shape}")
    given = [np.ascontiguousarray(part, np.float32) for part in (pictures, measured, pixels_from_index)]
    cube = (channels, size, size, size)
    mean, count = np.empty(cube, np.float32), np.empty(cube[1:], np.float32)
    lowest, highest = (np.empty(cube, np.float32) if wanted else None for wanted in (least, most))
    asked = _Pooling(
        *(part.ctypes.data for part in given),
        *(None if part is None else part.ctypes.data for part in (mean, lowest, highest, count)),
        *(views, channels, height, width, size),
        _NEAREST_MM,
    )
    isa = instruction_sets().index(instruction_set) if instruction_set else 0
    native.library().navnode_pool(isa, ctypes.byref(asked), threads or default_threads())
    return Pooled(mean, lowest, highest, count)


class _Pooling(ctypes.Structure):
    _fields_ = (
        ("pictures", ctypes.c_void_p),
        ("measured", ctypes.c_void_p),
        ("pixels_from_index", ctypes.c_void_p),
        ("mean", ctypes.c_void_p),
        ("least", ctypes.c_void_p),
        ("most", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("views", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("nearest_mm", ctypes.c_float),
    )
