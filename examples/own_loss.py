"""Registration with a loss of one's own, in PyTorch: the projector's pose derivatives make it differentiable.

navnode sample tryout
pip install 'navnode[train]'
python examples/own_loss.py tryout/ct.nii.gz tryout/views.json

The loss here is the correlation of gradients. It knows nothing of whether its result may be trusted: that is what
`navnode register` is for.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from navnode import geometry as g
from navnode.files.views import read_views
from navnode.files.volumes import read_volume
from navnode.projector import Projector
from navnode.types import CArm, Matrix


class Rendered(torch.autograd.Function):
    """Line integrals (H, W) at ``volume_from_carm @ exp(xi)``, and their derivatives at xi = 0."""

    @staticmethod
    def forward(context: Any, xi: torch.Tensor, projector: Projector, carm: CArm, pose: Matrix, pivot_mm: float) -> Any:
        integrals, derivatives = projector.render(carm, pose, jacobian=True, pivot_mm=pivot_mm)
        context.save_for_backward(torch.from_numpy(derivatives))
        return torch.from_numpy(integrals)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        (derivatives,) = context.saved_tensors
        return torch.einsum("khw,hw->k", derivatives, gradients[0]), None, None, None, None


def own_loss(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """1 minus the correlation of the images' gradients. Write your own here."""
    loss = torch.zeros(())
    for axis in (0, 1):
        a, b = (torch.diff(image, dim=axis).flatten() for image in (predicted, measured))
        a, b = a - a.mean(), b - b.mean()
        loss = loss + (1 - torch.dot(a, b) / (a.norm() * b.norm() + 1e-9)) / 2
    return loss


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("ct")
    wanted.add_argument("views", help="navnode/views/1, whose poses are taken for the truth")
    wanted.add_argument("--steps", type=int, default=150)
    arguments = wanted.parse_args()

    ct = read_volume(arguments.ct)
    view = read_views(arguments.views)[0]
    truth, carm = view.pose(), view.carm.binned(2)
    pivot_mm = float(g.transform(g.inverse(truth), ct.center_mm)[2])
    counts = view.counts().astype(np.float32)
    counts = counts[: carm.height_px * 2, : carm.width_px * 2].reshape(carm.height_px, 2, carm.width_px, 2).mean((1, 3))
    measured = torch.from_numpy(-np.log(np.maximum(counts, 1.0)))

    projector = Projector(ct)
    pose = truth @ g.exp(np.array([0.02, -0.01, 0.03, 3.0, -4.0, 5.0]), (0.0, 0.0, pivot_mm))
    # Radians and millimetres: one step turns by as much as it moves things at 100 mm; depth shows least.
    scale = torch.tensor([0.01, 0.01, 0.01, 1.0, 1.0, 3.0])
    momentum, spread = torch.zeros(6), torch.zeros(6)
    for step in range(arguments.steps + 1):
        xi = torch.zeros(6, requires_grad=True)
        loss = own_loss(Rendered.apply(xi, projector, carm, pose, pivot_mm), measured)
        if step % 50 == 0:
            off = g.log(g.inverse(truth) @ pose, (0.0, 0.0, pivot_mm))
            across_mm, turned_deg = float(np.hypot(off[3], off[4])), float(np.rad2deg(np.linalg.norm(off[:3])))
            print(
                f"step {step}: loss {loss.item():.4f}, {across_mm:.2f} mm across the beam, {turned_deg:.2f} degrees off"
            )
        loss.backward()
        # Adam, written out: its state is about the present pose, which every step moves.
        gradient = xi.grad * scale
        momentum, spread = 0.9 * momentum + 0.1 * gradient, 0.99 * spread + 0.01 * gradient**2
        rate = 0.3 * 0.5 ** (step / 40)
        corrected = (momentum / (1 - 0.9 ** (step + 1))) / ((spread / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12)
        pose = pose @ g.exp((-rate * corrected * scale).numpy().astype(np.float64), (0.0, 0.0, pivot_mm))


if __name__ == "__main__":
    main()
