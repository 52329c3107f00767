"""Tracked poses by time: interpolated between samples, never carried beyond them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from navnode import geometry as g
from navnode.types import Matrix

MAX_GAP_NS = 120_000_000
"""Samples further apart than this (twelve at 100 Hz) are not interpolated across: the marker was hidden."""

SETTLE_SAMPLES = 4
"""Samples in a row before a marker that was hidden is believed again."""

CLOCK_STEP_NS = 1_000_000_000
"""Further back than this is another clock, not a late sample."""

_CAPACITY = 400
_FOREVER_NS = 1 << 63


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no pose at a time."""

    reason: str
    not_yet: bool
    """True when a later sample may still bring it."""


class PoseRing:
    """The last few seconds of one marker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._times_ns: list[int] = []
        self._poses: list[Matrix] = []
        self._in_a_row = 0
        self._settling: list[tuple[int, int]] = []  # [from, to) in which samples were not believed yet

    @property
    def newest_ns(self) -> int:
        """Time of the newest sample, 0 when there is none."""
        return self._times_ns[-1] if self._times_ns else 0

    def add(self, timestamp_ns: int, tracker_from_marker: Matrix) -> bool:
        """Take a sample; False when it is not newer than the newest.

        A sample from far before the newest means that the source's clock was set back, or that the newest was
        wrong: what was known is forgotten, and the marker must settle again.
        """
        if timestamp_ns < self.newest_ns - CLOCK_STEP_NS:
            self.clear()
        if timestamp_ns <= self.newest_ns:
            return False
        if not self._times_ns or timestamp_ns - self.newest_ns > MAX_GAP_NS:
            self._in_a_row = 0
            self._settling = [*self._settling[-3:], (timestamp_ns, _FOREVER_NS)]
        self._in_a_row += 1
        if self._in_a_row == SETTLE_SAMPLES:
            self._settling[-1] = (self._settling[-1][0], timestamp_ns)
        self._times_ns.append(timestamp_ns)
        self._poses.append(tracker_from_marker)
        if len(self._times_ns) > 2 * _CAPACITY:
            del self._times_ns[:_CAPACITY], self._poses[:_CAPACITY]
        return True

    def clear(self) -> None:
        self._times_ns.clear()
        self._poses.clear()
        self._settling.clear()
        self._in_a_row = 0

    def at(self, timestamp_ns: int) -> Matrix | Missing:
        """The pose at a time, interpolated between its two neighbours."""
        if any(begin <= timestamp_ns < end for begin, end in self._settling):
            return Missing(f"{self.name} was not seen until just now", not_yet=False)
        after = bisect_left(self._times_ns, timestamp_ns)
        if after < len(self._times_ns) and self._times_ns[after] == timestamp_ns:
            return self._poses[after]
        if after == len(self._times_ns):
            return Missing(f"{self.name} has no pose for that time yet", not_yet=True)
        if after == 0:
            return Missing(f"{self.name} was not seen then", not_yet=False)
        before_ns, after_ns = self._times_ns[after - 1], self._times_ns[after]
        if after_ns - before_ns > MAX_GAP_NS:
            return Missing(f"{self.name} was hidden for {(after_ns - before_ns) / 1e6:.0f} ms", not_yet=False)
        fraction = (timestamp_ns - before_ns) / (after_ns - before_ns)
        return g.interpolate(self._poses[after - 1], self._poses[after], fraction)
