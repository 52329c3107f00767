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
_BEFORE_S = ((0.45, 3.0, 6.0), (2.5, 5.0, 10.0))
"""X-rays that they are compared with: older and younger than so many seconds, and above which squared Mahalanobis
distance the two differ. Without a fault that stays below 2.2 (drills' phantom, C-arm moving)."""
_FEWEST, _MOST = 4, 12
"""Of them."""
_LEAST_MM = 0.6
_NOISE_MM = 0.12
"""Of tracker and registration together, across the beam."""
_SLOW_MM = 0.1
"""What else changes within seconds."""
_BEAM_MM, _HANDEYE_MM = 1.0, 0.35
"""Steady errors along the beam, and of the C-arm's calibration, per unit by which the direction changes."""
_TIMING_S = 0.01
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
        slid_mm = 0.0
        for older_s, younger_s, gate in _BEFORE_S:
            before = self._between(older_s, younger_s)[-_MOST:]
            if len(before) >= _FEWEST:
                slid_mm = max(slid_mm, _apart_mm(before, newest, gate))
        return slid_mm

    def _between(self, older_s: float, younger_s: float) -> list[_Seen]:
        now_s = self._seen[-1].at_s
        return [seen for seen in self._seen if older_s < now_s - seen.at_s <= younger_s]


def _apart_mm(before: list[_Seen], newest: list[_Seen], gate: float) -> float:
    """How far two groups are apart; 0 if nothing that stands still explains it."""
    step_mm = _middle([seen.point_mm for seen in newest]) - _middle([seen.point_mm for seen in before])
    apart_mm = float(np.linalg.norm(step_mm))
    if apart_mm < _LEAST_MM:
        return 0.0
    distance = float(step_mm @ np.linalg.solve(_uncertainty(before, newest), step_mm))
    return apart_mm if distance > gate else 0.0


def _uncertainty(before: list[_Seen], newest: list[_Seen]) -> Matrix:
    """Covariance (3, 3), mm², of the difference between two groups if nothing moved."""
    steps_mm = np.diff([seen.point_mm for seen in (*before, *newest)], axis=0)
    noise_mm2 = max(_NOISE_MM**2, float((steps_mm**2).sum(axis=1).mean()) / 6)
    seen_mm2 = np.zeros((3, 3))
    for group in (before, newest):
        seen_mm2 += _mean([seen.covariance for seen in group]) / len(group)
    turned = _mean([seen.beam for seen in newest]) - _mean([seen.beam for seen in before])
    quick_mm_per_s = max(abs(_speed_mm_per_s(newest) - _speed_mm_per_s(before)))
    even_mm2 = noise_mm2 * (1 / len(before) + 1 / len(newest)) + _SLOW_MM**2
    even_mm2 += _HANDEYE_MM**2 * float(turned @ turned) + (_TIMING_S * quick_mm_per_s) ** 2
    return np.asarray(seen_mm2 + even_mm2 * np.eye(3) + _BEAM_MM**2 * np.outer(turned, turned))


def _speed_mm_per_s(group: list[_Seen]) -> Matrix:
    """(3,): of the anatomy through the C-arm's frame."""
    return (group[-1].carm_point_mm - group[0].carm_point_mm) / max(group[-1].at_s - group[0].at_s, 1e-3)


def _mean(values: list[Matrix]) -> Matrix:
    return np.asarray(np.mean(values, axis=0))


def _middle(values: list[Matrix]) -> Matrix:
    """One X-ray that is off does not move it."""
    return np.asarray(np.median(values, axis=0))
