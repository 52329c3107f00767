"""May one frame's registration be trusted? Several signs, because no single one predicts the error."""

from __future__ import annotations

import numpy as np

from navnode.registration.tracking import Fit
from navnode.types import Status, Validity

# Correct fits of simulated frames (seven real CTs, a procedural torso; noise, scatter, gain, a tool) end at similarity
# 0.97-1.0, residual 0.008-0.065 and inliers 0.95-0.99. Fits of another patient, of mirrored, transposed or blank
# images end below similarity 0.89 or above residual 0.10; fits caught in a wrong optimum above residual 0.075.
VALID_SIMILARITY, DEGRADED_SIMILARITY = 0.97, 0.93
VALID_RESIDUAL, DEGRADED_RESIDUAL = 0.07, 0.10
MIN_INLIERS = 0.80
MAX_DEPTH_SIGMA_MM = 8.0


# A volume from a few X-rays is itself only a likeness: frames of new directions end at similarity 0.83-0.94 and
# residual 0.1-0.2 at the right pose. Never VALID; what keeps it honest is the agreement with the tracker.
SPARSE_SIMILARITY, SPARSE_RESIDUAL = 0.75, 0.30


def assess(fit: Fit, timestamp_ns: int = 0, *, sparse_volume: bool = False) -> Validity:
    """VALID, DEGRADED or INVALID for one fit by itself, before it is compared with the tracker.

    Args:
        sparse_volume: the volume was made from a few X-rays, not from a CT.
    """
    status, reason = _sparse_verdict(fit) if sparse_volume else _verdict(fit)
    return Validity(status, reason, timestamp_ns)


def _sparse_verdict(fit: Fit) -> tuple[Status, str]:
    fits = fit.similarity >= SPARSE_SIMILARITY and fit.residual <= SPARSE_RESIDUAL and fit.inliers >= MIN_INLIERS
    if not (fits and _finite(fit)):
        return Status.INVALID, f"image and reconstruction do not match (similarity {fit.similarity:.2f})"
    return Status.DEGRADED, "registered to a volume made from a few X-rays"


def _verdict(fit: Fit) -> tuple[Status, str]:
    # Conditions are written for what must hold: a number that is none fails them.
    depth_sigma_mm = float(fit.covariance[5, 5]) ** 0.5
    if not fit.similarity >= DEGRADED_SIMILARITY:
        return Status.INVALID, f"image and volume do not match (similarity {fit.similarity:.2f})"
    if not fit.residual <= DEGRADED_RESIDUAL:
        return Status.INVALID, f"image and volume do not match (residual {fit.residual:.2f})"
    if not fit.inliers >= MIN_INLIERS:
        return Status.INVALID, f"too much of the image is not explained ({1 - fit.inliers:.0%})"
    if not (depth_sigma_mm <= MAX_DEPTH_SIGMA_MM and _finite(fit)):
        return Status.INVALID, f"the image does not fix the depth (sigma {depth_sigma_mm:.1f} mm)"
    if fit.similarity < VALID_SIMILARITY or fit.residual > VALID_RESIDUAL:
        return Status.DEGRADED, f"image and volume match poorly (similarity {fit.similarity:.2f})"
    return Status.VALID, ""


def _finite(fit: Fit) -> bool:
    return bool(np.isfinite(fit.volume_from_carm).all() and np.isfinite(fit.covariance).all())
