"""Detects that the patient's marker slides on the patient, too slowly for tracking to show it; and how far it went.

Breathing and the table move marker and bone alike; only X-rays show one move against the other. Where the last few show
the patient, relative to the marker, is compared with where those before did. What X-rays of one direction have in
common, above all the error along their beam, cancels in that difference, so it shows far less than a single X-ray's
error: a tenth of a millimetre across the beam. The same difference says where a marker that moved is now, without what
X-rays from other directions have taught being lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["Slid", "Sliding"]

_NEWEST = (1, 2, 3, 6)
"""Numbers of the last X-rays that show where it is now: few show a quick slide, more a slow one through noise. They are
counted, not timed, as X-rays may come thirty times a second or once."""
_BEFORE_S = ((0.45, 3.0), (2.5, 5.0))
"""X-rays that they are compared with: older and younger than so many seconds."""
_SELDOM_S = 10.0
"""If those are too few, the last ones before, not older than this."""
_FEWEST, _MOST = 4, 12
"""Of them."""
_GATE = 28.0
"""Squared Mahalanobis distance above which the two differ: chance reaches it once in 250 000 X-rays (chi squared, three
degrees of freedom), which is once in hours."""
_HINT_GATE = 22.0
"""The same for a hint, once in 15 000."""
_MEDIAN = 1.5
"""Variance of a median by that of a mean, at most."""
_LEAST_MM = {1: 0.9, 2: 0.7}
_LEAST_OF_MORE_MM = 0.6
_EXPECTED, _EXPECTED_MM = 4, 0.12
"""Tracker's noise is taken to be this, beside registration's own, until more X-rays than so many show it: a marker far
from the anatomy, as a C-arm's, shows it there with three times this."""
_EXPECTED_RAD = 0.001
"""The same of rotation."""
_SLOW_MM = 0.25
"""What else changes within seconds. This and what follows are steady rather than random, therefore bounds, which reach
the gate by themselves."""
_BEAM_MM, _HANDEYE_MM, _HANDEYE_RAD = 2.5, 0.9, 0.005
"""Errors along the beam, and of the C-arm's calibration, per unit by which the direction changes."""
_CALIBRATED = 2.0
"""The bound on the latter in standard errors that calibration states, where that is more."""
_TIMING_S = 0.025
"""Error of pairing X-rays with poses: it shows where the C-arm is quick."""
_LONGEST = 160
"""Number of X-rays kept: five seconds of thirty a second."""
_KNOWN_MM = 0.6
"""1-sigma of how far a marker moved, up to which that is used."""
_SETTLED, _AFTER_STEP_S, _AFTER_SLIDE_S = 5, 0.5, 1.5
"""X-rays after a move that show where the marker is; and how long it must have stood still."""
_STILL_MM, _STILL_SIGMAS = 0.3, 3.0
"""How far the last third of them may then be from the first: this, or so many sigmas and what is steady."""


_LATELY_S, _MOVES_MM_PER_S, _LATEST_S = 1.0, 3.0, 1.0
"""By its X-rays of so long the anatomy moves through the C-arm's frame if it is quicker; and how much older a picture
may be than its stamp."""
_ALONG_MM, _ALONG = 0.5, 0.3
"""A move of more than this lies along a motion if its rest is as small as this, or as this part of it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at_s: float
    volume_from_patient: Matrix
    point_mm: Matrix
    """(3,), in the volume: where the marker's pose puts a point of the anatomy."""
    covariance: Matrix
    """(6, 6), rad and mm, in the volume's frame."""
    carm_point_mm: Matrix
    """(3,), the same point in the C-arm's frame."""
    turn: Matrix
    """(3, 3), from the C-arm's frame to the volume's."""

    @property
    def beam(self) -> Matrix:
        """(3,), in the volume."""
        return np.asarray(self.turn[:, 2])


@dataclass(frozen=True, slots=True)
class Slid:
    """What an X-ray says of the marker."""

    mm: float
    """How far it slid on the patient within the last seconds."""
    hint: bool
    """Whether that is one X-ray's word alone, or chance more than once in hours."""


