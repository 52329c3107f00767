"""Hand-eye calibration: the pose of the C-arm's marker relative to the X-ray source, from ``A_i X = Z B_i``.

``A_i`` is tracker_from_marker, ``B_i`` phantom_from_carm, ``X`` marker_from_carm, ``Z`` tracker_from_phantom.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from msgspec import UNSET

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files import artifacts
from navnode.files.artifacts import HANDEYE, HandEyeResult
from navnode.types import Array, Matrix

from .fitting import (
    covariance,
    exact,
    largest_angle_rad,
    not_outlying,
    numeric_jacobian,
    repeated,
    rms,
    runs,
    valid_poses,
)
from .verdict import TOO_FEW, Calibration, Gate, Gates, judged, rejection

__all__ = ["handeye"]

_TURN = "turn the C-arm further, orbital and angular, in more positions"
_HOLD = "hold phantom and C-arm still at each shot, and repeat the worst ones"
GATES = (
    Gate("n_used", 6, TOO_FEW, "the number of usable positions", "take more", at_least=True),
    Gate("spread_rad", 0.52, "spread", "the largest rotation between two positions", _TURN, "rad", at_least=True),
    Gate(
        "axis_spread_rad", 0.35, "axes", "the largest angle between two axes of rotation", _TURN, "rad", at_least=True
    ),
    Gate(
        "workspace_mm",
        20.0,
        "implausible",
        "how far the marker moved",
        "turn the C-arm further; or are its poses in metres (--units m)?",
        "mm",
        at_least=True,
    ),
    Gate(
        "source_mm",
        150.0,
        "implausible",
        "the distance from the X-ray source to where its rays meet",
        "are the poses of X-rays in metres (--units m), or inverted (carm_from_phantom)?",
        "mm",
        at_least=True,
    ),
    Gate(
        "length_mm",
        3_000.0,
        "implausible",
        "the distance from the marker to the X-ray source",
        "are poses inverted, or in another unit (--units)?",
        "mm",
    ),
    Gate("rms_mm", 3.0, "residual", "the rms closure at the phantom's origin", _HOLD, "mm"),
    Gate("rms_rad", 0.0175, "residual", "the rms closure of the rotation", _HOLD, "rad"),
    Gate(
        "moved_mm",
        5.0,
        "moved",
        "how far the marker or the phantom moved meanwhile",
        "fix both, and repeat; or does the C-arm bend (flex)?",
        "mm",
    ),
    Gate("sigma_translation_mm", 2.0, "sigma", "the standard error of the translation", _TURN, "mm"),
)
DIRECT_GATES = tuple(
    Gate("n_used", 3, TOO_FEW, gate.what, gate.advice, at_least=True) if gate.key == "n_used" else gate
    for gate in GATES
    if gate.key not in ("spread_rad", "axis_spread_rad", "workspace_mm")
)

_MOST_TRIPLES = 600
_LEAST_MOTION_RAD = 0.17
_MM, _RAD = 3.0, 0.0175
"""Weights of closures until their scatter is known."""
_LEAST_SIGMA = (1e-7, 1e-5)
"""rad, mm; for simulated data without noise."""
_MOST_STEPS, _RANK = 60, 1e-8
_RUN = 3
"""Consecutive outliers that show something else together. Halves of the positions tell nothing: a C-arm that bends
differs between them, too."""


def handeye(
    tracker_from_marker: Array,
    phantom_from_carm: Array,
    tracker_from_phantom_marker: Array | None = None,
    phantom_marker_from_phantom: Array | None = None,
    *,
    gates: Gates | None = None,
    seed: int = 0,
) -> Calibration[HandEyeResult]:
    """Find marker_from_carm and the phantom's pose.

    Triples of positions give starts in closed form (rotation: Park and Martin, IEEE Trans. Robot. Autom. 10, 1994). The
    one with the smallest median closure is refined by least squares over both transforms, without outliers.

    Args:
        tracker_from_marker, phantom_from_carm: (N, 4, 4), one row per position.
        tracker_from_phantom_marker: (N, 4, 4); None: the phantom does not move.
        phantom_marker_from_phantom: 4x4, if known; every row then determines the result by itself.
        seed: random seed of the choice among very many triples.

    Raises:
        ConfigError: the numbers of rows differ, or the arguments contradict each other.
    """
    series = [np.asarray(poses, np.float64) for poses in (tracker_from_marker, phantom_from_carm)]
    if tracker_from_phantom_marker is not None:
        series.append(np.asarray(tracker_from_phantom_marker, np.float64))
    if len({len(poses) for poses in series}) != 1:
        counts = ", ".join(str(len(poses)) for poses in series)
        raise ConfigError(f"the files have {counts} rows; the numbers must be equal")
    direct = phantom_marker_from_phantom is not None
    if direct and tracker_from_phantom_marker is None:
        raise ConfigError("--phantom-marker-from-phantom requires --phantom-marker")
    again = repeated(*series)
    rows = np.flatnonzero(np.logical_and.reduce([valid_poses(poses) for poses in series]) & ~again)
    a, b = (exact(poses[rows]) for poses in series[:2])
    if len(series) == 3:
        a = np.array([g.inverse(c) @ each for c, each in zip(exact(series[2][rows]), a, strict=True)]).reshape(-1, 4, 4)
    known = None if phantom_marker_from_phantom is None else g.orthonormal(phantom_marker_from_phantom)
    which = DIRECT_GATES if direct else GATES
    residuals = "rms_mm", "max_mm", "rms_rad", "max_rad"
    others = "sigma_rotation_rad", "sigma_translation_mm", "spread_rad", "axis_spread_rad"
    lengths = "workspace_mm", "source_mm", "length_mm", "moved_mm"
    quality: dict[str, object] = dict.fromkeys(residuals + others + lengths)
    result: HandEyeResult | None = None
    used = np.ones(len(rows), bool)
    pictures: list[tuple[str, dict[str, Array]]] = []
    if len(rows) >= 3:
        x, z, used = _solved(a, b, known, seed)
        off = _closures(a, b, x, z)
        shift, turn = np.linalg.norm(off[:, 3:], axis=1), np.linalg.norm(off[:, :3], axis=1)
        spread = _covariance(a[used], b[used], x, z, known is not None)
        sigma = np.sqrt(np.maximum(np.diag(spread), 0.0))
        quality = {
            "rms_mm": rms(shift[used]),
            "max_mm": float(shift[used].max(initial=0.0)),
            "rms_rad": rms(turn[used]),
            "max_rad": float(turn[used].max(initial=0.0)),
            "sigma_rotation_rad": sigma[:3],
            "sigma_translation_mm": sigma[3:6],
            "covariance": spread,
            "spread_rad": largest_angle_rad(a[used][:, :3, :3]) if used.any() else 0.0,
            "axis_spread_rad": _axis_spread_rad(a[used][:, :3, :3]),
            "workspace_mm": float(np.linalg.norm(np.ptp(a[used][:, :3, 3], axis=0))) if used.any() else 0.0,
            "source_mm": _source_mm(b[used]) if used.any() else 0.0,
            "length_mm": float(np.linalg.norm(x[:3, 3])),
            "moved_mm": _in_runs_mm(a, b, x, z, used),
        }
        moved = len(series) == 3
        result = HandEyeResult(
            artifacts.rows(x),
            tracker_from_phantom=UNSET if moved else artifacts.rows(z),
            phantom_marker_from_phantom=artifacts.rows(z) if moved else UNSET,
        )
        pictures = [("residuals", {"rows": rows, "length_mm": shift, "used": used})]
    n_input = int((~again).sum())
    rejected = sorted(set(np.flatnonzero(~again).tolist()) - set(rows[used].tolist()))
    told = {"n_input": n_input, "repeated": int(again.sum()), "n_used": int(used.sum()), "rejected": rejected}
    document: dict[str, object] = {**told, **quality}
    worst = quality["sigma_translation_mm"]
    figures = {"sigma_translation_mm": None if worst is None else float(np.max(np.asarray(worst)))}
    few = int(used.sum()) < (gates or {}).get("n_used", which[0].limit)
    reason = "" if few else rejection(n_input, len(rejected))
    return judged(HANDEYE, which, gates, figures, result=result, quality=document, reason=reason, pictures=pictures)


def _solved(a: Matrix, b: Matrix, known: Matrix | None, seed: int) -> tuple[Matrix, Matrix, Array]:
    """X, Z, and a mask of the rows that were used."""
    best: tuple[float, Matrix, Matrix] | None = None
    for triple in _triples(len(a), seed):
        for x, z in _closed(a[triple], b[triple], known):
            off = _closures(a, b, x, z)
            shift, turn = np.linalg.norm(off[:, 3:], axis=1) / _MM, np.linalg.norm(off[:, :3], axis=1) / _RAD
            score = float(np.median(np.hypot(shift, turn)))
            if best is None or score < best[0]:
                best = score, x, z
    assert best is not None
    _, x, z = best
    used: Array | None = None
    for _ in range(30):
        off = _in_carm(a, b, x, z)
        keep = not_outlying(np.linalg.norm(off[:, 3:], axis=1), 3, used)
        keep &= not_outlying(np.linalg.norm(off[:, :3], axis=1), 3, used)
        if keep.sum() < 3 or (used is not None and (keep == used).all()):
            break
        x, z = _refined(a[keep], b[keep], x, z, known is not None)
        used = keep
    return x, z, np.ones(len(a), bool) if used is None else used


def _triples(count: int, seed: int) -> Matrix:
    every = count * (count - 1) * (count - 2) // 6
    if every <= _MOST_TRIPLES:
        return np.array(list(combinations(range(count), 3)))
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(count, 3, replace=False) for _ in range(_MOST_TRIPLES)])


def _closed(a: Matrix, b: Matrix, known: Matrix | None) -> list[tuple[Matrix, Matrix]]:
    """X and Z from three positions in closed form."""
    if known is not None:
        return [(g.inverse(each) @ known @ other, known) for each, other in zip(a, b, strict=True)]
    # A_i^-1 A_j X = X B_i^-1 B_j: the rotation vectors of both sides differ by X's rotation.
    ij = [(0, 1), (1, 2), (0, 2)]
    left = [g.inverse(a[i]) @ a[j] for i, j in ij]
    right = [g.inverse(b[i]) @ b[j] for i, j in ij]
    alpha, beta = (np.array([g.rotation_log(m[:3, :3]) for m in motions]) for motions in (left, right))
    u, _, vt = np.linalg.svd(alpha.T @ beta)
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    design = np.concatenate([m[:3, :3] - np.eye(3) for m in left])
    wanted = np.concatenate([rotation @ r[:3, 3] - m[:3, 3] for m, r in zip(left, right, strict=True)])
    x = g.rigid(rotation, np.linalg.lstsq(design, wanted, None)[0])
    return [(x, a[0] @ x @ g.inverse(b[0]))]


def _closures(a: Matrix, b: Matrix, x: Matrix, z: Matrix) -> Matrix:
    """(N, 6): rotation vector (rad) and position (mm) of the phantom from each row, relative to that from Z."""
    relative = np.linalg.inv(z) @ a @ x @ np.linalg.inv(b)
    return np.array([np.append(g.rotation_log(each[:3, :3]), each[:3, 3]) for each in relative]).reshape(-1, 6)


def _moved(x: Matrix, z: Matrix, by: Matrix) -> tuple[Matrix, Matrix]:
    """X with its rotation (carm axes) and translation (marker axes) changed, and Z."""
    x = g.rigid(x[:3, :3] @ g.rotation_exp(by[:3]), x[:3, 3] + by[3:6])
    return (x, z) if len(by) == 6 else (x, g.rigid(z[:3, :3] @ g.rotation_exp(by[6:9]), z[:3, 3] + by[9:12]))


def _in_carm(a: Matrix, b: Matrix, x: Matrix, z: Matrix) -> Matrix:
    """(N, 6): rotation vector (rad) and position (mm), in carm axes, between the carm frames from marker and X-ray.

    In this frame the noise of both poses is the same at every position of the C-arm, whereas at the phantom the
    rotation's noise has a lever of a metre.
    """
    off = np.linalg.inv(b) @ np.linalg.inv(z) @ a @ x
    return np.array([np.append(g.rotation_log(each[:3, :3]), each[:3, 3]) for each in off]).reshape(-1, 6)


def _scatter(off: Matrix) -> Matrix:
    """One sigma of each component. Correlations are left out, as few rows determine them poorly."""
    return np.asarray(np.maximum(np.sqrt(np.mean(off**2, axis=0)), np.repeat(_LEAST_SIGMA, 3)))


def _slope(a: Matrix, b: Matrix, x: Matrix, z: Matrix, only_x: bool) -> Matrix:
    """Derivatives (N, 6, unknowns) of :func:`_in_carm`; unknowns in thousandths of a radian and in mm."""
    unit = np.tile([1e-3] * 3 + [1.0] * 3, 1 if only_x else 2)
    return numeric_jacobian(
        lambda by: _in_carm(a, b, *_moved(x, z, by * unit)), np.zeros(len(unit)), np.full(len(unit), 1e-3)
    )


def _refined(a: Matrix, b: Matrix, x: Matrix, z: Matrix, only_x: bool) -> tuple[Matrix, Matrix]:
    """Gauss and Newton from a start, each time with what the residuals say of their scatter."""
    unit = np.tile([1e-3] * 3 + [1.0] * 3, 1 if only_x else 2)
    for _ in range(_MOST_STEPS):
        off = _in_carm(a, b, x, z)
        scale = _scatter(off)
        design = (_slope(a, b, x, z, only_x) / scale[:, None]).reshape(-1, len(unit))
        step, *_ = np.linalg.lstsq(design, -(off / scale).ravel(), _RANK)
        x, z = _moved(x, z, step * unit)
        if float(np.abs(step).max()) < 1e-9:
            break
    return x, z


def _covariance(a: Matrix, b: Matrix, x: Matrix, z: Matrix, only_x: bool) -> Matrix:
    """Covariance of X's rotation (rad, carm axes) and translation (mm, marker axes), 6x6; infinite if unknown."""
    unknowns = 6 if only_x else 12
    if len(a) * 6 <= unknowns:
        return np.full((6, 6), np.inf)
    off = _in_carm(a, b, x, z)
    scale = _scatter(off)
    slope = _slope(a, b, x, z, only_x) / scale[:, None]
    singular = np.linalg.svd(slope.reshape(-1, unknowns), compute_uv=False)
    if singular[-1] < _RANK * singular[0]:
        return np.full((6, 6), np.inf)
    unit = np.array([1e-3] * 3 + [1.0] * 3)
    return np.asarray(covariance(slope, off / scale)[:6, :6] * np.outer(unit, unit))


