"""Measurements of a bone's surface: length, expected error by place, what the pictures do not show, and its mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

from navnode import geometry as g
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.surface import Surface
from navnode.types import Array, CArm, FloatArray, Matrix, Mesh, View, Volume

__all__ = [
    "Measures",
    "Missed",
    "Soundness",
    "measured",
    "missed_in",
    "normals",
    "principal_axis",
    "share_of_area",
    "sound",
    "thirds",
]

_REACH_MM, _STEP_MM = 12.0, 1.0
"""How far from the surface, along its normal, bone on the wrong side counts."""
_BORDER_MM = 4.0
"""A bone that comes so near to the border of what is seen goes on outside."""
_END_MM, _BEYOND_MM = 6.0, 12.0
"""What is a bone's end, and how far beyond it more bone is looked for."""
_SHADOW_MM = 3.0
"""How far beside its shadow the model still explains bone."""
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
    ends: tuple[bool, bool] = (False, False)
    """Whether its lower and its upper half end within all pictures and the volume, and none shows that they go on."""


@dataclass(frozen=True)
class Missed:
    """What a picture shows beside the model; arrays (H, W) on the reading's canvas, 0 or 1."""

    carm: CArm
    carm_from_volume: Matrix
    shown: FloatArray
    """Bone, or nothing that was measured."""
    unexplained: FloatArray
    """The same outside the model's shadow."""


@dataclass(frozen=True)
class Soundness:
    """A mesh, checked."""

    closed: bool
    """Every edge has two triangles."""
    oriented: bool
    """All triangles turn the same way, outwards."""


def measured(
    surface: Surface, likely: Volume, threshold: float, views: Sequence[View], missed: Sequence[Missed]
) -> Measures:
    """Measure a bone.

    Args:
        likely, threshold: probability of bone, and where its surface is.
        views: the pictures, with poses.
        missed: what each of them shows beside the model, see :func:`missed_in`.
    """
    points = surface.mesh.vertices_mm.astype(np.float64)
    share, axis = share_of_area(surface.mesh), principal_axis(surface.mesh)
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
        regions = {
            name: round(float(np.average(error_mm[there], weights=share[there])), 2)
            for name, there in thirds(surface.mesh).items()
            if there.any()
        }
    within = np.asarray(np.vstack([inner, in_volume]).all(axis=0))
    middle = (along.min() + along.max()) / 2
    lower, upper = (
        bool(within[half].all()) and not _goes_on(points[at] + side * _BEYOND_MM * axis, likely, threshold, missed)
        for side, half, at in (
            (-1, along <= middle, along < along.min() + _END_MM),
            (1, along >= middle, along > along.max() - _END_MM),
        )
    )
    return Measures(
        length_mm=float(np.ptp(along)),
        whole=lower and upper,
        ends=(lower, upper),
        unseen=float(share @ ~seen.all(axis=0)),
        error_mm=error_mm,
        regions_mm=regions,
    )


def principal_axis(mesh: Mesh) -> Matrix:
    """The direction (3,) in which a surface is longest: upwards, or else to the front or to the patient's right."""
    points, share = mesh.vertices_mm.astype(np.float64), share_of_area(mesh)
    mean = share @ points
    values, axes = np.linalg.eigh(((points - mean) * share[:, None]).T @ (points - mean))
    axis = axes[:, int(values.argmax())]
    return np.asarray(-axis if axis[int(np.abs(axis).argmax())] < 0 else axis)


def thirds(mesh: Mesh) -> dict[str, Array]:
    """Masks (V,) of the vertices in the lower, middle and upper third along the principal axis."""
    along = mesh.vertices_mm @ principal_axis(mesh)
    third = np.clip((3 * (along - along.min()) / max(float(np.ptp(along)), 1e-6)).astype(int), 0, 2)
    return {name: third == n for n, name in enumerate(_THIRDS)}


def sound(mesh: Mesh) -> Soundness:
    """Check a mesh as a printer's program would, by a library that did not make it."""
    import trimesh  # here: a large package

    body = trimesh.Trimesh(mesh.vertices_mm, mesh.triangles, process=False)
    return Soundness(bool(body.is_watertight), bool(body.is_winding_consistent and body.volume > 0))


