"""Which marker moved: what is said, until when."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.registration.blame import Blame

CENTER_MM = np.array([0.0, -40.0, 10.0])
HERE = np.eye(4)


def blame() -> Blame:
    """All was well at HERE."""
    made = Blame("{why}: turn", "{mm:.0f} mm off")
    made.agreed(from_side(0.0), HERE, CENTER_MM, np.eye(4), sure=True)
    return made


def from_side(deg: float) -> np.ndarray:
    return g.pose_at(CENTER_MM, 700.0, orbital_deg=deg)


def moved(*mm: float) -> np.ndarray:
    return g.rigid(None, mm)


def agreed(made: Blame, deg: float, state: np.ndarray, *, sure: bool = True) -> None:
    made.agreed(from_side(deg), state, CENTER_MM, sure=sure)


def test_a_move_that_the_tracker_saw_his_marker_make_is_no_doubt():
    made, state = blame(), moved(4.0, 0.0, 0.0)
    made.shown_elsewhere(4.0, patient_moved=False)
    agreed(made, 0.0, state)
    assert made.reason == "no marker was seen to move: turn"
    made.was_the_patients(np.array([2.5, 0.0, 0.0]))
    agreed(made, 0.0, state)
    assert made.reason, "of which so much is another's"
    made.was_the_patients(np.array([1.3, 0.0, 0.0]))
    agreed(made, 0.0, state)
    assert not made.reason


def test_what_was_seen_before_x_rays_showed_enough_counts():
    made = blame()
    made.was_the_patients(np.array([4.0, 0.0, 0.0]))
    made.shown_elsewhere(4.0, patient_moved=False)
    agreed(made, 0.0, moved(4.0, 0.0, 0.0))
    assert not made.reason


def test_what_the_tracker_saw_the_carms_marker_make_lasts_while_x_rays_follow_it():
    made = blame()
    made.was_the_carms(HERE)
    for mm in (0.3, 0.7, 1.2, 4.0):
        agreed(made, 0.0, moved(mm, 0.0, 0.0))
        assert "C-arm's marker moved" in made.reason
    agreed(made, 0.0, HERE)
    assert not made.reason, "it is back"


def test_little_or_what_tracking_shows_needs_no_other_side():
    made = blame()
    made.shown_elsewhere(0.9, patient_moved=False)
    made.shown_elsewhere(5.0, patient_moved=True)
    made.excuse()
    made.shown_elsewhere(5.0, patient_moved=False)
    assert not made.reason
    assert not Blame("", "").reason


def test_a_second_move_does_not_undo_the_first_by_chance():
    made = blame()
    made.carm_unwatched("the C-arm's marker jumped")
    made.shown_elsewhere(4.0, patient_moved=False)
    made.excuse(moved=True)
    cancelled = moved(-4.0, 0.0, 0.0)  # so the patient's moved on him, and X-rays show him where he was
    for deg in (0.0, 20.0):
        made.agreed(from_side(deg), HERE, CENTER_MM, cancelled, sure=True)
        assert "C-arm's marker jumped" in made.reason
        made.agreed(from_side(deg), HERE, CENTER_MM, None, sure=True)
        assert "C-arm's marker jumped" in made.reason, "nor where the tracker did not see it"
    made.agreed(from_side(60.0), HERE, CENTER_MM, cancelled, sure=True)
    assert not made.reason, "what sits on the C-arm would show another place from here"


@pytest.mark.parametrize("apart_mm", [0.5, 3.0])
def test_x_rays_that_show_what_the_tracker_saw_end_a_doubt_of_before(apart_mm):
    made = blame()
    made.shown_elsewhere(2.0, patient_moved=False)
    made.excuse(moved=True)
    jumped = moved(0.0, 7.0, 0.0)
    made.agreed(from_side(0.0), moved(apart_mm, 7.0, 0.0), CENTER_MM, jumped, sure=True)
    assert bool(made.reason) == (apart_mm > 1.0)


def test_before_anything_was_sound_nothing_can_be_elsewhere():
    made = Blame("{why}: turn", "{mm:.0f} mm off")
    made.shown_elsewhere(5.0, patient_moved=False)
    assert not made.reason, "which nothing but the operator could end"


def test_what_agrees_from_aside_was_the_patients():
    least_deg = 37.5
    made, state = blame(), moved(4.0, 0.0, 0.0)
    made.shown_elsewhere(4.0, patient_moved=False)
    for deg in np.arange(0.0, least_deg - 1, 1.0):
        agreed(made, deg, state)
    agreed(made, least_deg + 30, state, sure=False)
    assert made.reason, "which is not sure yet"
    agreed(made, least_deg + 1, state)
    assert not made.reason


def test_a_move_along_the_axis_of_the_turn_looks_the_same_from_every_side():
    made, state = blame(), moved(0.0, 0.0, 4.0)
    made.shown_elsewhere(4.0, patient_moved=False)
    for deg in range(0, 180, 5):
        agreed(made, deg, state)
    assert made.reason
    made.agreed(g.pose_at(CENTER_MM, 700.0, orbital_deg=0.0, angulation_deg=45.0), state, CENTER_MM, sure=True)
    assert not made.reason


def test_who_is_back_has_not_moved():
    made = blame()
    made.shown_elsewhere(4.0, patient_moved=False)
    made.carm_unwatched("hidden")
    made.shown_elsewhere(3.0, patient_moved=False)
    made.shown_elsewhere(3.0, patient_moved=False)
    assert made.reason == "hidden: turn", "what is known of it stays"
    agreed(made, 0.0, moved(0.5, 0.0, 0.0))
    assert not made.reason


def test_one_view_finds_it_anew_to_some_millimetres_in_depth():
    beam = from_side(0.0)[:3, 2]
    for anew in (False, True):
        made = blame()
        made.shown_elsewhere(4.0, patient_moved=False)
        if anew:
            made.begun_anew()
        agreed(made, 0.0, moved(*(2.0 * beam)))
        assert bool(made.reason) != anew


@pytest.mark.parametrize(("mm", "reason"), [(3.0, ""), (6.0, "no marker was seen to move: turn"), (36.0, "36 mm off")])
def test_what_is_found_elsewhere_without_a_cause(mm, reason):
    made = blame()
    made.lost()
    made.found(moved(mm, 0.0, 0.0), CENTER_MM)
    assert made.reason == reason
    for deg in range(0, 180, 5):
        agreed(made, deg, moved(mm, 0.0, 0.0))
    assert bool(made.reason) == (mm > 10.0), "pictures of another time agree with each other"
    made.lost()
    made.found(moved(0.0, 0.5, 0.0), CENTER_MM)
    agreed(made, 0.0, moved(0.0, 0.5, 0.0))
    assert not made.reason or mm < 10.0


@pytest.mark.parametrize("cause", ["excused", "unwatched", "cleared", "first"])
def test_what_is_found_elsewhere_with_a_cause(cause):
    made = Blame("{why}: turn", "{mm:.0f} mm off") if cause == "first" else blame()
    if cause == "excused":
        made.excuse()
    if cause == "unwatched":
        made.carm_unwatched("hidden")
    made.lost()
    if cause == "cleared":
        made.clear()
    made.found(moved(36.0, 0.0, 0.0), CENTER_MM)
    assert not made.reason


def test_an_excuse_holds_until_x_rays_agree():
    made = blame()
    made.excuse()
    agreed(made, 0.0, HERE, sure=False)
    made.shown_elsewhere(5.0, patient_moved=False)
    assert not made.reason
    agreed(made, 0.0, HERE)
    made.shown_elsewhere(5.0, patient_moved=False)
    assert made.reason
