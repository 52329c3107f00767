"""The node uses what calibration found, and refuses what it must not use."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from navnode import config
from navnode import geometry as g
from navnode.errors import CalibrationError
from navnode.files import artifacts
from navnode.geometry import carm_document
from navnode.igtl import Image
from navnode.loop import calibrations
from navnode.loop.calibrations import Calibrations, lacking
from navnode.loop.ingest import Ingest
from navnode.node import supervisor
from navnode.node.node import Node
from navnode.recording import Recording, regression
from navnode.recording.writer import ContainerWriter
from navnode.types import CArm, Frame, Rejected
from navnode.xray.distortion import DistortionField

NOW = 1_000_000_000_000
MEASURED = CArm(512, 512, (0.5859375, 0.5859375), 1013.0, (260.0, 251.0))


def written(folder, kind, result, **more):
    path = folder / f"{kind}.json"
    artifacts.write(path, artifacts.Artifact(kind=kind, status="PASS", result=result, created_ns=NOW, **more))
    return path.name


@pytest.fixture
def calibrated(tmp_path):
    """A node's configuration in which everything is calibrated, and what was found."""
    marker_from_carm = g.exp(np.array([0.3, 0.2, 0.1, 100, 50, -300]))
    volume_from_patient = g.exp(np.array([0.1, 0.2, 0.3, 10, 20, 30]))
    nodes = np.stack(np.meshgrid(*[np.arange(9) * 64.0] * 2), axis=-1)
    text = config.find("demo.toml").read_text()
    keys = {
        "carm": written(
            tmp_path,
            "carm",
            {"carm": carm_document(MEASURED), "distortion": {"model": "poly3", "undistorted_px": (nodes + 1).tolist()}},
        ),
        "handeye": written(tmp_path, "handeye", {"marker_from_carm": marker_from_carm.tolist()}),
        "image_lag": written(tmp_path, "temporal", {"image_lag_ns": 28_000_000, "sign": 1}),
        "patient": written(tmp_path, "patient", {"volume_from_patient": volume_from_patient.tolist()}),
    }
    tool = {
        "pivot": written(tmp_path, "pivot", {"tip_mm": [1.0, 2.0, 150.0]}, device="Drill"),
        "spin": written(tmp_path, "spin", {"axis": [0.0, 0.6, 0.8]}, device="Drill"),
    }
    spelled = ["".join(f'{name} = "{file}"\n' for name, file in part.items()) for part in (keys, tool)]
    text = text.replace("[calibration]\n", f"[calibration]\n{spelled[0]}", 1)
    text = text.replace('device = "DrillToTracker"\n', f'device = "DrillToTracker"\n{spelled[1]}', 1)
    (tmp_path / "node.toml").write_text(text)
    return tmp_path / "node.toml", marker_from_carm, volume_from_patient


def test_every_calibration_arrives_where_the_loop_uses_it(calibrated):
    path, marker_from_carm, volume_from_patient = calibrated
    loaded = Calibrations.load(config.load(path), NOW + 1)
    used = loaded.config
    assert used.carm.geometry == MEASURED
    assert np.allclose(config.matrix(used.calibration.carm_from_marker), g.inverse(marker_from_carm))
    assert used.calibration.image_lag_ms == 28.0
    assert np.allclose(config.matrix(used.registration.volume_from_patient_start), volume_from_patient)
    tip = config.matrix(used.tools[0].marker_from_tooltip)
    assert np.allclose(tip[:3, 3], [1, 2, 150]) and np.allclose(tip[:3, 2], [0, 0.6, 0.8])
    assert not loaded.detector.ideal
    lacks = dict(lacking(config.load(path), NOW + 1))
    assert set(lacks) == {"calibration.flatfield", "calibration.flex"}


