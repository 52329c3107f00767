"""Measurements of a bone's surface: length, expected error by place, what the pictures do not show, and its mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

from navnode import geometry as g
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.surface import Surface
from navnode.types import Array, FloatArray, Matrix, Mesh, View, Volume

__all__ = ["Measures", "Soundness", "measured", "sound"]

_REACH_MM, _STEP_MM = 12.0, 1.0
"""How far from the surface, along its normal, bone on the wrong side counts."""
_BORDER_MM = 4.0
"""A bone that comes so near to the border of what is seen goes on outside."""
_END_MM, _BEYOND_MM = 6.0, 12.0
"""What is a bone's end, and how far beyond it more bone is looked for."""
_THIRDS = ("lower", "middle", "upper")


@dataclass(frozen=True)
class Measures:
    """A bone in figures; vertices are those of its surface."""

    length_mm: float
    """Extent along the principal axis of the surface."""
    whole: bool
    """Whether the bone ends within all pictures and the volume, and none shows that it goes on; else its length is a
    least one."""
    unseen: float
    """Share of the surface that one picture or more does not show."""
    error_mm: FloatArray | None
    """(V,), expected distance from the true surface at every vertex, whose mean is the surface's; None: not known."""
    regions_mm: dict[str, float]
    """Expected distance in the lower, middle and upper third along the axis; empty if it is not known."""


@dataclass(frozen=True)
class Soundness:
    """A mesh, checked."""

    closed: bool
    """Every edge has two triangles."""
    oriented: bool
    """All triangles turn the same way, outwards."""


def measured(
    surface: Surface, likely: Volume, threshold: float, views: Sequence[View], readings: Sequence[Reading]
) -> Measures:
    """Measure a bone.

    Args:
        likely, threshold: probability of bone, and where its surface is.
        views: the pictures, with poses.
        readings: what was read in them.
    """
    points = surface.mesh.vertices_mm.astype(np.float64)
    share = _share_of_area(surface.mesh)
    mean = share @ points
    values, axes = np.linalg.eigh(((points - mean) * share[:, None]).T @ (points - mean))
    axis = axes[:, int(values.argmax())]
    if axis[int(np.abs(axis).argmax())] < 0:
        axis = -axis
    along = points @ axis
    seen = np.array([_inside(view, points, 0.0) for view in views])
    inner = np.array([_inside(view, points, _BORDER_MM) for view in views])
    at_index = g.transform(_index_from_volume(likely), points)
    margin = _BORDER_MM / np.array(likely.spacing_mm)
    size = np.array(likely.voxels.shape[::-1])
    in_volume = ((at_index >= margin) & (at_index <= size - 1 - margin)).all(axis=1)
    error_mm = None
    regions: dict[str, float] = {}
    if surface.error_mm is not None:
        wrong_mm = _wrong_mm(surface.mesh, likely, threshold)
        mean_mm = float(share @ wrong_mm)
        error_mm = (wrong_mm * (surface.error_mm / max(mean_mm, 1e-6))).astype(np.float32)
        third = np.clip((3 * (along - along.min()) / max(np.ptp(along), 1e-6)).astype(int), 0, 2)
        regions = {
            name: round(float(np.average(error_mm[third == n], weights=share[third == n])), 2)
            for n, name in enumerate(_THIRDS)
            if (third == n).any()
        }
    return Measures(
        length_mm=float(np.ptp(along)),
        whole=bool(inner.all() and in_volume.all())
        and not any(
            _goes_on(points[at] + side * _BEYOND_MM * axis, likely, threshold, views, readings)
            for side, at in ((-1, along < along.min() + _END_MM), (1, along > along.max() - _END_MM))
        ),
        unseen=float(share @ ~seen.all(axis=0)),
        error_mm=error_mm,
        regions_mm=regions,
    )


