"""Registration of a sequence of X-rays without a tracker: each starts from the ones before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from navnode import geometry as g
from navnode.registration.single import register_counts
from navnode.registration.tracking import ImageRegistration
from navnode.types import Array, CArm, Effort, Matrix, Registration

__all__ = ["FilmRegistration"]


class FilmRegistration:
    """Follows a C-arm, assuming that it keeps moving as before until a frame shows otherwise.

    Args:
        center_mm: (3,) in the volume; its distance from the source is the pivot of each registration.
    """

    def __init__(self, registration: ImageRegistration, center_mm: Matrix) -> None:
        self._registration, self._center_mm = registration, center_mm
        self._last: Matrix | None = None
        self._good: list[Matrix] = []
        """The last poses of consecutive usable frames, two at most."""

    def begin(self, first: Registration) -> Registration:
        """Start from the first frame's result, however it was obtained."""
        return self._keep(first)

    def follow(self, counts: Array, carm: CArm, timestamp_ns: int = 0) -> Registration:
        """Register the next frame (H, W); if that fails, the result is INVALID and keeps the last usable pose."""
        assert self._last is not None, "call begin() first"
        if not self._good:
            return self._keep(self._register(counts, carm, self._last, Effort.FIND, timestamp_ns))
        start = self._last
        if len(self._good) == 2:
            # Made rigid again: rounding errors would more than double with every frame.
            start = g.orthonormal(self._good[1] @ g.inverse(self._good[0]) @ self._good[1])
        result = self._register(counts, carm, start, Effort.TRACK, timestamp_ns)
        if not result.validity.usable and result.informative:
            retry = self._register(counts, carm, self._last, Effort.FIND, timestamp_ns)
            result = replace(retry, elapsed_ms=result.elapsed_ms + retry.elapsed_ms)
        return self._keep(result)

    def _register(self, counts: Array, carm: CArm, start: Matrix, effort: Effort, timestamp_ns: int) -> Registration:
        distance_mm = float(np.linalg.norm(self._center_mm - start[:3, 3]))
        return register_counts(self._registration, counts, carm, start, distance_mm, effort, timestamp_ns)

    def _keep(self, result: Registration) -> Registration:
        if not result.validity.usable:
            self._good = []
            if self._last is not None:  # a wrong pose must not mislead the next frames
                return replace(result, volume_from_carm=self._last)
        else:
            self._good = [*self._good[-1:], result.volume_from_carm]
        self._last = result.volume_from_carm
        return result
