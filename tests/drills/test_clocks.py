"""Clocks that drift and clocks that are set: recognised for what they are, and lived with."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.clock import Lateness, Stamp
from navnode.loop.clocks import Clocks
from navnode.simulation.scenario import CARM_DEVICE
from navnode.types import (
    CArmPose,
    Frame,
    PatientPose,
    RegisteredFrame,
    SourceState,
    Status,
    Tick,
    ToolPose,
    TrackedPose,
)
from tests.conftest import slow
from tests.loop.theatre import NOISE, SCENARIO, SOURCE, T0, Theatre, of

MS = 1_000_000
S = 1_000_000_000


@pytest.mark.parametrize("ppm", [-300, -200, 200, 300])
@pytest.mark.long
def test_a_clock_that_drifts_is_followed_for_an_hour(ppm):
    rng, lateness, worst_ns = np.random.default_rng(0), Lateness(), 0
    for k in range(3600 * 20):
        true_ns = k * 50 * MS
        received_ns = true_ns + round((5 + rng.exponential(3)) * MS)
        stamp_ns = true_ns + round(true_ns * ppm * 1e-6)
        assert lateness.observe(stamp_ns, received_ns) in (Stamp.LEARNING, Stamp.EXPECTED)
        worst_ns = max(worst_ns, lateness.age_ns(stamp_ns, received_ns))
    assert worst_ns < 60 * MS, "nothing but the jitter counts as delay"


@pytest.mark.risk("clock-set")
def test_a_delay_that_grows_faster_than_clocks_drift_is_a_delay():
    lateness = Lateness()
    for k in range(120 * 20):
        true_ns = k * 50 * MS
        lateness.observe(true_ns, true_ns + 5 * MS + round(true_ns * 2e-3))
    assert lateness.age_ns(true_ns, true_ns + 245 * MS) > 150 * MS


@pytest.mark.parametrize("ppm", [-100, 100])
def test_images_stay_paired_with_poses_while_the_two_clocks_drift_apart(ppm):
    clocks = Clocks("XRay", CARM_DEVICE, [CARM_DEVICE])
    rng, off_ns = np.random.default_rng(1), []
    for k in range(1800 * 10):
        true_ns = T0 + k * 100 * MS
        drifted_ns = true_ns + round((true_ns - T0) * ppm * 1e-6)
        pose = TrackedPose(CARM_DEVICE, np.eye(4), true_ns, true_ns + round((4 + rng.exponential(1)) * MS))
        frame = Frame(np.zeros((1, 1), np.uint16), drifted_ns, true_ns + round((40 + rng.exponential(2)) * MS))
        clocks.advance(pose)
        clocks.stamp(CARM_DEVICE, pose.timestamp_ns, pose.received_ns)
        clocks.advance(frame)
        assert clocks.mistimed(frame, 0) == ("", False)
        assert clocks.drifted() == ""
        off_ns.append(clocks.in_tracker_time_ns(drifted_ns) - true_ns)
    assert np.abs(off_ns).max() < 12 * MS and abs(drifted_ns - true_ns) > 170 * MS


def true_tip_error_mm(pose: ToolPose, clock_ns: int) -> float:
    true = SCENARIO.volume_from_tool((pose.validity.source_time_ns - clock_ns - T0) / 1e9)
    return float(np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3]))


@pytest.mark.parametrize("step_s", [-3600.0, -1.0, -0.2, 0.2, 1.0, 3600.0])
@pytest.mark.parametrize("whose", ["tracker", "images", "both"])
@pytest.mark.long
def test_a_clock_that_is_set_costs_a_moment_and_no_reconnecting(step_s, whose):
    theatre = Theatre()
    theatre.run(5.0)
    step_ns = round(step_s * S)
    theatre.tracker_clock_ns = step_ns if whose != "images" else 0
    theatre.xray_clock_ns = step_ns if whose != "tracker" else 0
    at = len(theatre.outputs)
    theatre.run(8.0)
    shown = [pose for pose in of(ToolPose, theatre.outputs[at:]) if pose.volume_from_tool is not None]
    stepped = [pose for pose in shown if pose.validity.source_time_ns > 0]
    errors = [min(true_tip_error_mm(p, 0), true_tip_error_mm(p, theatre.tracker_clock_ns)) for p in stepped]
    assert max(errors) < 2.0, "wherever it is shown, it is right"
    assert {pose.validity.status for pose in of(ToolPose, theatre.run(0.5))} == {Status.VALID}
    assert of(CArmPose, theatre.outputs)[-1].volume_from_carm is not None


def test_three_late_images_at_the_start_are_forgotten_when_they_come_as_they_should():
    theatre = Theatre()
    theatre.xray = False
    theatre.run(0.5)
    for k in range(3):
        stamp = theatre.now_ns - 600 * MS + k * 100 * MS
        theatre.feed(Frame(theatre.image(), stamp, theatre.now_ns, 500 + k))
    theatre.xray = True
    theatre.run(6.0)
    assert {pose.validity.status for pose in of(ToolPose, theatre.run(0.5))} == {Status.VALID}


def test_a_delay_is_not_taken_for_a_clock():
    """The tracker falls silent for a while, and everything comes 400 ms late from then on."""
    theatre = Theatre()
    theatre.run(4.0)
    theatre.hidden = {"DrillToTracker"}
    theatre.run(0.4)
    for _ in range(200):
        theatre.run(0.01)
        late_ns = theatre.now_ns - 400 * MS
        pose = SCENARIO.tracker_from_marker("DrillToTracker", (late_ns - T0) / 1e9)
        theatre.feed(TrackedPose("DrillToTracker", theatre.measured(pose), late_ns, theatre.now_ns))
        theatre.feed(Tick(theatre.now_ns))
    after = [pose for pose in of(ToolPose, theatre.outputs) if pose.received_ns > theatre.now_ns - 1_900 * MS]
    assert not after and of(ToolPose, theatre.outputs)[-1].validity.status is Status.INVALID


@pytest.mark.risk("clock-set")
def test_frames_say_that_a_clock_was_set():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.xray_clock_ns = -2 * S
    reasons = [frame.validity.reason for frame in of(RegisteredFrame, theatre.run(1.5))]
    assert any("clock of the X-ray source was set" in reason for reason in reasons)


@pytest.mark.parametrize("apart_s", [-3600.0, -0.3, 0.1, 0.3, 2.0])
@pytest.mark.parametrize("whose", ["tracker", "images"])
@pytest.mark.long
def test_sources_that_connect_again_with_clocks_apart_are_related_again(apart_s, whose):
    """Clocks that drifted apart, or were set, while nobody was connected."""
    theatre = Theatre()
    theatre.run(5.0)
    theatre.feed(SourceState(SOURCE, False, "closed", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    apart_ns = round(apart_s * S)
    theatre.tracker_clock_ns = apart_ns if whose == "tracker" else 0
    theatre.xray_clock_ns = apart_ns if whose == "images" else 0
    frames = of(RegisteredFrame, theatre.run(1.0))
    assert not any(frame.validity.usable for frame in frames[:8]), "on a wrong offset"
    assert any("clocks moved apart" in frame.validity.reason for frame in frames)
    again = of(RegisteredFrame, theatre.run(2.5))[-1]
    assert again.validity.status is Status.VALID
    wrong = [f for f in of(RegisteredFrame, theatre.run(8.0)) if f.validity.status is not Status.VALID]
    assert not wrong, wrong[0].validity
    for pose in of(ToolPose, theatre.outputs[-400:]):
        assert pose.validity.status is Status.VALID and true_tip_error_mm(pose, theatre.tracker_clock_ns) < 2.0


def test_sources_that_connect_again_with_clocks_as_before_lose_no_time():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.xray_clock_ns = 300 * MS
    theatre.run(6.0)
    theatre.feed(SourceState(SOURCE, False, "closed", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    assert of(RegisteredFrame, theatre.run(1.0))[-1].validity.status is Status.VALID


@pytest.mark.risk("clock-set")
def test_images_that_travel_longer_after_connecting_again_are_not_placed_by_a_clock_that_was_not_set():
    """Delays and clocks look the same until the C-arm moves: X-rays that contradict tracking tell them apart."""
    theatre = Theatre()
    theatre.run(5.0)
    theatre.feed(SourceState(SOURCE, False, "closed", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    late_ns = 120 * MS
    theatre.xray_clock_ns = -late_ns

    def register(request):
        theatre.xray_clock_ns = 0
        try:
            return theatre.truly(request)
        finally:
            theatre.xray_clock_ns = -late_ns

    theatre.register = register
    shown = of(ToolPose, theatre.run(25.0))
    usable = [pose for pose in shown if pose.validity.status is Status.VALID]
    assert max(true_tip_error_mm(pose, 0) for pose in usable) < 2.0
    frames = of(RegisteredFrame, theatre.run(8.0))
    assert {frame.validity.status for frame in frames} == {Status.VALID}


APART_S = [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 60.0, 3600.0]


def errors_mm(outputs):
    """At the anatomy and at the drill's tip, of all that is VALID."""
    at_mm = np.append(SCENARIO.isocentre_mm, 1.0)
    patient_from_volume = np.linalg.inv(SCENARIO.volume_from_patient)
    patients = [pose for pose in of(PatientPose, outputs) if pose.validity.status is Status.VALID]
    tools = [pose for pose in of(ToolPose, outputs) if pose.validity.status is Status.VALID]
    offs_mm = [(pose.volume_from_patient @ patient_from_volume @ at_mm - at_mm)[:3] for pose in patients]
    return [np.linalg.norm(off_mm) for off_mm in offs_mm] + [true_tip_error_mm(pose, 0) for pose in tools]


