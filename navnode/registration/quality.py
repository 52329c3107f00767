"""Whether one frame's registration can be trusted, by several criteria, as no single one predicts the error.

The fit's own figures (similarity, residual, outliers, contrast, convergence, depth) show whether the volume explains
the image at the pixels that determined the pose. :func:`inspect` checks details in the whole image: the outline of a
body fits many bodies, the edges inside it fit only one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import cv2
import numpy as np

from navnode.registration.appearance import MODEL_SIGMA, XrayImage, fitted, modelled
from navnode.registration.fit import Fit, Inspection
from navnode.registration.tracking import ImageRegistration
from navnode.types import CArm, FloatArray, Status

__all__ = [
    "CERTAIN_DETAIL",
    "CERTAIN_RESIDUAL",
    "CLEAR_BEND",
    "DEGRADED_DETAIL",
    "DEGRADED_RESIDUAL",
    "DEGRADED_SIMILARITY",
    "Doubt",
    "INVERTED",
    "LIKELY_DETAIL",
    "LIKELY_RESIDUAL",
    "MAX_COVERED",
    "MAX_DEPTH_SIGMA_MM",
    "MAX_UNEXPLAINED",
    "MIN_INLIERS",
    "NOTHING",
    "RUNNER_UP",
    "SPARSE_RESIDUAL",
    "SPARSE_SIMILARITY",
    "VALID_BEND",
    "VALID_DETAIL",
    "VALID_RESIDUAL",
    "VALID_SIMILARITY",
    "assess",
    "assess_sparse",
    "compared",
    "doubt",
    "inspect",
    "inspect_tracked",
]

_INSPECTED_PX = 64
_INSPECTED_EVERY = 5
"""One in so many tracked frames is inspected: details change no faster, and inspection takes as long as tracking."""
_DETAIL_PX = 1.2
"""Structures up to about this size count as detail, in an image of ``_INSPECTED_PX``."""
_DETAIL_NOISE = 0.84
"""Share of white noise that passes the filter for detail: 1 - 2 G(0) + sum G^2."""
_UNEXPLAINED = 0.25
"""Residual that shows a tool or another body, line-integral units at pixels with enough photons; fits stay below it."""

# Tuned on X-rays of some CTs, reported on others: docs/registration.md.
VALID_SIMILARITY, DEGRADED_SIMILARITY = 0.95, 0.93
VALID_RESIDUAL, DEGRADED_RESIDUAL = 0.07, 0.10
VALID_DETAIL, DEGRADED_DETAIL = 0.975, 0.93
VALID_BEND = (-0.12, 0.012)
"""Curvature over slope of the grey-value map; see ``Fit.incredible``."""
CLEAR_BEND = 0.025
"""Its upper limit where little is left unexplained: outlines that a correction of the image has made soft, or that are
a fraction of a pixel off, bend the map upwards, too. Images of something else leave more unexplained."""
_SEEMS_INVERTED = 0.8
"""Similarity from which a picture with bright bone is this volume's; mirrored and covered ones stay below it."""
MAX_COVERED = 0.5
MIN_INLIERS = 0.80
MAX_UNEXPLAINED = 0.30
MAX_DEPTH_SIGMA_MM = 2.5
CERTAIN_RESIDUAL, LIKELY_RESIDUAL = 0.012, 0.018
CERTAIN_DETAIL, LIKELY_DETAIL = 0.99, 0.984
"""Fits better than the first leave only noise unexplained, those between the two a little, all others much."""
RUNNER_UP = 1.5
"""Another pose may be the right one if it leaves less than this many times as much unexplained."""


# A volume from a few X-rays is only an approximation: frames from new directions reach similarity 0.83-0.94 and
# residual 0.1-0.2 at the right pose. Never VALID; agreement with the tracker is the safeguard.
SPARSE_SIMILARITY, SPARSE_RESIDUAL = 0.75, 0.30


NOTHING = Inspection(0.0, 1.0)


def inspect(registration: ImageRegistration, image: XrayImage, fit: Fit) -> Inspection:
    """Compare image and model at a fit's pose, ignoring tools."""
    if not np.isfinite(fit.appearance.noise):
        return NOTHING
    return compared(image, lambda carm: registration.fine.projector.render(carm, fit.volume_from_carm))


