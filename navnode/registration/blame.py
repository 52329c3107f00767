"""Which marker moved, where X-rays and tracking disagree, or whether any did.

X-rays that show the patient elsewhere than his marker does have three explanations: his marker moved on him, the
C-arm's moved on the C-arm, or the picture is not what it is taken for (displaced on its display, late, of another
time). What moved on the patient stays where it is while the C-arm turns, all else turns with it; and a tracker sees
what moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["Blame"]

_LEAST_MM = 1.0
"""Discrepancy from which it may be another's than the patient's marker, where that did not move or nobody watched the
C-arm's: slides of the patient's are mostly noticed before they are as large."""
_SHOWS, _APART_RAD = 0.64, 0.07
"""The C-arm must have turned between X-rays that agree after that until what moved on it would show by such a part of
the move, some 40 degrees aside of it. X-rays that differ by less than the latter say nothing new."""
_RESTED = 15
"""Number of X-rays that agree since the C-arm's marker was not watched: it has not moved."""
_BACK_MM, _BACK_DEEP_MM = _LEAST_MM, 3.0
"""So near to where it was before, nothing moved; along the beam where one view found it anew."""
_ELSEWHERE_MM, _FAR_MM = 4.0, 10.0
"""A registration that is lost without a reason and found again is elsewhere from the former on: one view may find it so
far off in depth. From the latter on another side proves nothing: pictures of another time agree with each other."""

_UNSEEN = "no marker was seen to move"
_CREPT = "the C-arm's marker moved while the C-arm rested"


