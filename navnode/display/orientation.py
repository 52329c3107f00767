"""What a C-arm's view is called, and which way the patient lies on its pictures."""

from __future__ import annotations

import numpy as np

from navnode.planning.views import angles_of
from navnode.types import Matrix

__all__ = ["letters", "view_name"]

_POSITIVE, _NEGATIVE = "RAS", "LPI"
_OBLIQUE = np.sin(np.deg2rad(25.0))
"""A direction that leans farther towards a second axis is named after both."""


def view_name(volume_from_carm: Matrix) -> str:
    """Name of a direction of view: AP, PA, lateral, or angles LAO/RAO and cranial/caudal, as on a C-arm."""
    angles = angles_of(volume_from_carm[:3, 2])
    turn, tilt = np.rad2deg([angles.lao_rad, angles.cranial_rad]).tolist()
    if abs(turn) < 8:
        name = "AP"
    elif abs(abs(turn) - 90) < 8:
        name = "lateral"
    elif abs(turn) > 172:
        name = "PA"
    else:
        name = f"{'LAO' if turn > 0 else 'RAO'} {abs(turn):.0f}°"
    return name if abs(tilt) < 4 else f"{name}, {'cranial' if tilt > 0 else 'caudal'} {abs(tilt):.0f}°"


def letters(volume_from_carm: Matrix) -> list[str]:
    """Patient's sides at a picture's left, right, top and bottom; two letters where it is oblique (DICOM's Patient
    Orientation, PS3.3 C.7.6.1.1.1, with S and I for head and feet).

    Args:
        volume_from_carm: 4x4; +x along a picture's rows, +y down its columns.
    """
    right, down = volume_from_carm[:3, 0], volume_from_carm[:3, 1]
    return [_letters(direction) for direction in (-right, right, -down, down)]


def _letters(direction: Matrix) -> str:
    along = direction / np.linalg.norm(direction)
    largest_first = sorted(range(3), key=lambda axis: -abs(along[axis]))[:2]
    named = [axis for place, axis in enumerate(largest_first) if not place or abs(along[axis]) > _OBLIQUE]
    return "".join((_POSITIVE if along[axis] > 0 else _NEGATIVE)[axis] for axis in named)
