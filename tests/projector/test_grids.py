"""Volumes on other grids throw the same shadows, and lie where they lay."""

import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import Projector
from navnode.projector.grids import averaged, body, coarsened, resample, thumbnail
from navnode.types import CArm, Volume
from tests.projector.test_projector import DIRECTIONS, pose

CARM = CArm(24, 20, (5.0, 5.4), 1020.0, (11.5, 9.5))


def in_air(blob: Volume, before: int, after: int, noise: float = 0.0) -> Volume:
    """The blob with air around it, whose noise has standard deviation ``noise``, HU."""
    voxels = np.pad(blob.voxels, [(before, after)] * 3, constant_values=-1000.0)
    air = voxels <= -1000
    voxels[air] += np.random.default_rng(0).normal(0, noise, np.count_nonzero(air)).astype(np.float32)
    moved = np.eye(4)
    moved[:3, 3] = -before
    return Volume(voxels, blob.volume_from_index @ moved, "blob in air")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("spacing_mm", [2.1, 2.6, 3.0])
def test_averages_throw_the_same_shadows(blob, direction, spacing_mm):
    """But for detail; a volume that moved by a quarter of a voxel would differ by more."""
    fine = Projector(blob).render(CARM, pose(blob, DIRECTIONS[direction]))
    made = averaged(blob, spacing_mm)
    assert made.voxels.shape < blob.voxels.shape
    coarse = Projector(made).render(CARM, pose(blob, DIRECTIONS[direction]))
    off = np.linalg.norm(coarse - fine)
    assert off < 0.03 * np.linalg.norm(fine)
    for axis in range(3):
        moved = g.rigid(None, np.eye(3)[axis] * spacing_mm / 4) @ made.volume_from_index
        elsewhere = Projector(Volume(made.voxels, moved)).render(CARM, pose(blob, DIRECTIONS[direction]))
        assert np.linalg.norm(elsewhere - fine) > 0.7 * off


def test_averages_cover_the_same_space_and_keep_the_mean(blob):
    made = averaged(blob, 2.3)
    extent, own = (np.array(each.voxels.shape[::-1]) * each.spacing_mm for each in (made, blob))
    np.testing.assert_allclose(extent, own, rtol=1e-12)
    np.testing.assert_allclose(made.center_mm, blob.center_mm, atol=1e-9)
    assert made.voxels.mean() == pytest.approx(np.maximum(blob.voxels, -1000).mean(), abs=0.5)


def test_larger_voxels_stay_as_they_are(blob):
    assert averaged(blob, 0.5) is blob


def test_whole_factors_are_those_of_coarsened():
    voxels = np.random.default_rng(0).uniform(-1000, 1000, (8, 12, 10)).astype(np.float32)
    volume = Volume(voxels, np.diag([1.0, 1.0, 1.0, 1.0]))
    one, other = averaged(volume, 2.0), coarsened(volume, 2.0)
    np.testing.assert_allclose(one.voxels, other.voxels, atol=1e-3)
    np.testing.assert_allclose(one.volume_from_index, other.volume_from_index, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_air_around_a_body_throws_the_same_shadow(blob, direction):
    wide = in_air(blob, 9, 14)
    found = body(wide)
    assert np.prod(found.voxels.shape) < 0.6 * np.prod(wide.voxels.shape)
    at = pose(blob, DIRECTIONS[direction])
    images = [Projector(each, precision="float32").render(CARM, at) for each in (found, wide)]
    np.testing.assert_allclose(images[0], images[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("slices", "hu"), [(1, 0.0), (3, -800.0), (20, 40.0)])
def test_thin_slabs_are_kept_whole(slices, hu):
    """Also thinner than a block, and with dense bone in their middle."""
    voxels = np.full((slices, 120, 120), hu, np.float32)
    voxels[:, 50:70, 50:70] = 1000
    slab = Volume(voxels, np.diag([0.4, 0.4, 0.4, 1.0]))
    assert body(slab).voxels.shape == voxels.shape


@pytest.mark.parametrize("at", [(40, 40, 40), (43, 41, 47), (16, 60, 5)])
def test_small_dense_things_are_kept_wherever_they_lie(at):
    """A bead of 2 mm, which a block's mean does not show."""
    voxels = np.full((80, 80, 80), -1000.0, np.float32)
    k, j, i = np.mgrid[:80, :80, :80]
    voxels[(k - at[0]) ** 2 + (j - at[1]) ** 2 + (i - at[2]) ** 2 <= 2] = 3000
    found = body(Volume(voxels, np.diag([0.7, 0.7, 0.7, 1.0])))
    assert (found.voxels > 0).sum() == (voxels > 0).sum() and found.voxels.size < voxels.size / 4


def test_noise_in_air_is_no_body_and_lungs_are(blob):
    bare = body(in_air(blob, 20, 20))
    assert body(in_air(blob, 20, 20, noise=50.0)).voxels.shape == bare.voxels.shape
    lungs = in_air(blob, 20, 20)
    lungs.voxels[:, :, :10] = -870.0  # emphysema still is more
    assert body(lungs).voxels.shape[2] > bare.voxels.shape[2]


def test_air_alone_stays(blob):
    air = Volume(np.full((20, 20, 20), -1000.0, np.float32), np.eye(4))
    assert body(air) is air


def test_a_thumbnail_is_what_resampling_gives():
    """On the same grid; averages of blocks and a Gaussian differ where a ball ends."""
    k, j, i = np.indices((40, 50, 61))
    ball = np.hypot(np.hypot(k - 20, j - 24), i - 31) * 0.8 < 12
    fine = Volume(np.where(ball, 300.0, -100.0).astype(np.float32), np.diag([0.8, -0.8, 0.8, 1.0]))
    small, expected = thumbnail(fine, 2.5), resample(fine, 2.5)
    assert small.voxels.shape == expected.voxels.shape
    np.testing.assert_array_equal(small.volume_from_index, expected.volume_from_index)
    inner = (slice(1, -1),) * 3
    assert np.abs(small.voxels[inner] - expected.voxels[inner]).max() < 60
    assert abs((small.voxels[inner] - expected.voxels[inner]).mean()) < 1
    assert thumbnail(expected, 2.5).voxels.shape == expected.voxels.shape, "what is coarse is left as it is"