def compared(image: XrayImage, render: Callable[[CArm], FloatArray]) -> Inspection:
    """Compare an image and what should be in it, ignoring tools.

    Args:
        render: makes the line integrals (H, W) of all that should be in it.
    """
    observed = image.observed(_INSPECTED_PX)
    predicted = render(observed.carm)
    shape = predicted.shape
    appearance = fitted(observed, predicted.ravel(), rounds=4)
    if not np.isfinite(appearance.noise):
        return NOTHING
    model = modelled(observed, predicted.ravel(), appearance).reshape(shape)
    line = -np.log(observed.counts).reshape(shape)
    trust = observed.trust.reshape(shape)
    inside = (predicted > 0.02) & (trust > 0)
    off = inside & (np.abs(line - model) * np.sqrt(trust) > _UNEXPLAINED)
    weight = np.where(inside & (cv2.dilate(off.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0), trust, 0.0)
    visible, expected = _detail(np.where(weight > 0, line, model).astype(np.float32)), _detail(model)
    noise = float((weight * MODEL_SIGMA**2 * (1 / np.maximum(trust, 1e-6) - 1)).sum()) * _DETAIL_NOISE
    energy = float((weight * visible * visible).sum())
    expected_energy = float((weight * expected * expected).sum())
    together = float((weight * visible * expected).sum())
    detail = together / (np.sqrt(max(energy - noise, 0.1 * energy) * expected_energy) + 1e-12)
    return Inspection(detail, float(off.sum() / max(inside.sum(), 1)))


def inspect_tracked(registration: ImageRegistration, image: XrayImage, fit: Fit) -> Inspection:
    """:func:`inspect` every few tracked frames; the frames between reuse the last result."""
    last = registration.inspected
    if last is not None and last[1] + 1 < _INSPECTED_EVERY:
        registration.inspected = (last[0], last[1] + 1)
        return last[0]
    inspection = inspect(registration, image, fit)
    registration.inspected = (inspection, 0)
    return inspection


def _detail(image: FloatArray) -> FloatArray:
    smooth: FloatArray = cv2.GaussianBlur(image, (0, 0), _DETAIL_PX)
    return image - smooth


INVERTED = (Status.INVALID, "the image looks inverted: bone must be dark, as in detector counts")


class Doubt(Enum):
    """How likely a VALID fit belongs to an image that was read out mirrored or turned."""

    NONE = "none"
    """Only noise is left unexplained."""
    LITTLE = "little"
    """Seen with mirrored images of symmetric anatomy."""
    MUCH = "much"
    """Seen with mirrored images of small blocks of bone."""


def doubt(fit: Fit, inspection: Inspection) -> Doubt:
    """Doubt about a fit, from what it leaves unexplained."""
    if not (fit.residual <= LIKELY_RESIDUAL and inspection.detail >= LIKELY_DETAIL):
        return Doubt.MUCH
    if not (fit.residual <= CERTAIN_RESIDUAL and inspection.detail >= CERTAIN_DETAIL):
        return Doubt.LITTLE
    return Doubt.NONE


def assess_sparse(fit: Fit) -> tuple[Status, str]:
    """DEGRADED or INVALID, and why, for a fit to a volume made from a few X-rays."""
    fits = fit.similarity >= SPARSE_SIMILARITY and fit.residual <= SPARSE_RESIDUAL and fit.inliers >= MIN_INLIERS
    if not (fits and _finite(fit)):
        return Status.INVALID, f"image and reconstruction do not match (similarity {fit.similarity:.2f})"
    return Status.DEGRADED, "registered to a volume made from a few X-rays"


def assess(fit: Fit, inspection: Inspection, covered_share: float, runner_up: Fit | None = None) -> tuple[Status, str]:
    """VALID, DEGRADED or INVALID, and why, for one fit alone, before it is compared with the tracker.

    Args:
        covered_share: share of the image that collimator or lead cover.
        runner_up: the best fit somewhere else, after a search.
    """
    # Every condition states what must hold, so NaN fails it.
    depth_sigma_mm = float(fit.covariance[5, 5]) ** 0.5
    if not fit.appearance.contrast > 0 and fit.similarity > _SEEMS_INVERTED:
        return INVERTED
    if not fit.similarity >= DEGRADED_SIMILARITY:
        return Status.INVALID, f"image and volume do not match (similarity {fit.similarity:.2f})"
    if fit.incredible:
        return Status.INVALID, fit.incredible
    if not fit.residual <= DEGRADED_RESIDUAL:
        return Status.INVALID, f"image and volume do not match (residual {fit.residual:.2f})"
    if not (fit.inliers >= MIN_INLIERS and inspection.unexplained <= MAX_UNEXPLAINED):
        unexplained = max(1 - fit.inliers, inspection.unexplained)
        return Status.INVALID, f"too much of the image is not explained ({unexplained:.0%})"
    if not inspection.detail >= DEGRADED_DETAIL:
        return Status.INVALID, f"outlines match, details do not ({inspection.detail:.2f})"
    if not (depth_sigma_mm <= MAX_DEPTH_SIGMA_MM and _finite(fit)):
        return Status.INVALID, f"the image does not fix the depth (sigma {depth_sigma_mm:.1f} mm)"
    if not fit.converged:
        return Status.DEGRADED, "the registration has not settled"
    if not fit.similarity >= VALID_SIMILARITY:
        figure = f"similarity {fit.similarity:.3f}, VALID from {VALID_SIMILARITY:g}"
        return Status.DEGRADED, f"image and volume match poorly ({figure})"
    if not fit.residual <= VALID_RESIDUAL:
        figure = f"residual {fit.residual:.3f}, VALID up to {VALID_RESIDUAL:g}"
        return Status.DEGRADED, f"image and volume match poorly ({figure})"
    if not inspection.detail >= VALID_DETAIL:
        return Status.DEGRADED, f"details match poorly ({inspection.detail:.3f}, VALID from {VALID_DETAIL:g})"
    if not covered_share <= MAX_COVERED:
        figure = f"{covered_share:.0%} of the image"
        return Status.DEGRADED, f"{figure} are covered by collimator or lead (VALID up to {MAX_COVERED:.0%})"
    most = VALID_BEND[1] if doubt(fit, inspection) is Doubt.MUCH else CLEAR_BEND
    if not VALID_BEND[0] <= fit.appearance.bend <= most:
        return Status.DEGRADED, "image and volume differ in how much dense bone absorbs"
    if (
        runner_up is not None
        and not runner_up.incredible
        and 1 - runner_up.similarity < RUNNER_UP * (1 - fit.similarity)
    ):
        return Status.DEGRADED, "another pose fits nearly as well"
    return Status.VALID, ""


def _finite(fit: Fit) -> bool:
    return bool(np.isfinite(fit.volume_from_carm).all() and np.isfinite(fit.covariance).all())
