"""2D/3D registration of one X-ray image from a start that is close (tracker, last frame).

Robust Gauss-Newton on the difference between the image's line integrals and the volume's projection. What
the X-ray chain adds is solved along with the pose instead of being calibrated away: a grey-value map
(gain, automatic exposure, beam hardening) and a smooth background (scatter), both linear in their
coefficients and eliminated from the normal equations (variable projection, Golub and Pereyra 1973).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.imaging import binned_counts
from navnode.projector import Projector
from navnode.types import Array, CArm, FloatArray, Matrix, Volume
from navnode.volumes import resample

_ROTATION_SCALE_MM = 60.0
"""A rotation of 1 rad moves what the image shows by about this much; balances the six parameters."""
_SCALE = np.array([_ROTATION_SCALE_MM] * 3 + [1.0] * 3)

_TUKEY = 4.685
"""95 % efficiency for Gaussian residuals (Holland and Welsch 1977)."""

_DAMPING = 1e-4

_HALF_WEIGHT_TRANSMISSION = 0.02
"""Pixels this dark, relative to the brightest, count half: there, photons are few and scatter is most of them."""

_CLOSE_SIMILARITY = 0.95
"""Below this a fit from a close start is not believed and the pyramid is climbed."""

_MIN_PATH = 0.02
"""Line integral below which a ray misses the patient and tells nothing."""

_MODEL_ERROR = 10.0
"""Actual errors over the statistical sigma of independent pixels, as measured on simulated frames of real and
procedural CTs (tests/registration): neighbouring residuals are not independent, and the model is not exact."""


@dataclass(frozen=True)
class Level:
    """One step of the pyramid: which volume, how many pixels, how many iterations at most."""

    projector: Projector
    spacing_mm: float
    image_px: int
    iterations: int


@dataclass(frozen=True)
class Fit:
    """Where a start led."""

    volume_from_carm: Matrix
    covariance: Matrix
    residual: float
    """Robust standard deviation of what is left, line-integral units."""
    similarity: float
    """Correlation of image and prediction over the inliers, smooth background taken out of both, -1..1."""
    inliers: float
    """Share of the weight that the robust estimate kept, 0..1."""
    iterations: int


class Image:
    """One X-ray image at the sizes the pyramid asks for, each made once."""

    def __init__(self, counts: Array, carm: CArm) -> None:
        self._counts, self._carm = counts, carm
        self._levels: dict[int, _Observed] = {}

    def level(self, image_px: int) -> _Observed:
        if image_px not in self._levels:
            factor = max(1, round(self._carm.width_px / image_px))
            self._levels[image_px] = _observe(binned_counts(self._counts, factor), self._carm.binned(factor))
        return self._levels[image_px]


class ImageRegistration:
    """Registers images to one volume.

    Args:
        volume: HU.
        threads: for the projector; default: all.
    """

    def __init__(self, volume: Volume, threads: int | None = None) -> None:
        finest = max(1.5, min(volume.spacing_mm))
        fine, middle, coarse = (Projector(resample(volume, factor * finest), threads=threads) for factor in (1, 2, 4))
        self.search_level = Level(coarse, 4 * finest, 48, 15)
        self.levels = (Level(middle, 2 * finest, 64, 8), Level(fine, finest, 128, 5))
        self.track_level = Level(fine, finest, 100, 3)

    def fit(self, image: Image, start_volume_from_carm: Matrix, pivot_mm: float, *, close: bool = False) -> Fit:
        """Gauss-Newton through the pyramid from a start within about 10 mm and 5 degrees.

        Args:
            close: the start is within a millimetre or two; the finest volume is tried at once and the pyramid
                only used when that does not fit.
        """
        if close:
            fit = refine(self.track_level, image, start_volume_from_carm, pivot_mm)
            if fit.similarity >= _CLOSE_SIMILARITY:
                return fit
        volume_from_carm = start_volume_from_carm
        for level in self.levels:
            fit = refine(level, image, volume_from_carm, pivot_mm)
            volume_from_carm = fit.volume_from_carm
        return fit


@dataclass(frozen=True)
class _Observed:
    """An image made ready for one level; N pixels."""

    carm: CArm
    line: FloatArray
    """(N,) -ln(counts): line integrals up to a constant, which the background absorbs."""
    trust: FloatArray
    """(N,) weight before the robust one; 0 where saturated."""
    background: FloatArray
    """(6, N) quadratic polynomials of (u, v)."""


def _observe(counts: FloatArray, carm: CArm) -> _Observed:
    line = -np.log(np.maximum(counts, 0.5)).ravel()
    seen = np.isfinite(line)
    line = np.where(seen, line, 0.0).astype(np.float32)
    brightest = line[seen].min() if seen.any() else 0.0
    transmission = np.exp(brightest - line)
    trust = np.where(seen, transmission / (transmission + _HALF_WEIGHT_TRANSMISSION), 0.0).astype(np.float32)
    v, u = np.mgrid[-1 : 1 : 1j * carm.height_px, -1 : 1 : 1j * carm.width_px].astype(np.float32)
    background = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v]).reshape(6, -1)
    return _Observed(carm, line, trust, background)


def refine(level: Level, image: Image, start_volume_from_carm: Matrix, pivot_mm: float) -> Fit:
    """Gauss-Newton at one level, turning about (0, 0, pivot_mm) in carm."""
    observed = image.level(level.image_px)
    fit, step = _solve(level.projector, observed, start_volume_from_carm, pivot_mm)
    for iteration in range(1, level.iterations + 1):
        moved = fit.volume_from_carm @ g.exp(step, (0.0, 0.0, pivot_mm))
        size = float(np.linalg.norm(step * _SCALE))
        fit, step = _solve(level.projector, observed, moved, pivot_mm, iteration)
        if size < 0.02 * level.spacing_mm:
            break
    return fit


def similarity_at(level: Level, image: Image, volume_from_carm: Matrix) -> float:
    """How well the projection at a pose resembles the image, -1..1; no derivatives, for searching."""
    observed = image.level(level.image_px)
    predicted = level.projector.render(observed.carm, volume_from_carm).ravel()
    return _similarity(observed, predicted, observed.trust * (predicted > _MIN_PATH))


def _solve(
    projector: Projector, observed: _Observed, volume_from_carm: Matrix, pivot_mm: float, iteration: int = 0
) -> tuple[Fit, Matrix]:
    """What the image says at a pose, and the Gauss-Newton step from there."""
    predicted, jacobian = projector.render(observed.carm, volume_from_carm, jacobian=True, pivot_mm=pivot_mm)
    d = predicted.ravel()
    trust = observed.trust * (d > _MIN_PATH)
    total = float(trust.sum())
    if total < 0.02 * d.size:
        return Fit(volume_from_carm, np.eye(6) * 1e6, np.inf, 0.0, 0.0, iteration), np.zeros(6)

    # Image = background + grey-value map of the prediction, robustly.
    spread = float(d.std()) + 1e-6
    t = (d - d.mean()) / spread
    basis = np.concatenate([observed.background, t[None], t[None] ** 2])
    weight = trust
    for _ in range(3):
        coefficients = _weighted_solve(basis, weight, observed.line)
        residual = observed.line - coefficients @ basis
        scatter = 1.4826 * float(np.median(np.abs(residual[trust > 0]))) + 1e-6
        weight = trust * np.clip(1 - (residual / (_TUKEY * scatter)) ** 2, 0, None) ** 2

    # Pose: the part of the derivatives that the map and the background cannot imitate.
    slope = (coefficients[6] + 2 * coefficients[7] * t) / spread
    rows = jacobian.reshape(6, -1) / _SCALE[:, None].astype(np.float32) * slope.astype(np.float32)
    rows -= _weighted_solve(basis, weight, rows.T).T @ basis
    weighted = rows * weight
    hessian = (weighted @ rows.T).astype(np.float64)
    damped = hessian + _DAMPING * np.diag(np.diag(hessian)) + 1e-9 * np.eye(6)
    step = np.linalg.solve(damped, (weighted @ residual).astype(np.float64)) / _SCALE
    covariance = (_MODEL_ERROR * scatter) ** 2 * np.linalg.inv(damped) / np.outer(_SCALE, _SCALE)
    inliers = float((weight > 0).sum() / max((trust > 0).sum(), 1))
    # What was taken for an outlier (a tool, say) does not count against the likeness, but against `inliers`.
    similarity = _similarity(observed, d, trust * (weight > 0))
    fit = Fit(volume_from_carm, covariance, scatter, similarity, inliers, iteration)
    return fit, step


def _weighted_solve(basis: FloatArray, weight: FloatArray, target: FloatArray) -> FloatArray:
    """Coefficients of the weighted least-squares fit of ``basis`` to ``target``, (8,) or (8, M)."""
    weighted = basis * weight
    gram = weighted @ basis.T
    gram += 1e-6 * np.trace(gram) * np.eye(len(gram), dtype=gram.dtype)
    solution: FloatArray = np.linalg.solve(gram, weighted @ target).astype(np.float32)
    return solution


def _similarity(observed: _Observed, predicted: FloatArray, weight: FloatArray) -> float:
    flat = np.stack([observed.line, predicted], axis=1)
    flat -= observed.background.T @ _weighted_solve(observed.background, weight, flat)
    (aa, ab), (_, bb) = (flat * weight[:, None]).T @ flat
    return float(ab / (np.sqrt(aa * bb) + 1e-12))
