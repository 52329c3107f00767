"""Model of the X-ray chain that turns line integrals into an image, fitted together with the pose.

With d the volume's projection, t = (d - mean) / spread, and y = -ln(counts):

    q = sum_b c_b phi_b(u, v) + a t + b t^2        gain and unevenness; beam hardening
    y ~ -ln(exp(-q) + sum_k s_k psi_k(u, v))       scatter, which adds to counts, not to line integrals

phi are 1, u, v, u^2, u v, v^2; psi are 1, the widely blurred image, and the widely blurred product of the image and its
line integrals (a ray scatters in proportion to the matter it crosses and the light that is left: Ohnesorge et al.,
Eur. Radiol. 9, 1999). All coefficients are fitted again at every pose with Tukey's weights (Holland and Welsch 1977)
and eliminated from the pose's normal equations (variable projection, Golub and Pereyra 1973). The sums are compiled:
native/fit.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from navnode import native
from navnode.types import Array, CArm, FloatArray, Matrix
from navnode.xray.counts import binned_counts, covered, saturation_of

__all__ = [
    "Appearance",
    "MODEL_SIGMA",
    "MOST_BODIES",
    "NOTHING",
    "Observed",
    "POSE_SCALE",
    "Residuals",
    "XrayImage",
    "between_neighbours",
    "fitted",
    "modelled",
    "residuals",
]

_ROTATION_SCALE_MM = 60.0
"""A rotation by 1 rad moves the image's content by about this much; balances the six parameters."""
POSE_SCALE = np.array([_ROTATION_SCALE_MM] * 3 + [1.0] * 3)

_TUKEY = 4.685
"""95 % efficiency for Gaussian residuals (Holland and Welsch 1977)."""

_MIN_PATH = 0.02
"""Line integral below which a ray misses the patient and carries no information."""

MODEL_SIGMA = 0.03
"""The model's own error where photons abound, line-integral units; noise below it does not raise a pixel's weight."""

_SCATTER_ERROR = 0.15
"""Relative error of the modelled scatter's shape."""

_SCATTER_SIGMA_MM = 45.0
_SPREAD_PX = 64
_NOISE_PX = 170
_LIT = 0.01
"""Share of the brightest; darker pixels are behind lead, where nothing is counted."""
_MEDIAN_CHI2 = 0.4549
"""Median of a squared standard normal."""

MOST_BODIES = 12
"""In one fit; as in native/fit.hpp."""

_PRIOR_SIGMA = (0.0, 0.5, 0.5, 0.3, 0.3, 0.3, 0.0, 0.3)
"""Priors of background and map, line-integral units; 0: free. Far wider than real chains need; they keep the fit stable
where an image shows little."""
_SCATTER_PRIOR_SIGMA = (0.1, 0.3, 0.1)


class _Pixels(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("counts", ctypes.c_void_p),
        ("trust", ctypes.c_void_p),
        ("background", ctypes.c_void_p),
        ("scatter", ctypes.c_void_p),
        ("backgrounds", ctypes.c_int32),
        ("scatters", ctypes.c_int32),
    )


class _Settings(ctypes.Structure):
    _fields_ = (
        ("pose_scale", ctypes.c_float * 6),
        ("prior_sigma", ctypes.c_float * 16),
        ("tukey", ctypes.c_float),
        ("min_path", ctypes.c_float),
        ("model_sigma", ctypes.c_float),
        ("scatter_error", ctypes.c_float),
        ("rounds", ctypes.c_int32),
        ("parameters", ctypes.c_int32),
        ("photons", ctypes.c_float),
    )


