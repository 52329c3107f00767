"""Raw images become those of one ideal C-arm."""

import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import CalibrationError
from navnode.simulation.beads import helix, rendered
from navnode.types import CArm
from navnode.xray.correction import FlatField, ImageCorrection, read_flat_field
from navnode.xray.counts import SATURATION_COUNTS
from navnode.xray.distortion import DistortionField, nodes
from navnode.xray.flex import FlexModel, flex_of

SIZE = 320
IDEAL = CArm(SIZE, SIZE, (0.9, 0.9), 1020.0, (159.5, 159.5))
POSE = g.pose_at(np.zeros(3), 700.0, orbital_deg=20.0)
NODES = nodes((SIZE, SIZE))


def counts_of(carm, undistorted=None):
    return (20_000 * np.exp(-rendered(helix(), carm, POSE, undistorted=undistorted))).astype(np.uint16)


def cushion(raw_px):
    at = (raw_px - 159.5) / 160
    return raw_px - 6.0 * at * (at**2).sum(axis=-1, keepdims=True)


def alike(made, wanted):
    """Median and largest difference, in counts, where the detector says something."""
    known = made < SATURATION_COUNTS
    off = np.abs(made.astype(float) - wanted)[known]
    return known.mean(), np.median(off), np.quantile(off, 0.99)


def test_nothing_to_do_is_nothing_done():
    counts = counts_of(IDEAL)
    assert ImageCorrection(IDEAL).ideal and ImageCorrection(IDEAL).corrected(counts) is counts


@pytest.mark.parametrize("size", [320, 1024])
def test_pixels_are_found_where_they_were_bent_to(size):
    """A fiftieth of a pixel, of 20 px of cushion, wherever the image has it."""

    def bend(raw_px):
        at = (raw_px - (size - 1) / 2) / (size / 2)
        return raw_px - size / 100 * at * (at**2).sum(axis=-1, keepdims=True)

    raw = DistortionField.fixed((size, size), bend(nodes((size, size)))).raw_from_ideal().astype(float)
    ideal = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    inside = ((raw >= 0) & (raw <= size - 1)).all(axis=-1)
    assert inside.mean() > 0.8 and np.linalg.norm(bend(raw) - ideal, axis=-1)[inside].max() < 0.02


def test_distortion_is_undone():
    detector = ImageCorrection(IDEAL, distortion=DistortionField.fixed((SIZE, SIZE), cushion(NODES)))
    wanted = counts_of(IDEAL)
    bent = counts_of(IDEAL, cushion)
    known, median, most = alike(detector.corrected(bent), wanted)
    assert known > 0.85 and median < 60 and most < 1500
    made = detector.corrected(bent)
    seen = made < SATURATION_COUNTS
    off, before = (np.mean(np.abs(image.astype(float) - wanted)[seen]) for image in (made, bent))
    assert off < 0.25 * before


def test_a_geometry_that_bends_becomes_one():
    bent = CArm(SIZE, SIZE, (0.9, 0.9), 1032.0, (165.0, 152.0))
    flex = FlexModel(np.eye(4), np.eye(4), bent, np.array([[0.0, 0.0], [0.5, 0.0]]), np.zeros((2, 9)), np.zeros(9), 1.0)
    made = ImageCorrection(IDEAL, flex=flex).corrected(counts_of(bent), (0.2, 0.0))
    known, median, most = alike(made, counts_of(IDEAL))
    assert known > 0.9 and median < 60 and most < 1500


def test_flat_field_bad_pixels_and_saturation():
    rng = np.random.default_rng(0)
    gain, dark = rng.uniform(0.8, 1.2, (SIZE, SIZE)), rng.uniform(90, 110, (SIZE, SIZE))
    bad = rng.random((SIZE, SIZE)) < 0.01
    wanted = counts_of(IDEAL)
    raw = np.where(bad, 0, np.rint(wanted / gain + dark)).astype(np.uint16)
    raw[5, 5] = 65_535
    field = FlatField(dark.astype(np.float32), gain.astype(np.float32), bad)
    made = ImageCorrection(IDEAL, field).corrected(raw)
    assert made[5, 5] >= SATURATION_COUNTS
    assert np.abs(made.astype(float) - wanted)[~bad & (np.arange(SIZE) > 5)].max() < 2
    assert np.quantile(np.abs(made.astype(float) - wanted)[bad], 0.9) < 500


def test_between_a_saturated_pixel_and_another_nothing_is_known():
    raw = np.full((SIZE, SIZE), 20_000, np.uint16)
    raw[100, 100] = 65_535
    made = ImageCorrection(IDEAL, distortion=DistortionField.fixed((SIZE, SIZE), NODES + 0.5)).corrected(raw)
    assert (made[100:102, 100:102] >= SATURATION_COUNTS).all()
    assert (made[102:, 102:] == 20_000).all()


def test_angles_that_change_bring_another_geometry():
    weights = np.zeros((2, 9))
    weights[1, 7] = 8.0  # the principal point moves along u
    angles = np.array([[0.0, 0.0], [1.0, 0.0]])
    flex = FlexModel(np.eye(4), np.eye(4), IDEAL, angles, weights, np.zeros(9), 0.3)
    detector, raw = ImageCorrection(IDEAL, flex=flex), np.tile(np.arange(SIZE, dtype=np.uint16) * 50, (SIZE, 1))
    at_zero, at_one, again = (detector.corrected(raw, (angle, 0.0)) for angle in (0.0, 1.0, 0.0))
    assert np.array_equal(at_zero, again)
    assert np.abs(at_one[10, 50:250].astype(int) - at_zero[10, 50:250] - 8 * 50).max() < 10


def test_what_is_for_another_detector_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="320 x 320"):
        ImageCorrection(IDEAL, FlatField(*(np.ones((64, 64), np.float32),) * 2, np.zeros((64, 64), bool)))
    with pytest.raises(CalibrationError, match="grid"):
        DistortionField.fixed((SIZE, SIZE), np.zeros((3, 3, 2)))
    with pytest.raises(CalibrationError, match="for 256 x 256"):
        ImageCorrection(IDEAL, distortion=DistortionField.fixed((256, 256), nodes((256, 256))))
    torn = NODES.copy()
    torn[2, 2] += 200
    with pytest.raises(CalibrationError, match="farther"):
        DistortionField.fixed((SIZE, SIZE), torn)
    with pytest.raises(CalibrationError, match="another detector mode"):
        other = CArm(64, 64, (1, 1), 1000, (31, 31))
        ImageCorrection(
            IDEAL, flex=FlexModel(*(np.eye(4),) * 2, other, *(np.zeros((1, n)) for n in (2, 9)), np.zeros(9), 1.0)
        )
    (tmp_path / "flat.npz").write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match=r"flat\.npz"):
        read_flat_field(tmp_path / "flat.npz")
    np.savez(tmp_path / "nan.npz", dark=np.full((4, 4), np.nan), gain=np.ones((4, 4)), bad=np.zeros((4, 4), bool))
    with pytest.raises(CalibrationError, match=r"nan\.npz"):
        read_flat_field(tmp_path / "nan.npz")
    with pytest.raises(CalibrationError, match="does not know the model"):
        flex_of({"kind": "magic"})
    with pytest.raises(CalibrationError, match="incomplete"):
        flex_of({"kind": "arc+gaussian_process", "parameters": {"volume_from_base": [1]}})
