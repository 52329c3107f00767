"""How a tool deviates from a plan, and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.types import Matrix, Plan, Volume

__all__ = ["Deviation", "deviation", "flaw", "inside", "tip_covariance"]

_TOOL_SIGMA_RAD, _TOOL_SIGMA_MM = 0.002, 0.3
"""Of a tool's own pose at its tip: tracker and pivot calibration as docs/calibration.md asks for them."""
_INTERVAL = 1.96
_SHORTEST_MM, _LONGEST_MM = 1.0, 500.0
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Deviation:
    """Of a tool from a plan; intervals are half of the 95 % ones."""

    lateral_mm: float
    """Distance of the tip from the line through entry and target."""
    angle_rad: float
    """Between the tool's axis and that line."""
    depth_mm: float
    """Way that is left along the line; negative beyond the target."""
    lateral_95_mm: float
    angle_95_rad: float
    depth_95_mm: float


def flaw(plan: Plan, volume: Volume | None) -> str:
    """Why a plan cannot be used in a volume, or ''."""
    ends = np.array([plan.entry_mm, plan.target_mm])
    if not plan.name.strip() or len(plan.name) > _LONGEST_NAME or not plan.name.isprintable():
        return f"a plan's name has 1 to {_LONGEST_NAME} printable characters"
    if plan.name != " ".join(plan.name.split()):  # two plans must not read alike
        return f"plan {plan.name!r}: its name begins or ends with a space, or has two in a row"
    if not np.isfinite(ends).all():
        return f"plan {plan.name!r}: entry or target is not a number"
    length_mm = float(np.linalg.norm(ends[1] - ends[0]))
    if volume is None:
        return f"plan {plan.name!r}: there is no volume that it could lie in yet"
    within = inside(ends, volume)
    if not within.all():
        which = " and ".join(np.array(["entry", "target"])[~within])
        return f"plan {plan.name!r}: its {which} lies outside the volume{_hint(ends, volume)}"
    if length_mm < _SHORTEST_MM:
        if length_mm > 0 and inside(ends * 1000, volume).all():
            return f"plan {plan.name!r}: entry and target are nearly one point: are its positions in metres?"
        return f"plan {plan.name!r}: entry and target are one point"
    if length_mm > _LONGEST_MM:
        return f"plan {plan.name!r}: {length_mm:.0f} mm long"
    return ""


def _hint(ends_mm: Matrix, volume: Volume) -> str:
    """What else the numbers may be, if that would put both ends inside."""
    if inside(ends_mm * (-1, -1, 1), volume).all():
        return ", but would lie in it as LPS: are its positions LPS, not RAS?"
    if inside(ends_mm * 1000, volume).all():
        return ", but would lie in it in metres: are its positions in metres?"
    if ((ends_mm >= 0) & (ends_mm <= np.array(volume.voxels.shape[::-1]) - 1)).all():
        return ": are its positions voxel indices?"
    return ": is it of another CT?"


def inside(points_mm: Matrix, volume: Volume) -> npt.NDArray[np.bool_]:
    """Which points (N, 3), RAS in mm, lie in a volume's voxels, (N,)."""
    index = g.transform(np.asarray(np.linalg.inv(volume.volume_from_index), np.float64), points_mm)
    return np.asarray(((index >= -0.5) & (index <= np.array(volume.voxels.shape[::-1]) - 0.5)).all(axis=1))


def tip_covariance(
    covariance: Matrix, center_mm: Matrix, volume_from_patient: Matrix, tip_mm: Matrix
) -> tuple[Matrix, Matrix]:
    """Covariances, in the volume, of a tool's direction (rad^2) and of its tip (mm^2), 3x3 each.

    Args:
        covariance: 6x6 (rad, mm), of the right perturbation of ``volume_from_patient`` about its rotation center.
        center_mm: (3,), that center, in the patient marker's frame.
        tip_mm: (3,), where the tip is in the volume.
    """
    rotation = volume_from_patient[:3, :3]
    lever_mm = g.transform(g.inverse(volume_from_patient), tip_mm) - center_mm
    moves = rotation @ np.hstack([-g.skew(lever_mm), np.eye(3)])
    tip = moves @ covariance @ moves.T + _TOOL_SIGMA_MM**2 * np.eye(3)
    direction = rotation @ covariance[:3, :3] @ rotation.T + _TOOL_SIGMA_RAD**2 * np.eye(3)
    return direction, tip


def deviation(plan: Plan, volume_from_tool: Matrix, direction_rad2: Matrix, tip_mm2: Matrix) -> Deviation:
    """How a tool deviates from a plan.

    Args:
        volume_from_tool: 4x4; origin at the tip, +z along the tool's axis in the direction it advances.
        direction_rad2, tip_mm2: as :func:`tip_covariance`.
    """
    entry, target = np.array(plan.entry_mm), np.array(plan.target_mm)
    along = (target - entry) / np.linalg.norm(target - entry)
    tip, axis = volume_from_tool[:3, 3], volume_from_tool[:3, 2]
    off = tip - entry
    off = off - (off @ along) * along
    return Deviation(
        lateral_mm=float(np.linalg.norm(off)),
        angle_rad=g.angle_between_rad(axis, along),
        depth_mm=float((target - tip) @ along),
        lateral_95_mm=_INTERVAL * _largest_across(tip_mm2, along),
        angle_95_rad=_INTERVAL * _largest_across(direction_rad2, axis),
        depth_95_mm=_INTERVAL * float(np.sqrt(along @ tip_mm2 @ along)),
    )


def _largest_across(covariance: Matrix, along: Matrix) -> float:
    """The largest sigma perpendicular to a direction: a distance's sign, and so its direction, may be noise."""
    across = np.eye(3) - np.outer(along, along)
    return float(np.sqrt(np.linalg.eigvalsh(across @ covariance @ across)[-1]))
