"""Pictures of a view, the network's input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from navnode import geometry as g
from navnode.projector.grids import centered_grid
from navnode.reconstruction.features import picture
from navnode.types import CArm, View


@examples(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(-40, 40)] * 3), st.tuples(*[st.floats(0, 127)] * 3))
def test_voxels_project_into_pictures_as_through_the_c_arm(turn, shift, voxel):
    volume_from_carm_turn = g.rigid(g.rotation_exp(np.array(turn)), shift)
    carm = CArm(400, 300, (0.5, 0.4), 1000.0, (180.0, 160.0))
    volume_from_carm = volume_from_carm_turn @ g.rigid(None, (0.0, 0.0, -600.0))
    grid = centered_grid((128,) * 3, 1.5, np.array(volume_from_carm_turn[:3, 3]))
    view = View(np.ones((150, 200), np.float32), carm.binned(2), volume_from_carm)
    rows = picture(view, grid).picture_from_grid @ np.array([*voxel, 1.0])
    u, v = g.project(carm, g.inverse(volume_from_carm), (grid @ [*voxel, 1.0])[None, :3])[0]
    # The picture squeezes 400 pixels into 256; -1..1 runs from edge to edge.
    assert rows[0] / rows[2] == pytest.approx((u + 0.5) / 200 - 1, abs=1e-3)
    assert rows[1] / rows[2] == pytest.approx((v + 0.5) / 200 - 1, abs=1e-3)


def test_pictures_mark_where_nothing_was_measured():
    line = np.ones((96, 128), np.float32)
    line[:, :32] = np.nan
    pose = g.rigid(None, (0.0, 0.0, -600.0))
    made = picture(
        View(line, CArm(128, 96, (2.0, 2.0), 1000.0, (63.5, 47.5)), pose), centered_grid((128,) * 3, 2.0, np.zeros(3))
    )
    measured = made.channels[3]
    assert not measured[:, :62].any() and not measured[194:].any() and measured[2:190, 66:].all()
    assert np.isfinite(made.channels).all() and not made.channels[:3, :, :62].any()
