"""The node's clock, and how late what comes from other clocks is.

Time reaches the pipeline only inside messages; this is where those times come from.
"""

from __future__ import annotations

import time
from collections import deque

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Nanoseconds since 1970 that never step back while the process lives.

    OpenIGTLink stamps are UTC, so is this; but it advances with the monotonic clock, so that a
    correction of the wall clock in mid-operation cannot make a pose look older or newer than it is.
    """
    return _EPOCH_NS + time.monotonic_ns()


_EPOCH_NS = time.time_ns() - time.monotonic_ns()


class Lateness:
    """How much later than usual the messages of one source arrive.

    Its clock may be set to anything. The smallest difference between arrival and stamp in the last half minute
    is taken for the offset of the clocks plus the shortest way; what exceeds it is delay. A clock that is set back
    looks late until that half minute is over: for so long nobody can tell the two apart.
    """

    _WINDOW_NS = 30 * NS_PER_S
    _STEP_NS = NS_PER_S
    _STEP_AFTER = 5

    def __init__(self) -> None:
        self._least: deque[tuple[int, int]] = deque()  # (second, smallest difference in it)
        self._ahead = 0

    def of(self, timestamp_ns: int, received_ns: int) -> int | None:
        """Delay in ns of a message with this stamp, 0 for the quickest.

        None for a stamp far ahead of what was to be expected: it is wrong, or the clock was set forward, which a
        few more like it will tell.
        """
        difference, second = received_ns - timestamp_ns, received_ns // NS_PER_S
        least = min((least for _, least in self._least), default=difference)
        if difference < least - self._STEP_NS:
            self._ahead += 1
            if self._ahead < self._STEP_AFTER:
                return None
            self._least.clear()
        self._ahead = 0
        if self._least and self._least[-1][0] == second:
            self._least[-1] = second, min(self._least[-1][1], difference)
        else:
            self._least.append((second, difference))
        while (second - self._least[0][0]) * NS_PER_S > self._WINDOW_NS:
            self._least.popleft()
        return difference - min(least for _, least in self._least)
