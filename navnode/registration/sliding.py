"""Detects that the patient's marker slides on the patient, too slowly for tracking to show it.

Breathing and the table move marker and bone alike; only X-rays show one move against the other. Where the last few show
the patient, relative to the marker, is compared with where those of a second before did. What X-rays of one direction
have in common, above all the error along their beam, cancels in that difference, so it shows far less than a single
X-ray's error: a tenth of a millimetre across the beam.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["Sliding"]

_NEWEST_S, _NEWEST = 0.45, 3
"""X-rays that show where it is now: the last ones, not older than that."""
_BEFORE_S = ((0.45, 3.0), (2.5, 5.0))
"""X-rays that they are compared with: older and younger than so many seconds."""
_FEWEST, _MOST = 4, 12
"""Of them."""
_GATE = 28.0
"""Squared Mahalanobis distance above which the two differ: chance reaches it once in 250 000 X-rays (chi squared, three
degrees of freedom), which is once in hours."""
_MEDIAN = 1.5
"""Variance of a median by that of a mean, at most."""
_LEAST_MM = 0.6
_EXPECTED, _EXPECTED_MM = 4, 0.12
"""Tracker's noise is taken to be this, beside registration's own, until more X-rays than so many show it: a marker far
from the anatomy, as a C-arm's, shows it there with three times this."""
_SLOW_MM = 0.25
"""What else changes within seconds. This and what follows are steady rather than random, therefore bounds, which reach
the gate by themselves."""
_BEAM_MM, _HANDEYE_MM = 2.5, 0.9
"""Errors along the beam, and of the C-arm's calibration, per unit by which the direction changes."""
_TIMING_S = 0.025
"""Error of pairing X-rays with poses: it shows where the C-arm is quick."""
_LONGEST = 160
"""Number of X-rays kept: five seconds of thirty a second."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at_s: float
    point_mm: Matrix
    """(3,), in the volume: where the marker's pose puts a point of the anatomy."""
    covariance: Matrix
    """(3, 3), mm²."""
    beam: Matrix
    """(3,), in the volume."""
    carm_point_mm: Matrix
    """(3,), the same point in the C-arm's frame."""


class Sliding:
    """The last seconds of X-rays."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque(maxlen=_LONGEST)

    def forget(self) -> None:
        """Forget all X-rays: the marker is known to have moved, or the registration is lost."""
        self._seen.clear()

    def slid_mm(
        self,
        timestamp_ns: int,
        volume_from_patient: Matrix,
        volume_from_carm: Matrix,
        covariance: Matrix,
        center_mm: Matrix,
    ) -> float:
        """Add an X-ray; returns how far the marker slid on the patient within the last seconds, mm; 0: not noticeably.

        Args:
            volume_from_patient: as this X-ray shows it, 4x4.
            volume_from_carm: pose by this X-ray, 4x4.
            covariance: 6x6 (rad, mm) of that pose.
            center_mm: (3,), a point of the anatomy in the marker's frame.
        """
        point_mm, turned = g.transform(volume_from_patient, center_mm), volume_from_carm[:3, :3]
        self._seen.append(
            _Seen(
                timestamp_ns / 1e9,
                point_mm,
                turned @ covariance[3:, 3:] @ turned.T,
                turned[:, 2],
                g.transform(g.inverse(volume_from_carm), point_mm),
            )
        )
        newest = self._between(-1.0, _NEWEST_S)[-_NEWEST:]
        if len(newest) < _NEWEST:
            return 0.0
        slid_mm, noise_mm2 = 0.0, self._noise_mm2()
        for older_s, younger_s in _BEFORE_S:
            before = self._between(older_s, younger_s)[-_MOST:]
            if len(before) >= _FEWEST:
                slid_mm = max(slid_mm, _apart_mm(before, newest, noise_mm2))
        return slid_mm

    def _noise_mm2(self) -> Matrix:
        """Covariance (3, 3) of one X-ray's noise, by how X-rays differ from those right before: slides as slow as these
        hardly change that. A few X-rays show it poorly, so that what registration expects counts as some more."""
        steps_mm = np.diff([seen.point_mm for seen in self._seen], axis=0)
        expected_mm2 = self._seen[-1].covariance + _EXPECTED_MM**2 * np.eye(3)
        shown_mm2 = steps_mm.T @ steps_mm / 2
        return np.asarray((shown_mm2 + _EXPECTED * expected_mm2) / (len(steps_mm) + _EXPECTED))

    def _between(self, older_s: float, younger_s: float) -> list[_Seen]:
        now_s = self._seen[-1].at_s
        return [seen for seen in self._seen if older_s < now_s - seen.at_s <= younger_s]


def _apart_mm(before: list[_Seen], newest: list[_Seen], noise_mm2: Matrix) -> float:
    """How far two groups are apart; 0 if nothing that stands still explains it."""
    step_mm = _middle([seen.point_mm for seen in newest]) - _middle([seen.point_mm for seen in before])
    apart_mm = float(np.linalg.norm(step_mm))
    if apart_mm < _LEAST_MM:
        return 0.0
    distance = float(step_mm @ np.linalg.solve(_uncertainty(before, newest, noise_mm2), step_mm))
    return apart_mm if distance > _GATE else 0.0


def _uncertainty(before: list[_Seen], newest: list[_Seen], noise_mm2: Matrix) -> Matrix:
    """Covariance (3, 3), mm², of the difference between two groups if nothing moved."""
    random_mm2 = _MEDIAN * noise_mm2 * (1 / len(before) + 1 / len(newest))
    turned = _mean([seen.beam for seen in newest]) - _mean([seen.beam for seen in before])
    quick_mm_per_s = max(abs(_speed_mm_per_s(newest) - _speed_mm_per_s(before)))
    even_mm2 = _SLOW_MM**2 + _HANDEYE_MM**2 * float(turned @ turned) + (_TIMING_S * quick_mm_per_s) ** 2
    steady_mm2 = even_mm2 * np.eye(3) + _BEAM_MM**2 * np.outer(turned, turned)
    return np.asarray(random_mm2 + steady_mm2 / _GATE)


def _speed_mm_per_s(group: list[_Seen]) -> Matrix:
    """(3,): of the anatomy through the C-arm's frame."""
    return (group[-1].carm_point_mm - group[0].carm_point_mm) / max(group[-1].at_s - group[0].at_s, 1e-3)


def _mean(values: list[Matrix]) -> Matrix:
    return np.asarray(np.mean(values, axis=0))


def _middle(values: list[Matrix]) -> Matrix:
    """One X-ray that is off does not move it."""
    return np.asarray(np.median(values, axis=0))
