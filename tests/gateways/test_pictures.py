"""What of a video picture is the X-ray."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from navnode.config import VideoSource
from navnode.errors import ComputeError
from navnode.gateways.pictures import Converter, fields_of, grey_of
from navnode.xray.held import Held, same_exposure


def converter(**more) -> Converter:
    return Converter(VideoSource(device="0", **more))


def one(picture, **more):
    made = converter(**more)
    (grey,) = made.greys(picture)
    return made.counts(grey)


PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)


def test_the_region_turned_and_mirrored_is_the_detectors_picture():
    part = PICTURE[5:35, 10:50]
    assert np.array_equal(one(PICTURE, region=(10, 5, 40, 30)), part)
    for turns, deg in ((3, 90), (2, 180), (1, 270)):
        assert np.array_equal(one(PICTURE, region=(10, 5, 40, 30), turned_deg=deg), np.rot90(part, turns))
    assert np.array_equal(one(PICTURE, mirrored=True), PICTURE[:, ::-1])
    assert np.array_equal(one(PICTURE, turned_deg=90, mirrored=True), np.rot90(PICTURE, 3)[:, ::-1])


def test_a_region_outside_the_picture_is_named():
    with pytest.raises(ComputeError, match="region 30, 0, 40, 30 lies outside the picture of 64 x 48"):
        converter(region=(30, 0, 40, 30)).greys(PICTURE)


def test_a_picture_of_another_size_than_the_settings_are_for_is_refused():
    assert np.array_equal(one(PICTURE, region=(10, 5, 40, 30), picture_px=(64, 48)), PICTURE[5:35, 10:50])
    with pytest.raises(ComputeError, match="is 64 x 48 pixels, region, field and masks are for 128 x 96"):
        converter(region=(10, 5, 40, 30), picture_px=(128, 96)).greys(PICTURE)


def test_grey_values_of_colours():
    colours = np.random.default_rng(1).integers(0, 256, (20, 24, 3), np.uint8)
    blue, green, red = (colours[..., n].astype(float) for n in range(3))
    assert np.abs(grey_of(colours, "luma") - (0.114 * blue + 0.587 * green + 0.299 * red)).max() <= 1
    assert np.abs(grey_of(colours, "mean") - colours.mean(2)).max() <= 1
    assert np.array_equal(grey_of(colours, "green"), colours[..., 1])
    assert np.array_equal(grey_of(PICTURE[..., None], "luma"), PICTURE)


@pytest.mark.parametrize("gamma", [0.45, 1.0, 2.2])
@pytest.mark.parametrize("inverted", [False, True])
def test_counts_are_proportional_to_radiation_whatever_the_display_made_of_it(gamma, inverted):
    radiation = np.linspace(0, 1, 48 * 64).reshape(48, 64)
    shown = np.rint(16 + (235 - 16) * ((1 - radiation if inverted else radiation) ** (1 if inverted else 1 / gamma)))
    if inverted:  # radiation -> dark, then the display's curve
        shown = np.rint(16 + 219 * (1 - radiation ** (1 / gamma)))
    counts = one(shown.astype(np.uint8), black=16, white=235, gamma=gamma, inverted=inverted)
    assert counts.dtype == np.uint16
    bright = radiation > 0.2
    assert np.abs(counts / 65535 - radiation)[bright].max() < 0.02


def test_without_a_curve_grey_values_are_handed_on():
    assert one(PICTURE).dtype == np.uint8 and np.array_equal(one(PICTURE), PICTURE)


def test_text_and_what_lies_outside_the_round_field_are_no_counts():
    counts = one(PICTURE + 1 - PICTURE // 255, masks=((0, 0, 10, 5),), field_px=(32.0, 24.0, 20.0))
    v, u = np.mgrid[:48, :64]
    outside = ((u - 32) ** 2 + (v - 24) ** 2 > 400) | ((u < 10) & (v < 5))
    assert np.array_equal(counts == 0, outside)


def interlaced(top, bottom):
    picture = top.copy()
    picture[1::2] = bottom[1::2]
    return picture


def test_bob_takes_the_two_exposures_of_an_interlaced_picture_apart():
    v, u = np.mgrid[:64, :80].astype(np.float32)
    first, second = (np.uint8(120 + 60 * np.sin((u + shift) / 9) + v / 2) for shift in (0, 6))
    for order, fields in (("top", (first, second)), ("bottom", (second, first))):
        found = fields_of(interlaced(first, second), "bob", order)
        for a, b in zip(found, fields, strict=True):
            assert np.abs(a[1:-1].astype(int) - b[1:-1]).max() <= 1
    (blended,) = fields_of(interlaced(first, second), "blend", "top")
    wanted = (first.astype(int) + second) / 2
    assert np.abs(blended[1:-1] - wanted[1:-1]).max() <= 1.5


@pytest.mark.parametrize("height", [64, 65])
@pytest.mark.parametrize("interlace", ["bob", "blend"])
def test_pictures_of_any_height_keep_their_size(height, interlace):
    picture = np.random.default_rng(0).integers(0, 256, (height, 32), np.uint8)
    for field in fields_of(picture, interlace, "top"):
        assert field.shape == picture.shape
    flat = np.full((height, 32), 77, np.uint8)
    assert all((field == 77).all() for field in fields_of(flat, interlace, "top"))


@pytest.mark.parametrize("y", [0, 1, 7])
def test_a_region_does_not_exchange_the_fields(y):
    flat = interlaced(np.full((48, 64), 50, np.uint8), np.full((48, 64), 200, np.uint8))
    greys = converter(interlace="bob", region=(0, y, 64, 32)).greys(flat)
    assert [int(grey.mean()) for grey in greys] == [50, 200] and greys[0].shape == (32, 64)


# --- last-image-hold -------------------------------------------------------------------------------


def scene(shift: float = 0.0) -> np.ndarray:
    v, u = np.mgrid[:240, :320].astype(np.float32)
    bone = 60 * np.exp(-(((u - 150 - shift) / 40) ** 2))
    needle = 40 * (np.abs(v - 100 - 0.5 * (u - 100) - shift) < 1.5) * (u > 100) * (u < 160)
    return 150 - bone - needle + 10 * np.sin(v / 30)


def taken(clean: np.ndarray, noise: float, rng) -> np.ndarray:
    return np.clip(np.rint(clean + rng.normal(0, noise, clean.shape)), 0, 255).astype(np.uint8)


def exposure(shift: float, quanta: float, rng) -> np.ndarray:
    return scene(shift) + rng.normal(0, quanta, (240, 320))


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 2.0])
def test_a_picture_that_is_held_is_one_exposure_however_noisy_its_capture(noise):
    rng = np.random.default_rng(2)
    held, repeats = Held(noise), []
    for _ in range(5):
        shot = exposure(0.0, 6.0, rng)
        repeats.append([held.repeats(taken(shot, noise, rng)) for _ in range(6)])
    assert repeats == [[False, True, True, True, True, True]] * 5


@pytest.mark.parametrize("noise", [0.5, 1.0])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_exposures_are_told_apart_by_motion_or_by_their_quanta(noise, shift):
    rng = np.random.default_rng(3)
    held = Held(noise)
    for n in range(20):
        assert not held.repeats(taken(exposure(n * shift, 2.5 * noise, rng), noise, rng))


def test_a_needle_that_moves_is_another_exposure_although_little_else_changes():
    rng = np.random.default_rng(4)
    still = np.full((240, 320), 120.0)
    moved = still.copy()
    moved[100:103, 100:140] -= 40
    assert not same_exposure(taken(still, 0.5, rng), taken(moved, 0.5, rng), 0.5)


def test_compression_noise_of_a_held_picture_is_noise_of_capture():
    rng = np.random.default_rng(5)
    shot = taken(exposure(0, 4, rng), 0.3, rng)
    pictures = []
    for quality in (92, 93, 94):
        pictures.append(cv2.imdecode(cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0))
    assert all(same_exposure(pictures[0], other, 2.0) for other in pictures[1:])
