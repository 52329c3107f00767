"""From candidate to confirmed registration and back: what is shown on the way."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from navnode import geometry as g
from navnode.loop import bus
from navnode.simulation.scenario import CARM_DEVICE, PATIENT_DEVICE
from navnode.types import (
    CArmPose,
    Frame,
    PatientPose,
    RegisteredFrame,
    Registration,
    RegistrationDone,
    RegistrationRequest,
    SourceState,
    Status,
    ToolPose,
    TrackedPose,
    Validity,
)
from tests.loop.theatre import SCENARIO, SOURCE, T0, Theatre, of


def test_nothing_is_shown_before_a_registration_is_confirmed():
    theatre = Theatre()
    outputs = theatre.run(0.35)
    assert all(pose.volume_from_tool is None for pose in of(ToolPose, outputs))
    assert all(pose.volume_from_patient is None for pose in of(PatientPose, outputs))
    assert of(RegisteredFrame, outputs)


def test_tools_are_where_they_are_once_it_is():
    theatre = Theatre()
    theatre.run(4.0)
    poses = of(ToolPose, theatre.run(1.0))
    assert len(poses) > 90
    for pose in poses:
        assert pose.validity.status is Status.VALID
        true = SCENARIO.volume_from_tool((pose.validity.source_time_ns - T0) / 1e9)
        assert np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3]) < 1.0


def test_a_confirmed_registration_withstands_one_bad_frame_but_not_five():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.register = theatre.nothing
    assert of(ToolPose, theatre.run(0.1))[-1].validity.status is Status.VALID
    theatre.run(0.6)
    last = of(ToolPose, theatre.run(0.1))[-1]
    assert last.validity.status is Status.INVALID and last.volume_from_tool is None
    assert "lost" in last.validity.reason
    # It turns VALID again only after being found and confirmed anew.
    theatre.register = theatre.truly
    assert of(ToolPose, theatre.run(0.3))[-1].validity.status is Status.INVALID
    assert of(ToolPose, theatre.run(1.0))[-1].validity.status is not Status.INVALID


def test_the_xray_that_loses_the_registration_withdraws_the_tools_with_it(monkeypatch):
    theatre, steps = Theatre(), []
    step = theatre.pipeline.step
    monkeypatch.setattr(
        theatre.pipeline, "step", lambda message: steps.append((message, step(message))) or steps[-1][1]
    )
    theatre.run(4.0)
    theatre.register = theatre.nothing
    theatre.run(0.8)
    lost = next(
        outputs
        for message, outputs in steps
        if isinstance(message, RegistrationDone)
        and message.now_ns > T0 + 4_000_000_000
        and any(not pose.validity.usable for pose in of(PatientPose, outputs))
    )
    assert [(pose.volume_from_tool, pose.validity.status) for pose in of(ToolPose, lost)] == [(None, Status.INVALID)]


def test_a_wrong_but_perfect_looking_fit_never_moves_a_tool():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.register = theatre.off
    for pose in of(ToolPose, theatre.run(0.35)):
        if pose.volume_from_tool is not None:
            true = SCENARIO.volume_from_tool((pose.validity.source_time_ns - T0) / 1e9)
            assert np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3]) < 1.0
    assert all(f.validity.status is Status.INVALID for f in of(RegisteredFrame, theatre.outputs[-30:]))


def test_without_xrays_trust_fades():
    theatre = Theatre(registration={"degraded_after_s": 1.0, "invalid_after_s": 2.0})
    theatre.run(3.0)
    theatre.xray = False
    assert of(ToolPose, theatre.run(0.5))[-1].validity.status is Status.VALID
    faded = of(ToolPose, theatre.run(1.0))[-1]
    assert faded.validity.status is Status.DEGRADED and "no X-ray" in faded.validity.reason
    assert of(ToolPose, theatre.run(1.0))[-1].validity.status is Status.INVALID


def test_good_frames_confirm_in_a_row_or_not_at_all():
    theatre = Theatre()
    turns = iter(range(10_000))
    theatre.register = lambda request: (theatre.truly if next(turns) % 2 else theatre.nothing)(request)
    made = theatre.run(6.0)
    assert all(pose.volume_from_tool is None for pose in of(ToolPose, made))


def test_a_registration_that_images_disagreed_with_is_degraded_until_some_agree():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.register = theatre.nothing
    theatre.run(0.3)
    theatre.register = theatre.truly
    first = of(ToolPose, theatre.run(0.15))[-1]
    assert first.validity.status is Status.DEGRADED and "disagreed" in first.validity.reason
    assert of(ToolPose, theatre.run(1.0))[-1].validity.status is Status.VALID


def test_frames_that_match_poorly_make_no_valid_tools():
    theatre = Theatre()
    poor = Validity(Status.DEGRADED, "image and volume match poorly")
    theatre.register = lambda request: dataclasses.replace(theatre.truly(request), validity=poor)
    assert not any(pose.validity.status is Status.VALID for pose in of(ToolPose, theatre.run(6.0)))


def test_a_search_that_fails_begins_at_the_configured_start_again():
    theatre = Theatre()
    theatre.run(4.0)
    starts: list[np.ndarray] = []

    def note(request: RegistrationRequest) -> Registration:
        starts.append(request.start_volume_from_carm @ g.inverse(request.patient_from_carm))
        return theatre.nothing(request)

    theatre.register = note
    theatre.run(3.0)
    assert any(np.allclose(start, np.eye(4)) for start in starts[5:])
    assert any(np.allclose(start, SCENARIO.volume_from_patient, atol=1.0) for start in starts[5:])


def test_a_registration_that_took_too_long_shows_nothing_as_new():
    theatre = Theatre()
    theatre.run(4.0)
    pipeline, stamp = theatre.pipeline, theatre.now_ns + 10_000_000
    for device in (PATIENT_DEVICE, CARM_DEVICE):
        pipeline.step(TrackedPose(device, SCENARIO.tracker_from_marker(device, 4.01), stamp, stamp))
    (request,) = of(RegistrationRequest, pipeline.step(Frame(theatre.image(), stamp, stamp, 1)))
    late = stamp + 10_000_000_000
    made = pipeline.step(RegistrationDone(request, theatre.truly(request), late))
    assert of(CArmPose, made)[0].volume_from_carm is None
    assert of(PatientPose, made)[0].validity.age_ns > 9_000_000_000


def test_a_registration_that_hangs_takes_the_carms_place_back():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.pipeline.frames.in_flight = True  # asked for, and never answered
    last = of(CArmPose, theatre.run(2.0))[-1]
    assert last.volume_from_carm is None and last.validity.status is Status.INVALID


def test_what_is_being_registered_when_its_source_vanishes_confirms_nothing():
    theatre = Theatre()
    theatre.run(4.0)
    asked: list[RegistrationRequest] = []
    theatre.register = lambda request: asked.append(request) or theatre.nothing(request)
    pipeline = theatre.pipeline
    stamp = theatre.now_ns + 10_000_000
    for device in (PATIENT_DEVICE, CARM_DEVICE):
        pipeline.step(TrackedPose(device, SCENARIO.tracker_from_marker(device, 4.01), stamp, stamp))
    (request,) = of(RegistrationRequest, pipeline.step(Frame(theatre.image(), stamp, stamp, 1)))
    pipeline.step(SourceState(SOURCE, False, "closed", stamp))
    made = pipeline.step(RegistrationDone(request, theatre.truly(request), stamp))
    assert not of(CArmPose, made) and not of(PatientPose, made)


def test_only_one_frame_is_under_way_and_the_newest_waits():
    theatre = Theatre()
    theatre.run(1.0)
    asked: list[RegistrationRequest] = []
    pipeline = theatre.pipeline
    for k in range(1, 6):
        stamp = theatre.now_ns + k * 10_000_000
        for device in (PATIENT_DEVICE, CARM_DEVICE):
            pose = theatre.measured(SCENARIO.tracker_from_marker(device, (stamp - T0) / 1e9))
            asked += of(RegistrationRequest, pipeline.step(TrackedPose(device, pose, stamp, stamp)))
        frame = Frame(theatre.image(), stamp, stamp, 100 + k)
        asked += of(RegistrationRequest, pipeline.step(frame))
    assert [r.frame.sequence for r in asked] == [101]
    after = pipeline.step(RegistrationDone(asked[0], theatre.truly(asked[0]), stamp))
    assert [r.frame.sequence for r in of(RegistrationRequest, after)] == [105]
    assert pipeline.state().dropped["xray"] == 3


def test_the_same_messages_give_the_same_outputs():
    def digest() -> str:
        theatre = Theatre()
        theatre.run(3.0)
        sha = hashlib.sha256()
        for output in theatre.outputs:
            for part in bus.pack(output):
                sha.update(part)
        return sha.hexdigest()

    assert digest() == digest()
