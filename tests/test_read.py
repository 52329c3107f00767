"""``navnode read``: what is taken for bone in one X-ray, as figures and as a picture; and lead is no bone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from navnode.offline.reading import drawn
from navnode.reconstruction import models
from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.reading import Reading
from navnode.types import CArm
from navnode.xray.counts import line_integrals
from tests.invoke import call
from tests.xrays import dicom

needs_reader = pytest.mark.skipif(not models.SHIPPED_READER.exists(), reason="the model of the reader is not here")
KNEE = Path(__file__).parents[2] / "shared" / "xray_real" / "knee" / "0180_cam2.png"


def shot(path: Path, *, lead: bool = False) -> Path:
    """A shaft of 30 mm, its cortex 6 mm, in a thigh of 150 mm, seen from the side: 16-bit counts."""
    v, u = np.mgrid[-150:150:512j, -150:150:512j] * 0.65
    flesh = 2 * np.sqrt(np.maximum(75.0**2 - u**2, 0))
    outer, inner = (2 * np.sqrt(np.maximum(radius**2 - u**2, 0)) for radius in (15.0, 9.0))
    counts = 50_000 * np.exp(-0.02 * flesh - 0.035 * (outer - inner))
    if lead:
        counts[np.hypot(u, v) > 75] = 60.0
    noisy = np.random.default_rng(0).poisson(counts)
    assert cv2.imwrite(str(path), np.clip(noisy, 0, 65_535).astype(np.uint16))
    return path


@needs_reader
def test_a_shaft_is_read_and_drawn(tmp_path):
    image, out = shot(tmp_path / "x.png"), tmp_path / "read.png"
    code, report, error = call("read", image, "--pixel-mm", 0.6, "--out", out, "--json")
    assert code == 0, error
    assert 0.08 < report["bone_share"] < 0.3 and 10 < report["bone_mm"] < 40 and report["error_mm"] > 0
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 10
    middle = picture.shape[0] * 3 // 2
    assert picture[picture.shape[0] // 2, middle].max() > 60, "bone is coloured"


@needs_reader
def test_lead_around_the_patient_is_not_read_as_bone(tmp_path):
    _, free, _ = call("read", shot(tmp_path / "a.png"), "--pixel-mm", 0.6, "--json")
    _, shuttered, _ = call("read", shot(tmp_path / "b.png", lead=True), "--pixel-mm", 0.6, "--json")
    assert shuttered["bone_share"] < 2 * free["bone_share"]


@needs_reader
def test_what_dicom_states_is_taken_unless_told_otherwise(tmp_path):
    counts = cv2.imread(str(shot(tmp_path / "a.png")), cv2.IMREAD_UNCHANGED)
    dicom(tmp_path / "a.dcm", 0, 0, Rows=512, Columns=512, ImagerPixelSpacing=[0.6, 0.6], DistanceSourceToDetector=1000)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PixelData = counts.tobytes()
    dataset.save_as(tmp_path / "a.dcm")
    stated, told, other = (
        call("read", tmp_path / "a.dcm", *words, "--json")[1]["bone_share"]
        for words in ((), ("--pixel-mm", 0.6, "--distance-mm", 1000), ("--pixel-mm", 0.3))
    )
    assert stated == told != other


@needs_reader
@pytest.mark.skipif(not KNEE.exists(), reason="no real X-rays here")
def test_on_a_real_knee_the_corners_behind_the_intensifier_are_no_bone():
    code, report, error = call("read", KNEE, "--json")
    assert code == 0 and 0.1 < report["bone_share"] < 0.35, error


def test_what_cannot_be_read_is_named(tmp_path):
    code, _, error = call("read", tmp_path / "none.png")
    assert code == 2 and "no such image" in error
    if models.SHIPPED_READER.exists():
        code, _, error = call("read", shot(tmp_path / "x.png"), "--out", tmp_path / "read.abc")
        assert code == 2 and "ends in .png" in error and not (tmp_path / "read.abc").exists()


def test_lead_is_unmeasured_where_it_is_looked_for():
    counts = np.full((256, 256), 20_000, np.uint16)
    counts[:, :60] = 40
    blind, seeing = (line_integrals(counts, 20_000.0, 2, see_lead=see) for see in (False, True))
    assert np.isfinite(blind).all() and np.isnan(seeing[:, :28]).all()
    assert np.isfinite(seeing[:, 40:]).all() and np.allclose(seeing[:, 40:], 0)


def test_the_picture_shows_only_what_was_measured():
    nothing = np.full((256, 256), np.nan, np.float32)
    part = nothing.copy()
    part[64:192, 96:160] = 1.0
    carm = CArm(256, 256, (1.0, 1.0), 1000.0, (127.5, 127.5))
    pictures = []
    for name in ("femur", "other"):
        kinds = np.zeros((len(BONE_KINDS), 256, 256), np.float32)
        kinds[BONE_KINDS.index(name)] = part
        pictures.append(drawn(Reading(carm, part, 1.0, 20 * part, part, part, 0 * part, 0 * part, kinds)))
        assert pictures[-1].shape == (3 * 128, 2 * 3 * 64 + 64, 3) and pictures[-1].dtype == np.uint8
    named = (pictures[0] != pictures[1]).any(axis=2)
    assert named[150:240, 3 * 64 :].sum() > 100, "the name of the bone is not in the middle of it"


@needs_reader
@pytest.mark.parametrize("shape", [(8, 320), (400, 12), (20, 60_000)])
def test_a_sliver_is_read_or_refused_in_one_line(tmp_path, shape):
    counts = np.random.default_rng(0).poisson(9_000, shape).astype(np.uint16)
    counts[:, shape[1] // 3 : shape[1] // 2] //= 5
    np.save(tmp_path / "x.npy", counts)
    code, _, error = call("read", tmp_path / "x.npy", "--json")
    assert code in (0, 1, 2) and "Traceback" not in error and error.count("\n") <= 1
    assert code == 0 or "x.npy" in error or "blank" in error


@needs_reader
@pytest.mark.parametrize("spacing", [[0, 0], [-0.3, 0.4]])
def test_pixels_of_no_size_are_refused(tmp_path, spacing):
    dicom(tmp_path / "x.dcm", 0, 0, ImagerPixelSpacing=spacing)
    code, _, error = call("read", tmp_path / "x.dcm")
    assert code == 2 and "x.dcm" in error
