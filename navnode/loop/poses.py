"""Tracked poses by time: interpolated between samples, never extrapolated."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.loop.topics import POSE_GAP_NS, bound_of, max_age_ns
from navnode.types import Matrix

__all__ = ["Missing", "PoseRing", "SETTLE_SAMPLES"]

SETTLE_SAMPLES = 4
"""Samples in a row before a marker that was hidden, or that jumped, is trusted again."""

_JUMP_MM, _JUMP_MM_PER_S = 10.0, 3_000.0
_JUMP_RAD, _JUMP_RAD_PER_S = 0.15, 15.0
"""No hand moves a marker farther than the first and faster than the second: the tracker took another marker for it, or
it moved while it was hidden."""

_STALE_NS = max_age_ns("pose")
_STALE_PERIODS, _STALE_LEAST_NS = 7, 60_000_000
_SLOW_PERIODS, _SLOWEST_NS = 1.5, 270_000_000
"""Trackers that send poses at the rate of images are slow (PLUS): a gap of less than so many of their periods hides
nothing, down to the latter period."""
_FEW = 5
"""Samples of a run from which its period is known."""
_IN_TURN, _REMEMBERED = 4, 1024
"""A tracker that hangs may send so many poses in turn, or play as many as the latter again. Twice as many repetitions
are asked for, or three times as many: coarse numbers of a quiet tracker repeat by chance."""
_CAPACITY, _KEPT_NS, _MOST = bound_of("pose"), 13_000_000_000, 1 << 14
"""So many samples are kept, and those of this time, for X-rays that come once a second are compared with them; but
never more than the last number."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no pose at a time."""

    reason: str
    not_yet: bool
    """Whether a later sample may still provide it."""