def test_frames_come_out_of_the_detector_corrected(calibrated):
    used = Calibrations.load(config.load(calibrated[0]), NOW)
    ingest = Ingest(used.config, used.detector)
    counts = np.tile(np.arange(512, dtype=np.uint16) * 10, (512, 1))
    frame = ingest(Image(device="XRay", timestamp_ns=5, voxels=counts[None], ras_from_index=np.eye(4)), 6)
    assert isinstance(frame, Frame)
    # Undistorted places are one pixel to the right: what was at u is at u + 1 now.
    assert np.abs(frame.counts[100:400, 100:400].astype(int) - (counts[100:400, 100:400] - 10)).max() <= 1
    assert (frame.counts[0] == 65_535).all(), "what the detector did not see is no information"


def test_flex_needs_the_angles_that_the_x_ray_states(calibrated):
    path = calibrated[0]
    angles = np.stack([np.linspace(-1, 1, 12), np.zeros(12)], axis=1)
    still = np.eye(4).tolist()
    model = {
        "volume_from_base": still,
        "arm_from_carm": still,
        "carm": carm_document(MEASURED),
        "length_rad": 0.6,
        "angles_rad": angles.tolist(),
        "weights": np.zeros((12, 9)).tolist(),
        "mean": [0.0] * 9,
    }
    written(path.parent, "flex", {"model": {"kind": "arc+gaussian_process", "parameters": model}})
    path.write_text(path.read_text().replace("[calibration]\n", '[calibration]\nflex = "flex.json"\n', 1))
    used = Calibrations.load(config.load(path), NOW)
    ingest = Ingest(used.config, used.detector)

    def taken(**metadata):
        voxels = np.full((1, 512, 512), 900, np.uint16)
        return ingest(
            Image(device="XRay", timestamp_ns=5, voxels=voxels, ras_from_index=np.eye(4), metadata=metadata), 6
        )

    assert isinstance(taken(), Rejected) and "angles" in taken().reason
    far = taken(PositionerPrimaryAngle="90", PositionerSecondaryAngle="0")
    assert isinstance(far, Rejected) and "outside" in far.reason
    assert isinstance(taken(PositionerPrimaryAngle="20", PositionerSecondaryAngle="0"), Frame)
    assert isinstance(taken(PositionerPrimaryAngle="nan", PositionerSecondaryAngle="0"), Rejected)


@pytest.mark.risk("calibration-misused")
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"status": "FAIL", "reason": "residual: x"}, "failed"),
        ({"expires_ns": NOW - 1}, "expired"),
        ({"kind": "spin"}, "not handeye"),
        ({"result": {"marker_from_carm": np.diag([1.0, 1, -1, 1]).tolist()}}, "not a rigid transform"),
        ({"result": {}}, "no marker_from_carm"),
        ({"device": "another C-arm"}, "for device"),
        ({"mode": "small"}, "for detector mode"),
    ],
)
def test_what_must_not_be_used_stops_the_start_and_is_named(calibrated, changed, why):
    path = calibrated[0]
    file = path.parent / "handeye.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    whose = '[calibration]\ndevice = "this C-arm"\nmode = "large"\n'
    path.write_text(path.read_text().replace("[calibration]\n", whose, 1))
    with pytest.raises(CalibrationError, match=why) as caught:
        Calibrations.load(config.load(path), NOW)
    assert "handeye.json" in str(caught.value)
    assert "handeye.json" in dict(lacking(config.load(path), NOW))["refused"]


