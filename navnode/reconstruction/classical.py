"""Simultaneous algebraic reconstruction (SART; Andersen and Kak, Ultrasonic Imaging 6, 1984) with the
project's own projector and its adjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from navnode.projector import Projector
from navnode.projector.native import hounsfield
from navnode.types import FloatArray, Matrix, View, Volume
from navnode.volumes import AIR_HU, centered_grid

_RELAXATION = 0.5
_SMOOTHING_VOXELS = 0.7
"""Gaussian between sweeps; with a few views it does what total variation would, at no cost."""

_Prepared = tuple[View, FloatArray, FloatArray, FloatArray]
"""A view, its line integrals, its measured pixels over the path lengths, and its voxels' weights."""


def sart(
    views: Sequence[View],
    *,
    size: int = 128,
    spacing_mm: float = 2.0,
    center_mm: Matrix | tuple[float, float, float] = (0.0, 0.0, 0.0),
    sweeps: int = 12,
    threads: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Volume:
    """A volume in HU on a cubic RAS grid around ``center_mm``.

    Args:
        views: two or more, with poses.
    """
    volume_from_index = centered_grid((size, size, size), spacing_mm, np.asarray(center_mm))
    projector = Projector(
        Volume(np.full((size,) * 3, AIR_HU, np.float32), volume_from_index),
        precision="float32",
        threads=threads,
    )
    mu = projector.attenuation_per_mm
    seen = np.zeros_like(mu)
    prepared: list[_Prepared] = []
    for view in views:
        assert view.volume_from_carm is not None
        line, mask = _clean(view.line_integrals)
        mu[:] = 1.0
        lengths = projector.render(view.carm, view.volume_from_carm)
        weights = projector.backproject(view.carm, view.volume_from_carm, mask)
        inverse_length: FloatArray = (mask / np.maximum(lengths, spacing_mm)).astype(np.float32)
        prepared.append((view, line, inverse_length, weights))
        seen += weights > 1e-3 * spacing_mm
    mu[:] = _mean_attenuation(prepared) * (seen > 0)
    for sweep in range(sweeps):
        for view, line, inverse_length, weights in prepared:
            assert view.volume_from_carm is not None
            error = (line - projector.render(view.carm, view.volume_from_carm)) * inverse_length
            update = projector.backproject(view.carm, view.volume_from_carm, error)
            mu += _RELAXATION * update / np.maximum(weights, 0.05 * spacing_mm)
            np.maximum(mu, 0.0, out=mu)
        if sweep < sweeps - 2:
            mu[:] = gaussian_filter(mu, _SMOOTHING_VOXELS)
        progress((sweep + 1) / sweeps)
    hu = hounsfield(mu)
    hu[seen < min(2, len(views))] = AIR_HU  # what fewer than two views crossed is not known
    return Volume(hu, volume_from_index, f"SART, {len(views)} views")


def _clean(line_integrals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Line integrals without gaps, and 1 where they were measured."""
    measured = np.isfinite(line_integrals)
    line = np.where(measured, np.maximum(line_integrals, 0.0), 0.0).astype(np.float32)
    return line, measured.astype(np.float32)


def _mean_attenuation(prepared: Sequence[_Prepared]) -> float:
    """The homogeneous body that explains the mean of the images."""
    return float(np.mean([(line * inverse_length).mean() for _, line, inverse_length, _ in prepared]))
