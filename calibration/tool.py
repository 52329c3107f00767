"""A marker's template: where its spheres are, from what a camera saw of it at rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from calibration.fitting import rms
from calibration.verdict import TOO_FEW, Calibration, Gate, Gates, Picture, judged
from navnode.files.artifacts import TOOL, ToolResult, vector
from navnode.types import Matrix

GATES = (
    Gate("drift_mm", 0.5, "moved", "how far the tool moved meanwhile", "fix tool and camera, and repeat", "mm"),
    Gate("n_used", 30, TOO_FEW, "the number of frames that can be used", "take more", at_least=True),
    Gate("markers", 3, TOO_FEW, "the number of spheres", "see that the camera sees all spheres", at_least=True),
    Gate("markers_max", 12, "ambiguous", "the number of spheres", "cover reflections and other tools"),
    Gate("rms_mm", 0.5, "residual", "the jitter of a sphere", "clean the spheres, and let the camera warm up", "mm"),
    Gate(
        "visible",
        0.5,
        "residual",
        "the share of frames in which the worst sphere is seen",
        "turn the tool to the camera",
        at_least=True,
    ),
    Gate(
        "spread_mm",
        10,
        "collinear",
        "how far the spheres are from one line",
        "choose another arrangement",
        "mm",
        at_least=True,
    ),
    Gate(
        "min_distance_mm",
        20,
        "ambiguous",
        "the smallest distance of two spheres",
        "choose another arrangement",
        "mm",
        at_least=True,
    ),
    Gate(
        "min_pair_difference_mm",
        2,
        "ambiguous",
        "the smallest difference of two distances",
        "choose another arrangement",
        "mm",
        at_least=True,
    ),
)
_LEAST_VISIBLE = 0.5
_SAME_MM = 4.0
"""Points nearer to each other are one sphere's."""
_MOST_MOTION_MM = 30.0
_MOST_POINTS = 6_000
"""To be clustered at once; frames beyond are assigned to what was found."""


def tool(frames_mm: Sequence[Matrix], *, gates: Gates | None = None) -> Calibration[ToolResult]:
    """Sphere positions about their centroid, along their principal axes.

    Args:
        frames_mm: for every frame the points (M, 3) that were seen, in any order; some may be missing, some stray.
    """
    frames = [np.asarray(points, np.float64).reshape(-1, 3) for points in frames_mm]
    frames = [points[np.isfinite(points).all(axis=1)] for points in frames]
    spheres = _spheres(frames)
    seen = [_assigned(points, spheres) for points in frames]
    used = [n for n, found in enumerate(seen) if np.isfinite(found).all(axis=1).sum() >= min(3, max(len(spheres), 1))]
    quality: dict[str, object] = {
        "n_input": len(frames), "n_used": len(used), "rejected": sorted(set(range(len(frames))) - set(used)),
        "markers": len(spheres), "drift_mm": _drift_mm(frames),
        **dict.fromkeys(("rms_mm", "visible", "min_pair_difference_mm", "min_distance_mm", "sigma_mm", "spread_mm")),
    }  # fmt: skip
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
            "rms_mm": rms(each), "visible": visible, "min_distance_mm": float(distances[0]),
            "min_pair_difference_mm": float(np.diff(distances).min()),
            "sigma_mm": float((each / np.sqrt(np.maximum(visible * len(used), 1))).max()),
            "spread_mm": float(np.linalg.svd(template, compute_uv=False)[1] / np.sqrt(len(template))),
        }  # fmt: skip
        result = ToolResult(tuple(vector(at) for at in template), tuple(distances.tolist()))
        pictures = [("points", {"markers_mm": template})]
    shown = quality["visible"]
    figures = {
        "markers_max": float(len(spheres)), "visible": None if shown is None else float(np.min(np.asarray(shown))),
    }  # fmt: skip
    return judged(TOOL, GATES, gates, figures, result=result, quality=quality, pictures=pictures)


def _spheres(frames: Sequence[Matrix]) -> Matrix:
    """Where points gather in at least half of the frames, (N, 3)."""
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
    """(N, 3): the point of a frame that is nearest to each sphere; NaN where none is near."""
    found = np.full(spheres.shape, np.nan)
    if not len(points) or not len(spheres):
        return found
    distance = np.linalg.norm(points[:, None] - spheres, axis=2)
    nearest = distance.argmin(axis=0)
    near = distance[nearest, np.arange(len(spheres))] < _SAME_MM
    found[near] = points[nearest[near]]
    return found


def _drift_mm(frames: Sequence[Matrix]) -> float:
    """rms over the spheres of how far they are in the last third of the frames from where they were in the first, less
    what their jitter alone makes of it."""
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
    """About the centroid, along the principal axes, in an order and with signs that do not depend on the camera."""
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
