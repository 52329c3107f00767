"""Bones without a CT, in the loop: X-rays are rendered, registered, and each bone is followed by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from navnode import config
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.bodies import read_bone
from navnode.files.views import read_views
from navnode.loop.executors import AtOnce
from navnode.loop.pipeline import Pipeline
from navnode.loop.runner import Runner
from navnode.registration.bodies import Body
from navnode.types import BodyPose, CArm, Frame, PatientPose, RegisteredFrame, SourceState, Status, Tick, TrackedPose
from tests.loop.theatre import NOISE, SOURCE, T0, of
from tests.registration.bones import CARM, bone, camera, taken

pytestmark = pytest.mark.long

WRIST = Path(__file__).parents[3] / "shared" / "xray_real" / "wrist"
NAMES = ("radius", "ulna")
STEP_S = 0.1


def told(carm: CArm, bodies: list[dict], **more):
    data = {
        "carm": {
            "width_px": carm.width_px,
            "height_px": carm.height_px,
            "pixel_spacing_mm": list(carm.pixel_spacing_mm),
            "source_to_detector_mm": carm.source_to_detector_mm,
            "principal_point_px": list(carm.principal_point_px),
            "source_to_isocentre_mm": 700.0,
        },
        "sources": [{"port": 18945}],
        "bodies": bodies,
        "registration": {"threads": 1},
        "reconstruction": {"enabled": False},
        **more,
    }
    return config.parse(data, "test")


class Session:
    """A tracked C-arm that takes pictures, and a node that follows bones in them."""

    def __init__(self, settings) -> None:
        self.time_s, self.outputs = 0.0, []
        self._rng, self._frames = np.random.default_rng(0), 0
        at_once = AtOnce(settings, None, lambda: self.now_ns)
        self.pipeline = Pipeline(settings, None)
        self._runner = Runner(
            self.pipeline,
            ingest=None,
            register=at_once,
            ask_worker=lambda request: None,
            now_ns=lambda: self.now_ns,
            record=lambda step: self.outputs.extend(step.outputs),
        )
        self._runner.feed(SourceState(SOURCE, True, "", T0))

    @property
    def now_ns(self) -> int:
        return T0 + round(self.time_s * 1e9)

    def expose(self, counts: np.ndarray, world_from_carm: np.ndarray) -> list[object]:
        """One X-ray, with the poses around its exposure; what came out."""
        before = len(self.outputs)
        for tenth in range(10):
            self.time_s = round(self.time_s + STEP_S / 10, 6)
            for device, pose in (("PatientToTracker", np.eye(4)), ("CArmToTracker", world_from_carm)):
                measured = pose @ g.exp(self._rng.normal(0, 1, 6) * NOISE)
                self._runner.feed(TrackedPose(device, measured, self.now_ns, self.now_ns))
            if tenth == 5:
                self._frames += 1
                self._runner.feed(replace(Frame(counts, self.now_ns, self.now_ns, self._frames), exposure_ns=5_000_000))
            self._runner.feed(Tick(self.now_ns))
        return self.outputs[before:]


def off_mm(pose: BodyPose, true: np.ndarray, center_mm: np.ndarray) -> float:
    return float(np.linalg.norm(g.transform(pose.volume_from_body, center_mm) - g.transform(true, center_mm)))


CENTERS = {"Left": np.array([-14.0, 0.0, 0.0]), "Right": np.array([14.0, 6.0, 4.0])}


@pytest.fixture(scope="module")
def bones(tmp_path_factory):
    """Two bones, their files, and where they are."""
    folder, rng = tmp_path_factory.mktemp("bones"), np.random.default_rng(5)
    volumes, poses, bodies = {}, {}, []
    for seed, (name, center) in enumerate(CENTERS.items(), 1):
        volume = volumes[name] = bone(seed, tuple(center))
        path = folder / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), volume.volume_from_index), path)
        poses[name] = g.exp(rng.normal(0, 1, 6) * np.array([0.06] * 3 + [3.0] * 3), center)
        bodies.append({"name": name, "file": str(path), "volume_from_body": np.eye(4).tolist()})
    return volumes, poses, bodies


def xray(bones, degrees: float, seed: int, moved: dict[str, np.ndarray] | None = None, without: str = "") -> tuple:
    volumes, poses, _ = bones
    shown = {name: pose for name, pose in (poses | (moved or {})).items() if name != without}
    shot = taken([volumes[name] for name in shown], list(shown.values()), degrees, seed=seed)
    return shot.counts, shot.world_from_carm


def last_of(made: list[object]) -> dict[str, BodyPose]:
    return {pose.body: pose for pose in of(BodyPose, made)}


@pytest.fixture(scope="module")
def followed(bones):
    """A session in which both were found, and what came out until then."""
    session = Session(told(CARM, bones[2]))
    made = [session.expose(*xray(bones, 80.0 if 3 <= n < 12 else 0.0, n)) for n in range(16)]
    return session, made


def test_from_one_side_depth_is_open_and_that_is_said(followed):
    for pose in last_of(followed[1][1]).values():
        assert pose.volume_from_body is None and pose.validity.status is Status.INVALID
        assert pose.body_from_carm is not None and pose.carm_validity.status is Status.DEGRADED


def test_two_sides_find_each_bone(bones, followed):
    poses = last_of(followed[1][-1])
    for name, true in bones[1].items():
        assert poses[name].validity.status is Status.VALID, poses[name].validity.reason
        assert off_mm(poses[name], true, CENTERS[name]) < 0.5
        assert len(poses[name].sigma) == 6 and max(poses[name].sigma[3:]) < 1.5
    assert of(PatientPose, followed[1][-1])[-1].validity.status is Status.VALID
    shown = of(RegisteredFrame, followed[1][-1])[-1]
    assert shown.validity.usable and np.allclose(shown.volume_from_carm, camera(0.0), atol=0.2)


def test_nothing_is_valid_before_two_sides_agree(bones, followed):
    for made in followed[1][:4]:
        assert not [pose for pose in of(BodyPose, made) if pose.validity.status is Status.VALID]


def test_a_bone_that_is_gone_is_lost_alone_and_found_again(bones, followed):
    session, _ = followed
    gone = [session.expose(*xray(bones, 0.0, 100 + n, without="Right")) for n in range(5)]
    poses = last_of(gone[-1])
    assert poses["Right"].validity.status is Status.INVALID and poses["Right"].validity.reason
    assert poses["Left"].validity.status is Status.VALID
    assert off_mm(poses["Left"], bones[1]["Left"], CENTERS["Left"]) < 0.5
    back = [session.expose(*xray(bones, 80.0 if n % 8 < 4 else 0.0, 200 + n)) for n in range(50)]
    poses = last_of(back[-1])
    assert poses["Right"].validity.status is Status.VALID, poses["Right"].validity.reason
    assert off_mm(poses["Right"], bones[1]["Right"], CENTERS["Right"]) < 0.5


def test_a_bone_that_moves_is_never_valid_where_it_is_not(bones, followed):
    session, _ = followed
    true = bones[1]["Left"]
    wrong, last = [], {}
    for n in range(30):
        if n < 15:
            true = true @ g.exp(np.array([0.01, 0.0, 0.0, 0.5, 0.0, 0.4]), CENTERS["Left"])  # 6 mm a second
        made = session.expose(*xray(bones, 0.0, 300 + n, {"Left": true}))
        last |= last_of(made)
        wrong += [
            off_mm(pose, true, CENTERS["Left"])
            for pose in of(BodyPose, made)
            if pose.body == "Left" and pose.validity.status is Status.VALID
        ]
    assert not [mm for mm in wrong if mm > 2.0]
    assert last["Right"].validity.status is Status.VALID


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"volume": {"ct": "sample"}}, "labels of it"),
        ({"reconstruction": {"enabled": True}}, "must be false"),
        ({"registration": {"volume_from_patient_start": g.rigid(None, (1.0, 0, 0)).tolist()}}, "marker"),
    ],
)
def test_what_does_not_go_with_bones_alone_is_named(bones, change, said):
    with pytest.raises(ConfigError, match=said):
        told(CARM, bones[2], **change)


def test_a_body_is_a_file_or_a_label(bones):
    with pytest.raises(ConfigError, match="either file"):
        told(CARM, [{"name": "Femur", "file": "a.nii.gz", "labels": "b.nii.gz", "label": 1}])
    with pytest.raises(ConfigError, match="all must be"):
        told(CARM, [*bones[2], {"name": "Femur", "labels": "b.nii.gz", "label": 1}], volume={"ct": "sample"})


@pytest.mark.slow
@pytest.mark.skipif(not WRIST.exists(), reason="the real X-rays are not here")
@pytest.mark.parametrize("instant", ["0002", "0099"])
def test_a_real_wrist_is_found_from_nothing_and_followed(instant):
    views = read_views(WRIST / f"views_{instant}.json")
    reference = json.loads((WRIST / "reference_poses.json").read_text())["reference"][instant]
    center_mm = {name: Body.of(read_bone(WRIST / f"{name}.nii.gz"), None, name, 1).center_mm for name in NAMES}
    carm = replace(views[0].carm.binned(2), width_px=932, height_px=896, principal_point_px=(452.0, 447.0))  # of both
    session = Session(told(carm, [{"name": name, "file": str(WRIST / f"{name}.nii.gz")} for name in NAMES]))
    rng, made = np.random.default_rng(1), []
    for n in range(30):
        view = views[n // 3 % 2]
        grey = resampled(view, carm) + rng.normal(0, 1, (carm.height_px, carm.width_px))
        made.append(session.expose(np.clip(grey, 0, 255).astype(np.uint8), view.pose()))
    true = {name: np.array(reference[name]["world_from_body"]) for name in NAMES}
    for name, pose in last_of(made[-1]).items():
        assert pose.validity.usable, (name, pose.validity.reason)  # at half resolution the ulna may be in doubt
        assert name == "ulna" or pose.validity.status is Status.VALID, pose.validity.reason
        assert off_mm(pose, true[name], center_mm[name]) < 0.5
    valid = [pose for outputs in made for pose in of(BodyPose, outputs) if pose.validity.status is Status.VALID]
    assert not [pose for pose in valid if off_mm(pose, true[pose.body], center_mm[pose.body]) > 2.0]


def resampled(view, carm: CArm) -> np.ndarray:
    """A picture as a C-arm with another geometry would take it from the same place."""
    own = view.carm
    into = np.zeros((2, 3))
    for axis in range(2):
        wide = carm.pixel_spacing_mm[axis] / carm.source_to_detector_mm
        into[axis, axis] = wide / (own.pixel_spacing_mm[axis] / own.source_to_detector_mm)
        into[axis, 2] = own.principal_point_px[axis] - into[axis, axis] * carm.principal_point_px[axis]
    grey = cv2.GaussianBlur(view.counts().astype(np.float32), (0, 0), 0.5 * into[0, 0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(grey, into, (carm.width_px, carm.height_px), flags=flags)
