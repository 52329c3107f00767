"""2D/3D registration from a start that may be far off: try many poses small, follow the best ones."""

from __future__ import annotations

from itertools import product

import numpy as np

from navnode import geometry as g
from navnode.registration.tracking import Fit, Image, ImageRegistration, refine, similarity_at
from navnode.types import Matrix

_SHIFTS_MM = (-24.0, 0.0, 24.0)
_DEPTHS_MM = (-40.0, 0.0, 40.0)
_TURN_RAD = np.deg2rad(9.0)
_FOLLOWED = 6


def _offsets() -> Matrix:
    """Perturbations (M, 6) that cover about +-36 mm across, +-60 mm in depth and +-13 degrees."""
    turns = [np.zeros(3)] + [sign * _TURN_RAD * axis for axis in np.eye(3) for sign in (-1, 1)]
    shifts = [np.array([x, y, z]) for x, y, z in product(_SHIFTS_MM, _SHIFTS_MM, _DEPTHS_MM)]
    return np.array([np.concatenate([turn, shift]) for turn in turns for shift in shifts])


OFFSETS = _offsets()


def find_pose(registration: ImageRegistration, image: Image, start_volume_from_carm: Matrix, pivot_mm: float) -> Fit:
    """The best fit that starts around a rough pose lead to."""
    level, pivot = registration.search_level, (0.0, 0.0, pivot_mm)
    starts = [start_volume_from_carm @ g.exp(xi, pivot) for xi in OFFSETS]
    scores = np.array([similarity_at(level, image, start) for start in starts])
    followed = [refine(level, image, starts[i], pivot_mm) for i in np.argsort(-scores)[:_FOLLOWED]]
    followed.sort(key=lambda fit: -fit.similarity)
    finals = [registration.fit(image, fit.volume_from_carm, pivot_mm) for fit in followed[:2]]
    return max(finals, key=lambda fit: fit.similarity)
