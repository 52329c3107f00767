"""Doubling and smoothing cubes of voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from navnode.reconstruction.voxels import doubled, smooth


def test_smoothing_is_a_gaussian() -> None:
    voxels = np.random.default_rng(0).uniform(0, 0.05, (20, 24, 28)).astype(np.float32)
    expected = gaussian_filter(voxels, 0.7)
    smooth(voxels, 0.7)
    np.testing.assert_allclose(voxels, expected, atol=1e-6)


@pytest.mark.parametrize("size", [32, 31])
def test_doubling_preserves_linear_fields(size: int) -> None:
    """Both cubes have the same center, whether the finer one has twice as many voxels or one less."""
    axis = np.arange(16, dtype=np.float32) - 7.5
    coarse = 2 * axis[:, None, None] + 3 * axis[:, None] - axis + 5
    fine_axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / 2
    expected = 2 * fine_axis[:, None, None] + 3 * fine_axis[:, None] - fine_axis + 5
    made = doubled(coarse.astype(np.float32), size)
    inside = (slice(2, -2),) * 3
    assert made.shape == (size,) * 3
    np.testing.assert_allclose(made[inside], expected[inside], atol=1e-4)
