"""Latencies of one path through the node."""

from __future__ import annotations

import numpy as np

_LATENCY_SAMPLES = 8192


class Latencies:
    """The last few thousand latencies of one path."""

    def __init__(self) -> None:
        self._ms = np.zeros(_LATENCY_SAMPLES, np.float32)
        self._count = 0

    def add(self, latency_ns: int) -> None:
        self._ms[self._count % _LATENCY_SAMPLES] = latency_ns / 1e6
        self._count += 1

    def figures(self, name: str) -> dict[str, float]:
        """Median, 99th percentile and maximum, in ms; empty before the first."""
        known = self._ms[: min(self._count, _LATENCY_SAMPLES)]
        if not known.size:
            return {}
        p50, p99, worst = np.percentile(known, [50, 99, 100]).tolist()
        return {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99, f"{name}_max_ms": worst}
