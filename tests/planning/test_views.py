"""The angles of a C-arm's display, and the way to a view along a plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from navnode.planning.views import Angles, angles_of, direction_of, next_view
from navnode.types import Plan


@given(st.floats(-179, 179), st.floats(-88, 88))
def test_angles_name_a_direction(lao_deg, cranial_deg):
    angles = Angles(np.deg2rad(lao_deg), np.deg2rad(cranial_deg))
    back = angles_of(direction_of(angles))
    assert back.lao_rad == pytest.approx(angles.lao_rad, abs=1e-9)
    assert back.cranial_rad == pytest.approx(angles.cranial_rad, abs=1e-9)


@pytest.mark.parametrize(
    ("ray", "said"),
    [((0, 1, 0), "LAO 0°, cranial 0°"), ((-1, 0, 0), "LAO 90°, cranial 0°"), ((0.5, 0.866, 0), "RAO 30°, cranial 0°")],
)
def test_a_detector_on_the_patients_left_is_lao(ray, said):
    assert str(angles_of(np.array(ray, float))) == said


def looking(ray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 2] = np.asarray(ray, float) / np.linalg.norm(ray)
    return pose


@given(st.floats(-60, 60), st.floats(-40, 40), st.floats(-60, 60), st.floats(-40, 40))
def test_who_turns_as_told_looks_along_the_plan(lao, cranial, to_lao, to_cranial):
    now, then = (Angles(*np.deg2rad(each)) for each in ((lao, cranial), (to_lao, to_cranial)))
    plan = Plan("p", (0.0, 0.0, 0.0), tuple(30 * direction_of(then)))
    view = next_view(plan, looking(direction_of(now)))
    turned = Angles(now.lao_rad + view.turn_lao_rad, now.cranial_rad + view.turn_cranial_rad)
    after = next_view(plan, looking(direction_of(turned)))
    assert after.there and after.off_rad == pytest.approx(0, abs=1e-6)
    assert view.there == (view.off_rad < np.deg2rad(3))


def test_either_end_of_a_plan_may_face_the_source():
    plan = Plan("p", (0.0, 0.0, 0.0), (0.0, -30.0, 0.0))
    assert next_view(plan, looking((0.02, 1, 0))).there
    assert str(next_view(plan, looking((0, 0.9, -0.3)))).startswith("turn 18° cranial, to LAO 0°")
