"""Pivot, spin and marker templates."""

import numpy as np
import pytest

from calibration.pivot import pivot
from calibration.spin import spin
from calibration.tool import tool
from navnode import geometry as g
from tests.calibration.scenes import TIP, pivoting, spinning

AXIS = np.array([0.1, -0.2, 0.97]) / np.linalg.norm([0.1, -0.2, 0.97])
MARKERS = np.array([[0.0, 0, 0], [55, 5, 0], [0, 80, 3], [-41, -30, 5]])


def test_the_tip_and_its_stated_error():
    errors, covered = [], []
    for seed in range(150):
        found = pivot(pivoting(200, np.random.default_rng(seed)))
        assert found.passed, found.reason
        off = found.result.tip_mm - TIP
        errors.append(np.linalg.norm(off))
        covered.append(np.abs(off) < 1.96 * found.quality["sigma_tip_mm"])
    assert np.quantile(errors, 0.95) < 0.15
    assert 0.92 <= np.mean(covered) <= 0.98


def test_outliers_are_named_and_do_no_harm():
    rng = np.random.default_rng(1)
    poses = pivoting(200, rng)
    bad = rng.choice(200, 60, replace=False)
    poses[bad, :3, 3] += rng.normal(0, 20, (60, 3))
    poses[3], poses[4, 0, 0] = np.eye(4), np.nan
    found = pivot(poses)
    assert found.passed and set(found.quality["rejected"]) == {3, 4, *bad.tolist()}
    assert np.linalg.norm(found.result.tip_mm - TIP) < 0.2
    assert len(pivot(poses, reject=False).quality["rejected"]) == 2


def test_the_covariance_is_that_of_many_measurements():
    tips, stated = [], []
    for seed in range(150):
        found = pivot(pivoting(100, np.random.default_rng(seed)))
        tips.append(found.result.tip_mm)
        stated.append(found.quality["covariance"])
    spread, said = np.linalg.eigvalsh(np.cov(np.array(tips).T)), np.linalg.eigvalsh(np.mean(stated, axis=0))
    assert np.abs(np.log(said / spread)).max() < np.log(1.5)


def test_neither_order_nor_the_trackers_frame_matter():
    poses = pivoting(60, np.random.default_rng(2))
    poses[7, :3, 3] += 30
    moved = g.exp(np.array([0.3, 1, 2, 500, 20, 3.0]))
    one, other = pivot(poses), pivot(np.array([moved @ pose for pose in poses])[::-1])
    assert np.abs(np.subtract(one.result.tip_mm, other.result.tip_mm)).max() < 1e-6
    assert np.abs(g.transform(moved, np.array(one.result.pivot_mm)) - other.result.pivot_mm).max() < 1e-6


def test_a_reference_may_move():
    rng = np.random.default_rng(3)
    inside = pivoting(60, rng)
    reference = np.array([g.exp(rng.normal(0, [0.1] * 3 + [50] * 3)) for _ in inside])
    found = pivot(np.array([r @ p for r, p in zip(reference, inside, strict=True)]), reference)
    assert found.passed and np.linalg.norm(found.result.tip_mm - TIP) < 0.3


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("too_few", lambda rng: pivoting(15, rng)),
        ("too_few", lambda rng: np.zeros((0, 4, 4))),
        ("spread", lambda rng: pivoting(100, rng, cone=0.05, turn=0.1)),
        ("spread", lambda rng: pivoting(100, rng, cone=0.0, turn=2.0, sigma_mm=0, sigma_deg=0)),
        ("slip", lambda rng: np.concatenate([pivoting(140, rng), pivoting(60, rng, at=(303.0, -200, -1500))])),
        ("slip", lambda rng: np.concatenate([pivoting(170, rng), pivoting(30, rng, at=(300.0, -195, -1500))])),
        ("residual", lambda rng: pivoting(200, rng, sigma_mm=1.0)),
        ("too_many_rejected", lambda rng: _half_wrong(pivoting(100, rng), rng)),
    ],
)
def test_what_is_no_pivoting_fails_with_its_code(code, made):
    found = pivot(made(np.random.default_rng(4)))
    assert found.code == code and found.reason.count(": ") >= 1


def _half_wrong(poses, rng):
    poses[::2, :3, 3] += rng.normal(0, 100, (50, 3))
    return poses


