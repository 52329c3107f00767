"""Hands, bumps and trackers that err: whatever happens to markers, no wrong overlay is VALID."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.simulation.scenario import CARM_DEVICE, MARKER_FROM_TOOLTIP, PATIENT_DEVICE
from navnode.types import Operation, OperatorCommand, PatientPose, Status, ToolPose, TrackedPose
from tests.conftest import slow
from tests.loop.theatre import SCENARIO, T0, Theatre, of

TOLERANCE_MM = 5.0


def tip_error_mm(pose: ToolPose) -> float:
    """From where the tool truly is."""
    true = SCENARIO.volume_from_tool((pose.validity.source_time_ns - T0) / 1e9)
    return float(np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3]))


def wrong_and_valid(outputs: list[object]) -> list[ToolPose]:
    """What must never be."""
    shown = [pose for pose in of(ToolPose, outputs) if pose.validity.status is Status.VALID]
    return [pose for pose in shown if tip_error_mm(pose) > TOLERANCE_MM]


def statuses(outputs: list[object]) -> set[Status]:
    return {pose.validity.status for pose in of(ToolPose, outputs)}


def bumped(mm: float, turned_rad: float = 0.0) -> np.ndarray:
    return g.rigid(g.rotation_exp(np.array([0.0, turned_rad, 0.0])), (mm, 0.0, 0.0))


# --- the patient's marker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mm", "turned_rad"), [(5.5, 0.0), (9.2, 0.0), (30.0, 0.0), (0.0, 0.05)])
@pytest.mark.parametrize("xray", [False, True], ids=["without X-rays", "while X-rays go on"])
def test_a_step_in_plain_sight(theatre, mm, turned_rad, xray):
    theatre.xray = xray
    theatre.run(0.05)
    theatre.moved_patient_marker = bumped(mm, turned_rad)
    after = theatre.run(3.0)
    assert not wrong_and_valid(after)
    if not xray:
        assert Status.VALID not in statuses(after)
        assert "marker jumped" in of(ToolPose, after)[-1].validity.reason


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize("mm", [3.2, 4.0, 5.0, 6.0])
def test_a_step_along_the_beam_while_xrays_go_on(theatre, mm):
    """One view hardly sees it, and agrees, more or less: that confirms nothing."""
    beam = SCENARIO.volume_from_carm(theatre.time_s)[:3, 2]
    theatre.moved_patient_marker = g.rigid(None, mm * (SCENARIO.volume_from_patient[:3, :3].T @ beam))
    after = theatre.run(8.0)
    shown = [pose for pose in of(ToolPose, after) if pose.validity.status is Status.VALID]
    assert shown and max(map(tip_error_mm, shown)) < 2.0


@pytest.mark.parametrize(("mm", "seconds"), [(4.0, 2.0), (8.0, 2.0), (4.0, 1.0), (6.0, 4.0), (5.0, 10.0)])
@pytest.mark.parametrize("way", [(1.0, 0.0, 0.0), slow((0.0, 1.0, 0.0)), slow((0.0, 0.0, 1.0)), "beam"], ids=str)
@pytest.mark.long
def test_a_marker_that_slides_is_doubted_before_it_matters(theatre, mm, seconds, way):
    """Too slow for tracking to show; the patient breathes, and X-rays go on."""
    if way == "beam":
        way = SCENARIO.volume_from_patient[:3, :3].T @ SCENARIO.volume_from_carm(theatre.time_s)[:3, 2]
    after: list[object] = []
    for step in range(round(seconds * 100)):
        theatre.moved_patient_marker = g.rigid(None, np.array(way) * mm * (step + 1) / (seconds * 100))
        after += theatre.run(0.01)
    assert Status.DEGRADED in statuses(after)
    after += theatre.run(6.0)
    shown = [pose for pose in of(ToolPose, after) if pose.validity.status is Status.VALID]
    assert max(map(tip_error_mm, shown)) < 2.0
    assert statuses(theatre.run(0.5)) == {Status.VALID}


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize(
    ("hundredths", "mm", "seconds"),
    [(4, 4.0, 1.0), (4, 6.0, 4.0), (20, 4.0, 1.0), (20, 4.0, 2.0), (20, 6.0, 4.0), (50, 6.0, 4.0), (50, 5.0, 10.0)],
)
@pytest.mark.parametrize("stepped", [False, True], ids=["", "after a step"])
@pytest.mark.long
def test_a_slide_shows_however_often_xrays_come(theatre, hundredths, mm, seconds, stepped):
    """A machine that is busy, or fluoroscopy with few pulses."""
    theatre.frames_every = hundredths
    theatre.run(10.0)
    began = bumped(6.7 if stepped else 0.0)
    theatre.moved_patient_marker = began
    while statuses(theatre.run(0.5)) != {Status.VALID}:
        assert theatre.time_s < 40.0
    after: list[object] = []
    for step in range(round(seconds * 100)):
        theatre.moved_patient_marker = began @ g.rigid(None, (0.0, mm * (step + 1) / (seconds * 100), 0.0))
        after += theatre.run(0.01)
    assert statuses(after[-50:]) == {Status.DEGRADED}
    shown = [pose for pose in of(ToolPose, after + theatre.run(6.0)) if pose.validity.status is Status.VALID]
    assert max(map(tip_error_mm, shown)) < 2.0


@pytest.mark.parametrize("hundredths", [4, 10, 20], ids=lambda hundredths: f"{100 / hundredths:g} X-rays a second")
@pytest.mark.long
def test_where_a_marker_is_after_a_step_is_known_as_well_as_before(theatre, hundredths):
    """By the difference between X-rays before and after it: what one view does not show was learnt from others."""
    theatre.frames_every = hundredths
    theatre.run(10.0)
    theatre.moved_patient_marker = bumped(6.7, 0.02)
    after = theatre.run(max(1.0, 0.1 * hundredths))
    shown = [pose for pose in of(ToolPose, after) if pose.validity.status is Status.VALID]
    assert shown and max(map(tip_error_mm, shown)) < 0.3


@pytest.fixture
def noisy() -> Theatre:
    """A tracker as the demo's: the C-arm's marker, 0.4 m away, shows the anatomy with a noise of 0.35 mm."""
    theatre = Theatre()
    theatre.noise = np.array([SCENARIO.noise_rad] * 3 + [SCENARIO.noise_mm] * 3)
    theatre.run(10.0)
    return theatre


@pytest.mark.long
def test_noise_is_not_taken_for_a_slide(noisy):
    assert statuses(noisy.run(64.0)) == {Status.VALID}


@pytest.mark.parametrize(("mm", "seconds"), [(4.0, 2.0), (6.0, 4.0), (5.0, 10.0)])
@pytest.mark.parametrize("way", [slow((1.0, 0.0, 0.0)), (0.0, 1.0, 0.0), slow((0.0, 0.0, 1.0))], ids=str)
@pytest.mark.long
def test_a_slide_shows_through_noise(noisy, mm, seconds, way):
    errors_mm, seen = [], set()
    for step in range(round((seconds + 6.0) * 100)):
        noisy.moved_patient_marker = g.rigid(None, np.array(way) * mm * min(1.0, (step + 1) / (seconds * 100)))
        shown = of(PatientPose, noisy.run(0.01))
        seen |= {pose.validity.status for pose in shown}
        true = SCENARIO.volume_from_patient @ noisy.moved_patient_marker
        errors_mm += [
            np.linalg.norm((pose.volume_from_patient @ g.inverse(true) - np.eye(4)) @ [*SCENARIO.isocentre_mm, 1.0])
            for pose in shown
            if pose.validity.status is Status.VALID
        ]
    assert Status.DEGRADED in seen
    assert max(errors_mm) < 2.0
    assert Status.VALID in statuses(noisy.run(1.0))


@pytest.mark.parametrize("hidden_s", [0.03, 0.08, 0.3, 0.9, 3.0])
@pytest.mark.parametrize("mm", [6.0, 14.0, 30.0])
def test_a_bump_while_nobody_sees(theatre, hidden_s, mm):
    theatre.xray = False
    theatre.hidden = {PATIENT_DEVICE}
    theatre.run(hidden_s)
    theatre.hidden, theatre.moved_patient_marker = set(), bumped(mm)
    after = theatre.run(2.0)
    assert not wrong_and_valid(after) and Status.VALID not in statuses(after)
    assert "came back" in of(ToolPose, after)[-1].validity.reason


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize("seen_s", [0.01, 0.02, 0.03])
@pytest.mark.parametrize(("hidden_s", "mm"), [(0.04, 6.0), (0.3, 14.0), (0.9, 30.0)])
def test_a_bump_just_after_a_short_shadow(theatre, seen_s, hidden_s, mm):
    theatre.xray = False
    theatre.hidden = {PATIENT_DEVICE}
    theatre.run(0.04)
    theatre.hidden = set()
    theatre.run(seen_s)
    theatre.hidden = {PATIENT_DEVICE}
    theatre.run(hidden_s)
    theatre.hidden, theatre.moved_patient_marker = set(), bumped(mm)
    after = theatre.run(2.0)
    assert not wrong_and_valid(after) and Status.VALID not in statuses(after)


@pytest.mark.risk("marker-moved")
def test_xrays_find_where_the_patient_is_after_a_bump(theatre):
    theatre.moved_patient_marker = bumped(15.0)
    assert not wrong_and_valid(theatre.run(10.0))
    assert statuses(theatre.run(0.5)) == {Status.VALID}


@pytest.mark.risk("marker-moved")
def test_an_operator_may_confirm_that_nothing_moved(theatre):
    theatre.xray = False
    theatre.hidden = {PATIENT_DEVICE}
    theatre.run(0.8)  # breathing goes on, and nobody knows that it is only that
    theatre.hidden = set()
    after = theatre.run(0.5)
    if Status.VALID not in statuses(after):
        theatre.feed(OperatorCommand(Operation.ACCEPT_REGISTRATION, "", theatre.now_ns))
    assert statuses(theatre.run(0.3)) == {Status.VALID}


def test_breathing_tables_and_short_shadows_cost_nothing(theatre):
    """A table that drives with 100 mm/s, and a shadow of three samples once a second: right, and VALID all the time."""
    theatre.xray = True
    seen: set[Status] = set()
    for _ in range(4):
        theatre.hidden = {"DrillToTracker"}
        theatre.run(0.03)
        theatre.hidden = set()
        after = theatre.run(0.97)
        assert not wrong_and_valid(after)
        seen |= {pose.validity.status for pose in of(ToolPose, after)}
    assert seen == {Status.VALID}


# --- tools -----------------------------------------------------------------------------------------------------------


class TwoTools(Theatre):
    """A probe beside the drill, 66 mm from it; the tracker may exchange them."""

    def __init__(self) -> None:
        rows = [[float(x) for x in row] for row in MARKER_FROM_TOOLTIP]
        tools = [
            {"name": "Drill", "device": "DrillToTracker", "marker_from_tooltip": rows},
            {"name": "Probe", "device": "ProbeToTracker", "marker_from_tooltip": rows},
        ]
        super().__init__(tools=tools)
        self.exchanged = self.mistaken = False
        self.away = np.array([66.0, 0.0, 0.0])

    def run(self, seconds: float) -> list[object]:
        before = len(self.outputs)
        for _ in range(round(seconds * 100)):
            hidden, self.hidden = self.hidden, self.hidden | {"DrillToTracker"}
            super().run(0.01)
            self.hidden = hidden
            drill = SCENARIO.tracker_from_marker("DrillToTracker", self.time_s)
            probe = drill.copy()
            probe[:3, 3] += self.away
            poses = (probe, drill) if self.exchanged else (drill, probe)
            if self.mistaken:  # the probe is reported as the drill, and the drill is not seen
                poses, hidden = (probe, probe), hidden | {"ProbeToTracker"}
            for device, pose in zip(("DrillToTracker", "ProbeToTracker"), poses, strict=True):
                if device not in hidden:
                    self.feed(TrackedPose(device, self.measured(pose), self.now_ns, self.now_ns))
        return self.outputs[before:]


def of_tool(name: str, outputs: list[object]) -> list[ToolPose]:
    return [pose for pose in of(ToolPose, outputs) if pose.tool == name]


@pytest.fixture
def two() -> TwoTools:
    two = TwoTools()
    two.run(4.0)
    assert statuses(two.run(0.5)) == {Status.VALID}
    return two


KNOCKS = {
    "38 mm": g.rigid(None, (30.0, -20.0, 12.0)),
    "1 degree": g.rigid(g.rotation_exp(np.array([0.004, 0.0175, -0.006])), (5.0, 3.0, 8.0)),
    "8 mm": g.rigid(None, (0.0, 8.0, 0.0)),
}


@pytest.mark.parametrize("knock", KNOCKS)
@pytest.mark.parametrize("hidden", [set(), {"ProbeToTracker"}], ids=["all in sight", "one tool hidden"])
def test_a_camera_that_is_knocked_costs_no_tool(two, knock, hidden):
    """All markers jump alike: nobody has to say which tool is which."""
    two.hidden = hidden
    two.run(0.1)
    two.now_from_before = KNOCKS[knock]
    after = two.run(0.2)
    two.hidden = set()
    after += two.run(2.5)
    assert not wrong_and_valid(of_tool("Drill", after))
    assert not any("confirm which" in pose.validity.reason for pose in of(ToolPose, after))
    assert statuses(two.run(0.3)) == {Status.VALID}


@pytest.mark.parametrize("knock", KNOCKS)
def test_tools_exchanged_as_the_camera_is_knocked_are_named(two, knock):
    two.now_from_before, two.exchanged = KNOCKS[knock], True
    after = two.run(2.0)
    assert not wrong_and_valid(after)
    for name in ("Drill", "Probe"):
        last = of_tool(name, after)[-1].validity
        assert last.status is Status.INVALID and "exchanged" in last.reason


@pytest.mark.parametrize("hidden_s", [0.0, 0.04, 0.5, 2.0])
@pytest.mark.parametrize("away_mm", [25.0, 66.0, 150.0])
@pytest.mark.long
def test_exchanged_tools_are_named_and_invalid(two, hidden_s, away_mm):
    two.away = np.array([away_mm, 0.0, 0.0])
    two.run(1.0)
    if hidden_s:
        two.hidden = {"DrillToTracker", "ProbeToTracker"}
        two.run(hidden_s)
    two.hidden, two.exchanged = set(), True
    after = two.run(3.0)
    assert not wrong_and_valid(of_tool("Drill", after))
    if hidden_s <= 0.5:
        last = of_tool("Drill", after)[-1].validity
        assert last.status is Status.INVALID and "exchanged" in last.reason and "Probe" in last.reason
    two.exchanged = False
    assert not wrong_and_valid(of_tool("Drill", two.run(1.0))), "and back again"


@pytest.mark.parametrize("blink_s", [0.03, 0.06, 0.3])
@pytest.mark.parametrize("away_mm", [40.0, 66.0, 150.0])
def test_a_shadow_does_not_make_the_probe_a_drill(two, away_mm, blink_s):
    two.away = np.array([away_mm, 0.0, 0.0])
    two.run(1.0)
    two.hidden = {"DrillToTracker", "ProbeToTracker"}
    two.run(0.2)
    two.hidden, two.mistaken = set(), True
    after = two.run(0.5)
    for _ in range(3):
        two.hidden = {"DrillToTracker"}
        two.run(blink_s)
        two.hidden = set()
        after += two.run(0.5)
    assert not wrong_and_valid(of_tool("Drill", after))
    two.mistaken = False
    assert not wrong_and_valid(of_tool("Drill", two.run(1.0)))


@pytest.mark.risk("tools-exchanged")
def test_a_shadow_does_not_excuse_a_jump(two):
    two.mistaken = True
    after = two.run(0.3)
    two.hidden = {"DrillToTracker"}
    two.run(0.03)
    two.hidden = set()
    after += two.run(0.5)
    assert not wrong_and_valid(of_tool("Drill", after))


@pytest.mark.risk("tools-exchanged")
@pytest.mark.long
def test_the_operator_says_which_is_which(two):
    two.exchanged = True
    two.run(1.0)
    two.exchanged = False
    two.run(1.0)
    two.hidden = {"DrillToTracker", "ProbeToTracker"}
    two.run(60.0)
    two.hidden = set()
    two.run(0.5)
    two.feed(OperatorCommand(Operation.CONFIRM_TOOL, "Drill", two.now_ns))
    two.run(2.0)
    assert of_tool("Drill", two.run(0.2))[-1].validity.status is Status.VALID


def test_one_tool_hidden_beside_another_is_believed_again(two):
    two.hidden = {"DrillToTracker"}
    two.run(1.0)
    two.hidden = set()
    two.run(0.2)
    assert {p.validity.status for p in of_tool("Drill", two.run(0.5))} == {Status.VALID}


# --- frozen, impossible ----------------------------------------------------------------------------------------------


@pytest.mark.risk("frozen-input")
@pytest.mark.parametrize("device", ["DrillToTracker", PATIENT_DEVICE, CARM_DEVICE])
def test_a_pose_repeated_under_new_stamps_is_frozen(theatre, device):
    theatre.xray = device == CARM_DEVICE
    held = theatre.measured(SCENARIO.tracker_from_marker(device, theatre.time_s))
    theatre.hidden = {device}
    after: list[object] = []
    for _ in range(400):
        after += theatre.run(0.01)
        after += theatre.feed(TrackedPose(device, held, theatre.now_ns, theatre.now_ns))
    assert not wrong_and_valid(after)
    last = of(ToolPose, after)[-1].validity
    if device != CARM_DEVICE:
        assert last.status is Status.INVALID and last.reason


def test_a_tracker_that_stutters_costs_nothing(two):
    """All markers pause together for 30 ms, ten times: the tools are where they would have got."""
    seen: set[Status] = set()
    for _ in range(10):
        hidden, two.hidden = two.hidden, {"DrillToTracker", "ProbeToTracker", PATIENT_DEVICE, CARM_DEVICE}
        two.run(0.03)
        two.hidden = hidden
        seen |= {pose.validity.status for pose in of_tool("Drill", two.run(0.4))}
    assert seen == {Status.VALID}
