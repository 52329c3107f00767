"""What names on the wire mean, both ways."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from navnode import geometry as g
from navnode.config import OutputsSection
from navnode.igtl import Image, Message, Point, PolyData, TrackingData, Transform, decode, encode, split_cells
from navnode.igtl.conventions import is_shown
from navnode.loop.ingest import Ingest
from navnode.node.consoles import Consoles
from navnode.simulation.scenario import carm_of_size
from navnode.types import (
    BodyPose,
    CArmPose,
    Frame,
    Mesh,
    PatientPose,
    RegisteredFrame,
    Rejected,
    Status,
    ToolPose,
    TrackedPose,
    Validity,
    Volume,
    VolumeUpdate,
    invalid,
)
from tests.loop.theatre import configuration

S, MS = 1_000_000_000, 1_000_000
INGEST = Ingest(configuration())
VALID = Validity(Status.VALID, "", 77, 2_500_000)
AT = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])


def transform(matrix, status: str | None = None, device: str = "DrillToTracker") -> Transform:
    return Transform(
        device=device, matrix=matrix, timestamp_ns=5, metadata={"TransformStatus": status} if status else {}
    )


def test_poses():
    taken = INGEST(transform(AT, "OK"), 9)
    assert isinstance(taken, TrackedPose) and taken.timestamp_ns == 5 and taken.received_ns == 9
    assert np.allclose(taken.tracker_from_marker, AT)
    assert INGEST(transform(AT, "MISSING"), 9).tracker_from_marker is None
    assert INGEST(transform(AT, device="TruthDrillToVolume"), 9) is None


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.diag([1.0, 1, 1.1, 1]), "rigid"),
        (np.diag([1.0, 1, -1, 1]), "rigid"),
        (np.eye(4), "identity"),
        (AT + np.array([[0, 0, 0, 1e30]] + [[0, 0, 0, 0]] * 3), "tracker's range"),
    ],
)
def test_poses_that_are_none(matrix, reason):
    taken = INGEST(transform(matrix), 9)
    assert isinstance(taken, Rejected) and reason in taken.reason


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.zeros((2, 8, 8), np.uint16), "one plane"),
        (np.zeros((1, 8, 8), np.float32), "float32"),
        (np.zeros((1, 8, 8, 3), np.uint8), "one value"),
    ],
)
def test_images_that_are_no_xrays(voxels, reason):
    taken = INGEST(Image(device="XRay", voxels=voxels, ras_from_index=np.eye(4)), 9)
    assert isinstance(taken, Rejected) and reason in taken.reason


def test_frames_keep_their_counts():
    counts = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    taken = INGEST(Image(device="XRay", voxels=counts, ras_from_index=np.eye(4), timestamp_ns=3), 9)
    assert isinstance(taken, Frame) and np.array_equal(taken.counts, counts[0]) and taken.timestamp_ns == 3


def test_a_tool_on_the_wire():
    pose, tools, tip, axis = Consoles(OutputsSection())(ToolPose("Drill", AT, VALID, 1))
    assert isinstance(pose, Transform) and pose.device == "DrillToVolume" and np.allclose(pose.matrix, AT)
    assert pose.metadata["TransformStatus"] == "OK" and pose.metadata["AgeMs"] == "2.5" and pose.timestamp_ns == 77
    assert isinstance(tools, TrackingData) and [e.name for e in tools.elements] == ["Drill"]
    assert (
        isinstance(axis, PolyData)
        and np.allclose(axis.points_mm[1], (10, 20, 30))
        and len(split_cells(axis.lines)) == 2
    )
    assert np.allclose(axis.points_mm[2], (10, 20, 90))  # ahead of the tip along its +z
    assert isinstance(tip, Point) and tip.points[0].position_mm == (10, 20, 30)
    assert all(is_shown(m) for m in (pose, tools, axis, tip))


def test_an_invalid_tool_leaves_every_device():
    consoles = Consoles(OutputsSection())
    consoles(ToolPose("Drill", AT, VALID, 1))
    pose, tools, tip, axis = consoles(ToolPose("Drill", None, invalid("registration lost"), 0))
    assert pose.metadata["TransformStatus"] == "INVALID" and np.array_equal(pose.matrix, np.eye(4))
    assert not is_shown(pose)
    (listed,) = tools.elements
    assert (
        listed.name == "Drill"
        and np.isnan(listed.matrix[:3, 3]).all()
        and len(axis.points_mm) == 0
        and axis.lines.size == 0
    )
    (nowhere,) = decode(encode(tip)).points
    assert np.isnan(nowhere.position_mm).all() and nowhere.rgba[3] == 0
    hidden = consoles(ToolPose("Drill", None, invalid("hidden"), 0, seen=False))[0]
    assert hidden.metadata["TransformStatus"] == "MISSING"


def test_a_tools_axis_is_drawn_ten_times_a_second_and_withdrawn_at_once():
    now = [0]
    consoles = Consoles(OutputsSection(), now_ns=lambda: now[0])
    drawn_ms = []
    for now_ms in range(0, 1_000, 5):
        now[0] = 5 * S + now_ms * MS
        lost = ToolPose("Drill", None, invalid("hidden", now[0]), 0, seen=False)
        seen = ToolPose("Drill", AT, Validity(Status.VALID, "", now[0]), 1)
        pose = lost if 333 <= now_ms < 350 else seen
        drawn_ms += [(now_ms, len(m.points_mm)) for m in consoles(pose) if isinstance(m, PolyData)]
    assert (335, 0) in drawn_ms and (350, 3) in drawn_ms
    assert len(drawn_ms) == 12
    each = Consoles(OutputsSection(axis_hz=0))
    assert all(len(each(ToolPose("Drill", AT, VALID, 1))) == 4 for _ in range(5))


def test_an_xray_stands_at_its_detector():
    carm = carm_of_size(256)
    counts = np.zeros((256, 256), np.uint16)
    frame = RegisteredFrame(Frame(counts, 1, 1), carm, AT, VALID, 0.1, 0.9, None, 1)
    (image,) = Consoles(OutputsSection())(frame)
    middle = image.ras_from_index @ (*carm.principal_point_px, 0, 1)
    assert np.allclose(middle[:3], (0, 0, carm.source_to_detector_mm))


@pytest.mark.parametrize(
    ("output", "device"), [(PatientPose(AT, VALID, ()), "PatientToVolume"), (CArmPose(AT, VALID), "CArmToVolume")]
)
def test_poses_out(output, device):
    (message,) = Consoles(OutputsSection())(output)
    assert message.device == device and np.allclose(message.matrix, AT) and message.metadata["Validity"] == "VALID"


def test_a_bone_goes_out_as_its_pose_and_the_c_arms_relative_to_it():
    consoles = Consoles(OutputsSection())
    seen = consoles(BodyPose("Femur", AT, g.inverse(AT), VALID, VALID, (0.1,) * 6))
    assert [message.device for message in seen] == ["FemurToVolume", "CArmToFemur"]
    assert np.allclose(seen[0].matrix, AT) and np.allclose(seen[1].matrix, g.inverse(AT))
    unseen = consoles(BodyPose("Femur", AT, None, VALID, invalid("no X-ray shows it now"), (0.1,) * 6))
    assert [message.metadata["Validity"] for message in unseen] == ["VALID", "INVALID"]
    moved = invalid("it moved", 9)
    lost = consoles(BodyPose("Femur", None, None, moved, moved))
    assert all(message.metadata["Validity"] == "INVALID" and np.allclose(message.matrix, np.eye(4)) for message in lost)


def test_outputs_go_by_the_names_of_the_configuration():
    consoles = Consoles(OutputsSection(patient="PatToVol", tools="AllTools"))
    assert consoles(PatientPose(AT, VALID, ()))[0].device == "PatToVol"
    assert consoles(ToolPose("Drill", AT, VALID, 1))[1].device == "AllTools"


def test_a_volume_goes_out_with_what_is_not_known_about_it():
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    made, half = (Volume(np.full((8, 8, 8), hu, np.float32), grid) for hu in (40.4, 4000.0))
    degraded = Validity(Status.DEGRADED, "4 views over 90 degrees", 7)
    update = VolumeUpdate(made, None, "reconstruction", degraded, "learned", 4, half)
    volume, uncertainty = Consoles(OutputsSection(uncertainty="HowSure"))(update)
    assert (volume.device, uncertainty.device) == ("Volume", "HowSure")
    assert volume.voxels.max() == 40 and uncertainty.voxels.min() == 4000
    assert uncertainty.metadata["Validity"] == "DEGRADED" and uncertainty.timestamp_ns == 7
    assert [m.device for m in Consoles(OutputsSection())(replace(update, uncertainty_hu=None))] == ["Volume"]


def test_tools_are_listed_all_and_in_one_order():
    consoles = Consoles(OutputsSection(), ["Drill", "Probe"])
    for tool in ("Probe", "Drill", "Probe"):
        elements = consoles(ToolPose(tool, AT, VALID, 1))[1].elements
        assert [element.name for element in elements] == ["Drill", "Probe"]


def test_what_is_taken_back_is_stamped_with_its_time_and_none_goes_back():
    now = [10_000_000_000]
    consoles = Consoles(OutputsSection(), now_ns=lambda: now[0])

    def stamp(source_ns: int, matrix: np.ndarray | None = AT) -> int:
        status = Status.INVALID if matrix is None else Status.VALID
        now[0] += 10_000_000
        return consoles(ToolPose("Drill", matrix, Validity(status, "", source_ns), 1))[0].timestamp_ns

    assert stamp(500) == 500 and stamp(10_000_500) == 10_000_500
    assert stamp(0, None) == 20_000_500, "now, by the clock of the tool's source"
    assert stamp(15_000_000) == 20_000_500, "what was overtaken does not turn time back"
    assert stamp(3_600_000_000_000, None) == 30_000_500, "a stamp that is not believed is not handed on"
    assert stamp(340_000_000, None) == 40_000_500, "nor one that is off by less than a second"
    assert stamp(-3_600_000_000_000, None) == 50_000_500, "nor one that goes back by hours"
    assert stamp(7_200_000_000_000) == 7_200_000_000_000, "a clock that was set is"
    assert stamp(50_000_000) == 50_000_000


def test_a_late_xray_after_a_withdrawal_does_not_set_the_clock_back():
    """X-rays stall and are withdrawn; then one comes that was taken over a second before the withdrawal's stamp."""
    now = [100 * S]
    consoles = Consoles(OutputsSection(), now_ns=lambda: now[0])

    def said(at_ns: int | None) -> Message:
        valid = invalid("no X-ray came just now") if at_ns is None else Validity(Status.VALID, "", at_ns)
        return consoles(CArmPose(None if at_ns is None else AT, valid))[0]

    assert said(50 * S).timestamp_ns == 50 * S
    now[0] += 2 * S
    withdrawn = said(None)
    assert withdrawn.timestamp_ns == 52 * S
    for late_ms in (700, 750, 900):
        now[0] += 10 * MS
        late = said(50 * S + late_ms * MS)
        assert late.metadata["Validity"] == "INVALID" and late.timestamp_ns == 52 * S
    now[0] += S
    assert said(52 * S + 10 * MS).metadata["Validity"] == "VALID"
    assert said(50 * S).metadata["Validity"] == "VALID", "that is a clock that was set back"


