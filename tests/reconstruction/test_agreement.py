"""Two views of one body show the same amount of bone in every plane through both sources; of two bodies they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navnode import geometry as g
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.reconstruction.agreement import largest_difference
from navnode.types import CArm, Grid, View, Volume

GRID = Grid(64, 3.0)
CARM = CArm(256, 256, (1.5, 1.5), 1000.0, (127.5, 127.5))


def bones(seed: int) -> Projector:
    """A few tilted shafts of different lengths; rays cross millimetres of them."""
    rng = np.random.default_rng(seed)
    axis = (np.arange(GRID.size) - (GRID.size - 1) / 2) * GRID.spacing_mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = np.zeros(GRID.shape, bool)
    for _ in range(3):
        (tilt_x, tilt_y), (at_x, at_y) = rng.uniform(-0.3, 0.3, 2), rng.uniform(-35, 35, 2)
        begin, end = rng.uniform(-70, 0), rng.uniform(10, 70)
        shaft = np.hypot(x - at_x - tilt_x * z, y - at_y - tilt_y * z) < rng.uniform(8, 16)
        inside |= shaft & (z > begin) & (z < end)
    return Projector(Volume(inside * np.float32(1000 / MU_WATER_PER_MM) - 1000, GRID.volume_from_index), threads=2)


def views(body: Projector, angles_deg: tuple[float, ...], rng: np.random.Generator | None = None) -> list[View]:
    found = []
    for angle_deg in angles_deg:
        tilt_deg, roll_deg = (0.0, 0.0) if rng is None else rng.normal(0, 4, 2)
        pose = g.pose_at(np.zeros(3), 650.0, orbital_deg=angle_deg, angulation_deg=tilt_deg, roll_deg=roll_deg)
        found.append(View(body.render(CARM, pose), CARM, pose))
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), apart_deg=st.floats(40, 140))
def test_views_of_one_body_agree(seed: int, apart_deg: float) -> None:
    rng = np.random.default_rng(seed)
    found = largest_difference(views(bones(seed), (0.0, apart_deg), rng), np.zeros(3))
    assert found is not None and found.amount < 0.12 and found.shape < 0.12


@pytest.mark.parametrize("count", [2, 4])
def test_a_view_of_another_body_differs(count: int) -> None:
    angles = tuple(180.0 * n / count for n in range(count))
    differences = []
    for seed in range(6):
        mixed = [*views(bones(seed), angles)[:-1], views(bones(seed + 100), angles)[-1]]
        found = largest_difference(mixed, np.zeros(3))
        assert found is not None
        differences.append(found.shape)
    assert min(differences) > 0.15 and np.median(differences) > 0.4


def test_grey_values_of_a_view_change_the_amount_and_not_the_shape() -> None:
    one, other = views(bones(1), (0.0, 90.0))
    found = largest_difference([one, replace(other, line_integrals=1.5 * other.line_integrals)], np.zeros(3))
    assert found is not None and found.amount == pytest.approx(0.4, abs=0.08) and found.shape < 0.12


def test_planes_that_go_on_outside_a_view_are_not_compared() -> None:
    one, other = views(bones(2), (0.0, 90.0))
    cut = other.line_integrals.copy()
    cut[:, :128] = np.nan  # a shutter through the bones
    found = largest_difference([one, replace(other, line_integrals=cut)], np.zeros(3))
    assert found is None or found.amount < 0.35


def test_too_little_says_nothing() -> None:
    empty = [replace(view, line_integrals=0 * view.line_integrals) for view in views(bones(3), (0.0, 90.0))]
    assert largest_difference(empty, np.zeros(3)) is None
    assert largest_difference(views(bones(3), (0.0,)), np.zeros(3)) is None
    unknown = [replace(view, line_integrals=np.nan * view.line_integrals) for view in empty]
    assert largest_difference(unknown, np.zeros(3)) is None


def test_views_from_one_place_are_not_compared_with_each_other() -> None:
    first, second = views(bones(3), (0.0, 90.0))
    with np.errstate(all="raise"):
        assert largest_difference([first, first], np.zeros(3)) is None
        again, alone = (largest_difference(group, np.zeros(3)) for group in ([first, second, first], [first, second]))
    assert again is not None and again == alone
