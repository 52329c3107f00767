"""Attenuation fitted to X-rays: the building blocks of SART's sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from navnode import geometry as g
from navnode.projector import Projector
from navnode.reconstruction.voxels import smooth
from navnode.types import Array, CArm, FloatArray, Matrix, View, Volume

__all__ = ["Fit", "Prepared"]

_GENTLE = 0.3
"""Relaxation of sweeps that must preserve what was known before."""
_GENTLE_SMOOTHING_VOXELS = 0.5
_DETAIL_MM = 15.0
_FINEST_PIXEL = 1.0
"""Smallest useful pixel at the volume's center, in voxels."""
_FEWEST_PIXELS = 16
_LEAST_SEEN = 1e-3
_LEAST_WEIGHT = 0.05
"""Both are ray lengths in a voxel, in voxel widths: a view sees a voxel above the first; the second bounds the
divisor."""


@dataclass
class Prepared:
    """A view, and what stays constant from sweep to sweep."""

    carm: CArm
    volume_from_carm: Matrix
    line: FloatArray
    """(H, W) line integrals, 0 where nothing was measured."""
    inverse_length: FloatArray
    """(H, W), 1 / mm inside the grid; 0 where nothing was measured."""
    gain: FloatArray
    """(k, j, i): inverse of the back-projection of a picture of ones, 1 / mm, times the voxel's ``free`` share."""
    seen: Array
    """(k, j, i) bool: voxels that the view crosses."""


