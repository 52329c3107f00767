"""Pivot calibration: a tool's tip, found by turning the tool about it while it rests in a divot."""

from __future__ import annotations

import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.artifacts import PIVOT, PivotResult, vector
from navnode.types import Array, Matrix

from .fitting import (
    covariance,
    exact,
    geometric_median,
    largest_angle_rad,
    repeated,
    rms,
    robust_linear,
    runs,
    valid_poses,
    widest_rad,
)
from .verdict import TOO_FEW, Calibration, Gate, Gates, judged, rejection

__all__ = ["pivot"]

_TILT = "tilt the tool further, in every direction"
GATES = (
    Gate("n_used", 20, TOO_FEW, "the number of usable poses", "take more", at_least=True),
    Gate("spread_rad", 0.35, "spread", "the largest rotation between two poses", _TILT, "rad", at_least=True),
    Gate("axis_spread_rad", 0.35, "spread", "the largest tilt between two poses", _TILT, "rad", at_least=True),
    Gate(
        "workspace_mm",
        5.0,
        "implausible",
        "how far the tool's marker moved",
        "tilt the tool further; or are the poses in metres (--units m)?",
        "mm",
        at_least=True,
    ),
    Gate(
        "length_mm",
        600.0,
        "implausible",
        "the distance from the tool's marker to its tip",
        "are the poses inverted (tool_from_tracker), or in another unit (--units)?",
        "mm",
    ),
    Gate("condition", 100, "spread", "the condition of the equations (turned about one axis only?)", _TILT),
    Gate("drift_mm", 1.0, "slip", "how far the divot moved meanwhile", "hold tip and divot still, and repeat", "mm"),
    Gate(
        "tip_drift_mm",
        1.0,
        "slip",
        "how far the tip moved on the tool meanwhile",
        "fix the marker, and the bit, to the tool, and repeat",
        "mm",
    ),
    Gate("rms_mm", 1.0, "residual", "the rms distance of the tip from the divot", "hold the tip in the divot", "mm"),
    Gate(
        "max_mm", 3.0, "residual", "the largest distance of the tip from the divot", "hold the tip in the divot", "mm"
    ),
    Gate("sigma_tip_mm", 0.5, "sigma", "the standard error of the tip", "take more poses and tilt further", "mm"),
)

_LONGEST_RUN = 8
"""This many consecutive outliers that agree with each other show that the tip rested somewhere else."""
_OWN_TIP_RUN, _LEAST_HALF = 16, 10
"""Consecutive outliers that tell a tip of their own, and rows of each half of a measurement that do."""
_SURELY = 40.0
"""Squared distance of the tips of both halves, in sigma, beyond which chance does not explain it."""


def pivot(
    tracker_from_tool: Array,
    tracker_from_reference: Array | None = None,
    *,
    gates: Gates | None = None,
    reject: bool = True,
) -> Calibration[PivotResult]:
    """Find the tip in the tool's frame by least squares over ``R_i tip + t_i = pivot``.

    This is the algebraic one-step method (Yaniv, Proc. SPIE 9415, 2015).

    Args:
        tracker_from_tool: (N, 4, 4).
        tracker_from_reference: (N, 4, 4) at the same times: a reference that may move, in whose frame the divot rests.
        reject: exclude outliers.

    Raises:
        ConfigError: the numbers of rows differ.
    """
    if tracker_from_reference is not None and len(tracker_from_reference) != len(tracker_from_tool):
        raise ConfigError(
            f"--reference has {len(tracker_from_reference)} rows, the poses have {len(tracker_from_tool)}; the numbers "
            "must be equal"
        )
    poses = np.asarray(tracker_from_tool, np.float64)
    valid = valid_poses(poses)
    if tracker_from_reference is not None:
        reference = np.asarray(tracker_from_reference, np.float64)
        valid &= valid_poses(reference)
        again = repeated(poses, reference)
        rows = np.flatnonzero(valid & ~again)
        world_from_tool = np.array(
            [g.inverse(r) @ p for r, p in zip(exact(reference[rows]), exact(poses[rows]), strict=True)]
        ).reshape(-1, 4, 4)
    else:
        again = repeated(poses)
        rows = np.flatnonzero(valid & ~again)
        world_from_tool = exact(poses[rows])
    if len(rows) < 3:
        return _verdict(gates, again, rows, None, {})
    rotations, origins = world_from_tool[:, :3, :3], world_from_tool[:, :3, 3]
    middle = geometric_median(origins)  # keeps numbers small and the result independent of the tracker's frame
    design = np.concatenate([rotations, np.broadcast_to(-np.eye(3), rotations.shape)], axis=2)
    solution, used = robust_linear(design, middle - origins, reject=reject)
    tip, at = solution[:3], solution[3:] + middle
    ends = rotations @ tip + origins
    residual = ends[used] - at
    length = np.linalg.norm(residual, axis=1)
    directions = (rotations @ (tip / max(float(np.linalg.norm(tip)), 1e-9)))[used]
    singular = np.linalg.svd(design[used].reshape(-1, 6), compute_uv=False)
    spread = covariance(design[used], residual)
    sigma = np.sqrt(np.maximum(np.diag(spread), 0.0))
    quality = {
        "rms_mm": rms(length),
        "max_mm": float(length.max(initial=0.0)),
        "sigma_tip_mm": sigma[:3],
        "sigma_pivot_mm": sigma[3:],
        "covariance": spread[:3, :3],
        "spread_rad": largest_angle_rad(rotations[used]),
        "axis_spread_rad": widest_rad(directions),
        "workspace_mm": float(np.linalg.norm(np.ptp(origins[used], axis=0))) if used.any() else 0.0,
        "length_mm": float(np.linalg.norm(tip)),
        "condition": min(float(singular[0] / max(singular[-1], 1e-16 * singular[0])), 1e16),
        "drift_mm": max(_drift_mm(ends[used]), _second_place_mm(ends, used)),
        "tip_drift_mm": max(
            _between_halves_mm(design[used], (middle - origins)[used]), _other_tip_mm(design, ends - middle, used)
        ),
    }
    pointing = rotations @ (tip / max(float(np.linalg.norm(tip)), 1e-9))
    pictures = [
        ("residuals", {"rows": rows, "length_mm": np.linalg.norm(ends - at, axis=1), "used": used}),
        ("directions", {"directions": pointing, "used": used}),
    ]
    result = PivotResult(vector(tip), vector(at))
    return _verdict(gates, again, rows[used], result, quality, pictures)


