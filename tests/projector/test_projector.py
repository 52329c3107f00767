"""The native projector against the reference, in every direction and on every instruction set."""

import numpy as np
import pytest

from navnode import geometry as g
from navnode import native
from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.projector.reference import render as reference
from navnode.types import CArm, Volume

CARM = CArm(40, 32, (3.0, 3.4), 1020.0, (18.5, 16.0))
# Towards +k, -k, +i, +j of the volume and obliquely; the volume itself stands obliquely in space.
DIRECTIONS = {
    "along k": (0.0, 0.0, 0.0),
    "against k": (3.1, 0.0, 0.1),
    "along i": (0.0, 1.57, 0.0),
    "along j": (1.57, 0.0, 0.0),
    "oblique": (0.6, 0.7, 0.1),
    "diagonal": (-0.8, 0.6, 0.9),
}


def pose(blob: Volume, rotation) -> np.ndarray:
    turn = g.rigid(g.rotation_exp(np.array(rotation)), blob.center_mm)
    return turn @ g.rigid(None, (3.0, -4.0, -700.0))


def cubes(blob: Volume) -> Volume:
    """The same, of cubic voxels and along the axes."""
    return Volume(blob.voxels, np.diag([1.5, 1.5, 1.5, 1.0]), "blob")


@pytest.fixture(scope="module")
def references(blob):
    return {name: reference(blob, CARM, pose(blob, rotation), 0.25) for name, rotation in DIRECTIONS.items()}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
@pytest.mark.parametrize("precision", ["int16", "float32"])
def test_line_integrals(blob, references, direction, instruction_set, precision):
    projector = Projector(blob, precision=precision, instruction_set=instruction_set)
    image = projector.render(CARM, pose(blob, DIRECTIONS[direction]))
    expected = references[direction]
    # Joseph samples once per slice, the reference every 0.25 mm: they differ by the texture between slices.
    assert np.linalg.norm(image - expected) < 2.5e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ["int16", "float32"])
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
def test_steep_rays_are_as_exact_as_others(blob, precision, instruction_set):
    """Along a space diagonal, a sample per slice alone errs by more than along an axis; see rays.cpp."""
    volume = cubes(blob)
    towards = np.cross([0, 0, 1], np.ones(3) / np.sqrt(3))
    turn = g.rotation_exp(towards / np.linalg.norm(towards) * np.arccos(1 / np.sqrt(3)))
    at = g.rigid(turn, volume.center_mm) @ g.rigid(None, (0.0, 0.0, -700.0))
    expected = reference(volume, CARM, at, 0.1)
    image = Projector(volume, precision=precision, instruction_set=instruction_set).render(CARM, at)
    assert np.linalg.norm(image - expected) < 8e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("instruction_set", native.instruction_sets())
def test_derivatives_are_those_of_the_image(blob, direction, instruction_set):
    projector = Projector(blob, precision="float32", instruction_set=instruction_set)
    at, pivot = pose(blob, DIRECTIONS[direction]), (0.0, 0.0, 700.0)
    image, jacobian = projector.render(CARM, at, jacobian=True, pivot_mm=700.0)
    assert np.allclose(image, projector.render(CARM, at), atol=1e-6)
    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 2e-4 if axis < 3 else 2e-2
        ahead = projector.render(CARM, at @ g.exp(step, pivot)).astype(np.float64)
        behind = projector.render(CARM, at @ g.exp(-step, pivot)).astype(np.float64)
        numeric = (ahead - behind) / (2 * step[axis])
        # Bilinear interpolation has kinks at voxel borders, which a finite step crosses.
        assert np.linalg.norm(numeric - jacobian[axis]) < 0.05 * np.linalg.norm(numeric)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_backprojection_is_the_adjoint(blob, direction):
    rng = np.random.default_rng(1)
    projector = Projector(blob, precision="float32")
    at = pose(blob, DIRECTIONS[direction])
    values = rng.normal(size=(CARM.height_px, CARM.width_px)).astype(np.float32)
    forward = float((projector.render(CARM, at).astype(np.float64) * values).sum())
    back = projector.backproject(CARM, at, values).astype(np.float64)
    adjoint = float((back * projector.attenuation_per_mm).sum())
    scale = np.linalg.norm(projector.render(CARM, at)) * np.linalg.norm(values)
    assert abs(forward - adjoint) < 1e-5 * scale


