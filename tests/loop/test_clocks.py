"""Clocks that differ, jump and run ahead: what they stamp is not put together."""

from __future__ import annotations

import numpy as np

from navnode.simulation.scenario import PATIENT_DEVICE
from navnode.types import (
    Frame,
    RegisteredFrame,
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


def test_a_first_stamp_ahead_of_time_does_not_silence_a_device():
    theatre = Theatre()
    ahead = T0 + 3_000_000_000
    theatre.feed(TrackedPose(PATIENT_DEVICE, SCENARIO.tracker_from_marker(PATIENT_DEVICE, 0.0), ahead, T0))
    assert of(ToolPose, theatre.run(4.0))[-1].validity.status is Status.VALID
