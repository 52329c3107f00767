"""Which pose of the tracker belongs to an X-ray, as X-rays themselves show.

Stamps of two clocks say it only if the clocks agree, and arrival only up to a difference in delay. Where X-rays show
the C-arm is independent of both: while it moves against the patient, they fit the tracker's poses at one shift of time
alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.types import Matrix, Registration

__all__ = ["Pairing", "PosesAt", "Shift", "inverses"]

PosesAt = Callable[[npt.NDArray[np.int64]], Matrix]
"""Tracker's times (M,) ns -> patient_from_carm (M, 4, 4); NaN where it is unknown."""

_KEPT, _FEWEST = 24, 10
"""X-rays that are compared with tracking, at most and at least."""
_OLDEST_NS = 12_000_000_000
"""The tracker's poses of longer ago may be forgotten; X-rays that come once a second are enough within it."""
_FLOOR = np.array([0.003] * 3 + [0.7, 0.7, 3.0]) ** 2
"""Variance of what an X-ray shows beside its own: noise of trackers, and bias in depth, rad² and mm²."""
_CONSISTENT = 6.0
"""Squared Mahalanobis distance of one X-ray, of six degrees of freedom, that fits."""
_CLEARLY = 30.0
"""By how much the sum of the distances must tell the best shift from others."""
_CLOSE_NS = 40_000_000
"""Shifts that differ by less need not be told apart; they are interpolated between."""
_SAME_NS = 15_000_000
"""A shift that differs by less is the present one."""
_CAP = 100.0
"""An X-ray that was placed wrongly counts no more than this."""


@dataclass(frozen=True)
class Shift:
    """What to add to X-rays' times to get the tracker's, as X-rays show it."""

    ns: float
    volume_from_patient: Matrix
    """4x4, with which tracking then explains the X-rays."""


@dataclass(frozen=True)
class _Shown:
    """Where one X-ray shows the C-arm."""

    timestamp_ns: int
    volume_from_carm: Matrix
    weight: Matrix
    """6x6, inverse covariance in the C-arm's frame, turning about the pivot."""
    pivot_mm: float


