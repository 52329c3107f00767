"""The commands that work on files: projection, registration and reconstruction, as their users call them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from msgspec import UNSET
from pydicom import dcmread

from navnode import geometry as g
from navnode.clock import now_ns
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.bodies import read_map
from navnode.files.views import ViewFile, read_counts, read_landmarks, read_views, write_views
from navnode.files.volumes import read_numbers, read_volume
from navnode.offline.carm import calibrated_views, write_calibrated
from navnode.offline.views import view_of
from navnode.projector import Projector
from navnode.registration.carm import Calibrated, Readout
from navnode.simulation.scenario import carm_of_size, scenario_for
from navnode.types import Registration, Status, Validity, Volume
from navnode.xray.chain import XrayChain
from tests.invoke import call

CARM = carm_of_size(256)
OFF = g.exp(np.array([0.03, -0.02, 0.04, 4.0, -5.0, 8.0]), (0.0, 0.0, 700.0))
"""Where the starts are, from where the truth is: about 10 mm and 3 degrees."""


def navnode(*arguments: object, code: int = 0) -> dict:
    found, document, error = call(*arguments)
    assert found == code, error
    return {"error": error} if code else document


class Case:
    """Simulated X-rays of a CT along an arc, and their files."""

    def __init__(self, ct: Path, folder: Path, times_s: tuple[float, ...]) -> None:
        self.ct, self.folder = ct, folder
        volume = read_volume(ct)
        self.scenario = scenario_for(volume)
        self.true = [self.scenario.volume_from_carm(t) for t in times_s]
        projector, detector = Projector(volume), XrayChain()
        for index, pose in enumerate(self.true):
            counts = detector.expose(projector.render(CARM, pose), CARM, 1.0, np.random.default_rng(index))
            cv2.imwrite(str(folder / f"x{index}.png"), counts)

    def views(self, name: str, poses: list, i0: float | None = None) -> Path:
        path = self.folder / name
        files = [ViewFile("", self.folder / f"x{k}.png", CARM, pose, i0, k) for k, pose in enumerate(poses)]
        write_views(path, files)
        return path

    def across_mm(self, index: int, found: list) -> float:
        """How far the targets move across the beam."""
        seen, truly = (
            g.transform(g.inverse(np.array(pose)), self.scenario.targets_mm)[:, :2]
            for pose in (found, self.true[index])
        )
        return float(np.linalg.norm(seen - truly, axis=1).mean())

    def off_mm(self, index: int, found: list) -> float:
        """How far the targets move in space."""
        moved = np.array(found) @ g.inverse(self.true[index])
        targets = self.scenario.targets_mm
        return float(np.linalg.norm(g.transform(moved, targets) - targets, axis=1).mean())


@pytest.fixture(scope="module")
def case(procedural_ct, tmp_path_factory) -> Case:
    return Case(procedural_ct, tmp_path_factory.mktemp("case"), (0.0, 4.0, 8.0, 14.5))


@pytest.mark.long
def test_every_view_is_found(case):
    views = case.views("off.json", [pose @ OFF for pose in case.true])
    report = navnode("register", "--volume", case.ct, "--views", views, "--json")
    assert len(report["views"]) == 4 and report["elapsed_ms"] > 0
    for index, view in enumerate(report["views"]):
        assert view["status"] in ("VALID", "DEGRADED") and view["iterations"] > 0
        assert case.across_mm(index, view["volume_from_carm"]) < 1.0
        assert set(view["sigma"]) == {"rotation_rad", "translation_mm"}


def test_views_that_share_one_motion_fix_each_others_depth(case):
    moved = g.rigid(g.rotation_exp(np.array([0.02, -0.03, 0.02])), (6.0, -5.0, 4.0))
    views = case.views("moved.json", [moved @ pose for pose in case.true])
    alone = navnode("register", "--volume", case.ct, "--views", views, "--json")["views"]
    joint = navnode("register", "--volume", case.ct, "--views", views, "--joint", "--json")["views"]
    errors = [[case.off_mm(i, view["volume_from_carm"]) for i, view in enumerate(found)] for found in (alone, joint)]
    assert max(errors[1]) < 1.0 and np.mean(errors[1]) < np.mean(errors[0])
    relative = [
        np.array(view["volume_from_carm"]) @ g.inverse(moved @ pose)
        for view, pose in zip(joint, case.true, strict=True)
    ]
    assert np.allclose(relative, relative[0], atol=1e-6)


def test_a_sequence_needs_the_first_pose_only(case, tmp_path):
    times = tuple(2.0 + 0.1 * k for k in range(6))
    sequence = Case(case.ct, tmp_path, times)
    views = sequence.views("track.json", [sequence.true[0] @ OFF] + [None] * 5)
    report = navnode("register", "--volume", case.ct, "--views", views, "--track", "--json")
    assert max(sequence.across_mm(i, view["volume_from_carm"]) for i, view in enumerate(report["views"])) < 1.0
    error = navnode("register", "--volume", case.ct, "--views", views, code=2)["error"]
    assert "views[1]: volume_from_carm is missing" in error


def test_far_starts_are_searched(case):
    far = g.exp(np.array([0.1, -0.1, 0.1, 20.0, -20.0, 25.0]), (0.0, 0.0, 700.0))
    views = case.views("far.json", [pose @ far for pose in case.true[:2]])
    report = navnode("register", "--volume", case.ct, "--views", views, "--search", "--json")
    for index, view in enumerate(report["views"]):
        assert view["status"] == "INVALID" or case.across_mm(index, view["volume_from_carm"]) < 2.0
    assert any(view["status"] != "INVALID" for view in report["views"])


@pytest.mark.parametrize(("method", "alike"), [("auto", 0.85), ("sart", 0.9)])
@pytest.mark.long
def test_a_volume_from_views(case, tmp_path, method, alike):
    """SART fits its views; the learned volume is what is likely, and made to agree with them in its details only."""
    views = case.views("true.json", case.true, i0=20_000.0)
    out, mesh = tmp_path / "volume.nii.gz", tmp_path / "bone.stl"
    size = ("--size", 64, "--spacing-mm", 4)
    report = navnode("reconstruct", "--views", views, "--out", out, *size, "--mesh", mesh, "--method", method, "--json")
    assert report["method"] == ("learned" if method == "auto" else method)
    assert report["views"] == 4 and len(report["per_view_ms"]) == 4 and report["status"] == "DEGRADED"
    volume = read_volume(out)
    assert volume.voxels.shape == (64, 64, 64) and volume.spacing_mm == pytest.approx((4, 4, 4))
    assert np.linalg.norm(volume.center_mm - case.scenario.isocentre_mm) < 5
    # It explains its views: the projections of what was made resemble the images.
    predicted = Projector(volume).render(CARM, case.true[0])
    measured = view_of(read_views(views)[0]).line_integrals
    inside = predicted > 0.5
    assert np.corrcoef(predicted[inside], measured[inside])[0, 1] > alike
    assert mesh.stat().st_size > 10_000
    assert report["surface"]["triangles"] > 100 and report["surface"]["volume_cm3"] > 1


@pytest.mark.long
def test_every_surface_and_interval_that_is_asked_for(case, tmp_path):
    """The same X-rays as uncertainty, as single bones and as skin; of a pelvis no lungs."""
    views = case.views("true.json", case.true, i0=20_000.0)
    given = ("reconstruct", "--views", views, "--out", tmp_path / "volume.nii.gz", "--size", 64, "--spacing-mm", 4)
    wanted = ("--uncertainty", tmp_path / "u.nii.gz", "--mesh-bones", tmp_path / "bones", "--mesh-skin")
    series = tmp_path / "series"
    dicom = ("--dicom-bones", tmp_path / "dicom", "--dicom", series)
    report = navnode(*given, *wanted, tmp_path / "skin.ply", *dicom, "--json")
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "u.nii.gz"))) > 0).all()
    volumes = [bone["volume_cm3"] for bone in report["bones"]]
    assert volumes and volumes == sorted(volumes, reverse=True)
    assert [Path(bone["out"]).name for bone in report["bones"]] == sorted(
        path.name for path in (tmp_path / "bones").iterdir()
    )
    for bone in report["bones"]:
        low, high = bone["error_95_mm"]
        assert 0 < low < bone["error_mm"] < high
        assert bone["status"] in ("DEGRADED", "INVALID") and (bone["status"] == "DEGRADED") == (not bone["reason"])
    labels, names = read_map(tmp_path / "dicom" / "bones.seg.dcm", read_numbers(tmp_path / "volume.nii.gz"))
    assert sum(path.name.startswith("bone-") for path in (tmp_path / "dicom").iterdir()) == len(volumes) >= len(names)
    assert (labels > 0).sum() * 4**3 / 1000 == pytest.approx(sum(volumes), rel=0.1)
    assert report["skin"]["volume_cm3"] > sum(volumes) and (tmp_path / "skin.ply").stat().st_size > 1000
    heads = [dcmread(path, stop_before_pixels=True) for path in [*(tmp_path / "dicom").iterdir(), *series.iterdir()]]
    assert len({head.FrameOfReferenceUID for head in heads}) == len({head.StudyInstanceUID for head in heads}) == 1
    assert "contains bones already" in navnode(*given, "--mesh-bones", tmp_path / "bones", code=2)["error"]


def test_an_open_beam_that_the_picture_outshines_is_refused_and_so_is_one_picture_as_two(case, tmp_path):
    dark = case.views("dark.json", case.true, i0=4_000.0)
    out = ("--out", tmp_path / "v.nii.gz", "--size", 16, "--spacing-mm", 16)
    assert "i0 is 4000" in navnode("reconstruct", "--views", dark, *out, code=2)["error"]
    first = case.views("first.json", case.true[:2], i0=20_000.0)
    document = json.loads(first.read_text())
    document["views"][1]["image"] = document["views"][0]["image"]
    first.write_text(json.dumps(document))
    assert "are the same picture" in navnode("reconstruct", "--views", first, *out, code=2)["error"]
    assert not (tmp_path / "v.nii.gz").exists()


def test_poses_in_metres_are_asked_about(case, tmp_path):
    in_metres = [pose @ np.eye(4) for pose in case.true]
    for pose in in_metres:
        pose[:3, 3] /= 1000
    given = ("reconstruct", "--views", case.views("metres.json", in_metres), "--out", tmp_path / "v.nii.gz")
    assert "in mm, not in metres?" in navnode(*given, "--size", 16, code=2)["error"]


def test_no_output_is_another_or_an_input(case, tmp_path):
    views = case.views("true.json", case.true, i0=20_000.0)
    before = {path: path.read_bytes() for path in views.parent.iterdir() if path.is_file()}
    volume, surface = tmp_path / "v.nii.gz", tmp_path / "s.stl"
    given = ("reconstruct", "--views", views, "--out", volume, "--size", 16)
    for wanted in (("--uncertainty", volume), ("--mesh", surface, "--mesh-skin", surface)):
        assert "would be written twice, or over what is read" in navnode(*given, *wanted, code=2)["error"]
    rendered = navnode(
        "project", "--volume", case.ct, "--views", views, "--out", tmp_path / "x", "--i0", 5000, "--json"
    )
    again = (
        "project",
        "--volume",
        case.ct,
        "--views",
        tmp_path / "x" / "views.json",
        "--out",
        tmp_path / "x",
        "--i0",
        9000,
    )
    kept = Path(rendered["images"][0]).read_bytes()
    assert "over what is read" in navnode(*again, code=2)["error"] and Path(rendered["images"][0]).read_bytes() == kept
    assert {path: path.read_bytes() for path in views.parent.iterdir() if path.is_file()} == before
    assert not volume.exists() and not surface.exists()


def test_projection_gives_what_registration_takes(case, tmp_path):
    views = case.views("true.json", case.true)
    report = navnode("project", "--volume", case.ct, "--views", views, "--out", tmp_path / "lines", "--json")
    lines = [np.load(path) for path in report["images"]]
    expected = Projector(read_volume(case.ct)).render(CARM, case.true[2])
    assert lines[2].dtype == np.float32 and np.allclose(lines[2], expected)
    navnode("project", "--volume", case.ct, "--views", views, "--out", tmp_path / "counts", "--i0", 50_000, "--json")
    rendered = read_views(tmp_path / "counts" / "views.json")
    assert rendered[2].i0 == 50_000
    counts = rendered[2].counts()
    assert counts.dtype == np.uint16 and np.abs(counts - 50_000 * np.exp(-lines[2])).max() <= 0.5 + 1e-2


# --- files -------------------------------------------------------------------------------------------


COUNTS = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300


@pytest.mark.parametrize("ending", [".png", ".tif", ".npy", ".dcm"])
def test_images_come_back(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    if ending == ".npy":
        np.save(path, COUNTS)
    elif ending == ".dcm":
        image = sitk.GetImageFromArray(COUNTS[None])
        image.SetMetaData("0008|0060", "XA")
        sitk.WriteImage(image, str(path))
    else:
        cv2.imwrite(str(path), COUNTS)
    assert np.array_equal(read_counts(path), COUNTS)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("missing.png", lambda path: None, "no such image"),
        ("text.png", lambda path: path.write_text("no image"), "not PNG, TIFF"),
        ("colour.png", lambda path: cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8)), "one plane"),
        ("negative.npy", lambda path: np.save(path, np.full((4, 4), -1.0)), "negative"),
        ("pickled.npy", lambda path: np.save(path, np.array([{"a": 1}]), allow_pickle=True), "cannot be read"),
    ],
)
def test_images_that_are_none_are_named(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name}.*{reason}"):
        read_counts(tmp_path / name)


GEOMETRY = {
    "width_px": 16,
    "height_px": 12,
    "pixel_spacing_mm": [1, 1],
    "source_to_detector_mm": 1000,
    "principal_point_px": [7.5, 5.5],
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "malformed"),
        ({"schema": "navnode/views/2", "views": [{}]}, "schema is 'navnode/views/2'"),
        ({"schema": "navnode/views/1", "views": []}, "views is empty"),
        ({"schema": "navnode/views/1", "views": [{}]}, r"views\[0\] has no carm"),
        ({"schema": "navnode/views/1", "carm": {**GEOMETRY, "width_px": 0}, "views": [{}]}, "width_px"),
        ({"schema": "navnode/views/1", "carm": {"width_px": 3}, "views": [{}]}, "height_px"),
        ({"schema": "navnode/views/1", "carm": GEOMETRY, "views": [{"volume_from_carm": [[1, 0, 0, 0]] * 4}]}, "rigid"),
        ({"schema": "navnode/views/1", "carm": GEOMETRY, "views": [{"i0": -1}]}, "i0 must be positive"),
    ],
)
def test_view_files_that_are_none_are_named(tmp_path, content, reason):
    path = tmp_path / "views.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=f"views.json.*{reason}"):
        read_views(path)


def test_an_image_of_another_size_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((10, 10), np.uint16))
    path = tmp_path / "views.json"
    path.write_text(json.dumps({"schema": "navnode/views/1", "carm": GEOMETRY, "views": [{"image": "x.png"}]}))
    (view,) = read_views(path)
    with pytest.raises(ConfigError, match=r"x\.png has 10 x 10 pixels, the C-arm geometry 16 x 12"):
        view.counts()


@pytest.mark.long
def test_a_station_or_landmarks_do_instead_of_a_pose(case):
    views = case.views("named.json", [None] * 4)
    assert "a station name or landmarks" in navnode("register", "--volume", case.ct, "--views", views, code=2)["error"]
    read = json.loads(views.read_text())
    read["views"] = [read["views"][0] | {"station": "AP"}, read["views"][2] | {"station": "left lateral"}]
    stations = views.with_name("stations.json")
    stations.write_text(json.dumps(read))
    report = navnode("register", "--volume", case.ct, "--views", stations, "--json")
    for index, view in zip((0, 2), report["views"], strict=True):
        assert view["status"] == "VALID" and case.across_mm(index, view["volume_from_carm"]) < 0.5
    points = {f"p{k}": point.tolist() for k, point in enumerate(case.scenario.targets_mm[:40:8])}
    pixels = [
        {
            name: uv.tolist()
            for name, uv in zip(points, g.project(CARM, g.inverse(pose), list(points.values())), strict=True)
        }
        for pose in case.true
    ]
    landmarks = views.with_name("landmarks.json")
    landmarks.write_text(json.dumps({"schema": "navnode/landmarks/1", "points_mm": points, "views": pixels}))
    report = navnode("register", "--volume", case.ct, "--views", views, "--landmarks", landmarks, "--json")
    for index, view in enumerate(report["views"]):
        assert view["status"] == "VALID" and case.across_mm(index, view["volume_from_carm"]) < 0.5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"schema": "navnode/landmarks/2"}, "points_mm"),
        ({"schema": "navnode/landmarks/2", "points_mm": {}, "views": []}, "schema is"),
        ({"schema": "navnode/landmarks/1", "points_mm": {}, "views": [{}]}, "1 entries, the set of views has 2"),
        ({"schema": "navnode/landmarks/1", "points_mm": {}, "views": [{"a": [1, 2]}, {}]}, "'a' is not among"),
    ],
)
def test_landmark_files_that_are_none_are_named(tmp_path, content, reason):
    path = tmp_path / "landmarks.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"landmarks.json.*{reason}"):
        read_landmarks(path, 2)


ROUGH = replace(CARM, source_to_detector_mm=CARM.source_to_detector_mm * 1.06, principal_point_px=(115.0, 141.0))


@pytest.mark.long
def test_a_c_arm_that_is_known_roughly_is_found_and_used(case, tmp_path):
    """Pictures are mirrored, and the geometry is off; what is written corrects both."""
    files = []
    for index in (0, 3):
        path = tmp_path / f"m{index}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(read_counts(case.folder / f"x{index}.png")[:, ::-1]))
        files.append(ViewFile("", path, ROUGH, case.true[index] @ OFF, None, index))
    views, out = tmp_path / "views.json", tmp_path / "carm.json"
    write_views(views, files)
    ct = ("register", "--volume", case.ct, "--views", views)
    found = navnode(*ct, "--calibrate", "--out", out, "--json")
    assert found["status"] == "DEGRADED" and found["mirrored"] and found["out"] == str(out), found["reason"]
    assert found["carm"]["source_to_detector_mm"] == pytest.approx(CARM.source_to_detector_mm, rel=0.02)
    assert found["focal_px"][0] == pytest.approx(found["carm"]["source_to_detector_mm"] / CARM.pixel_spacing_mm[0])
    with pytest.raises(CalibrationError, match="mirrored"):  # a node takes no doubtful geometry
        artifacts.usable(out, artifacts.CARM, now_ns())
    used = navnode(*ct, "--carm", out, "--json")
    for here, there in zip(used["views"], found["views"], strict=True):
        assert here["status"] == "DEGRADED" and "mirrored" in here["reason"]
        assert np.allclose(here["volume_from_carm"], there["volume_from_carm"], atol=1.0)
    assert "excludes" in navnode(*ct, "--calibrate", "--track", code=2)["error"]
    assert "needs --calibrate" in navnode(*ct, "--out", out, code=2)["error"]
    bodies = navnode("register", "--bodies", case.ct, "--views", views, "--calibrate", code=2)["error"]
    assert "then --carm" in bodies


@pytest.mark.parametrize(
    ("quality", "sigma"),
    [
        ({"sigma_sdd_mm": 6.0, "sigma_pp_px": [0.5, 1.5]}, (6.0, 0.5, 1.5)),
        ({}, (0.0, 0.0, 0.0)),
        ({"sigma_sdd_mm": -6.0, "sigma_pp_px": [0.5, 1.5]}, (0.0, 0.0, 0.0)),
        ({"sigma_sdd_mm": "six", "sigma_pp_px": 0.5}, (0.0, 0.0, 0.0)),
    ],
)
def test_what_a_calibration_leaves_open_is_open_in_the_registration(tmp_path, quality, sigma):
    path = tmp_path / "carm.json"
    result = artifacts.CArmResult(artifacts.CArmGeometry.of(CARM), UNSET, artifacts.DistortionResult())
    kind = artifacts.CARM
    made = artifacts.Artifact(
        kind=kind.name, status="PASS", result=result, quality=quality, created_ns=now_ns(), frames=dict(kind.frames)
    )
    path.write_bytes(artifacts.encoded(made))
    geometry = calibrated_views([ViewFile("", tmp_path / "x.png", CARM, np.eye(4), None, 0)], path)
    assert geometry.sigma == sigma and geometry.views[0].carm == CARM
    half = CARM.source_to_detector_mm / 2
    own = Registration(np.eye(4), Validity(Status.VALID, "", 0), 0.01, 0.99, np.eye(6) * 0.04, half, 1, 1.0)
    judged = geometry.judged(own, CARM)
    at_pivot_mm = np.array([CARM.pixel_spacing_mm[0] * sigma[1], CARM.pixel_spacing_mm[1] * sigma[2], sigma[0]]) / 2
    assert judged.sigma[:3] == pytest.approx(own.sigma[:3])
    assert judged.sigma[3:] == pytest.approx(np.hypot(0.2, at_pivot_mm))
    assert judged.validity == own.validity and np.array_equal(own.covariance, np.eye(6) * 0.04)


def test_a_geometry_that_may_be_relied_on_is_not_replaced_by_a_doubtful_one(tmp_path):
    def found(status: Status, reason: str) -> Calibrated:
        return Calibrated(
            carm=CARM,
            readout=Readout(False, 0),
            registrations=[],
            covariance=np.diag([1.0, 0.04, 0.09]),
            patient_mm=0.2,
            located_mm=0.05,
            lateral_mm=0.05,
            apart_deg=60.0,
            contradiction=0.1,
            runner_up=20.0,
            validity=Validity(status, reason),
            elapsed_ms=1.0,
        )

    out = tmp_path / "carm.json"
    assert not write_calibrated(out, found(Status.INVALID, "nothing fits"), {}) and not out.exists()
    assert write_calibrated(out, found(Status.DEGRADED, "one view"), {})
    assert write_calibrated(out, found(Status.VALID, ""), {})
    kept = artifacts.usable(out, artifacts.CARM, now_ns())
    assert kept.result.carm.geometry == CARM and kept.quality["sigma_pp_px"] == pytest.approx([0.2, 0.3])
    assert not write_calibrated(out, found(Status.DEGRADED, "one view"), {})
    assert artifacts.read(out).status == "PASS"


@pytest.mark.long
def test_wrong_arguments_are_named(case, tmp_path):
    views = case.views("true.json", case.true)
    assert "there is no such file" in navnode("register", "--volume", "none.nii", "--views", views, code=2)["error"]
    assert (
        "exclude" in navnode("register", "--volume", case.ct, "--views", views, "--joint", "--track", code=2)["error"]
    )
    wrong = navnode("reconstruct", "--views", views, "--out", tmp_path / "v.xyz", "--size", 16, code=2)["error"]
    assert "v.xyz" in wrong


def test_meshes_by_their_ending(tmp_path):
    from navnode.files.meshes import write_mesh
    from navnode.reconstruction.surface import bone_surface

    hu = np.full((30, 30, 30), -1000, np.float32)
    hu[8:22, 8:22, 8:22] = 1000
    bone = bone_surface(Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0]))).mesh
    for ending in ("stl", "ply", "obj"):
        write_mesh(bone, tmp_path / f"bone.{ending}")
        assert (tmp_path / f"bone.{ending}").stat().st_size > 1_000
    with pytest.raises(ConfigError, match=r"bone\.vtk"):
        write_mesh(bone, tmp_path / "bone.vtk")
