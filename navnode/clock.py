"""The node's clock, and the lateness of messages stamped by other clocks.

The loop reads no clock: times reach it only inside messages, and come from here.
"""

from __future__ import annotations

import time
from collections import deque
from enum import Enum

import numpy as np

__all__ = ["Lateness", "NS_PER_S", "Stamp", "now_ns"]

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Nanoseconds since 1970, UTC like OpenIGTLink's stamps, that never step back while the process lives.

    They advance with the monotonic clock, so that a correction of the wall clock during an operation makes no pose
    look older or newer than it is.
    """
    return _EPOCH_NS + time.monotonic_ns()


_EPOCH_NS = time.time_ns() - time.monotonic_ns()


class Stamp(Enum):
    """Verdict on a message's time stamp."""

    LEARNING = "one of the first; the usual delay is not known yet"
    EXPECTED = "as usual, or late"
    AHEAD = "earlier than expected: a wrong stamp, or a clock that was set forward"
    CLOCK_SET = "the last of several that agree: the clock was set, or the usual delay was misjudged"


class Lateness:
    """How much later than usual messages of one device arrive.

    The device's clock may be set to anything, and run faster or slower than the node's. Arrival minus stamp is the
    offset of the clocks plus the transit time; its minimum is the fastest transit, and the excess is delay.

    The minima follow a line as clocks drift: its slope is the median of all slopes
    between the minima of seconds (Theil, Indagationes Mathematicae 12, 1950; Sen, JASA 63, 1968), and is believed
    only if the minima lie on a line, so that a growing delay is not learnt as drift. A clock that is set shows in the
    stamps: they jump while messages keep arriving evenly.
    """

    _DRIFT, _MOST_DRIFT = 1e-4, 5e-4
    """Allowance around the learnt drift (0 at first), and the greatest drift of a working clock."""
    _JITTER_NS, _SET_BACK_NS = 20_000_000, 50_000_000
    """A clock set back by less than the latter counts as a delay."""
    _AGREE = 5
    _BINS, _FEWEST_BINS = 90, 20
    """Seconds from which the drift is learnt."""
    _ON_LINE_NS = 4_000_000

    def __init__(self) -> None:
        self.offset_ns: float | None = None
        """Arrival minus stamp of the fastest messages; None until learnt."""
        self.drift = 0.0
        """Rise of the offset per unit of time; the device's clock is slow by as much."""
        self.rise_ns = 0.0
        """Rise of the offset when it was last learnt again."""
        self.clock_set = False
        """Whether that was because the clock was set; otherwise the first offset was misjudged."""
        self._at_ns = 0
        self._learning: list[int] = []
        self._ahead: list[int] = []
        self._behind: list[int] = []
        self._last: tuple[int, int] | None = None
        self._jump_ns = 0
        self._bins: deque[tuple[float, float]] = deque(maxlen=self._BINS)

    def observe(self, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from one message and judge its stamp."""
        difference = received_ns - timestamp_ns
        last, self._last = self._last, (timestamp_ns, received_ns)
        if self.offset_ns is None:
            self._learning.append(difference)
            if len(self._learning) == self._AGREE:
                self.offset_ns, self._at_ns = sorted(self._learning)[self._AGREE // 2], received_ns
            return Stamp.LEARNING
        elapsed_ns = max(0, received_ns - self._at_ns)
        risen = self.offset_ns + (self.drift + self._DRIFT) * elapsed_ns
        self._at_ns = received_ns
        if last is not None and not self._ahead and not self._behind:
            self._jump_ns = (received_ns - last[1]) - (timestamp_ns - last[0])
        if difference < risen - self._JITTER_NS:
            return self._on_ahead(difference)
        self._ahead.clear()
        if self._on_behind(difference, risen, set_back=last is not None and timestamp_ns < last[0]):
            return Stamp.CLOCK_SET
        self.offset_ns = min(risen, difference)
        self._learn_drift(received_ns, difference)
        return Stamp.EXPECTED

    def _on_ahead(self, difference: int) -> Stamp:
        """Handle a stamp ahead of time: it is wrong, the clock was set forward, or the first messages were late."""
        self._behind.clear()
        self._ahead.append(difference)
        if len(self._ahead) < self._AGREE:
            return Stamp.AHEAD
        self._set(max(self._ahead))
        return Stamp.CLOCK_SET

    def _on_behind(self, difference: int, risen: float, *, set_back: bool) -> bool:
        """Whether the clock was set back: stamps went back, and all messages since agree."""
        if set_back or self._behind:
            agrees = difference > risen + self._SET_BACK_NS
            agrees &= not self._behind or abs(difference - self._behind[0]) < self._JITTER_NS
            self._behind = [*self._behind, difference] if agrees else []
        if len(self._behind) < self._AGREE:
            return False
        self._set(min(self._behind))
        return True

    def _set(self, offset_ns: float) -> None:
        """Begin again from an offset; the jump of the stamps tells whether the clock was set."""
        assert self.offset_ns is not None
        self.rise_ns = offset_ns - self.offset_ns
        self.clock_set = abs(self._jump_ns - self.rise_ns) < abs(self.rise_ns) / 2
        self.offset_ns = offset_ns
        self._ahead.clear()
        self._behind.clear()
        self._bins.clear()

    def _learn_drift(self, received_ns: int, difference: float) -> None:
        """Keep the smallest difference of every second; once a second, fit a line to them."""
        at_s = received_ns // NS_PER_S
        if self._bins and self._bins[-1][0] == at_s:
            self._bins[-1] = at_s, min(self._bins[-1][1], difference)
            return
        if len(self._bins) >= self._FEWEST_BINS:
            times_s, smallest_ns = np.array(self._bins, np.float64).T
            times_s -= times_s[0]
            one, other = np.triu_indices(len(times_s), 1)
            slopes = (smallest_ns[other] - smallest_ns[one]) / (times_s[other] - times_s[one])
            slope = float(np.median(slopes))
            rest = smallest_ns - slope * times_s
            on_line = np.abs(rest - np.median(rest)).max() < self._ON_LINE_NS
            if on_line and abs(slope) <= self._MOST_DRIFT * NS_PER_S:
                self.drift = slope / NS_PER_S
        self._bins.append((at_s, difference))

    @property
    def guess_ns(self) -> float | None:
        """The offset; until it is learnt, that of the fastest message so far; None before the first."""
        return min(self._learning, default=None) if self.offset_ns is None else self.offset_ns

    def age_ns(self, timestamp_ns: int, now_ns: int) -> int:
        """Age of a measurement, not counting the shortest transit."""
        return max(0, round(now_ns - timestamp_ns - (self.offset_ns or 0)))
