"""Closed surfaces of bone, lungs and skin, and their expected error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes, mesh_surface_area

from navnode import geometry as g
from navnode.projector.grids import AIR_HU, resample
from navnode.types import Array, FloatArray, Mesh, Volume

__all__ = ["BONE_HU", "Surface", "bone_surface", "inside", "likely_surface", "skin_surface"]

BONE_HU = 300.0
_GRID_MM = 2.5
_MIN_PIECE_MM3 = 800.0
_SKIN_HU = -350.0
_WATER_HU = 0.0
_MAX_TRIANGLES = 250_000
_OFF_GRID = 1e-5 * np.array([np.sqrt(2), np.sqrt(3)])
"""Voxels, so that no line along k meets an edge."""
_NEAR_MM = 12.0
"""Voxels farther from a surface count towards another's error."""


@dataclass(frozen=True)
class Surface:
    """A closed surface.

    ``volume_cm3`` is the volume that it encloses, in cm3.
    """

    mesh: Mesh
    """RAS mm."""
    size_mm: tuple[float, float, float]
    """Size of its bounding box, along R, A and S."""
    volume_cm3: float
    error_mm: float | None
    """Expected mean distance from the true surface; None if the method states none."""
    error_95_mm: tuple[float, float] | None = None
    """95 % interval of that mean."""
    name: str = ""
    """What it surrounds, if that is known: a kind of bone."""

    def pieces(self) -> list[Surface]:
        """Its connected parts, each closed, largest first."""
        mesh = self.mesh
        ends = mesh.triangles[:, [0, 1, 1, 2]].reshape(-1, 2)
        count = len(mesh.vertices_mm)
        joined = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
        parts, part_of_vertex = connected_components(joined, directed=False)
        part_of_triangle = part_of_vertex[mesh.triangles[:, 0]]
        found = []
        for part in range(parts):
            mine = part_of_vertex == part
            number = np.cumsum(mine) - 1
            triangles = number[mesh.triangles[part_of_triangle == part]].astype(np.uint32)
            measured = _measured(Mesh(mesh.vertices_mm[mine], triangles))
            found.append(replace(measured, error_mm=self.error_mm, error_95_mm=self.error_95_mm))
        return sorted(found, key=lambda piece: -piece.volume_cm3)


_OFF_LEVEL = 2e-4
"""Least distance of values from the surface's, as a share of their range: vertices beside a voxel's middle would be one
place once files have rounded them, and what is closed would touch itself there."""


def bone_surface(volume: Volume, *, relative: bool = False) -> Surface | None:
    """A closed surface around bone; None if there is none.

    Args:
        volume: HU
        relative: use the 98th percentile of the body instead of a fixed HU, for volumes from a few X-rays, whose HU are
            too low.
    """
    coarse = resample(volume, max(_GRID_MM, min(volume.spacing_mm)))
    smooth = gaussian_filter(coarse.voxels, 0.6)
    body = smooth > -400.0
    if relative and not body.any():
        return None
    level = float(np.percentile(smooth[body], 98.0)) if relative else BONE_HU
    return _closed(smooth, coarse, level, AIR_HU)


def likely_surface(bone: Volume, threshold: float = 0.5) -> Surface | None:
    """A closed surface around what is likely bone or lung; None if there is none.

    Its error is the volume expected on the wrong side of it, over its area.

    Args:
        bone: probability, 0..1
        threshold: probability at the surface, 0..1.
    """
    likely = gaussian_filter(bone.voxels, 0.4)
    surface = _closed(likely, bone, threshold, 0.0)
    if surface is None:
        return None
    spacing_mm = bone.spacing_mm[::-1]
    inside = likely > threshold
    near = distance_transform_edt(~inside, spacing_mm) < _NEAR_MM
    wrong = np.where(inside, 1 - bone.voxels, bone.voxels)[near].sum(dtype=np.float64)
    area_mm2 = float(mesh_surface_area(surface.mesh.vertices_mm, surface.mesh.triangles))
    return replace(surface, error_mm=float(wrong) * float(np.prod(spacing_mm)) / area_mm2)


