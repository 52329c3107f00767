"""A bone's surface made ready to print: cut, scaled, hollow, with an engraved label; checked before it is written.

manifold3d joins and subtracts solids; trimesh and a test of all pairs of triangles check what comes out
(docs/decisions/0029-printing.md).
"""

from __future__ import annotations

from typing import Any

import cv2
import msgspec
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.measure import marching_cubes

from navnode.errors import ConfigError
from navnode.files.meshes import read_mesh, write_mesh
from navnode.files.whole import refuse_twice
from navnode.offline.measures import principal_axis, sound
from navnode.offline.requests import PrintRequest
from navnode.types import Array, Matrix, Mesh

__all__ = ["PrintReport", "crossings", "print_bone"]

_VOXELS = 4_000_000
"""Most voxels of the field that a wall is measured in."""
_LEAST_VOXEL_MM = 0.6
_DEPTH_MM, _LETTER_MM, _TEXT_PX = 0.8, 7.0, 64
"""Depth and height of the label's letters, and how finely they are drawn."""
_DIRECTIONS = 12
_LEAST_ENGRAVED = 0.8
"""Share of the letters that must be on the bone."""
_CHUNK = 256
_NEAR_MM = 0.002
"""Surfaces that pass each other by less touch: coordinates of an STL are so coarse."""


class PrintReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written to print; ``scale`` is a ratio."""

    out: str
    triangles: int
    size_mm: list[float]
    volume_cm3: float
    """Of material."""
    wall_mm: float | None
    """Least wall; None: solid."""
    hollow: bool
    scale: float
    """Size of the print over that of the bone."""
    label: str
    watertight: bool = True
    oriented: bool = True
    self_intersections: int = 0


def print_bone(request: PrintRequest) -> PrintReport:
    """Write a bone ready to print.

    Raises:
        ConfigError: manifold3d is not installed, the surface is open, inside out or crosses itself, nothing is left of
            it, the label does not fit, or the result is not fit to print; says which.
    """
    try:
        import manifold3d  # here: an extra
    except ModuleNotFoundError as error:
        raise ConfigError("printing needs manifold3d: pip install 'navnode[print]'") from error

    refuse_twice([request.out], [request.bone])
    mesh = read_mesh(request.bone)
    _, number = np.unique(mesh.vertices_mm, axis=0, return_inverse=True)  # an STL has three for every triangle
    points = np.zeros((int(number.max()) + 1, 3), np.float32)
    points[number.ravel()] = mesh.vertices_mm
    triangles = number.ravel()[mesh.triangles].astype(np.uint32)
    mesh = Mesh(points, triangles[(triangles != np.roll(triangles, 1, axis=1)).all(axis=1)])
    _refuse(mesh, f"{request.bone}")
    up = principal_axis(mesh)
    body = manifold3d.Manifold(manifold3d.Mesh(points, mesh.triangles)).scale((request.scale,) * 3)
    if body.status() != manifold3d.Error.NoError:
        raise ConfigError(f"{request.bone}: not one solid ({body.status().name})")
    whole, carved = body, body
    if request.label:
        carved = _engraved(body, whole, request.label, up, manifold3d)
    if request.wall_mm:
        inner = _shrunk(whole, request.wall_mm + (_DEPTH_MM if request.label else 0.0), manifold3d)
        if inner.is_empty():
            raise ConfigError(f"a wall of {request.wall_mm:g} mm leaves nothing hollow; print it solid")
        carved = carved - inner
    if request.cut:
        normal, offset = _plane(request)
        carved = carved.trim_by_plane(tuple(normal), offset * request.scale)
    if carved.is_empty():
        raise ConfigError("the cut plane leaves nothing of the bone")
    made = carved.to_mesh()
    result = Mesh(np.ascontiguousarray(made.vert_properties[:, :3], np.float32), np.asarray(made.tri_verts, np.uint32))
    _refuse(result, "the result")
    write_mesh(result, request.out)
    return PrintReport(
        out=str(request.out),
        triangles=len(result.triangles),
        size_mm=[round(float(extent), 1) for extent in np.ptp(result.vertices_mm, axis=0)],
        volume_cm3=round(float(carved.volume()) / 1000, 2),
        wall_mm=request.wall_mm,
        hollow=request.wall_mm is not None,
        scale=request.scale,
        label=request.label,
    )


def _refuse(mesh: Mesh, what: str) -> None:
    found = sound(mesh)
    if not found.closed:
        raise ConfigError(f"{what}: not closed (an edge without two triangles); no printer knows its inside")
    if not found.oriented:
        raise ConfigError(f"{what}: inside out, or its triangles turn different ways")
    count = crossings(mesh)
    if count:
        raise ConfigError(f"{what}: crosses itself at {count} edges")


def crossings(mesh: Mesh) -> int:
    """How many edges go through a triangle that they do not touch by a vertex."""
    corners = mesh.vertices_mm[mesh.triangles].astype(np.float64)
    order = np.argsort(corners[:, :, 2].min(axis=1))
    corners, faces = corners[order], mesh.triangles[order]
    low, high = corners.min(axis=1), corners.max(axis=1)
    tallest = float((high - low)[:, 2].max())
    count = 0
    for first in range(0, len(faces), _CHUNK):
        mine = slice(first, min(first + _CHUNK, len(faces)))
        begin = int(np.searchsorted(low[:, 2], low[mine, 2].min() - tallest))
        end = int(np.searchsorted(low[:, 2], high[mine, 2].max(), side="right"))
        near = np.ones((len(low[mine]), end - begin), bool)
        for axis in range(3):
            near &= low[mine, None, axis] <= high[None, begin:end, axis]
            near &= high[mine, None, axis] >= low[None, begin:end, axis]
        one, other = np.nonzero(near)
        one, other = one + first, other + begin
        apart = (faces[one][:, :, None] != faces[other][:, None, :]).all(axis=(1, 2))
        count += _pierced(corners[one[apart]], corners[other[apart]])
    return count


def _pierced(edges_of: Matrix, triangles: Matrix) -> int:
    """Pairs (T, 3, 3) of which an edge of the first goes through the second."""
    a, b, c = (triangles[:, k] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    found = 0
    for k in range(3):
        start, end = edges_of[:, k], edges_of[:, (k + 1) % 3]
        above, below = (np.einsum("ij,ij->i", each - a, normal) for each in (start, end))
        across = (above * below < 0) & (np.minimum(np.abs(above), np.abs(below)) > _NEAR_MM)
        share = np.where(across, above / np.where(across, above - below, 1.0), 0.0)
        at = start + share[:, None] * (end - start)
        inside = across
        for p, q in ((a, b), (b, c), (c, a)):
            beside_mm = np.einsum("ij,ij->i", np.cross(q - p, at - p), normal)
            inside = inside & (beside_mm > _NEAR_MM * np.linalg.norm(q - p, axis=1))
        found += int(inside.sum())
    return found


def _plane(request: PrintRequest) -> tuple[Matrix, float]:
    """Unit normal towards what is kept, and its distance from the origin."""
    try:
        values = np.array([float(word) for word in request.cut.replace(",", " ").split()])
    except ValueError:
        values = np.zeros(0)
    if values.shape != (6,) or not np.isfinite(values).all() or np.linalg.norm(values[3:]) < 1e-6:
        raise ConfigError("--cut: six numbers, a point in mm and the direction of what is kept: '0 0 120 0 0 1'")
    normal = values[3:] / np.linalg.norm(values[3:])
    return normal, float(values[:3] @ normal)


def _shrunk(body: Any, by_mm: float, manifold3d: Any) -> Any:
    """The part of a solid that is ``by_mm`` or more below its surface."""
    bounds = np.array(body.bounding_box()).reshape(2, 3)
    step_mm = max(_LEAST_VOXEL_MM, float(np.cbrt(np.prod(np.ptp(bounds, axis=0) + 4) / _VOXELS)))
    low = bounds[0] - 2 * step_mm
    nx, ny, nz = (np.ceil((bounds[1] - low) / step_mm) + 3).astype(int)
    inside = np.zeros((nz, ny, nx), np.uint8)
    for k in range(nz):
        for polygons in [body.slice(float(low[2] + k * step_mm)).to_polygons()]:
            if polygons:
                rings = [np.round((p - low[:2]) / step_mm * 256).astype(np.int32) for p in polygons]
                cv2.fillPoly(inside[k], rings, 1, shift=8)
    depth = gaussian_filter(distance_transform_edt(inside) * step_mm, 0.7)
    level = by_mm + step_mm  # a voxel's middle may be so much deeper than it is counted
    if depth.max() <= level:
        return manifold3d.Manifold()
    vertices, faces, _, _ = marching_cubes(depth, level, allow_degenerate=False)
    points = (low + vertices[:, ::-1] * step_mm).astype(np.float32)
    inner = manifold3d.Manifold(manifold3d.Mesh(points, faces.astype(np.uint32)))
    if inner.volume() < 0:
        inner = manifold3d.Manifold(manifold3d.Mesh(points, faces[:, ::-1].astype(np.uint32)))
    return inner.simplify(step_mm / 8)


def _engraved(body: Any, whole: Any, label: str, up: Matrix, manifold3d: Any) -> Any:
    """The solid with letters along its axis, on the side on which most of them lie."""
    if not label.isascii() or not label.isprintable():
        raise ConfigError(f"--label: {label!r}; letters, digits and signs of ASCII are engraved")
    letters, width_mm = _letters(label, manifold3d)
    skin = whole - _shrunk(whole, _DEPTH_MM, manifold3d)
    bounds = np.array(whole.bounding_box()).reshape(2, 3)
    center, far_mm = bounds.mean(axis=0), float(np.linalg.norm(np.ptp(bounds, axis=0)))
    beside = np.cross(up, [1.0, 0, 0] if abs(up[0]) < 0.7 else [0, 1.0, 0])
    beside /= np.linalg.norm(beside)
    wanted_mm3 = letters.area() * _DEPTH_MM
    long_mm = float(np.ptp(np.asarray(whole.to_mesh().vert_properties)[:, :3] @ up))
    best = None
    for angle in np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS):
        out = np.cos(angle) * beside + np.sin(angle) * np.cross(up, beside)
        pose = np.column_stack([up, np.cross(out, up), out, center])  # letters run along the bone, seen from outside
        cut = manifold3d.Manifold.extrude(letters, far_mm).transform(pose) ^ skin
        if best is None or cut.volume() > best.volume():
            best = cut
    if best is None or width_mm > 0.9 * long_mm or best.volume() < _LEAST_ENGRAVED * wanted_mm3:
        raise ConfigError(f"--label: {label!r} ({width_mm:.0f} mm long) does not fit on the bone; shorten it")
    return body - best


def _letters(label: str, manifold3d: Any) -> tuple[Any, float]:
    """The letters around the origin, mm, and their length."""
    scale = _TEXT_PX / 22
    (width, height), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 8)
    drawn: Array = np.zeros((height + base + 20, width + 20), np.uint8)
    cv2.putText(drawn, label, (10, height + 10), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 8)
    outlines, _ = cv2.findContours(drawn, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    mm = _LETTER_MM / _TEXT_PX
    middle = np.array([drawn.shape[1], drawn.shape[0]]) / 2
    rings = [(each[:, 0] - middle) * [mm, -mm] for each in outlines if len(each) >= 3]
    if not rings:
        raise ConfigError(f"--label: {label!r} has no letters")
    return manifold3d.CrossSection(rings, manifold3d.FillRule.EvenOdd), width * mm