@pytest.mark.parametrize("threads", [1, 3])
def test_corrections_are_the_adjoint_scaled_and_bounded(blob, threads):
    rng = np.random.default_rng(2)
    projector, at = Projector(blob, precision="float32", threads=threads), pose(blob, DIRECTIONS["oblique"])
    values = rng.normal(size=(CARM.height_px, CARM.width_px)).astype(np.float32)
    gain = rng.uniform(0, 1, blob.voxels.shape).astype(np.float32)
    before, back = projector.attenuation_per_mm.copy(), projector.backproject(CARM, at, values)
    for _ in range(2):  # what the first left behind must not come again
        projector.attenuation_per_mm[:] = before
        projector.correct(CARM, at, values, gain, 0.01, 0.002)
        assert np.allclose(projector.attenuation_per_mm, np.maximum(before + 0.01 * gain * back, 0.002), atol=1e-6)
    assert np.allclose(projector.backproject(CARM, at, values), back, atol=1e-4)
    with pytest.raises(ValueError, match="contiguous float32"):
        projector.correct(CARM, at, values, gain[1:], 0.01, 0.0)


@pytest.mark.parametrize("threads", [1, 3])
def test_scaling_is_by_the_adjoint_over_its_weight_and_bounded(blob, threads):
    rng = np.random.default_rng(3)
    projector, at = Projector(blob, precision="float32", threads=threads), pose(blob, DIRECTIONS["oblique"])
    ratio = rng.uniform(0, 3, (CARM.height_px, CARM.width_px)).astype(np.float32)
    weight = np.ascontiguousarray(projector.backproject(CARM, at, np.ones_like(ratio)))
    before, back = rng.uniform(0, 1, weight.shape).astype(np.float32), projector.backproject(CARM, at, ratio)
    least = float(np.median(weight))
    seen = weight > least
    expected = np.minimum(before * np.where(seen, back / np.maximum(weight, 1e-6), 1), 0.9)
    for _ in range(2):
        projector.attenuation_per_mm[:] = before
        projector.scale(CARM, at, ratio, weight, least, 0.9)
        assert np.allclose(projector.attenuation_per_mm, expected, atol=1e-5)
    assert (expected != before)[~seen].mean() < 0.2 < (expected != before)[seen].mean()
    with pytest.raises(ValueError, match="contiguous float32"):
        projector.scale(CARM, at, ratio, weight[:, ::2], least, 1.0)


def test_pixels_one_by_one_are_the_image(blob):
    projector = Projector(blob)
    at = pose(blob, (0.6, 0.7, 0.1))
    image = projector.render(CARM, at)
    pixels = np.array([[3, 5], [20, 16], [39, 31], [0, 0], [11, 29]])
    assert np.allclose(projector.render(CARM, at, pixels), image[pixels[:, 1], pixels[:, 0]], rtol=2e-3, atol=1e-4)


def test_threads_do_not_change_a_bit(blob):
    at = pose(blob, (0.6, 0.7, 0.1))
    one, two = (Projector(blob, threads=n).render(CARM, at) for n in (1, 2))
    assert np.array_equal(one, two)


def test_rays_that_miss_see_nothing(blob):
    projector = Projector(blob)
    away = pose(blob, (0.0, 0.0, 0.0)) @ g.rigid(g.rotation_exp(np.array([0.0, np.pi, 0.0])))
    image, jacobian = projector.render(CARM, away, jacobian=True)
    assert not image.any() and not jacobian.any()


def test_a_source_inside_sees_only_what_is_ahead(blob):
    projector = Projector(blob)
    ahead = g.rigid(None, blob.center_mm)
    behind = ahead @ g.rigid(g.rotation_exp(np.array([np.pi, 0.0, 0.0])))
    through = g.rigid(None, blob.center_mm) @ g.rigid(None, (0.0, 0.0, -700.0))
    pixel = np.array([[18.5, 16.0]])
    both = sum(float(projector.render(CARM, at, pixel)[0]) for at in (ahead, behind))
    assert both == pytest.approx(float(projector.render(CARM, through, pixel)[0]), rel=0.03)


