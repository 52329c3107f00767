"""Interlaced pictures: how far their two fields are apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from navnode.xray.fields import fields_apart_px, one_moment


def picture(seed: int = 0, noise: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grey = cv2.GaussianBlur(rng.normal(size=(256, 300)), (0, 0), 3)
    grey = 128 + 40 * grey / grey.std()
    cv2.line(grey, (10, 20), (280, 230), 60.0, 5)
    return np.clip(np.round(cv2.GaussianBlur(grey, (0, 0), 1) + rng.normal(size=grey.shape) * noise), 0, 255)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 2.0, 5.0])
def test_a_picture_of_one_moment_has_its_fields_in_one_place(seed, noise):
    assert fields_apart_px(picture(seed, noise)) < 0.1


@pytest.mark.parametrize("moved_px", [-2.0, -1.0, 0.5, 1.0, 2.0])
def test_fields_of_two_moments_are_as_far_apart_as_what_moved(moved_px):
    before = picture(noise=0.0)
    later = cv2.warpAffine(before, np.float64([[1, 0, moved_px], [0, 1, 0]]), before.shape[::-1], borderMode=1)
    woven = before.copy()
    woven[1::2] = later[1::2]
    noisy = woven + np.random.default_rng(1).normal(size=woven.shape) * 2
    assert fields_apart_px(noisy) == pytest.approx(abs(moved_px), rel=0.3)


def test_text_and_tiny_pictures_say_nothing():
    grey = picture()
    cv2.putText(grey, "L-SPINE AP 72 kV", (12, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255.0, 2)
    assert fields_apart_px(grey) < 0.1
    assert fields_apart_px(np.zeros((1, 8), np.uint8)) == 0.0 and fields_apart_px(np.full((9, 9), 7)) == 0.0


def test_of_two_fields_the_earlier_one_is_kept_whole():
    before = picture(noise=0.0)
    woven = before.copy()
    woven[1::2] = np.roll(before, 3, axis=1)[1::2]
    kept = one_moment(woven.astype(np.uint16))
    assert (kept[::2] == before[::2]).all() and fields_apart_px(kept) < 0.1
    inside = np.abs(kept.astype(float) - before)[1:-1:2, 5:-5]
    assert np.median(inside) <= 1 and np.mean(inside) < 0.3 * np.mean(np.abs(woven - before)[1:-1:2, 5:-5])


@pytest.mark.parametrize("rows", [255, 256])
def test_pictures_of_one_moment_and_counts_are_as_they_are(rows):
    grey = picture()[:rows].astype(np.uint16)
    assert one_moment(grey) is grey
    counts = (picture()[:rows] * 100).astype(np.uint16)
    counts[1::2] = np.roll(counts, 3, axis=1)[1::2]
    assert one_moment(counts) is counts
    woven = grey.copy()
    woven[1::2] = np.roll(grey, 3, axis=1)[1::2]
    assert one_moment(woven).shape == grey.shape and fields_apart_px(one_moment(woven)) < 0.2
