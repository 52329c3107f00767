"""Detects that the patient's marker moved on the patient.

A marker that is bumped, or slips while it is hidden, sits elsewhere on the patient from then on, and everything placed
by it is off by as much. Breathing and the table's motion are smooth. So each pose is compared with the extrapolation of
the poses before it, at points as far from the marker as the anatomy is: a small rotation is a large error there.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["Continuity"]

_LEVER_MM = 150.0
"""Approximate distance from the marker to the anatomy."""
_POINTS_MM = np.vstack([np.zeros(3), _LEVER_MM * np.eye(3)])
_LEFT_MM = 2.0
"""A displacement that noise explains, with the marker in sight or not."""
_ACCELERATION_MM_PER_S2 = 2_000.0
"""Of a table that starts, or a cough: a fifth of free fall."""
_SIGMAS = 6.0
_HISTORY = 4
_CURVED = 2.5
"""Error of extrapolating a straight line through so many poses, per acceleration and squared period."""
_UNSEEN_PERIODS = 2.5
"""After a gap of this many periods of the tracker the marker was hidden."""
_WATCHED_S = 0.05
"""Between poses that are farther apart, as slow trackers send them, a marker is not watched: it may move as little as
one that is hidden."""
_LEAST_KNOWN = 4
"""Number of poses before the next one is predicted."""


class Continuity:
    """Watches one marker that is fixed to the patient."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_HISTORY)
        self._points_mm: deque[Matrix] = deque(maxlen=_HISTORY)
        self._noise_mm = 0.0
        self._period_s = math.inf
        """Of the tracker; infinite until it is known."""
        self._unseen = False

    def lost(self) -> None:
        """The marker is hidden, or its pose cannot be used."""
        self._unseen = True

    def forget(self) -> None:
        """Forget earlier poses; the next one is not compared with them."""
        self._times_s.clear()
        self._points_mm.clear()
        self._period_s = math.inf
        self._unseen = False

    def check(self, timestamp_ns: int, tracker_from_patient: Matrix) -> str:
        """Check the next pose; returns why the marker may have moved on the patient, or ''."""
        at_s, points_mm = timestamp_ns / 1e9, g.transform(tracker_from_patient, _POINTS_MM)
        reason = self._judge(at_s, points_mm) if self._times_s else ""
        if reason or self._unseen:
            self._times_s.clear()
            self._points_mm.clear()
        self._times_s.append(at_s)
        self._points_mm.append(points_mm)
        self._unseen = False
        return reason

    def _judge(self, at_s: float, points_mm: Matrix) -> str:
        elapsed_s = at_s - self._times_s[-1]
        if len(self._times_s) >= _LEAST_KNOWN:
            self._period_s = sorted(b - a for a, b in pairwise(self._times_s))[(_HISTORY - 1) // 2]
        if self._unseen or elapsed_s > _UNSEEN_PERIODS * self._period_s:
            self._unseen = True
            off_mm = _farthest(points_mm - self._points_mm[-1])
            if off_mm <= max(_LEFT_MM, _SIGMAS * self._noise_mm):
                return ""
            return f"the patient's marker was hidden and came back {off_mm:.0f} mm away"
        if len(self._times_s) < _LEAST_KNOWN:
            off_mm = _farthest(points_mm - self._points_mm[-1])
        else:
            off_mm = _farthest(points_mm - self._predicted_mm(at_s))
        accelerated_mm = _CURVED * _ACCELERATION_MM_PER_S2 * elapsed_s**2
        if elapsed_s > _WATCHED_S:  # so much would hide a marker that moved
            accelerated_mm, off_mm = 0.0, min(off_mm, _farthest(points_mm - self._points_mm[-1]))
        allowed_mm = max(_LEFT_MM, _SIGMAS * self._noise_mm) + accelerated_mm
        if off_mm > allowed_mm:
            return f"the patient's marker jumped by {off_mm:.0f} mm"
        self._noise_mm += 0.05 * (off_mm - self._noise_mm)
        return ""

    def _predicted_mm(self, at_s: float) -> Matrix:
        """Extrapolate the last poses along a straight line."""
        middle_s = sum(self._times_s) / len(self._times_s)
        off_s = [time_s - middle_s for time_s in self._times_s]
        ahead = (at_s - middle_s) / sum(off * off for off in off_s)
        weights = [1 / len(off_s) + off * ahead for off in off_s]  # of a straight line by least squares
        return np.asarray(sum(weight * at_mm for weight, at_mm in zip(weights, self._points_mm, strict=True)))


def _farthest(offsets_mm: Matrix) -> float:
    return float(np.sqrt((offsets_mm**2).sum(axis=-1).max()))
