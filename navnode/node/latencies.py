"""Latencies of one path through the node."""

from __future__ import annotations

import numpy as np

from navnode.types import LatencyFigures

__all__ = ["LatencyWindow"]

_LATENCY_SAMPLES = 8192


class LatencyWindow:
    """The last few thousand latencies of one path."""

    def __init__(self) -> None:
        self._ms = np.zeros(_LATENCY_SAMPLES, np.float32)
        self._count = 0

    def add(self, latency_ns: int) -> None:
        """Add a latency; the oldest one gives way."""
        self._ms[self._count % _LATENCY_SAMPLES] = latency_ns / 1e6
        self._count += 1

    def figures(self) -> LatencyFigures:
        """Median, 99th percentile and maximum, in ms."""
        known = self._ms[: min(self._count, _LATENCY_SAMPLES)]
        if not known.size:
            return LatencyFigures()
        return LatencyFigures(*(round(ms, 3) for ms in np.percentile(known, [50, 99, 100]).tolist()))
