"""The node's clock, and the offset of other machines' clocks to it.

Time reaches the pipeline only inside messages; this is where those times come from.
"""

from __future__ import annotations

import time

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Nanoseconds since 1970 that never step back while the process lives.

    OpenIGTLink stamps are UTC, so is this; but it advances with the monotonic clock, so that a
    correction of the wall clock in mid-operation cannot make a pose look older or newer than it is.
    """
    return _EPOCH_NS + time.monotonic_ns()


_EPOCH_NS = time.time_ns() - time.monotonic_ns()
