"""The X-ray transform as an operator of other libraries, which are loaded only here.

SciPy's, and with it PyLops' and PyProximal's, is :meth:`XrayTransform.linear_operator`; PyTorch's functions are in
:mod:`navnode.projector.autograd`; volumes of SimpleITK are read by :mod:`navnode.itk`.
"""

from __future__ import annotations

from typing import Any

from navnode.projector.transform import XrayTransform

__all__ = ["cil_operator", "deepinv_physics"]


def deepinv_physics(transform: XrayTransform, **options: Any) -> Any:
    """A ``deepinv.physics.LinearPhysics``: volumes (B, C, k, j, i), 1/mm, to views (B, C, N, H, W), and back.

    Both ways are differentiable, so that unfolded networks train through them. The transform is not scaled to a norm of
    one; ``compute_sqnorm`` tells its norm, for step sizes.

    Args:
        options: of LinearPhysics, such as ``noise_model``.

    Raises:
        ImportError: deepinv is not installed.
    """
    from deepinv.physics import LinearPhysics

    from navnode.projector.autograd import backprojection, views

    return LinearPhysics(
        A=lambda volumes, **_: views(transform, volumes),
        A_adjoint=lambda measured, **_: backprojection(transform, measured),
        img_size=(1, *transform.domain_shape),
        **options,
    )


def cil_operator(transform: XrayTransform, image_geometry: Any, acquisition_geometry: Any) -> Any:
    """A ``LinearOperator`` of the Core Imaging Library (CIL), for its algorithms.

    CIL's geometries say nothing to the transform, which has its own; they make CIL's containers, and their shapes must
    be those of volumes (k, j, i) and of views (N, H, W).

    Args:
        image_geometry: what allocates volumes.
        acquisition_geometry: what allocates views.

    Raises:
        ImportError: CIL is not installed; it comes by conda.
        ValueError: a geometry has another shape.
    """
    try:
        from cil.optimisation.operators import LinearOperator
    except ImportError as error:
        raise ImportError("the Core Imaging Library is not installed; it comes by conda: cil") from error

    for geometry, shape in ((image_geometry, transform.domain_shape), (acquisition_geometry, transform.range_shape)):
        if tuple(geometry.shape) != shape:
            raise ValueError(f"CIL's geometry has the shape {tuple(geometry.shape)}, the transform {shape}")

    class Operator(LinearOperator):
        def direct(self, x: Any, out: Any = None) -> Any:
            return self._filled(transform.forward(x.as_array()), acquisition_geometry, out)

        def adjoint(self, x: Any, out: Any = None) -> Any:
            return self._filled(transform.adjoint(x.as_array()), image_geometry, out)

        @staticmethod
        def _filled(values: Any, geometry: Any, out: Any) -> Any:
            container = geometry.allocate(None) if out is None else out
            container.fill(values)
            return container

    return Operator(domain_geometry=image_geometry, range_geometry=acquisition_geometry)
