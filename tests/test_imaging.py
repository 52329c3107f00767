import numpy as np
import pytest

from navnode.imaging import blank_reason, line_integrals, open_beam_counts


def test_line_integrals_invert_beer_lambert():
    line = np.random.default_rng(0).uniform(0, 5, (32, 32))
    counts = np.round(60_000 * np.exp(-line)).astype(np.uint16)
    assert np.allclose(line_integrals(counts, 60_000.0), line, atol=2e-3)


def test_counts_are_averaged_before_the_logarithm():
    counts = np.array([[100, 300], [300, 100]], np.uint16)
    assert line_integrals(counts, 1000.0, 2)[0, 0] == pytest.approx(np.log(1000 / 200))


def test_saturated_pixels_are_not_numbers():
    counts = np.full((8, 8), 1000, np.uint16)
    counts[3, 3] = 65_535
    assert np.isnan(line_integrals(counts, 2000.0)[3, 3])
    binned = line_integrals(counts, 2000.0, 2)
    assert np.isnan(binned[1, 1]) and np.isfinite(binned).sum() == 15


def test_dark_pixels_stay_finite():
    assert np.isfinite(line_integrals(np.zeros((4, 4), np.uint16), 1000.0)).all()


def test_open_beam_is_the_brightest_part():
    counts = np.random.default_rng(0).poisson(500, (64, 64)).astype(np.uint16)
    counts[:8] = np.random.default_rng(1).poisson(20_000, (8, 64))
    assert open_beam_counts(counts) == pytest.approx(20_000, rel=0.03)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (np.full((64, 64), 65_535, np.uint16), "saturated"),
        (np.full((64, 64), 700, np.uint16), "blank"),
        (np.zeros((64, 64), np.uint16), "blank"),
    ],
)
def test_images_without_content(counts, reason):
    assert reason in blank_reason(counts)


def test_an_image_with_content():
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 50 + 100, (64, 1))
    assert blank_reason(ramp) == ""
