"""The same faults at other rates, one after the other, and while clocks are set: none is VALID and wrong, or lasts."""

from __future__ import annotations

import dataclasses

import pytest

from navnode import geometry as g
from navnode.simulation.scenario import CARM_DEVICE, PATIENT_DEVICE
from navnode.types import CArmPose, Frame, Operation, OperatorCommand, RegisteredFrame, Status, ToolPose, TrackedPose
from tests.drills.rated import Rated
from tests.loop.theatre import of

BOTH = {"DrillToTracker", "ProbeToTracker"}
ALL = {PATIENT_DEVICE, CARM_DEVICE, *BOTH}


def two_tools(hz: float = 100, away_mm: float = 66.0) -> Rated:
    room = Rated(hz, 10, {"Drill": (0.0, 0.0, 0.0), "Probe": (away_mm, 0.0, 0.0)})
    room.run(5.0)
    assert room.verdict("Drill").status is room.verdict("Probe").status is Status.VALID
    return room


def usable(outputs: list[object]) -> list[bool]:
    return [frame.validity.usable for frame in of(RegisteredFrame, outputs)]


# --- the patient's marker --------------------------------------------------------------------------------------------


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize(
    ("hz", "mm", "took_s"),
    [(22, 10, 0), (25, 8, 0), (30, 7, 0), (50, 4, 0), (60, 3.2, 0), (100, 6, 0.04), (100, 20, 0.12), (200, 8, 0.03)],
)
def test_a_bump_in_sight(hz, mm, took_s):
    room = Rated(hz)
    room.run(5.0)
    room.xray = False
    steps = max(1, round(took_s * hz))
    for step in range(steps):
        room.moved_patient_marker = g.rigid(None, (mm * (step + 1) / steps, 0.0, 0.0))
        room.run(1 / hz)
    assert room.verdict().status is not Status.VALID
    assert room.wrong_mm(room.run(3.0)) == 0


@pytest.mark.risk("marker-moved")
@pytest.mark.parametrize(("delay_s", "xrays_hz"), [(0.1, 25), (0.6, 25), (0.8, 10), (1.2, 25)])
@pytest.mark.parametrize("hidden_s", [0.0, 0.3])
@pytest.mark.long
def test_xrays_of_before_a_bump_confirm_nothing(delay_s, xrays_hz, hidden_s):
    """They are on their way while the marker moves, and show where it was."""
    room = Rated(100, xrays_hz)
    room.xray_delay_ns = round(delay_s * 1e9)
    room.run(10.0)
    assert room.verdict().status is Status.VALID
    if hidden_s:
        room.hidden = {PATIENT_DEVICE}
        room.run(hidden_s)
        room.hidden = set()
    room.moved_patient_marker = g.rigid(None, (15.0, 0.0, 0.0))
    assert room.wrong_mm(room.run(8.0)) < 5.0
    assert room.verdict().status is Status.VALID


@pytest.mark.long
def test_blows_of_a_hammer_do_not_make_xrays_old():
    """Three jolts a second, and X-rays that arrive 0.4 s late: DEGRADED, not without X-rays."""
    room = Rated(100, 8)
    room.xray_delay_ns = 400_000_000
    room.run(10.0)
    for blow in range(3 * 40):
        room.moved_patient_marker = g.rigid(None, (4.0 * (blow % 2), 0.0, 0.0))
        room.run(1 / 3)
    assert room.pipeline.state().registration.status is Status.DEGRADED


# --- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.risk("tools-exchanged")
@pytest.mark.parametrize("hz", [20, 30, 50, 100, 250])
@pytest.mark.parametrize("away_mm", [40.0, 66.0, 120.0])
@pytest.mark.long
def test_tools_exchanged_in_sight(hz, away_mm):
    """Between the poses of slow trackers a hand may move farther than the tools are apart."""
    room = two_tools(hz, away_mm)
    room.exchange("Drill", "Probe")
    after = room.run(2.0)
    assert room.wrong_mm(after, "Drill") < 5 and room.wrong_mm(after, "Probe") < 5
    assert room.verdict().status is Status.INVALID and "exchanged" in room.verdict().reason


@pytest.mark.risk("tools-exchanged")
@pytest.mark.parametrize("later_s", [0.1, 0.3, 1.0, 3.0])
@pytest.mark.long
def test_tools_exchanged_one_after_the_other(later_s):
    room = two_tools()
    room.labels["Drill"] = "Probe"
    after = room.run(later_s)
    room.labels["Probe"] = "Drill"
    after += room.run(4.0)
    assert room.wrong_mm(after, "Drill") < 5 and room.wrong_mm(after, "Probe") < 5
    assert "exchanged" in room.verdict("Drill").reason and "exchanged" in room.verdict("Probe").reason


