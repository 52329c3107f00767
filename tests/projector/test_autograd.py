"""PyTorch's gradient by the pose is the kernels', and a loss of one's own finds a pose by it."""

import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import Projector, XrayTransform
from navnode.types import CArm
from tests.projector.test_projector import DIRECTIONS, pose

torch = pytest.importorskip("torch")

CARM = CArm(24, 20, (5.0, 5.4), 1020.0, (11.5, 9.5))


def moved(at: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """``at`` after a motion (3 angles in rad, then 3 lengths in mm) of the C-arm, differentiable."""
    x, y, z, *lengths = motion.unbind()
    none = torch.zeros_like(x)
    twist = torch.stack([none, -z, y, lengths[0], z, none, -x, lengths[1], -y, x, none, lengths[2], *[none] * 4])
    return at @ torch.linalg.matrix_exp(twist.reshape(4, 4))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_gradient_is_that_of_finite_differences(blob, direction):
    """Kernels are of single precision: steps are as large as the image is still nearly straight over them."""
    from navnode.projector.autograd import line_integrals

    projector = Projector(blob, precision="float32")
    at = torch.from_numpy(pose(blob, DIRECTIONS[direction]))
    v, u = np.mgrid[-1:1:20j, -1:1:24j]
    weights = torch.from_numpy(1 + 3 * u - 2 * v + 4 * u * v)
    unit = torch.tensor([1e-3] * 3 + [1.0] * 3, dtype=torch.float64)  # a milliradian, as seen from 700 mm, and a mm

    def loss(steps):
        return (weights * line_integrals(projector, CARM, moved(at, steps * unit))).sum()

    start = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(start), start)
    steps = 0.2 * torch.eye(6, dtype=torch.float64)
    expected = torch.stack([(loss(step) - loss(-step)) / 0.4 for step in steps])
    largest = float(expected.abs().max())
    assert largest > 0.3
    torch.testing.assert_close(gradient, expected, rtol=0.03, atol=0.02 * largest)


def test_some_pixels_and_single_precision(blob):
    from navnode.projector.autograd import line_integrals

    projector = Projector(blob)
    at = pose(blob, DIRECTIONS["oblique"])
    pixels = np.array([[11.0, 9.0], [12.5, 10.0], [3.0, 15.0]])
    tensor = torch.from_numpy(at.astype(np.float32)).requires_grad_()
    integrals = line_integrals(projector, CARM, tensor, pixels)
    assert integrals.dtype == torch.float32 and integrals.shape == (3,)
    np.testing.assert_allclose(integrals.detach(), projector.render(CARM, at.astype(np.float32), pixels), rtol=1e-6)
    integrals.sum().backward()
    assert tensor.grad.shape == (4, 4) and not tensor.grad[3].any() and tensor.grad.any()


def test_nothing_is_kept_where_no_gradient_is_asked_for(blob):
    from navnode.projector.autograd import line_integrals

    at = torch.from_numpy(pose(blob, DIRECTIONS["along k"]))
    assert not line_integrals(Projector(blob), CARM, at).requires_grad


