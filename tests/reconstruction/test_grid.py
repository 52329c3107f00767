"""Grids of volumes, and requests for invalid ones."""

import numpy as np
import pytest

from navnode.projector.grids import centered_grid
from navnode.reconstruction import Method, Reconstructor
from navnode.reconstruction.answer import answer
from navnode.types import Grid, ReconstructionRequest


def test_a_grid_lies_around_its_center():
    grid = Grid.around(np.array([10.0, -20.0, 30.0]), 48, 2.5)
    assert np.array_equal(grid.volume_from_index, centered_grid((48, 48, 48), 2.5, np.array([10.0, -20.0, 30.0])))
    volume = grid.filled(-1000.0)
    assert volume.voxels.shape == grid.shape and np.allclose(volume.center_mm, grid.center_mm)
    assert (volume.voxels == -1000).all() and volume.voxels.dtype == np.float32


@pytest.mark.parametrize(
    ("size", "spacing_mm", "center_mm", "reason"),
    [
        (15, 2.0, (0.0, 0.0, 0.0), "size must be 16 to 256"),
        (100_000, 2.0, (0.0, 0.0, 0.0), "size must be 16 to 256"),
        (64, float("nan"), (0.0, 0.0, 0.0), "spacing_mm must be 0.2 to 20"),
        (64, 2.0, (0.0, float("inf"), 0.0), "center_mm must be finite"),
    ],
)
def test_a_request_for_an_invalid_grid_is_answered_with_the_reason(size, spacing_mm, center_mm, reason):
    answered = answer(Reconstructor(Method.SART), ReconstructionRequest(7, (), center_mm, size, spacing_mm), lambda: 5)
    assert answered.request == 7 and answered.volume is None and answered.reason.endswith(reason)
