"""Detects that the patient's marker moved on the patient, or a C-arm's on the C-arm.

A marker that is bumped, or slips while it is hidden, sits elsewhere on the patient from then on, and everything placed
by it is off by as much. Breathing and the table's motion are smooth: whatever the tracker's rate, no three poses of
them bend by more than a bounded acceleration explains. So each pose is compared with straight lines through those just
before it, and what is left of noise in the mean of several poses with such means up to a quarter of a second ago, at
points as far from the marker as the anatomy is: a small rotation is a large error there.
"""

from __future__ import annotations

import math
from itertools import pairwise, starmap
from typing import NamedTuple

import numpy as np

from navnode import geometry as g
from navnode import native
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
        self._found = np.empty((len(_HORIZONS_S) + 3, len(_Bend._fields)))
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
        reason = self._judge(self._count + 1)
        self.came_back = self._unseen
        if reason or self._unseen:
            self._times_s[0], self._points_mm[0] = at_s, points_mm
            self._count = 0
        self._count += 1
        self._unseen = False
        return reason

    def _judge(self, count: int) -> str:
        """Judge the last of so many poses."""
        if count < 2:
            return ""
        *before_s, at_s = self._times_s[max(0, count - 1 - _LINE) : count].tolist()
        elapsed_s = at_s - before_s[-1]
        if count > _LINE:
            self._period_s = sorted(b - a for a, b in pairwise(before_s))[(_LINE - 1) // 2]
        self._unseen = self._unseen or elapsed_s > _UNSEEN_PERIODS * self._period_s
        compared = count > 2 and not self._unseen and not 0 <= at_s - self._compared_s < _COMPARED_EVERY_S
        if compared:
            self._compared_s = at_s
        last, *bends = self._bends(count, means=compared)
        noise_mm = max(_LEFT_MM, _SIGMAS * self._off_mm)
        if self._unseen:
            hidden = f"the patient's marker was hidden and came back {last.off_mm:.0f} mm away"
            return "" if last.off_mm <= noise_mm else hidden
        if not bends:
            jumped = last.off_mm > noise_mm + last.explained_mm
            return f"the patient's marker jumped by {last.off_mm:.0f} mm" if jumped else ""
        if elapsed_s > _WATCHED_S:  # what acceleration explains would hide a marker that moved
            bends = [_Bend(min(last.off_mm, bends[0].off_mm), 0.0, 1.0)]
        for bend in bends:
            noise_mm = max(_LEFT_MM * max(1.0, bend.noise), _SIGMAS * self._off_mm * bend.noise)
            allowed_mm = noise_mm + bend.explained_mm
            if bend.off_mm > allowed_mm:
                return f"the patient's marker jumped by {bend.off_mm:.0f} mm"
        self._off_mm += 0.05 * (bends[0].off_mm / bends[0].noise - self._off_mm)
        return ""

    def _bends(self, count: int, *, means: bool) -> list[_Bend]:
        """How far the last of so many poses is from the one before; then, of three or more, from the line through two
        before it, from those of means over longer times (if asked), and from the line through the last few."""
        found = native.holding_library().navnode_bends(
            self._times_s.ctypes.data,
            self._points_mm.ctypes.data,
            count,
            self._period_s,
            _ACCELERATION_MM_PER_S2,
            _SPANS_S.ctypes.data,
            len(_SPANS_S) if means else 0,
            _LINE,
            self._found.ctypes.data,
        )
        return list(starmap(_Bend, self._found[:found].tolist()))


class _Bend(NamedTuple):
    """How far a way bends from a straight line."""

    off_mm: float
    explained_mm: float
    """What acceleration explains of it."""
    noise: float
    """Its noise, as a multiple of that of three single poses."""
