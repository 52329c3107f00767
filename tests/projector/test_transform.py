"""The X-ray transform: the projector's own integrals, an exact adjoint, and operators of other libraries."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navnode import geometry as g
from navnode.itk import itk_image, volume_of
from navnode.projector import Projector, XrayTransform
from navnode.projector.native import attenuation
from navnode.types import CArm
from tests.projector.test_projector import DIRECTIONS, pose

CARM = CArm(20, 16, (6.0, 6.5), 1020.0, (9.0, 8.2))
OTHER = CArm(20, 16, (5.0, 7.0), 900.0, (10.5, 6.0))
SHAPE, SPACINGS_MM = (9, 12, 10), (4.0, 3.0, 5.0)


def transform(*, carms: CArm | list[CArm] = CARM, views: int = 3, turned=(0.2, -0.3, 0.1)) -> XrayTransform:
    """Views from all round a small grid that stands obliquely."""
    grid = g.rigid(g.rotation_exp(np.array(turned)), (-15.0, -20.0, -18.0)) @ np.diag([*SPACINGS_MM, 1.0])
    poses = [
        g.pose_at(np.zeros(3), 700.0, orbital_deg=180.0 * n / views, angulation_deg=12.0 * n) for n in range(views)
    ]
    return XrayTransform(SHAPE, grid, carms, np.stack(poses), threads=2)


def random(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_it_is_what_the_projector_renders(blob):
    poses = np.stack([pose(blob, rotation) for rotation in DIRECTIONS.values()])
    projector = Projector(blob, precision="float32")
    made = XrayTransform(blob.voxels.shape, blob.volume_from_index, CARM, poses)
    found = made.forward(attenuation(blob.voxels))
    np.testing.assert_array_equal(found, [projector.render(CARM, at) for at in poses])


def test_every_view_may_have_a_carm_of_its_own():
    mixed, one, other = transform(carms=[CARM, OTHER, CARM]), transform(), transform(carms=OTHER)
    volume = random(SHAPE)
    np.testing.assert_array_equal(mixed.forward(volume)[1], other.forward(volume)[1])
    np.testing.assert_array_equal(mixed.forward(volume)[[0, 2]], one.forward(volume)[[0, 2]])


@settings(max_examples=25, deadline=None)
@given(
    turned=st.tuples(*[st.floats(-3, 3)] * 3),
    views=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_the_adjoint_is_the_transpose(turned, views, seed):
    """<A x, y> = <x, A^T y> for whatever grid; sums of some thousands of products in single precision."""
    made = transform(turned=turned, views=views)
    x, y = random(made.domain_shape, seed), random(made.range_shape, seed + 1)
    forward, back = (each.astype(np.float64) for each in (made.forward(x), made.adjoint(y)))
    scale = np.linalg.norm(forward) * np.linalg.norm(y) + 1e-9
    assert abs((forward * y).sum() - (x * back).sum()) < 1e-5 * scale


def test_volumes_and_views_come_in_batches():
    made, volumes = transform(), random((2, 3, *SHAPE))
    found = made.forward(volumes)
    assert found.shape == (2, 3, *made.range_shape)
    np.testing.assert_array_equal(found[1, 2], made.forward(volumes[1, 2]))
    back = made.adjoint(found)
    assert back.shape == volumes.shape
    np.testing.assert_allclose(back[0, 1], made.adjoint(found[0, 1]), rtol=1e-4, atol=1e-4 * np.abs(back).max())


def test_an_empty_batch_is_one_too():
    made = transform()
    assert made.forward(np.zeros((0, *SHAPE))).shape == (0, *made.range_shape)
    assert made.adjoint(np.zeros((2, 0, *made.range_shape))).shape == (2, 0, *SHAPE)


def test_poses_that_their_owner_changes_stay_what_they_were():
    made = transform()
    poses = made.volume_from_carm.copy()
    other, before = made.at(poses), made.forward(random(SHAPE))
    poses[:, :3, 3] += 30
    np.testing.assert_array_equal(other.forward(random(SHAPE)), before)
    with pytest.raises(ValueError, match="read-only"):
        made.volume_from_carm[0, 0, 3] = 1.0


def test_what_does_not_fit_is_refused():
    made = transform()
    with pytest.raises(ValueError, match="volumes must have the shape"):
        made.forward(random((9, 12, 11)))
    with pytest.raises(ValueError, match="views must have the shape"):
        made.adjoint(random((2, 16, 20)))
    with pytest.raises(ValueError, match="one volume at a time"):
        made.derivatives(random((2, *SHAPE)))
    with pytest.raises(ValueError, match="poses must have the shape"):
        made.at(made.volume_from_carm[:2])
    with pytest.raises(ValueError, match="need as many C-arms"):
        XrayTransform(SHAPE, np.eye(4), [CARM], made.volume_from_carm)
    with pytest.raises(ValueError, match="of one size"):
        XrayTransform(SHAPE, np.eye(4), [CARM, CARM, CARM.binned(2)], made.volume_from_carm)
    with pytest.raises(ValueError, match="must be real"):
        made.forward(random(SHAPE) * 1j)
    with pytest.raises(ValueError, match=r"\(N, 4, 4\)"):
        XrayTransform(SHAPE, np.eye(4), CARM, np.eye(4))


def test_scipys_solver_explains_the_views():
    """To the precision of the kernels, which a transpose that is not exact keeps it from."""
    linalg = pytest.importorskip("scipy.sparse.linalg")
    made = transform(views=9)
    true = np.abs(random(SHAPE))
    operator = made.linear_operator()
    seen = operator.matvec(true.ravel())
    found = linalg.lsqr(operator, seen, iter_lim=300, atol=1e-8, btol=1e-8)[0]
    assert np.linalg.norm(operator.matvec(found) - seen) < 1e-3 * np.linalg.norm(seen)
    assert np.linalg.norm(found - true.ravel()) < 0.5 * np.linalg.norm(true)


def test_a_simpleitk_image_and_back(blob):
    image = itk_image(blob)
    again = volume_of(image, "blob")
    np.testing.assert_allclose(again.volume_from_index, blob.volume_from_index, atol=1e-9)
    np.testing.assert_array_equal(again.voxels, blob.voxels)
    corner = image.TransformIndexToPhysicalPoint((0, 0, 0))
    np.testing.assert_allclose((-corner[0], -corner[1], corner[2]), again.volume_from_index[:3, 3], atol=1e-9)


def test_an_image_that_is_no_volume_is_refused():
    sitk = pytest.importorskip("SimpleITK")
    for image in (sitk.Image(4, 4, sitk.sitkFloat32), sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 2)):
        with pytest.raises(ValueError, match="three dimensions"):
            volume_of(image)


class Container:
    """What CIL's algorithms exchange, as far as an operator asks for it."""

    def __init__(self, shape):
        self._values = np.zeros(shape, np.float32)

    def as_array(self):
        return self._values

    def fill(self, values):
        self._values[...] = values