@pytest.mark.risk("calibration-misused")
def test_another_detectors_geometry_is_refused(calibrated):
    path = calibrated[0]
    nominal = config.load(path).carm.geometry
    finer = tuple(0.9 * mm for mm in nominal.pixel_spacing_mm)
    size = nominal.width_px, nominal.height_px
    others = {
        "1024 x 1024": CArm(1024, 1024, nominal.pixel_spacing_mm, 1013.0, (511.5, 511.5)),
        f"{size[0]} x {size[1]}": CArm(*size, finer, 1013.0, nominal.principal_point_px),
    }
    for named, other in others.items():
        written(path.parent, "carm", {"carm": carm_document(other), "distortion": {"model": "none"}})
        with pytest.raises(CalibrationError, match=rf"carm\.json: it is for {named}"):
            Calibrations.load(config.load(path), NOW)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"carm": [], "distortion": {}},
        {"carm": {"width_px": 0}, "distortion": {}},
        {"carm": carm_document(MEASURED)},
        {"carm": carm_document(MEASURED), "distortion": {"model": "poly3"}},
        {"carm": carm_document(MEASURED), "distortion": {"model": "poly3", "undistorted_px": [[1, 2], [3]]}},
        {"carm": carm_document(MEASURED), "distortion": {"model": "poly3", "undistorted_px": [[[1, 2]]]}},
    ],
)
def test_results_that_are_not_whole_are_named(calibrated, result):
    path = calibrated[0]
    written(path.parent, "carm", result)
    with pytest.raises(CalibrationError):
        Calibrations.load(config.load(path), NOW)


def test_how_well_the_source_is_known_comes_with_hand_eye(calibrated):
    path, marker_from_carm, _ = calibrated
    assert Calibrations.load(config.load(path), NOW).config.calibration.source_sigma_mm == 0.0
    quality = {"sigma_translation_mm": [0.3, 0.9, 0.5]}
    written(path.parent, "handeye", {"marker_from_carm": marker_from_carm.tolist()}, quality=quality)
    assert Calibrations.load(config.load(path), NOW).config.calibration.source_sigma_mm == pytest.approx(0.9)
    for odd in ({"sigma_translation_mm": None}, {"sigma_translation_mm": ["much"]}, {"sigma_translation_mm": 3}):
        written(path.parent, "handeye", {"marker_from_carm": marker_from_carm.tolist()}, quality=odd)
        assert Calibrations.load(config.load(path), NOW).config.calibration.source_sigma_mm == 0.0


def test_what_is_kept_in_the_folder_is_used_where_no_key_names_a_file(calibrated):
    """Of the node, and of each tool; a named file goes first, and another patient's registration is left out."""
    path, folder = calibrated[0], calibrated[0].parent / "kept"
    folder.mkdir()
    text = path.read_text().replace('pivot = "pivot.json"\n', "").replace('handeye = "handeye.json"\n', "")
    text = text.replace('patient = "patient.json"\n', "")
    path.write_text(text.replace("[calibration]\n", '[calibration]\nfolder = "kept"\n', 1))
    for name, kind in (("pivot-Drill", "pivot"), ("handeye", "handeye"), ("carm", "carm"), ("patient", "patient")):
        (folder / f"{name}.json").write_bytes((path.parent / f"{kind}.json").read_bytes())
    found = calibrations.files(calibrations.with_kept(config.load(path)))
    assert found["Drill.pivot"] == str(folder / "pivot-Drill.json") and found["handeye"] == str(folder / "handeye.json")
    assert found["carm"] == str(path.parent / "carm.json") and "patient" not in found
    loaded = Calibrations.load(calibrations.with_kept(config.load(path)), NOW)
    assert np.allclose(np.array(loaded.config.tools[0].marker_from_tooltip)[:3, 3], [1, 2, 150])


