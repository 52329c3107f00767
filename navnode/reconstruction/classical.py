"""Simultaneous algebraic reconstruction (SART; Andersen and Kak, Ultrasonic Imaging 6, 1984) with the project's own
projector and its adjoint: from nothing, or from a volume that is to agree with the X-rays better than it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from navnode import geometry as g
from navnode.projector import Projector
from navnode.projector.native import attenuation, hounsfield
from navnode.types import Array, CArm, FloatArray, Matrix, View, Volume
from navnode.volumes import AIR_HU, centered_grid

_RELAXATION = 0.5
_SMOOTHING_VOXELS = 0.7
"""Gaussian between sweeps; with a few views it does what total variation would, at no cost."""

_GENTLE = 0.3
"""Relaxation of sweeps that must not undo what was known before."""
_GENTLE_SMOOTHING_VOXELS = 0.5
_FINEST_PIXEL = 0.7
"""Pixels, seen at the volume's middle and in voxels, need not be smaller than this."""
_CUT_TRUST = 0.3
"""Weight of a ray that has crossed what is beyond the grid."""
_DETAIL_MM = 15.0
_TISSUE_HU = -600.0
_SHELL = 2
"""Voxels along each face of the grid in which tissue means that the body goes on outside."""

Progress = Callable[[float], None]


def sart(
    views: Sequence[View],
    *,
    size: int = 128,
    spacing_mm: float = 2.0,
    center_mm: Matrix | tuple[float, float, float] = (0.0, 0.0, 0.0),
    sweeps: int = 12,
    threads: int | None = None,
    progress: Progress = lambda share: None,
) -> Volume:
    """A volume in HU on a cubic RAS grid around ``center_mm``.

    Args:
        views: two or more, with poses.
    """
    grid = centered_grid((size, size, size), spacing_mm, np.asarray(center_mm))
    fit = Fit(Volume(np.full((size,) * 3, AIR_HU, np.float32), grid), views, threads)
    fit.mu[:] = fit.mean_attenuation() * (fit.seen > 0)
    for sweep in range(sweeps):
        fit.sweep(_RELAXATION)
        if sweep < sweeps - 2:
            fit.mu[:] = gaussian_filter(fit.mu, _SMOOTHING_VOXELS)
        progress((sweep + 1) / sweeps)
    hu = hounsfield(fit.mu)
    hu[fit.seen < min(2, len(views))] = AIR_HU  # what fewer than two views crossed is not known
    return Volume(hu, grid, f"SART, {len(views)} views")


def consistent(
    volume: Volume,
    views: Sequence[View],
    *,
    sweeps: int = 2,
    threads: int | None = None,
    progress: Progress = lambda share: None,
) -> Volume:
    """The volume, changed as little as makes its X-rays look more like the views, in their detail.

    Rays that have crossed what is beyond the grid count less.

    Args:
        volume: HU on a cubic grid.
    """
    fit = Fit(volume, views, threads)
    fit.find_cut(volume.voxels > _TISSUE_HU)
    fit.mu[:] = attenuation(volume.voxels)
    for sweep in range(sweeps):
        fit.sweep(_GENTLE)
        if sweep < sweeps - 1:
            fit.mu[:] = gaussian_filter(fit.mu, _GENTLE_SMOOTHING_VOXELS)
        progress((sweep + 1) / sweeps)
    return Volume(hounsfield(fit.mu), volume.volume_from_index, volume.name)


@dataclass
class Prepared:
    """A view, and what does not change from sweep to sweep."""

    carm: CArm
    volume_from_carm: Matrix
    line: FloatArray
    inverse_length: FloatArray
    """1 / mm inside the grid, 0 where nothing was measured."""
    weights: FloatArray
    """What a voxel gets of a picture of ones, mm."""
    cut: FloatArray | None = None
    """1 where the ray has crossed tissue beyond the grid."""


