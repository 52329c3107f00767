"""Detects that the patient's marker moved on the patient, or a C-arm's on the C-arm.

A marker that is bumped, or slips while it is hidden, sits elsewhere on the patient from then on, and everything placed
by it is off by as much. Breathing and the table's motion are smooth: whatever the tracker's rate, no three poses of
them bend by more than a bounded acceleration explains. So each pose is compared with straight lines through those just
before it, and what is left of noise in the mean of several poses with such means up to a quarter of a second ago, at
points as far from the marker as the anatomy is: a small rotation is a large error there.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

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
"""Of a table that starts, or a cough: a fifth of free fall. A table that all at once drives with 100 mm/s is within it
and the displacement above, whatever the tracker's rate."""
_SIGMAS = 6.0
"""How often the usual distance from the line through the last two poses is noise: of one in a million."""
_HORIZONS_S, _COMPARED_EVERY_S = (0.1, 0.05, 0.025, 0.0125), 0.0035
"""How far apart the means are that are compared: as long as bumps take. Each is of a quarter of this. However fast the
tracker is, they are compared no more often."""
_SPANS_S = np.multiply.outer(_HORIZONS_S, [2.25, 2.0, 1.25, 1.0, 0.25, 0.0])
"""How long ago the spans of the three means of each begin and end."""
_KEPT = 256
"""Poses that are remembered: at 1 kHz, as long as the longest of these lines."""
_UNSEEN_PERIODS = 2.5
"""After a gap of this many periods of the tracker the marker was hidden."""
_WATCHED_S = 0.05
"""Between poses that are farther apart, as slow trackers send them, a marker is not watched: it may move as little as
one that is hidden."""
_LINE = 4
"""Poses of the line with the least noise; and number of poses from which the tracker's period is known."""


