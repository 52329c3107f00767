import numpy as np
import pytest

from navnode.xray.counts import blank_reason, covered, line_integrals, open_beam_counts


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


def body(width: int = 64) -> np.ndarray:
    """A patient's light: bright beside, dark in the middle, and dark towards one edge of the image."""
    v, u = np.mgrid[-1 : 1 : 1j * width, -1 : 1 : 1j * width]
    return (30_000 * np.exp(-5 * np.clip(1.1 - (u * u + 0.1 * v * v), 0, 1))).astype(np.float32)


def test_a_patient_is_not_taken_for_lead():
    for light in (body(), body()[:, 24:], body()[:, 16:48]):
        assert not covered(light).any()


@pytest.mark.parametrize("edges", [(10, 64, 0, 64), (0, 64, 12, 50), (8, 56, 9, 60)])
def test_collimator_blades_are_found(edges):
    top, bottom, left, right = edges
    light = np.full((64, 64), 12.0, np.float32)
    light[top:bottom, left:right] = body()[top:bottom, left:right]
    found = covered(light)
    open_field = np.zeros((64, 64), bool)
    open_field[top:bottom, left:right] = True
    assert found[~open_field].all() and found[open_field].mean() < 0.15


def test_an_empty_image_has_no_collimator():
    assert not covered(np.full((64, 64), np.nan, np.float32)).any()
    assert not covered(np.zeros((64, 64), np.float32)).any()


@pytest.mark.parametrize("degrees", [0.0, 27.0, 90.0, 201.0])
def test_blades_at_any_angle_are_covered_also_behind_a_thick_patient(degrees):
    v, u = np.mgrid[:64, :64]
    patient = np.exp(-4.0 * np.exp(-(((u - 32) / 24) ** 2) - ((v - 32) / 40) ** 2))
    beyond = (u - 32) * np.cos(np.deg2rad(degrees)) + (v - 32) * np.sin(np.deg2rad(degrees)) > 17.3
    light = np.where(beyond, 0.004, patient).astype(np.float32)
    mask = covered(light)
    assert (mask & beyond).sum() > 0.9 * beyond.sum() and (mask & ~beyond).sum() < 0.06 * mask.size
    assert not covered(patient.astype(np.float32)).any()


@pytest.mark.parametrize("turned", range(4))
def test_what_lies_beyond_a_gap_in_the_patient_is_no_lead(turned):
    """Two parts of a body that moved apart: beyond the light between them a patient goes on, in all his greys."""
    v, u = np.mgrid[:64, :64]
    patient = -4.2 + 1.2 * np.sin(u / 5) * np.cos(v / 7)
    light = np.exp(np.where(np.abs(v - 28) < 5, -2.0, patient)).astype(np.float32)
    light = np.ascontiguousarray(np.rot90(light, turned))
    assert not covered(light).any()


@pytest.mark.parametrize("degrees", [0.0, 37.0, 90.0, 201.0])
@pytest.mark.parametrize("width_px", [4.0, 7.0])
def test_muscle_beyond_a_gap_is_no_lead_though_it_is_as_even(degrees, width_px):
    v, u = np.mgrid[:64, :64]
    beside = (u - 32) * np.cos(np.deg2rad(degrees)) + (v - 32) * np.sin(np.deg2rad(degrees)) - 10
    thigh = np.exp(-2.3 - 0.05 * np.sin(u / 9)).astype(np.float32)
    parted = np.where(np.abs(beside) < width_px / 2, 1.0, thigh).astype(np.float32)
    assert not covered(parted).any()
    shielded = np.where(
        beside > width_px / 2, np.float32(0.03), parted
    )  # no gap: what is beyond is like nothing inside
    assert covered(shielded)[beside > width_px / 2 + 1].mean() > 0.9


@pytest.mark.parametrize("open_px", [46, 34, 24])
@pytest.mark.parametrize("behind", [0.0006, 0.0015])
def test_four_blades_within_a_thick_patient_are_found_though_nothing_in_the_field_is_bright(open_px, behind):
    """A hundredth of the open beam comes through the patient; what scatters behind lead is no small share of that."""
    v, u = np.mgrid[:64, :64]
    rng = np.random.default_rng(open_px)
    patient = 0.012 * np.exp(0.5 * np.sin(u / 7) * np.cos(v / 9) + 0.3 * np.sin(v / 4))
    field = (np.abs(u - 30) < open_px / 2) & (np.abs(v - 33) < open_px / 2)
    lead = behind * (1 + 0.1 * np.cos(u / 20)) * (1 + 0.03 * rng.normal(size=u.shape))
    found = covered(np.where(field, patient, lead).astype(np.float32))
    assert found[~field].mean() > 0.97
    inner = (np.abs(u - 30) < open_px / 2 - 2) & (np.abs(v - 33) < open_px / 2 - 2)
    assert not found[inner].any()


@pytest.mark.parametrize("frame_px", [1, 2, 3])
def test_a_thin_dark_frame_around_a_patient_spoils_nothing(frame_px):
    v, u = np.mgrid[:64, :64]
    light = (0.012 * np.exp(0.3 * np.sin(u / 7))).astype(np.float32)
    framed = np.minimum(np.minimum(u, 63 - u), np.minimum(v, 63 - v)) < frame_px
    corner = (np.minimum(u, 63 - u) < 4) & (np.minimum(v, 63 - v) < 4)
    for dark in (framed, framed & ~corner):
        found = covered(np.where(dark, np.float32(0.001), light))
        assert not found[8:-8, 8:-8].any()


def test_a_straight_shaft_is_no_blade():
    _, u = np.mgrid[:64, :64]
    leg = np.exp(-2.0 * (np.abs(u - 34) < 14) - 1.5 * (np.abs(u - 36) < 5)).astype(np.float32)
    assert not covered(leg).any()