def test_wrong_pixels_are_refused(blob):
    with pytest.raises(ValueError, match="shape"):
        Projector(blob).render(CARM, np.eye(4), np.zeros((3, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, -3.697314e28])
def test_poses_that_are_none_are_refused(blob, value):
    at = pose(blob, (0.0, 0.0, 0.0))
    at[1, 3] = value
    with pytest.raises(ComputeError):
        Projector(blob).render(CARM, at)


def test_rays_parallel_to_a_slab_they_miss(blob):
    axes = blob.volume_from_index[:3, :3] / np.linalg.norm(blob.volume_from_index[:3, :3], axis=0)
    for side, along in ((0, 2), (1, 2), (2, 0)):
        at = np.eye(4)
        turn = np.stack([axes[:, side], axes[:, 3 - side - along], axes[:, along]], axis=1)
        at[:3, :3] = turn * np.sign(np.linalg.det(turn))
        for offset in (0.0, 1e-5, 300.0):
            at[:3, 3] = blob.center_mm + 300 * axes[:, side] - 500 * axes[:, along] + offset * axes[:, side]
            for precision in ("int16", "float32"):
                image, jacobian = Projector(blob, precision=precision).render(CARM, at, jacobian=True)
                assert np.isfinite(image).all() and np.isfinite(jacobian).all()


@pytest.mark.parametrize("direction", ["along i", "along j", "along k"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (16, 8), (17, 9), (130, 67), (40, 33)])
def test_whole_images_are_their_pixels(blob, size, direction):
    """Images are worked on in tiles, along rows or columns; what does not fill one must still be right, and in its
    place. Along axes, no block of rays meets a change of the dominant axis, which it has in common."""
    volume = cubes(blob)
    width, height = size
    carm = CArm(width, height, (120 / width, 110 / height), 1020.0, (width / 2 - 0.5, height / 2 - 0.5))
    projector, at = Projector(volume, precision="float32", threads=3), pose(volume, DIRECTIONS[direction])
    image, derivatives = projector.render(carm, at, jacobian=True, pivot_mm=700.0)
    v, u = np.mgrid[:height, :width]
    one_by_one = [
        projector.render(carm, at, np.array([[x, y]]), jacobian=True, pivot_mm=700.0)
        for x, y in zip(u.ravel(), v.ravel(), strict=True)
    ]
    assert np.allclose(image.ravel(), [value[0] for value, _ in one_by_one], rtol=1e-5, atol=1e-5)
    alone = np.stack([jacobian[:, 0] for _, jacobian in one_by_one], axis=1).reshape(derivatives.shape)
    assert np.linalg.norm(derivatives - alone) < 1e-3 * np.linalg.norm(alone) + 1e-6


@pytest.mark.long
def test_it_agrees_with_rtk(blob):
    """The same method by others: equal but for rays whose dominant axis is their block's here and their own there."""
    rtk = pytest.importorskip("navnode.bench.rtk")
    if not rtk.available():
        pytest.skip("itk-rtk (the extra 'bench') is not installed")
    ours, theirs = Projector(blob, precision="float32"), rtk.RtkProjector(blob, 1)
    for name, rotation in DIRECTIONS.items():
        at = pose(blob, rotation)
        expected = theirs.render(CARM, at)
        tolerance = 2e-3 if name in ("oblique", "diagonal") else 5e-4
        assert np.linalg.norm(ours.render(CARM, at) - expected) < tolerance * np.linalg.norm(expected), name


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nanodrr_agrees(direction):
    """Sums of trilinear samples against Joseph's sums of bilinear ones: equal up to the curvature between slices.

    Derivatives of both have kinks at voxel borders, in other places: a smooth volume keeps them small, not away.
    They are taken about the source, where rotations move most.
    """
    pytest.importorskip("nanodrr", reason="nanodrr (the extra 'bench' or 'gpu') is not installed")
    k, j, i = np.mgrid[:24, :28, :26]
    bump = np.exp(-((k - 12) ** 2 + (j - 14) ** 2 + 1.3 * (i - 12) ** 2) / 50.0)
    index = g.rigid(g.rotation_exp(np.array([0.1, -0.2, 0.3]))) @ np.diag([4.0, 4.0, 4.0, 1.0])
    smooth = Volume((2000 * bump - 1000).astype(np.float32), index)
    native_one, other = Projector(smooth, precision="float32"), Projector(smooth, backend="nanodrr")
    at = pose(smooth, DIRECTIONS[direction])
    image, derivatives = native_one.render(CARM, at, jacobian=True)
    expected, by_gradient = other.render(CARM, at, jacobian=True)
    assert np.linalg.norm(image - expected) < 4e-3 * np.linalg.norm(expected)
    for ours, theirs in zip(derivatives, by_gradient, strict=True):
        assert np.linalg.norm(ours - theirs) < 0.2 * np.linalg.norm(theirs)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98
    few = np.array([[3.0, 5.0], [20.5, 11.25]])
    assert np.allclose(other.render(CARM, at, few), native_one.render(CARM, at, few), atol=2e-3)


def test_an_unknown_way_of_back_projecting_is_refused(blob):
    with pytest.raises(ValueError, match="float32"):
        Projector(blob).backproject(CARM, pose(blob, (0, 0, 0)), np.zeros((32, 40), np.float32))