def test_distortion_by_angle_is_part_of_the_c_arm(calibrated):
    """X-rays are corrected at their angles; those without, or outside the calibrated range, are refused."""
    path, size = calibrated[0], (MEASURED.width_px, MEASURED.height_px)
    shift = np.zeros((9, 9, 9, 2))
    shift[0, ..., 0] = 4.0
    shift[6, ..., 1] = 8.0  # times the sine of the orbital angle
    field = DistortionField(size, shift, np.array([[-1.0, 0.0], [1.0, 0.0]]))
    distortion = {"model": "plate", "field": field.parameters()}
    written(path.parent, "carm", {"carm": carm_document(MEASURED), "distortion": distortion})
    loaded = Calibrations.load(config.load(path), NOW)
    ingest = Ingest(loaded.config, loaded.detector)
    counts = (np.add.outer(np.arange(512) * 40, np.arange(512) * 20) + 100).astype(np.uint16)

    def seen(**metadata):
        image = Image(device="XRay", timestamp_ns=5, voxels=counts[None], ras_from_index=np.eye(4), metadata=metadata)
        return ingest(image, 6)

    frame = seen(PositionerPrimaryAngle="30", PositionerSecondaryAngle="0")
    assert np.abs(frame.counts[20:490, 20:490] - (counts[20:490, 20:490] - 4.0 * 20 - 4.0 * 40)).max() <= 2
    assert seen().reason == "the X-ray carries no C-arm angles; distortion needs them"
    far = seen(PositionerPrimaryAngle="75", PositionerSecondaryAngle="0")
    assert far.reason == "the C-arm's angles lie outside the calibrated distortion"
    for broken in ({}, {**field.parameters(), "angles_rad": None}, {**field.parameters(), "size_px": [256, 256]}):
        distortion = {"model": "plate", "field": broken}
        written(path.parent, "carm", {"carm": carm_document(MEASURED), "distortion": distortion})
        with pytest.raises(CalibrationError, match=r"carm\.json"):
            Calibrations.load(config.load(path), NOW)


def test_a_configuration_without_calibrations_is_told_what_it_lacks():
    lacks = dict(lacking(config.load("plus.toml"), NOW))
    assert {"calibration.carm", "calibration.image_lag"} <= set(lacks) and "refused" not in lacks


def test_a_file_that_changes_after_it_was_read_changes_nothing(calibrated, monkeypatch):
    """Every file is replaced the moment it has been read: the node must not look again."""
    path, marker_from_carm, _ = calibrated
    zeros = np.zeros((512, 512), np.float32)
    np.savez(path.parent / "flat.npz", dark=zeros, gain=zeros + 1, bad=zeros > 0)
    path.write_text(path.read_text().replace("[calibration]\n", '[calibration]\nflatfield = "flat.npz"\n', 1))
    given = config.load(path)
    before = {key: Path(name).read_bytes() for key, name in calibrations.files(given).items()}
    read = artifacts.content
    names = []

    def once(name, *more):
        found = read(name, *more)
        names.append(name)
        Path(name).write_bytes(b"something else")
        return found

    monkeypatch.setattr(artifacts, "content", once)
    node = Node(given, None, "inproc://worker", "inproc://out")
    assert sorted(names) == sorted(calibrations.files(given).values()) and len(names) == 7
    used = node._config
    assert used.carm.geometry == MEASURED and used.calibration.image_lag_ms == 28.0
    assert np.allclose(config.matrix(used.calibration.carm_from_marker), g.inverse(marker_from_carm))
    node._tap.start(path.parent / "session.mcap")
    node._close_recordings()
    session = Recording(path.parent / "session.mcap")
    assert {key: session.attachment(f"calibration/{key}") for key in before} == before


def test_expiry_is_judged_when_the_procedure_begins(calibrated, monkeypatch):
    """Also by a node that has to be started again when a calibration has expired meanwhile."""
    path, hour_ns = calibrated[0], 3_600_000_000_000
    clock = [NOW]
    monkeypatch.setattr(supervisor, "now_ns", lambda: clock[0])
    monkeypatch.setattr("navnode.node.node.now_ns", lambda: clock[0])
    written(path.parent, "patient", {"volume_from_patient": np.eye(4).tolist()}, expires_ns=NOW + hour_ns)
    with supervisor.Supervisor(config.load(path), None) as running:
        told = supervisor.read_config(running.folder)
        assert told.calibration.as_of_ns == NOW
        Node(told, None, "inproc://worker", "inproc://out")
        clock[0] += 2 * hour_ns
        Node(supervisor.read_config(running.folder), None, "inproc://worker", "inproc://out")
    with supervisor.Supervisor(config.load(path), None) as later:
        told_later = supervisor.read_config(later.folder)
    with pytest.raises(CalibrationError, match=r"patient\.json: expired"):
        Node(told_later, None, "inproc://worker", "inproc://out")
    as_of = msgspec.structs.replace(told.calibration, as_of_ns=7)
    with supervisor.Supervisor(msgspec.structs.replace(told, calibration=as_of), None) as replayed:
        assert supervisor.read_config(replayed.folder).calibration.as_of_ns == 7


