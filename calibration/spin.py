"""Spin calibration: a tool's axis, found by turning the tool about it."""

from __future__ import annotations

import numpy as np

from navnode.files.artifacts import SPIN, SpinResult, vector
from navnode.types import Array, Matrix

from .fitting import covariance, exact, geometric_median, not_outlying, repeated, rms, robust_linear, valid_poses
from .verdict import TOO_FEW, Calibration, Gate, Gates, judged, rejection

__all__ = ["spin"]

GATES = (
    Gate("n_used", 20, TOO_FEW, "the number of usable poses", "take more", at_least=True),
    Gate(
        "rotation_rad",
        1.57,
        "rotation",
        "the angle by which the tool was turned",
        "turn it further",
        "rad",
        at_least=True,
    ),
    Gate("wobble_rad", 0.0175, "wobble", "the rms change of the axis", "turn the tool about its own axis only", "rad"),
    Gate("rms_mm", 1.0, "residual", "the rms wander of the axis", "keep the tool in its bearing", "mm"),
    Gate(
        "tip_off_mm",
        60.0,
        "implausible",
        "the distance of the tip from the axis",
        "is the tip that of this tool? Without one, the axis has no sense",
        "mm",
    ),
)
_ROUNDS = 30


def spin(
    tracker_from_tool: Array, tip_mm: Array | None = None, *, gates: Gates | None = None
) -> Calibration[SpinResult]:
    """Find the axis in the tool's frame: the direction ``a`` whose ``R_i a`` vary least, and its point nearest to the
    tool's origin.

    Args:
        tracker_from_tool: (N, 4, 4).
        tip_mm: (3,), tool frame; the axis then points from the origin to the tip. Without it, the axis' largest
            component is positive.
    """
    poses = np.asarray(tracker_from_tool, np.float64)
    again = repeated(poses)
    rows = np.flatnonzero(valid_poses(poses) & ~again)
    blank: dict[str, object] = dict.fromkeys(("rotation_rad", "wobble_rad", "rms_mm", "sigma_axis_rad", "tip_off_mm"))
    if len(rows) < 3:
        return _verdict(gates, again, rows, None, blank)
    valid = exact(poses[rows])
    rotations, origins = valid[:, :3, :3], valid[:, :3, 3]
    axis, seen, steady = _axis(rotations)
    if float(axis @ tip_mm if tip_mm is not None else axis[np.abs(axis).argmax()]) < 0:
        axis, seen = -axis, -seen
    # Across the axis, in the tracker: R_i p + t_i - c = 0 with p = across @ q.
    across = np.linalg.svd(axis[None])[2][1:].T
    flat = np.linalg.svd(seen[None])[2][1:]
    middle = geometric_median(origins)
    design = np.concatenate([flat @ rotations @ across, np.broadcast_to(-flat @ flat.T, (len(rows), 2, 2))], axis=2)
    wanted = (middle - origins) @ flat.T
    _, on_axis = robust_linear(design, wanted)
    used = steady & on_axis
    if used.sum() < 3:
        return _verdict(gates, again, rows[:0], None, blank)
    solution, *_ = np.linalg.lstsq(design[used].reshape(-1, 4), wanted[used].ravel(), None)
    tilt = np.cross(seen, rotations[used] @ axis)
    wander = np.linalg.norm(design[used] @ solution - wanted[used], axis=1)
    # A turn of the axis by w (across it) changes R_i a by R_i (w x a).
    turned = flat @ rotations[used] @ np.stack([np.cross(column, axis) for column in across.T], axis=1)
    off = (rotations[used] @ axis) @ flat.T
    quality: dict[str, object] = {
        "rotation_rad": _covered_rad(rotations[used], axis, across),
        "wobble_rad": rms(np.arcsin(np.minimum(np.linalg.norm(tilt, axis=1), 1.0))),
        "rms_mm": rms(wander),
        "sigma_axis_rad": float(
            np.sqrt(np.linalg.eigvalsh(covariance(np.concatenate([turned, _ones(turned)], 2), off)[:2, :2])[-1])
        ),
    }
    on_the_axis = across @ solution[:2]
    if tip_mm is not None:
        quality["tip_off_mm"] = float(np.linalg.norm(across.T @ (np.asarray(tip_mm, np.float64) - on_the_axis)))
    result = SpinResult(vector(axis), vector(on_the_axis))
    pictures = [("residuals", {"rows": rows[used], "length_mm": wander, "used": np.ones(len(wander), bool)})]
    return _verdict(gates, again, rows[used], result, quality, pictures)


def _ones(like: Matrix) -> Matrix:
    return np.broadcast_to(np.eye(2), (len(like), 2, 2))


def _axis(rotations: Matrix) -> tuple[Matrix, Matrix, Array]:
    """The axis in the tool's and in the tracker's frame, and a mask of the poses that agree on it."""
    weight = np.ones(len(rotations))
    used = np.ones(len(rotations), bool)

    def solved() -> tuple[Matrix, Matrix, Matrix]:
        u, _, vt = np.linalg.svd(np.einsum("n,nij->ij", weight, rotations))
        axis, seen = vt[0], u[:, 0]
        return axis, seen, np.linalg.norm(rotations @ axis - seen, axis=1)

    axis, seen, off = solved()
    for _ in range(_ROUNDS):  # minimise the sum of angles first, as in fitting.robust_linear
        weight = 1 / np.maximum(off, 1e-6 + 1e-3 * float(np.median(off)))
        before = axis
        axis, seen, off = solved()
        if float(np.abs(axis - before).max()) < 1e-10:
            break
    for _ in range(_ROUNDS):
        keep = not_outlying(off, 2, used)
        weight = keep.astype(np.float64)
        axis, seen, off = solved()
        if (keep == used).all():
            break
        used = keep
    return axis, seen, used


def _covered_rad(rotations: Matrix, axis: Matrix, across: Matrix) -> float:
    """A full turn minus the largest gap between neighbouring angles about the axis."""
    first = rotations[0] @ across[:, 0]
    second = np.cross(rotations[0] @ axis, first)
    pointing = rotations @ across[:, 0]
    angles = np.sort(np.arctan2(pointing @ second, pointing @ first))
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    return float(2 * np.pi - gaps.max())


def _verdict(
    gates: Gates | None,
    again: Array,
    used: Array,
    result: SpinResult | None,
    quality: dict[str, object],
    pictures: list[tuple[str, dict[str, Array]]] | None = None,
) -> Calibration[SpinResult]:
    n_input = int((~again).sum())
    rejected = sorted(set(np.flatnonzero(~again).tolist()) - set(used.tolist()))
    counts = {"n_input": n_input, "repeated": int(again.sum()), "n_used": len(used), "rejected": rejected}
    off_mm = quality.get("tip_off_mm")
    figures = {"tip_off_mm": off_mm if isinstance(off_mm, float) else 0.0}  # without a tip there is nothing to be off
    document = {**counts, "tip_off_mm": None, **quality}
    few = len(used) < (gates or {}).get("n_used", GATES[0].limit)
    reason = "" if few else rejection(n_input, len(rejected))
    return judged(SPIN, GATES, gates, figures, result=result, quality=document, reason=reason, pictures=pictures or ())
