"""Poses in another unit, inverted, of something that moved meanwhile, or sent again, are questioned; ``--units``
converts them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration.bundle import Seen, places
from calibration.flatfield import flatfield
from calibration.flex import flex
from calibration.handeye import handeye
from calibration.patient import patient
from calibration.phantom import phantom
from calibration.pivot import pivot
from calibration.spin import spin
from calibration.temporal import temporal
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.meshes import read_mesh, write_mesh
from navnode.types import Mesh
from tests.calibration.scenes import TIP, bent, pivoting, shots, spinning, wandering
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


@pytest.mark.parametrize("turn_deg", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("at", [100, 170])
def test_a_marker_that_is_bumped_on_its_tool_is_told(at, turn_deg):
    """At half of the poses, or before the last ones, which then fit a tip of their own; so is a bit that slips."""
    poses, rng = pivoting(200, np.random.default_rng(7)), np.random.default_rng(8)
    assert pivot(poses).passed
    bump = g.exp(np.array([np.radians(turn_deg), 0, 0, *(2.5 * TIP / np.linalg.norm(TIP))]))
    poses[at:] = pivoting(200 - at, rng) @ g.inverse(bump)
    found = pivot(poses)
    assert found.code == "slip" and found.quality["tip_drift_mm"] > 1.0, found.reason
    assert pivot(poses[rng.permutation(at)]).passed, "up to there they are of one tip"


def test_poses_that_were_sent_again_are_not_measured_again():
    few = pivoting(12, np.random.default_rng(9))
    found = pivot(np.repeat(few, 5, axis=0))
    assert found.code == "too_few" and (found.quality["n_used"], found.quality["repeated"]) == (12, 48)
    poses = pivoting(40, np.random.default_rng(3))
    once, twice = pivot(poses), pivot(np.repeat(poses, 2, axis=0))
    assert twice.passed and twice.quality["sigma_tip_mm"] == pytest.approx(once.quality["sigma_tip_mm"])
    markers, xrays, _, _ = shots(8, np.random.default_rng(1))
    once, twice = handeye(markers, xrays), handeye(np.repeat(markers, 3, axis=0), np.repeat(xrays, 3, axis=0))
    assert twice.quality["sigma_translation_mm"] == pytest.approx(once.quality["sigma_translation_mm"])


def test_poses_that_are_none_are_rejected_however_often_they_come():
    poses = pivoting(60, np.random.default_rng(5))
    poses[[3, 4, 5]], poses[[20, 21]] = np.eye(4), np.nan
    found = pivot(poses)
    assert found.passed and found.quality["rejected"] == [3, 4, 5, 20, 21] and found.quality["repeated"] == 0


@pytest.mark.parametrize(
    "moved",
    [
        lambda markers, xrays, bump: (np.concatenate([markers[:14], markers[14:] @ bump]), xrays),
        lambda markers, xrays, bump: (markers, np.concatenate([xrays[:14], bump @ xrays[14:]])),
    ],
    ids=["marker", "phantom"],
)
@pytest.mark.long
def test_a_marker_or_phantom_that_moved_between_shots_is_told(moved):
    bump = g.exp(np.array([np.radians(1.5), 0, 0, 8, 0, 0]))
    for seed in range(3):
        markers, xrays, _, _ = shots(20, np.random.default_rng(seed))
        assert handeye(markers, xrays).passed
        found = handeye(*moved(markers, xrays, bump))
        assert found.code == "moved" and found.quality["moved_mm"] > 5, found.reason


def test_a_clock_that_was_set_while_a_lag_was_measured_is_told():
    tracker_s, image_s = np.arange(0, 20, 1 / 60), np.arange(0.5, 19, 1 / 15)
    set_s = np.where(image_s < 10, 0.0, 0.06)
    assert temporal(tracker_s, wandering(tracker_s), image_s, wandering(image_s - 0.08)).passed
    found = temporal(tracker_s, wandering(tracker_s), image_s + set_s, wandering(image_s - 0.08))
    assert found.code == "clock" and found.quality["lag_drift_ns"] == pytest.approx(60e6, rel=0.1)


@pytest.mark.parametrize("wrong", [60.0, 1e4])
def test_one_wrong_sample_bends_no_lag(wrong):
    tracker_s, image_s = np.arange(0, 20, 1 / 60), np.arange(0.5, 19, 1 / 15)
    moved = wandering(tracker_s)
    moved[407] += wrong
    found = temporal(tracker_s, moved, image_s, wandering(image_s - 0.08))
    assert found.passed and found.quality["rejected"] == [407]
    assert found.result.image_lag_ns == pytest.approx(80e6, abs=1e6)


def test_a_flat_field_with_something_in_the_beam_is_refused():
    rng = np.random.default_rng(3)
    dark = rng.normal(100, 2, (6, 128, 160))
    beam = np.full((128, 160), 5000.0)
    shutter, bar = beam.copy(), beam.copy()
    shutter[:, :30] *= 0.02
    bar[40:60] *= 0.3
    for picture, code in ((beam, ""), (shutter, "shadow"), (bar, "shadow")):
        flat = rng.poisson(np.tile(picture, (6, 1, 1))) + rng.normal(100, 2, (6, 128, 160))
        assert flatfield(dark, flat).code == code


def bending(angles, factor=1.0):
    carms, poses = zip(*(bent(*angle) for angle in angles), strict=True)
    poses = np.array(poses)
    poses[:, :3, 3] *= factor
    return flex(carms, poses, np.array(angles), np.array([[0.8, 0.4]]))


@pytest.mark.long
def test_a_c_arm_that_bends_is_known_among_its_shots_alone():
    """A cross of angles says nothing of its corners; poses in metres are questioned."""
    cross = [(a, 0.0) for a in np.linspace(-1, 1, 13)] + [(0.0, b) for b in np.linspace(-0.5, 0.5, 7) if b]
    grid = [(a, b) for a in np.linspace(-1, 1, 9) for b in (-0.5, -0.25, 0.0, 0.25, 0.5)]
    assert bending(grid).passed
    assert bending(cross).code == "extrapolation" and "outside the shots' range" in bending(cross).reason
    assert bending(grid, 1e-3).code == "implausible"


def test_the_tip_of_another_tool_gives_an_axis_no_sense():
    axis, point = np.array([0.0, 0.0, 1.0]), np.array([5.0, 3.0, 0.0])
    poses = spinning(60, np.random.default_rng(1), axis=axis, point=point)
    assert spin(poses, np.array([5.0, 3.0, 180.0])).passed
    assert spin(poses, np.array([160.0, 0.0, -40.0])).code == "implausible"
    assert spin(np.repeat(poses[:6], 10, axis=0)).code == "too_few"


def test_one_target_that_is_far_off_fails_the_whole_chain():
    targets = {f"t{n}": np.array([10.0 * n, 0.0, 0.0]) for n in range(25)}
    touched = {name: at + 0.3 for name, at in targets.items()}
    assert phantom(targets, touched).passed
    found = phantom(targets, touched | {"t7": targets["t8"] + 30.0})
    assert found.code == "residual" and "worst target" in found.reason


@pytest.mark.parametrize(("stated_mm", "holds"), [(0.8, True), (0.05, False)])
def test_an_error_that_residuals_contradict_is_not_believed(stated_mm, holds):
    rng = np.random.default_rng(2)
    points = {f"p{n}": rng.uniform(-60, 60, 3) for n in range(6)}
    touched = {name: at + rng.normal(0, 0.6, 3) for name, at in points.items()}
    found = patient(points, touched, fle_mm=stated_mm)
    assert (found.quality["fle_mm"] == stated_mm) == holds and found.quality["fle_mm"] > 0.5


def test_shots_of_one_place_say_the_same():
    nothing = np.zeros((0, 2))
    poses = [np.eye(4), g.rigid(None, (1.0, 0, 0)), g.rigid(None, (30.0, 0, 0)), g.exp(np.array([0.1, 0, 0, 0, 0, 0]))]
    assert places([Seen(pose, np.zeros(0, int), nothing) for pose in poses]) == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("written", "said"),
    [(lambda pose: pose.T, "are transposed"), (lambda pose: pose * [1, 1, -1, 1], "left-handed")],
    ids=["transposed", "left-handed"],
)
def test_matrices_written_another_way_are_named(written, said, tmp_path):
    np.save(tmp_path / "poses.npy", np.array([written(pose) for pose in pivoting(60, np.random.default_rng(1))]))
    ended = run_navnode("calibrate", "pivot", str(tmp_path / "poses.npy"))
    assert ended.returncode == 2 and said in ended.stderr, ended


@pytest.mark.long
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
