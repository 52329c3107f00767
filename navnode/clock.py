"""The node's clock, and how late what comes from other clocks is.

Time reaches the pipeline only inside messages; this is where those times come from.
"""

from __future__ import annotations

import time
from enum import Enum

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Nanoseconds since 1970 that never step back while the process lives.

    OpenIGTLink stamps are UTC, so is this; but it advances with the monotonic clock, so that a
    correction of the wall clock in mid-operation cannot make a pose look older or newer than it is.
    """
    return _EPOCH_NS + time.monotonic_ns()


_EPOCH_NS = time.time_ns() - time.monotonic_ns()


class Stamp(Enum):
    """What is thought of a message's time stamp."""

    LEARNING = "one of the first: what is usual is not known yet"
    EXPECTED = "as usual, or late"
    AHEAD = "ahead of what was to be expected: wrong, or a clock set forward"
    CLOCK_SET = "the last of several that agree: the clock was set forward; what is usual was learnt anew"


class Lateness:
    """How much later than usual the messages of one device arrive.

    Its clock may be set to anything. The median difference between arrival and stamp of the first messages, then
    the smallest, is taken for the offset of the clocks plus the shortest way; what exceeds it is delay. It may
    rise only as slowly as clocks drift, so that a delay that stays is not taken for a habit; a clock that is set
    back looks late until the source connects anew. It may fall at once by what jitter explains, by more when several
    agree.
    """

    _DRIFT = 1e-4
    _JITTER_NS = 20_000_000
    _AGREE = 5

    def __init__(self) -> None:
        self.offset_ns: float | None = None
        """Arrival minus stamp of the quickest messages; None until it is learnt."""
        self._at_ns = 0
        self._learning: list[int] = []
        self._ahead: list[int] = []

    def take(self, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from a message."""
        difference = received_ns - timestamp_ns
        if self.offset_ns is None:
            self._learning.append(difference)
            if len(self._learning) == self._AGREE:
                self.offset_ns, self._at_ns = sorted(self._learning)[self._AGREE // 2], received_ns
            return Stamp.LEARNING
        risen = self.offset_ns + self._DRIFT * max(0, received_ns - self._at_ns)
        self._at_ns = received_ns
        if difference >= risen - self._JITTER_NS:
            self._ahead.clear()
            self.offset_ns = min(risen, difference)
            return Stamp.EXPECTED
        self._ahead.append(difference)
        if len(self._ahead) < self._AGREE:
            return Stamp.AHEAD
        self.offset_ns = max(self._ahead)
        self._ahead.clear()
        return Stamp.CLOCK_SET

    def age_ns(self, timestamp_ns: int, now_ns: int) -> int:
        """How old a measurement is now, beyond the shortest way it takes."""
        return max(0, round(now_ns - timestamp_ns - (self.offset_ns or 0)))
