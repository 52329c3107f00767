"""The loop without sockets, threads or images: what it says, and when it says nothing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np
import pytest

from navnode import config
from navnode import geometry as g
from navnode.loop import bus
from navnode.loop.ingest import Ingest
from navnode.loop.pipeline import Pipeline
from navnode.loop.runner import Runner
from navnode.simulation.scenario import CARM_DEVICE, CARM_FROM_MARKER, MARKER_FROM_TOOLTIP, PATIENT_DEVICE, Scenario
from navnode.types import (
    CArmPose,
    CommandResult,
    Frame,
    Operation,
    OperatorCommand,
    PatientPose,
    ReconstructionRequest,
    RegisteredFrame,
    Registration,
    RegistrationDone,
    RegistrationRequest,
    Rejected,
    SourceState,
    Status,
    Tick,
    ToolPose,
    TrackedPose,
    Validity,
    Volume,
    VolumeReady,
    WorkerState,
    invalid,
)

T0 = 1_700_000_000_000_000_000
SCENARIO = Scenario(isocentre_mm=np.array([0.0, -40.0, 10.0]), targets_mm=np.zeros((1, 3)))
SOURCE = "127.0.0.1:18945"
CT = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4), "ct")
COVARIANCE = np.diag(np.array([0.0003, 0.0003, 0.0002, 0.05, 0.05, 0.5]) ** 2)


def rows(matrix: np.ndarray) -> list[list[float]]:
    return [[float(x) for x in row] for row in matrix]


def configuration(ct: str = "ct", **more) -> config.Config:
    data = {
        "carm": {"width_px": 32, "height_px": 32, "pixel_spacing_mm": [9.0, 9.0], "source_to_detector_mm": 1020.0,
                 "principal_point_px": [15.5, 15.5]},
        "volume": {"ct": ct},
        "sources": [{"port": 18945}],
        "tools": [{"name": "Drill", "device": "DrillToTracker", "marker_from_tooltip": rows(MARKER_FROM_TOOLTIP)}],
        "calibration": {"carm_from_marker": rows(CARM_FROM_MARKER)},
        **more,
    }  # fmt: skip
    return config.parse(data, "test")


class Theatre:
    """Feeds a pipeline from the scenario at 100 poses and 10 frames a second, registering as told."""

    def __init__(self, ct: bool = True, **more) -> None:
        told = configuration("ct" if ct else "", **more)
        self.pipeline = Pipeline(told, CT if ct else None)
        self._runner = Runner(
            self.pipeline,
            Ingest(told),
            register=lambda request, volume: RegistrationDone(request, self.register(request), self.now_ns),
            reconstruct=lambda request: None,
            now_ns=lambda: self.now_ns,
            record=lambda step: self.outputs.extend(step.outputs),
        )
        self.outputs: list[object] = []
        self.time_s = 0.0
        self.register = self.truly
        self.hidden: set[str] = set()
        self.xray = True
        self.xray_clock_ns = 0
        self.moved_patient_marker = np.eye(4)
        self._frames = 0
        self.feed(SourceState(SOURCE, True, "", T0))

    def truly(self, request: RegistrationRequest) -> Registration:
        at = SCENARIO.volume_from_carm((request.frame.timestamp_ns - T0) / 1e9)
        return Registration(at, Validity(Status.VALID), 0.02, 0.98, COVARIANCE, 700.0, 3, 1.0)

    def nothing(self, request: RegistrationRequest) -> Registration:
        verdict = invalid("image and volume do not match")
        return Registration(np.eye(4), verdict, 1.0, 0.1, np.eye(6) * 1e6, 700.0, 3, 1.0)

    def off(self, request: RegistrationRequest) -> Registration:
        """Looks perfect, and is 15 mm beside the truth: a vertebra too far."""
        right = self.truly(request)
        beside = right.volume_from_carm @ g.rigid(None, (0.0, 15.0, 0.0))
        return dataclasses.replace(right, volume_from_carm=beside)

    @property
    def now_ns(self) -> int:
        return T0 + round(self.time_s * 1e9)

    def image(self) -> np.ndarray:
        """Not blank, and never the same."""
        return (100 + np.arange(1024).reshape(32, 32) % 97 + self._frames % 100).astype(np.uint16)

    def feed(self, message) -> list[object]:
        return list(self._runner.take(message))

    def run(self, seconds: float) -> list[object]:
        """Go on for a while; what came out."""
        before = len(self.outputs)
        for _ in range(round(seconds * 100)):
            self.time_s = round(self.time_s + 0.01, 6)
            stamp = self.now_ns
            for device in (PATIENT_DEVICE, CARM_DEVICE, "DrillToTracker"):
                if device not in self.hidden:
                    pose = SCENARIO.tracker_from_marker(device, self.time_s)
                    if device == PATIENT_DEVICE:
                        pose = pose @ self.moved_patient_marker
                    self.feed(TrackedPose(device, pose, stamp, stamp))
            if self.xray and round(self.time_s * 100) % 10 == 0:
                self._frames += 1
                self.feed(Frame(self.image(), stamp + self.xray_clock_ns, stamp, self._frames))
            if round(self.time_s * 100) % 2 == 0:
                self.feed(Tick(stamp))
        return self.outputs[before:]


def of(kind: type, outputs: Iterable[object]) -> list:
    return [output for output in outputs if isinstance(output, kind)]


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


def test_a_wrong_but_perfect_looking_fit_never_moves_a_tool():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.register = theatre.off
    for pose in of(ToolPose, theatre.run(0.35)):
        if pose.volume_from_tool is not None:
            true = SCENARIO.volume_from_tool((pose.validity.source_time_ns - T0) / 1e9)
            assert np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3]) < 1.0
    assert all(f.validity.status is Status.INVALID for f in of(RegisteredFrame, theatre.outputs[-30:]))


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


def test_a_tracker_that_says_it_sees_nothing_is_believed():
    theatre = Theatre()
    theatre.run(4.0)
    (pose,) = theatre.feed(TrackedPose("DrillToTracker", None, theatre.now_ns + 1, theatre.now_ns))
    assert pose.volume_from_tool is None and "not seen" in pose.validity.reason


def test_frames_without_a_tracked_carm_are_refused():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.hidden = {CARM_DEVICE}
    frames = of(RegisteredFrame, theatre.run(1.0))
    assert len(frames) >= 8 and all(f.volume_from_carm is None for f in frames)
    # The patient's marker is still seen, so what was known of the patient still is.
    assert of(ToolPose, theatre.outputs)[-1].validity.status is Status.VALID


def test_a_source_that_vanishes_takes_everything_with_it():
    theatre = Theatre()
    theatre.run(4.0)
    gone = theatre.feed(SourceState(SOURCE, False, "closed the connection", theatre.now_ns))
    assert [o.validity.status for o in gone] == [Status.INVALID] * len(gone) and len(gone) >= 2
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    assert of(ToolPose, theatre.run(0.3))[-1].validity.status is Status.INVALID
    assert of(ToolPose, theatre.run(1.5))[-1].validity.status is Status.VALID


def test_silence_is_noticed_by_time_alone():
    theatre = Theatre()
    theatre.run(4.0)
    quiet = [o for k in range(120) for o in theatre.feed(Tick(theatre.now_ns + k * 20_000_000))]
    assert of(ToolPose, quiet)[0].validity.status is Status.INVALID
    assert of(PatientPose, quiet)[-1].validity.status is Status.INVALID


def test_without_xrays_trust_fades():
    theatre = Theatre(registration={"degraded_after_s": 1.0, "invalid_after_s": 2.0})
    theatre.run(3.0)
    theatre.xray = False
    assert of(ToolPose, theatre.run(0.5))[-1].validity.status is Status.VALID
    faded = of(ToolPose, theatre.run(1.0))[-1]
    assert faded.validity.status is Status.DEGRADED and "no X-ray" in faded.validity.reason
    assert of(ToolPose, theatre.run(1.0))[-1].validity.status is Status.INVALID


def test_what_arrives_late_is_not_shown_as_new():
    theatre = Theatre()
    theatre.run(4.0)
    late_ns = theatre.now_ns + 2_000_000_000
    for device in (PATIENT_DEVICE, "DrillToTracker"):
        pose = SCENARIO.tracker_from_marker(device, theatre.time_s + 0.01)
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
            pose = SCENARIO.tracker_from_marker(device, 4.0)
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
        theatre.feed(TrackedPose(PATIENT_DEVICE, SCENARIO.tracker_from_marker(PATIENT_DEVICE, 4.0), now, now))
        late = now - 1_000_000_000
        theatre.feed(TrackedPose("DrillToTracker", SCENARIO.tracker_from_marker("DrillToTracker", 4.0), late, now))
    last = of(ToolPose, theatre.outputs)[-1]
    assert last.validity.status is Status.INVALID and "clocks" in last.validity.reason


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


def test_a_registration_that_hangs_takes_the_carms_place_back():
    theatre = Theatre()
    theatre.run(4.0)
    theatre.pipeline.frames.in_flight = True  # asked for, and never answered
    last = of(CArmPose, theatre.run(2.0))[-1]
    assert last.volume_from_carm is None and last.validity.status is Status.INVALID


def test_one_stamp_from_the_future_does_not_silence_a_marker():
    theatre = Theatre()
    theatre.run(4.0)
    pose = SCENARIO.tracker_from_marker("DrillToTracker", 4.0)
    theatre.feed(TrackedPose("DrillToTracker", pose, theatre.now_ns + 3_600_000_000_000, theatre.now_ns))
    assert of(ToolPose, theatre.run(0.2))[-1].validity.status is Status.VALID


def feed_with_clock_forward(theatre: Theatre, seconds: float) -> list[object]:
    """The tracker's clock is set forward by an hour, the images' is not."""
    made = []
    for k in range(round(seconds * 100)):
        now, time_s = theatre.now_ns + (k + 1) * 10_000_000, theatre.time_s + (k + 1) * 0.01
        for device in (PATIENT_DEVICE, CARM_DEVICE, "DrillToTracker"):
            pose = SCENARIO.tracker_from_marker(device, time_s)
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


def test_images_without_a_time_stamp_are_used_only_while_the_carm_stands():
    theatre = Theatre()
    theatre.run(2.55)  # the C-arm moves from 2 s to 4 s
    pose_known_ns = theatre.now_ns - 20_000_000
    (_, refused) = theatre.feed(Frame(theatre.image(), pose_known_ns, theatre.now_ns, 1, stamped=False))
    assert "no time stamp" in refused.validity.reason


def test_a_first_stamp_ahead_of_time_does_not_silence_a_device():
    theatre = Theatre()
    ahead = T0 + 3_000_000_000
    theatre.feed(TrackedPose(PATIENT_DEVICE, SCENARIO.tracker_from_marker(PATIENT_DEVICE, 0.0), ahead, T0))
    assert of(ToolPose, theatre.run(4.0))[-1].validity.status is Status.VALID


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
        pose = SCENARIO.tracker_from_marker(name, theatre.time_s)
        pose = pose @ g.rigid(None, (0.0, 50.0, 0.0)) if name == device else pose
        made += theatre.feed(TrackedPose(name, pose, stamp, stamp))
    made += theatre.run(1.0)
    assert not any(wrong(pose) for pose in of(ToolPose, made))


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


def test_without_a_ct_a_lost_registration_takes_its_volume_along():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.feed(VolumeReady(CT, None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    theatre.register = lambda r: dataclasses.replace(theatre.truly(r), volume_from_carm=r.patient_from_carm)
    assert of(ToolPose, theatre.run(1.5))[-1].validity.usable
    theatre.register = theatre.nothing
    made = theatre.run(12.0)
    assert not of(ToolPose, made)[-1].validity.usable
    (again,) = of(ReconstructionRequest, made)
    assert again.request > request.request
    assert min(view.timestamp_ns for view in again.views) > max(view.timestamp_ns for view in request.views)


def test_without_a_ct_views_from_before_a_source_vanished_are_not_mixed_with_later_ones():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    theatre.run(4.0)
    theatre.feed(SourceState(SOURCE, False, "closed", theatre.now_ns))
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    vanished_ns = theatre.now_ns
    (request,) = of(ReconstructionRequest, theatre.run(12.0))
    assert all(view.timestamp_ns > vanished_ns for view in request.views)


def command(theatre: Theatre, operation: Operation, tool: str = "") -> CommandResult:
    (result,) = of(CommandResult, theatre.feed(OperatorCommand(operation, tool, theatre.now_ns)))
    return result


def test_an_operator_may_accept_a_candidate_and_it_stays_degraded_until_confirmed():
    theatre = Theatre(registration={"confirm_frames": 50})
    assert not command(theatre, Operation.ACCEPT_REGISTRATION).done
    theatre.run(1.0)
    assert command(theatre, Operation.ACCEPT_REGISTRATION).done
    poses = of(ToolPose, theatre.run(1.0))
    assert poses[-1].validity.status is Status.DEGRADED and "accepted by the operator" in poses[-1].validity.reason
    assert of(ToolPose, theatre.run(8.0))[-1].validity.status is Status.VALID


def test_an_operator_may_reject_a_registration_and_everything_leaves_at_once():
    theatre = Theatre()
    theatre.run(4.0)
    epoch = theatre.pipeline.state().epoch
    before = len(theatre.outputs)
    assert command(theatre, Operation.REJECT_REGISTRATION).done
    made = theatre.outputs[before:]
    assert of(PatientPose, made)[0].volume_from_patient is None and of(CArmPose, made)[0].volume_from_carm is None
    assert "rejected" in of(ToolPose, made)[0].validity.reason
    assert theatre.pipeline.state().epoch != epoch
    assert of(ToolPose, theatre.run(6.0))[-1].validity.status is Status.VALID


def test_an_operator_may_take_a_view_of_a_direction_that_is_known():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    assert not command(theatre, Operation.TAKE_VIEW).done
    for request in of(ReconstructionRequest, theatre.run(9.0)) + of(ReconstructionRequest, theatre.run(9.0)):
        theatre.feed(VolumeReady(CT, None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    for request in of(ReconstructionRequest, theatre.run(1.0)):
        theatre.feed(VolumeReady(CT, None, request.request, 4, "SART", 1.0, "", theatre.now_ns))
    assert not of(ReconstructionRequest, theatre.run(9.0))
    assert command(theatre, Operation.TAKE_VIEW).done
    newer = of(ReconstructionRequest, theatre.run(0.5))
    assert newer and max(v.timestamp_ns for v in newer[0].views) >= theatre.now_ns - 500_000_000


def test_an_operator_chooses_the_tool_that_the_slices_follow():
    theatre = Theatre()
    assert theatre.pipeline.state().active_tool == "Drill"
    assert "there is no tool 'Saw'" in command(theatre, Operation.SET_TOOL, "Saw").text
    assert command(theatre, Operation.SET_TOOL, "Drill").done


def test_a_console_that_pushed_and_left_takes_what_it_pushed_along():
    theatre = Theatre()
    theatre.feed(SourceState("127.0.0.1:5", True, "", theatre.now_ns))
    theatre.run(4.0)
    made = theatre.feed(SourceState("127.0.0.1:5", False, "it closed the connection", theatre.now_ns))
    assert of(ToolPose, made)[0].volume_from_tool is None
    assert set(theatre.pipeline.state().sources) == {SOURCE}


def test_blank_images_are_no_views():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    theatre.image = lambda: np.zeros((32, 32), np.uint16)
    made = theatre.run(9.0)
    assert not of(ReconstructionRequest, made)
    assert any("blank" in frame.validity.reason for frame in of(RegisteredFrame, made))


def test_a_reconstruction_that_failed_is_tried_again():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    theatre.feed(VolumeReady(None, None, request.request, 0, "SART", 1.0, "out of memory", theatre.now_ns))
    requests = of(ReconstructionRequest, theatre.run(8.0))
    assert requests and requests[0].request > request.request


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


def test_a_pose_that_is_none_is_named():
    theatre = Theatre()
    theatre.run(4.0)
    (out,) = theatre.feed(Rejected("DrillToTracker", "the pose holds numbers that are none", theatre.now_ns))
    assert out.volume_from_tool is None
    assert any("DrillToTracker" in notice for notice in theatre.pipeline.state().notices)


def test_only_one_frame_is_under_way_and_the_newest_waits():
    theatre = Theatre()
    theatre.run(1.0)
    asked: list[RegistrationRequest] = []
    pipeline = theatre.pipeline
    for k in range(1, 6):
        stamp = theatre.now_ns + k * 10_000_000
        for device in (PATIENT_DEVICE, CARM_DEVICE):
            pose = SCENARIO.tracker_from_marker(device, (stamp - T0) / 1e9)
            asked += of(RegistrationRequest, pipeline.step(TrackedPose(device, pose, stamp, stamp)))
        frame = Frame(np.zeros((32, 32), np.uint16), stamp, stamp, 100 + k)
        asked += of(RegistrationRequest, pipeline.step(frame))
    assert [r.frame.sequence for r in asked] == [101]
    after = pipeline.step(RegistrationDone(asked[0], theatre.truly(asked[0]), stamp))
    assert [r.frame.sequence for r in of(RegistrationRequest, after)] == [105]
    assert pipeline.state().dropped["xray"] == 3


def test_views_are_collected_and_asked_for():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    requests = of(ReconstructionRequest, theatre.run(9.0))
    assert len(requests) == 1 and len(requests[0].views) >= 4
    directions = [view.volume_from_carm[:3, 2] for view in requests[0].views]
    apart = [g.angle_between_rad(a, b) for k, a in enumerate(directions) for b in directions[:k]]
    assert min(apart) >= np.deg2rad(20)
    assert np.allclose(requests[0].center_mm, SCENARIO.isocentre_mm, atol=5.0)


def test_without_a_ct_the_first_views_give_the_volume():
    theatre = Theatre(ct=False)
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    requests = of(ReconstructionRequest, theatre.run(9.0))
    poses = of(ToolPose, theatre.outputs)
    assert len(requests) == 1 and all(p.volume_from_tool is None for p in poses)
    assert "no volume yet" in of(RegisteredFrame, theatre.outputs)[0].validity.reason
    made = VolumeReady(CT, None, requests[0].request, 4, "SART", 1.0, "", theatre.now_ns)
    (update,) = theatre.feed(made)
    assert update.role == "navigation" and update.validity.status is Status.DEGRADED

    def in_patient(request: RegistrationRequest) -> Registration:
        return dataclasses.replace(theatre.truly(request), volume_from_carm=request.patient_from_carm)

    theatre.register = in_patient
    last = of(ToolPose, theatre.run(1.5))[-1]
    assert last.validity.status is Status.DEGRADED and "few X-rays" in last.validity.reason
    true = g.inverse(SCENARIO.volume_from_patient) @ SCENARIO.volume_from_tool(
        (last.validity.source_time_ns - T0) / 1e9
    )
    assert np.linalg.norm(last.volume_from_tool[:3, 3] - true[:3, 3]) < 1.0


def test_a_request_lost_with_its_worker_is_made_again():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 1))
    assert len(of(ReconstructionRequest, theatre.run(9.0))) == 1
    assert not of(ReconstructionRequest, theatre.run(0.5))
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns, 2))
    assert len(of(ReconstructionRequest, theatre.run(0.5))) == 1


def test_a_failed_reconstruction_is_said_and_nothing_else_happens():
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    (request,) = of(ReconstructionRequest, theatre.run(9.0))
    assert theatre.feed(VolumeReady(None, None, 1, 0, "SART", 1.0, "nobody asked", theatre.now_ns)) == []
    assert (
        theatre.feed(
            VolumeReady(None, None, request.request, 0, "SART", 1.0, "all views look the same way", theatre.now_ns)
        )
        == []
    )
    notices = theatre.pipeline.state().notices
    assert any("same way" in notice for notice in notices) and not any("nobody" in notice for notice in notices)


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
