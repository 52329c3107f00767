"""What the tracker saw of what X-rays show: whose marker moved, while the C-arm rests.

X-rays that show the patient elsewhere than his marker does say by how far, and not whose marker moved. The tracker sees
markers move, too, and X-rays and the C-arm's marker together say where the anatomy is in its frame. A marker that
slides on a patient who rests is seen to move by just what X-rays show, and the anatomy not at all; one that slides on a
C-arm that rests likewise. Where the patient moved under his marker, or the picture is not what it is taken for, neither
is seen to move; where he lies on a table that moves, both may be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["Moved", "Evidence", "Witness"]

_EVERY_S = 0.09
"""X-rays nearer to each other than that say nothing new."""
_FIRST_S, _LATEST_S = 2.0, 1.2
"""X-rays by which places of before and of now are known: few show a quick creep, more a slow one through noise."""
_BREATH_S = 4.5
"""The same where breathing must cancel, as it moves anatomy and patient's marker alike: a breath."""
_FEWEST, _FEWEST_OF_BREATH = 3, 5
_CARMS_MM, _PATIENTS_MM, _SIGMAS = 0.8, 0.5, 6.0
"""What X-rays show is no noise from so many mm, and so many sigmas of the tracker's noise at the anatomy: the former
casts a doubt, the latter ends one."""
_STEPS, _EXPECTED_MM = 60, 0.1
"""That noise is known by so many steps between X-rays, and at least so much."""
_MEDIAN_STEP = 2 * 2.366
"""Median of the squared length of a step between two places in units of their variance along an axis (chi squared)."""
_EXPLAINS, _NOT_ITS = 0.4, 0.7
"""A motion explains what X-rays show if the rest is no more than the former part of it; it is not the C-arm's marker's
for certain if that leaves more than the latter."""
_LASTS_S = 1.5
"""For so long his marker must explain it: where pictures are late, a table that sets out looks so, too."""
_MOVED_MM, _TURNED_RAD = 1.5, 0.015
"""What the C-arm may move, as its marker and X-rays agree, or turn, as X-rays show, before it rests somewhere else."""


class Moved(Enum):
    """What was seen to move by what X-rays show."""

    PATIENTS = "patients"
    """The patient's marker, on the patient."""
    CARMS = "carms"
    """The C-arm's marker, on the C-arm."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen to move."""

    moved: Moved
    before: Matrix
    """volume_from_patient of before, 4x4, as all X-rays together showed it."""
    by_mm: Matrix
    """(3,), how far the patient's marker was seen to move since the last evidence, in the volume's frame."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """At one X-ray."""

    at_s: float
    marker_mm: Matrix
    """(3,), a point of the anatomy by the patient's marker, in the tracker's frame."""
    anatomy_mm: Matrix
    """(3,), the same point by X-ray and C-arm's marker."""
    tracker_from_carm: Matrix
    """4x4, by its marker."""
    turn: Matrix
    """(3, 3), from the C-arm's frame to the volume's, by X-ray."""


@dataclass(frozen=True, slots=True)
class _Change:
    """Between X-rays of before and of now, (3,) each, in the tracker's frame."""

    marker_mm: Matrix
    anatomy_mm: Matrix
    noticeable_mm: float

    @property
    def shown_mm(self) -> Matrix:
        """How far the anatomy is from where the patient's marker has it."""
        return self.anatomy_mm - self.marker_mm

    @property
    def shows(self) -> bool:
        """Whether that is no noise."""
        return _length(self.shown_mm) >= self.noticeable_mm


class _Compared:
    """X-rays of before, and the latest.

    Args:
        first_s, latest_s: how long each of them last.
        fewest: number of each, at least.
        least_mm: what X-rays must show.
    """

    def __init__(self, first_s: float, latest_s: float, fewest: int, least_mm: float) -> None:
        self._first_s, self._latest_s, self._fewest, self._least_mm = first_s, latest_s, fewest, least_mm
        self.known = np.eye(4)
        """volume_from_patient of before, as all X-rays together showed it."""
        self.first: list[_Seen] = []
        self.latest: deque[_Seen] = deque()

    def forget(self) -> None:
        self.first.clear()
        self.latest.clear()

    def add(self, seen: _Seen, known: Matrix) -> None:
        if not self.first:
            self.known = known
        begins = not self.latest and (not self.first or seen.at_s - self.first[0].at_s <= self._first_s)
        if begins or len(self.first) < self._fewest:
            self.first.append(seen)
            return
        self.latest.append(seen)
        while len(self.latest) > self._fewest and seen.at_s - self.latest[1].at_s >= self._latest_s:
            self.latest.popleft()

    @property
    def complete(self) -> bool:
        """Whether the latest last long enough."""
        lasting = len(self.latest) >= self._fewest
        return lasting and self.latest[-1].at_s - self.first[-1].at_s >= self._latest_s

    def change(self, noise_mm: float) -> _Change:
        """From before to now.

        Args:
            noise_mm: 1-sigma along an axis of where one X-ray and the C-arm's marker have the anatomy.
        """
        sigma_mm = noise_mm * float(np.sqrt(1 / len(self.first) + 1 / len(self.latest)))
        return _Change(
            self.moved(lambda seen: seen.marker_mm),
            self.moved(lambda seen: seen.anatomy_mm),
            max(self._least_mm, _SIGMAS * sigma_mm),
        )

    def moved(self, of: Callable[[_Seen], Matrix]) -> Matrix:
        """(3,), from before to now, of a point of each X-ray."""
        now, before = (np.mean([of(seen) for seen in group], axis=0) for group in (self.latest, self.first))
        return np.asarray(now - before)


