"""Markers that hide, jump and move: no tool is shown where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.simulation.scenario import PATIENT_DEVICE
from navnode.types import (
    NodeState,
    Rejected,
    Status,
    ToolPose,
    TrackedPose,
)
from tests.loop.theatre import SCENARIO, T0, Theatre, of


@pytest.mark.parametrize("hidden", ["DrillToTracker", PATIENT_DEVICE])
def test_a_hidden_marker_takes_the_tool_away_and_must_settle(hidden):
    theatre = Theatre()
    theatre.run(4.0)
    theatre.hidden = {hidden}
    theatre.run(0.25)
    poses = of(ToolPose, theatre.outputs)
    assert poses[-1].volume_from_tool is None and poses[-1].validity.reason
    theatre.hidden = set()
    back = of(ToolPose, theatre.run(0.3))
    assert back[0].volume_from_tool is None
    assert back[-1].volume_from_tool is not None


@pytest.mark.parametrize(
    ("silent", "reason"),
    [({PATIENT_DEVICE}, "the patient's marker is not seen"), (None, "no pose from the tracker")],
    ids=["patient", "all"],
)
def test_a_tracker_that_says_nothing_at_all_is_not_a_hidden_marker(silent, reason):
    theatre = Theatre()
    theatre.run(4.0)
    theatre.hidden = set(theatre.pipeline.tools.rings) if silent is None else silent
    states = of(NodeState, theatre.run(2.5))
    assert states[-1].registration.reason == reason


def test_a_tracker_that_says_it_sees_nothing_is_believed():
    theatre = Theatre()
    theatre.run(4.0)
    (pose,) = theatre.feed(TrackedPose("DrillToTracker", None, theatre.now_ns + 1, theatre.now_ns))
    assert pose.volume_from_tool is None and "not seen" in pose.validity.reason


def test_a_tool_whose_patient_pose_comes_later_is_shown_all_the_same():
    theatre = Theatre()
    theatre.run(4.0)
    for k in range(1, 60):
        stamp = theatre.now_ns + k * 10_000_000
        time_s = theatre.time_s + k * 0.01
        theatre.feed(
            TrackedPose("DrillToTracker", SCENARIO.tracker_from_marker("DrillToTracker", time_s), stamp, stamp)
        )
        lagging, lag_s = stamp - 25_000_000, time_s - 0.025
        theatre.feed(TrackedPose(PATIENT_DEVICE, SCENARIO.tracker_from_marker(PATIENT_DEVICE, lag_s), lagging, stamp))
    poses = of(ToolPose, theatre.outputs)[-40:]
    assert all(pose.validity.status is Status.VALID for pose in poses)


@pytest.mark.parametrize("device", ["DrillToTracker", PATIENT_DEVICE])
def test_a_marker_that_comes_and_goes_is_not_believed(device):
    theatre = Theatre()
    theatre.run(4.0)
    shown = []
    for k in range(1, 60):
        stamp, time_s = theatre.now_ns + k * 10_000_000, theatre.time_s + k * 0.01
        for name in (PATIENT_DEVICE, "DrillToTracker"):
            hidden = name == device and k % 2 == 0
            pose = None if hidden else SCENARIO.tracker_from_marker(name, time_s)
            shown += of(ToolPose, theatre.feed(TrackedPose(name, pose, stamp, stamp)))
    assert not any(pose.volume_from_tool is not None for pose in shown[3:])


def test_a_marker_that_was_hidden_may_have_been_moved():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.xray = False
    theatre.hidden = {PATIENT_DEVICE}
    theatre.run(2.0)
    theatre.hidden = set()
    theatre.moved_patient_marker = g.rigid(None, (30.0, 0.0, 0.0))
    made = theatre.run(2.0)
    assert not any(pose.validity.status is Status.VALID for pose in of(ToolPose, made))
    assert "has not moved" in of(ToolPose, made)[-1].validity.reason
    theatre.xray = True
    made = theatre.run(4.0)
    assert not any(wrong(pose) for pose in of(ToolPose, made))
    assert of(ToolPose, made)[-1].validity.status is Status.VALID


def wrong(pose: ToolPose, limit_mm: float = 5.0) -> bool:
    """VALID, and more than this beside the truth."""
    if pose.validity.status is not Status.VALID:
        return False
    true = SCENARIO.volume_from_tool((pose.validity.source_time_ns - T0) / 1e9)
    return float(np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3])) > limit_mm


@pytest.mark.parametrize("shift_mm", [5.0, 8.0, 20.0])
@pytest.mark.long
def test_a_marker_that_moves_along_the_beam_is_noticed(shift_mm):
    theatre = Theatre()
    theatre.run(16.5)  # once around: AP again, where the C-arm stands for two seconds
    beam = SCENARIO.volume_from_carm(theatre.time_s)[:3, 2]
    in_marker = SCENARIO.volume_from_patient[:3, :3].T @ beam
    theatre.moved_patient_marker = g.rigid(None, shift_mm * in_marker)
    made = of(ToolPose, theatre.run(6.0))
    assert sum(wrong(pose) for pose in made) <= 5 * 10  # half a second of X-rays
    assert not any(wrong(pose) for pose in made[200:])


@pytest.mark.parametrize("device", [PATIENT_DEVICE, "DrillToTracker"])
def test_a_pose_that_no_hand_can_reach_is_not_shown(device):
    theatre = Theatre()
    theatre.run(4.0)
    stamp = theatre.now_ns + 10_000_000
    theatre.time_s += 0.01
    made = []
    for name in (PATIENT_DEVICE, "DrillToTracker"):
        pose = theatre.measured(SCENARIO.tracker_from_marker(name, theatre.time_s))
        pose = pose @ g.rigid(None, (0.0, 50.0, 0.0)) if name == device else pose
        made += theatre.feed(TrackedPose(name, pose, stamp, stamp))
    made += theatre.run(1.0)
    assert not any(wrong(pose) for pose in of(ToolPose, made))


def test_a_pose_that_is_none_is_named():
    theatre = Theatre()
    theatre.run(4.0)
    (out,) = theatre.feed(Rejected("DrillToTracker", "the pose contains NaN or infinity", theatre.now_ns))
    assert out.volume_from_tool is None
    assert any("DrillToTracker" in notice for notice in theatre.pipeline.state().notices)