class Continuity:
    """Watches one marker that is fixed to what moves smoothly; reasons are told of the patient's."""

    def __init__(self) -> None:
        self.came_back = False
        """Whether the marker had been hidden before the last pose."""
        self._times_s = np.zeros(2 * _KEPT)
        self._points_mm = np.zeros((2 * _KEPT, *_POINTS_MM.shape))
        self._count = 0
        self._off_mm = 0.0
        """Usual distance from the line through the last two poses."""
        self._period_s = math.inf
        """Of the tracker; infinite until it is known."""
        self._compared_s = 0.0
        """When means were compared."""
        self._unseen = False

    def lost(self) -> None:
        """The marker is hidden, or its pose cannot be used."""
        self._unseen = True

    def forget(self) -> None:
        """Forget earlier poses; the next one is not compared with them."""
        self._count = 0
        self._period_s = math.inf
        self._unseen = False

    def check(self, timestamp_ns: int, tracker_from_patient: Matrix) -> str:
        """Check the next pose; returns why the marker may have moved on the patient, or ''."""
        at_s, points_mm = timestamp_ns / 1e9, g.transform(tracker_from_patient, _POINTS_MM)
        if self._count == len(self._times_s):
            for kept in (self._times_s, self._points_mm):
                kept[:_KEPT] = kept[_KEPT:]
            self._count = _KEPT
        self._times_s[self._count], self._points_mm[self._count] = at_s, points_mm
        reason = self._judge(self._times_s[: self._count + 1], self._points_mm[: self._count + 1])
        self.came_back = self._unseen
        if reason or self._unseen:
            self._times_s[0], self._points_mm[0] = at_s, points_mm
            self._count = 0
        self._count += 1
        self._unseen = False
        return reason

    def _judge(self, times_s: Matrix, points_mm: Matrix) -> str:
        """Judge the last of some poses: their times (N,) and points (N, P, 3)."""
        if len(times_s) < 2:
            return ""
        elapsed_s, moved_mm = float(times_s[-1] - times_s[-2]), float(_farthest(points_mm[-1] - points_mm[-2]))
        if len(times_s) > _LINE:
            steps_s = [b - a for a, b in pairwise(times_s[-1 - _LINE : -1].tolist())]
            self._period_s = sorted(steps_s)[(_LINE - 1) // 2]
        noise_mm = max(_LEFT_MM, _SIGMAS * self._off_mm)
        if self._unseen or elapsed_s > _UNSEEN_PERIODS * self._period_s:
            self._unseen = True
            hidden = f"the patient's marker was hidden and came back {moved_mm:.0f} mm away"
            return "" if moved_mm <= noise_mm else hidden
        if len(times_s) == 2:
            allowed_mm = noise_mm + 0.5 * _ACCELERATION_MM_PER_S2 * elapsed_s**2
            return f"the patient's marker jumped by {moved_mm:.0f} mm" if moved_mm > allowed_mm else ""
        first = len(times_s) - 3  # of three poses; a line through two of one moment leads anywhere
        while first > max(0, len(times_s) - 2 - _LINE) and times_s[-2] - times_s[first] < self._period_s / 2:
            first -= 1
        three = [first, len(times_s) - 2, len(times_s) - 1]
        bends = _bends(times_s[None, three], points_mm[None, three], np.ones(1))
        if not 0 <= times_s[-1] - self._compared_s < _COMPARED_EVERY_S:
            self._compared_s = float(times_s[-1])
            bends += _bends_of_means(times_s, points_mm)
        if len(times_s) > _LINE:
            bends.append(_off_line(times_s[-1 - _LINE :], points_mm[-1 - _LINE :]))
        if elapsed_s > _WATCHED_S:  # what acceleration explains would hide a marker that moved
            bends = [_Bend(min(moved_mm, bends[0].off_mm), 0.0, 1.0)]
        for bend in bends:
            noise_mm = max(_LEFT_MM * max(1.0, bend.noise), _SIGMAS * self._off_mm * bend.noise)
            allowed_mm = noise_mm + bend.explained_mm
            if bend.off_mm > allowed_mm:
                return f"the patient's marker jumped by {bend.off_mm:.0f} mm"
        self._off_mm += 0.05 * (bends[0].off_mm / bends[0].noise - self._off_mm)
        return ""


class _Bend(NamedTuple):
    """How far a way bends from a straight line."""

    off_mm: float
    explained_mm: float
    """What acceleration explains of it."""
    noise: float
    """Its noise, as a multiple of that of three single poses."""


def _bends(times_s: Matrix, points_mm: Matrix, poses: Matrix) -> list[_Bend]:
    """How far the last of three poses, or means of so many, lies from the line through the others, of several ways at
    once: times (W, 3), points (W, 3, P, 3), and how many poses (W,) each is of.

    On a way x(t) with |x''| <= a that is at most a h (h + k) / 2, where h and k are the times between them: divided
    differences are means of derivatives. Means of equal spans of a way have no more acceleration than it has.
    """
    step_s, earlier_s = times_s[:, 2] - times_s[:, 1], np.maximum(times_s[:, 1] - times_s[:, 0], 1e-6)
    ahead = step_s / earlier_s
    expected_mm = points_mm[:, 1] + ahead[:, None, None] * (points_mm[:, 1] - points_mm[:, 0])
    explained_mm = 0.5 * _ACCELERATION_MM_PER_S2 * step_s * (step_s + earlier_s)
    noise = np.sqrt((1 + (1 + ahead) ** 2 + ahead**2) / (6 * poses))
    off_mm = _farthest(points_mm[:, 2] - expected_mm)
    return list(map(_Bend, off_mm.tolist(), explained_mm.tolist(), noise.tolist()))


def _bends_of_means(times_s: Matrix, points_mm: Matrix) -> list[_Bend]:
    """Bends of the way over longer times, of means over a quarter of these, or of single poses where there are few."""
    cuts = np.searchsorted(times_s, times_s[-1] - _SPANS_S, "right")
    stops = cuts[:, 1::2]
    starts = np.minimum(cuts[:, ::2], stops - 1)
    apart = (cuts[:, 0] > 0) & (stops[:, :2] <= starts[:, 1:]).all(axis=1)
    if not apart.any():
        return []
    starts, stops = starts[apart], stops[apart]
    first = int(starts.min())
    sums = np.zeros((len(times_s) - first + 1, 1 + points_mm[0].size))  # of all poses before each, so of every span
    sums[1:, 0] = times_s[first:] - times_s[-1]
    sums[1:, 1:] = points_mm[first:].reshape(len(sums) - 1, -1)
    np.cumsum(sums, axis=0, out=sums)
    poses = stops - starts
    means = (sums[stops - first] - sums[starts - first]) / poses[:, :, None]
    return _bends(means[:, :, 0], means[:, :, 1:].reshape(*poses.shape, *points_mm.shape[1:]), poses.min(axis=1))


def _off_line(times_s: Matrix, points_mm: Matrix) -> _Bend:
    """How far the last pose lies from the straight line through those before it, by least squares."""
    ago_s = (times_s[:-1] - times_s[-1]).tolist()  # so few that NumPy's calls would take longer
    middle_s = sum(ago_s) / len(ago_s)
    slope = middle_s / max(sum((each - middle_s) ** 2 for each in ago_s), 1e-12)
    weights = [1 / len(ago_s) - slope * (each - middle_s) for each in ago_s]
    on_line_mm = (np.array(weights) @ points_mm[:-1].reshape(len(weights), -1)).reshape(points_mm[-1].shape)
    off_mm = float(_farthest(points_mm[-1] - on_line_mm))
    lever_s2 = sum(abs(weight) * each**2 for weight, each in zip(weights, ago_s, strict=True))
    noise = math.sqrt((1 + sum(weight**2 for weight in weights)) / 6)
    return _Bend(off_mm, 0.5 * _ACCELERATION_MM_PER_S2 * lever_s2, noise)


def _farthest(offsets_mm: Matrix) -> Matrix:
    """Length of the longest of offsets (..., P, 3)."""
    return np.sqrt(np.asarray((offsets_mm**2).sum(axis=-1).max(axis=-1)))