def test_nothing_carries_a_stamp_of_something_else():
    """After a clock was set back by less than a second, poses are INVALID and X-rays withheld until it caught up."""
    consoles = Consoles(OutputsSection(axis_hz=0))

    def messages(at_ns: int) -> list[Message]:
        valid, taken = Validity(Status.VALID, "", at_ns), Frame(np.zeros((256, 256), np.uint16), at_ns, 1)
        shown = RegisteredFrame(taken, carm_of_size(256), AT, valid, 0.1, 0.9, None, 1)
        outputs = (ToolPose("Drill", AT, valid, 1), CArmPose(AT, valid), PatientPose(AT, valid, ()), shown)
        return [message for output in outputs for message in consoles(output)]

    last_ns = dict[str, int]()
    for at_ns in (5 * S, 5 * S + 10 * MS, 5 * S - 300 * MS, 5 * S - 100 * MS, 5 * S + 20 * MS, 2 * S, 2 * S + 10 * MS):
        heard = messages(at_ns)
        caught_up = at_ns > last_ns.get("DrillToVolume", 0) or at_ns <= 2 * S
        assert ("XRay" in {message.device for message in heard}) == caught_up
        for message in heard:
            assert message.metadata.get("Validity", "") in (("VALID", "") if caught_up else ("INVALID", ""))
            assert message.timestamp_ns == (at_ns if caught_up else last_ns[message.device])
            last_ns[message.device] = message.timestamp_ns


