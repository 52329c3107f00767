"""Voxels of the finest level: a scanner's own, but where rays would cross too many."""

import numpy as np
import pytest

from navnode import geometry as g
from navnode.registration import ImageRegistration
from navnode.types import Volume


def filled(shape: tuple[int, int, int], spacing_mm: float, turned: float = 0.0) -> Volume:
    """Soft tissue (k, j, i), its k along the body unless it is turned about i."""
    grid = g.rigid(g.rotation_exp(np.array([turned, 0.0, 0.0])), (0.0, 0.0, 0.0)) @ np.diag([spacing_mm] * 3 + [1.0])
    return Volume(np.full(shape, 40.0, np.float32), grid)


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (filled((60, 100, 120), 0.85), (60, 100, 120)),
        (filled((400, 100, 120), 0.85), (400, 100, 120)),  # long, and thin to rays
        (filled((60, 100, 400), 0.85), (36, 61, 243)),  # 1.4 mm
        (filled((100, 400, 120), 0.85, turned=np.pi / 2), (100, 400, 120)),  # long along j, which is the body's axis
        (filled((40, 400, 400), 1.4), (40, 400, 400)),  # no finer than needed
    ],
)
def test_only_wide_cross_sections_get_larger_voxels(volume, expected):
    assert ImageRegistration(volume, 1).fine.projector.shape == expected


def test_air_is_left_out():
    volume = filled((60, 100, 120), 1.5)
    volume.voxels[:, :40] = -1000
    registration = ImageRegistration(volume, 1)
    k, j, i = registration.fine.projector.shape
    assert (k, i) == (60, 120) and 60 < j <= 60 + 11  # with two blocks of 8 mm at most
