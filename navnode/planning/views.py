"""How a C-arm looks at a patient, in the angles of its display, and how it would have to turn to look along a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.types import Matrix, Plan

__all__ = ["Angles", "NextView", "angles_of", "direction_of", "next_view"]

_THERE_RAD = np.deg2rad(3.0)
"""A C-arm that is so close looks along the plan."""


@dataclass(frozen=True)
class Angles:
    """Of the principal ray about the patient: LAO positive, RAO negative; cranial positive, caudal negative. 0, 0 is a
    ray from back to front (AP on a table with the source below)."""

    lao_rad: float
    cranial_rad: float

    def __str__(self) -> str:
        lao, cranial = np.rad2deg([self.lao_rad, self.cranial_rad])
        sides = "LAO" if lao >= 0 else "RAO", "cranial" if cranial >= 0 else "caudal"
        return f"{sides[0]} {abs(lao):.0f}°, {sides[1]} {abs(cranial):.0f}°"


def angles_of(direction: Matrix) -> Angles:
    """Angles of a principal ray's direction, (3,), RAS."""
    right, anterior, superior = direction / np.linalg.norm(direction)
    return Angles(float(np.arctan2(-right, anterior)), float(np.arcsin(np.clip(superior, -1, 1))))


def direction_of(angles: Angles) -> Matrix:
    """The principal ray's direction, (3,), RAS, unit length."""
    level = np.cos(angles.cranial_rad)
    return np.array([-np.sin(angles.lao_rad) * level, np.cos(angles.lao_rad) * level, np.sin(angles.cranial_rad)])


@dataclass(frozen=True)
class NextView:
    """Where the C-arm must go."""

    angles: Angles
    turn_lao_rad: float
    """From where it is; negative: towards RAO."""
    turn_cranial_rad: float
    """Negative: towards caudal."""
    off_rad: float
    """Between the ray now and then."""

    @property
    def there(self) -> bool:
        """Whether it is there, to 3 degrees."""
        return bool(self.off_rad < _THERE_RAD)

    def __str__(self) -> str:
        if self.there:
            return f"there: {self.angles}"
        turns = []
        lao, cranial = np.rad2deg([self.turn_lao_rad, self.turn_cranial_rad])
        if abs(lao) >= 1:
            turns.append(f"{abs(lao):.0f}° {'LAO' if lao > 0 else 'RAO'}")
        if abs(cranial) >= 1:
            turns.append(f"{abs(cranial):.0f}° {'cranial' if cranial > 0 else 'caudal'}")
        return f"turn {' and '.join(turns) or 'a little'}, to {self.angles}"


def next_view(plan: Plan, volume_from_carm: Matrix) -> NextView:
    """The view along a plan, from whichever of its two sides the C-arm is closer to now."""
    along = np.array(plan.target_mm) - np.array(plan.entry_mm)
    along /= np.linalg.norm(along)
    ray = volume_from_carm[:3, 2]
    wanted = along if along @ ray >= 0 else -along
    now, then = angles_of(ray), angles_of(wanted)
    turn = (then.lao_rad - now.lao_rad + np.pi) % (2 * np.pi) - np.pi
    off = float(np.arccos(np.clip(ray @ wanted / np.linalg.norm(ray), -1, 1)))
    return NextView(then, float(turn), then.cranial_rad - now.cranial_rad, off)
