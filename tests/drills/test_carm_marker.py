"""The C-arm's marker moves on the C-arm: X-rays then show the patient elsewhere, as if his own marker had moved."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.simulation.scenario import CARM_DEVICE
from navnode.types import Operation, OperatorCommand, Status, ToolPose
from tests.drills.test_hands import bumped, statuses, tip_error_mm
from tests.loop.theatre import Theatre, of


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


def test_a_carm_that_was_hidden_costs_nothing(theatre):
    for _ in range(4):
        bump(theatre, np.eye(4), 0.4)
        assert Status.INVALID not in statuses(theatre.run(1.0))
    assert statuses(theatre.run(3.0)) == {Status.VALID}