class PoseRing:
    """The last few seconds of one marker.

    Samples form runs without a gap; a run is trusted from its ``SETTLE_SAMPLES``-th sample on.

    Args:
        name: device name, for reasons.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._times_ns: list[int] = []
        self._poses: list[Matrix] = []
        self._place_in_run: list[int] = []  # 1 for the first sample after a gap
        self._broken = True
        self._measured: list[bytes] = []
        self._forgotten = 0
        """Number of poses that were measured before these."""
        self._last: dict[bytes, int] = {}
        """Pose -> number of the last measurement of it."""
        self._turn = self._repeats = 0
        """How many samples ago the newest pose was measured before, and how often in a row that was so."""
        self._replays = False
        """Whether old poses are played again, until one is new: some may be left out, or come twice."""
        self._trimmed_at = 2 * _CAPACITY
        self.jumps = 0
        """How often the marker moved faster than a hand can."""

    @property
    def newest_ns(self) -> int:
        """Time of the newest sample, 0 when there is none."""
        return self._times_ns[-1] if self._times_ns else 0

    @property
    def settled(self) -> bool:
        """Whether the newest sample is trusted."""
        return bool(self._place_in_run) and self._place_in_run[-1] >= SETTLE_SAMPLES

    @property
    def period_ns(self) -> int:
        """Median time between recent samples; 0: too few came."""
        recent = self._times_ns[-9:]
        return sorted(b - a for a, b in pairwise(recent))[len(recent) // 2 - 1] if len(recent) == 9 else 0

    @property
    def stale_ns(self) -> int:
        """A marker without a pose for this long is hidden: a few of its periods, at most the topic's maximum age;
        one and a half of long ones."""
        if slow_ns := self._slow_ns:
            return max(_STALE_NS, slow_ns)
        period_ns = self.period_ns
        return min(_STALE_NS, max(_STALE_PERIODS * period_ns, _STALE_LEAST_NS)) if period_ns else _STALE_NS

    @property
    def _slow_ns(self) -> int:
        """If samples come so slowly that nothing is interpolated between them: the least gap in which one is missing;
        otherwise 0."""
        recent = self._times_ns[-_FEW:]
        if len(recent) < _FEW:
            return 0
        period_ns = sorted(b - a for a, b in pairwise(recent))[_FEW // 2]
        return round(_SLOW_PERIODS * period_ns) if 0.8 * POSE_GAP_NS < period_ns <= _SLOWEST_NS else 0

    def frozen(self, tracker_from_marker: Matrix, after: int) -> bool:
        """Whether the tracker repeats an old measurement under new time stamps: noise makes measurements differ.

        Args:
            after: this many equal samples in a row are a repetition; 0: never.
        """
        measured, number = tracker_from_marker.tobytes(), self._forgotten + len(self._measured)
        self._replays = self._replays and measured in self._last
        if self._turn and self._measured[-self._turn] == measured:
            self._repeats += 1
        else:
            self._turn = number - self._last.get(measured, number)
            self._repeats = int(self._turn > 0)
        self._measured.append(measured)
        self._last[measured] = number
        if len(self._measured) > 2 * _REMEMBERED:
            self._forgotten += len(self._measured) - _REMEMBERED
            self._measured = self._measured[-_REMEMBERED:]
            self._last = {pose: n for n, pose in enumerate(self._measured, self._forgotten)}
            self._turn = self._turn if self._turn <= _REMEMBERED else 0
        wanted = after * (1 if self._turn == 1 else 2 if self._turn <= _IN_TURN else 3)
        repeats = bool(after) and self._repeats >= wanted
        self._replays = self._replays or (repeats and self._turn > _IN_TURN)
        return repeats or self._replays

    def add(self, timestamp_ns: int, tracker_from_marker: Matrix) -> bool:
        """Add a sample; False: it is not newer than the newest one."""
        if timestamp_ns <= self.newest_ns:
            return False
        if timestamp_ns - self.newest_ns > max(POSE_GAP_NS, self._slow_ns):
            self._broken = True
        if not self._broken and _jumped(self._poses[-1], tracker_from_marker, timestamp_ns - self.newest_ns):
            self._broken = True
            self.jumps += 1
        self._place_in_run.append(1 if self._broken else self._place_in_run[-1] + 1)
        self._broken = False
        self._times_ns.append(timestamp_ns)
        self._poses.append(tracker_from_marker)
        if len(self._times_ns) > self._trimmed_at:
            old = min(bisect_left(self._times_ns, timestamp_ns - _KEPT_NS), len(self._times_ns) - _CAPACITY)
            old = max(old, len(self._times_ns) - _MOST // 2)
            del self._times_ns[:old], self._poses[:old], self._place_in_run[:old]
            self._trimmed_at = min(2 * max(len(self._times_ns), _CAPACITY), _MOST)
        return True

    def before(self, timestamp_ns: int) -> int:
        """Time of the last sample before a time; 0: there is none."""
        after = bisect_left(self._times_ns, timestamp_ns)
        return self._times_ns[after - 1] if after else 0

    def lost(self) -> None:
        """The marker was hidden, or its pose unusable: nothing is interpolated across this."""
        self._broken = True

    def clear(self) -> None:
        """Forget everything."""
        for kept in (self._times_ns, self._poses, self._place_in_run):
            kept.clear()
        self._broken = True

    def at(self, timestamp_ns: int) -> Matrix | Missing:
        """``tracker_from_marker`` at a time, interpolated between the samples around it."""
        after = bisect_left(self._times_ns, timestamp_ns)
        if after == len(self._times_ns):
            return Missing(f"{self.name} has no pose for that time yet", not_yet=True)
        exact = self._times_ns[after] == timestamp_ns
        if after == 0 and not exact:
            return Missing(f"{self.name} was not seen then", not_yet=False)
        earlier = after if exact else after - 1
        gap_ns = self._times_ns[after] - self._times_ns[earlier]
        if not exact and self._slow_ns and POSE_GAP_NS < gap_ns <= max(POSE_GAP_NS, self._slow_ns):
            told = f"poses of {self.name} come every {gap_ns / 1e6:.0f} ms: too far apart to interpolate, and none has"
            return Missing(f"{told} the time stamp of the X-ray", not_yet=False)
        if not exact and (self._place_in_run[after] == 1 or gap_ns > POSE_GAP_NS):
            return Missing(f"{self.name} was not seen for {gap_ns / 1e6:.0f} ms", not_yet=False)
        if self._place_in_run[earlier] < SETTLE_SAMPLES:
            return Missing(f"{self.name} was not seen until just now", not_yet=False)
        if exact:
            return self._poses[after]
        fraction = (timestamp_ns - self._times_ns[earlier]) / (self._times_ns[after] - self._times_ns[earlier])
        return g.interpolate(self._poses[earlier], self._poses[after], fraction)

    def many(self, timestamps_ns: npt.NDArray[np.int64]) -> Matrix:
        """:meth:`at` for many times (M,) at once, (M, 4, 4), nearly rigid; NaN where it is missing.

        Samples are taken to be so close that matrices can be interpolated.
        """
        if len(self._times_ns) < SETTLE_SAMPLES:
            return np.full((len(timestamps_ns), 4, 4), np.nan)
        times_ns, place = np.array(self._times_ns, np.int64), np.array(self._place_in_run)
        after = np.searchsorted(times_ns, timestamps_ns)
        right = np.minimum(after, len(times_ns) - 1)
        exact = times_ns[right] == timestamps_ns
        left = np.where(exact, right, np.maximum(right - 1, 0))
        known = (after < len(times_ns)) & (exact | (after > 0)) & (exact | (place[right] > 1))
        known &= (place[left] >= SETTLE_SAMPLES) & (times_ns[right] - times_ns[left] <= POSE_GAP_NS)
        used = np.unique(np.concatenate([left, right]))
        poses = np.full((len(times_ns), 4, 4), np.nan)
        poses[used] = np.array([self._poses[index] for index in used])
        between_ns = np.maximum(times_ns[right] - times_ns[left], 1)
        fraction = np.where(exact, 0.0, (timestamps_ns - times_ns[left]) / between_ns)[:, None, None]
        there = poses[left] + fraction * (poses[right] - poses[left])
        return np.where(known[:, None, None], there, np.nan)


def _jumped(before: Matrix, after: Matrix, elapsed_ns: int) -> bool:
    # Plain numbers: calls for arrays of three take ten times as long, and every pose comes through here.
    elapsed_s = elapsed_ns / 1e9
    (a, b, c, x0), (d, e, f, y0), (i, j, k, z0), _ = before.tolist()
    (l_, m, n, x1), (o, p, q, y1), (r, s, t, z1), _ = after.tolist()
    if math.dist((x0, y0, z0), (x1, y1, z1)) > max(_JUMP_MM, _JUMP_MM_PER_S * elapsed_s):
        return True
    # trace R = 1 + 2 cos(angle)
    cosine = (a * l_ + b * m + c * n + d * o + e * p + f * q + i * r + j * s + k * t - 1) / 2
    return bool(cosine < math.cos(min(max(_JUMP_RAD, _JUMP_RAD_PER_S * elapsed_s), math.pi)))
