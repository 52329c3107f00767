"""Detects that somebody knocked against the tracker's camera: markers of things that move by themselves jump alike.

The patient's marker and the C-arm's are seldom moved in one moment, and never by the same motion in the tracker's
frame. Where that happens the frame has moved, and with it all that is remembered of where markers were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["Camera"]

_TOGETHER_NS = 120_000_000
"""Time between two jumps that happened together: trackers may send markers one after the other."""
_ALIKE_MM, _ALIKE_RAD = 5.0, 0.01
"""How far apart the markers' motions may be: the noise of one marker's rotation, at the other one."""


@dataclass(frozen=True)
class _Jump:
    at_ns: int
    before: Matrix
    after: Matrix


class Camera:
    """Watches the markers of things that do not move together.

    Args:
        devices: of them, at least two.
    """

    def __init__(self, *devices: str) -> None:
        self._devices = devices
        self._last: dict[str, Matrix] = {}
        self._jumps: dict[str, _Jump] = {}

    def on_pose(self, device: str, at_ns: int, tracker_from_marker: Matrix, *, jumped: bool) -> Matrix | None:
        """Watch a pose.

        Args:
            at_ns: by the tracker's clock.
            jumped: whether it is none that the marker can have moved to.

        Returns:
            The motion, 4x4, that carries what was seen before into the tracker's frame of now; None: it is the same.
        """
        before, self._last[device] = self._last.get(device), tracker_from_marker
        if before is None or not jumped:
            return None
        self._jumps[device] = _Jump(at_ns, before, tracker_from_marker)
        if len(self._jumps) < len(self._devices):
            return None
        first, *others = self._jumps.values()
        now_from_before = first.after @ g.inverse(first.before)
        for other in others:
            off = g.log(g.inverse(now_from_before @ other.before) @ other.after)
            apart_mm, apart_rad = np.linalg.norm(off[3:]), np.linalg.norm(off[:3])
            if abs(other.at_ns - first.at_ns) > _TOGETHER_NS or apart_mm > _ALIKE_MM or apart_rad > _ALIKE_RAD:
                return None
        self._jumps.clear()
        return now_from_before
