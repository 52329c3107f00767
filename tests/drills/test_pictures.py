"""Pictures that are not what they are taken for: late, displaced on their display, of another time or place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from navnode import geometry as g
from navnode.types import (
    CArmPose,
    Operation,
    OperatorCommand,
    PatientPose,
    Registration,
    RegistrationRequest,
    Status,
    ToolPose,
)
from tests.conftest import slow
from tests.drills.on_table import OnTable
from tests.drills.test_carm_marker import worst_mm
from tests.drills.test_hands import statuses
from tests.loop.theatre import SCENARIO, Theatre, of


def even(mm_per_s: float) -> Callable[[float], float]:
    """From the sixth to the eighteenth second, as evenly as motors go."""

    def way_mm(at_s: float) -> float:
        x = np.clip(at_s - 6.0, 0.0, 12.0)
        rise = 0.5 * min(x, 1.0) ** 2 + max(x - 1.0, 0.0)
        return float(mm_per_s * (rise - 0.5 * max(x - 11.0, 0.0) ** 2))

    return way_mm


def to_and_fro(mm: float) -> Callable[[float], float]:
    return lambda at_s: float(mm * np.sin(0.8 * (np.clip(at_s, 6.0, 6.0 + 4 * np.pi) - 6.0)))


def on_table(way_mm: Callable[[float], float]) -> Theatre:
    theatre = Theatre()
    theatre.scenario = OnTable(SCENARIO.isocentre_mm, SCENARIO.targets_mm, way_mm=way_mm)
    theatre.run(5.5)
    assert statuses(theatre.run(0.4)) == {Status.VALID}
    return theatre


def late(theatre: Theatre, seconds: float) -> Callable[[RegistrationRequest], Registration]:
    return lambda request: theatre.registered(theatre.scenario.volume_from_carm(theatre.exposed_s(request) - seconds))


def held(theatre: Theatre, pictures: int) -> Callable[[RegistrationRequest], Registration]:
    """Each picture is shown so many times, with other noise."""

    def register(request: RegistrationRequest) -> Registration:
        at = np.floor(theatre.exposed_s(request) * 10 / pictures + 1e-6) * pictures / 10
        return theatre.registered(theatre.scenario.volume_from_carm(float(at)))

    return register


@pytest.mark.risk("wrong-image")
@pytest.mark.parametrize("way_mm", [even(15.0), slow(even(30.0)), to_and_fro(20.0)])
@pytest.mark.parametrize("seconds", [0.12, slow(0.2), 0.26])
def test_pictures_that_become_late_while_the_table_moves(way_mm, seconds):
    """Speed times delay looks like a marker that slid, as long as the speed lasts."""
    theatre = on_table(way_mm)
    theatre.register = late(theatre, seconds)
    moving = theatre.run(12.0)
    assert worst_mm(moving) < 2.0
    assert Status.DEGRADED in statuses(moving)
    theatre.register = theatre.truly
    assert worst_mm(theatre.run(6.0)) < 2.0
    assert statuses(theatre.run(1.0)) == {Status.VALID}, "nothing moved, and nobody has to turn the C-arm or accept"


@pytest.mark.risk("wrong-image")
def test_pictures_that_are_each_shown_four_times():
    theatre = on_table(to_and_fro(20.0))
    theatre.register = held(theatre, 4)
    assert worst_mm(theatre.run(10.0)) < 2.0


@pytest.mark.parametrize("mm", [(3.3, 0.0), (0.0, -3.0), slow((2.5, 2.5)), slow((6.0, 0.0))])
@pytest.mark.long
def test_a_picture_that_is_displaced_on_its_display(theatre, mm):
    """It turns with the C-arm, as what moved on it; the tracker saw nothing of the patient's marker."""
    moved = g.rigid(None, (*mm, 0.0))
    theatre.register = lambda request: theatre.registered(
        theatre.scenario.volume_from_carm(theatre.exposed_s(request)) @ moved
    )
    resting = theatre.run(3.0)
    assert worst_mm(resting) < 2.0 and worst_mm(theatre.run(24.0)) < 2.0
    told = {pose.validity.reason for pose in of(ToolPose, resting)}
    assert any("40 degrees" in reason for reason in told)
    carms = [pose.validity.status for pose in of(CArmPose, resting)]
    assert carms[-1] is not Status.VALID, "nor is the C-arm where the picture says"
    theatre.register = theatre.truly
    assert worst_mm(theatre.run(8.0)) < 2.0
    assert statuses(theatre.run(1.0)) == {Status.VALID}


def elsewhere(theatre: Theatre, mm: tuple[float, float, float]) -> Callable[[RegistrationRequest], Registration]:
    moved = g.rigid(None, mm)
    return lambda request: theatre.registered(moved @ theatre.scenario.volume_from_carm(theatre.exposed_s(request)))


@pytest.mark.risk("wrong-image")
@pytest.mark.parametrize("mm", [(0.0, 0.0, 36.0), slow((14.0, 0.0, 0.0)), slow((0.0, -25.0, 10.0))])
@pytest.mark.long
def test_pictures_of_another_time_agree_with_each_other_and_are_not_believed(theatre, mm):
    """Of an earlier run, or of the table elsewhere. No marker moved, so he did not either."""
    theatre.register = elsewhere(theatre, mm)
    shown = theatre.run(24.0)
    assert worst_mm(shown) < 2.0, "from no side"
    assert "accept it if he did" in of(ToolPose, shown)[-1].validity.reason
    theatre.register = theatre.truly
    assert worst_mm(theatre.run(6.0)) < 2.0
    assert statuses(theatre.run(1.0)) == {Status.VALID}


def test_the_operator_may_say_that_the_patient_did_move(theatre):
    theatre.register = elsewhere(theatre, (0.0, 0.0, 36.0))
    theatre.run(4.0)
    theatre.feed(OperatorCommand(Operation.ACCEPT_REGISTRATION, "", theatre.now_ns))
    theatre.run(1.0)
    assert {pose.validity.status for pose in of(PatientPose, theatre.run(1.0))} == {Status.VALID}


def test_a_marker_that_was_hidden_explains_it(theatre):
    theatre.hidden = {"PatientToTracker"}
    theatre.run(1.0)
    theatre.hidden = set()
    theatre.register = elsewhere(theatre, (0.0, 0.0, 36.0))
    theatre.run(5.0)
    assert {pose.validity.status for pose in of(PatientPose, theatre.run(1.0))} == {Status.VALID}


@pytest.mark.parametrize("x_rays_every", [20, 50])
def test_a_marker_that_jumped_explains_no_picture_of_later(x_rays_every):
    """Its jump was settled; the tracker is a noisy one. Then the picture is displaced on its display."""
    theatre = on_table(lambda at_s: 0.0)
    theatre.noise = np.array([SCENARIO.noise_rad] * 3 + [SCENARIO.noise_mm] * 3)
    theatre.frames_every = x_rays_every
    theatre.run(6.0)
    theatre.xray, theatre.moved_patient_marker = False, g.rigid(None, (4.0, -5.0, 3.0))
    theatre.run(5.0)
    theatre.xray = True
    theatre.run(8.0)
    beside = g.rigid(None, (0.0, 9.0, 0.0))
    theatre.register = lambda request: theatre.registered(theatre.truly(request).volume_from_carm @ beside)
    assert worst_mm(theatre.run(25.0)) < 2.0
