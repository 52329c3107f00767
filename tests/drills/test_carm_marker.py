"""The C-arm's marker moves on the C-arm: X-rays then show the patient elsewhere, as if his own marker had moved."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.simulation.scenario import CARM_DEVICE
from navnode.types import Operation, OperatorCommand, Status, ToolPose
from tests.conftest import slow
from tests.drills.on_table import OnTable
from tests.drills.test_hands import bumped, statuses, tip_error_mm
from tests.loop.theatre import SCENARIO, Theatre, of


def bump(theatre: Theatre, moved: np.ndarray, hidden_s: float) -> None:
    if hidden_s:
        theatre.hidden = {CARM_DEVICE}
        theatre.run(hidden_s)
    theatre.hidden, theatre.moved_carm_marker = set(), moved


def worst_mm(outputs: list[object]) -> float:
    shown = [pose for pose in of(ToolPose, outputs) if pose.validity.status is Status.VALID]
    return max(map(tip_error_mm, shown), default=0.0)


MOVED = {
    "5 mm": bumped(5.0),
    "3 mm": g.rigid(None, (0.0, 3.0, 0.0)),
    "1 degree": bumped(0.0, 0.0175),
    "5 mm along another axis": g.rigid(None, (0.0, 0.0, 5.0)),
    "12 mm": g.rigid(None, (0.0, -12.0, 0.0)),
}


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize("hidden_s", [0.0, 0.5], ids=["in sight", "hidden"])
@pytest.mark.parametrize("moved", MOVED)
@pytest.mark.long
def test_what_moved_on_the_carm_is_not_taken_for_the_patient(theatre, moved, hidden_s):
    """The C-arm rests, then goes through all its stations."""
    bump(theatre, MOVED[moved], hidden_s)
    after = theatre.run(30.0)
    assert worst_mm(after) < 2.0
    told = {pose.validity.reason for pose in of(ToolPose, after)}
    assert any("C-arm's marker" in reason and "40 degrees" in reason for reason in told)


@pytest.mark.risk("marker-moved")
def test_a_marker_that_is_put_back_is_believed_from_another_side(theatre):
    bump(theatre, MOVED["5 mm"], 0.5)
    theatre.run(1.0)
    bump(theatre, np.eye(4), 0.5)
    after = theatre.run(12.0)
    assert worst_mm(after) < 2.0
    assert statuses(after[-50:]) == {Status.VALID}


def test_a_patients_marker_that_moved_beside_it_needs_no_other_side(theatre):
    """Somebody walks through: both were hidden, and tracking shows which came back elsewhere."""
    theatre.hidden = {CARM_DEVICE}
    theatre.run(0.3)
    theatre.hidden = set()
    theatre.moved_patient_marker = bumped(9.0)
    after = theatre.run(3.0)
    assert worst_mm(after) < 2.0 and statuses(after[-50:]) == {Status.VALID}


def test_the_operator_may_say_that_the_carms_marker_has_not_moved(theatre):
    bump(theatre, MOVED["5 mm"], 0.5)
    theatre.run(0.6)
    assert statuses(theatre.run(0.2)) == {Status.DEGRADED}
    asked = {pose.validity.reason for pose in of(ToolPose, theatre.run(1.0))}
    assert any("40 degrees" in reason for reason in asked)
    theatre.feed(OperatorCommand(Operation.ACCEPT_REGISTRATION, "", theatre.now_ns))
    told = {pose.validity.reason for pose in of(ToolPose, theatre.run(1.0))}
    assert told and not any("40 degrees" in reason for reason in told)


@pytest.fixture
def at_rest() -> Theatre:
    """The C-arm rests; the tracker's noise at the anatomy is the demo's, 0.35 mm by the C-arm's marker."""
    theatre = Theatre()
    theatre.scenario = OnTable(SCENARIO.isocentre_mm, SCENARIO.targets_mm)
    theatre.noise = np.array([SCENARIO.noise_rad] * 3 + [SCENARIO.noise_mm] * 3)
    theatre.run(10.0)
    return theatre


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize(("mm_per_s", "seconds"), [(2.0, 2.0), (0.5, 10.0), slow(0.3, 15.0), slow(0.08, 60.0)])
@pytest.mark.parametrize("way", [(1.0, 0.0, 0.0), slow((0.0, 1.0, 0.0)), slow((0.0, 0.0, 1.0)), "turn"], ids=str)
@pytest.mark.parametrize("hundredths", [10, slow(30)])
@pytest.mark.long
def test_a_marker_that_creeps_on_a_carm_that_rests(at_rest, mm_per_s, seconds, way, hundredths):
    """The patient's marker stands still beside it: X-rays alone would call that a slide of his."""
    at_rest.frames_every = hundredths
    after: list[object] = []
    for step in range(round(seconds * 20)):
        mm = mm_per_s * (step + 1) / 20
        at_rest.moved_carm_marker = bumped(0.0, mm / 300.0) if way == "turn" else g.rigid(None, np.array(way) * mm)
        after += at_rest.run(0.05)
    after += at_rest.run(6.0)
    assert worst_mm(after) < 2.0
    last = of(ToolPose, after)[-1].validity
    assert last.status is Status.DEGRADED and "C-arm's marker moved" in last.reason and "40 degrees" in last.reason
    at_rest.scenario = SCENARIO
    assert worst_mm(at_rest.run(24.0)) < 2.0, "nor from other sides"


@pytest.mark.parametrize("way", [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)], ids=str)
@pytest.mark.long
def test_a_patients_marker_that_creeps_beside_a_carm_that_rests_is_his(at_rest, way):
    after: list[object] = []
    for step in range(400):
        at_rest.moved_patient_marker = g.rigid(None, 0.3 * np.array(way) * (step + 1) / 20)
        after += at_rest.run(0.05)
    after += at_rest.run(5.0)
    assert not any("C-arm's marker" in pose.validity.reason for pose in of(ToolPose, after))
    assert worst_mm(after) < 2.0 and statuses(at_rest.run(1.0)[-50:]) == {Status.VALID}


@pytest.mark.long
def test_noise_of_a_carm_that_rests_is_no_creep(at_rest):
    reasons = {pose.validity.reason for pose in of(ToolPose, at_rest.run(240.0))}
    assert not any("C-arm's marker" in reason for reason in reasons)


def test_a_carm_that_was_hidden_costs_nothing(theatre):
    for _ in range(4):
        bump(theatre, np.eye(4), 0.4)
        assert Status.INVALID not in statuses(theatre.run(1.0))
    assert statuses(theatre.run(3.0)) == {Status.VALID}
