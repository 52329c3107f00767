"""Whether a worker's answer is one to what it was asked: a worker elsewhere is another program."""

from __future__ import annotations

import numpy as np

from navnode import geometry as g
from navnode.types import Array, Grid, Matrix, Mesh, Volume, VolumeReady

__all__ = ["in_short", "why_no_surface", "why_no_volume"]

_AROUND_VOXELS = 4.0
"""A surface lies in its grid, but for so much: lungs are found on voxels twice as large."""
_SAME_MM = 1e-3
_LONGEST = 300


def why_no_volume(ready: VolumeReady, grid: Grid) -> str:
    """Why an answer's volume or surfaces cannot be what was asked for on a grid, or ''."""
    for volume in (ready.volume, ready.uncertainty_hu):
        if volume is None:
            continue
        place = np.asarray(volume.volume_from_index)
        if volume.voxels.shape != grid.shape or place.shape != (4, 4):
            return "its volume has another size"
        if not np.allclose(place, grid.volume_from_index, rtol=0, atol=_SAME_MM):
            return "its volume lies elsewhere"
        if volume.voxels.dtype != np.float32 or not np.isfinite(volume.voxels.sum()):  # the loop waits: one pass
            return "its voxels are no numbers"
    for mesh in (ready.bone, ready.lungs):
        if mesh is not None and (reason := _why_no_mesh(mesh, grid.shape, grid.volume_from_index)):
            return reason
    return ""


def why_no_surface(bone: Mesh, ct: Volume) -> str:
    """Why a surface cannot be one of a CT, or ''."""
    return _why_no_mesh(bone, ct.voxels.shape, ct.volume_from_index)


def _why_no_mesh(mesh: Mesh, shape: tuple[int, ...], volume_from_index: Matrix) -> str:
    """Why a mesh cannot lie in a grid of voxels (k, j, i), or ''."""
    vertices, triangles = np.asarray(mesh.vertices_mm), np.asarray(mesh.triangles)
    if not (
        _is_table(vertices) and vertices.dtype.kind == "f" and _is_table(triangles) and triangles.dtype.kind in "iu"
    ):
        return "its surface is no mesh"
    if not len(triangles) or int(triangles.max()) >= len(vertices) or int(triangles.min()) < 0:
        return "its surface is no mesh"
    if not np.isfinite(vertices).all():
        return "its surface is nowhere"
    index_from_volume = np.asarray(np.linalg.inv(volume_from_index), np.float64)
    index = g.transform(index_from_volume, vertices.astype(np.float64))
    last = np.array(shape[::-1]) - 1
    if index.min() < -_AROUND_VOXELS or (index.max(axis=0) > last + _AROUND_VOXELS).any():
        return "its surface lies elsewhere"
    return ""


def _is_table(array: Array) -> bool:
    return array.ndim == 2 and array.shape[1] == 3


def in_short(text: str) -> str:
    """What a worker says, as it may be shown: one line, and no longer than a line is read."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
