"""Result of fitting a pose to an image, and of comparing the whole image with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.registration.appearance import POSE_SCALE, Appearance
from navnode.types import CArm, FloatArray, Matrix

__all__ = ["Expected", "Fit", "Inspection", "MODEL_ERROR", "NOISE_FLOOR", "Turn"]

_CONVERGED_MM = 0.15
"""A fit whose last step is larger has not converged."""

_CONTRAST, _BEND = (0.6, 1.4), (-0.25, 0.03)
"""Plausible ranges of the grey-value map's slope, and of its curvature over its slope. Beams harden: dense paths
absorb less than in proportion to thin ones, never more."""

MODEL_ERROR = 3.0
"""Ratio of actual errors to the statistical sigma of independent pixels, measured on X-rays of real and procedural
CTs (docs/registration.md): neighbouring residuals are not independent, and the model is not exact."""

NOISE_FLOOR = 0.01
"""Line-integral units; a fit's noise is never assumed to be lower."""


@dataclass(frozen=True)
class Fit:
    """The pose that a fit reached from its start."""

    volume_from_carm: Matrix
    appearance: Appearance
    iterations: int
    step_mm: float
    """Size of the last step."""
    covariance: Matrix
    """6x6 of ``volume_from_carm @ exp(xi, pivot)``, rad and mm."""

    @classmethod
    def of(cls, volume_from_carm: Matrix, appearance: Appearance, iterations: int, step_mm: float) -> Fit:
        """A fit with the covariance from the image alone."""
        if not np.isfinite(appearance.noise):
            return cls(volume_from_carm, appearance, iterations, step_mm, np.eye(6) * 1e6)
        information = appearance.hessian + 1e-9 * (np.trace(appearance.hessian) + 1.0) * np.eye(6)
        statistical = np.linalg.inv(information) / np.outer(POSE_SCALE, POSE_SCALE)
        covariance = (MODEL_ERROR * max(appearance.noise, NOISE_FLOOR)) ** 2 * statistical
        return cls(volume_from_carm, appearance, iterations, step_mm, covariance)

    @property
    def converged(self) -> bool:
        """Whether the last step was short enough."""
        return self.step_mm <= _CONVERGED_MM

    @property
    def incredible(self) -> str:
        """Why image and volume cannot show the same object, or ''."""
        contrast, bend = self.appearance.contrast, self.appearance.bend
        if not _CONTRAST[0] <= contrast <= _CONTRAST[1]:
            return f"image and volume differ in contrast ({contrast:.2g} times)"
        if not _BEND[0] <= bend <= _BEND[1]:
            return f"image and volume differ in how much dense bone absorbs (bend {bend:.2g})"
        return ""

    @property
    def residual(self) -> float:
        """Robust standard deviation of image minus model, line-integral units."""
        return self.appearance.noise

    @property
    def similarity(self) -> float:
        """Correlation of image and model, -1..1."""
        return self.appearance.similarity

    @property
    def inliers(self) -> float:
        """Share of the trusted pixels that the robust estimate kept, 0..1."""
        return self.appearance.inliers


@dataclass(frozen=True)
class Inspection:
    """Comparison of the whole image with a fit."""

    detail: float
    """Correlation of the edges in image and model, corrected for counting noise, -1..1."""
    unexplained: float
    """Share of the image behind the volume that is far from the model: tools, and anything foreign to this patient."""


@dataclass(frozen=True)
class Turn:
    """How detail changes along one motion of the C-arm."""

    way: Matrix
    """(6,), the motion."""
    slope: FloatArray
    """(H, W), its first difference."""
    bend: FloatArray
    """(H, W), its second difference."""


@dataclass(frozen=True)
class Expected:
    """Detail that a pose lets expect, and how it changes with pose and smear; kept for the next frames."""

    volume_from_carm: Matrix
    carm: CArm
    basis: FloatArray
    """(9, H, W): gain, hardening; shifts, scale, roll; second derivatives xx + yy, xx - yy, xy."""
    inside: FloatArray
    """(H, W)"""
    turn: Turn | None = None
    """Along the C-arm's own motion; None: it rests, or nobody asked."""