def _in_runs_mm(a: Matrix, b: Matrix, x: Matrix, z: Matrix, used: Array) -> float:
    """How far, at the phantom, consecutive positions that do not fit the others say together that the marker on the
    C-arm was elsewhere, or the phantom; 0: none do."""
    farthest = 0.0
    far = np.array([0.0, 0.0, _source_mm(b[used]) if used.any() else 0.0, 1.0])
    by_marker = (np.linalg.inv(a) @ z @ b @ far)[:, :3]  # where the rays meet, as the marker has it
    by_phantom = (a @ x @ np.linalg.inv(b))[:, :3, 3]
    for seen in (by_marker, by_phantom):
        middle = seen[used].mean(axis=0)
        scatter = max(rms(np.linalg.norm(seen[used] - middle, axis=1)), 1e-3)
        for run in runs(used, _RUN):
            there = seen[run].mean(axis=0)
            if rms(np.linalg.norm(seen[run] - there, axis=1)) < 3 * scatter:
                farthest = max(farthest, float(np.linalg.norm(there - middle)))
    return farthest


def _source_mm(phantom_from_carm: Matrix) -> float:
    """How far, along the principal rays, they meet from their sources."""
    meet = g.where_rays_meet(list(phantom_from_carm))
    return float(np.median(np.einsum("ij,ij->i", meet - phantom_from_carm[:, :3, 3], phantom_from_carm[:, :3, 2])))


def _axis_spread_rad(rotations: Matrix) -> float:
    """The largest angle between the axes of motions between positions, regardless of their sense."""
    axes = []
    for i in range(len(rotations)):
        for j in range(i):
            turn = g.rotation_log(rotations[j].T @ rotations[i])
            if (angle := float(np.linalg.norm(turn))) > _LEAST_MOTION_RAD:
                axes.append(turn / angle)
    if not axes:
        return 0.0
    lines = np.array(axes)
    return float(np.arccos(min(max(float(np.abs(lines @ lines.T).min()), 0.0), 1.0)))
