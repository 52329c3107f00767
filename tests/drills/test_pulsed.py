"""Trackers that send poses at the rate of images, as PLUS does: pulsed fluoroscopy at 4 to 15 frames a second."""

from __future__ import annotations

import pytest

from navnode import geometry as g
from navnode.types import RegisteredFrame, Status, ToolPose
from tests.drills.test_clocks import errors_mm, true_tip_error_mm
from tests.loop.theatre import Theatre, of

EVERY = pytest.mark.parametrize("every", [25, 17, 13, 10, 7], ids=["4 Hz", "6 Hz", "8 Hz", "10 Hz", "15 Hz"])


def pulsed(every: int, poses_after: int = 0, **more) -> Theatre:
    theatre = Theatre(**more)
    theatre.poses_every, theatre.poses_after, theatre.frames_every = every, poses_after, every
    return theatre


@EVERY
@pytest.mark.parametrize("delay_ms", [0, 40, 150])
def test_poses_with_the_stamps_of_images_suffice(every, delay_ms):
    theatre = pulsed(every)
    theatre.xray_delay_ns = delay_ms * 1_000_000
    theatre.run(9.0)  # seen from two sides
    after = theatre.run(16.0)
    frames = of(RegisteredFrame, after)
    refused = [frame.validity for frame in frames if frame.validity.status is not Status.VALID]
    assert len(frames) >= 1550 // every and not refused, refused[0]
    assert {pose.validity.status for pose in of(ToolPose, after)} == {Status.VALID}
    assert max(errors_mm(after)) < 1.0


@EVERY
def test_poses_without_the_stamps_of_images_are_refused_with_the_reason_or_interpolated(every):
    theatre = pulsed(every, poses_after=every // 2)
    theatre.run(6.0)
    state = theatre.pipeline.state()
    if every <= 12:  # a gap of 120 ms is interpolated across
        assert state.registration.status is Status.VALID
        return
    assert not [frame for frame in of(RegisteredFrame, theatre.outputs) if frame.validity.usable]
    assert state.registration.status is Status.INVALID
    assert f"come every {10 * every} ms: too far apart" in state.registration.reason


@EVERY
@pytest.mark.parametrize("mm", [4.0, 15.0])
def test_a_bumped_marker_is_never_valid_although_its_poses_are_far_apart(every, mm):
    theatre = pulsed(every)
    theatre.run(6.3)
    before = len(theatre.outputs)
    theatre.moved_patient_marker = g.rigid(None, (0.6 * mm, 0.0, 0.8 * mm))
    moved_at_ns = theatre.now_ns
    theatre.run(12.0)
    after = [pose for pose in of(ToolPose, theatre.outputs[before:]) if pose.validity.source_time_ns > moved_at_ns]
    early = {pose.validity.status for pose in after if pose.validity.source_time_ns < moved_at_ns + 500_000_000}
    assert early and Status.VALID not in early
    valid = [pose for pose in after if pose.validity.status is Status.VALID]
    assert valid and max(true_tip_error_mm(pose, 0) for pose in valid) < 2.0


@pytest.mark.risk("silent-source")
def test_a_tracker_that_falls_silent_between_slow_poses_is_noticed():
    theatre = pulsed(25)
    theatre.run(6.0)
    theatre.hidden = {"DrillToTracker"}
    theatre.run(0.3)
    assert of(ToolPose, theatre.run(0.3))[-1].validity.status is Status.INVALID


@pytest.mark.parametrize("every", [25, 13])
def test_a_carm_that_moves_during_a_long_exposure_is_noticed_between_slow_poses(every):
    theatre = pulsed(every)
    theatre.exposure_ns = 100_000_000
    theatre.run(16.0)
    reasons = [frame.validity.reason for frame in of(RegisteredFrame, theatre.outputs)]
    assert any("moved" in reason and "during the exposure" in reason for reason in reasons)