def skin_surface(volume: Volume) -> Surface | None:
    """A closed surface around the largest body in a volume; None if there is none.

    Args:
        volume: HU
    """
    coarse = resample(volume, max(_GRID_MM, min(volume.spacing_mm)))
    smooth = gaussian_filter(coarse.voxels, 1.0)
    parts, count = label(smooth > _SKIN_HU)
    if not count:
        return None
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    solid = np.stack([binary_fill_holes(plane) for plane in largest])  # lungs and bowel gas are inside
    smooth[solid & ~largest] = _WATER_HU
    smooth[~solid] = np.minimum(smooth[~solid], AIR_HU)
    return _closed(smooth, coarse, _SKIN_HU, AIR_HU)


def inside(mesh: Mesh, grid: Volume) -> Array:
    """Which voxels of a grid lie within a closed surface, bool, (k, j, i).

    Counts how often the line along k to each voxel crosses the surface (even and odd rule).
    """
    index_from_volume = np.asarray(np.linalg.inv(grid.volume_from_index), np.float64)
    vertices = g.transform(index_from_volume, mesh.vertices_mm.astype(np.float64))
    corners = vertices[mesh.triangles]
    corners[..., :2] += _OFF_GRID
    depth, height, width = grid.voxels.shape
    crossings = np.zeros((depth + 1, height, width), np.int32)
    low = np.maximum(np.ceil(corners[..., :2].min(axis=1)), 0).astype(np.int64)
    high = np.minimum(np.floor(corners[..., :2].max(axis=1)), (width - 1, height - 1)).astype(np.int64)
    for (a, b, c), (i0, j0), (i1, j1) in zip(corners, low, high, strict=True):
        if i1 < i0 or j1 < j0:
            continue
        i, j = np.meshgrid(np.arange(i0, i1 + 1), np.arange(j0, j1 + 1), indexing="ij")
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if area == 0:
            continue
        s = ((i - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (j - a[1])) / area
        t = ((b[0] - a[0]) * (j - a[1]) - (i - a[0]) * (b[1] - a[1])) / area
        hit = (s >= 0) & (t >= 0) & (s + t <= 1)
        k = np.ceil(a[2] + s * (b[2] - a[2]) + t * (c[2] - a[2]))[hit]
        np.add.at(crossings, (np.clip(k, 0, depth).astype(np.int64), j[hit], i[hit]), 1)
    found: Array = (np.cumsum(crossings[:-1], axis=0) & 1).astype(bool)
    return found


def _closed(values: FloatArray, grid: Volume, level: float, outside: float) -> Surface | None:
    """The surface where ``values`` on a volume's grid cross ``level``, without small pieces; changes ``values``."""
    for border in (np.s_[:1], np.s_[-1:]):  # close what the volume's edge cuts
        values[border] = values[:, border] = values[:, :, border] = outside
    pieces, _ = label(values > level)
    piece_mm3 = np.bincount(pieces.ravel()) * float(np.prod(grid.spacing_mm))
    keep = piece_mm3 >= _MIN_PIECE_MM3
    keep[0] = True
    values[~keep[pieces]] = outside
    if not (values > level).any():
        return None
    off = _OFF_LEVEL * float(np.ptp(values))
    near = np.abs(values - level) < off
    values[near] = level + np.where(values[near] > level, off, -off)
    step = 1
    while True:
        vertices, faces, _, _ = marching_cubes(values, level, step_size=step, allow_degenerate=False)
        if len(faces) <= _MAX_TRIANGLES:
            break
        step += 1
    points = g.transform(grid.volume_from_index, vertices[:, ::-1]).astype(np.float32)
    return _measured(Mesh(points, faces.astype(np.uint32)))


def _measured(mesh: Mesh) -> Surface:
    """Size and volume of a closed mesh."""
    right, front, up = (float(extent) for extent in np.ptp(mesh.vertices_mm, axis=0))
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, corner]].astype(np.float64) for corner in range(3))
    volume_mm3 = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
    return Surface(mesh, (right, front, up), volume_mm3 / 1000, None)