def test_an_xray_that_nobody_can_place_is_for_clients_that_read_why():
    frame = RegisteredFrame(
        Frame(np.zeros((256, 256), np.uint16), 5, 1), carm_of_size(256), None, invalid("lost"), 1, 0, None, 1
    )
    (image,) = Consoles(OutputsSection())(frame)
    assert not is_shown(image) and is_shown(msgspec.structs.replace(image, metadata={"Validity": "DEGRADED"}))


def test_lungs_of_a_reconstruction_go_out_beside_it():
    mesh = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32))
    volume, degraded = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)), Validity(Status.DEGRADED, "2 views", 7)
    update = VolumeUpdate(volume, mesh, "reconstruction", degraded, "learned", 2, lungs=mesh)
    made, lungs = Consoles(OutputsSection())(update)  # bone: the navigation volume's is not replaced
    assert (made.device, lungs.device) == ("Volume", "LungModel")
    assert lungs.metadata["Validity"] == "DEGRADED" and len(lungs.points_mm) == 3


def test_a_bone_surface_has_a_time():
    mesh = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32))
    volume = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    (bone,) = Consoles(OutputsSection())(VolumeUpdate(volume, mesh, "navigation", Validity(Status.VALID), "CT", 0))
    assert bone.timestamp_ns > 1_700_000_000_000_000_000