class Fit:
    """Attenuation on a grid that is being brought into agreement with views."""

    def __init__(self, volume: Volume, views: Sequence[View], threads: int | None) -> None:
        self._projector = Projector(volume, precision="float32", threads=threads)
        self._spacing_mm, self._center_mm = min(volume.spacing_mm), volume.center_mm
        self.mu: FloatArray = self._projector.attenuation_per_mm
        """1/mm; changes are made in it."""
        self.seen: FloatArray = np.zeros_like(self.mu)
        """How many views cross a voxel."""
        self._free: FloatArray = np.ones(1, np.float32)
        self.mu[:] = 1.0
        self.views = [self._prepared(_binned(view, volume.center_mm, self._spacing_mm)) for view in views]

    def _prepared(self, view: View) -> Prepared:
        assert view.volume_from_carm is not None
        measured = np.isfinite(view.line_integrals)
        line = np.where(measured, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32)
        mask = measured.astype(np.float32)
        lengths = self._projector.render(view.carm, view.volume_from_carm)
        weights = self._projector.backproject(view.carm, view.volume_from_carm, mask)
        self.seen += weights > 1e-3 * self._spacing_mm
        inverse_length: FloatArray = (mask / np.maximum(lengths, self._spacing_mm)).astype(np.float32)
        return Prepared(view.carm, view.volume_from_carm, line, inverse_length, weights)

    def mean_attenuation(self) -> float:
        """The homogeneous body that explains the mean of the images."""
        return float(np.mean([(view.line * view.inverse_length).mean() for view in self.views]))

    def exclude(self, view: Prepared, rays: Array) -> None:
        """Take pixels out of a view."""
        self.seen -= view.weights > 1e-3 * self._spacing_mm
        view.inverse_length = np.where(rays, np.float32(0.0), view.inverse_length)
        left = (view.inverse_length > 0).astype(np.float32)
        view.weights = self._projector.backproject(view.carm, view.volume_from_carm, left)
        self.seen += view.weights > 1e-3 * self._spacing_mm

    def restrict(self, free: Array) -> None:
        """Only these voxels may change; what a ray says is about those that it crosses."""
        self._free = free.astype(np.float32)
        self.mu[:] = free
        for view in self.views:
            inside_mm = self._projector.render(view.carm, view.volume_from_carm)
            rays = view.inverse_length > 0
            view.inverse_length = (rays / np.maximum(inside_mm, 2 * self._spacing_mm)).astype(np.float32)

    def find_cut(self, tissue: Array) -> None:
        """Find the rays that enter or leave the grid through tissue."""
        self.mu[:] = 0.0
        for face in (np.s_[:_SHELL], np.s_[-_SHELL:]):
            for part in ((face,), (slice(None), face), (slice(None), slice(None), face)):
                self.mu[part] = tissue[part]
        for view in self.views:
            crossed_mm = self._projector.render(view.carm, view.volume_from_carm)
            view.cut = (crossed_mm > 0.5 * self._spacing_mm).astype(np.float32)

    def sweep(self, relaxation: float, least: float = 0.0) -> None:
        """One pass over all views; ``least`` is the smallest attenuation there is."""
        for view in self.views:
            error: Array = view.line - self._projector.render(view.carm, view.volume_from_carm)
            if view.cut is not None:
                error = self.detail(error, view, _DETAIL_MM) * (1 - np.float32(1 - _CUT_TRUST) * view.cut)
            update = self.backprojected(error * view.inverse_length, view)
            self.mu += np.float32(relaxation) * update * self._free
            np.maximum(self.mu, least, out=self.mu)

    def backprojected(self, picture: FloatArray, view: Prepared) -> FloatArray:
        """The mean of the rays through each voxel, (k, j, i)."""
        total = self._projector.backproject(view.carm, view.volume_from_carm, picture.astype(np.float32, copy=False))
        mean: FloatArray = (total / np.maximum(view.weights, 0.05 * self._spacing_mm)).astype(np.float32)
        return mean

    def detail(self, picture: FloatArray, view: Prepared, sigma_mm: float) -> FloatArray:
        """A picture of a view's size without what is larger, at the volume's middle, than ``sigma_mm``.

        How much there is of everything is what scatter and beam hardening change.
        """
        known = (view.inverse_length > 0).astype(np.float32)
        blurred, share = (
            cv2.GaussianBlur(part, (0, 0), sigma_mm / self.pixel_mm(view), borderType=cv2.BORDER_REPLICATE)
            for part in (picture * known, known)
        )
        detail: FloatArray = (picture - blurred / np.maximum(share, np.float32(0.05))) * known
        return detail

    def pixel_mm(self, view: Prepared) -> float:
        """Width of a pixel at the volume's middle."""
        depth_mm = max(float(g.transform(g.inverse(view.volume_from_carm), self._center_mm)[2]), 1.0)
        return view.carm.pixel_spacing_mm[0] * depth_mm / view.carm.source_to_detector_mm


def _binned(view: View, center_mm: Matrix, spacing_mm: float) -> View:
    """The view with pixels that are not much finer than the voxels, where they are."""
    assert view.volume_from_carm is not None
    depth_mm = max(float(g.transform(g.inverse(view.volume_from_carm), center_mm)[2]), 1.0)
    pixel_mm = max(view.carm.pixel_spacing_mm) * depth_mm / view.carm.source_to_detector_mm
    factor = int(_FINEST_PIXEL * spacing_mm / pixel_mm + 0.2)
    if factor < 2:
        return view
    height, width = (n // factor for n in view.line_integrals.shape)
    blocks = view.line_integrals[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return View(blocks.mean(axis=(1, 3)), view.carm.binned(factor), view.volume_from_carm, view.timestamp_ns)
