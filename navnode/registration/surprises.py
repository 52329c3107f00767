"""How far an X-ray is from what all before it showed: by itself, with the one before, and with the last few.

The filter's own gate is wide, as trackers are noisy and views repeat their errors. What moved by little shows in
several X-rays together, long before one of them contradicts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from navnode.registration.fusion import PatientFilter
from navnode.types import Matrix

__all__ = ["Surprise", "Surprises"]

_RUN, _LEAST_RUN, _RUN_GATE = 8, 5, 12.0
"""Number of recent frames, at most and at least, and their mean squared Mahalanobis distance above which they
contradict the state together, although each may pass the filter's gate: an unmoved marker gives 0.3, a station's depth
bias of 2 mm about 3, a marker that moved 4 mm along the beam 10."""

_FEW = 8
"""Number of the last frames whose innovations are averaged. The noise of trackers, by which a single frame's distance
reaches 30 where a C-arm's marker is far from the anatomy, averages to below 4; what moved stays."""

_UNMOVED = 1.0
"""The same distance, of their mean, that shows where a marker is now. The filter's gate is too wide for that: along the
beam of one view it lets 6 mm pass, and then follows slowly."""

_MOVED_GATE = 5.0
"""The same, above which the marker may have moved. Slides too slow for :mod:`sliding` are found by this at about
1.4 mm."""

_SURPRISE, _PAIR = (8.0, 10.0), (4.0, 8.0)
"""The distance of one frame, and of each of two in a row, that does not contradict the state, but surprises: at least
the former, and the latter times what is usual (0.3 where a tracker is quiet, 3 where its noise is 0.35 mm there).
Of one frame it is the first sign of a quick slide; of two the marker may have moved."""
_USUAL, _NOISY = 30, 3.0
"""Number of frames by which what is usual is judged; what it is taken to be before there are enough."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """One X-ray beside the state, and beside the X-rays before it."""

    contradicts: bool
    """By itself or with the last ones: the registration is wrong, or the X-ray."""
    surprises: bool = False
    """By itself, but does not contradict."""
    elsewhere: bool = False
    """With those before it: the marker may have moved."""
    shows_place: bool = False
    """Together they show that the state is right, closer than the filter's gate."""


class Surprises:
    """The last X-rays' distances from the state."""

    def __init__(self) -> None:
        self._distances: deque[float] = deque(maxlen=_RUN)
        self._innovations: deque[Matrix] = deque(maxlen=_FEW)
        self._usual: deque[float] = deque(maxlen=_USUAL)

    def add(self, state: PatientFilter, volume_from_patient: Matrix, covariance: Matrix) -> Surprise:
        """Compare an X-ray with the state, which has not learned from it yet.

        Args:
            volume_from_patient, covariance: 4x4 and 6x6 (rad, mm), as the X-ray shows it.
        """
        innovation = state.innovation(volume_from_patient)
        distance = state.surprise(innovation, covariance)
        self._innovations.append(innovation)
        self._distances.append(distance)
        run = float(np.mean(self._distances)) if len(self._distances) >= _LEAST_RUN else 0.0
        if run > _RUN_GATE or not state.agrees(volume_from_patient, covariance):
            return Surprise(contradicts=True)
        usual = float(np.median(self._usual)) if len(self._usual) >= _RUN else _NOISY
        self._usual.append(distance)
        together = state.surprise(np.mean(self._innovations, axis=0), covariance)
        pair = min(list(self._distances)[-2:]) > max(_PAIR[0], _PAIR[1] * usual)
        return Surprise(
            contradicts=False,
            surprises=distance > max(_SURPRISE[0], _SURPRISE[1] * usual),
            elsewhere=pair or (together > _MOVED_GATE and len(self._innovations) >= 2),
            shows_place=together <= _UNMOVED,
        )

    def clear(self) -> None:
        """The state is another one."""
        self._distances.clear()
        self._innovations.clear()

    def moved(self) -> None:
        """The state is moved, or known less well: how X-rays were off it says nothing more."""
        self._innovations.clear()
