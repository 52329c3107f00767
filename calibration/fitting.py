"""Shared by the routines: invalid poses, outliers, standard errors and the spread of poses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from navnode import geometry as g
from navnode.types import Array, Matrix

__all__ = [
    "covariance",
    "exact",
    "from_middle_deg",
    "geometric_median",
    "largest_angle_rad",
    "not_outlying",
    "numeric_jacobian",
    "repeated",
    "rms",
    "robust_linear",
    "runs",
    "valid_poses",
    "widest_rad",
]

_ROUNDS = 30
_CUT_SIGMA = 4.5
"""Of normally distributed 3-D residuals, one in 6000 is larger."""
_LEAST_DISTINCT = 3
_MEDIAN_OF_NORM = {1: 0.6745, 2: 1.1774, 3: 1.5382}
"""Dimension -> median length of a vector of standard normal numbers."""


def valid_poses(poses: Array) -> Array:
    """Mask (N,) of the measured poses in (N, 4, 4): rigid, and not the identity that some trackers send if unseen."""
    poses = np.asarray(poses)
    identity = (poses == np.eye(4)).all(axis=(1, 2))
    return np.array([g.is_rigid(pose) for pose in poses], bool) & ~identity if len(poses) else np.zeros(0, bool)


def repeated(*series: Array) -> Array:
    """Mask (N,) of the poses (N, 4, 4) that are, bit for bit and in all series, an earlier one: sent again, not
    measured again. Those that are none (:func:`valid_poses`) are not among them.

    None, where fewer than three differ: what such measurements lack is spread.
    """
    count = len(series[0])
    rows = np.concatenate([np.asarray(each, np.float64).reshape(count, 16) for each in series], axis=1)
    first = np.unique(rows, axis=0, return_index=True)[1]
    again = np.full(count, len(first) >= _LEAST_DISTINCT)
    again[first] = False
    return np.asarray(again & np.logical_and.reduce([valid_poses(each) for each in series]))


def runs(used: Array, least: int) -> Iterator[slice]:
    """Stretches of at least so many consecutive rows that are not used (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], used, [True]]).astype(int)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        if end - first >= least:
            yield slice(int(first), int(end))


def exact(poses: Array) -> Matrix:
    """Poses (N, 4, 4), made rigid to the last digit."""
    return np.array([g.orthonormal(pose) for pose in poses]).reshape(-1, 4, 4)


def largest_angle_rad(rotations: Matrix) -> float:
    """The largest relative rotation between two of (N, 3, 3)."""
    flat = rotations.reshape(-1, 9)
    least = min((float((flat[i] @ flat[i:].T).min()) for i in range(len(flat))), default=3.0)
    return float(np.arccos(np.clip((least - 1) / 2, -1.0, 1.0)))


def widest_rad(directions: Matrix) -> float:
    """The largest angle between two of (N, 3) unit vectors."""
    least = min((float((directions[i] @ directions[i:].T).min()) for i in range(len(directions))), default=1.0)
    return float(np.arccos(np.clip(least, -1.0, 1.0)))


def from_middle_deg(directions: Matrix) -> Matrix:
    """Angles (N, 2) in degrees of unit vectors (N, 3) from their mean, to the side and up (equidistant projection)."""
    middle = directions.mean(axis=0)
    middle = middle / max(float(np.linalg.norm(middle)), 1e-9)
    flat = directions @ np.linalg.svd(middle[None])[2][1:].T
    lean = np.degrees(np.arccos(np.clip(directions @ middle, -1, 1)))
    return np.asarray(flat * (lean / np.maximum(np.linalg.norm(flat, axis=1), 1e-9))[:, None])


def geometric_median(points: Matrix) -> Matrix:
    """The point with the smallest sum of distances to points (N, D) (Weiszfeld); independent of the frame."""
    middle: Matrix = points.mean(axis=0)
    for _ in range(100):
        weight = 1 / np.maximum(np.linalg.norm(points - middle, axis=1), 1e-9)
        middle, before = (weight[:, None] * points).sum(axis=0) / weight.sum(), middle
        if float(np.abs(middle - before).max()) < 1e-9:
            break
    return middle


