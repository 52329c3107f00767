"""Filtered back-projection, and the weights of its views."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import Projector
from navnode.reconstruction import Method, reconstruct
from navnode.reconstruction.filtered import rotation_axis
from navnode.types import View
from tests.reconstruction.balls import CARM, ball


@pytest.mark.parametrize("roll_deg", [0.0, 37.0])
def test_filtered_back_projection_finds_attenuation_for_any_roll_of_the_detector(roll_deg):
    truth = ball()
    turned = g.rigid(g.rotation_exp(np.array([0.0, 0.0, np.deg2rad(roll_deg)])))
    projector = Projector(truth)
    given = []
    for angle in np.deg2rad(np.arange(0, 180, 2)):
        volume_from_carm = g.rigid(g.rotation_exp(np.array([0.0, angle, 0.0]))) @ g.rigid(None, (0, 0, -650.0)) @ turned
        given.append(View(projector.render(CARM, volume_from_carm), CARM, volume_from_carm))
    made = reconstruct(given, method=Method.FDK, size=64, spacing_mm=2.0)
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    distance = np.sqrt((i - 10) ** 2 + j**2 + (k + 6) ** 2)
    assert made.voxels[distance < 22].mean() == pytest.approx(400.0, abs=40)
    assert made.voxels[(distance > 40) & (distance < 55)].mean() == pytest.approx(-1000.0, abs=60)


def test_views_weigh_as_much_as_the_gaps_beside_them():
    directions = [np.array([np.sin(a), 0.0, np.cos(a)]) for a in np.deg2rad([0, 10, 90, 280])]
    axis, weights = rotation_axis(directions)
    assert abs(axis[1]) == pytest.approx(1.0)
    assert weights.sum() == pytest.approx(np.pi)
    # 280 degrees is as good as 100: the gaps are 10, 80, 10, 80.
    assert np.rad2deg(weights) == pytest.approx([45, 45, 45, 45])