class Pairing:
    """The last X-rays, and which shifts of time explain them."""

    def __init__(self) -> None:
        self._shown: deque[_Shown] = deque(maxlen=_KEPT)

    def forget(self) -> None:
        """A clock was set, or a source vanished: earlier stamps mean nothing."""
        self._shown.clear()

    def add(self, timestamp_ns: int, registration: Registration) -> None:
        """Keep what an X-ray that was registered shows."""
        weight = np.asarray(np.linalg.inv(registration.covariance + np.diag(_FLOOR)), np.float64)
        self._shown.append(_Shown(timestamp_ns, registration.volume_from_carm, weight, registration.pivot_mm))
        while self._shown[0].timestamp_ns < timestamp_ns - _OLDEST_NS:
            self._shown.popleft()

    def shift(self, present_ns: float, candidates_ns: Matrix, poses_at: PosesAt) -> Shift | None:
        """The shift that explains the X-rays, if one alone does, the present one or another.

        Args:
            present_ns: the shift by which X-rays are paired now.
            candidates_ns: (K,), ascending, evenly spaced but for gaps.
        """
        if len(self._shown) < _FEWEST:
            return None
        shifts_ns = np.append(candidates_ns, present_ns)
        times_ns = np.array([shown.timestamp_ns for shown in self._shown], np.int64)
        base_ns = int(times_ns[0])  # float64 does not hold nanoseconds since 1970
        wanted_ns = ((times_ns - base_ns)[:, None] + np.rint(shifts_ns).astype(np.int64)[None]) + base_ns
        poses = poses_at(wanted_ns.ravel()).reshape(*wanted_ns.shape, 4, 4)
        distances, fitted = self._explained(poses)
        best = int(np.argmin(distances[:-1]))
        if not distances[best] <= _CONSISTENT * len(self._shown):
            return None
        apart_ns = np.abs(candidates_ns - candidates_ns[best])
        step_ns = float(np.diff(candidates_ns).min())
        alike = distances[:-1] < distances[best] + _CLEARLY
        inside = 0 < best < len(candidates_ns) - 1 and bool((apart_ns[[best - 1, best + 1]] < 1.5 * step_ns).all())
        known = np.isfinite(distances[best - 1 : best + 2]).all() if inside else False
        if not known or (apart_ns[alike] > _CLOSE_NS).any():
            return None
        before, here, after = distances[best - 1 : best + 2]
        bend = before - 2 * here + after
        ns = float(candidates_ns[best] + (0.5 * step_ns * (before - after) / bend if bend > 0 else 0.0))
        same = abs(ns - present_ns) < _SAME_NS or distances[-1] < distances[best] + _CLEARLY
        return Shift(present_ns, fitted[-1]) if same else Shift(ns, fitted[best])

    def _explained(self, patient_from_carm: Matrix) -> tuple[Matrix, Matrix]:
        """How badly tracking explains the X-rays, with the best volume_from_patient.

        Args:
            patient_from_carm: (N, K, 4, 4), of each X-ray at each shift.

        Returns:
            Sums of distances, (K,), infinite where most poses are unknown, and volume_from_patient, (K, 4, 4).
        """
        count, shifts = patient_from_carm.shape[:2]
        measured = np.array([shown.volume_from_carm for shown in self._shown])
        weight = np.array([shown.weight for shown in self._shown])
        pivot_mm = np.array([[0.0, 0.0, shown.pivot_mm] for shown in self._shown])
        known = np.asarray(np.isfinite(patient_from_carm).all(axis=(2, 3)))
        poses = np.where(known[..., None, None], patient_from_carm, np.eye(4))
        middle = count // 2
        start = measured[middle] @ inverses(poses[middle])  # (K, 4, 4)
        off = inverses(measured)[:, None] @ start[None] @ poses  # in the C-arm's frame, (N, K, 4, 4)
        turn, pivot = off[..., :3, :3], pivot_mm[:, None]
        twice = turn - np.swapaxes(turn, -1, -2)
        axis = 0.5 * np.stack([twice[..., 2, 1], twice[..., 0, 2], twice[..., 1, 0]], axis=-1)
        moved_mm = (turn @ pivot[..., None])[..., 0] + off[..., :3, 3] - pivot
        residual = np.concatenate([axis, moved_mm], axis=-1)  # (N, K, 6)
        back = np.swapaxes(poses[..., :3, :3], -1, -2)
        at_mm = (poses[..., :3, :3] @ pivot[..., None])[..., 0] + poses[..., :3, 3]
        center_mm = at_mm.mean(axis=0)  # (K, 3), in the patient's frame
        jacobian = np.zeros((count, shifts, 6, 6))
        jacobian[..., :3, :3] = jacobian[..., 3:, 3:] = back
        jacobian[..., 3:, :3] = -back @ _skew(at_mm - center_mm)
        weighted = np.swapaxes(jacobian, -1, -2) @ weight[:, None] * known[..., None, None]
        normal = (weighted @ jacobian).sum(axis=0) + 1e-9 * np.eye(6)  # nothing is known at some shifts
        step = -np.linalg.solve(normal, (weighted @ residual[..., None]).sum(axis=0))
        rest = residual + (jacobian @ step)[..., 0]
        each = np.minimum(np.einsum("nki,nij,nkj->nk", rest, weight, rest), _CAP)
        share = known.mean(axis=0)
        judged = known[middle] & (share > 0.5)
        distances = np.divide((each * known).sum(axis=0), share, out=np.full(shifts, np.inf), where=judged)
        fitted = [one @ g.exp(xi, at) for one, xi, at in zip(start, step[..., 0], center_mm, strict=True)]
        return distances, np.array(fitted)


def inverses(poses: Matrix) -> Matrix:
    """Inverses of rigid transforms (..., 4, 4)."""
    back = np.swapaxes(poses[..., :3, :3], -1, -2)
    inverted = np.zeros_like(poses)
    inverted[..., :3, :3] = back
    inverted[..., :3, 3] = -(back @ poses[..., :3, 3:])[..., 0]
    inverted[..., 3, 3] = 1.0
    return inverted


def _skew(vectors: Matrix) -> Matrix:
    """Matrices of the cross product with vectors (..., 3)."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    none = np.zeros_like(x)
    rows = np.stack([none, -z, y, z, none, -x, -y, x, none], axis=-1)
    return rows.reshape(*vectors.shape[:-1], 3, 3)
