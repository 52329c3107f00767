import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from navnode import geometry as g
from navnode.types import CArm

angle = st.floats(-1.5, 1.5)
length = st.floats(-500, 500)
vectors = st.tuples(angle, angle, angle).map(np.array)
points = st.tuples(length, length, length).map(np.array)
motions = st.tuples(vectors, points).map(lambda pair: np.concatenate(pair))
transforms = motions.map(g.exp)

CARM = CArm(512, 512, (0.6, 0.5), 1000.0, (250.0, 260.0))


@given(transforms, transforms, points)
def test_transforms_form_a_group(a_from_b, b_from_c, p_c):
    assert np.allclose(g.transform(a_from_b @ b_from_c, p_c), g.transform(a_from_b, g.transform(b_from_c, p_c)))
    assert np.allclose(g.inverse(a_from_b) @ a_from_b, np.eye(4), atol=1e-9)
    assert g.is_rigid(a_from_b @ b_from_c)


@given(motions, points)
def test_log_inverts_exp(xi, pivot):
    assert np.allclose(g.log(g.exp(xi, pivot), pivot), xi, atol=1e-6)


@given(vectors, points)
def test_a_pivot_stays_where_it_is(rotation, pivot):
    turned = g.exp(np.concatenate([rotation, np.zeros(3)]), pivot)
    assert np.allclose(g.transform(turned, pivot), pivot, atol=1e-6)


@given(transforms, transforms, motions, points, points)
def test_a_perturbation_carried_through_a_step_moves_the_product_alike(a_from_b, b_from_c, xi, pivot_b, pivot_c):
    small = 1e-6 * xi
    moved = a_from_b @ g.exp(small, pivot_b) @ b_from_c
    through = g.perturbation_through(b_from_c, pivot_b, pivot_c)
    expected = a_from_b @ b_from_c @ g.exp(through @ small, pivot_c)
    assert np.allclose(moved, expected, atol=1e-7)


@given(transforms, transforms, st.floats(0, 1))
def test_interpolation_meets_its_ends_and_turns_steadily(at_0, at_1, fraction):
    assert np.allclose(g.interpolate(at_0, at_1, 0.0), at_0, atol=1e-9)
    assert np.allclose(g.interpolate(at_0, at_1, 1.0), at_1, atol=1e-6)
    whole = np.linalg.norm(g.rotation_log(at_0[:3, :3].T @ at_1[:3, :3]))
    part = np.linalg.norm(g.rotation_log(at_0[:3, :3].T @ g.interpolate(at_0, at_1, fraction)[:3, :3]))
    assert np.isclose(part, fraction * whole, atol=1e-6)


def test_what_is_not_rigid():
    scaled, mirrored, sheared, bad_row, not_a_number = (np.eye(4) for _ in range(5))
    scaled[0, 0] = 1.01
    mirrored[2, 2] = -1
    sheared[0, 1] = 0.1
    bad_row[3, 0] = 0.1
    not_a_number[1, 3] = np.nan
    for matrix in (scaled, mirrored, sheared, bad_row, not_a_number, np.zeros((4, 4)), np.eye(3)):
        assert not g.is_rigid(matrix)
    assert g.is_rigid(np.eye(4, dtype=np.float32))


def test_projection_is_the_interface_formula():
    u, v = g.project(CARM, np.eye(4), np.array([12.0, -7.0, 400.0]))
    assert np.isclose(u, 250 + 12 / 400 * 1000 / 0.6)
    assert np.isclose(v, 260 - 7 / 400 * 1000 / 0.5)
    assert np.isnan(g.project(CARM, np.eye(4), np.array([0.0, 0.0, -5.0]))).all()


@given(points)
def test_binned_pixels_cover_the_same_detector(point):
    point = np.array([point[0] / 10, point[1] / 10, 600.0])
    fine, coarse = g.project(CARM, np.eye(4), point), g.project(CARM.binned(4), np.eye(4), point)
    assert np.allclose(coarse, (fine - 1.5) / 4)


@given(transforms, st.floats(0, 2e-4), st.integers(0, 2**32 - 1))
def test_the_nearest_rigid_transform_is_that_of_the_singular_value_decomposition(a_from_b, error, seed):
    nearly = a_from_b.copy()
    nearly[:3, :3] += error * np.random.default_rng(seed).uniform(-1, 1, (3, 3))
    u, _, vt = np.linalg.svd(nearly[:3, :3])
    nearest = g.nearest_rigid(nearly)
    assert np.allclose(nearest, g.rigid(u @ vt, nearly[:3, 3]), rtol=0, atol=1e-12)
    assert np.abs(nearest[:3, :3].T @ nearest[:3, :3] - np.eye(3)).max() < 1e-14


def test_far_from_rigid_still_has_a_nearest_rotation():
    stretched = np.diag([1.2, 0.9, 1.1, 1.0])
    assert g.nearest_rigid(stretched) is None
    assert np.allclose(g.orthonormal(stretched), np.eye(4))


@given(transforms, transforms, transforms, transforms)
def test_carrying_is_the_product(a_from_b, c_from_b, c_from_d, d_from_e):
    product = a_from_b @ np.linalg.inv(c_from_b) @ c_from_d @ d_from_e
    assert np.allclose(g.carry(a_from_b, c_from_b, c_from_d, d_from_e), product, atol=1e-9)


def test_carrying_reads_no_further_than_its_matrices():
    with np.testing.assert_raises(ValueError):
        g.carry(np.eye(4), np.eye(3), np.eye(4), np.eye(4))
    halves = g.carry(np.eye(4), np.eye(4), g.rigid(None, (0.5, 2.5, 0)).astype(np.float32), np.eye(4)[::-1][::-1])
    assert halves[:3, 3].tolist() == [0.5, 2.5, 0.0]
