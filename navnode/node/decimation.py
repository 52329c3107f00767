"""Surfaces of fewer triangles for consoles, and how far they are from the whole ones.

It runs as a process (``python -m navnode.node.decimation``): the library keeps Python's lock for tenths of a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO

import fast_simplification
import numpy as np

from navnode.errors import ComputeError
from navnode.types import Array, FloatArray, Matrix, Mesh

__all__ = ["Decimated", "decimated", "decimated_apart"]

_AGGRESSIONS = 5.0, 7.0, 9.0
"""The first that comes down to the number of triangles; the lower, the more exact. The library's own is 7."""
_NEAREST = 12
"""Triangles that a point's distance is measured to: those whose middles are nearest."""
_BLOCK = 20_000
"""Points that are measured at once, which bounds memory."""
_TIMEOUT_S = 60.0
_NICE = 19


@dataclass(frozen=True)
class Decimated:
    """A surface of fewer triangles."""

    mesh: Mesh
    error_95_mm: float
    """95 % of the vertices of both surfaces are no farther from the other one."""
    error_most_mm: float
    """No vertex of either is."""


def decimated(mesh: Mesh, most_triangles: int) -> Decimated:
    """A surface of at most so many triangles, by quadric error (Garland and Heckbert, 1997).

    It is to be looked at: where sheets of the whole come close, edges may join more than two of its triangles.

    Raises:
        ComputeError: it cannot be decimated that far.
    """
    if len(mesh.triangles) <= most_triangles:
        return Decimated(mesh, 0.0, 0.0)
    whole = np.ascontiguousarray(mesh.vertices_mm, np.float32), np.ascontiguousarray(mesh.triangles, np.int32)
    for aggression in _AGGRESSIONS:
        points, triangles = fast_simplification.simplify(*whole, target_count=most_triangles, agg=aggression)
        if 0 < len(triangles) <= most_triangles and np.isfinite(points).all():
            break
    else:
        raise ComputeError(f"{len(mesh.triangles)} triangles cannot be made {most_triangles}")
    fewer = Mesh(np.asarray(points, np.float32), np.asarray(triangles, np.uint32))
    apart_mm = np.concatenate([_distances_mm(mesh.vertices_mm, fewer), _distances_mm(fewer.vertices_mm, mesh)])
    return Decimated(fewer, float(np.percentile(apart_mm, 95)), float(apart_mm.max()))


def decimated_apart(mesh: Mesh, most_triangles: int) -> Decimated:
    """:func:`decimated`, in a process of its own at low priority; blocks until it is done.

    Raises:
        ComputeError: it cannot be decimated that far, or the process failed or took a minute.
    """
    arrays = (
        np.array([most_triangles], np.int64),
        np.asarray(mesh.vertices_mm, np.float32),
        np.asarray(mesh.triangles, np.uint32),
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "navnode.node.decimation"],
            input=b"".join(_framed(array) for array in arrays),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ComputeError(f"not decimated within {_TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ComputeError(f"decimation failed: {''.join(last) or error.returncode}") from error
    points, triangles, (error_95_mm, error_most_mm) = _unframed(done.stdout, (np.float32, np.uint32, np.float64))
    return Decimated(Mesh(points.reshape(-1, 3), triangles.reshape(-1, 3)), float(error_95_mm), float(error_most_mm))


def _framed(array: Array) -> bytes:
    return len(data := array.tobytes()).to_bytes(8, "little") + data


def _unframed(data: bytes, kinds: tuple[type[np.generic], ...]) -> list[Array]:
    arrays: list[Array] = []
    at = 0
    for kind in kinds:
        end = at + 8 + int.from_bytes(data[at : at + 8], "little")
        arrays.append(np.frombuffer(data[at + 8 : end], kind))
        at = end
    return arrays


def _distances_mm(points_mm: FloatArray, mesh: Mesh) -> Matrix:
    """Distance of points (N, 3) from a surface, (N,): to the nearest of some triangles, hence never too small."""
    from scipy.spatial import cKDTree  # here: a node that starts needs none

    corners = mesh.vertices_mm[mesh.triangles].astype(np.float64)
    middles = cKDTree(corners.mean(axis=1))
    found = []
    for start in range(0, len(points_mm), _BLOCK):
        some = points_mm[start : start + _BLOCK].astype(np.float64)
        _, near = middles.query(some, min(_NEAREST, len(corners)))
        found.append(_to_triangles_mm(some[:, None], corners[near.reshape(len(some), -1)]).min(axis=1))
    return np.concatenate(found)


def _to_triangles_mm(points: Matrix, corners: Matrix) -> Matrix:
    """Distance of points (..., 3) from triangles (..., 3 corners, 3)."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    normal = np.cross(b - a, c - a)
    area = np.maximum(np.linalg.norm(normal, axis=-1), np.finfo(float).tiny)
    inside = np.ones(area.shape, bool)
    nearest = np.full(area.shape, np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge, away = end - start, points - start
        inside &= np.einsum("...i,...i", np.cross(edge, away), normal) >= 0
        along = np.einsum("...i,...i", away, edge) / np.maximum(np.einsum("...i,...i", edge, edge), 1e-30)
        nearest = np.minimum(nearest, np.linalg.norm(away - np.clip(along, 0, 1)[..., None] * edge, axis=-1))
    height = np.abs(np.einsum("...i,...i", points - a, normal)) / area
    flat = area < 1e-12  # a triangle without area is its edges
    return np.where(inside & ~flat, height, nearest)


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    most, points, triangles = _unframed(source.read(), (np.int64, np.float32, np.uint32))
    done = decimated(Mesh(points.reshape(-1, 3), triangles.reshape(-1, 3)), int(most[0]))
    errors_mm = np.array([done.error_95_mm, done.error_most_mm])
    for array in (done.mesh.vertices_mm, done.mesh.triangles, errors_mm):
        sink.write(_framed(array))


if __name__ == "__main__":
    os.nice(_NICE)
    _serve(sys.stdin.buffer, sys.stdout.buffer)
