"""What the routines share: rows that are no poses, outliers, standard errors, how far poses spread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from navnode import geometry as g
from navnode.types import Array, Matrix

_ROUNDS = 30
_CUT_SIGMA = 4.5
"""Of 3-D residuals of a normal distribution one in 6000 is larger."""
_MEDIAN_OF_NORM = {1: 0.6745, 2: 1.1774, 3: 1.5382}
"""Median length of a vector of so many standard normal numbers."""


def valid_poses(poses: Array) -> Array:
    """Which of (N, 4, 4) are measured poses: rigid, and not the identity that trackers send for *not seen*."""
    poses = np.asarray(poses)
    identity = (poses == np.eye(4)).all(axis=(1, 2))
    return np.array([g.is_rigid(pose) for pose in poses], bool) & ~identity if len(poses) else np.zeros(0, bool)


def exact(poses: Array) -> Matrix:
    """(N, 4, 4) made rigid to the last digit."""
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
    """(N, 2) degrees by which unit vectors (N, 3) lean from their middle, to the side and up (equidistant)."""
    middle = directions.mean(axis=0)
    middle = middle / max(float(np.linalg.norm(middle)), 1e-9)
    flat = directions @ np.linalg.svd(middle[None])[2][1:].T
    lean = np.degrees(np.arccos(np.clip(directions @ middle, -1, 1)))
    return np.asarray(flat * (lean / np.maximum(np.linalg.norm(flat, axis=1), 1e-9))[:, None])


def geometric_median(points: Matrix) -> Matrix:
    """The point with the smallest sum of distances to (N, D) (Weiszfeld); the same in any frame."""
    middle: Matrix = points.mean(axis=0)
    for _ in range(100):
        weight = 1 / np.maximum(np.linalg.norm(points - middle, axis=1), 1e-9)
        middle, before = (weight[:, None] * points).sum(axis=0) / weight.sum(), middle
        if float(np.abs(middle - before).max()) < 1e-9:
            break
    return middle


def robust_linear(design: Matrix, wanted: Matrix, *, reject: bool = True) -> tuple[Matrix, Array]:
    """Solve ``design @ x = wanted`` where some rows are wrong.

    It begins with the sum of the residuals' lengths, which is convex, so that the answer depends neither on the order
    of the rows nor on chance; then rows far beyond what the others scatter are set aside, and least squares has
    the rest.

    Args:
        design: (N, D, P); wanted: (N, D). Each row is D equations that are right or wrong together.

    Returns:
        x (P,), and which rows were used (N,).
    """
    count, each, _ = design.shape
    used = np.ones(count, bool)

    def solved(weight: Matrix) -> Matrix:
        root = np.sqrt(weight)[:, None]
        found, *_ = np.linalg.lstsq((design * root[..., None]).reshape(count * each, -1), (wanted * root).ravel(), None)
        return np.asarray(found)

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
    """Which residuals (N,), lengths of ``each`` numbers, are such as a normal distribution has.

    Args:
        used: whose scatter is that of the good ones, if that is known already.
    """
    among = length if used is None or not used.any() else length[used]
    # Of a few rows the median is often too small (Rousseeuw and Leroy, 1987, p. 202).
    sigma = (1 + 5 / max(len(among), 1)) * float(np.median(among)) / _MEDIAN_OF_NORM[each]
    return np.asarray(length <= max(_CUT_SIGMA * sigma, 1e-9))


def covariance(design: Matrix, residual: Matrix) -> Matrix:
    """Covariance (P, P) of a least-squares solution from its residuals (N, D), whatever each row's own covariance is.

    The sandwich estimator with rows as clusters (Liang and Zeger, Biometrika 73, 1986), each row's residual divided by
    what its own leverage took from it (Bell and McCaffrey, Survey Methodology 28, 2002).
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
    """Root mean square; NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(lengths)))) if len(lengths) else float("nan")