def _verdict(
    gates: Gates | None,
    again: Array,
    used: Array,
    result: PivotResult | None,
    quality: dict[str, object],
    pictures: list[tuple[str, dict[str, Array]]] | None = None,
) -> Calibration[PivotResult]:
    n_input = int((~again).sum())
    rejected = sorted(set(np.flatnonzero(~again).tolist()) - set(used.tolist()))
    blank: dict[str, object] = dict.fromkeys(gate.key for gate in GATES if gate.key != "n_used")
    counts = {"n_input": n_input, "repeated": int(again.sum()), "n_used": len(used), "rejected": rejected}
    document = {**counts, **blank, **quality}
    sigma = quality.get("sigma_tip_mm")
    figures = {"sigma_tip_mm": None if sigma is None else float(np.max(np.asarray(sigma)))}
    few = len(used) < (gates or {}).get("n_used", GATES[0].limit)
    slipped = any(_slipped(key, document[key], gates) for key in ("drift_mm", "tip_drift_mm"))
    reason = "" if few or document["drift_mm"] is None or slipped else rejection(n_input, len(rejected))
    return judged(PIVOT, GATES, gates, figures, result=result, quality=document, reason=reason, pictures=pictures or ())


def _slipped(key: str, drift_mm: object, gates: Gates | None) -> bool:
    """Whether the tip slipped, which explains many rejected rows and is the more useful verdict."""
    limit = (gates or {}).get(key, next(gate.limit for gate in GATES if gate.key == key))
    return isinstance(drift_mm, float) and drift_mm > limit


def _between_halves_mm(design: Matrix, wanted: Matrix) -> float:
    """Distance between the tips of the first and the second half of the rows used; 0: chance may explain it."""
    half = len(design) // 2
    if half < _LEAST_HALF:
        return 0.0
    found = []
    for part in (slice(None, half), slice(half, None)):
        solved = np.linalg.lstsq(design[part].reshape(-1, 6), wanted[part].ravel(), None)[0]
        found.append((solved[:3], covariance(design[part], design[part] @ solved - wanted[part])[:3, :3]))
    (one, spread), (other, more) = found
    apart = one - other
    sure = float(apart @ np.linalg.pinv(spread + more, hermitian=True) @ apart) > _SURELY
    return float(np.linalg.norm(apart)) if sure else 0.0


def _other_tip_mm(design: Matrix, ends: Matrix, used: Array) -> float:
    """How far from the divot the tip was while rows that do not fit the others fit a tip of their own; 0: never.

    Args:
        ends: (N, 3), where the tip was, relative to the origin of the equations.
    """
    scatter = max(rms(np.linalg.norm(ends[used] - ends[used].mean(axis=0), axis=1)), 1e-3)
    farthest = 0.0
    for run in runs(used, _OWN_TIP_RUN):
        # R (tip + d) + t = p: the same equations, from where the tip was to begin with.
        own = np.linalg.lstsq(design[run].reshape(-1, 6), -ends[run].ravel(), None)[0]
        if rms(np.linalg.norm(design[run] @ own + ends[run], axis=1)) < 3 * scatter:
            farthest = max(farthest, float(np.median(np.linalg.norm(ends[run] - ends[used].mean(axis=0), axis=1))))
    return farthest


def _drift_mm(ends: Matrix) -> float:
    """Distance between the tip's mean positions in the first and the last third of the poses."""
    third = max(len(ends) // 3, 1)
    return float(np.linalg.norm(ends[-third:].mean(axis=0) - ends[:third].mean(axis=0)))


def _second_place_mm(ends: Matrix, used: Array) -> float:
    """Distance from the divot to another place where the tip rested for a while; 0 if there is none."""
    middle = ends[used].mean(axis=0)
    scatter = max(rms(np.linalg.norm(ends[used] - middle, axis=1)), 1e-3)
    farthest = 0.0
    for run in runs(used, _LONGEST_RUN):
        there = geometric_median(ends[run])
        if float(np.median(np.linalg.norm(ends[run] - there, axis=1))) < 3 * scatter:
            farthest = max(farthest, float(np.linalg.norm(there - middle)))
    return farthest
