"""What registering an image led to, and what the whole image says of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.registration.appearance import POSE_SCALE, Appearance
from navnode.types import Matrix

_CONVERGED_MM = 0.15
"""A last step larger than this has not arrived."""

_CONTRAST, _BEND = (0.6, 1.4), (-0.25, 0.03)
"""What chains do to the slope of the grey-value map, and to its curvature over its slope. Beams harden: dense paths
absorb less than in proportion to thin ones, never more."""

MODEL_ERROR = 3.0
"""Actual errors over the statistical sigma of independent pixels, as measured on X-rays of real and procedural
CTs (docs/registration.md): neighbouring residuals are not independent, and the model is not exact."""

NOISE_FLOOR = 0.01
"""Line-integral units; no fit is believed to be better than this."""


@dataclass(frozen=True)
class Fit:
    """Where a start led."""

    volume_from_carm: Matrix
    appearance: Appearance
    iterations: int
    step_mm: float
    """Size of the last step."""
    covariance: Matrix
    """6x6 of ``volume_from_carm @ exp(xi, pivot)``, rad and mm."""

    @classmethod
    def of(cls, volume_from_carm: Matrix, appearance: Appearance, iterations: int, step_mm: float) -> Fit:
        """With the covariance that the image alone gives."""
        if not np.isfinite(appearance.noise):
            return cls(volume_from_carm, appearance, iterations, step_mm, np.eye(6) * 1e6)
        information = appearance.hessian + 1e-9 * (np.trace(appearance.hessian) + 1.0) * np.eye(6)
        statistical = np.linalg.inv(information) / np.outer(POSE_SCALE, POSE_SCALE)
        covariance = (MODEL_ERROR * max(appearance.noise, NOISE_FLOOR)) ** 2 * statistical
        return cls(volume_from_carm, appearance, iterations, step_mm, covariance)

    @property
    def converged(self) -> bool:
        return self.step_mm <= _CONVERGED_MM

    @property
    def incredible(self) -> str:
        """Why image and volume cannot be of the same matter, or ''."""
        contrast, bend = self.appearance.contrast, self.appearance.bend
        if not _CONTRAST[0] <= contrast <= _CONTRAST[1]:
            return f"image and volume differ in contrast ({contrast:.2g} times)"
        if not _BEND[0] <= bend <= _BEND[1]:
            return f"image and volume differ in how much dense bone absorbs (bend {bend:.2g})"
        return ""

    @property
    def residual(self) -> float:
        return self.appearance.noise

    @property
    def similarity(self) -> float:
        return self.appearance.similarity

    @property
    def inliers(self) -> float:
        return self.appearance.inliers


@dataclass(frozen=True)
class Inspection:
    """What the whole image says of a fit."""

    detail: float
    """Correlation of the edges in image and model, counting noise allowed for, -1..1."""
    unexplained: float
    """Share of the image behind the volume that is far from the model: tools, and what is not of this patient."""
