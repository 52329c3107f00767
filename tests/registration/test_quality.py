"""What one fit alone is worth: every condition at its limit, on both sides, and figures that are no numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from navnode.registration.appearance import Appearance, XrayImage
from navnode.registration.fit import Fit, Inspection
from navnode.registration.quality import INVERTED, NOTHING, Doubt, assess, assess_sparse, compared, doubt
from navnode.types import CArm, Status

VALID, DEGRADED, INVALID = Status.VALID, Status.DEGRADED, Status.INVALID
GOOD = Inspection(detail=0.995, unexplained=0.0)
_CHAIN = Appearance(
    coefficients=np.zeros(16),
    hessian=np.eye(6),
    gradient=np.zeros(6),
    noise=0.01,
    similarity=0.99,
    inliers=0.95,
    bend=-0.02,
    contrast=1.0,
)


def a_fit(depth_sigma_mm: float = 1.0, step_mm: float = 0.01, **figures: float) -> Fit:
    """A fit that is VALID, but for the figures that are given."""
    covariance = np.diag([1e-6, 1e-6, 1e-6, 0.01, 0.01, depth_sigma_mm**2])
    return Fit(np.eye(4), replace(_CHAIN, **figures), 5, step_mm, covariance)


def test_a_good_fit_is_valid_without_a_reason():
    assert assess(a_fit(), GOOD, 0.0) == (VALID, "")
    assert assess(a_fit(), GOOD, 0.5, a_fit(similarity=0.9)) == (VALID, "")


@pytest.mark.risk("wrong-image")
@pytest.mark.parametrize(
    ("figure", "valid_at", "worse_at", "status", "reason"),
    [
        ("similarity", 0.95, 0.9499, DEGRADED, "similarity 0.950, VALID from 0.95"),
        ("similarity", None, 0.93, DEGRADED, "match poorly"),
        ("similarity", None, 0.9299, INVALID, "do not match (similarity 0.93)"),
        ("noise", 0.07, 0.0701, DEGRADED, "residual 0.070, VALID up to 0.07"),
        ("noise", None, 0.10, DEGRADED, "match poorly"),
        ("noise", None, 0.1001, INVALID, "do not match (residual 0.10)"),
        ("inliers", 0.80, 0.7999, INVALID, "too much of the image is not explained (20%)"),
        ("bend", -0.12, -0.1201, DEGRADED, "how much dense bone absorbs"),
        ("bend", 0.025, 0.0251, DEGRADED, "how much dense bone absorbs"),
        ("bend", None, -0.26, INVALID, "how much dense bone absorbs (bend -0.26)"),
        ("contrast", 0.6, 0.59, INVALID, "differ in contrast (0.59 times)"),
        ("contrast", 1.4, 1.41, INVALID, "differ in contrast (1.4 times)"),
        ("depth_sigma_mm", 2.5, 2.6, INVALID, "does not fix the depth (sigma 2.6 mm)"),
        ("step_mm", 0.15, 0.16, DEGRADED, "has not settled"),
    ],
)
def test_a_figure_of_the_fit_at_its_limit(figure, valid_at, worse_at, status, reason):
    if valid_at is not None:
        assert assess(a_fit(**{figure: valid_at}), GOOD, 0.0) == (VALID, "")
    found, said = assess(a_fit(**{figure: worse_at}), GOOD, 0.0)
    assert found is status and reason in said


@pytest.mark.parametrize(
    ("figure", "valid_at", "worse_at", "status", "reason"),
    [
        ("detail", 0.975, 0.9749, DEGRADED, "details match poorly (0.975, VALID from 0.975)"),
        ("detail", None, 0.93, DEGRADED, "details match poorly"),
        ("detail", None, 0.9299, INVALID, "outlines match, details do not (0.93)"),
        ("unexplained", 0.30, 0.3001, INVALID, "too much of the image is not explained (30%)"),
    ],
)
def test_a_figure_of_the_inspection_at_its_limit(figure, valid_at, worse_at, status, reason):
    if valid_at is not None:
        assert assess(a_fit(), replace(GOOD, **{figure: valid_at}), 0.0) == (VALID, "")
    found, said = assess(a_fit(), replace(GOOD, **{figure: worse_at}), 0.0)
    assert found is status and reason in said


@pytest.mark.parametrize(("noise", "detail"), [(0.0181, 0.995), (0.01, 0.9839)])
def test_what_is_left_unexplained_may_bend_the_map_less(noise, detail):
    inspection = replace(GOOD, detail=detail)
    assert assess(a_fit(noise=noise, bend=0.012), inspection, 0.0) == (VALID, "")
    status, reason = assess(a_fit(noise=noise, bend=0.0121), inspection, 0.0)
    assert status is DEGRADED and "how much dense bone absorbs" in reason


def test_what_collimators_cover_at_its_limit():
    assert assess(a_fit(), GOOD, 0.5)[0] is VALID
    status, reason = assess(a_fit(), GOOD, 0.51)
    assert status is DEGRADED and "51% of the image are covered" in reason and "up to 50%" in reason


def test_the_larger_of_two_unexplained_shares_is_named():
    _, by_pixels = assess(a_fit(inliers=0.4), replace(GOOD, unexplained=0.1), 0.0)
    _, by_image = assess(a_fit(inliers=0.9), replace(GOOD, unexplained=0.45), 0.0)
    assert "(60%)" in by_pixels and "(45%)" in by_image


@pytest.mark.parametrize("figure", ["similarity", "noise", "inliers", "bend", "contrast", "depth_sigma_mm", "step_mm"])
def test_a_figure_that_is_no_number_is_never_valid(figure):
    assert assess(a_fit(**{figure: math.nan}), GOOD, 0.0)[0] is not VALID


def test_an_inspection_or_a_covered_share_that_is_no_number_is_never_valid():
    assert assess(a_fit(), replace(GOOD, detail=math.nan), 0.0)[0] is INVALID
    assert assess(a_fit(), replace(GOOD, unexplained=math.nan), 0.0)[0] is INVALID
    assert assess(a_fit(), GOOD, math.nan)[0] is DEGRADED


@pytest.mark.parametrize("field", ["volume_from_carm", "covariance"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_pose_or_a_covariance_that_is_not_finite_is_invalid(field, wrong):
    spoilt = getattr(a_fit(), field).copy()
    spoilt[0, 1] = wrong
    fit = replace(a_fit(), **{field: spoilt})
    assert assess(fit, GOOD, 0.0)[0] is INVALID
    assert assess_sparse(fit)[0] is INVALID


@pytest.mark.parametrize(("contrast", "similarity", "inverted"), [
    (-1.0, 0.81, True), (-1.0, 0.99, True), (0.0, 0.99, True), (-1.0, 0.8, False), (0.01, 0.99, False),
])  # fmt: skip
def test_an_image_that_follows_the_volume_upside_down_is_called_inverted(contrast, similarity, inverted):
    verdict = assess(a_fit(contrast=contrast, similarity=similarity), GOOD, 0.0)
    assert verdict[0] is INVALID and (verdict == INVERTED) is inverted


@pytest.mark.parametrize(("similarity", "status"), [(0.985, VALID), (0.9851, DEGRADED), (0.99, DEGRADED)])
def test_another_pose_counts_if_it_leaves_less_than_half_as_much_again(similarity, status):
    found, reason = assess(a_fit(), GOOD, 0.0, a_fit(similarity=similarity))
    assert found is status and ("another pose fits nearly as well" in reason) is (status is DEGRADED)


def test_another_pose_that_is_incredible_does_not_count():
    assert assess(a_fit(), GOOD, 0.0, a_fit(contrast=0.3))[0] is VALID


@pytest.mark.parametrize(("figure", "passes_at", "fails_at"), [
    ("similarity", 0.75, 0.7499), ("noise", 0.30, 0.3001), ("inliers", 0.80, 0.7999), ("similarity", 0.9, math.nan),
])  # fmt: skip
def test_a_volume_from_a_few_xrays_is_never_valid(figure, passes_at, fails_at):
    assert assess_sparse(a_fit(**{figure: passes_at})) == (DEGRADED, "registered to a volume made from a few X-rays")
    status, reason = assess_sparse(a_fit(**{figure: fails_at}))
    assert status is INVALID and "image and reconstruction do not match (similarity" in reason


@pytest.mark.parametrize(("residual", "detail", "expected"), [
    (0.012, 0.99, Doubt.NONE),
    (0.0121, 0.99, Doubt.LITTLE), (0.012, 0.9899, Doubt.LITTLE), (0.018, 0.984, Doubt.LITTLE),
    (0.0181, 0.99, Doubt.MUCH), (0.012, 0.9839, Doubt.MUCH), (math.nan, 0.99, Doubt.MUCH), (0.01, math.nan, Doubt.MUCH),
])  # fmt: skip
def test_what_a_fit_leaves_unexplained_is_how_much_it_is_doubted(residual, detail, expected):
    assert doubt(a_fit(noise=residual), Inspection(detail, 0.0)) is expected


# --- the inspection that the gate asks -------------------------------------------------------------------------------

CARM = CArm(256, 256, (1.0, 1.0), 1000.0, (127.5, 127.5))
_BODIES = np.random.default_rng(3).uniform((-90, -90, 4, 0.02), (90, 90, 22, 0.05), (60, 4))
"""Balls: place on the detector (u, v), radius, mm, and attenuation per mm."""


def balls(carm: CArm, shift_mm: float = 0.0) -> np.ndarray:
    """Line integrals (H, W) of balls and a soft body around them; those of mean counts where pixels are binned."""
    v, u = np.mgrid[: CARM.height_px, : CARM.width_px]
    u_mm, v_mm = u - CARM.principal_point_px[0] - shift_mm, v - CARM.principal_point_px[1]
    line = 2 * 0.004 * np.sqrt(np.maximum(110.0**2 - u_mm**2 - v_mm**2, 0))
    for at_u, at_v, radius, per_mm in _BODIES:
        line += 2 * per_mm * np.sqrt(np.maximum(radius**2 - (u_mm - at_u) ** 2 - (v_mm - at_v) ** 2, 0))
    factor = CARM.width_px // carm.width_px
    blocks = np.exp(-line).reshape(carm.height_px, factor, carm.width_px, factor)
    return -np.log(blocks.mean(axis=(1, 3))).astype(np.float32)


def taken(line: np.ndarray, photons: float = 3e4) -> XrayImage:
    return XrayImage(np.random.default_rng(5).poisson(photons * np.exp(-line)).astype(np.float32), CARM)


def test_an_image_of_the_volume_itself_agrees_in_every_detail():
    found = compared(taken(balls(CARM)), balls)
    assert found.detail == pytest.approx(1.0, abs=0.005) and found.unexplained == 0.0


@pytest.mark.parametrize("photons", [1e3, 300, 100])
def test_noise_is_not_taken_for_detail(photons):
    """Nor is detail that the image has not claimed for it."""
    assert compared(taken(balls(CARM), photons), balls).detail == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("shift_mm", [-8.0, 8.0])
def test_detail_falls_with_the_distance_from_the_right_place(shift_mm):
    details = [compared(taken(balls(CARM)), lambda carm, s=s: balls(carm, s * shift_mm)).detail for s in (0, 0.25, 1)]
    assert details[0] > details[1] > details[2] and details[1] < 0.99 and details[2] < 0.8


@pytest.mark.parametrize("across_px", [32, 64])
def test_the_share_that_a_tool_covers_is_unexplained_and_does_not_count_as_detail(across_px):
    with_tool = balls(CARM)
    with_tool[96 : 96 + across_px, 96 : 96 + across_px] += 1.5
    found = compared(taken(with_tool), balls)
    behind = (balls(CARM) > 0.02).sum()
    # Pixels at its edges, as wide as those that are inspected, show some of it.
    assert 0.95 * across_px**2 < found.unexplained * behind < 1.05 * (across_px + 2 * 4) ** 2
    assert found.detail > 0.99


def test_nothing_is_known_of_an_image_that_shows_nothing():
    assert compared(taken(balls(CARM)), lambda carm: np.zeros((carm.height_px, carm.width_px), np.float32)) == NOTHING
    assert (NOTHING.detail, NOTHING.unexplained) == (0.0, 1.0)
