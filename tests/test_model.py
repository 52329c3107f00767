"""`navnode model`, as its users call it: pictures of a drawn limb in, surfaces and a report out."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.meshes import read_mesh
from navnode.files.views import ViewFile, write_views
from navnode.files.volumes import read_volume
from navnode.files.xrays import read_counts
from navnode.offline.carm import write_calibrated
from navnode.offline.measures import Measures, measured, missed_in, sound
from navnode.offline.model import _believed, _names, _spread_deg
from navnode.offline.pictures import _turned, placed
from navnode.offline.requests import ModelRequest
from navnode.projector import Projector
from navnode.projector.grids import centered_grid
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.surface import likely_surface
from navnode.registration.carm import Calibrated, Readout
from navnode.types import CArm, Status, Validity, View, Volume
from navnode.xray.chain import XrayChain
from tests.browser import CHROMIUM, Browser
from tests.invoke import call
from tests.xrays import dicom

CARM = CArm(256, 256, (1.2, 1.2), 1000.0, (127.5, 127.5))
PATIENT_MM = 800.0
LONG_MM, RADIUS_MM = 130.0, 14.0


def limb(radius_mm: float = RADIUS_MM, long_mm: float = LONG_MM) -> Volume:
    """A long bone with thicker ends in soft tissue, whole, in HU."""
    axes = [(np.arange(n) - (n - 1) / 2) * 1.5 for n in (160, 80, 80)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    across = np.hypot(x - 6, y + 4)
    radius = radius_mm + 7 * np.exp(-(((np.abs(z) - long_mm / 2 + 12) / 14) ** 2))
    depth = np.minimum(radius - across, long_mm / 2 - np.abs(z))
    hu = np.where(np.hypot(x, y) < 52, 40.0, -1000.0) + 0 * z
    hu = np.where(depth > 0, 1300.0, hu)
    hu = np.where(depth > 5, 250.0, hu)
    return Volume(hu.astype(np.float32), centered_grid((80, 80, 160), 1.5, np.zeros(3)))


def shot(volume: Volume, path: Path, angle_deg: float, up_mm: float = 0.0) -> ViewFile:
    """Expose a picture, seen from an angle, and write it."""
    pose = g.rigid(None, (0.0, 0.0, up_mm)) @ _turned(np.deg2rad(angle_deg), PATIENT_MM)
    counts = XrayChain().expose(Projector(volume).render(CARM, pose), CARM, 1.0, np.random.default_rng(int(angle_deg)))
    cv2.imwrite(str(path), counts)
    return ViewFile("", path, CARM, pose, None, 0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """ap.png, lateral.png and views.json of one limb; raised.png, whose tube stood 30 mm higher."""
    folder = tmp_path_factory.mktemp("pictures")
    volume = limb()
    views = [shot(volume, folder / "ap.png", 0), shot(volume, folder / "lateral.png", 90)]
    write_views(folder / "views.json", views)
    shot(volume, folder / "raised.png", 90, 30.0)
    return folder


def navnode(*arguments: object, code: int = 0) -> dict:
    found, document, error = call("model", *arguments, "--json")
    assert found == code, error
    return {"error": error} if code else document


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("model") / "limb"
    report = navnode(pictures / "lateral.png", pictures / "ap.png", "--views", pictures / "views.json", "--out", out)
    return out, report


@pytest.mark.long
def test_a_limb_of_known_geometry_is_one_closed_bone_and_says_how_far_to_trust_it(made):
    out, report = made
    assert report["status"] == "DEGRADED" and report["scale_open"] == 0 and not report["side_open"]
    assert json.loads((out / "report.json").read_text()) == report
    bone = report["bones"][0]
    assert bone["whole"] and abs(bone["length_mm"] - LONG_MM) < 8
    low, high = bone["error_95_mm"]
    assert 0 < low < bone["error_mm"] < high and set(bone["regions_mm"]) == {"lower", "middle", "upper"}
    for third, (least, most) in bone["regions_95_mm"].items():
        assert least < bone["regions_mm"][third] < most
    assert read_volume(out / report["volume"]).voxels.shape == (128, 128, 128)


@pytest.mark.long
def test_every_surface_is_watertight_and_points_outwards(made):
    out, report = made
    for bone in report["bones"]:
        assert bone["closed"] and bone["oriented"]
        for name in (bone["stl"], bone["ply"]):
            solid = trimesh.load(out / name)  # merges vertices of an STL
            assert solid.is_watertight and solid.is_winding_consistent
            assert solid.volume / 1000 == pytest.approx(bone["volume_cm3"], abs=0.1)
            assert len(read_mesh(out / name).triangles) == bone["triangles"]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ("src", "href")]


def test_the_page_needs_no_network_and_begins_with_the_status(made):
    out, report = made
    page = (out / report["page"]).read_text()
    links = _Links()
    links.feed(page)
    assert len(links.found) == 4 and all(link.startswith("data:image/jpeg;base64,") for link in links.found)
    assert not re.search(r"https?://", page)
    words = re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.S)
    assert words.index("DEGRADED") < words.index("Pictures") and "Research use only" in words
    assert len(page) < 3_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_the_bones_and_turns_them(made, tmp_path):
    out, report = made

    async def looked() -> list[str]:
        async with Browser() as browser:
            await browser.open((out / report["page"]).resolve().as_uri())
            await browser.wait_for("document.getElementById('turning')?.width > 300")
            for name in ("one.png", "two.png"):
                await browser.screenshot(tmp_path / name)
                await asyncio.sleep(0.5)
            return browser.errors

    assert asyncio.run(looked()) == []
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert (one != two).any()


@pytest.mark.long
def test_stated_angles_leave_scale_open_and_heights_are_found(pictures, tmp_path):
    given = (pictures / "ap.png", pictures / "raised.png", "--pixel-mm", 1.2, "--distance-mm", 1000)
    report = navnode(*given, "--angles", "0 90", "--patient-mm", 800, "--out", tmp_path / "out")
    assert report["status"] == "DEGRADED" and "scale is open by ± 3%" in report["reason"]
    assert report["side_open"] and report["angle_open_deg"] == 5
    assert abs(report["pictures"][1]["moved_mm"] - 30) <= 4
    assert abs(report["bones"][0]["length_mm"] - LONG_MM) < 8 + 0.03 * LONG_MM


@pytest.mark.long
def test_pictures_that_contradict_each_other_give_no_model(pictures, tmp_path):
    shot(limb(26.0, 210.0), tmp_path / "other.png", 90)
    given = (pictures / "ap.png", tmp_path / "other.png", "--pixel-mm", 1.2, "--distance-mm", 1000)
    assert navnode(*given, "--angles", "0,90", "--out", tmp_path / "out", code=1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["status"] == "INVALID" and "contradict each other" in report["reason"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "INVALID: there is no model" in page and "turning" not in re.sub(r"<style.*?</style>", "", page, flags=re.S)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ap.png",), "1 pictures; a model needs 2 to 16"),
        (("ap.png", "lateral.png"), "its direction is not known; state it with --angles"),
        (("ap.png", "lateral.png", "--angles", "0 90"), "pixel size (--pixel-mm) is not known"),
        (("ap.png", "lateral.png", "--angles", "0 90", "--pixel-mm", "1.2"), "distance to the source"),
        (("ap.png", "lateral.png", "--angles", "0 north"), "'north' is not an angle"),
        (("ap.png", "lateral.png", "--angles", "0"), "1 angles for 2 pictures"),
        (("ap.png", "lateral.png", "--views", "views.json", "--angles", "0 90"), "it excludes --angles"),
        (("ap.png", "raised.png", "--views", "views.json"), "no views of the set have this picture"),
        (
            ("ap.png", "lateral.png", "--angles", "0 200", "--pixel-mm", "1.2", "--distance-mm", "1000"),
            "the pictures look one way (within 20 degrees)",
        ),
        (
            ("ap.png", "ap.png", "--angles", "0 90", "--pixel-mm", "1.2", "--distance-mm", "1000"),
            "pictures 1 and 2 are the same picture",
        ),
        (
            ("ap.png", "lateral.png", "--angles", "0 90", "--pixel-mm", "1.2", "--distance-mm", "1000")
            + ("--patient-mm", "1100"),
            "is behind the detector",
        ),
    ],
)
@pytest.mark.long
def test_what_cannot_be_a_model_is_named(pictures, tmp_path, arguments, reason):
    paths = [pictures / word if word.endswith((".png", ".json")) else word for word in arguments]
    assert reason in navnode(*paths, "--out", tmp_path / "out", code=2)["error"]
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_left_alone(pictures, tmp_path):
    (tmp_path / "kept").write_text("mine")
    error = navnode("--views", pictures / "views.json", "--out", tmp_path, code=2)["error"]
    assert "nothing is replaced" in error and [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"PatientID": "P1"}, {"PatientID": "P2"}, "are of different patients"),
        ({"PatientName": "A"}, {"PatientID": "P1", "PatientName": "B"}, "are of different patients"),
        ({"ImageLaterality": "R"}, {"Laterality": "L"}, "are of different sides"),
        ({}, {"PositionerSecondaryAngle": 30}, "the C-arm was tilted by 30 degrees"),
    ],
)
def test_pictures_that_dicom_says_do_not_belong_together(tmp_path, one, other, said):
    dicom(tmp_path / "0.dcm", 0, 0, **one)
    dicom(tmp_path / "1.dcm", 1, 80, **other)
    with pytest.raises(ConfigError, match=said) as caught:
        placed(ModelRequest(pictures=(tmp_path / "0.dcm", tmp_path / "1.dcm"), out=tmp_path / "out"))
    assert "P1" not in str(caught.value) and "P2" not in str(caught.value)


def test_pictures_of_two_days_are_doubted(tmp_path):
    """Of one patient, whose name is written in two ways."""
    one = {"PatientID": "P1", "PatientName": "DOE^JOHN", "ImageLaterality": "R"}
    dicom(tmp_path / "0.dcm", 0, 0, StudyDate="20220301", **one)
    other = {"PatientID": "P1", "PatientName": "Doe^John^^^", "ImageLaterality": "U"}
    dicom(tmp_path / "1.dcm", 1, 80, StudyDate="20260302", **other)
    found = placed(ModelRequest(pictures=(tmp_path / "0.dcm", tmp_path / "1.dcm"), out=tmp_path / "out"))
    assert "1462 days apart" in found.doubt
    for number, day in enumerate(("20220301", "20220304")):
        dicom(tmp_path / f"{number}.dcm", number, 80 * number, StudyDate="20220301", AcquisitionDate=day, **one)
    found = placed(ModelRequest(pictures=(tmp_path / "0.dcm", tmp_path / "1.dcm"), out=tmp_path / "out"))
    assert "3 days apart" in found.doubt


def test_dicom_states_distances_and_angles_of_its_own(tmp_path):
    for number, angle in enumerate((0, 80)):
        dicom(tmp_path / f"{number}.dcm", number, angle)
    found = placed(ModelRequest(pictures=(tmp_path / "0.dcm", tmp_path / "1.dcm"), out=tmp_path / "out"))
    assert found.views[0].carm == CArm(50, 40, (0.4, 0.3), 1100.0, (24.5, 19.5))
    assert found.left_open.scale == pytest.approx(np.hypot(20 / 800, 0.01)) and found.left_open.side
    assert _spread_deg(found) == pytest.approx(80)
    # The detector of the first is in front (PS3.3, C.8.7.5.1.2), with the patient's left at the right of its picture.
    # That is turned over: the source looks at it from the other side.
    assert found.views[0].pose()[:3, 3] == pytest.approx([0, -800, 0], abs=1e-9)
    assert g.project(found.views[0].carm, g.inverse(found.views[0].pose()), np.array([[-50.0, 0, 20]]))[0] == (
        pytest.approx([24.5 - 50 / 800 * 1100 / 0.4, 19.5 - 20 / 800 * 1100 / 0.3])
    )
    assert (found.views[0].counts() == read_counts(tmp_path / "0.dcm")[:, ::-1]).all()
    # The detector of the second is turned to the patient's left.
    assert found.views[1].pose()[0, 3] > 700


@pytest.mark.parametrize(
    ("angles", "stated", "refused"),
    [
        ("0 90", {"PositionerSecondaryAngle": 30}, "was tilted by 30 degrees"),
        ("0 90", {"PatientOrientation": ["R", "F"]}, "is shown mirrored"),
        ("0 90", {"PatientOrientation": ["L", "H"]}, "its feet are at the top"),
        ("0 80", {"PatientOrientation": ["L", "F"]}, ""),
        ("90 0", {}, "DICOM states angles 0 80"),
        ("10 90", {}, ""),
    ],
)
def test_what_dicom_states_is_held_against_stated_angles(tmp_path, angles, stated, refused):
    for number, angle in enumerate((0, 80)):
        dicom(tmp_path / f"{number}.dcm", number, angle, **({} if number else stated))
    request = ModelRequest(pictures=(tmp_path / "0.dcm", tmp_path / "1.dcm"), out=tmp_path / "out", angles=angles)
    if refused and "DICOM" not in refused:
        with pytest.raises(ConfigError, match=refused):
            placed(request)
    else:
        assert placed(request).doubt == refused


def test_sizes_that_dicom_contradicts_are_doubted(tmp_path):
    for number, angle in enumerate((0, 80)):
        dicom(tmp_path / f"{number}.dcm", number, angle)
    pictures = (tmp_path / "0.dcm", tmp_path / "1.dcm")
    found = placed(ModelRequest(pictures=pictures, out=tmp_path / "out", pixel_mm=0.5, distance_mm=900.0))
    assert "DICOM states pixels of 0.4 mm, not 0.5" in found.doubt
    assert "DICOM states a source at 1100 mm, not 900" in found.doubt


@pytest.mark.parametrize(("status", "doubt"), [(Status.VALID, ""), (Status.DEGRADED, "carm.json: one view")])
def test_a_calibrated_c_arm_states_the_geometry_and_its_doubt(pictures, tmp_path, status, doubt):
    validity = Validity(status, "one view" if doubt else "")
    found = Calibrated(CARM, Readout(False, 0), [], np.eye(3), 0.2, 0.1, 0.1, 60.0, 0.1, 20.0, validity, 1.0)
    assert write_calibrated(tmp_path / "carm.json", found, {})
    names = (pictures / "ap.png", pictures / "lateral.png")
    request = ModelRequest(pictures=names, angles="0 90", carm=tmp_path / "carm.json", out=tmp_path / "out")
    made = placed(request)
    assert [view.carm for view in made.views] == [CARM, CARM] and made.doubt == doubt
    assert made.left_open.scale > 0.2  # the distance to the patient is not stated


def test_a_bone_that_leaves_the_picture_is_not_whole():
    grid = centered_grid((48, 48, 96), 2.0, np.zeros(3))
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 2 for n in (96, 48, 48)), indexing="ij", sparse=True)
    likely = Volume(np.clip((12 - np.hypot(x, y)) / 4, 0, 1) * (np.abs(z) < 70).astype(np.float32), grid)
    surface = likely_surface(likely)
    assert surface is not None and sound(surface.mesh).closed and sound(surface.mesh).oriented
    wide, low = CARM, replace(CARM, height_px=180)

    def found(carms: tuple[CArm, CArm], bone: float) -> Measures:
        shapes = [(carm.height_px, carm.width_px) for carm in carms]
        none = [np.zeros(shape, np.float32) for shape in shapes]
        views = [
            View(picture, carm, _turned(np.deg2rad(angle), PATIENT_MM))
            for picture, carm, angle in zip(none, carms, (0, 90), strict=True)
        ]
        readings = [
            Reading(carm, off, 1.0, off, off + np.float32(bone), off, off, off, off[None])
            for off, carm in zip(none, carms, strict=True)
        ]
        missed = [
            missed_in(reading, view.volume_from_carm, likely, 0.5)
            for reading, view in zip(readings, views, strict=True)
        ]
        return measured(surface, likely, 0.5, views, missed)

    seen = found((wide, wide), 0.0)
    assert seen.whole and seen.length_mm == pytest.approx(140, abs=3) and seen.unseen == 0
    assert seen.error_mm is not None and set(seen.regions_mm) == {"lower", "middle", "upper"}
    cut = found((wide, low), 0.0)
    assert not cut.whole and cut.unseen == pytest.approx(0.2, abs=0.15)
    assert not found((wide, wide), 1.0).whole  # the pictures show that it goes on


def test_a_small_second_bone_of_a_kind_has_no_name():
    grid = centered_grid((24, 24, 24), 2.0, np.zeros(3))
    ball = likely_surface(Volume(np.ones((24, 24, 24), np.float32), grid))
    assert ball is not None
    sizes = [("tibia", 200.0), ("femur", 150.0), ("femur", 140.0), ("", 20.0), ("femur", 5.0)]
    surfaces = [replace(ball, name=name, volume_cm3=size) for name, size in sizes]
    assert _names(surfaces) == ["tibia", "femur", "femur 2", "bone 4", "bone 5"]


def test_a_whole_long_bone_that_is_far_too_short_has_no_name():
    ball = likely_surface(Volume(np.ones((24, 24, 24), np.float32), centered_grid((24, 24, 24), 2.0, np.zeros(3))))
    assert ball is not None

    def name(kind: str, length_mm: float, whole: bool) -> str:
        return _believed(replace(ball, name=kind), Measures(length_mm, whole, 0.0, None, {})).name

    assert name("fibula", 32.0, True) == "" and name("fibula", 32.0, False) == "fibula"
    assert name("fibula", 300.0, True) == "fibula" and name("patella", 36.0, True) == "patella"


def test_what_may_be_no_bone_has_no_name():
    ball = likely_surface(Volume(np.ones((24, 24, 24), np.float32), centered_grid((24, 24, 24), 2.0, np.zeros(3))))
    assert ball is not None
    found, least_mm = Measures(35.0, False, 0.0, None, {}), min(ball.size_mm)
    clear, doubtful = (replace(ball, name="femur", error_95_mm=(1.0, share * least_mm)) for share in (0.1, 0.9))
    assert _believed(clear, found).name == "femur" and _believed(doubtful, found).name == ""
