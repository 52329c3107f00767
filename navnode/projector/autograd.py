"""Line integrals as a function that PyTorch differentiates by the C-arm's pose, for losses of one's own.

The kernels' derivatives are those of a small motion. They become a gradient by the entries of the 4x4 matrix: the one
whose product with any change that keeps the matrix rigid is the change of the loss. Other changes have no meaning here.
PyTorch is needed, and comes with the extras ``gpu``, ``train`` and ``bench``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from navnode.projector.native import Projector
from navnode.types import Array, CArm

__all__ = ["line_integrals"]


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
    def backward(ctx: Any, by_integrals: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        volume_from_carm, derivatives = ctx.saved_tensors
        by_motion = (derivatives.double() * by_integrals.cpu().double()).flatten(1).sum(1)
        x, y, z = by_motion[:3].tolist()
        # With R^T dR = skew(w), <R skew(g) / 2, dR> = <g, w>: what is antisymmetric counts each angle twice.
        turn = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64) / 2
        by_pose = torch.zeros(4, 4, dtype=torch.float64)
        rotation = volume_from_carm[:3, :3].detach().cpu().double()
        by_pose[:3, :3] = rotation @ turn
        by_pose[:3, 3] = rotation @ by_motion[3:]
        return by_pose.to(volume_from_carm), None, None, None