@pytest.mark.risk("tools-exchanged")
@pytest.mark.parametrize(("hidden_s", "between_s"), [(0.3, 0.3), (0.5, 0.5), (1.0, 0.3)])
@pytest.mark.long
def test_tools_hidden_and_exchanged_one_after_the_other(hidden_s, between_s):
    room = two_tools()
    room.hidden = {"DrillToTracker"}
    room.run(hidden_s)
    room.hidden, room.labels["Drill"] = set(), "Probe"
    after = room.run(between_s)
    assert "came back where Probe is" in room.verdict().reason
    room.hidden = {"ProbeToTracker"}
    after += room.run(hidden_s)
    room.hidden, room.labels["Probe"] = set(), "Drill"
    after += room.run(4.0)
    assert room.wrong_mm(after, "Drill") < 5 and room.wrong_mm(after, "Probe") < 5
    assert "exchanged" in room.verdict("Drill").reason


def test_tools_that_met_are_two_when_they_part():
    """A probe that is laid down beside the drill while nobody sees it, and taken up again."""
    room = two_tools()
    room.hidden = {"ProbeToTracker"}
    room.run(1.0)
    room.places_mm["Probe"] = (5.0, 0.0, 0.0)
    room.hidden = set()
    room.run(1.0)
    assert room.verdict("Probe").status is Status.DEGRADED and room.verdict("Drill").status is Status.VALID
    for step in range(100):
        room.places_mm["Probe"] = (5.0 + 0.6 * step, 0.0, 0.0)
        room.run(0.01)
    assert room.verdict("Probe").status is Status.VALID


def test_a_reflection_is_forgotten_where_nothing_else_explains_it():
    """One tool: its marker is seen 250 mm away for a moment, is hidden, and comes back in the hand, elsewhere."""
    room = Rated(100, 10)
    room.run(5.0)
    room.places_mm["Drill"] = (250.0, 0.0, 0.0)
    room.run(0.3)
    room.hidden = {"DrillToTracker"}
    room.run(1.0)
    room.hidden, room.places_mm["Drill"] = set(), (140.0, 0.0, 0.0)
    room.run(0.5)
    assert room.verdict().status is not Status.VALID
    room.run(4.0)
    assert room.verdict().status is Status.VALID


@pytest.mark.risk("tools-exchanged")
def test_a_doubt_is_not_ended_by_what_came_after_it():
    """Exchanged while hidden, and brought to where both might be either; hidden again, and back where they were."""
    room = two_tools(away_mm=60.0)
    room.hidden = set(BOTH)
    room.run(1.0)
    room.places_mm = {"Drill": (0.0, 80.0, 0.0), "Probe": (60.0, 80.0, 0.0)}
    room.places_mm["Drill"], room.places_mm["Probe"] = (30.0, 80.0, 0.0), (30.0, -20.0, 0.0)
    room.exchange("Drill", "Probe")
    room.hidden = set()
    room.run(2.0)
    assert room.verdict("Drill").status is not Status.VALID and room.verdict("Probe").status is not Status.VALID
    room.hidden = set(BOTH)
    room.run(1.0)
    room.places_mm["Probe"] = (30.0, -60.0, 0.0)
    room.hidden = set()
    after = room.run(4.0)
    assert room.wrong_mm(after, "Drill") < 5 and room.wrong_mm(after, "Probe") < 5


@pytest.mark.risk("tools-exchanged")
def test_one_marker_under_two_names_stays_in_doubt():
    room = two_tools()
    room.labels["Drill"] = "Probe"
    assert room.wrong_mm(room.run(20.0), "Drill") < 5
    assert room.verdict("Drill").status is Status.DEGRADED


@pytest.mark.risk("tools-exchanged")
@pytest.mark.parametrize("first", ["tracker", "hands"])
def test_only_the_operator_ends_an_exchange(first):
    """Hands that cross while hidden look like a second exchange, and the other way round."""
    room = two_tools(away_mm=60.0)
    after = []
    for who in (first, "hands" if first == "tracker" else "tracker"):
        room.hidden = set(BOTH)
        room.run(0.5)
        room.hidden = set()
        if who == "tracker":
            room.exchange("Drill", "Probe")
        else:
            room.places_mm["Drill"], room.places_mm["Probe"] = room.places_mm["Probe"], room.places_mm["Drill"]
        after = room.run(3.0)
        assert room.wrong_mm(after, "Drill") < 5 and room.wrong_mm(after, "Probe") < 5
    room.exchange("Drill", "Probe")  # the tracker is itself again
    room.run(1.0)
    for tool in ("Drill", "Probe"):
        room.feed(OperatorCommand(Operation.CONFIRM_TOOL, tool, room.now_ns))
    room.run(1.0)
    assert room.verdict("Drill").status is room.verdict("Probe").status is Status.VALID


