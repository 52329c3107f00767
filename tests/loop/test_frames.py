"""X-rays that cannot be used, are sent twice, or stop."""

from __future__ import annotations

import dataclasses

import numpy as np

from navnode.simulation.scenario import CARM_DEVICE
from navnode.types import (
    CArmPose,
    Frame,
    ReconstructionRequest,
    RegisteredFrame,
    RegistrationRequest,
    Status,
    ToolPose,
    WorkerState,
)
from tests.loop.theatre import Theatre, of


def test_frames_without_a_tracked_carm_are_refused():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.hidden = {CARM_DEVICE}
    frames = of(RegisteredFrame, theatre.run(1.0))
    assert len(frames) >= 8 and all(f.volume_from_carm is None for f in frames)
    # The patient's marker is still seen, so what was known of the patient still is.
    assert of(ToolPose, theatre.outputs)[-1].validity.status is Status.VALID


def test_an_image_that_is_sent_again_is_no_dose():
    theatre = Theatre()
    theatre.run(1.0)
    before = theatre.pipeline.state()
    new = Frame(theatre.image(), theatre.now_ns + 1, theatre.now_ns + 1, 999)
    for late_ns in range(3):
        theatre.feed(dataclasses.replace(new, received_ns=new.received_ns + late_ns))
    after = theatre.pipeline.state()
    assert after.frames_received == before.frames_received + 3
    assert after.dose.frames == before.dose.frames + 1


def test_an_image_that_is_sent_again_confirms_nothing():
    theatre = Theatre()
    theatre.run(0.15)
    again = Frame(np.zeros((32, 32), np.uint16), theatre.now_ns - 50_000_000, theatre.now_ns, 9)
    for _ in range(20):
        theatre.feed(again)
    assert len(of(RegistrationRequest, theatre.outputs)) <= 2


def test_images_without_a_time_stamp_are_used_only_while_the_carm_stands():
    theatre = Theatre()
    theatre.run(2.55)  # the C-arm moves from 2 s to 4 s
    pose_known_ns = theatre.now_ns - 20_000_000
    (_, refused) = theatre.feed(Frame(theatre.image(), pose_known_ns, theatre.now_ns, 1, stamped=False))
    assert "no time stamp" in refused.validity.reason


def test_blank_images_are_no_views():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    theatre.image = lambda: np.zeros((32, 32), np.uint16)
    made = theatre.run(9.0)
    assert not of(ReconstructionRequest, made)
    assert any("blank" in frame.validity.reason for frame in of(RegisteredFrame, made))


def test_the_carms_place_is_taken_back_when_xrays_stop():
    theatre = Theatre()
    theatre.run(4.0)
    assert of(CArmPose, theatre.outputs)[-1].volume_from_carm is not None
    theatre.xray = False
    (last,) = of(CArmPose, theatre.run(2.0))
    assert last.volume_from_carm is None and last.validity.status is Status.INVALID


def test_an_image_of_another_size_is_named_and_the_loop_goes_on():
    theatre = Theatre()
    theatre.run(4.0)
    before = theatre.pipeline.state().dropped["rejected"]
    _, refused = theatre.feed(Frame(np.zeros((16, 16), np.uint16), theatre.now_ns, theatre.now_ns, 1))
    assert refused.validity.status is Status.INVALID and "16 x 16" in refused.validity.reason
    assert of(ToolPose, theatre.run(0.2))[-1].validity.status is Status.VALID
    state = theatre.pipeline.state()
    assert any("16 x 16" in notice for notice in state.notices) and state.dropped["rejected"] == before + 1