def test_a_loss_of_ones_own_finds_the_pose(blob):
    """Squared differences, stepped down with PyTorch's own optimiser."""
    from navnode.projector.autograd import line_integrals

    projector = Projector(blob, precision="float32")
    true = torch.from_numpy(pose(blob, DIRECTIONS["oblique"]))
    target = line_integrals(projector, CARM, true)
    unit = torch.tensor([1e-2] * 3 + [10.0] * 3, dtype=torch.float64)
    start = moved(true, torch.tensor([0.01, -0.01, 0.02, 4.0, -3.0, 5.0], dtype=torch.float64))
    steps = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([steps], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = ((line_integrals(projector, CARM, moved(start, steps * unit)) - target) ** 2).sum()
        loss.backward()
        return loss

    before = float(closure().detach())
    optimiser.step(closure)
    found = moved(start, (steps * unit).detach())
    apart = np.linalg.inv(true.numpy()) @ found.numpy()
    assert float(closure().detach()) < 1e-3 * before
    assert np.linalg.norm(apart[:2, 3]) < 1.0 and np.linalg.norm(g.rotation_log(apart[:3, :3])) < 0.01


@pytest.fixture
def transform():
    """Three views of a small grid that stands obliquely."""
    grid = g.rigid(g.rotation_exp(np.array([0.2, -0.3, 0.1])), (-15.0, -20.0, -18.0)) @ np.diag([4.0, 3.0, 5.0, 1.0])
    poses = np.stack([g.pose_at(np.zeros(3), 700.0, orbital_deg=50.0 * n, angulation_deg=9.0 * n) for n in range(3)])
    return XrayTransform((7, 9, 8), grid, CArm(10, 8, (9.0, 9.5), 1020.0, (4.0, 3.6)), poses)


@pytest.fixture
def smooth():
    """A volume (k, j, i) without steps, over which the image is nearly straight."""
    k, j, i = np.mgrid[-1:1:7j, -1:1:9j, -1:1:8j]
    return torch.from_numpy(0.01 * (1 - k**2) * (1 - j**2) * (1 - i**2) * (1.5 + i - 0.5 * j))


def test_volumes_and_views_have_the_gradients_of_finite_differences(transform, smooth):
    """Both maps are linear: steps may be large, which single precision needs."""
    from navnode.projector.autograd import backprojection, views

    volumes = torch.stack([smooth, 2 * smooth.flip(0)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: views(transform, x), volumes, eps=0.1, atol=1e-3, rtol=1e-3)
    measured = views(transform, smooth).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: backprojection(transform, y), measured, eps=0.1, atol=1e-3, rtol=1e-3)


def test_poses_have_the_gradient_of_finite_differences(transform, smooth):
    from navnode.projector.autograd import views

    start = torch.from_numpy(transform.volume_from_carm.copy())
    unit = torch.tensor([1e-3] * 3 + [1.0] * 3, dtype=torch.float64)

    def seen(steps):
        poses = torch.stack([moved(at, step * unit) for at, step in zip(start, steps, strict=True)])
        return views(transform, smooth, poses)

    steps = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    largest = float(torch.autograd.functional.jacobian(seen, steps).abs().max())
    assert torch.autograd.gradcheck(seen, steps, eps=0.02, atol=0.03 * largest, rtol=0.03)


def test_volumes_have_second_derivatives_and_poses_refuse_theirs(transform, smooth):
    """Of half the squared views, the second derivative by the volume is the adjoint of the views."""
    from navnode.projector.autograd import backprojection, views

    way = torch.ones_like(smooth)
    _, found = torch.autograd.functional.hvp(lambda x: views(transform, x).square().sum() / 2, smooth, way)
    torch.testing.assert_close(found, backprojection(transform, views(transform, way)), rtol=1e-5, atol=1e-4)
    poses = torch.from_numpy(transform.volume_from_carm.copy()).requires_grad_()
    (once,) = torch.autograd.grad(views(transform, smooth, poses).square().sum(), poses, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_and_empty_batches(transform, smooth, dtype):
    from navnode.projector.autograd import backprojection, views

    seen = views(transform, smooth.to(dtype))
    assert seen.dtype == dtype
    torch.testing.assert_close(seen.double(), views(transform, smooth), rtol=0.02, atol=0.02)
    assert backprojection(transform, seen).dtype == dtype
    poses = torch.from_numpy(transform.volume_from_carm.copy()).requires_grad_()
    rough = views(transform, smooth, poses.detach().to(dtype))  # half a millimetre off in bfloat16, or several
    assert rough.shape == seen.shape and not rough.requires_grad
    none = views(transform, smooth.to(dtype).expand(0, *smooth.shape), poses)
    assert none.shape == (0, *transform.range_shape)
    with pytest.raises(ValueError, match="floating type"):
        views(transform, smooth.int())
    with pytest.raises(ValueError, match="floating type"):
        backprojection(transform, seen.int())


def test_both_gradients_at_once_are_those_of_each(transform, smooth):
    from navnode.projector.autograd import views

    volumes = torch.stack([smooth, 2 * smooth.flip(0)]).requires_grad_()
    poses = torch.from_numpy(transform.volume_from_carm.copy()).requires_grad_()
    loss = views(transform, volumes, poses).square().sum()
    both = torch.autograd.grad(loss, (volumes, poses))
    alone = torch.autograd.grad(views(transform, volumes).square().sum(), volumes)
    torch.testing.assert_close(both[0], alone[0])
    each = [
        torch.autograd.grad(views(transform, volume.detach(), poses).square().sum(), poses)[0] for volume in volumes
    ]
    torch.testing.assert_close(both[1], each[0] + each[1], rtol=1e-4, atol=1e-4 * float(both[1].abs().max()))


def test_a_volume_is_found_with_pytorchs_optimiser(transform, smooth):
    from navnode.projector.autograd import views

    target = views(transform, smooth)
    found = torch.zeros_like(smooth, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], lr=1.0, max_iter=80, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = ((views(transform, found) - target) ** 2).sum()
        loss.backward()
        return loss

    before = float(closure().detach())
    optimiser.step(closure)
    assert float(closure().detach()) < 1e-4 * before