class Sliding:
    """The last seconds of X-rays, and those before the marker last moved.

    Args:
        source_sigma_mm: 1-sigma of the source's place by calibration; 0: not stated.
    """

    def __init__(self, source_sigma_mm: float = 0.0) -> None:
        self._handeye_mm = max(_HANDEYE_MM, _CALIBRATED * source_sigma_mm)
        self._seen: deque[_Seen] = deque(maxlen=_LONGEST)
        self._steps: deque[Matrix] = deque(maxlen=_LONGEST)
        """(6,), rad and mm: from each X-ray to the next, which shows their noise."""
        self._before: tuple[_Seen, ...] = ()
        self._still_s = 0.0

    def forget(self) -> None:
        """Forget all X-rays: the registration is lost."""
        self._seen.clear()
        self._steps.clear()
        self._before = ()

    def moved(self) -> None:
        """The marker moved: only X-rays after this show where it is."""
        self._begin_again(list(self._seen), [], _AFTER_STEP_S)

    def add(
        self,
        timestamp_ns: int,
        volume_from_patient: Matrix,
        volume_from_carm: Matrix,
        covariance: Matrix,
        center_mm: Matrix,
    ) -> Slid | None:
        """Add an X-ray; returns how far the marker slid on the patient; None: not noticeably.

        Args:
            volume_from_patient: as this X-ray shows it, 4x4.
            volume_from_carm: pose by this X-ray, 4x4.
            covariance: 6x6 (rad, mm) of that pose.
            center_mm: (3,), a point of the anatomy in the marker's frame.
        """
        point_mm, turned = g.transform(volume_from_patient, center_mm), np.kron(np.eye(2), volume_from_carm[:3, :3])
        carm_point_mm = g.transform(g.inverse(volume_from_carm), point_mm)
        seen = _Seen(
            timestamp_ns / 1e9,
            volume_from_patient,
            point_mm,
            turned @ covariance @ turned.T,
            carm_point_mm,
            volume_from_carm[:3, :3],
        )
        if self._seen:
            last = self._seen[-1]
            self._steps.append(g.log(volume_from_patient @ g.inverse(last.volume_from_patient), last.point_mm))
        self._seen.append(seen)
        hint: Slid | None = None
        for count in _NEWEST:
            for before, newest in self._groups(count):
                slid = self._compared(before, newest)
                if slid is not None and not slid.hint:
                    self._begin_again(before, newest, _AFTER_SLIDE_S)
                    return slid
                hint = hint or slid
        return hint

    def rested(self) -> None:
        """Where the marker is has been used: from here on it rests there."""
        self._before = ()

    @property
    def settled(self) -> bool:
        """Whether the marker stands still since it moved, as the last X-rays show."""
        if len(self._seen) < _SETTLED or self._seen[-1].at_s - self._seen[0].at_s < self._still_s or self._late():
            return False
        lasting_s = max(self._still_s, self._seen[-1].at_s - self._seen[-_SETTLED].at_s)
        latest = [seen for seen in self._seen if self._seen[-1].at_s - seen.at_s <= lasting_s]
        third = (len(latest) + 1) // 3
        first, last = latest[:third], latest[-third:]
        random, steady = self._uncertainty(first, last, 0)
        limit_mm = np.sqrt(np.linalg.eigvalsh((_STILL_SIGMAS**2 * random + steady)[3:, 3:])[-1])
        step_mm = np.linalg.norm(_mean([seen.point_mm for seen in last]) - _mean([seen.point_mm for seen in first]))
        return float(step_mm) < max(_STILL_MM, float(limit_mm))

    def slip(self, volume_from_patient: Matrix) -> tuple[Matrix, Matrix] | None:
        """How far the marker has moved since it rested, by X-rays before and after.

        Args:
            volume_from_patient: where it rested, 4x4.

        Returns:
            Displacement in the volume's frame, (6,) (rad, mm), of the patient about the anatomy, and its covariance,
            6x6; None if X-rays do not show it well: they are few, or from another direction than those before.
        """
        latest = list(self._seen)[-_SETTLED:]
        if len(self._before) < 2 or len(latest) < 2:
            return None
        rest, point_mm = g.inverse(volume_from_patient), self._before[-1].point_mm
        after, before = (
            _middle([g.log(seen.volume_from_patient @ rest, point_mm) for seen in group])
            for group in (latest, self._before)
        )
        random, steady = self._uncertainty(self._before, latest, 0)
        covariance = random + steady / 3  # a bound, taken to be anywhere within it
        known = float(np.linalg.eigvalsh(covariance[3:, 3:])[-1]) <= _KNOWN_MM**2
        return (after - before, covariance) if known else None

    # --- inside ----------------------------------------------------------------------------------

    def _late(self) -> bool:
        """Whether X-rays that show the past would show this move: it lies along a motion that goes on.

        Where the anatomy goes evenly through the C-arm's frame, pictures of a while ago show it displaced against
        tracking, by its way of that while.
        """
        if not self._before:
            return False
        now_s = self._seen[-1].at_s
        lately = [seen for seen in self._seen if now_s - seen.at_s <= _LATELY_S]
        speed = self._seen[-1].turn @ _speed_mm_per_s(lately)
        squared = float(speed @ speed)
        if len(lately) < 2 or squared < _MOVES_MM_PER_S**2:
            return False
        moved_mm = _middle([seen.point_mm for seen in lately[-_SETTLED:]]) - _middle(
            [seen.point_mm for seen in self._before]
        )
        mm, delay_s = float(np.linalg.norm(moved_mm)), float(moved_mm @ speed) / squared
        rest_mm = float(np.linalg.norm(moved_mm - delay_s * speed))
        return mm > _ALONG_MM and abs(delay_s) <= _LATEST_S and rest_mm <= max(_ALONG_MM, _ALONG * mm)

    def _begin_again(self, before: Sequence[_Seen], newest: Sequence[_Seen], still_s: float) -> None:
        if not self._before:
            self._before = tuple(before)[-_MOST:]
        self._still_s = still_s
        self._seen.clear()
        self._seen.extend(newest)

    def _groups(self, count: int) -> list[tuple[list[_Seen], list[_Seen]]]:
        """The newest X-rays, so many, and those to compare them with."""
        seen = list(self._seen)
        earlier, newest = seen[:-count], seen[-count:]
        now_s = seen[-1].at_s
        groups = []
        for older_s, younger_s in _BEFORE_S:
            groups.append([each for each in earlier if older_s < now_s - each.at_s <= younger_s][-_MOST:])
        if len(groups[0]) < _FEWEST:
            groups[0] = [each for each in earlier if now_s - each.at_s <= _SELDOM_S][-_FEWEST:]
        return [(group, newest) for group in groups if len(group) >= _FEWEST]

    def _compared(self, before: list[_Seen], newest: list[_Seen]) -> Slid | None:
        """How far two groups are apart; None if what stands still explains it."""
        count = len(newest)
        step_mm = _middle([seen.point_mm for seen in newest]) - _middle([seen.point_mm for seen in before])
        apart_mm = float(np.linalg.norm(step_mm))
        if apart_mm < _LEAST_MM.get(count, _LEAST_OF_MORE_MM):
            return None
        random, steady = self._uncertainty(before, newest, count)
        uncertainty = (random + steady / _GATE)[3:, 3:]
        distance = float(step_mm @ np.linalg.solve(uncertainty, step_mm))
        if distance <= _HINT_GATE:
            return None
        return Slid(apart_mm, hint=count == 1 or distance <= _GATE)

    def _uncertainty(self, before: Sequence[_Seen], after: Sequence[_Seen], without: int) -> tuple[Matrix, Matrix]:
        """Of the difference between two groups if nothing moved, 6x6 (rad, mm), in the volume's frame.

        Returns:
            Covariance of what is random; and square of bounds on what is steady.
        """
        random = _MEDIAN * self._noise(without) * (1 / len(before) + 1 / len(after))
        turned = _mean([seen.beam for seen in after]) - _mean([seen.beam for seen in before])
        now = list(self._seen)[-max(2, len(after)) :]  # one X-ray alone shows no speed
        quick_mm_per_s = max(abs(_speed_mm_per_s(now) - _speed_mm_per_s(before)))
        steady = np.zeros((6, 6))
        steady[:3, :3] = _HANDEYE_RAD**2 * float(turned @ turned) * np.eye(3)
        even_mm2 = _SLOW_MM**2 + self._handeye_mm**2 * float(turned @ turned) + (_TIMING_S * quick_mm_per_s) ** 2
        steady[3:, 3:] = even_mm2 * np.eye(3) + _BEAM_MM**2 * np.outer(turned, turned)
        return random, steady

    def _noise(self, without: int) -> Matrix:
        """Covariance (6, 6) of one X-ray's noise, by how X-rays differ from those right before.

        A few X-rays show it poorly, so that what registration expects counts as some more.

        Args:
            without: so many of the newest, which may have moved.
        """
        expected = self._seen[-1].covariance + np.diag([_EXPECTED_RAD**2] * 3 + [_EXPECTED_MM**2] * 3)
        steps = np.array(list(self._steps)[: len(self._steps) - without]).reshape(-1, 6)
        return np.asarray((steps.T @ steps / 2 + _EXPECTED * expected) / (len(steps) + _EXPECTED))


def _speed_mm_per_s(group: Sequence[_Seen]) -> Matrix:
    """(3,): of the anatomy through the C-arm's frame."""
    return (group[-1].carm_point_mm - group[0].carm_point_mm) / max(group[-1].at_s - group[0].at_s, 1e-3)


def _mean(values: list[Matrix]) -> Matrix:
    return np.asarray(np.mean(values, axis=0))


def _middle(values: list[Matrix]) -> Matrix:
    """The median: one X-ray that is off does not move it. (NumPy's takes three to five times as long for so few.)"""
    ordered = np.sort(np.array(values), axis=0)
    return np.asarray((ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2)