class Fit:
    """Attenuation on a grid, adjusted to agree with views.

    Args:
        volume: sets the grid and the initial HU.
        threads: default: all cores.
        free: share of its correction that each voxel takes, (k, j, i); default: all of it.
    """

    def __init__(
        self,
        volume: Volume,
        views: Sequence[View] = (),
        threads: int | None = None,
        free: FloatArray | None = None,
    ) -> None:
        self._projector = Projector(volume, precision="float32", threads=threads)
        self._spacing_mm, self.center_mm = min(volume.spacing_mm), volume.center_mm
        self.volume_from_index = volume.volume_from_index
        self.mu: FloatArray = self._projector.attenuation_per_mm
        """(k, j, i), 1/mm; may be changed in place."""
        self.seen: FloatArray = np.zeros_like(self.mu)
        """(k, j, i), number of views that cross a voxel."""
        self.free = free
        self._views: dict[Any, Prepared] = {}
        for name, view in enumerate(views):
            self.add(name, view)

    @property
    def views(self) -> list[Prepared]:
        """In the order of their names, which affects sweeps slightly."""
        return [self._views[name] for name in sorted(self._views)]

    def add(self, name: Any, view: View) -> None:
        """Add a view, binned to pixels not much finer than the voxels."""
        view = self.binned(view)
        assert view.volume_from_carm is not None
        line, mask = _measured(view)
        before, self.mu[:] = self.mu.copy(), 1.0
        lengths = self._projector.render(view.carm, view.volume_from_carm)
        self.mu[:] = before
        inverse_length: FloatArray = (mask / np.maximum(lengths, self._spacing_mm)).astype(np.float32)
        prepared = Prepared(view.carm, view.volume_from_carm, line, inverse_length, *self._weighed(view, mask))
        self._views[name] = prepared
        self.seen += prepared.seen

    def remove(self, name: Any) -> None:
        """Remove a view."""
        self.seen -= self._views.pop(name).seen

    def measure(self, name: Any, view: View) -> None:
        """Replace a view's line integrals by others of the same pixels."""
        self._views[name].line = _measured(view)[0]

    def binned(self, view: View) -> View:
        """The view, binned if its pixels are much finer than the voxels."""
        assert view.volume_from_carm is not None
        pixel_mm = max(view.carm.pixel_spacing_mm) * self._depth_mm(view) / view.carm.source_to_detector_mm
        factor = int(_FINEST_PIXEL * self._spacing_mm / pixel_mm + 0.2)
        factor = min(factor, min(view.line_integrals.shape) // _FEWEST_PIXELS)  # the grid may lie near the source
        if factor < 2:
            return view
        height, width = (n // factor for n in view.line_integrals.shape)
        blocks = view.line_integrals[: height * factor, : width * factor].reshape(height, factor, width, factor)
        return View(blocks.mean(axis=(1, 3)), view.carm.binned(factor), view.volume_from_carm, view.timestamp_ns)

    def _weighed(self, view: View | Prepared, mask: FloatArray) -> tuple[FloatArray, Array]:
        assert view.volume_from_carm is not None
        weight_mm = self._projector.backproject(view.carm, view.volume_from_carm, mask)
        seen = weight_mm > _LEAST_SEEN * self._spacing_mm
        np.maximum(weight_mm, _LEAST_WEIGHT * self._spacing_mm, out=weight_mm)
        gain = np.divide(np.float32(1.0) if self.free is None else self.free, weight_mm)
        return np.ascontiguousarray(gain), seen

    def mean_attenuation(self) -> float:
        """Attenuation of a homogeneous body that explains the mean of the images, 1/mm."""
        return float(np.mean([(view.line * view.inverse_length).mean() for view in self.views]))

    def exclude(self, view: Prepared, rays: Array) -> None:
        """Exclude rays of a view, (H, W) bool."""
        self.seen -= view.seen
        view.inverse_length = np.where(rays, np.float32(0.0), view.inverse_length)
        view.gain, view.seen = self._weighed(view, (view.inverse_length > 0).astype(np.float32))
        self.seen += view.seen

    def restrict(self, free: Array) -> None:
        """Let only these voxels change, (k, j, i) bool; each ray then corrects only those of them that it crosses."""
        self.free = free.astype(np.float32)
        self.mu[:] = free
        for view in self.views:
            view.gain *= self.free
            inside_mm = self._projector.render(view.carm, view.volume_from_carm)
            rays = view.inverse_length > 0
            view.inverse_length = (rays / np.maximum(inside_mm, 2 * self._spacing_mm)).astype(np.float32)

    def without(self, view: View) -> View:
        """The view minus the line integrals of ``mu``."""
        assert view.volume_from_carm is not None
        line = view.line_integrals - self._projector.render(view.carm, view.volume_from_carm)
        return View(line, view.carm, view.volume_from_carm, view.timestamp_ns)

    def sweep(self, relaxation: float, *, least: float = 0.0, detail_mm: float | None = None) -> None:
        """Correct by every view once.

        Args:
            relaxation: fraction of each correction to apply, above 0.
            least: lowest attenuation allowed, 1/mm.
            detail_mm: correct only structures smaller than this.
        """
        for view in self.views:
            error: Array = view.line - self._projector.render(view.carm, view.volume_from_carm)
            if detail_mm is not None:
                error = self.detail(error, view, detail_mm)
            error *= view.inverse_length
            self._projector.correct(view.carm, view.volume_from_carm, error, view.gain, relaxation, least)

    def agree(self, sweeps: int = 2) -> None:
        """Make the X-rays of ``mu`` match the views better in detail, changing it as little as possible."""
        for sweep in range(sweeps):
            self.sweep(_GENTLE, detail_mm=_DETAIL_MM)
            if sweep < sweeps - 1:
                smooth(self.mu, _GENTLE_SMOOTHING_VOXELS)

    def backprojected(self, picture: FloatArray, view: Prepared) -> FloatArray:
        """The mean of a picture (H, W) over the rays through each voxel, (k, j, i), times the voxel's ``free``
        share."""
        mean = self._projector.backproject(view.carm, view.volume_from_carm, picture.astype(np.float32, copy=False))
        mean *= view.gain
        return mean

    def detail(self, picture: FloatArray, view: Prepared, sigma_mm: float) -> FloatArray:
        """A picture (H, W) of a view without structures larger than ``sigma_mm`` at the volume's center.

        Scatter and beam hardening change those, but hardly the detail.
        """
        known = (view.inverse_length > 0).astype(np.float32)
        blurred, share = (
            cv2.GaussianBlur(part, (0, 0), sigma_mm / self.pixel_mm(view), borderType=cv2.BORDER_REPLICATE)
            for part in (picture * known, known)
        )
        detail: FloatArray = (picture - blurred / np.maximum(share, np.float32(0.05))) * known
        return detail

    def pixel_mm(self, view: Prepared) -> float:
        """Width of a pixel at the volume's center."""
        return view.carm.pixel_spacing_mm[0] * self._depth_mm(view) / view.carm.source_to_detector_mm

    def _depth_mm(self, view: View | Prepared) -> float:
        assert view.volume_from_carm is not None
        return max(float(g.transform(g.inverse(view.volume_from_carm), self.center_mm)[2]), 1.0)


def _measured(view: View) -> tuple[FloatArray, FloatArray]:
    """Line integrals, 0 where nothing was measured; and a mask, 1 where measured."""
    known = np.isfinite(view.line_integrals)
    line = np.where(known, np.maximum(view.line_integrals, 0.0), 0.0).astype(np.float32)
    return line, known.astype(np.float32)