def sound(mesh: Mesh) -> Soundness:
    """Check a mesh as a printer's program would, by a library that did not make it."""
    import trimesh  # here: a large package

    body = trimesh.Trimesh(mesh.vertices_mm, mesh.triangles, process=False)
    return Soundness(bool(body.is_watertight), bool(body.is_winding_consistent and body.volume > 0))


def _goes_on(
    points_mm: Matrix, likely: Volume, threshold: float, views: Sequence[View], readings: Sequence[Reading]
) -> bool:
    """Whether beyond a bone's end (P, 3) all pictures show bone that is no bone of the model, or nothing at all."""
    at = g.transform(_index_from_volume(likely), points_mm)
    lost = map_coordinates(likely.voxels, at[:, ::-1].T, order=1, mode="constant") < threshold
    for view, reading in zip(views, readings, strict=True):
        assert view.volume_from_carm is not None
        u, v = g.project(reading.carm, g.inverse(view.volume_from_carm), points_mm).T
        bone = np.nan_to_num(reading.bone, nan=1.0)
        shown = map_coordinates(bone, np.nan_to_num([v, u], nan=-1.0), order=1, mode="constant", cval=1.0)
        lost &= shown > 0.5
    return bool(lost.mean() > 0.5)


def _index_from_volume(volume: Volume) -> Matrix:
    return np.asarray(np.linalg.inv(volume.volume_from_index), np.float64)


def _share_of_area(mesh: Mesh) -> Matrix:
    """Share of the surface that belongs to every vertex (V,)."""
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, corner]].astype(np.float64) for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    share = np.bincount(mesh.triangles.ravel(), np.repeat(area, 3), len(mesh.vertices_mm))
    return np.asarray(share / share.sum())


def _normals(mesh: Mesh) -> Matrix:
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, corner]].astype(np.float64) for corner in range(3))
    flat = np.cross(b - a, c - a)
    sums = [np.bincount(mesh.triangles.ravel(), np.repeat(flat[:, k], 3), len(mesh.vertices_mm)) for k in range(3)]
    normals = np.stack(sums, axis=1)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))


def _wrong_mm(mesh: Mesh, likely: Volume, threshold: float) -> Matrix:
    """Bone that is expected on the wrong side, along the normal of every vertex, mm (V,)."""
    inside = likely.voxels > threshold
    wrong = np.where(inside, 1 - likely.voxels, likely.voxels).astype(np.float32)
    wrong[distance_transform_edt(~inside, likely.spacing_mm[::-1]) >= _REACH_MM] = 0
    steps = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM / 2, _STEP_MM)
    points = mesh.vertices_mm[:, None] + steps[:, None] * _normals(mesh)[:, None]
    at = g.transform(_index_from_volume(likely), points.reshape(-1, 3))
    found = map_coordinates(wrong, at[:, ::-1].T, order=1, mode="constant")
    return np.asarray(found.reshape(len(points), -1).sum(axis=1) * _STEP_MM, np.float64)


def _inside(view: View, points_mm: Matrix, border_mm: float) -> Array:
    """Which points a view shows, not nearer to the border of what it measured than ``border_mm`` at the point (P,)."""
    assert view.volume_from_carm is not None
    carm_from_volume = g.inverse(view.volume_from_carm)
    known = np.isfinite(view.line_integrals)
    v0, v1, u0, u1 = _field(known)
    at = g.project(view.carm, carm_from_volume, points_mm)
    depth = g.transform(carm_from_volume, points_mm)[:, 2]
    px = border_mm * view.carm.source_to_detector_mm / np.maximum(depth, 1.0) / view.carm.pixel_spacing_mm[0]
    u, v = at.T
    return np.asarray((u >= u0 + px) & (u <= u1 - px) & (v >= v0 + px) & (v <= v1 - px))


def _field(known: Array) -> tuple[int, int, int, int]:
    """First and last row and column in which most was measured."""
    rows, columns = (np.flatnonzero(known.mean(axis=axis) > 0.2) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 0, known.shape[0] - 1, 0, known.shape[1] - 1
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
