"""`navnode model --jig`: pictures whose geometry nobody states, with a jig of beads beside the limb."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.jig import jig_for, write_jig
from navnode.offline.pictures import Placed, placed
from navnode.offline.requests import ModelRequest
from navnode.projector import Projector
from navnode.simulation.beads import Beads, exposed, rendered
from navnode.types import CArm
from tests.invoke import call
from tests.test_model import LONG_MM, limb

CARM = CArm(1024, 1024, (0.4, 0.4), 1150.0, (519.0, 498.0))
JIG = jig_for()


def camera(degrees: float) -> np.ndarray:
    """jig_from_carm of a source that looks across the limb."""
    angle = np.deg2rad(degrees)
    ray, down = np.array([np.sin(angle), np.cos(angle), 0.03]), np.array([0.0, 0.0, -1.0])
    ray /= np.linalg.norm(ray)
    across = np.cross(down, ray) / np.linalg.norm(np.cross(down, ray))
    return g.rigid(np.stack([across, np.cross(ray, across), ray], axis=1), np.array([15.0, 15.0, 0.0]) - 920.0 * ray)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jig")
    write_jig(folder / "jig.json", JIG)
    write_jig(folder / "other.json", jig_for(seed=5))
    bone, beads = Projector(limb()), Beads(JIG.positions_mm, np.full(len(JIG.ids), JIG.diameter_mm))
    for name, degrees in (("ap", 3.0), ("lateral", 88.0)):
        line = bone.render(CARM, camera(degrees)) + rendered(beads, CARM, camera(degrees))
        cv2.imwrite(str(folder / f"{name}.png"), exposed(line, np.random.default_rng(round(degrees))))
    return folder


@pytest.mark.long
def test_two_ordinary_pictures_and_a_jig_make_a_model(folder):
    ap, lateral, jig, out = (folder / name for name in ("ap.png", "lateral.png", "jig.json", "model"))
    code, report, error = call("model", ap, lateral, "--jig", jig, "--pixel-mm", 0.4, "--out", out, "--json")
    assert code == 0, error
    assert report["geometry"] == f"the beads of {JIG.name}" and report["scale_open"] == 0 and not report["side_open"]
    for picture, degrees in zip(report["pictures"], (3.0, 88.0), strict=True):
        found, true = np.array(picture["volume_from_carm"]), camera(degrees)
        across = g.transform(g.inverse(found), np.zeros(3)) - g.transform(g.inverse(true), np.zeros(3))
        assert np.hypot(*across[:2]) < 2 and g.angle_between_rad(found[:3, 2], true[:3, 2]) < np.deg2rad(0.3)
    assert report["status"] == "DEGRADED" and abs(report["bones"][0]["length_mm"] - LONG_MM) < 10


@pytest.mark.slow  # tests/jig tells another jig in every run
def test_another_jig_is_named_and_nothing_is_made(folder):
    out = folder / "other"
    code, _, error = call(
        "model", folder / "ap.png", folder / "lateral.png", "--jig", folder / "other.json", "--out", out
    )
    assert code == 2 and "ap.png" in error and not out.exists()


def test_a_jig_and_stated_angles_do_not_go_together(folder):
    pictures, jig = (folder / "ap.png", folder / "lateral.png"), folder / "jig.json"
    code, _, error = call("model", *pictures, "--jig", jig, "--angles", "0 90", "--out", folder / "both")
    assert code == 2 and "--jig" in error


def located(tmp_path, *names: Path, jig: Path, **options) -> Placed:
    return placed(ModelRequest(pictures=names, jig=jig, out=tmp_path / "out", **options))


def test_an_inverted_picture_is_named_and_so_are_all_that_lack_the_jig(folder, tmp_path):
    counts = cv2.imread(str(folder / "ap.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(tmp_path / "inverted.png"), counts.max() - counts)
    cv2.imwrite(str(tmp_path / "none.png"), np.random.default_rng(0).poisson(900, (300, 300)).astype(np.uint16))
    with pytest.raises(ConfigError) as error:
        located(tmp_path, tmp_path / "inverted.png", tmp_path / "none.png", jig=folder / "jig.json")
    assert "inverted.png: inverted: its beads are light" in str(error.value) and "none.png: " in str(error.value)


@pytest.mark.long
def test_a_cropped_picture_keeps_its_geometry_and_is_named(folder, tmp_path):
    counts = cv2.imread(str(folder / "ap.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(tmp_path / "cropped.png"), counts[:, 250:])
    whole = located(tmp_path, folder / "ap.png", folder / "lateral.png", jig=folder / "jig.json")
    found = located(tmp_path, tmp_path / "cropped.png", folder / "lateral.png", jig=folder / "jig.json")
    assert "picture 1" not in whole.doubt
    assert "picture 1: its middle is" in found.doubt and "cropped" in found.doubt
    across = g.transform(g.inverse(found.views[0].pose()), np.zeros(3)) - g.transform(
        g.inverse(camera(3.0)), np.zeros(3)
    )
    assert np.hypot(*across[:2]) < 8


@pytest.mark.long
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_picture_that_is_turned_is_turned_back(folder, tmp_path, quarters):
    """The jig says which way up the limb is, and the networks know it upright."""
    ap = cv2.imread(str(folder / "ap.png"), cv2.IMREAD_UNCHANGED)[:, 60:]
    cv2.imwrite(str(tmp_path / "upright.png"), ap)
    cv2.imwrite(str(tmp_path / "turned.png"), np.rot90(ap, -quarters))
    both = (tmp_path / "upright.png", tmp_path / "turned.png")
    upright, turned = placed(ModelRequest(pictures=both, jig=folder / "jig.json", out=tmp_path / "out")).views
    assert (upright.quarter_turns, turned.quarter_turns) == (0, quarters)
    assert (turned.carm.width_px, turned.carm.height_px) == (ap.shape[1], ap.shape[0])
    points_mm = np.array([(x, y, z) for x in (-30.0, 40.0) for y in (-30.0, 40.0) for z in (-80.0, 80.0)])
    at = [g.project(view.carm, g.inverse(view.pose()), points_mm) for view in (upright, turned)]
    assert np.abs(at[0] - at[1]).max() < 0.5
    seen = [view.counts().astype(float) for view in (upright, turned)]
    assert seen[0].shape == seen[1].shape == ap.shape
    assert np.median(np.abs(seen[0] - seen[1])) < 0.01 * np.median(seen[0])


def as_dicom(path: Path, counts: np.ndarray, pixel_mm: tuple[float, float]) -> Path:
    """Counts as DX, with the sides of its pixels, (rows apart, columns apart)."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    dataset.Modality, (dataset.Rows, dataset.Columns) = "DX", counts.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation, dataset.PixelIntensityRelationship = "MONOCHROME2", "LIN"
    dataset.PixelIntensityRelationshipSign = 1
    dataset.ImagerPixelSpacing, dataset.DistanceSourceToDetector = list(pixel_mm), 1150
    dataset.PixelData = counts.tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.long