def missed_in(reading: Reading, volume_from_carm: Matrix, likely: Volume, threshold: float) -> Missed:
    """What a picture shows beside the model.

    Args:
        likely, threshold: probability of all bone, and where its surface is.
    """
    carm_from_volume = g.inverse(volume_from_carm)
    voxels = np.argwhere(likely.voxels > threshold)[:, ::-1].astype(float)
    u, v = np.nan_to_num(
        g.project(reading.carm, carm_from_volume, g.transform(likely.volume_from_index, voxels)), nan=-1
    ).T
    height, width = reading.bone.shape
    within = (u > 0) & (v > 0) & (u < width - 1) & (v < height - 1)
    shadow = np.zeros((height, width), np.uint8)
    shadow[v[within].round().astype(int), u[within].round().astype(int)] = 1
    reach_px = int(np.ceil((max(likely.spacing_mm) + _SHADOW_MM) / reading.pixel_mm))
    shadow = cv2.dilate(shadow, np.ones((2 * reach_px + 1,) * 2, np.uint8))
    shown = (np.nan_to_num(reading.bone, nan=1.0) > 0.5).astype(np.float32)
    return Missed(reading.carm, carm_from_volume, shown, shown * (shadow == 0))


def _goes_on(points_mm: Matrix, likely: Volume, threshold: float, missed: Sequence[Missed]) -> bool:
    """Whether beyond a bone's end (P, 3) every picture shows bone, or nothing at all, and one shows it outside the
    model's shadow: a part was not found."""
    at = g.transform(_index_from_volume(likely), points_mm)
    lost = map_coordinates(likely.voxels, at[:, ::-1].T, order=1, mode="constant") < threshold
    beside = np.zeros(len(points_mm), bool)
    for view in missed:
        u, v = np.nan_to_num(g.project(view.carm, view.carm_from_volume, points_mm), nan=-1.0).T
        shown, unexplained = (
            map_coordinates(part, [v, u], order=0, mode="constant", cval=1.0) > 0.5
            for part in (view.shown, view.unexplained)
        )
        lost &= shown
        beside |= unexplained
    return bool((lost & beside).mean() > 0.5)


def _index_from_volume(volume: Volume) -> Matrix:
    return np.asarray(np.linalg.inv(volume.volume_from_index), np.float64)


def share_of_area(mesh: Mesh) -> Matrix:
    """Share of the surface that belongs to every vertex (V,)."""
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, corner]].astype(np.float64) for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    share = np.bincount(mesh.triangles.ravel(), np.repeat(area, 3), len(mesh.vertices_mm))
    return np.asarray(share / share.sum())


def normals(mesh: Mesh) -> Matrix:
    """Unit normals (V, 3) of the vertices, outwards."""
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, corner]].astype(np.float64) for corner in range(3))
    flat = np.cross(b - a, c - a)
    sums = [np.bincount(mesh.triangles.ravel(), np.repeat(flat[:, k], 3), len(mesh.vertices_mm)) for k in range(3)]
    normals = np.stack(sums, axis=1)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))


def _wrong_mm(mesh: Mesh, likely: Volume, threshold: float) -> Matrix:
    """Bone that is expected on the wrong side, along the normal of every vertex, mm (V,)."""
    likely = _around(mesh, likely)
    inside = likely.voxels > threshold
    wrong = np.where(inside, 1 - likely.voxels, likely.voxels).astype(np.float32)
    wrong[distance_transform_edt(~inside, likely.spacing_mm[::-1]) >= _REACH_MM] = 0
    steps = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM / 2, _STEP_MM)
    points = mesh.vertices_mm[:, None] + steps[:, None] * normals(mesh)[:, None]
    at = g.transform(_index_from_volume(likely), points.reshape(-1, 3))
    found = map_coordinates(wrong, at[:, ::-1].T, order=1, mode="constant")
    return np.asarray(found.reshape(len(points), -1).sum(axis=1) * _STEP_MM, np.float64)


def _around(mesh: Mesh, volume: Volume) -> Volume:
    """The part of a volume that the errors of a mesh depend on."""
    at = g.transform(_index_from_volume(volume), mesh.vertices_mm.astype(np.float64))
    reach = 2 * _REACH_MM / np.array(volume.spacing_mm)
    low = np.maximum(np.floor(at.min(axis=0) - reach), 0).astype(int)
    high = np.ceil(at.max(axis=0) + reach).astype(int) + 1
    volume_from_index = volume.volume_from_index.copy()
    volume_from_index[:3, 3] += volume_from_index[:3, :3] @ low
    return Volume(
        volume.voxels[tuple(slice(*ends) for ends in zip(low[::-1], high[::-1], strict=True))], volume_from_index
    )


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
