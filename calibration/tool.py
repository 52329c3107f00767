"""Tool calibration: the positions of a marker's spheres, from points that a camera saw while the tool was at rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from navnode.files.artifacts import TOOL, ToolResult, vector
from navnode.types import Matrix

from .fitting import rms
from .verdict import TOO_FEW, Calibration, Gate, Gates, Picture, judged

__all__ = ["tool"]

GATES = (
    Gate("drift_mm", 0.5, "moved", "the motion of the tool", "fix tool and camera, and repeat", "mm"),
    Gate("n_used", 30, TOO_FEW, "the number of usable frames", "take more", at_least=True),
    Gate("markers", 3, TOO_FEW, "the number of spheres", "check that the camera sees all spheres", at_least=True),
    Gate("markers_max", 12, "ambiguous", "the number of spheres", "cover reflections and other tools"),
    Gate("rms_mm", 0.5, "residual", "the jitter of a sphere", "clean the spheres, and let the camera warm up", "mm"),
    Gate(
        "visible",
        0.5,
        "residual",
        "the share of frames that show the worst sphere",
        "turn the tool to the camera",
        at_least=True,
    ),
    Gate(
        "spread_mm",
        10,
        "collinear",
        "the spread of the spheres across their main direction",
        "choose another arrangement",
        "mm",
        at_least=True,
    ),
    Gate(
        "min_distance_mm",
        20,
        "ambiguous",
        "the smallest distance between two spheres",
        "choose another arrangement",
        "mm",
        at_least=True,
    ),
    Gate(
        "min_pair_difference_mm",
        2,
        "ambiguous",
        "the smallest difference between two distances",
        "choose another arrangement",
        "mm",
        at_least=True,
    ),
)
_LEAST_VISIBLE = 0.5
_SAME_MM = 4.0
"""Points closer together belong to one sphere."""
_MOST_MOTION_MM = 30.0
_MOST_POINTS = 6_000
"""Largest number of points for clustering; points of other frames are assigned to the clusters."""


def tool(frames_mm: Sequence[Matrix], *, gates: Gates | None = None) -> Calibration[ToolResult]:
    """Find the positions of spheres relative to their centroid, along their principal axes.

    Args:
        frames_mm: for every frame the visible points (M, 3), in any order, with missing and stray ones.
    """
    frames = [np.asarray(points, np.float64).reshape(-1, 3) for points in frames_mm]
    frames = [points[np.isfinite(points).all(axis=1)] for points in frames]
    spheres = _spheres(frames)
    seen = [_assigned(points, spheres) for points in frames]
    least = min(3, max(len(spheres), 1))
    used = [n for n, points in enumerate(seen) if np.isfinite(points).all(axis=1).sum() >= least]
    quality: dict[str, object] = {
        "n_input": len(frames),
        "n_used": len(used),
        "rejected": sorted(set(range(len(frames))) - set(used)),
        "markers": len(spheres),
        "drift_mm": _drift_mm(frames),
        **dict.fromkeys(("rms_mm", "visible", "min_pair_difference_mm", "min_distance_mm", "sigma_mm", "spread_mm")),
    }
    result: ToolResult | None = None
    pictures: list[Picture] = []
    if len(spheres) >= 3 and used:
        stack = np.array([seen[n] for n in used])
        visible = np.isfinite(stack).all(axis=2).mean(axis=0)
        places = np.nanmean(stack, axis=0)
        jitter = np.linalg.norm(stack - places, axis=2)
        each = np.sqrt(np.nanmean(jitter**2, axis=0))
        template = _canonical(places)
        distances = np.sort(_pairs(template))
        quality |= {
            "rms_mm": rms(each),
            "visible": visible,
            "min_distance_mm": float(distances[0]),
            "min_pair_difference_mm": float(np.diff(distances).min()),
            "sigma_mm": float((each / np.sqrt(np.maximum(visible * len(used), 1))).max()),
            "spread_mm": float(np.linalg.svd(template, compute_uv=False)[1] / np.sqrt(len(template))),
        }
        result = ToolResult(tuple(vector(at) for at in template), tuple(distances.tolist()))
        pictures = [("points", {"markers_mm": template})]
    shares = quality["visible"]
    worst = None if shares is None else float(np.min(np.asarray(shares)))
    figures = {"markers_max": float(len(spheres)), "visible": worst}
    return judged(TOOL, GATES, gates, figures, result=result, quality=quality, pictures=pictures)


def _spheres(frames: Sequence[Matrix]) -> Matrix:
    """Positions (N, 3) at which points cluster in at least half of the frames."""
    step = max(1, -(-sum(map(len, frames)) // _MOST_POINTS))
    some = frames[::step]
    if not some or not sum(map(len, some)):
        return np.zeros((0, 3))
    points = np.concatenate(some)
    of_frame = np.repeat(np.arange(len(some)), [len(each) for each in some])
    cluster = fcluster(linkage(points, "centroid"), _SAME_MM, "distance") if len(points) > 1 else np.ones(1, int)
    names, counts = np.unique(np.unique(np.stack([cluster, of_frame]), axis=1)[0], return_counts=True)
    kept = names[counts >= _LEAST_VISIBLE * sum(len(each) > 0 for each in some)]
    return np.array([points[cluster == name].mean(axis=0) for name in kept]).reshape(-1, 3)


def _assigned(points: Matrix, spheres: Matrix) -> Matrix:
    """(N, 3): the point of a frame that is nearest to each sphere; NaN if none is near."""
    assigned = np.full(spheres.shape, np.nan)
    if not len(points) or not len(spheres):
        return assigned
    distance = np.linalg.norm(points[:, None] - spheres, axis=2)
    nearest = distance.argmin(axis=0)
    near = distance[nearest, np.arange(len(spheres))] < _SAME_MM
    assigned[near] = points[nearest[near]]
    return assigned


def _drift_mm(frames: Sequence[Matrix]) -> float:
    """rms motion of the spheres between the first and the last third of the frames, beyond what jitter explains."""
    third = max(len(frames) // 3, 1)
    first, last = _spheres(frames[:third]), _spheres(frames[-third:])
    if not len(first) or not len(last):
        return 0.0
    distance = np.linalg.norm(first[:, None] - last, axis=2)
    pairs = [(n, int(m)) for n, m in enumerate(distance.argmin(axis=1)) if distance[n, m] < _MOST_MOTION_MM]
    if not pairs:
        return _MOST_MOTION_MM
    moved, noise = [], []
    for n, m in pairs:
        ends = []
        for part, at in ((frames[:third], first[n]), (frames[-third:], last[m])):
            seen = np.array([_assigned(points, at[None])[0] for points in part])
            seen = seen[np.isfinite(seen).all(axis=1)]
            ends.append(seen.mean(axis=0))
            noise.append(float(seen.var(axis=0, ddof=1).sum()) / len(seen) if len(seen) > 1 else 0.0)
        moved.append(float(((ends[1] - ends[0]) ** 2).sum()))
    expected = 2 * float(np.mean(noise))
    by_chance = expected * (1 + 2 * np.sqrt(2 / (3 * len(pairs))))
    return float(np.sqrt(np.mean(moved) - expected)) if np.mean(moved) > by_chance else 0.0


def _canonical(places: Matrix) -> Matrix:
    """Relative to the centroid, along the principal axes, in an order and with signs independent of the camera."""
    centred = places - places.mean(axis=0)
    _, _, axes = np.linalg.svd(centred)
    along = centred @ axes.T
    for axis in range(2):
        lean = float((along[:, axis] ** 3).sum())
        if lean < 0:
            along[:, axis] *= -1
            axes[axis] *= -1
    if np.linalg.det(axes) < 0:
        along[:, 2] *= -1
    return np.asarray(along[np.lexsort((along[:, 2], along[:, 1], -along[:, 0]))])


def _pairs(points: Matrix) -> Matrix:
    i, j = np.triu_indices(len(points), 1)
    return np.asarray(np.linalg.norm(points[i] - points[j], axis=1))
