"""Rays that meet cortex: counted in shells whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.reconstruction.training.enclosure import enclosure

SPACING_MM = (1.0, 1.0, 3.0)


def distances_mm(size: tuple[int, int, int]) -> np.ndarray:
    """From the middle of a grid, (k, j, i)."""
    k, j, i = np.mgrid[tuple(slice(0, n) for n in size)]
    return np.sqrt((3 * (k - size[0] // 2)) ** 2 + (j - size[1] // 2) ** 2 + (i - size[2] // 2) ** 2)


def test_all_rays_from_inside_a_closed_shell_meet_it_and_few_from_far_outside() -> None:
    far_mm = distances_mm((41, 121, 121))
    shell = (far_mm > 14) & (far_mm < 20)
    found = enclosure(shell, SPACING_MM)
    assert (found[far_mm < 14] == 1).all()
    assert found[(far_mm > 30) & (far_mm < 33)].max() < 0.5
    assert (found[shell] == 1).all()


def test_without_a_shell_nothing_is_enclosed() -> None:
    assert not enclosure(np.zeros((20, 90, 90), bool), SPACING_MM).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirroring_the_shell_mirrors_the_answer(axis: int) -> None:
    rng = np.random.default_rng(3)
    shell = (distances_mm((25, 81, 81)) < 15) & (rng.random((25, 81, 81)) < 0.2)
    mirrored = enclosure(np.flip(shell, axis), SPACING_MM)
    np.testing.assert_array_equal(np.flip(mirrored, axis), enclosure(shell, SPACING_MM))


def test_rays_that_leave_the_grid_do_not_count() -> None:
    far_mm = distances_mm((41, 121, 121))
    shell = (far_mm > 14) & (far_mm < 20)
    halved = enclosure(shell[:, :, 60:], SPACING_MM)  # cut through the middle
    assert halved[20, 60, 3] == 1
    assert halved[20, 60, 45] < 0.5


def test_an_opening_costs_only_the_rays_through_it() -> None:
    far_mm = distances_mm((41, 121, 121))
    shell = (far_mm > 14) & (far_mm < 20)
    shell[20, 57:64, 60:] = False  # to one side, in one slice
    assert enclosure(shell, SPACING_MM)[20, 60, 60] == pytest.approx(25 / 26)
