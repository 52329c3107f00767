"""Poses in another unit, or inverted, are questioned; ``--units`` converts them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.handeye import handeye
from calibration.pivot import pivot
from navnode.errors import ConfigError
from navnode.files.meshes import read_mesh, write_mesh
from navnode.types import Mesh
from tests.calibration.scenes import TIP, pivoting, shots
from tests.invoke import run_navnode


def metres(poses, factor=1e-3):
    scaled = poses.copy()
    scaled[:, :3, 3] *= factor
    return scaled


def test_a_tip_far_away_or_a_small_workspace_is_questioned():
    poses = pivoting(120, np.random.default_rng(3))
    assert pivot(poses).passed
    found = pivot(metres(poses))
    assert found.code == "implausible" and "--units m" in found.reason
    found = pivot(np.linalg.inv(poses))
    assert found.code == "implausible" and "inverted" in found.reason
    assert pivot(metres(poses, 10.0)).code == "implausible"
    assert pivot(np.linalg.inv(poses), gates={"length_mm": 3000}).passed  # who knows better may say so


@pytest.mark.parametrize("inverted", [(0,), (1,), (0, 1)])
def test_inverted_poses_of_a_c_arm_never_pass(inverted):
    series = list(shots(14, np.random.default_rng(5))[:2])
    assert handeye(*series).passed
    for which in inverted:
        series[which] = np.linalg.inv(series[which])
    assert not handeye(*series).passed


@pytest.mark.parametrize("scaled", [(0,), (1,), (0, 1)])
def test_poses_of_a_c_arm_in_metres_are_questioned(scaled):
    series = list(shots(14, np.random.default_rng(5))[:2])
    for which in scaled:
        series[which] = metres(series[which])
    found = handeye(*series)
    assert not found.passed and found.code in ("implausible", "residual", "too_many_rejected", "sigma")
    assert (found.code == "implausible" and "--units m" in found.reason) or scaled != (0, 1)


def test_units_convert(tmp_path):
    poses = pivoting(120, np.random.default_rng(3))
    np.save(tmp_path / "poses.npy", metres(poses))
    refused = run_navnode("calibrate", "pivot", str(tmp_path / "poses.npy"), "--json")
    assert refused.returncode == 1 and "--units m" in refused.stderr
    done = run_navnode("calibrate", "pivot", str(tmp_path / "poses.npy"), "--units", "m", "--json")
    assert done.returncode == 0, done.stderr
    assert np.allclose(json.loads(done.stdout)["result"]["tip_mm"], TIP, atol=0.5)
    wrong = run_navnode("calibrate", "pivot", str(tmp_path / "poses.npy"), "--units", "inch")
    assert wrong.returncode == 2 and "inch" in wrong.stderr


def test_surfaces_in_metres_are_questioned(tmp_path):
    corners = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.3]], np.float32)
    write_mesh(Mesh(corners, np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]], np.uint32)), tmp_path / "bone.stl")
    with pytest.raises(ConfigError, match=r"bone\.stl.*--units"):
        read_mesh(tmp_path / "bone.stl")
    assert np.isclose(read_mesh(tmp_path / "bone.stl", "m").vertices_mm.max(), 300)
