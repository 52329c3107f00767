"""How far X-rays are from the state: alone, in pairs, together, and beside what is usual."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.registration.fusion import PatientFilter
from navnode.registration.surprises import Surprise, Surprises

SIGMA_MM = 0.5
COVARIANCE = np.diag([0.001] * 3 + [SIGMA_MM] * 3) ** 2
CERTAIN = np.diag([1e-6] * 6) ** 2


def shown(surprises: Surprises, *sigmas: float) -> Surprise:
    """An X-ray that is so many sigmas off along x, y and z."""
    state = PatientFilter(np.eye(4), np.zeros(3), CERTAIN)
    return surprises.add(state, g.rigid(None, np.array([*sigmas, 0.0, 0.0][:3]) * SIGMA_MM), COVARIANCE)


def test_what_agrees_is_no_surprise_and_shows_where_it_is():
    surprises = Surprises()
    for _ in range(20):
        assert shown(surprises, 0.5) == Surprise(False, surprises=False, elsewhere=False, shows_place=True)


def test_one_x_ray_surprises_and_two_in_a_row_are_elsewhere():
    surprises = Surprises()
    for _ in range(20):
        shown(surprises, 0.1)
    first = shown(surprises, 3.5)
    assert first.surprises and not first.elsewhere and not first.contradicts
    second = shown(surprises, 3.5)
    assert second.surprises and second.elsewhere and not second.contradicts


def test_a_little_that_lasts_is_elsewhere_before_any_x_ray_surprises():
    surprises = Surprises()
    found = [shown(surprises, 2.3) for _ in range(8)]
    assert found[-1].elsewhere and not any(each.surprises or each.contradicts for each in found)


def test_noise_about_the_place_is_none():
    """Of 2.3 sigmas in turn to both sides: together they are at the place."""
    surprises = Surprises()
    found = [shown(surprises, 2.3 * (-1) ** n) for n in range(8)]
    assert found[-1].shows_place and not found[-1].surprises


@pytest.mark.parametrize(("usual", "surprises_"), [(0.1, True), (2.2, False)])
def test_what_surprises_depends_on_what_is_usual(usual, surprises_):
    surprises = Surprises()
    for n in range(30):
        shown(surprises, usual * (-1) ** n)
    assert shown(surprises, 4.0).surprises is surprises_


def test_what_lasts_contradicts_though_each_x_ray_is_within_the_gate():
    surprises = Surprises()
    found = [shown(surprises, 4.0) for _ in range(5)]
    assert [each.contradicts for each in found] == [False] * 4 + [True]
    assert shown(Surprises(), 7.0).contradicts, "and beyond it at once"


def test_a_state_that_was_moved_is_not_judged_by_what_was_off_before():
    surprises = Surprises()
    for _ in range(8):
        shown(surprises, 2.3)
    surprises.moved()
    assert shown(surprises, 0.2).shows_place
    for _ in range(4):
        shown(surprises, 4.0)
    surprises.clear()
    assert not shown(surprises, 4.0).contradicts
