"""Verification of the whole chain: targets with known positions in the volume are touched, and nothing is fitted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.artifacts import PHANTOM, PhantomResult, vector
from navnode.types import Array, Matrix

from .fitting import exact, geometric_median, rms, valid_poses
from .verdict import TOO_FEW, Calibration, Gate, Gates, judged, rejection

__all__ = ["phantom", "phantom_from_stream", "steady_places", "tips_in_patient"]

_CHECK = "check pivot, patient and hand-eye calibration; bias_mm shows the direction"
GATES = (
    Gate("n_used", 4, TOO_FEW, "the number of measured targets", "touch more targets", at_least=True),
    Gate("tre_mm.median", 2.0, "residual", "the median error at the targets", _CHECK, "mm"),
    Gate("tre_mm.p95", 3.0, "residual", "the 95th percentile of the error at the targets", _CHECK, "mm"),
    Gate("tre_mm.max", 6.0, "residual", "the error at the worst target", "was another target touched? Repeat it", "mm"),
)
_REST_MM = 20.0
"""A steady stretch farther than this from every target is a pause."""
_HALF_WINDOW = 3
_LEAST_ROWS = 5
_SAME_PLACE_MM = 3.0
_LEAST_SPEED_MM = 0.15
"""Speed per row below which a point is always steady."""


def phantom(
    targets_mm: Mapping[str, Array],
    measured_mm: Mapping[str, Array],
    *,
    gates: Gates | None = None,
    touches: int | None = None,
    problem: str = "",
    rows: tuple[int, list[int]] | None = None,
) -> Calibration[PhantomResult]:
    """Errors at targets.

    Args:
        targets_mm, measured_mm: label -> (3,) RAS.
        touches: number of steady touches, if they come from a stream.
        problem: why the touches do not cover all targets, or ''.
        rows: number of rows of that stream, and the invalid ones.
    """
    labels = [label for label in targets_mm if label in measured_mm and np.isfinite(measured_mm[label]).all()]
    off = np.array([np.asarray(measured_mm[n], float) - targets_mm[n] for n in labels]).reshape(-1, 3)
    length = np.linalg.norm(off, axis=1)
    tre = dict.fromkeys(("median", "p95", "max", "mean", "rms"), float("nan"))
    if len(length):
        tre = {
            "median": float(np.median(length)),
            "p95": float(np.quantile(length, 0.95)),
            "max": float(length.max()),
            "mean": float(length.mean()),
            "rms": rms(length),
        }
    missing = [label for label in targets_mm if label not in labels]
    if not problem and missing:
        problem = (
            f"missing_target: {len(labels)} of {len(targets_mm)} targets were measured, all are needed; "
            f"touch {', '.join(missing)}, too"
        )
    few = len(labels) < (gates or {}).get("n_used", GATES[0].limit) and (not missing or not labels) and not problem
    quality = {
        "n_input": len(targets_mm),
        "n_used": len(labels),
        "rejected": [n for n, label in enumerate(targets_mm) if label in missing],
        "tre_mm": tre,
        "per_target_mm": dict(zip(labels, length.tolist(), strict=True)),
        "bias_mm": off.mean(axis=0) if len(off) else np.full(3, np.nan),
        "touches": touches if touches is not None else len(labels),
    }
    if rows is not None:
        quality |= {"n_input": rows[0], "rejected": rows[1]}
    return judged(
        PHANTOM,
        GATES,
        gates,
        {f"tre_mm.{name}": tre[name] for name in ("median", "p95", "max")},
        result=PhantomResult({label: vector(measured_mm[label]) for label in labels}),
        quality=quality,
        reason="" if few else problem,
        pictures=[("fre", {"mm": quality["per_target_mm"], "tre_mm": tre})],
    )


def phantom_from_stream(
    targets_mm: Mapping[str, Array],
    tracker_from_stylus: Array,
    tracker_from_patient: Array,
    tip_mm: Array,
    volume_from_patient: Array,
    *,
    gates: Gates | None = None,
) -> Calibration[PhantomResult]:
    """:func:`phantom` from a stream in which the targets are touched in order.

    Args:
        tracker_from_stylus, tracker_from_patient: (N, 4, 4) at the same times.
        tip_mm: (3,), stylus frame.

    Raises:
        ConfigError: the numbers of rows differ, or the registration is not a rigid transform.
    """
    if not g.is_rigid(volume_from_patient):
        raise ConfigError("--volume-from-patient: not a rigid transform")
    in_patient = tips_in_patient(tracker_from_stylus, tracker_from_patient, tip_mm)
    tips = g.transform(g.orthonormal(volume_from_patient), in_patient)
    places = np.array([np.asarray(at, np.float64) for at in targets_mm.values()]).reshape(-1, 3)
    steady = steady_places(tips) if len(places) else []
    touched = [at for at in steady if np.linalg.norm(places - at, axis=1).min() <= _REST_MM]
    seen = valid_poses(tracker_from_stylus) & valid_poses(tracker_from_patient)
    unseen = np.flatnonzero(~seen).tolist()
    problem = rejection(len(seen), len(unseen))
    if not problem and len(touched) != len(targets_mm):
        problem = (
            f"missing_target: {len(touched)} steady touches near the targets were found, {len(targets_mm)} are needed; "
            "touch every target once, in order, and hold still for a second"
        )
    measured = dict(zip(targets_mm, touched, strict=False))
    return phantom(targets_mm, measured, gates=gates, touches=len(touched), problem=problem, rows=(len(seen), unseen))


def tips_in_patient(tracker_from_stylus: Array, tracker_from_patient: Array, tip_mm: Array) -> Matrix:
    """Positions (N, 3) of the tip in the patient marker's frame, for the rows in which both were seen.

    Raises:
        ConfigError: the numbers of rows differ.
    """
    if len(tracker_from_stylus) != len(tracker_from_patient):
        raise ConfigError(
            f"--stylus has {len(tracker_from_stylus)} rows, --patient-marker {len(tracker_from_patient)}; the numbers "
            "must be equal"
        )
    rows = np.flatnonzero(valid_poses(tracker_from_stylus) & valid_poses(tracker_from_patient))
    stylus, marker = exact(tracker_from_stylus[rows]), exact(tracker_from_patient[rows])
    return np.array([g.transform(g.inverse(m) @ s, tip_mm) for s, m in zip(stylus, marker, strict=True)]).reshape(-1, 3)


def steady_places(points: Matrix) -> list[Matrix]:
    """Places where a moving point (N, 3) rested, in order.

    Otsu's threshold on the speed separates rest from motion.
    """
    if len(points) < 2 * _HALF_WINDOW + _LEAST_ROWS:
        return []
    from skimage.filters import threshold_otsu  # here: the page, which shows the panel, does not need it

    sums = np.cumsum(np.concatenate([np.zeros((1, 3)), points]), axis=0)
    mean = (sums[_HALF_WINDOW:] - sums[:-_HALF_WINDOW]) / _HALF_WINDOW
    speed = np.full(len(points), np.inf)
    inner = np.linalg.norm(mean[_HALF_WINDOW + 1 :] - mean[: -_HALF_WINDOW - 1], axis=1) / (_HALF_WINDOW + 1)
    speed[_HALF_WINDOW : _HALF_WINDOW + len(inner)] = inner
    level = np.log(np.maximum(inner, 1e-3))
    limit = max(float(np.exp(threshold_otsu(level))) if np.ptp(level) > 1e-6 else np.inf, _LEAST_SPEED_MM)
    steady = speed <= limit
    rests: list[tuple[int, int, Matrix]] = []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], steady, [False]]).astype(int)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        if end - first < _LEAST_ROWS:
            continue
        at = geometric_median(points[first:end])
        if rests and np.linalg.norm(rests[-1][2] - at) < _SAME_PLACE_MM and _stayed(points[rests[-1][1] : first], at):
            first = rests.pop()[0]
            at = geometric_median(points[first:end])
        rests.append((int(first), int(end), at))
    return [at for _, _, at in rests]


def _stayed(between: Matrix, at: Matrix) -> bool:
    """Whether the point stayed in place meanwhile."""
    return not len(between) or float(np.linalg.norm(between - at, axis=1).max()) < 2 * _SAME_PLACE_MM