@pytest.mark.risk("tools-exchanged")
@pytest.mark.parametrize("swaps", [("AB", "BC", "BC"), ("AB", "BC", "AB"), ("AB", "AC", "BC")], ids=" ".join)
def test_what_three_tools_exchanged_is_not_forgotten(swaps):
    room = Rated(100, 10, {"A": (0.0, 0.0, 0.0), "B": (80.0, 0.0, 0.0), "C": (0.0, 80.0, 0.0)})
    room.run(5.0)
    for one, other in swaps:
        room.exchange(one, other)
        after = room.run(1.5)
        assert max(room.wrong_mm(after, tool) for tool in "ABC") < 5
    mistaken = [tool for tool in "ABC" if room.labels[tool] != tool]
    assert mistaken and all(room.verdict(tool).status is Status.INVALID for tool in mistaken)


@pytest.mark.risk("tools-exchanged")
@pytest.mark.parametrize("set_s", [-10.0, -1.0, -0.2, 1.0])
@pytest.mark.parametrize("how", ["in sight", "hidden", "connecting again"])
@pytest.mark.long
def test_tools_exchanged_while_the_clock_is_set(set_s, how):
    room = two_tools()
    if how == "connecting again":
        room.disconnect()
        room.hidden, room.xray = set(ALL), False
        room.run(0.5)
        room.connect()
    elif how == "hidden":
        room.hidden = set(BOTH)
        room.run(0.3)
    room.hidden, room.xray = set(), True
    room.tracker_clock_ns = round(set_s * 1e9)
    room.exchange("Drill", "Probe")
    after = room.run(6.0)
    assert room.wrong_mm(after, "Drill") < 5 and room.wrong_mm(after, "Probe") < 5
    assert "exchanged" in room.verdict().reason


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize(("hz", "set_s"), [(100, -0.06), (60, -0.1), (30, -0.2), (20, -0.3)])
def test_a_clock_set_back_by_whole_periods(hz, set_s):
    room = two_tools(hz)
    room.tracker_clock_ns = round(set_s * 1e9)
    assert room.wrong_mm(room.run(3.0)) < 5
    assert room.verdict().status is Status.VALID


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize(("xrays_hz", "set_s"), [(1, -0.5), (2, -0.3), (4, -0.2), (2, -0.1), (10, -0.06)])
@pytest.mark.long
def test_the_clock_of_few_xrays_set_back(xrays_hz, set_s):
    room = Rated(50, xrays_hz)
    room.run(12 / xrays_hz + 6)
    room.xray_clock_ns = round(set_s * 1e9)
    after = room.run(max(10 / xrays_hz, 3.0))
    after = room.run(20 / xrays_hz)
    assert all(usable(after)) and room.pipeline.clocks.shift_ns == pytest.approx(-set_s * 1e9, abs=5e6)


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize("away", [{"DrillToTracker"}, {PATIENT_DEVICE}, {CARM_DEVICE}], ids=lambda away: min(away))
@pytest.mark.parametrize(("away_s", "set_s"), [(1.0, -0.5), (2.0, -1.0)])
@pytest.mark.long
def test_a_clock_set_back_while_nobody_looks(away, away_s, set_s):
    room = two_tools()
    room.hidden = set(away)
    room.run(away_s / 2)
    room.tracker_clock_ns = round(set_s * 1e9)
    room.run(away_s / 2)
    room.hidden = set()
    assert room.wrong_mm(room.run(6.0)) < 5
    assert room.verdict().status is Status.VALID


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize("late_s", [0.5, 1.4])
def test_what_is_late_after_a_silence_is_not_shown_as_new(late_s):
    """A sender whose queue stands full since a stall, or a clock that was set meanwhile: nothing tells which."""
    room = two_tools()
    room.hidden, room.xray = set(ALL), False
    room.run(1.5)
    room.hidden, room.xray, room.tracker_clock_ns = set(), True, -round(late_s * 1e9)
    room.run(0.5)
    after = room.run(20.0)
    assert not any(pose.validity.usable for pose in of(ToolPose, after))
    assert "poses arrive late" in room.pipeline.state().registration.reason
    room.disconnect()
    room.connect()
    room.run(6.0)
    assert room.verdict().status is Status.VALID


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize("again_s", [-0.3, 0.1])
@pytest.mark.long
def test_clocks_that_may_have_been_set_twice_are_related_by_nothing_but_xrays(again_s):
    """In pauses of fluoroscopy; then the C-arm moves."""
    room = Rated(100, 15)
    room.run(8.0)
    for set_s in (-1.0, again_s):
        room.xray = False
        room.run(4.0)
        room.xray, room.xray_clock_ns = True, room.xray_clock_ns + round(set_s * 1e9)
        room.run(3.0)
        clocks = room.pipeline.clocks
        assert not clocks.related or clocks.shift_ns == pytest.approx(-room.xray_clock_ns, abs=2e7)
    after = room.run(30.0)
    assert room.wrong_mm(after) < 2
    assert not clocks.related or clocks.shift_ns == pytest.approx(-room.xray_clock_ns, abs=2e7)


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize(("before_hz", "after_hz"), [(7.5, 15), (4, 8), (8, 30), (15, 7.5)])
@pytest.mark.long
def test_another_rate_with_another_delay_is_no_clock_that_was_set(before_hz, after_hz):
    room = Rated(100, before_hz)
    room.run(10.0)
    assert room.verdict().status is Status.VALID
    room.xrays_hz, room._xrays_sent = after_hz, round(room.time_s * after_hz)
    room.xray_delay_ns = 100_000_000
    after = room.run(10.0)
    assert sum(usable(after)) > 0.95 * len(usable(after))
    assert abs(room.pipeline.clocks.shift_ns) < 5e6 and room.verdict().status is Status.VALID