class Geometry:
    def __init__(self, *shape):
        self.shape = shape

    def allocate(self, _value=0):
        return Container(self.shape)


@pytest.fixture
def cil(monkeypatch):
    """CIL comes by conda alone: where it is missing, a base class that takes what its own takes."""
    if importlib.util.find_spec("cil") is None:
        base = type("LinearOperator", (), {"__init__": lambda self, domain_geometry, **given: None})
        for name in ("cil", "cil.optimisation"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, "cil.optimisation.operators", SimpleNamespace(LinearOperator=base))


@pytest.mark.usefixtures("cil")
def test_cils_algorithms_get_an_operator():
    from navnode.projector.adapters import cil_operator

    made = transform()
    operator = cil_operator(made, Geometry(*made.domain_shape), Geometry(*made.range_shape))
    volume, views, back = (Container(shape) for shape in (made.domain_shape, made.range_shape, made.domain_shape))
    volume.fill(random(SHAPE))
    np.testing.assert_array_equal(operator.direct(volume).as_array(), made.forward(volume.as_array()))
    assert operator.direct(volume, out=views) is views
    operator.adjoint(views, out=back)
    np.testing.assert_allclose(back.as_array(), made.adjoint(views.as_array()), rtol=1e-4, atol=1e-2)
    with pytest.raises(ValueError, match="has the shape"):
        cil_operator(made, Geometry(1, 2, 3), Geometry(*made.range_shape))


def test_deepinv_gets_a_physics():
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepinv")
    from navnode.projector.adapters import deepinv_physics

    made = transform(views=9)
    physics = deepinv_physics(made)
    true = torch.from_numpy(np.abs(random(SHAPE)))[None, None]
    assert abs(physics.adjointness_test(true)) < 1e-2 * float((physics.A(true) ** 2).sum())
    found = physics.A_dagger(physics(true), solver="lsqr", max_iter=300, tol=1e-6)
    assert float((physics.A(found) - physics.A(true)).norm()) < 1e-3 * float(physics.A(true).norm())
