"""The bone surface of a volume, and how far off it may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from skimage.measure import marching_cubes, mesh_surface_area

from navnode import geometry as g
from navnode.projector.grids import resample
from navnode.types import FloatArray, Mesh, Volume

BONE_HU = 300.0
_GRID_MM = 2.5
_MIN_PIECE_MM3 = 800.0
_MAX_TRIANGLES = 250_000
_NEAR_MM = 12.0
"""What is farther from a surface is another's error."""


@dataclass(frozen=True)
class Surface:
    """A bone surface and what is to be said of it."""

    mesh: Mesh
    size_mm: tuple[float, float, float]
    """Of the box around it, along R, A and S."""
    volume_cm3: float
    error_mm: float | None
    """How far off it is on average, as the probability of bone states; None where none is stated."""


def bone_surface(volume: Volume, *, relative: bool = False) -> Surface | None:
    """A closed surface around bone, None where there is none.

    Args:
        volume: HU
        relative: take the densest hundredth of the body instead of a fixed HU, for volumes from a few
            X-rays, whose HU are biased low.
    """
    coarse = resample(volume, max(_GRID_MM, min(volume.spacing_mm)))
    smooth = gaussian_filter(coarse.voxels, 0.6)
    body = smooth > -400.0
    if relative and not body.any():
        return None
    level = float(np.percentile(smooth[body], 98.0)) if relative else BONE_HU
    return _closed(smooth, coarse, level, -1000.0)


def likely_surface(bone: Volume, threshold: float = 0.5) -> Surface | None:
    """A closed surface around what is likely bone, None where there is none.

    Its error is the volume that is expected to be on the wrong side of it, over its area.

    Args:
        bone: probability, 0..1
        threshold: of the probability.
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


def _closed(values: FloatArray, grid: Volume, level: float, outside: float) -> Surface | None:
    """Where ``values`` on a volume's grid pass ``level``, without small pieces; changes ``values``."""
    for border in (np.s_[:1], np.s_[-1:]):  # bone cut by the edge of the volume is closed there
        values[border] = values[:, border] = values[:, :, border] = outside
    pieces, _ = label(values > level)
    piece_mm3 = np.bincount(pieces.ravel()) * float(np.prod(grid.spacing_mm))
    keep = piece_mm3 >= _MIN_PIECE_MM3
    keep[0] = True
    values[~keep[pieces]] = outside
    if not (values > level).any():
        return None
    step = 1
    while True:
        vertices, faces, _, _ = marching_cubes(values, level, step_size=step, allow_degenerate=False)
        if len(faces) <= _MAX_TRIANGLES:
            break
        step += 1
    points = g.transform(grid.volume_from_index, vertices[:, ::-1]).astype(np.float32)
    right, front, up = (float(extent) for extent in np.ptp(points, axis=0))
    a, b, c = (points[faces[:, corner]].astype(np.float64) for corner in range(3))
    volume_mm3 = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
    return Surface(Mesh(points, faces.astype(np.uint32)), (right, front, up), volume_mm3 / 1000, None)