def test_an_axis_and_the_way_it_points():
    point = np.array([5.0, 3, 0]) - AXIS * float(AXIS @ [5.0, 3, 0])
    poses = spinning(60, np.random.default_rng(5), axis=AXIS, point=point)
    poses[7, :3, 3] += 20
    poses[20, :3, :3] = poses[20, :3, :3] @ g.rotation_exp(np.array([0.2, 0, 0]))
    for tip, sign in ((None, 1), (-150 * AXIS, -1)):
        found = spin(poses, tip)
        assert found.passed and found.quality["rejected"] == [7, 20]
        assert g.angle_between_rad(np.array(found.result.axis), sign * AXIS) < 0.002
        assert np.linalg.norm(found.result.axis_point_mm - point) < 0.2
        assert found.quality["rotation_rad"] == pytest.approx(3.0, abs=0.02)
    rng = np.random.default_rng(6)
    assert spin(spinning(60, rng, axis=AXIS, point=point, angle=0.8)).code == "rotation"
    assert spin(spinning(60, rng, axis=AXIS, point=point, wobble_rad=0.05)).code == "wobble"
    assert spin(spinning(10, rng, axis=AXIS, point=point)).code == "too_few"


def test_a_tool_that_is_swung_has_no_axis_of_its_own():
    assert spin(pivoting(100, np.random.default_rng(7))).code == "wobble"


def seen(rng, markers=MARKERS, frames=60, drift_mm=0.0, jump_mm=0.0):
    found = []
    for n in range(frames):
        points = markers + rng.normal(0, 0.05, markers.shape) + [100, 200, -1500]
        points += [0, 0, drift_mm * n / frames + jump_mm * (n > frames / 2)]
        points = points[rng.random(len(markers)) > 0.1]
        if rng.random() < 0.3:
            points = np.vstack([points, rng.uniform(-200, 200, 3)])
        found.append(rng.permutation(points))
    return found


def test_a_template_of_a_marker():
    found = tool(seen(np.random.default_rng(8)))
    assert found.passed, found.reason
    apart = np.sort(np.linalg.norm(MARKERS[:, None] - MARKERS, axis=2)[np.triu_indices(4, 1)])
    assert np.abs(found.result.pairs_mm - apart).max() < 0.1
    assert np.abs(np.mean(found.result.markers_mm, axis=0)).max() < 1e-9
    # The same template, whichever way the camera looks; and no mirror image of it.
    turned = [points @ g.rotation_exp(np.array([1.0, 2, 0.5])).T for points in seen(np.random.default_rng(8))]
    assert np.abs(np.subtract(tool(turned).result.markers_mm, found.result.markers_mm)).max() < 1e-6
    a, b = np.array(found.result.markers_mm), MARKERS - MARKERS.mean(axis=0)
    signs = {np.sign(np.linalg.det(b[list(order)][:3])) for order in _same_shape(a, b)}
    assert signs == {np.sign(np.linalg.det(a[:3]))}


def _same_shape(a, b):
    from itertools import permutations

    apart = np.linalg.norm(a[:, None] - a, axis=2)
    for order in permutations(range(len(b))):
        other = b[list(order)]
        if np.abs(np.linalg.norm(other[:, None] - other, axis=2) - apart).max() < 0.3:
            yield order


def test_jitter_is_no_motion():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shaky = [points + rng.normal(0, 0.9, points.shape) for points in seen(rng)]
        assert tool(shaky).code == "residual"


def test_few_good_poses_are_not_called_bad():
    found = pivot(pivoting(2, np.random.default_rng(0)))
    assert (found.code, found.quality["n_used"], found.quality["rejected"]) == ("too_few", 2, [])


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("too_few", lambda rng: seen(rng, frames=20)),
        ("too_few", lambda rng: seen(rng, markers=MARKERS[:2])),
        ("moved", lambda rng: seen(rng, drift_mm=1.5)),
        ("moved", lambda rng: seen(rng, jump_mm=5.0)),
        ("collinear", lambda rng: seen(rng, markers=np.array([[0.0, 0, 0], [50, 0, 0], [85, 1, 0]]))),
        ("ambiguous", lambda rng: seen(rng, markers=np.array([[0.0, 0, 0], [50, 0, 0], [0, 50, 0], [50, 50, 0]]))),
        ("ambiguous", lambda rng: seen(rng, markers=np.array([[0.0, 0, 0], [15, 0, 0], [0, 60, 0], [70, 30, 9]]))),
    ],
)
def test_what_is_no_template_fails_with_its_code(code, made):
    assert tool(made(np.random.default_rng(9))).code == code
