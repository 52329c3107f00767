"""How far a tool is from a plan, and whether the interval holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navnode import geometry as g
from navnode.planning.deviation import deviation, flaw, tip_covariance
from navnode.types import Plan, Volume

NO_DOUBT = np.zeros((3, 3))
PLAN = Plan("L4 left", (0.0, 0.0, 0.0), (0.0, 40.0, 0.0))


def tool(tip_mm, axis) -> np.ndarray:
    """volume_from_tool with its tip and its +z."""
    z = np.asarray(axis, float) / np.linalg.norm(axis)
    x = np.cross([0.3, 0.2, 0.9], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([x, np.cross(z, x), z], axis=1), tip_mm
    return pose


@pytest.mark.parametrize(
    ("tip_mm", "axis", "lateral_mm", "angle_deg", "depth_mm"),
    [
        ((0, 0, 0), (0, 1, 0), 0, 0, 40),
        ((3, 10, 4), (0, 1, 0), 5, 0, 30),
        ((0, 45, 0), (0, 1, 1), 0, 45, -5),
        ((0, -20, 2), (0, -1, 0), 2, 180, 60),
    ],
)
def test_distance_angle_and_way_left(tip_mm, axis, lateral_mm, angle_deg, depth_mm):
    found = deviation(PLAN, tool(tip_mm, axis), NO_DOUBT, NO_DOUBT)
    assert found.lateral_mm == pytest.approx(lateral_mm, abs=1e-9)
    assert np.rad2deg(found.angle_rad) == pytest.approx(angle_deg, abs=1e-5)
    assert found.depth_mm == pytest.approx(depth_mm)
    assert found.lateral_95_mm == found.angle_95_rad == found.depth_95_mm == 0


vectors = st.tuples(*[st.floats(-50, 50)] * 3)


@settings(max_examples=60, deadline=None)
@given(vectors, vectors, vectors, st.integers(0, 2**31))
def test_it_is_the_same_in_every_frame(entry, target, tip, seed):
    if np.linalg.norm(np.subtract(target, entry)) < 1:
        return
    rng = np.random.default_rng(seed)
    moved = g.exp(rng.normal(size=6) * (1, 1, 1, 80, 80, 80))
    pose = tool(tip, rng.normal(size=3))
    ends = g.transform(moved, np.array([entry, target]))
    here = deviation(Plan("a", entry, target), pose, NO_DOUBT, NO_DOUBT)
    there = deviation(Plan("a", tuple(ends[0]), tuple(ends[1])), moved @ pose, NO_DOUBT, NO_DOUBT)
    assert here.lateral_mm == pytest.approx(there.lateral_mm, abs=1e-6)
    assert here.depth_mm == pytest.approx(there.depth_mm, abs=1e-6)
    assert here.angle_rad == pytest.approx(there.angle_rad, abs=1e-6)


def test_intervals_hold_the_truth():
    """Registrations that err as their covariance says, depth worst, and a tool whose tip is measured to 0.3 mm."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6)) * (0.002, 0.002, 0.002, 0.3, 0.3, 1.0)
    covariance = root.T @ root / 6
    volume_from_patient = g.exp(np.array([0.3, -0.4, 0.2, 10.0, 20.0, 30.0]))
    center_mm, tip_mm = np.array([5.0, -10.0, 20.0]), np.array([40.0, 15.0, 60.0])
    true = volume_from_patient @ tool(tip_mm, (0.2, 0.9, -0.3))
    plan = Plan("p", tuple(true[:3, 3] + (4, 1, -3)), tuple(true[:3, 3] + (6, 30, -12)))
    direction, tip = tip_covariance(covariance, center_mm, volume_from_patient, true[:3, 3])
    truth, held = deviation(plan, true, direction, tip), {"lateral": 0, "depth": 0, "angle": 0}
    errors = rng.multivariate_normal(np.zeros(6), covariance, 2000)
    for error in errors:
        measured = volume_from_patient @ g.exp(error, center_mm) @ tool(tip_mm, (0.2, 0.9, -0.3))
        measured[:3, 3] += rng.normal(size=3) * 0.3
        found = deviation(plan, measured, direction, tip)
        held["lateral"] += abs(found.lateral_mm - truth.lateral_mm) <= found.lateral_95_mm
        held["depth"] += abs(found.depth_mm - truth.depth_mm) <= found.depth_95_mm
        held["angle"] += abs(found.angle_rad - truth.angle_rad) <= found.angle_95_rad
    assert 0.93 <= held["depth"] / 2000 <= 0.97
    assert held["lateral"] >= 0.93 * 2000 and held["angle"] >= 0.93 * 2000


VOLUME = Volume(np.zeros((100, 120, 110), np.float32), g.rigid(None, (-60.0, -70.0, -600.0)), "ct")


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan("a", (0, 0, -550), (0, 10, -550)), ""),
        (Plan("a", (-40, -60, -550), (0, 10, -550)), ""),
        (Plan("a", (0, 0, -550), (0, 0, -550)), "one point"),
        (Plan("a", (0, 0, float("nan")), (0, 10, -550)), "not a number"),
        (Plan("a", (55, 0, -550), (40, 10, -550)), "entry lies outside the volume, but would lie in it as LPS"),
        (Plan("a", (0, 0, -0.55), (0, 0.01, -0.55)), "in metres"),
        (Plan("a", (60, 100, 80), (70, 60, 90)), "outside the volume: are its positions voxel"),
        (Plan("a", (900, 0, -550), (0, 10, -550)), "is it of another CT"),
        (Plan("", (0, 0, -550), (0, 10, -550)), "name"),
        (Plan("a\nb", (0, 0, -550), (0, 10, -550)), "name"),
        (Plan("x" * 65, (0, 0, -550), (0, 10, -550)), "name"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(plan, said):
    found = flaw(plan, VOLUME)
    assert (said in found) if said else found == ""


def test_without_a_volume_there_is_no_plan():
    assert "no volume" in flaw(PLAN, None)
