"""How far a tool's tip is from a point that somebody knows and touches with it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from navnode.loop.volume import Volumes
from navnode.planning.deviation import inside, tip_covariance
from navnode.registration.over_time import RegistrationOverTime
from navnode.types import Matrix, Output, Status, ToolPose, Validity, invalid

__all__ = ["Touches"]

_HELD_NS, _SLOWEST_NS = 500_000_000, 2_000_000_000
_LEAST = 5
"""Poses within the first time, or of a slow tracker the second: their mean is a place and not one sample's noise."""
_STILL_MM = 1.0
"""A tip that a hand rests on a point moves no farther than this from its mean."""
_POINT_SIGMA_MM = 0.5
"""Of a point that somebody sets on a slice, or knows by its coordinates, in each direction."""
_NORMAL_95 = 1.645


class Touches:
    """Every tool's tip in the last half second."""

    def __init__(self) -> None:
        self._tips: dict[str, _Tip] = {}

    def on_outputs(self, outputs: list[Output]) -> None:
        """Keep the tips of overlays; those of a tool that is not usable are no longer where it is."""
        for output in outputs:
            if isinstance(output, ToolPose):
                self._tips.setdefault(output.tool, _Tip()).add(output)

    def check(
        self, tool: str, point_mm: Matrix, patient: RegistrationOverTime, volume: Volumes, now_ns: int
    ) -> tuple[bool, str]:
        """Measure how far a tool's tip, held still, is from a point (3,) of the volume (RAS, mm).

        Returns:
            Whether it was measured; the distance and what is expected of it, or why it was not measured.
        """
        tip = self._tips.get(tool, _Tip())
        if not tip.validity.usable or patient.filter is None:
            return False, f"{tool} is not shown: {tip.validity.reason}"
        if volume.current is None or not inside(point_mm[None], volume.current).all():
            return False, "the point lies outside the volume"
        placed_mm = np.array(tip.recent_mm(now_ns))
        if len(placed_mm) < _LEAST:
            return False, f"{tool} has been seen for too short a time: hold it on the point for a second"
        mean_mm = placed_mm.mean(axis=0)
        moved_mm = np.linalg.norm(placed_mm - mean_mm, axis=1).max()
        if moved_mm > _STILL_MM:
            return False, f"{tool} moved by {moved_mm:.1f} mm while its tip was measured: hold it still on the point"
        known = patient.filter
        _, covariance = tip_covariance(known.covariance, known.rotation_center_mm, known.volume_from_patient, mean_mm)
        off_mm, up_to_mm = float(np.linalg.norm(mean_mm - point_mm)), _bound_mm(covariance)
        doubt = f" ({tip.validity.reason})" if tip.validity.status is Status.DEGRADED else ""
        if off_mm > up_to_mm:
            return True, f"{tool} is {off_mm:.1f} mm from the point, more than the {up_to_mm:.1f} mm expected{doubt}"
        return True, f"{tool} is {off_mm:.1f} mm from the point, expected up to {up_to_mm:.1f} mm{doubt}"


@dataclass(slots=True)
class _Tip:
    validity: Validity = field(default_factory=lambda: invalid("no pose from the tracker"))
    placed: deque[tuple[int, Matrix]] = field(default_factory=lambda: deque(maxlen=256))
    """When each pose came, and where it put the tip, (3,) mm."""

    def add(self, pose: ToolPose) -> None:
        self.validity = pose.validity
        if pose.volume_from_tool is None:
            self.placed.clear()
        else:
            self.placed.append((pose.received_ns, pose.volume_from_tool[:3, 3]))

    def recent_mm(self, now_ns: int) -> list[Matrix]:
        """Where it was in the last half second, (3,) each; of a slow tracker the last few poses."""
        ages = [now_ns - received_ns for received_ns, _ in self.placed]
        held = max(sum(age <= _HELD_NS for age in ages), min(_LEAST, sum(age <= _SLOWEST_NS for age in ages)))
        return [at_mm for _, at_mm in list(self.placed)[len(ages) - held :]]


def _bound_mm(tip_mm2: Matrix) -> float:
    """The distance (mm) that 95 % of touches stay under; ``tip_mm2`` (3, 3) is the tip's covariance.

    The squared distance is a sum of squares of three sizes; one chi-square of the same mean and variance takes its
    place (Satterthwaite 1946), and Wilson and Hilferty's normal one (1931) that one's.
    """
    sizes = np.linalg.eigvalsh(tip_mm2) + _POINT_SIGMA_MM**2
    mean, freedom = sizes.sum(), sizes.sum() ** 2 / (sizes**2).sum()
    spread = 2 / (9 * freedom)
    return float(np.sqrt(mean * (1 - spread + _NORMAL_95 * np.sqrt(spread)) ** 3))
