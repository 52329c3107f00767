"""Whether the C-arm's marker moves on a C-arm that rests, however slowly.

X-rays that show the patient elsewhere than his marker does say by how far, and not whose marker moved. While the C-arm
rests the tracker says it: a marker that slides on the patient is seen to move, or the patient is seen in the picture to
move under it; a marker that slides on the C-arm is seen to move by just what X-rays show.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["CArmAtRest"]

_FIRST, _FIRST_S, _LATEST, _LATEST_S, _FEWEST = 20, 2.0, 12, 1.2, 3
"""X-rays by which places of before and of now are known: up to so many, within so long; few show a quick creep where
X-rays are rare, more a slow one through noise."""
_SHOWN_MM, _SIGMAS = 0.8, 6.0
"""What X-rays show is no noise from so many mm, and so many sigmas of the tracker's noise at the anatomy."""
_STEPS, _EXPECTED_MM = 60, 0.1
"""That noise is known by so many steps between X-rays, and at least so much."""
_MEDIAN_STEP = 2 * 2.366
"""Median of the squared length of a step between two places in units of their variance along an axis (chi squared)."""
_OF_CARM, _OF_OTHERS = 0.4, 0.7
"""It is the C-arm's marker's where that moved by as much, up to the former part of it; by more than the latter, not."""
_MOVED_MM, _TURNED_RAD = 1.5, 0.05
"""What the C-arm may move, as its marker and X-rays agree, before it counts as at rest somewhere else."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of one X-ray."""

    at_s: float
    tracker_from_carm: Matrix
    """4x4."""
    patient_from_volume: Matrix
    """4x4, as the X-ray shows it."""


class CArmAtRest:
    """X-rays since the C-arm came to rest."""

    def __init__(self) -> None:
        self._before: Matrix | None = None
        """volume_from_patient when it did, as all X-rays together showed it."""
        self._carm_mm: Matrix | None = None
        """(3,), where the anatomy then was in the C-arm's frame."""
        self._first: list[_Seen] = []
        self._latest: deque[_Seen] = deque(maxlen=_LATEST)
        self._steps_mm: deque[Matrix] = deque(maxlen=_STEPS)
        """(3,), from each X-ray to the next: of a point that rests on the C-arm, in the tracker's frame."""

    def forget(self) -> None:
        """What was before is not comparable: the patient's marker moved, or the registration is another one."""
        self._first.clear()
        self._latest.clear()

    def before_creep(
        self,
        timestamp_ns: int,
        tracker_from_patient: Matrix,
        patient_from_carm: Matrix,
        volume_from_patient: Matrix,
        known: Matrix,
        center_mm: Matrix,
    ) -> Matrix | None:
        """Add an X-ray; returns what was known before the C-arm's marker moved on the C-arm; None: it did not.

        Args:
            tracker_from_patient, patient_from_carm: by the markers at the exposure, 4x4.
            volume_from_patient: as the X-ray shows it, 4x4.
            known: the same as X-rays before it show it together, 4x4.
            center_mm: (3,), a point of the anatomy in the patient's frame.
        """
        seen = _Seen(timestamp_ns / 1e9, tracker_from_patient @ patient_from_carm, g.inverse(volume_from_patient))
        if not self._first or self._carm_mm is None:
            self._before, self._carm_mm = known, g.transform(g.inverse(patient_from_carm), center_mm)
            self._first.append(seen)
            return None
        before_it = self._latest[-1] if self._latest else self._first[-1]
        self._steps_mm.append(_carried(seen, self._carm_mm) - _carried(before_it, self._carm_mm))
        if len(self._first) < _FIRST and (len(self._first) < _FEWEST or seen.at_s - self._first[0].at_s <= _FIRST_S):
            self._first.append(seen)
            return None
        self._latest.append(seen)
        while len(self._latest) > _FEWEST and seen.at_s - self._latest[1].at_s >= _LATEST_S:
            self._latest.popleft()
        if len(self._latest) < _LATEST and seen.at_s - self._latest[0].at_s < _LATEST_S:
            return None
        volume_mm = g.transform(volume_from_patient, center_mm)
        shown_mm = tracker_from_patient[:3, :3] @ self._since_first(
            [g.transform(each.patient_from_volume, volume_mm) for each in (*self._first, *self._latest)]
        )
        carm_mm = self._carm_mm
        moved_mm = self._since_first([_carried(each, carm_mm) for each in (*self._first, *self._latest)])
        return self._judged(shown_mm, moved_mm)

    def _judged(self, shown_mm: Matrix, moved_mm: Matrix) -> Matrix | None:
        """What was known before, if it is the C-arm's marker's; begins again where that or another cause is sure.

        Args:
            shown_mm: (3,), how far X-rays show the patient apart from where his marker does, in the tracker's frame.
            moved_mm: (3,), how far the C-arm's marker carried what rests on the C-arm there.
        """
        turn = self._latest[-1].tracker_from_carm[:3, :3] @ self._first[0].tracker_from_carm[:3, :3].T
        turned = float(np.linalg.norm(g.rotation_log(turn))) > _TURNED_RAD
        apart_mm, else_mm = float(np.linalg.norm(shown_mm)), float(np.linalg.norm(shown_mm - moved_mm))
        shows = apart_mm >= max(_SHOWN_MM, _SIGMAS * self._noise_mm())
        crept = not turned and shows and else_mm <= _OF_CARM * apart_mm
        others = else_mm > _OF_OTHERS * apart_mm
        if crept or turned or (others and (shows or float(np.linalg.norm(moved_mm)) > _MOVED_MM)):
            self.forget()
        return self._before if crept else None

    def _since_first(self, points_mm: list[Matrix]) -> Matrix:
        """(3,), from the first X-rays to the latest."""
        first = len(self._first)
        return np.asarray(np.mean(points_mm[first:], axis=0) - np.mean(points_mm[:first], axis=0))

    def _noise_mm(self) -> float:
        """1-sigma along an axis of how far the latest are from the first if nothing moves."""
        squares_mm2 = np.sum(np.square(self._steps_mm), axis=1)
        variance_mm2 = float(np.median(squares_mm2)) / _MEDIAN_STEP  # steps of a C-arm that was moved are the fewer
        return float(np.sqrt(max(_EXPECTED_MM**2, variance_mm2) * (1 / len(self._first) + 1 / len(self._latest))))


def _carried(seen: _Seen, carm_mm: Matrix) -> Matrix:
    return g.transform(seen.tracker_from_carm, carm_mm)