class _Solution(ctypes.Structure):
    _fields_ = (
        ("coefficient", ctypes.c_double * 16),
        ("hessian", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("noise", ctypes.c_double),
        ("similarity", ctypes.c_double),
        ("inliers", ctypes.c_double),
        ("contrast", ctypes.c_double),
        ("started", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Observed:
    """The N pixels of an image that a fit uses."""

    carm: CArm
    pixels: FloatArray | None
    """(N, 2) of (u, v) px, or None for the whole grid."""
    counts: FloatArray
    """(N,) as a share of the image's brightest; 1 where unknown."""
    trust: FloatArray
    """(N,) weight before the robust one; 0 where unknown."""
    background: FloatArray
    """(6, N)"""
    scatter: FloatArray
    """(0 or 3, N)"""
    photons: float
    """Share of the variance behind ``trust`` that is photons' noise for certain, 0..1."""


class XrayImage:
    """One X-ray image at the sizes that registration needs, each computed once.

    Args:
        counts: (H, W) from the detector.
        dark_share: share of the image that is known to be too dark to say anything, beside lead that is seen in it.
    """

    def __init__(self, counts: Array, carm: CArm, dark_share: float = 0.0) -> None:
        self._counts, self.carm = counts, carm
        self._saturated = saturation_of(counts)
        self._binned: dict[int, tuple[FloatArray, CArm]] = {}
        spread_px, _ = self.binned(_SPREAD_PX)
        known = spread_px[np.isfinite(spread_px)]
        self.brightest = max(float(np.percentile(known, 99)), 1e-6) if known.size else 1.0
        self._covered = covered(spread_px)
        self.covered_share = max(float(self._covered.mean()), dark_share)
        """Share of the image that collimator or lead cover, 0..1."""
        self._noise, self._photons = self._counts_per_photon()

    def misread(self) -> Iterator[XrayImage]:
        """The image, with its C-arm, as if the detector had been read out mirrored or turned by 90 degrees."""
        (u, v), (su, sv) = self.carm.principal_point_px, self.carm.pixel_spacing_mm
        width, height = self.carm.width_px, self.carm.height_px
        turned = replace(self.carm, width_px=height, height_px=width, pixel_spacing_mm=(sv, su))
        for counts, carm, middle in (
            (self._counts[:, ::-1], self.carm, (width - 1 - u, v)),
            (self._counts[::-1], self.carm, (u, height - 1 - v)),
            (np.rot90(self._counts), turned, (v, width - 1 - u)),
            (np.rot90(self._counts, -1), turned, (height - 1 - v, u)),
        ):
            yield XrayImage(np.ascontiguousarray(counts), replace(carm, principal_point_px=middle))

    def binned(self, image_px: int) -> tuple[FloatArray, CArm]:
        """Mean counts (H, W) at about ``image_px`` pixels across, NaN where saturated, and the matching C-arm."""
        factor = self._factor(image_px)
        if factor not in self._binned:
            binned = binned_counts(self._counts, factor, self._saturated)
            self._binned[factor] = (_at_centers(binned, factor), self.carm.binned(factor))
        return self._binned[factor]

    def _factor(self, image_px: int) -> int:
        return max(1, round(max(self.carm.width_px, self.carm.height_px) / image_px))

    def observed(self, image_px: int, pixels: FloatArray | None = None, *, scatter: bool = True) -> Observed:
        """The image at one size: all pixels, or only ``pixels`` (N, 2) at integer (u, v)."""
        binned, carm = self.binned(image_px)
        if pixels is None:
            v, u = np.mgrid[: carm.height_px, : carm.width_px]
            u, v = u.ravel(), v.ravel()
            counts = binned.ravel() / np.float32(self.brightest)
        else:
            u, v = pixels.astype(np.int64).T
            counts = binned[v, u] / np.float32(self.brightest)
        x = (2 * u / max(carm.width_px - 1, 1) - 1).astype(np.float32)
        y = (2 * v / max(carm.height_px - 1, 1) - 1).astype(np.float32)
        known = np.isfinite(counts)
        if self.covered_share:
            height, width = self._covered.shape
            known &= ~self._covered[
                np.rint((y + 1) / 2 * (height - 1)).astype(int), np.rint((x + 1) / 2 * (width - 1)).astype(int)
            ]
        noise = self._noise * (carm.pixel_spacing_mm[0] / self.carm.pixel_spacing_mm[0]) ** -2 / self.brightest
        counts = np.where(known, np.maximum(counts, max(noise, 1e-6)), 1.0).astype(np.float32)
        trust = np.where(known, MODEL_SIGMA**2 / (MODEL_SIGMA**2 + noise / counts), 0.0).astype(np.float32)
        background = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
        spread = self._spread_at(x, y) if scatter else np.empty((0, x.size), np.float32)
        return Observed(carm, pixels, counts, trust, background, spread, self._photons)

    def _counts_per_photon(self) -> tuple[float, float]:
        """Variance over mean of one detector pixel at any gain, from differences of neighbours: the anatomy's gradients
        are in it. And the share of it that is photons' for certain: second differences both ways hardly see anatomy.
        """
        factor = self._factor(_NOISE_PX)
        plain = binned_counts(self._counts, factor, self._saturated)[: self.carm.height_px // factor // 4 * 4]
        binned, carm = self.binned(_NOISE_PX)
        rows = binned[::4]
        with np.errstate(invalid="ignore", divide="ignore"):
            total = rows[:, 1:] + rows[:, :-1]
            ratio = (rows[:, 1:] - rows[:, :-1]) ** 2 / total
            across = plain[:, 2:] - 2 * plain[:, 1:-1] + plain[:, :-2]
            curved = (across[::4] - 2 * across[1::4] + across[2::4]) ** 2 / (36 * plain[1::4, 1:-1])
        ratio = ratio[np.isfinite(ratio) & (total > _LIT * self.brightest)]
        curved = curved[np.isfinite(curved) & (plain[1::4, 1:-1] > _LIT * self.brightest)]
        if not (ratio.size and curved.size):
            return 1.0, 0.0
        pixels = (carm.pixel_spacing_mm[0] / self.carm.pixel_spacing_mm[0]) ** 2
        variance = float(np.median(ratio)) / _MEDIAN_CHI2 * pixels
        return variance, min(float(np.median(curved)) / _MEDIAN_CHI2 * pixels / max(variance, 1e-12), 1.0)

    def _spread_at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Basis of scatter shapes (3, N) at (x, y) in -1..1 across the image."""
        from scipy.ndimage import map_coordinates  # here: it takes longer to import than all else that a node needs

        shapes = self._spread
        height, width = shapes[0].shape
        u, v = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
        spread = np.empty((3, x.size), np.float32)
        spread[0] = 1.0
        for k, shape in enumerate(shapes):
            map_coordinates(shape, (v, u), spread[k + 1], order=1, mode="nearest")
        return spread

    @cached_property
    def _spread(self) -> tuple[FloatArray, FloatArray]:
        small, carm = self.binned(_SPREAD_PX)
        light = np.nan_to_num(small / np.float32(self.brightest), nan=1.0)
        crossed = -np.log(np.clip(light, 1e-4, 1.0))
        return _spread_widely(light, carm), _spread_widely(light * crossed, carm)


def _spread_widely(image: FloatArray, carm: CArm) -> FloatArray:
    sigma_px = _SCATTER_SIGMA_MM / carm.pixel_spacing_mm[0]
    blurred: FloatArray = cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _at_centers(binned: FloatArray, factor: int) -> FloatArray:
    """Counts on a ray through each binned pixel's centre, to second order, from means over pixels.

    A mean over ``factor`` samples is the centre's value plus half the samples' variance, (factor^2 - 1) / 12, times the
    second derivative. The projector computes rays; comparing them with means would shift outlines outward, and depth
    with them.
    """
    if factor == 1:
        return binned
    share = (1 - factor**-2) / 24
    kernel = np.array([[0, -share, 0], [-share, 1 + 4 * share, -share], [0, -share, 0]], np.float32)
    sharpened: FloatArray = cv2.filter2D(binned, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    limited: FloatArray = np.maximum(sharpened, np.float32(0.25) * binned)
    return limited


@dataclass(frozen=True)
class Appearance:
    """The fitted chain at a pose, and the normal equations of the pose."""

    coefficients: Array
    """(16,) to start from at the next pose."""
    hessian: Matrix
    """6x6, for the pose times ``POSE_SCALE``; (6 bodies, 6 bodies) for several."""
    gradient: Matrix
    """(6,); (6 bodies,)"""
    noise: float
    """Robust standard deviation of image minus model, line-integral units; inf: too little is visible."""
    similarity: float
    """Correlation of image and model over the inliers, smooth background and photons' noise removed, -1..1."""
    inliers: float
    """Share of the trusted pixels that the robust estimate kept, 0..1."""
    bend: float
    """Curvature over slope of the grey-value map, per spread of the line integrals; below 0: the beam hardens."""
    contrast: float
    """Change of the image per change of the volume's line integrals; about 1 if both are calibrated."""


def modelled(
    observed: Observed, predicted: FloatArray, appearance: Appearance, fitted_to: FloatArray | None = None
) -> FloatArray:
    """-ln of the counts that the model expects for line integrals ``predicted`` (N,).

    Args:
        fitted_to: (N,), those that the appearance was fitted with, if these are others.
    """
    scale = predicted if fitted_to is None else fitted_to
    backgrounds, scatters = len(observed.background), len(observed.scatter)
    coefficients = appearance.coefficients[: backgrounds + 2 + scatters].astype(np.float32)
    c, (a, b), s = np.split(coefficients, [backgrounds, backgrounds + 2])
    t = (predicted - scale.mean()) / (scale.std() + np.float32(1e-6))
    q = c @ observed.background + (a + b * t) * t
    light: FloatArray = np.exp(-np.clip(q, -30, 25)) + s @ observed.scatter
    return -np.log(light)


@dataclass(frozen=True)
class Residuals:
    """What a fitted chain leaves of an image, pixel by pixel."""

    residual: FloatArray
    """(N,) image minus model, line-integral units."""
    weight: FloatArray
    """(N,) trust times Tukey's weight."""
    slope: FloatArray
    """(N,) change of the model per change of the volume's line integral."""
    terms: FloatArray
    """(K, N) change of the model by the chain's terms: background, map, scatter."""


def residuals(observed: Observed, predicted: FloatArray, appearance: Appearance) -> Residuals:
    """What a chain fitted at line integrals ``predicted`` (N,) leaves, and how the model changes, as in the fit."""
    backgrounds, scatters = len(observed.background), len(observed.scatter)
    coefficients = appearance.coefficients[: backgrounds + 2 + scatters].astype(np.float32)
    c, (a, b), s = np.split(coefficients, [backgrounds, backgrounds + 2])
    spread = predicted.std() + np.float32(1e-6)
    t = (predicted - predicted.mean()) / spread
    primary = np.exp(-np.clip(c @ observed.background + (a + b * t) * t, -30, 25))
    light = primary + s @ observed.scatter
    share = primary / light
    residual = np.log(light) - np.log(observed.counts)
    scattered = (1 - share) * np.float32(_SCATTER_ERROR / MODEL_SIGMA)
    trust = np.where(predicted > _MIN_PATH, observed.trust, 0) / (1 + scattered**2 * observed.trust)
    beyond = np.abs(residual) * np.sqrt(trust) / np.float32(_TUKEY * appearance.noise)
    return Residuals(
        residual,
        trust * np.maximum(1 - beyond**2, 0) ** 2,
        share * (a + 2 * b * t) / spread,
        np.concatenate([share * observed.background, [share * t, share * t * t], -observed.scatter / light]),
    )


def between_neighbours(residual: FloatArray, weight: FloatArray) -> float:
    """Sum of squares of that part of an image (H, W) that neighbours do not share: noise of photons, not of a model."""
    across = np.minimum(weight[:, 1:], weight[:, :-1]) * np.square(residual[:, 1:] - residual[:, :-1])
    down = np.minimum(weight[1:], weight[:-1]) * np.square(residual[1:] - residual[:-1])
    return float(across.sum(dtype=np.float64) + down.sum(dtype=np.float64)) / 4


def fitted(
    observed: Observed,
    predicted: FloatArray,
    jacobian: FloatArray | None = None,
    before: Appearance | None = None,
    rounds: int = 3,
    instruction_set: str | None = None,
) -> Appearance:
    """Fit the chain to an image at one pose, or at those of several bodies, and linearise in them.

    Args:
        predicted: (N,) line integrals of all that is there.
        jacobian: (6, N) their pose derivatives; (6 bodies, N), at most :data:`MOST_BODIES`.
        before: the fit at a pose nearby, to start from.
        rounds: number of re-weightings.
        instruction_set: one of ``native.instruction_sets()``; default: the best.
    """
    pixels = _Pixels(
        count=observed.counts.size,
        counts=observed.counts.ctypes.data,
        trust=observed.trust.ctypes.data,
        background=observed.background.ctypes.data,
        scatter=observed.scatter.ctypes.data,
        backgrounds=len(observed.background),
        scatters=len(observed.scatter),
    )
    parameters = 6 if jacobian is None else len(jacobian)
    if parameters % 6 or parameters > 6 * MOST_BODIES:
        raise ValueError(f"derivatives of {parameters} parameters")
    settings = _Settings(
        tukey=_TUKEY,
        min_path=_MIN_PATH,
        model_sigma=MODEL_SIGMA,
        scatter_error=_SCATTER_ERROR,
        rounds=rounds,
        parameters=parameters,
        photons=observed.photons,
    )
    settings.pose_scale[:] = POSE_SCALE.tolist()
    priors = _PRIOR_SIGMA + _SCATTER_PRIOR_SIGMA[: len(observed.scatter)]
    settings.prior_sigma[: len(priors)] = priors
    hessian, gradient = np.zeros((parameters, parameters)), np.zeros(parameters)
    solution = _Solution(hessian=hessian.ctypes.data, gradient=gradient.ctypes.data)
    if before is not None and np.isfinite(before.noise):
        solution.coefficient[:] = before.coefficients.tolist()
        solution.started = 1
    native.library().navnode_fit(
        native.instruction_sets().index(instruction_set) if instruction_set else 0,
        ctypes.byref(pixels),
        ctypes.byref(settings),
        predicted.ctypes.data,
        None if jacobian is None else jacobian.ctypes.data,
        ctypes.byref(solution),
    )
    map_at = len(observed.background)
    fit = Appearance(
        np.array(solution.coefficient),
        hessian,
        gradient,
        solution.noise,
        solution.similarity,
        solution.inliers,
        solution.coefficient[map_at + 1] / (abs(solution.coefficient[map_at]) + 1e-9),
        solution.contrast,
    )
    finite = all(np.isfinite(part).all() for part in (fit.coefficients, fit.hessian, fit.gradient, fit.similarity))
    return fit if finite and np.isfinite(fit.noise) else NOTHING


NOTHING = Appearance(np.zeros(16), np.zeros((6, 6)), np.zeros(6), np.inf, 0.0, 0.0, 0.0, 0.0)
