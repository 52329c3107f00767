"""A hundred measurements that carry no answer: all fail, and for the right reason."""

import numpy as np
import pytest

from calibration.flex import flex
from calibration.handeye import handeye
from calibration.patient import patient
from calibration.phantom import phantom
from calibration.pivot import pivot
from calibration.spin import spin
from calibration.temporal import temporal
from calibration.tool import tool
from navnode import geometry as g
from tests.calibration.scenes import bent, pivoting, shots, spinning, wandering
from tests.calibration.test_chain import named, points
from tests.calibration.test_tools import AXIS, MARKERS, seen

SEEDS = range(5)


def _pivot_slip(rng):
    first = rng.integers(60, 140)
    away = rng.normal(size=3)
    away *= rng.uniform(2, 8) / np.linalg.norm(away)
    at = np.array([300.0, -200, -1500])
    return pivot(np.concatenate([pivoting(first, rng), pivoting(200 - first, rng, at=tuple(at + away))]))


def _pivot_nan(rng):
    poses = pivoting(60, rng)
    poses[rng.choice(60, 45, replace=False)] = np.nan
    return pivot(poses)


def _pivot_wild(rng):
    poses = pivoting(90, rng)
    bad = rng.choice(90, 45, replace=False)
    poses[bad, :3, 3] += rng.normal(0, 60, (45, 3))
    return pivot(poses)


def _handeye_one_axis(rng):
    return handeye(*shots(int(rng.integers(8, 25)), rng, one_axis=True)[:2])


def _handeye_still(rng):
    markers, xrays, _, _ = shots(1, rng)
    jitter = [g.exp(rng.normal(0, [1e-3] * 3 + [0.2] * 3)) for _ in range(10)]
    return handeye(np.array([markers[0] @ j for j in jitter]), np.array([xrays[0] @ j for j in jitter]))


def _handeye_shuffled(rng):
    markers, xrays, _, _ = shots(12, rng)
    return handeye(markers, np.roll(xrays, int(rng.integers(2, 10)), axis=0))


def _patient_swapped(rng):
    volume, touched, _ = points(rng)
    a, b = rng.choice(8, 2, replace=False)
    touched[[a, b]] = touched[[b, a]]
    return patient(named(volume), named(touched))


def _patient_mirrored(rng):
    volume, touched, _ = points(rng)
    sign = np.ones(3)
    sign[rng.integers(3)] = -1
    return patient(named(volume), named(touched * sign))


def _patient_line(rng):
    _, _, truth = points(rng)
    line = np.outer(np.linspace(-50, 50, 6), rng.normal(size=3)) / 1.7 + rng.normal(0, 1, (6, 3))
    return patient(named(line), named(g.transform(g.inverse(truth), line)))


def _patient_bad(rng):
    volume, touched, _ = points(rng, sigma_mm=9.0)
    return patient(named(volume), named(touched))


def _signal(rng, image, **more):
    times, later = np.arange(0, 12, 0.01), np.arange(0.2, 11.5, 1 / 30)
    return temporal(times, wandering(times), later, image(later), **more)


def _flex_narrow(rng):
    angles = np.stack([np.linspace(0, rng.uniform(0.3, 0.9), 14), np.zeros(14)], axis=1)
    return flex([bent(*a)[0] for a in angles], np.array([bent(*a)[1] for a in angles]), angles)


def _flex_loose(rng):
    angles = np.stack([np.linspace(-1, 1, 16), np.zeros(16)], axis=1)
    angles = np.concatenate([angles, angles[:3]])
    poses = np.array([bent(*a)[1] for a in angles])
    poses[-3:, :3, 3] += rng.uniform(1.5, 4)
    return flex([bent(*a)[0] for a in angles], poses, angles)


def _phantom_off(rng):
    places = rng.uniform(-60, 60, (6, 3))
    away = rng.normal(size=3)
    return phantom(named(places), named(places + rng.uniform(2.2, 9) * away / np.linalg.norm(away)))


CASES = {
    "pivot: a slip": ("slip", _pivot_slip),
    "pivot: mostly unseen": ("too_few", _pivot_nan),
    "pivot: half of it wild": ("too_many_rejected", _pivot_wild),
    "pivot: hardly tilted": ("spread", lambda rng: pivot(pivoting(80, rng, cone=0.06, turn=0.1))),
    "pivot: a loose marker": ("residual", lambda rng: pivot(pivoting(150, rng, sigma_mm=1.2))),
    "spin: hardly turned": ("rotation", lambda rng: spin(spinning(60, rng, axis=AXIS, point=np.zeros(3), angle=1.0))),
    "spin: no bearing": ("wobble", lambda rng: spin(spinning(80, rng, axis=AXIS, point=np.zeros(3), wobble_rad=0.06))),
    "hand-eye: one axis": ("axes", _handeye_one_axis),
    "hand-eye: not moved": ("spread", _handeye_still),
    "hand-eye: rows of other shots": (("residual", "too_many_rejected"), _handeye_shuffled),
    "patient: two labels exchanged": ("correspondence", _patient_swapped),
    "patient: a wrong sign": ("mirrored", _patient_mirrored),
    "patient: on a line": ("collinear", _patient_line),
    "patient: touched badly": ("residual", _patient_bad),
    "temporal: other motion": ("correlation", lambda rng: _signal(rng, lambda t: rng.normal(size=len(t)))),
    "temporal: too late": ("at_limit", lambda rng: _signal(rng, lambda t: wandering(t - rng.uniform(0.53, 0.6)))),
    "flex: narrow": ("coverage", _flex_narrow),
    "flex: loose": ("not_repeatable", _flex_loose),
    "phantom: off": ("residual", _phantom_off),
    "tool: moved": ("moved", lambda rng: tool(seen(rng, drift_mm=rng.uniform(1.5, 6)))),
    "tool: two spheres": ("too_few", lambda rng: tool(seen(rng, markers=MARKERS[:2]))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.long
def test_bad_measurements_fail_with_their_code(case):
    codes, measured = CASES[case]
    for seed in SEEDS:
        found = measured(np.random.default_rng(seed))
        assert not found.passed and found.code in (codes if isinstance(codes, tuple) else (codes,)), found.reason
        assert len(found.reason) > len(found.code) + 20, "it says what was measured and what to do"
