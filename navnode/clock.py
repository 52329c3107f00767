"""The node's clock, and the delay of messages stamped by other clocks.

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
    """Verdict on a message's time stamp."""

    LEARNING = "one of the first: the usual delay is not known yet"
    EXPECTED = "as usual, or late"
    AHEAD = "earlier than expected: a wrong stamp, or a clock that was set forward"
    CLOCK_SET = "the last of several that agree: the clock was set forward; the usual delay was learnt again"


class Lateness:
    """How much later than usual the messages of one device arrive.

    The device's clock may be set to anything. The median difference between arrival and stamp of the first messages,
    and later the smallest, stands for the offset between the clocks plus the shortest transit; anything beyond it is
    delay. The estimate rises only as slowly as clocks drift, so a lasting delay never counts as normal; a clock that
    is set back looks late until the source reconnects. The estimate falls at once by as much as jitter explains, and by
    more once several messages agree.
    """

    _DRIFT = 1e-4
    _JITTER_NS = 20_000_000
    _AGREE = 5

    def __init__(self) -> None:
        self.offset_ns: float | None = None
        """Arrival minus stamp of the quickest messages; None while learning."""
        self._at_ns = 0
        self._learning: list[int] = []
        self._ahead: list[int] = []

    def observe(self, timestamp_ns: int, received_ns: int) -> Stamp:
        """Learn from one message and judge its stamp."""
        difference = received_ns - timestamp_ns
        if self.offset_ns is None:
            self._learning.append(difference)
            if len(self._learning) == self._AGREE:
                self.offset_ns, self._at_ns = sorted(self._learning)[self._AGREE // 2], received_ns
            return Stamp.LEARNING
        drifted_ns = self.offset_ns + self._DRIFT * max(0, received_ns - self._at_ns)
        self._at_ns = received_ns
        if difference >= drifted_ns - self._JITTER_NS:
            self._ahead.clear()
            self.offset_ns = min(drifted_ns, difference)
            return Stamp.EXPECTED
        self._ahead.append(difference)
        if len(self._ahead) < self._AGREE:
            return Stamp.AHEAD
        self.offset_ns = max(self._ahead)
        self._ahead.clear()
        return Stamp.CLOCK_SET

    def age_ns(self, timestamp_ns: int, now_ns: int) -> int:
        """Age of a measurement, not counting the shortest transit."""
        return max(0, round(now_ns - timestamp_ns - (self.offset_ns or 0)))