def test_a_magnification_that_an_archive_corrected_is_named(folder, tmp_path):
    counts = cv2.imread(str(folder / "ap.png"), cv2.IMREAD_UNCHANGED)
    plain, corrected = (
        located(
            tmp_path,
            as_dicom(tmp_path / f"{pixel_mm:.2f}.dcm", counts, (pixel_mm, pixel_mm)),
            folder / "lateral.png",
            jig=folder / "jig.json",
        ).doubt
        for pixel_mm in (0.4, 0.4 / 1.25)
    )
    assert "magnification" not in plain
    assert "picture 1: its pixel size puts the source at" in corrected and "magnification was corrected" in corrected


def test_pixels_that_are_not_square_are_named(folder, tmp_path):
    counts = cv2.imread(str(folder / "ap.png"), cv2.IMREAD_UNCHANGED)
    picture = as_dicom(tmp_path / "stretched.dcm", counts, (0.4, 0.42))
    with pytest.raises(ConfigError, match=r"stretched\.dcm: its pixels are 0\.42 x 0\.4 mm; .* square"):
        located(tmp_path, picture, folder / "lateral.png", jig=folder / "jig.json")


def test_a_jig_half_outside_is_named(folder, tmp_path):
    counts = cv2.imread(str(folder / "ap.png"), cv2.IMREAD_UNCHANGED)
    middle = counts.shape[0] // 2
    cv2.imwrite(str(tmp_path / "half.png"), counts[middle:])
    found = located(tmp_path, tmp_path / "half.png", folder / "lateral.png", jig=folder / "jig.json")
    assert "picture 1: the jig is half outside" in found.doubt