def robust_linear(design: Matrix, wanted: Matrix, *, reject: bool = True) -> tuple[Matrix, Array]:
    """Solve ``design @ x = wanted`` although some rows are wrong.

    First the sum of the residuals' lengths is minimised, which is convex, so that the result depends neither on the
    order of the rows nor on chance. Then rows far beyond the scatter of the others are excluded, and the rest is solved
    by least squares.

    Args:
        design: (N, D, P); each row is D equations that are right or wrong together.
        wanted: (N, D).

    Returns:
        x (P,), and a mask of the rows that were used (N,).
    """
    count, each, _ = design.shape
    used = np.ones(count, bool)

    def solved(weight: Matrix) -> Matrix:
        root = np.sqrt(weight)[:, None]
        weighted = (design * root[..., None]).reshape(count * each, -1)
        return np.asarray(np.linalg.lstsq(weighted, (wanted * root).ravel(), None)[0])

    x = solved(np.ones(count))
    if not reject:
        return x, used
    for _ in range(_ROUNDS):
        length = np.linalg.norm(design @ x - wanted, axis=1)
        x, before = solved(1 / np.maximum(length, 1e-6 + 1e-3 * float(np.median(length)))), x
        if float(np.abs(x - before).max()) < 1e-9:
            break
    for _ in range(_ROUNDS):
        length = np.linalg.norm(design @ x - wanted, axis=1)
        keep = not_outlying(length, each, used)
        x = solved(keep.astype(np.float64))
        if (keep == used).all():
            break
        used = keep
    return x, used


def not_outlying(length: Matrix, each: int, used: Array | None = None) -> Array:
    """Mask of the residuals (N,), lengths of ``each`` numbers, that fit a normal distribution.

    Args:
        used: mask of the rows known to be good, which determine the scatter.
    """
    among = length if used is None or not used.any() else length[used]
    # Of a few rows the median is often too small (Rousseeuw and Leroy, 1987, p. 202).
    sigma = (1 + 5 / max(len(among), 1)) * float(np.median(among)) / _MEDIAN_OF_NORM[each]
    return np.asarray(length <= max(_CUT_SIGMA * sigma, 1e-9))


def covariance(design: Matrix, residual: Matrix) -> Matrix:
    """Covariance (P, P) of a least-squares solution from its residuals (N, D), for rows of any covariance.

    The sandwich estimator with rows as clusters (Liang and Zeger, Biometrika 73, 1986), with each row's residual
    corrected for its own leverage (Bell and McCaffrey, Survey Methodology 28, 2002).
    """
    each = design.shape[1]
    normal = np.einsum("ndp,ndq->pq", design, design)
    inverse = np.linalg.pinv(normal, hermitian=True)
    leverage = np.einsum("ndp,pq,neq->nde", design, inverse, design)
    freed = np.linalg.solve(np.eye(each) - leverage + 1e-9 * np.eye(each), residual[..., None])[..., 0]
    score = np.einsum("ndp,nd->np", design, freed)
    return np.asarray(inverse @ (score.T @ score) @ inverse)


def numeric_jacobian(function: Callable[[Matrix], Matrix], at: Matrix, step: Matrix) -> Matrix:
    """Central differences of a function (P,) -> (...), last axis the unknowns."""
    columns = []
    for index, width in enumerate(step):
        ahead, behind = at.copy(), at.copy()
        ahead[index] += width
        behind[index] -= width
        columns.append((function(ahead) - function(behind)) / (2 * width))
    return np.stack(columns, axis=-1)


def rms(lengths: Matrix) -> float:
    """Root mean square of lengths (N,); NaN if empty."""
    return float(np.sqrt(np.mean(np.square(lengths)))) if len(lengths) else float("nan")
