"""A volume from X-rays by somebody else's solver, on the projector's X-ray transform.

python examples/tomography.py --by scipy      least squares (LSQR)
python examples/tomography.py --by deepinv    total variation (pip install deepinv)
python examples/tomography.py --by cil        total variation (CIL comes by conda)

The X-rays are computed here, of two balls; the error is stated against them. It needs navnode-projector, not all of
navnode.
"""

from __future__ import annotations

import argparse

import numpy as np

from navnode.projector import XrayTransform
from navnode.types import Array, CArm, FloatArray

SIDE, VOXEL_MM, VIEWS, SOURCE_MM = 48, 3.0, 24, 700.0


def transform() -> XrayTransform:
    """Views from all round a cube that is centered at the origin."""
    carm = CArm(64, 64, (4.5, 4.5), 1020.0, (31.5, 31.5))
    poses = np.tile(np.eye(4), (VIEWS, 1, 1))
    for pose, angle in zip(poses, np.linspace(0, np.pi, VIEWS, endpoint=False), strict=True):
        towards_detector, down = np.array([-np.sin(angle), -np.cos(angle), 0.0]), np.array([0.0, 0.0, -1.0])
        pose[:3, :3] = np.column_stack([np.cross(down, towards_detector), down, towards_detector])
        pose[:3, 3] = -SOURCE_MM * towards_detector
    volume_from_index = np.diag([VOXEL_MM] * 3 + [1.0])
    volume_from_index[:3, 3] = -VOXEL_MM * (SIDE - 1) / 2
    return XrayTransform((SIDE,) * 3, volume_from_index, carm, poses)


def two_balls() -> FloatArray:
    """Attenuation, 1/mm: water, and in it something denser."""
    k, j, i = np.mgrid[:SIDE, :SIDE, :SIDE] - (SIDE - 1) / 2
    water, bone = k**2 + j**2 + i**2 < 20**2, (k - 3) ** 2 + (j + 5) ** 2 + (i - 4) ** 2 < 6**2
    return (0.02 * water + 0.02 * bone).astype(np.float32)


def by_scipy(xray: XrayTransform, measured: FloatArray) -> Array:
    """Least squares, ended early: what comes last is noise."""
    from scipy.sparse.linalg import lsqr

    return lsqr(xray.linear_operator(), measured.ravel(), iter_lim=15)[0].reshape(xray.domain_shape)


def by_deepinv(xray: XrayTransform, measured: FloatArray) -> Array:
    """Proximal gradient steps on the data, with total variation as a denoiser of slices."""
    import torch
    from deepinv.models import TVDenoiser

    from navnode.projector.adapters import deepinv_physics

    physics, denoiser = deepinv_physics(xray), TVDenoiser(n_it_max=50)
    y = torch.from_numpy(measured)[None, None]
    step = 1 / float(physics.compute_sqnorm(torch.rand(1, 1, *xray.domain_shape), verbose=False))
    x = torch.zeros(1, 1, *xray.domain_shape)
    for _ in range(40):
        x = x - step * physics.A_adjoint(physics.A(x) - y)
        x = denoiser(x[0, 0, :, None].clamp(min=0), 5e-5)[None, None, :, 0]
    return x[0, 0].numpy()


def by_cil(xray: XrayTransform, measured: FloatArray) -> Array:
    """FISTA with CIL's total variation."""
    try:
        from cil.framework import ImageGeometry
        from cil.optimisation.algorithms import FISTA
        from cil.optimisation.functions import LeastSquares, TotalVariation
    except ImportError:
        raise SystemExit("CIL is not installed; it comes by conda: conda install -c ccpi cil") from None

    from navnode.projector.adapters import cil_operator

    volumes = ImageGeometry(SIDE, SIDE, SIDE, VOXEL_MM, VOXEL_MM, VOXEL_MM)
    count, height, width = xray.range_shape
    views = ImageGeometry(width, height, count)  # of containers alone: the transform has its own geometry
    data = views.allocate(0)
    data.fill(measured)
    data_term = LeastSquares(cil_operator(xray, volumes, views), data)
    solver = FISTA(initial=volumes.allocate(0), f=data_term, g=1e-2 * TotalVariation(lower=0.0))
    solver.run(40)
    return solver.solution.as_array()


SOLVERS = {"scipy": by_scipy, "deepinv": by_deepinv, "cil": by_cil}


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--by", choices=SOLVERS, default="scipy")
    solver = SOLVERS[wanted.parse_args().by]

    xray, true = transform(), two_balls()
    measured = xray.forward(true) + np.random.default_rng(0).normal(0, 0.01, xray.range_shape).astype(np.float32)
    found = solver(xray, measured)
    error = float(np.linalg.norm(found - true) / np.linalg.norm(true))
    print(f"{VIEWS} views of {measured.shape[2]} x {measured.shape[1]}, {SIDE}^3 voxels: {100 * error:.1f} % off")


if __name__ == "__main__":
    main()