@pytest.mark.parametrize(("xrays", "ahead_s", "again"), [(1, 3600.0, False), (2, 60.0, True), (2, 10.0, True)])
def test_first_xrays_with_a_wrong_stamp(xrays, ahead_s, again):
    room = Rated(50, 10)
    if again:
        room.run(6.0)
        room.disconnect()
        room.connect()
    room.xray_clock_ns = round(ahead_s * 1e9)
    room.run(xrays / 10)
    room.xray_clock_ns = 0
    assert sum(usable(room.run(4.0))) > 30
    assert room.verdict().status is Status.VALID


@pytest.mark.risk("clock-set")
@pytest.mark.parametrize(("xrays_hz", "delay_s"), [(1, (0.5, 0.1)), (2, (0.4, 0.1)), (10, (0.3, 0.0))])
@pytest.mark.long
def test_a_delay_that_falls_is_no_clock_that_was_set(xrays_hz, delay_s):
    before_s, after_s = delay_s
    room = Rated(100, xrays_hz)
    room.xray_delay_ns = round(before_s * 1e9)
    room.run(12.0)
    room.xray_delay_ns = round(after_s * 1e9)
    room.run(max(8 / xrays_hz, 3.0))
    assert "less time" in " ".join(frame.validity.reason for frame in of(RegisteredFrame, room.outputs))
    assert all(usable(room.run(20 / xrays_hz))) and abs(room.pipeline.clocks.shift_ns) < 5e6


@pytest.mark.risk("clock-set")
@pytest.mark.long
def test_clocks_far_apart_are_related_by_two_xrays_a_second():
    room = Rated(100, 2)
    room.xray_clock_ns = 10_000_000_000
    room.run(40.0)
    assert room.pipeline.clocks.related and room.verdict().status is Status.VALID


# --- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.risk("frozen-input")
def test_a_source_that_repeats_its_last_message_is_silent():
    room = Rated(100, 25)
    room.run(6.5)
    room.xray, last = False, of(RegisteredFrame, room.outputs)[-1].frame
    said: list[object] = []
    for _ in range(12):
        said += room.run(1 / 30)
        said += room.feed(dataclasses.replace(last, received_ns=room.now_ns))
    assert not of(CArmPose, said)[-1].validity.usable


@pytest.mark.risk("frozen-input")
def test_pictures_sent_in_turn_are_no_exposures():
    room = Rated(100, 10)
    room.run(5.0)
    kept = [room.image() for _ in range(3)]
    room.xray, said = False, list[object]()
    for k in range(20):
        room.run(0.1)
        said += room.feed(Frame(kept[k % 3], room.now_ns, room.now_ns, 1000 + k, exposure_ns=5_000_000))
    assert not any(usable(said[-10:]))


@pytest.mark.risk("frozen-input")
def test_poses_sent_in_turn_were_not_measured():
    room = Rated(100, 10)
    room.run(5.0)
    held = []
    for _ in range(2):
        room.run(0.01)
        held.append(room.pipeline.tools.rings["DrillToTracker"]._poses[-1])
    room.hidden, after = {"DrillToTracker"}, list[object]()
    for k in range(200):
        after += room.run(0.01)
        after += room.feed(TrackedPose("DrillToTracker", held[k % 2], room.now_ns, room.now_ns))
    assert room.wrong_mm(after) < 5 and room.verdict().status is Status.INVALID
