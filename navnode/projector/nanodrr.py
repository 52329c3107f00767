"""Line integrals on a GPU by nanodrr (Triton), an optional back end; on the CPU, for tests, by PyTorch.

nanodrr differentiates a scalar by the end points of every ray. For the sum of all line integrals these gradients are
those of each integral by its own ray, so one backward pass yields the six pose derivatives of all rays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from navnode.errors import ConfigError
from navnode.types import Array, CArm, FloatArray, Matrix

__all__ = ["NanodrrRays"]

_SAMPLES_PER_VOXEL = 2.0
"""Midpoint sums through a trilinear volume at half the voxel size agree with Joseph's method to 3e-4."""


class NanodrrRays:
    """Attenuation in the memory of a device, and rays through it.

    Args:
        attenuation_per_mm: (k, j, i).
        device: PyTorch's name of it; default: the GPU, if there is one.

    Raises:
        ConfigError: nanodrr or PyTorch is not installed.
    """

    def __init__(self, attenuation_per_mm: FloatArray, volume_from_index: Matrix, device: str | None = None) -> None:
        try:
            import nanodrr.data
            import nanodrr.drr.backends
            import torch
        except ImportError as error:
            raise ConfigError(f"projector: nanodrr needs the extra 'gpu' ({error})") from error
        self._torch, self._nanodrr = torch, nanodrr
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        voxels = torch.from_numpy(attenuation_per_mm[None, None])
        sizes = np.array(attenuation_per_mm.shape[::-1])
        # grid_sample's coordinates, align_corners=False: -1 and 1 are the outer faces of the outermost voxels.
        grid_from_index = np.diag([*(2 / sizes), 1.0])
        grid_from_index[:3, 3] = 1 / sizes - 1
        matrices = volume_from_index, np.linalg.inv(volume_from_index), grid_from_index
        tensors = [torch.from_numpy(matrix.astype(np.float32)) for matrix in matrices]
        self._subject: Any = nanodrr.data.Subject(
            voxels, torch.zeros_like(voxels), *tensors, torch.zeros(3), max_label=0, convert_to_mu=False
        ).to(self.device)
        self._finest_mm = float(np.linalg.norm(volume_from_index[:3, :3], axis=0).min())
        self._diagonal_mm = float(np.linalg.norm(volume_from_index[:3, :3] @ sizes))

    def project(
        self, carm: CArm, volume_from_carm: Matrix, pixels: Array | None, pivot_mm: float, jacobian: bool
    ) -> tuple[FloatArray, FloatArray | None]:
        """Line integrals (N,) of ``pixels`` (N, 2) or all pixels, and derivatives (6, N); see ``Projector.render``."""
        torch = self._torch
        if pixels is None:
            v, u = np.mgrid[: carm.height_px, : carm.width_px]
            pixels = np.stack([u.ravel(), v.ravel()], axis=1)
        (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
        ends = np.empty((len(pixels), 3), np.float32)
        ends[:, 0], ends[:, 1] = (pixels[:, 0] - cu) * su, (pixels[:, 1] - cv) * sv
        ends[:, 2] = carm.source_to_detector_mm
        target = torch.from_numpy(ends[None]).to(self.device).requires_grad_(jacobian)
        source = torch.zeros_like(target).requires_grad_(jacobian)
        pose = torch.from_numpy(volume_from_carm.astype(np.float32)[None]).to(self.device)
        samples = int(np.ceil(_SAMPLES_PER_VOXEL * self._diagonal_mm / self._finest_mm))
        step = torch.from_numpy(np.linalg.norm(ends, axis=1)[None]).to(self.device) / samples
        backends = self._nanodrr.drr.backends
        with torch.set_grad_enabled(jacobian):
            arguments = (self._subject, pose, source, target, step, samples, 1, len(pixels))
            if self.device == "cuda":
                image = backends.render_fused("triton", *arguments)
            else:
                image = backends.render_torch(*arguments)
        integrals: FloatArray = image.detach().reshape(-1).cpu().numpy()
        if not jacobian:
            return integrals, None
        by_source, by_target = torch.autograd.grad(image.sum(), (source, target))
        s, t = (gradient[0].cpu().numpy().astype(np.float64) for gradient in (by_source, by_target))
        derivatives = np.empty((6, len(pixels)), np.float32)
        pivot = np.array([0.0, 0.0, pivot_mm])
        for axis in range(3):
            turn = np.eye(3)[axis]
            derivatives[axis] = (s * np.cross(turn, -pivot) + t * np.cross(turn, ends - pivot)).sum(axis=1)
            derivatives[3 + axis] = s[:, axis] + t[:, axis]
        return integrals, derivatives
