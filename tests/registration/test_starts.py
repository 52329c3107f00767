"""Starts by name and by landmarks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.registration.starts import STATIONS_DEG, landmark_pose, station_poses
from navnode.simulation.scenario import carm_of_size
from navnode.types import Volume

CARM = carm_of_size(512)


def volume(height_mm: int) -> Volume:
    size = (height_mm // 10, 20, 20)
    index = np.diag([10.0, 10.0, 10.0, 1.0])
    index[:3, 3] = (-30.0, 55.0, -400.0)
    return Volume(np.zeros(size, np.float32), index, "a box")


@pytest.mark.parametrize("name", STATIONS_DEG)
def test_a_station_looks_at_the_volume(name):
    box = volume(200)
    (pose,) = station_poses(name, box, CARM)
    assert g.is_rigid(pose)
    aimed = pose[:3, 3] + pose[:3, 2] * np.linalg.norm(box.center_mm - pose[:3, 3])
    assert np.linalg.norm(aimed - box.center_mm) < 20.0


def test_ap_shows_the_patient_as_radiologists_hang_it():
    (pose,) = station_poses("ap", volume(200), CARM)
    assert pose[:3, 0] @ (1, 0, 0) > 0.999 and pose[:3, 1] @ (0, 0, -1) > 0.999 and pose[:3, 2] @ (0, 1, 0) > 0.999


def test_a_long_volume_is_begun_at_several_heights():
    poses = station_poses("lateral", volume(600), CARM)
    heights = [pose[2, 3] for pose in poses]
    assert len(poses) == 4 and np.diff(heights).max() < 160.0


def test_an_unknown_station_is_named():
    with pytest.raises(ConfigError, match=r"Swimmer.*AP"):
        station_poses("Swimmer", volume(200), CARM)


LANDMARKS = {"a": (0, 0, 0), "b": (60, 5, -10), "c": (-20, 40, 15), "d": (10, -30, 55), "e": (-45, -20, -30)}


def seen(pose: np.ndarray, names: str = "abcde", noise_px: float = 0.0) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(1)
    points = np.array([LANDMARKS[name] for name in names], np.float64)
    pixels = g.project(CARM, g.inverse(pose), points) + rng.normal(0, noise_px, (len(names), 2))
    return {name: (float(u), float(v)) for name, (u, v) in zip(names, pixels, strict=True)}


@given(st.floats(-180, 180), st.floats(-40, 40), st.floats(-60, 60), st.floats(600, 850))
def test_landmarks_give_the_pose(orbital, angulation, roll, distance):
    true = g.pose_at(
        np.array([5.0, -8.0, 3.0]), distance, orbital_deg=orbital, angulation_deg=angulation, roll_deg=roll
    )
    found = landmark_pose(CARM, LANDMARKS, seen(true))
    assert np.abs(found - true).max() < 0.5


def test_a_click_beside_the_point_is_within_reach():
    true = g.pose_at(np.zeros(3), 700.0, orbital_deg=30)
    found = landmark_pose(CARM, LANDMARKS, seen(true, noise_px=3.0))
    off = g.log(g.inverse(true) @ found, (0, 0, 700.0))
    assert np.rad2deg(np.linalg.norm(off[:3])) < 15 and np.linalg.norm(off[3:5]) < 25 and abs(off[5]) < 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: {k: pixels[k] for k in "abc"}, "3 are in both"),
        (lambda pixels: pixels | {"c": (pixels["c"][0] + 150, pixels["c"][1])}, "from where the others put it"),
    ],
)
def test_landmarks_that_do_not_do(change, message):
    with pytest.raises(ConfigError, match=message):
        landmark_pose(CARM, LANDMARKS, change(seen(g.pose_at(np.zeros(3), 700.0, orbital_deg=30))))


def test_landmarks_on_a_line_leave_the_pose_open():
    points = {name: (10.0 * k, 5.0 * k, 0.0) for k, name in enumerate("abcd")}
    pixels = {name: (100.0 + 20 * k, 200.0) for k, name in enumerate("abcd")}
    with pytest.raises(ConfigError, match="on a line"):
        landmark_pose(CARM, points, pixels)
