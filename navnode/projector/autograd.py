"""Line integrals as functions that PyTorch differentiates, for losses and reconstructions of one's own.

:func:`line_integrals`: one CT by the C-arm's pose. :func:`views`: volumes of one grid by their voxels, and by the
poses; :func:`backprojection`: its adjoint, by the views.
The kernels' derivatives by the pose are those of a small motion. They become a gradient by the entries of the 4x4
matrix: the one whose product with any change that keeps the matrix rigid is the change of the loss. Other changes have
no meaning here. PyTorch is needed, and comes with the extras ``gpu``, ``train`` and ``bench``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from navnode.projector.native import Projector
from navnode.projector.transform import XrayTransform
from navnode.types import Array, CArm, FloatArray

__all__ = ["backprojection", "line_integrals", "views"]


def line_integrals(
    projector: Projector, carm: CArm, volume_from_carm: torch.Tensor, pixels: Array | None = None
) -> torch.Tensor:
    """Line integrals (dimensionless) that know their gradient by the pose; see :meth:`Projector.render`.

    Args:
        volume_from_carm: (4, 4), rigid, of any floating type and on any device.
        pixels: (N, 2) of (u, v) in px, or None for the whole detector.

    Raises:
        ComputeError: the pose contains NaN or infinity, or lies a kilometre away.

    Returns:
        (H, W) or (N,), of the pose's type and on its device.
    """
    integrals: torch.Tensor = _LineIntegrals.apply(volume_from_carm, projector, carm, pixels)
    return integrals


def views(
    transform: XrayTransform, attenuation_per_mm: torch.Tensor, volume_from_carm: torch.Tensor | None = None
) -> torch.Tensor:
    """Line integrals (dimensionless) that know their gradients by the volume and by the poses.

    Args:
        attenuation_per_mm: (..., k, j, i), 1/mm, of any floating type and on any device.
        volume_from_carm: (N, 4, 4), rigid; default: the transform's own, which have no gradient.

    Without poses it is differentiable as often as one likes; by poses, and with them, once.

    Raises:
        ValueError: the volumes are not on the transform's grid, or not of a floating type, or poses are not as many as
            its own.
        ComputeError: a pose contains NaN or infinity, or lies a kilometre away.

    Returns:
        (..., N, H, W), of the volumes' type and on their device.
    """
    _floating(attenuation_per_mm, "volumes")
    integrals: torch.Tensor
    if volume_from_carm is None:
        integrals = _Projection.apply(attenuation_per_mm, transform)
    else:
        posed = transform.at(volume_from_carm.detach().cpu().numpy())
        integrals = _PosedViews.apply(attenuation_per_mm, volume_from_carm, posed)
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
    volumes: torch.Tensor = _Backprojection.apply(line_integrals, transform)
    return volumes


class _LineIntegrals(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, volume_from_carm: torch.Tensor, projector: Projector, carm: CArm, pixels: Array | None
    ) -> torch.Tensor:
        pose = volume_from_carm.detach().cpu().numpy().astype(np.float64)
        if not ctx.needs_input_grad[0]:
            return volume_from_carm.new_tensor(projector.render(carm, pose, pixels))
        integrals, derivatives = projector.render(carm, pose, pixels, jacobian=True)
        ctx.save_for_backward(volume_from_carm, torch.from_numpy(derivatives))
        return volume_from_carm.new_tensor(integrals)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch need not be there where types are checked
    def backward(ctx: Any, by_integrals: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        volume_from_carm, derivatives = ctx.saved_tensors
        by_motion = (derivatives.double() * by_integrals.cpu().double()).flatten(1).sum(1)
        return _by_pose(by_motion[None], volume_from_carm[None])[0], None, None, None


class _Projection(torch.autograd.Function):
    """The transform itself. It and :class:`_Backprojection` are each other's derivative, as often as one likes."""

    @staticmethod
    def forward(ctx: Any, attenuation_per_mm: torch.Tensor, transform: XrayTransform) -> torch.Tensor:
        ctx.transform = transform
        return attenuation_per_mm.new_tensor(transform.forward(_array(attenuation_per_mm)))

    @staticmethod
    def backward(ctx: Any, by_integrals: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Backprojection.apply(by_integrals, ctx.transform), None


class _Backprojection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, line_integrals: torch.Tensor, transform: XrayTransform) -> torch.Tensor:
        ctx.transform = transform
        return line_integrals.new_tensor(transform.adjoint(_array(line_integrals)))

    @staticmethod
    def backward(ctx: Any, by_volumes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Projection.apply(by_volumes, ctx.transform), None


class _PosedViews(torch.autograd.Function):
    """Differentiable once: kernels know no second derivative by the pose."""

    @staticmethod
    def forward(
        ctx: Any, attenuation_per_mm: torch.Tensor, volume_from_carm: torch.Tensor, transform: XrayTransform
    ) -> torch.Tensor:
        volumes, shape = _array(attenuation_per_mm), transform.range_shape
        batch = volumes.shape[:-3]
        ctx.transform = transform
        if not ctx.needs_input_grad[1]:
            return attenuation_per_mm.new_tensor(transform.forward(volumes))
        integrals = np.empty((int(np.prod(batch)), *shape), np.float32)
        derivatives = np.empty((len(integrals), shape[0], 6, *shape[1:]), np.float32)
        for at, volume in enumerate(volumes.reshape(len(integrals), *transform.domain_shape)):
            integrals[at], derivatives[at] = transform.derivatives(volume)
        ctx.save_for_backward(volume_from_carm, torch.from_numpy(derivatives))
        return attenuation_per_mm.new_tensor(integrals).reshape(*batch, *shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch need not be there where types are checked
    def backward(ctx: Any, by_integrals: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        by_volume = by_pose = None
        if ctx.needs_input_grad[0]:
            by_volume = by_integrals.new_tensor(ctx.transform.adjoint(_array(by_integrals)))
        if ctx.needs_input_grad[1]:
            volume_from_carm, derivatives = ctx.saved_tensors  # (N, 4, 4), (B, N, 6, H, W)
            weights = by_integrals.cpu().double().reshape(len(derivatives), *ctx.transform.range_shape)
            by_pose = _by_pose(torch.einsum("bnkhw,bnhw->nk", derivatives.double(), weights), volume_from_carm)
        return by_volume, by_pose, None


def _array(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.detach().cpu().float().numpy()
    return array


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
