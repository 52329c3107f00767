"""Clocks that differ, jump and run ahead: what they stamp is not put together."""

from __future__ import annotations

import numpy as np

from navnode.simulation.scenario import CARM_DEVICE, PATIENT_DEVICE
from navnode.types import (
    Frame,
    RegisteredFrame,
    RegistrationRequest,
    SourceState,
    Status,
    Tick,
    ToolPose,
    TrackedPose,
)
from tests.loop.theatre import SCENARIO, SOURCE, T0, Theatre, of


def test_what_arrives_late_is_not_shown_as_new():
    theatre = Theatre()
    theatre.run(4.0)
    late_ns = theatre.now_ns + 2_000_000_000
    for device in (PATIENT_DEVICE, "DrillToTracker"):
        pose = theatre.measured(SCENARIO.tracker_from_marker(device, theatre.time_s + 0.01))
        assert theatre.feed(TrackedPose(device, pose, theatre.now_ns + 10_000_000, late_ns)) == []
    assert of(ToolPose, theatre.feed(Tick(late_ns)))[-1].validity.status is Status.INVALID
    frame = Frame(np.zeros((32, 32), np.uint16), theatre.now_ns + 10_000_000, late_ns, 1)
    assert "late" in of(RegisteredFrame, theatre.feed(frame))[0].validity.reason
    assert theatre.pipeline.state().dropped["late"] == 3


def test_a_clock_that_was_set_back_is_taken_up_when_its_source_connects_anew():
    theatre = Theatre()
    theatre.run(4.0)
    hour, connected_s = 3_600_000_000_000, 60
    for k in range(1, 100 * (connected_s + 1)):
        now = theatre.now_ns + k * 10_000_000
        if k == 100 * connected_s:
            assert of(ToolPose, theatre.outputs)[-1].validity.status is Status.INVALID
            theatre.feed(SourceState(SOURCE, False, "closed the connection", now))
            theatre.feed(SourceState(SOURCE, True, "", now))
        for device in (PATIENT_DEVICE, "DrillToTracker"):
            pose = theatre.measured(SCENARIO.tracker_from_marker(device, 4.0))
            theatre.feed(TrackedPose(device, pose, now - hour, now))
        if k == 50:
            assert of(ToolPose, theatre.feed(Tick(now)))[-1].validity.status is Status.INVALID
    # Taken again; whether the registration still holds is for X-rays to say.
    assert theatre.pipeline.tools.rings["DrillToTracker"].newest_ns > theatre.now_ns - hour
    assert "vanished" in of(ToolPose, theatre.outputs)[-1].validity.reason


def test_markers_stamped_by_two_clocks_are_not_put_together():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.feed(SourceState(SOURCE, False, "closed the connection", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    for k in range(1, 50):
        now = theatre.now_ns + k * 10_000_000
        patient = theatre.measured(SCENARIO.tracker_from_marker(PATIENT_DEVICE, 4.0))
        theatre.feed(TrackedPose(PATIENT_DEVICE, patient, now, now))
        late = now - 1_000_000_000
        drill = theatre.measured(SCENARIO.tracker_from_marker("DrillToTracker", 4.0))
        theatre.feed(TrackedPose("DrillToTracker", drill, late, now))
    last = of(ToolPose, theatre.outputs)[-1]
    assert last.validity.status is Status.INVALID and "clocks" in last.validity.reason


def test_one_stamp_from_the_future_does_not_silence_a_marker():
    theatre = Theatre()
    theatre.run(4.0)
    pose = theatre.measured(SCENARIO.tracker_from_marker("DrillToTracker", 4.0))
    theatre.feed(TrackedPose("DrillToTracker", pose, theatre.now_ns + 3_600_000_000_000, theatre.now_ns))
    assert of(ToolPose, theatre.run(0.2))[-1].validity.status is Status.VALID


def feed_with_clock_forward(theatre: Theatre, seconds: float) -> list[object]:
    """The tracker's clock is set forward by an hour, the images' is not."""
    made = []
    for k in range(round(seconds * 100)):
        now, time_s = theatre.now_ns + (k + 1) * 10_000_000, theatre.time_s + (k + 1) * 0.01
        for device in (PATIENT_DEVICE, CARM_DEVICE, "DrillToTracker"):
            pose = theatre.measured(SCENARIO.tracker_from_marker(device, time_s))
            made += theatre.feed(TrackedPose(device, pose, now + 3_600_000_000_000, now))
        if k % 10 == 0:
            made += theatre.feed(Frame(theatre.image(), now, now, k))
        made += theatre.feed(Tick(now))
    theatre.time_s += seconds
    return made


def test_a_tracker_whose_clock_was_set_is_not_paired_with_images_until_it_connects_anew():
    theatre = Theatre()
    theatre.run(4.0)
    made = feed_with_clock_forward(theatre, 3.0)
    assert all(pose.volume_from_tool is None for pose in of(ToolPose, made)[20:])
    assert not of(RegistrationRequest, made)
    theatre.feed(SourceState(SOURCE, False, "closed", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    assert of(ToolPose, theatre.run(2.0))[-1].validity.status is Status.VALID


def test_images_whose_clock_was_set_back_are_refused():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.xray_clock_ns = -500_000_000
    made = theatre.run(3.0)
    assert not of(RegistrationRequest, made)
    assert all("set back" in f.validity.reason for f in of(RegisteredFrame, made) if f.volume_from_carm is None)


def test_a_first_stamp_ahead_of_time_does_not_silence_a_device():
    theatre = Theatre()
    ahead = T0 + 3_000_000_000
    theatre.feed(TrackedPose(PATIENT_DEVICE, SCENARIO.tracker_from_marker(PATIENT_DEVICE, 0.0), ahead, T0))
    assert of(ToolPose, theatre.run(4.0))[-1].validity.status is Status.VALID
