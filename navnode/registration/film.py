"""Registration of a sequence of X-rays by themselves, without a tracker: each starts from the ones before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from navnode import geometry as g
from navnode.registration.single import register_counts
from navnode.registration.tracking import ImageRegistration
from navnode.types import Array, CArm, Effort, Matrix, Registration


class Sequence:
    """Follows a C-arm, which is taken to go on moving as it did until it does not.

    Args:
        center_mm: what rotations turn about, at its distance from the source.
    """

    def __init__(self, registration: ImageRegistration, center_mm: Matrix) -> None:
        self._registration, self._center_mm = registration, center_mm
        self._last: Matrix | None = None
        self._good: list[Matrix] = []
        """The last poses of consecutive usable frames, two at most."""

    def begin(self, first: Registration) -> Registration:
        """The first frame's result, however it was found."""
        return self._keep(first)

    def follow(self, counts: Array, carm: CArm, timestamp_ns: int = 0) -> Registration:
        """Register the next frame; a lost one is told with the last usable frame's pose, and INVALID."""
        assert self._last is not None, "a sequence begins with a first frame"
        if not self._good:
            return self._keep(self._register(counts, carm, self._last, Effort.FIND, timestamp_ns))
        start = self._last
        if len(self._good) == 2:
            # Made rigid again: what rounding leaves would more than double with every frame.
            start = g.orthonormal(self._good[1] @ g.inverse(self._good[0]) @ self._good[1])
        found = self._register(counts, carm, start, Effort.TRACK, timestamp_ns)
        if not found.validity.usable and found.informative:
            again = self._register(counts, carm, self._last, Effort.FIND, timestamp_ns)
            found = replace(again, elapsed_ms=found.elapsed_ms + again.elapsed_ms)
        return self._keep(found)

    def _register(self, counts: Array, carm: CArm, start: Matrix, effort: Effort, timestamp_ns: int) -> Registration:
        distance_mm = float(np.linalg.norm(self._center_mm - start[:3, 3]))
        return register_counts(self._registration, counts, carm, start, distance_mm, effort, timestamp_ns)

    def _keep(self, found: Registration) -> Registration:
        if not found.validity.usable:
            self._good = []
            if self._last is not None:  # must not carry the next ones away
                return replace(found, volume_from_carm=self._last)
        else:
            self._good = [*self._good[-1:], found.volume_from_carm]
        self._last = found.volume_from_carm
        return found