@pytest.mark.parametrize("delay_ms", [slow(0), 40, slow(150)])
@pytest.mark.parametrize("apart_s", [sign * apart_s for apart_s in APART_S for sign in (-1, 1)])
@pytest.mark.long
def test_clocks_that_are_apart_from_the_start_are_related_by_what_xrays_show(apart_s, delay_ms):
    theatre = Theatre()
    theatre.xray_clock_ns, theatre.xray_delay_ns = round(apart_s * S), delay_ms * MS
    theatre.run(20.0)
    assert max(errors_mm(theatre.outputs)) < 1.0
    assert abs(theatre.pipeline.clocks.shift_ns / S + apart_s) < 0.002
    (told,) = theatre.pipeline.state().notices
    assert f"{abs(apart_s):.2f} s {'ahead of' if apart_s > 0 else 'behind'} the tracker" in told
    again = theatre.run(16.0)
    wrong = [frame.validity for frame in of(RegisteredFrame, again) if frame.validity.status is not Status.VALID]
    assert not wrong and max(errors_mm(again)) < 1.0, wrong[0]


def test_before_anything_moves_clocks_that_are_apart_do_not_matter(monkeypatch):
    """And while nobody knows by how much, X-rays of a move place nothing, and say why."""
    monkeypatch.setattr(Clocks, "pair", lambda clocks, shift_ns: "")
    theatre = Theatre()
    theatre.xray_clock_ns, theatre.xray_delay_ns = 60 * S, 40 * MS
    theatre.run(1.9)
    assert any(frame.validity.usable for frame in of(RegisteredFrame, theatre.outputs))
    of_move = [frame.validity for frame in of(RegisteredFrame, theatre.run(2.0))[3:]]
    assert {validity.status for validity in of_move} == {Status.INVALID}
    assert all("clocks are 60.0 s apart" in validity.reason for validity in of_move)
    at_rest = errors_mm(theatre.run(30.0))
    assert at_rest and max(at_rest) < 2.0


@pytest.mark.parametrize("whose", ["tracker", "images"])
@pytest.mark.long
def test_a_noisy_tracker_takes_no_longer(whose):
    theatre = Theatre()
    theatre.noise = NOISE * 10
    theatre.xray_delay_ns = 40 * MS
    theatre.xray_clock_ns = 300 * MS if whose == "images" else 0
    theatre.tracker_clock_ns = 300 * MS if whose == "tracker" else 0
    theatre.run(20.0)
    assert abs(theatre.pipeline.clocks.shift_ns / S + (0.3 if whose == "images" else -0.3)) < 0.01


@pytest.mark.parametrize("slid_mm", [4.0, 8.0, 15.0])
@pytest.mark.long
def test_a_marker_that_moved_is_not_taken_for_a_clock(slid_mm):
    theatre = Theatre()
    theatre.xray_delay_ns = 40 * MS
    theatre.run(6.0)
    step = g.rigid(None, (0.006 * slid_mm, 0.0, 0.008 * slid_mm))
    for _ in range(100):
        theatre.moved_patient_marker = theatre.moved_patient_marker @ step
        theatre.run(0.02)
    theatre.run(20.0)
    assert theatre.pipeline.clocks.shift_ns == 0.0
