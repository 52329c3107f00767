"""A registered CT as prior: changed where the X-rays contradict it, kept elsewhere.

The views are mapped to the scale of the CT's own X-rays (beam hardening and scatter bend it), and SART reconstructs the
remaining difference as a change. Between sweeps a threshold removes changes on which the views disagree, as in prior
image constrained compressed sensing (Chen, Tang and Leng, Med. Phys. 35, 2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU, coarsened, onto
from navnode.projector.native import MU_WATER_PER_MM, attenuation, hounsfield
from navnode.reconstruction.fit import Fit, Prepared
from navnode.reconstruction.voxels import smooth
from navnode.types import FloatArray, Grid, View, Volume

__all__ = ["WithPrior", "with_prior"]

_DETAIL_MM = 20.0
_SWEEPS = 12
_RELAXATION = 0.8
_SMOOTHING_VOXELS = 0.4
_SIGNIFICANT = 1.7
"""A voxel may change if the views differ from the CT's X-rays by more sigma than this on average, at most ``_MOST``
each."""
_MOST, _LEAST = 3.0, -1.0
_RESOLVED_MM = 1.5
_CLASSES = 8
_SYSTEMATIC = 2.0
"""Error of the CT's X-rays without any change, relative to noise."""
_CHANGED_HU = 100.0
_AGREES = 0.8
"""Correlation of a view's detail with the CT's around a ray; from here on, the X-ray confirms the CT."""
_AROUND_MM = 6.0
_LEAST_ALIKE = 0.25
"""Mean correlation of the detail; below this, the CT shows another patient or lies elsewhere."""
_TISSUE_HU = -600.0
_DENSEST_PER_MM = 0.1
"""Titanium and thin steel as a hardened beam sees them: 4000 HU."""
_BODY_LINE = 0.2
_END_LINE = 0.01
"""Half a millimetre of water."""
_MAX_CUT_SHARE = 0.4
"""Share of a view's rays that may leave the CT inside the body."""


@dataclass(frozen=True)
class WithPrior:
    """A volume that rests on a CT and X-rays.

    ``changed_mm3`` is the volume that changed, in mm3; ``rests_share`` is a fraction, 0..1.
    """

    volume: Volume
    """HU"""
    rests: Volume
    """1 where a voxel rests on the prior alone, 0 where the X-rays confirm or change it; on the same grid."""
    changed_mm3: float
    rests_share: float
    """Of the voxels seen by two or more views, the share that rests on the prior alone."""


