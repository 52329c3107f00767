"""Line integrals as functions that PyTorch differentiates, for losses and reconstructions of one's own.

:func:`line_integrals`: one CT by the C-arm's pose. :func:`views`: volumes of one grid by their voxels, and by the
poses; :func:`backprojection`: its adjoint, by the views.
The kernels' derivatives by the pose are those of a small motion. They become a gradient by the entries of the 4x4
matrix: the one whose product with any change that keeps the matrix rigid is the change of the loss. Other changes have
no meaning here. PyTorch is needed, and comes with the extras ``gpu``, ``train`` and ``bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from navnode.projector.native import Projector
from navnode.projector.transform import XrayTransform
from navnode.types import Array, CArm, FloatArray, Matrix

__all__ = ["backprojection", "line_integrals", "views"]

Backward = TypeVar("Backward", bound=Callable[..., Any])
Map = Callable[[FloatArray], FloatArray]


def line_integrals(
    projector: Projector, carm: CArm, volume_from_carm: torch.Tensor, pixels: Array | None = None
) -> torch.Tensor:
    """Line integrals (dimensionless) that know their gradient by the pose; see :meth:`Projector.render`.

    Args:
        volume_from_carm: (4, 4), rigid, of any floating type and on any device.
        pixels: (N, 2) of (u, v) in px, or None for the whole detector.

    Raises:
        ValueError: the pose is not of a floating type.
        ComputeError: it is not rigid, contains NaN or infinity, or lies a kilometre away.

    Returns:
        (H, W) or (N,), of the pose's type and on its device.
    """
    _floating(volume_from_carm, "poses")
    integrals: torch.Tensor = _LineIntegrals.apply(volume_from_carm, projector, carm, pixels)
    return integrals


def views(
    transform: XrayTransform, attenuation_per_mm: torch.Tensor, volume_from_carm: torch.Tensor | None = None
) -> torch.Tensor:
    """Line integrals (dimensionless) that know their gradients by the volume, and by the poses.

    They are differentiable as often as one likes; where poses have a gradient, once.

    Args:
        attenuation_per_mm: (..., k, j, i), 1/mm, of any floating type and on any device.
        volume_from_carm: (N, 4, 4), rigid; default: the transform's own, which have no gradient.

    Raises:
        ValueError: the volumes are not on the transform's grid, or not of a floating type, or poses are not as many as
            its own.
        ComputeError: a pose contains NaN or infinity, or lies a kilometre away.

    Returns:
        (..., N, H, W), of the volumes' type and on their device.
    """
    _floating(attenuation_per_mm, "volumes")
    if volume_from_carm is not None:
        transform = transform.at(_pose_array(volume_from_carm))
    integrals: torch.Tensor
    if volume_from_carm is not None and volume_from_carm.requires_grad and torch.is_grad_enabled():
        integrals = _PosedViews.apply(attenuation_per_mm, volume_from_carm, transform)
    else:
        integrals = _Linear.apply(attenuation_per_mm, transform.forward, transform.adjoint)
    return integrals


def backprojection(transform: XrayTransform, line_integrals: torch.Tensor) -> torch.Tensor:
    """The adjoint of :func:`views` by the volume, which knows its gradient by the views, as often as one likes.

    Args:
        line_integrals: (..., N, H, W), dimensionless, of any floating type and on any device.

    Raises:
        ValueError: the views are not as many, or not as large, as those of the transform, or not of a floating type.

    Returns:
        (..., k, j, i), mm times what is given, of its type and on its device.
    """
    _floating(line_integrals, "views")
    volumes: torch.Tensor = _Linear.apply(line_integrals, transform.adjoint, transform.forward)
    return volumes


def _once(backward: Backward) -> Backward:
    """Let a second derivative be refused instead of wrong: kernels know none by the pose."""
    refusing: Backward = once_differentiable(backward)
    return refusing


class _LineIntegrals(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, volume_from_carm: torch.Tensor, projector: Projector, carm: CArm, pixels: Array | None
    ) -> torch.Tensor:
        pose = _pose_array(volume_from_carm)
        if not ctx.needs_input_grad[0]:
            return volume_from_carm.new_tensor(projector.render(carm, pose, pixels))
        integrals, derivatives = projector.render(carm, pose, pixels, jacobian=True)
        ctx.save_for_backward(volume_from_carm, torch.from_numpy(derivatives))
        return volume_from_carm.new_tensor(integrals)

    @staticmethod
    @_once
    def backward(ctx: Any, by_integrals: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        volume_from_carm, derivatives = ctx.saved_tensors
        by_motion = (derivatives.double() * by_integrals.cpu().double()).flatten(1).sum(1)
        return _by_pose(by_motion[None], volume_from_carm[None])[0], None, None, None


class _Linear(torch.autograd.Function):
    """A linear map, given with its adjoint: each is the other's derivative, as often as one likes."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, map_: Map, adjoint: Map) -> torch.Tensor:
        ctx.maps = map_, adjoint
        return values.new_tensor(map_(_array(values)))

    @staticmethod
    def backward(ctx: Any, by_mapped: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        map_, adjoint = ctx.maps
        return _Linear.apply(by_mapped, adjoint, map_), None, None


class _PosedViews(torch.autograd.Function):
    """Differentiable once: kernels know no second derivative by the pose."""

    @staticmethod
    def forward(
        ctx: Any, attenuation_per_mm: torch.Tensor, volume_from_carm: torch.Tensor, transform: XrayTransform
    ) -> torch.Tensor:
        volumes, shape = _array(attenuation_per_mm), transform.range_shape
        batch = volumes.shape[:-3]
        integrals = np.empty((int(np.prod(batch)), *shape), np.float32)
        derivatives = np.empty((len(integrals), shape[0], 6, *shape[1:]), np.float32)
        for at, volume in enumerate(volumes.reshape(len(integrals), *transform.domain_shape)):
            integrals[at], derivatives[at] = transform.derivatives(volume)
        ctx.transform = transform
        ctx.save_for_backward(volume_from_carm, torch.from_numpy(derivatives))
        return attenuation_per_mm.new_tensor(integrals).reshape(*batch, *shape)

    @staticmethod
    @_once
    def backward(ctx: Any, by_integrals: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, None]:
        by_volume = None
        if ctx.needs_input_grad[0]:
            by_volume = by_integrals.new_tensor(ctx.transform.adjoint(_array(by_integrals)))
        volume_from_carm, derivatives = ctx.saved_tensors  # (N, 4, 4), (B, N, 6, H, W)
        weights = by_integrals.cpu().double().reshape(len(derivatives), *ctx.transform.range_shape)
        by_motion = torch.einsum("bnkhw,bnhw->nk", derivatives.double(), weights)
        return by_volume, _by_pose(by_motion, volume_from_carm), None


def _array(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.detach().cpu().float().numpy()
    return array


def _pose_array(volume_from_carm: torch.Tensor) -> Matrix:
    poses: Matrix = volume_from_carm.detach().cpu().double().numpy()
    return poses


def _floating(values: torch.Tensor, what: str) -> None:
    if not values.is_floating_point():
        raise ValueError(f"{what} must be of a floating type, not {values.dtype}")


def _by_pose(by_motion: torch.Tensor, volume_from_carm: torch.Tensor) -> torch.Tensor:
    """The gradient by entries of poses (N, 4, 4), from that by small motions (N, 6) of the C-arm."""
    x, y, z = by_motion[:, :3].unbind(1)
    none = torch.zeros_like(x)
    # With R^T dR = skew(w), <R skew(g) / 2, dR> = <g, w>: what is antisymmetric counts each angle twice.
    turn = torch.stack([none, -z, y, z, none, -x, -y, x, none], 1).reshape(-1, 3, 3) / 2
    by_pose = torch.zeros(len(by_motion), 4, 4, dtype=torch.float64)
    rotation = volume_from_carm[:, :3, :3].detach().cpu().double()
    by_pose[:, :3, :3] = rotation @ turn
    by_pose[:, :3, 3] = (rotation @ by_motion[:, 3:, None])[..., 0]
    return by_pose.to(volume_from_carm)