class Witness:
    """X-rays since the C-arm came to rest, and since it was known last where the patient's marker is."""

    def __init__(self) -> None:
        self._rest = _Compared(_FIRST_S, _LATEST_S, _FEWEST, _CARMS_MM)
        self._patient = _Compared(_BREATH_S, _BREATH_S, _FEWEST_OF_BREATH, _PATIENTS_MM)
        self._last: _Seen | None = None
        self._center_mm = self._volume_mm = self._carm_mm = np.zeros(3)
        """(3,): the point of the anatomy in the frames of patient, volume, and C-arm when that came to rest."""
        self._steps_mm: deque[Matrix] = deque(maxlen=_STEPS)
        """(3,), from each X-ray to the next: of a point that rests on the C-arm."""
        self._his_since_s: float | None = None
        """Since when X-rays show what a motion of the patient's marker explains."""
        self._told_mm = np.zeros(3)
        """(3,): so much of that motion was told, in the tracker's frame."""

    def forget(self) -> None:
        """What was before is not comparable: a marker moved, or the registration is another one."""
        self._rest.forget()
        self._patient.forget()
        self._last = self._his_since_s = None
        self._told_mm = np.zeros(3)

    def settle(self, known: Matrix) -> None:
        """What was seen so far is known: from here on only what moves since.

        Args:
            known: volume_from_patient, 4x4.
        """
        if len(self._patient.latest) >= _FEWEST_OF_BREATH:
            self._patient.known, self._patient.first = known, list(self._patient.latest)
            self._patient.latest.clear()
            self._his_since_s, self._told_mm = None, np.zeros(3)

    def add(
        self,
        timestamp_ns: int,
        tracker_from_patient: Matrix,
        patient_from_carm: Matrix,
        volume_from_patient: Matrix,
        known: Matrix,
        center_mm: Matrix,
    ) -> Evidence | None:
        """Add an X-ray; returns what was seen to move; None: nothing, or more than one thing.

        Args:
            tracker_from_patient, patient_from_carm: by the markers at the exposure, 4x4.
            volume_from_patient: as the X-ray shows it, 4x4.
            known: the same as X-rays before it show it together, 4x4.
            center_mm: (3,), a point of the anatomy in the patient's frame; the first is kept.
        """
        at_s = timestamp_ns / 1e9
        if self._last is None:
            self._center_mm, self._volume_mm = center_mm, g.transform(known, center_mm)
        elif at_s - self._last.at_s < _EVERY_S:
            return None
        if not self._rest.first:
            self._carm_mm = g.transform(g.inverse(patient_from_carm), self._center_mm)
        seen = _Seen(
            at_s,
            g.transform(tracker_from_patient, self._center_mm),
            g.transform(tracker_from_patient @ g.inverse(volume_from_patient), self._volume_mm),
            tracker_from_patient @ patient_from_carm,
            volume_from_patient[:3, :3] @ patient_from_carm[:3, :3],
        )
        if self._last is not None:
            carried = (g.transform(each.tracker_from_carm, self._carm_mm) for each in (self._last, seen))
            self._steps_mm.append(np.diff(list(carried), axis=0)[0])
        self._last = seen
        self._rest.add(seen, known)
        self._patient.add(seen, known)
        volume_from_tracker = known[:3, :3] @ tracker_from_patient[:3, :3].T
        return self._of_carm(seen) or self._of_patient(volume_from_tracker)

    def _of_carm(self, now: _Seen) -> Evidence | None:
        if float(np.linalg.norm(g.rotation_log(now.turn.T @ self._rest.first[0].turn))) > _TURNED_RAD:
            self._rest.forget()
            return None
        if not self._rest.complete:
            return None
        change = self._rest.change(self._noise_mm())
        carm_mm = self._rest.moved(lambda seen: g.transform(seen.tracker_from_carm, self._carm_mm))
        shown_mm, else_mm = _length(change.shown_mm), _length(change.shown_mm - carm_mm)
        if change.shows and else_mm <= _EXPLAINS * shown_mm:
            self._rest.forget()
            return Evidence(Moved.CARMS, self._rest.known, np.zeros(3))
        if not change.shows and _length(carm_mm) > _MOVED_MM and else_mm > _NOT_ITS * shown_mm:
            self._rest.forget()  # the C-arm was moved
        return None

    def _of_patient(self, volume_from_tracker: Matrix) -> Evidence | None:
        if not self._patient.complete:
            return None
        change = self._patient.change(self._noise_mm())
        if not change.shows or _length(change.anatomy_mm) > _EXPLAINS * _length(change.shown_mm):
            self._his_since_s = None
            return None
        now_s = self._patient.latest[-1].at_s
        self._his_since_s = now_s if self._his_since_s is None else self._his_since_s
        if now_s - self._his_since_s < _LASTS_S:
            return None
        told_mm, self._told_mm = self._told_mm, change.marker_mm
        return Evidence(Moved.PATIENTS, self._patient.known, volume_from_tracker @ (change.marker_mm - told_mm))

    def _noise_mm(self) -> float:
        """1-sigma along an axis of where the C-arm's marker has the anatomy."""
        squares_mm2 = np.sum(np.square(self._steps_mm), axis=1)
        variance_mm2 = float(np.median(squares_mm2)) / _MEDIAN_STEP  # steps of a C-arm that is moved are the fewer
        return float(np.sqrt(max(_EXPECTED_MM**2, variance_mm2)))


def _length(vector_mm: Matrix) -> float:
    return float(np.linalg.norm(vector_mm))
