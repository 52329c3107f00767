"""Grey values of a display, read as counts; detectors that saturate below 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.xray.counts import blank_reason, line_integrals, open_beam_counts, saturation_of
from navnode.xray.gradation import Curve, Gradation, is_picture

LINE = np.linspace(0.05, 3.5, 128 * 128).reshape(128, 128)


def shown(curve: Curve, steepness: float) -> np.ndarray:
    """A display's grey values of line integrals."""
    powers = curve in (Curve.POWER, Curve.INVERTED)
    level = np.exp(-LINE / steepness) if powers else 1 - LINE / steepness
    if curve in (Curve.FILM, Curve.INVERTED):
        level = 1 - level
    return np.round(255 * level).astype(np.uint16)


@pytest.mark.parametrize(
    ("curve", "steepness"),
    [(Curve.POWER, 2.2), (Curve.POWER, 1.0), (Curve.LOGARITHM, 4.5), (Curve.FILM, 6.0)] + [(Curve.INVERTED, 1.5)],
)
def test_what_a_display_shows_is_read_back(curve, steepness):
    grey = shown(curve, steepness)
    assert is_picture(grey)
    counts = Gradation(curve, steepness).counts(grey).astype(float)
    line = -np.log(counts / 60_000)
    clear = (counts < 65_500) & (LINE < 2.0)
    assert clear.mean() > 0.4 and np.abs(line - LINE)[clear].max() < 0.08, "half a grey value"


@pytest.mark.parametrize("curve", [Curve.LOGARITHM, Curve.FILM])
@pytest.mark.parametrize(("toe", "shoulder"), [(3.0, 3.0), (0.0, 4.0), (5.0, 1.0)])
def test_an_s_is_straightened(curve, toe, shoulder):
    logits = -toe + (toe + shoulder) * (1 - LINE / 4.0)
    bent, black, white = (1 / (1 + np.exp(-x)) for x in (logits, -toe, shoulder))
    level = (bent - black) / (white - black)
    grey = np.round(255 * (1 - level if curve is Curve.FILM else level)).astype(np.uint16)
    counts = Gradation(curve, 4.0, toe, shoulder).counts(grey).astype(float)
    slope = np.abs(np.gradient(255 * level.ravel(), LINE.ravel())).reshape(LINE.shape)
    clear = (counts < 65_500) & (slope > 10)
    assert clear.mean() > 0.5 and np.abs(-np.log(counts / 60_000) - LINE)[clear].max() < 0.08, "half a grey value"


@pytest.mark.parametrize("curve", list(Curve))
def test_a_contrast_corrects_the_steepness(curve):
    first = Gradation.first(curve)
    corrected = first.corrected(0.6)
    assert corrected is not None and corrected.steepness == pytest.approx(first.steepness / 0.6)
    assert first.corrected(0.05) is None and first.corrected(20.0) is None and first.corrected(-1.0) is None


def test_grey_values_that_are_clipped_say_nothing():
    grey = np.clip(shown(Curve.POWER, 1.0).astype(int) * 3, 0, 255).astype(np.uint16)
    grey[:20, :20] = 0
    counts = Gradation.first(Curve.POWER).counts(grey)
    assert (counts[grey == 255] >= 65_500).all() and (counts[:20, :20] >= 65_500).all()
    assert (counts[(grey > 0) & (grey < 255)] < 65_500).all()


def test_counts_are_no_picture():
    assert not is_picture(np.full((8, 8), 256, np.uint16))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_detector_of_any_number_of_bits_saturates(bits):
    top = (1 << bits) - 1
    counts = np.random.default_rng(0).poisson(1.4 * top * np.exp(-LINE)).clip(0, top).astype(np.uint16)
    assert saturation_of(counts) <= top and np.isnan(line_integrals(counts, 1.4 * top)[0, 0])
    assert np.isfinite(line_integrals(counts, 1.4 * top)[-1, -1])
    assert open_beam_counts(counts) < top
    assert blank_reason(np.full((64, 64), top, np.uint16)) == "the image is saturated"


def test_a_faint_image_is_not_saturated():
    faint = np.random.default_rng(0).poisson(3.0, (64, 64)).astype(np.uint16)
    assert saturation_of(faint) == 65_500


def test_an_image_whose_brightest_pixel_is_alone_is_not_saturated():
    counts = np.random.default_rng(0).poisson(9000 * np.exp(-LINE)).astype(np.uint16)
    assert saturation_of(counts) == 65_500 and np.isfinite(line_integrals(counts, 9000.0)).all()


@pytest.mark.parametrize("curve", [Curve.POWER, Curve.FILM])
def test_how_much_is_clipped_at_the_dark_end_is_told(curve):
    grey = shown(curve, 6.0 if curve is Curve.FILM else 1.5)
    reading = Gradation.first(curve)
    assert reading.dark_share(grey) < 0.1
    grey[:96] = 255 if curve is Curve.FILM else 0
    assert reading.dark_share(grey) == pytest.approx(0.75, abs=0.02)
