"""X-rays registered to a volume that was made from a few of them: what they say of a marker that moved.

Such a volume is smeared along the rays of its views. An X-ray from near a view fits as if it were that view: turned
with it, at a depth that is off by centimetres (docs/decisions/0056). So it does not say where the patient is. But from
the same place the same error comes back to half a millimetre, and what differs from that has moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.registration.fusion import FRAMES_PER_LOOK
from navnode.types import Matrix

__all__ = ["DIFFERS", "ELSEWHERE", "FIRST_TIME", "LOOKS", "REPEATED", "SAME_SIDE_RAD", "Sides"]

FIRST_TIME = np.array([0.1, 0.1, 0.03, 4.0, 4.0, 60.0])
"""1 sigma in the C-arm's frame (rad, mm) of an X-ray from within 5 degrees of a view."""
REPEATED = np.array([0.02, 0.02, 0.02, 1.5, 1.5, 8.0])
"""The same of how X-rays from one place differ: a tool in the beam, the tracker."""
DIFFERS, ELSEWHERE = 8.0, 24.0
"""Squared Mahalanobis distances of a repeated X-ray that surprise, and that contradict tracking: 4 and 7 mm aside. Of
450 frames of a room with a drill in the beam none reached the former."""
LOOKS = 15 * FRAMES_PER_LOOK
"""X-rays from one place that count as one independent look: half a minute of them."""

_SAME_PLACE, _SAME_PLACE_MM = float(np.cos(np.deg2rad(1.0))), 20.0
"""Cosine between two lines of sight, and distance of two sources."""
SAME_SIDE_RAD = np.deg2rad(5.0)
"""A volume made from a few X-rays looks right from their sides alone: 4 degrees aside, it is as much like that view as
like the patient."""
_MOST_SIDES = 256
"""A C-arm that never rests is everywhere."""


@dataclass(frozen=True)
class _Side:
    source_mm: Matrix
    line: Matrix
    """Of sight, (3,), in the volume, as the source."""
    off: Matrix


class Sides:
    """How far X-rays from a place are registered beside the patient while no marker has moved."""

    def __init__(self) -> None:
        self._volume_id = -1
        self._sides: list[_Side] = []
        self._unlike: list[Matrix] = []
        """Lines of sight of X-rays that the volume was made from, and does not show."""

    def usual(self, volume_id: int, volume_from_carm: Matrix) -> Matrix | None:
        """The innovation, (6,), of the first X-ray from here; None: this is the first.

        Args:
            volume_from_carm: by tracking.
        """
        self._begin(volume_id)
        source_mm, line = volume_from_carm[:3, 3], volume_from_carm[:3, 2]
        for side in self._sides:
            away_mm, turned = side.source_mm - source_mm, float(side.line @ line)
            if turned >= _SAME_PLACE and float(away_mm @ away_mm) <= _SAME_PLACE_MM**2:
                return side.off
        return None

    def learn(self, volume_id: int, volume_from_carm: Matrix, innovation: Matrix) -> None:
        """Keep the innovation, (6,), of the first X-ray from a place: best of those that the volume was made from."""
        self._begin(volume_id)
        if len(self._sides) < _MOST_SIDES:
            self._sides.append(_Side(volume_from_carm[:3, 3], volume_from_carm[:3, 2], innovation))

    def learn_unlike(self, volume_id: int, volume_from_carm: Matrix) -> None:
        """Keep that not even the X-ray that the volume was made from matches it from here."""
        self._begin(volume_id)
        self._unlike.append(volume_from_carm[:3, 2])

    def is_unlike(self, volume_id: int, volume_from_carm: Matrix) -> bool:
        """Whether an X-ray that does not match says nothing, as the volume's own does not, either."""
        self._begin(volume_id)
        return any(g.angle_between_rad(line, volume_from_carm[:3, 2]) <= SAME_SIDE_RAD for line in self._unlike)

    def _begin(self, volume_id: int) -> None:
        if volume_id != self._volume_id:
            self._volume_id, self._sides, self._unlike = volume_id, [], []