def test_a_restarted_node_goes_by_the_files_as_they_were_when_the_procedure_began(calibrated):
    """Whoever calibrates anew meanwhile reads that it holds from the next start on."""
    path, moved = calibrated[0], np.eye(4)
    moved[0, 3] = 25.0
    written(path.parent, "patient", {"volume_from_patient": np.eye(4).tolist()})
    with supervisor.Supervisor(config.load(path), None) as running:
        told, copies = supervisor.read_config(running.folder), supervisor.calibrations_folder(running.folder)
        before = Calibrations.load(told, NOW, copies)
        written(path.parent, "patient", {"volume_from_patient": moved.tolist()})
        assert Calibrations.load(told, NOW).config.registration != before.config.registration
        assert Calibrations.load(told, NOW, copies).config == before.config
        (path.parent / "patient.json").unlink()
        assert Calibrations.load(told, NOW, copies).files == before.files
    with (
        pytest.raises(CalibrationError, match=r"patient\.json"),
        supervisor.Supervisor(config.load(path), None) as lost,
    ):
        pytest.fail(f"{lost.folder}: began without a file")


def test_calibrations_of_sessions_of_older_versions_are_found(calibrated, tmp_path):
    """There the image's lag is called latency, in the configuration and among what is attached."""
    given = config.load(calibrated[0])
    applied = Calibrations.load(given, NOW)
    kept = msgspec.to_builtins(applied.config)
    kept["calibration"]["latency"] = kept["calibration"].pop("image_lag")
    kept["recording"]["replayed_ns"] = kept["calibration"].pop("as_of_ns")
    session = tmp_path / "old.mcap"
    with session.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "s"})
        writer.attach("configuration.json", msgspec.json.encode(kept), "application/json", 0)
        for key, content in applied.files.items():
            writer.attach(f"calibration/{'latency' if key == 'image_lag' else key}", content, "", 0)
        writer.finish()
    (tmp_path / "unpacked").mkdir()
    found = regression.configuration(Recording(session), None, tmp_path / "unpacked")
    assert found.calibration.image_lag_ms == 28.0
    assert Calibrations.load(found, NOW).files == applied.files


def test_the_loop_does_not_wait_for_an_image_that_is_corrected(calibrated):
    """Images are corrected in their order in a thread of their own; poses overtake them, and too many are told."""
    import asyncio
    import threading

    from navnode.igtl import Arrival, Transform
    from navnode.types import TrackedPose

    used = Calibrations.load(config.load(calibrated[0]), NOW)
    taken, gate = [], threading.Event()

    async def story() -> None:
        node = Node(used.config, None, "inproc://worker", "inproc://out")
        ingest = Ingest.__call__

        def slow(self, message, received_ns):
            if isinstance(message, Image):
                gate.wait(5)
            return ingest(self, message, received_ns)

        node._runner.ingest = type("Slow", (Ingest,), {"__call__": slow})(used.config, used.detector)

        def take(message, of):
            taken.append(message)

        for n in range(1, 6):
            voxels = np.full((1, 512, 512), 1000 + n, np.uint16)
            image = Image(device="XRay", timestamp_ns=n, voxels=voxels, ras_from_index=np.eye(4))
            node._ingest_message(image, Arrival(n), take)
        node._ingest_message(
            Transform(device="CArmToTracker", timestamp_ns=9, matrix=g.rigid(None, (0.0, 0.0, 1500.0))),
            Arrival(9),
            take,
        )
        before = [type(each) for each in taken]
        gate.set()
        while sum(isinstance(each, Frame) for each in taken) < 3:
            await asyncio.sleep(0.01)
        assert before == [Rejected, Rejected, TrackedPose]

    asyncio.run(asyncio.wait_for(story(), 20))
    assert [each.timestamp_ns for each in taken if isinstance(each, Frame)] == [1, 2, 3]