class Blame:
    """Why X-rays do not tell which marker moved.

    Args:
        turn: what is then said, with ``{why}``; '' where no C-arm's marker has a part in it.
        far: what is said of a registration that is found far from where it was, with ``{mm}``.
    """

    def __init__(self, turn: str, far: str) -> None:
        self._turn, self._far = turn, far
        self.reason = ""
        """'' where they do, or where nothing moved."""
        self._accept_only = False
        self._unwatched, self._rested = "", 0
        """Why the C-arm's marker may have moved on the C-arm, and number of X-rays since that agree."""
        self._excused = False
        """Whether something was seen since X-rays last agreed that explains where they show the patient."""
        self._sound: Matrix | None = None
        """volume_from_patient when nothing was doubted last."""
        self._before: Matrix | None = None
        """The same before X-rays showed the patient elsewhere."""
        self._lost_at: Matrix | None = None
        self._anew = False
        """Whether the registration was found anew since."""
        self._sound_seen: Matrix | None = None
        self._before_seen: Matrix | None = None
        """tracker_from_patient of both, where the tracker saw it."""
        self._mixed = False
        """Whether the patient's marker moved as well, so that what X-rays show since is the sum of two moves."""
        self._creeps = False
        """Whether the C-arm's marker was seen to move on it, and what X-rays show together lags behind: still near."""
        self._turns: list[Matrix] = []
        """(3, 3), from the C-arm's frame to the volume's: of X-rays that agree since."""

    def carm_unwatched(self, why: str) -> None:
        """The C-arm's marker was hidden, or jumped: perhaps on the C-arm, which only X-rays show."""
        self._unwatched, self._rested = why, 0

    def excuse(self, *, moved: bool = False) -> None:
        """The patient's marker moved or was hidden, or a clock was set: X-rays may show the patient elsewhere.

        Args:
            moved: whether it was seen elsewhere: a blame is then for what that does not explain.
        """
        self._excused = True
        self._mixed = self._mixed or (moved and bool(self.reason))

    def shown_elsewhere(self, mm: float, *, patient_moved: bool) -> None:
        """X-rays show the patient elsewhere than tracking.

        Args:
            mm: by so much.
            patient_moved: whether tracking shows that the patient's marker moved.
        """
        self._turns.clear()
        why = self._unwatched or ("" if self._excused else _UNSEEN)
        if mm < _LEAST_MM or not why or patient_moved or not self._turn or self._sound is None:
            return
        if self._unwatched or not self.reason:  # what is known of it stays
            self._blame(self._turn.format(why=why), self._sound)

    def was_the_patients(self, by_mm: Matrix, tracker_from_patient: Matrix | None = None) -> None:
        """The tracker saw his marker move on him, and X-rays show it: so much is no doubt.

        Args:
            by_mm: (3,), in the volume.
            tracker_from_patient: 4x4, the marker's pose since; None: not known.
        """
        moved = g.rigid(None, by_mm)
        self._sound = None if self._sound is None else moved @ self._sound
        self._before = None if self._before is None else moved @ self._before
        self._sound_seen = self._before_seen = tracker_from_patient

    def was_the_carms(self, before: Matrix) -> None:
        """The tracker saw the C-arm's marker move by as much as X-rays show the patient elsewhere, and the C-arm rests.

        Args:
            before: volume_from_patient of before that, 4x4.
        """
        self._turns.clear()
        if self._turn:
            self._blame(self._turn.format(why=_CREPT), before)
            self._creeps, self._anew = True, False  # what shows a creep is nearer than one view's depth

    def begun_anew(self) -> None:
        """The registration is another one, which knows nothing of X-rays before."""
        self._anew = True

    def lost(self) -> None:
        """The registration is lost by X-rays."""
        if self._turn and not (self._excused or self._unwatched):
            self._lost_at = self._sound if self._before is None else self._before

    def found(self, volume_from_patient: Matrix, center_mm: Matrix) -> None:
        """The registration is confirmed: is it where it was when it was lost?

        Args:
            center_mm: (3,), a point of the anatomy in the patient's frame.
        """
        if self._lost_at is None:
            return
        before, self._lost_at = self._lost_at, None
        mm = _length_mm(_apart(volume_from_patient, before, center_mm))
        if mm > _ELSEWHERE_MM:
            self._accept_only = mm > _FAR_MM
            if self._accept_only or not self.reason:  # what is known of it stays
                self._blame(self._far.format(mm=mm) if self._accept_only else self._turn.format(why=_UNSEEN), before)

    def agreed(
        self,
        volume_from_carm: Matrix,
        volume_from_patient: Matrix,
        center_mm: Matrix,
        tracker_from_patient: Matrix | None = None,
        *,
        sure: bool,
    ) -> None:
        """An X-ray agrees with the state.

        Args:
            volume_from_carm, volume_from_patient: 4x4, as that X-ray, and as all together show it.
            center_mm: as :meth:`found`.
            tracker_from_patient: 4x4, the marker's pose at its exposure; None: not known.
            sure: whether it is confirmed, and nothing else is doubted.
        """
        self._rested += 1
        if self._rested >= _RESTED:
            self._unwatched = ""
        self._excused = self._excused and not sure
        if sure and not self.reason and self._lost_at is None:
            self._sound, self._sound_seen = volume_from_patient, tracker_from_patient
        if not self.reason or not sure or self._before is None:
            return
        moves_mm = [_apart(volume_from_patient, self._before, center_mm)]
        if self._mixed:  # two moves may well cancel
            if self._before_seen is None or tracker_from_patient is None:
                return
            explained = self._before @ g.inverse(self._before_seen) @ tracker_from_patient
            moves_mm.append(_apart(volume_from_patient, explained, center_mm))
        turned = not self._accept_only and self._would_show(moves_mm, volume_from_carm[:3, :3])
        if turned or self._is_back(moves_mm[-1], volume_from_carm[:3, 2]):
            self.clear()

    def clear(self) -> None:
        """It is known now, or the operator says it."""
        self.reason, self._unwatched = "", ""
        self._accept_only = self._creeps = self._mixed = False
        self._before = self._lost_at = self._before_seen = None
        self._turns.clear()

    def _blame(self, reason: str, before: Matrix) -> None:
        if self._before is None:
            self._before, self._anew = before, False
            self._before_seen = self._sound_seen if before is self._sound else None
        self.reason = reason

    def _is_back(self, apart_mm: Matrix, beam: Matrix) -> bool:
        deep_mm = float(apart_mm @ beam)
        aside_mm = _length_mm(apart_mm - deep_mm * beam)
        near = aside_mm <= _BACK_MM and abs(deep_mm) <= (_BACK_DEEP_MM if self._anew else _BACK_MM)
        self._creeps = self._creeps and near
        return near and not self._creeps

    def _would_show(self, moves_mm: Sequence[Matrix], turn: Matrix) -> bool:
        """Whether the C-arm has turned so far that each of these moves, if it turned with it, would be another one now;
        one along the axis about which it turned would not."""
        before = list(self._turns)
        if not self._turns or np.trace(turn.T @ self._turns[-1]) < 1 + 2 * np.cos(_APART_RAD):
            self._turns.append(turn)
        return all(
            max((_length_mm(turn @ (then.T @ moved_mm) - moved_mm) for then in before), default=0.0)
            >= _SHOWS * _length_mm(moved_mm)
            for moved_mm in moves_mm
        )


def _apart(one: Matrix, other: Matrix, point_mm: Matrix) -> Matrix:
    return np.asarray(g.transform(one, point_mm) - g.transform(other, point_mm))


def _length_mm(vector_mm: Matrix) -> float:
    return float(np.linalg.norm(vector_mm))
