"""What no projector can be made of, and what it cannot be asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.types import CArm, Volume

CARM = CArm(32, 30, (4.0, 4.0), 1000.0, (15.5, 14.5))
POSE = np.eye(4)
POSE[2, 3] = -600.0
GRID = np.diag([2.0, 2.0, 2.0, 1.0])
GRID[:3, 3] = -25.0
HU = np.random.default_rng(0).uniform(-1000, 1000, (20, 24, 28)).astype(np.float32)


def volume(voxels=HU, grid=GRID) -> Volume:
    return Volume(voxels, grid)


def with_voxel(value: float) -> np.ndarray:
    voxels = HU.copy()
    voxels[3, 3, 3] = value
    return voxels


def with_entry(matrix: np.ndarray, value: float) -> np.ndarray:
    changed = matrix.copy()
    changed[0, 3] = value
    return changed


@pytest.mark.parametrize("precision", ["int16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_must_be_finite(precision, value):
    with pytest.raises(ValueError, match="voxels must be finite"):
        Projector(volume(with_voxel(value)), precision=precision)


@pytest.mark.parametrize(
    ("voxels", "grid"),
    [
        (HU[0], GRID),
        (HU[None], GRID),
        (HU[:0], GRID),
        (HU + 1j, GRID),
        (HU, GRID[:3]),
        (HU, np.zeros((4, 4))),
        (HU, with_entry(GRID, np.nan)),
    ],
)
def test_what_is_no_volume_is_refused(voxels, grid):
    with pytest.raises(ValueError, match="must be"):
        Projector(volume(voxels, grid))


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float64"},
        {"backend": "cuda"},
        {"threads": -1},
        {"mu_water_per_mm": np.nan},
        {"mu_water_per_mm": 0.0},
        {"instruction_set": "mmx"},
    ],
)
def test_options_that_there_are_not_are_refused(options):
    with pytest.raises(ValueError, match=r"there is no|must|this CPU has"):
        Projector(volume(), **options)


@pytest.mark.parametrize(
    "pose", [2 * np.eye(4), np.zeros((4, 4)), np.eye(4)[:3], np.stack([POSE, POSE]), with_entry(POSE, np.inf)]
)
def test_poses_that_are_not_rigid_are_refused(pose):
    for precision in ("int16", "float32"):
        with pytest.raises(ComputeError, match="pose"):
            Projector(volume(), precision=precision).render(CARM, pose)


@pytest.mark.parametrize(
    "change",
    [
        {"source_to_detector_mm": 0.0},
        {"source_to_detector_mm": -1000.0},
        {"source_to_detector_mm": np.inf},
        {"pixel_spacing_mm": (np.nan, 4.0)},
        {"pixel_spacing_mm": (0.0, 4.0)},
        {"principal_point_px": (np.nan, 4.0)},
    ],
)
def test_detectors_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match="no C-arm has"):
        Projector(volume()).render(replace(CARM, **change), POSE)


@pytest.mark.parametrize("shape", [(2, 2), (4,), (0,), (32, 30), (30, 32, 1), (30 * 32,)])
def test_values_to_back_project_must_be_the_detectors(shape):
    projector, gain = Projector(volume(), precision="float32"), np.ones(HU.shape, np.float32)
    values = np.ones(shape, np.float32)
    for asked in (
        lambda: projector.backproject(CARM, POSE, values),
        lambda: projector.correct(CARM, POSE, values, gain, 1.0, 0.0),
        lambda: projector.scale(CARM, POSE, values, gain, 1.0, 2.0),
    ):
        with pytest.raises(ValueError, match=r"values must have the shape \(30, 32\)"):
            asked()


def test_threads_may_share_a_projector():
    projector = Projector(volume(), precision="float32", threads=1)
    values = np.random.default_rng(1).random((30, 32), np.float32)
    alone = projector.backproject(CARM, POSE, values)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda n: projector.backproject(CARM, POSE, n * values), [1.0, 2.0] * 100))
    for n, each in zip([1.0, 2.0] * 100, made, strict=True):
        assert np.allclose(each, n * alone, rtol=1e-5, atol=1e-5 * alone.max())