def with_prior(
    views: Sequence[View],
    prior: Volume,
    grid: Grid,
    *,
    threads: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> WithPrior:
    """The prior on a grid, with the changes that the X-rays show.

    Args:
        views: two or more, with poses in the prior's frame.
        prior: a CT in HU; it may reach beyond the grid, and should.
        threads: default: all cores.

    Raises:
        ComputeError: the CT is long enough for fewer than two of the views, or the X-rays do not look like it.
    """
    before = onto(prior, grid.volume_from_index, grid.shape)
    fit = Fit(before, views, threads)
    coarse = coarsened(prior, grid.spacing_mm)
    rendered = Projector(coarse, precision="float32", threads=threads)
    alike: list[float] = []
    confirmed, denser, thinner = (np.zeros_like(fit.mu) for _ in range(3))
    ends = Projector(_cut_faces(coarse), precision="float32", threads=threads)
    for view in fit.views:
        expected = rendered.render(view.carm, view.volume_from_carm)
        body = (expected > _BODY_LINE) & (view.inverse_length > 0)
        ended = ends.render(view.carm, view.volume_from_carm) > _END_LINE
        if not body.any() or float(np.mean(ended[body])) > _MAX_CUT_SHARE:
            fit.exclude(view, np.ones_like(ended))
            view.line = np.zeros_like(view.line)
            continue
        fit.exclude(view, ended)
        measured = _on_scale(view, expected)
        pixel_mm = fit.pixel_mm(view)
        seen, known = (fit.detail(picture, view, _DETAIL_MM) for picture in (measured, expected))
        agreement = _agreement(seen, known, view, _AROUND_MM / pixel_mm)
        alike.append(float(np.mean(agreement[body & ~ended])))
        confirmed += fit.backprojected(agreement, view)
        view.line = seen - known
        sigmas = _sigmas(view, expected, _RESOLVED_MM / pixel_mm)
        denser += fit.backprojected(np.clip(sigmas, _LEAST, _MOST), view)
        thinner += fit.backprojected(np.clip(-sigmas, _LEAST, _MOST), view)
    if len(alike) < 2:
        raise ComputeError("the CT is too short: most rays leave it inside the body, or miss it")
    if float(np.mean(alike)) < _LEAST_ALIKE:
        raise ComputeError("the X-rays do not look like this CT: is it this patient's, and are the poses in its frame?")
    least = _SIGNIFICANT * np.maximum(fit.seen, 2)
    fit.restrict(((denser > least) | (thinner > least)) & (fit.seen >= 2))
    own = attenuation(before.voxels)
    highest = np.where(denser > least, np.maximum(_DENSEST_PER_MM - own, 0.0), 0.0).astype(np.float32)
    lowest = np.where(thinner > least, -own, np.float32(0.0))
    fit.mu[:] = 0.0
    for sweep in range(_SWEEPS):
        fit.sweep(_RELAXATION, least=-np.inf)
        smooth(fit.mu, _SMOOTHING_VOXELS)
        np.clip(fit.mu, lowest, highest, out=fit.mu)
        progress((sweep + 1) / _SWEEPS)
    change_hu = fit.mu / MU_WATER_PER_MM * 1000
    hu = np.where(change_hu == 0, before.voxels, hounsfield(own + fit.mu)).astype(np.float32)
    changed = np.abs(change_hu) > _CHANGED_HU
    rests = ~changed & ((fit.seen < 2) | (confirmed < _AGREES * fit.seen))
    name = f"{prior.name}, changed by {len(views)} views"
    return WithPrior(
        Volume(hu, grid.volume_from_index, name),
        Volume(rests.astype(np.float32), grid.volume_from_index, "1: rests on the prior alone"),
        float(changed.sum()) * grid.spacing_mm**3,
        float(rests[fit.seen >= 2].mean()) if (fit.seen >= 2).any() else 1.0,
    )


def _cut_faces(prior: Volume) -> Volume:
    """Water where the CT cuts the body: rays through it cross parts of the body that the CT does not show."""
    hu = np.full_like(prior.voxels, AIR_HU)
    for axis in range(3):
        for face in (slice(2), slice(-2, None)):
            part = tuple(face if a == axis else slice(None) for a in range(3))
            hu[part] = np.where(prior.voxels[part] > _TISSUE_HU, 0.0, AIR_HU)
    return Volume(hu, prior.volume_from_index)


def _on_scale(view: Prepared, expected: FloatArray) -> FloatArray:
    """The view's line integrals on the scale of the CT's, mapped by a parabola.

    The parabola is fitted twice, the second time without outliers.
    """
    use = (view.inverse_length > 0) & (expected > _BODY_LINE)
    if use.sum() < 100:
        return view.line
    x, y = view.line[use], expected[use]
    for _ in range(2):
        bent = np.polynomial.Polynomial.fit(x, y, 2)
        off = np.abs(bent(x) - y)
        keep = off <= 1.5 * np.median(off) + 1e-6
        x, y = x[keep], y[keep]
    scaled: FloatArray = bent(view.line).astype(np.float32)
    return scaled


def _agreement(seen: FloatArray, known: FloatArray, view: Prepared, sigma_px: float) -> FloatArray:
    """Correlation of two pictures around every pixel, 0 where nothing was measured."""
    inside = view.inverse_length > 0

    def mean(picture: FloatArray) -> FloatArray:
        blurred: FloatArray = cv2.GaussianBlur(picture, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
        return blurred

    a, b = seen - mean(seen), known - mean(known)
    correlation: FloatArray = mean(a * b) / np.sqrt(np.maximum(mean(a * a) * mean(b * b), 1e-12)) * inside
    return correlation


def _sigmas(view: Prepared, expected: FloatArray, resolved_px: float) -> FloatArray:
    """How many sigma the view's line integrals, differences by now, are from 0; 0 where nothing was measured.

    Noise grows with the thickness crossed: sigma is estimated robustly among pixels of about the same thickness.
    """
    inside = view.inverse_length > 0
    off: FloatArray = cv2.GaussianBlur(view.line, (0, 0), resolved_px, borderType=cv2.BORDER_REPLICATE) * inside
    if not inside.any():
        return off
    fine = off - cv2.GaussianBlur(off, (0, 0), 4 * resolved_px, borderType=cv2.BORDER_REPLICATE)
    edges = np.quantile(expected[inside], np.linspace(0, 1, _CLASSES + 1))
    classes = np.clip(np.searchsorted(edges, expected, side="right") - 1, 0, _CLASSES - 1)
    sigma = np.ones(_CLASSES, np.float32)
    for number in range(_CLASSES):
        of_class = fine[inside & (classes == number)]
        if of_class.size:
            sigma[number] = max(_SYSTEMATIC * 1.4826 * float(np.median(np.abs(of_class))), 1e-4)
    return off / sigma[classes]
