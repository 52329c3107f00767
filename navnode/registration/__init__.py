"""2D/3D registration: where did the C-arm stand relative to the volume when it took this image?

:mod:`tracking` refines a pose that is close, :mod:`search` finds one from far away, :mod:`quality` says whether
the result may be trusted, :mod:`fusion` keeps the patient's registration over many frames.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from navnode.errors import ConfigError
from navnode.imaging import blank_reason
from navnode.registration.quality import assess
from navnode.registration.appearance import Image
from navnode.registration.search import FAR, NEAR, Found, find_pose, rank
from navnode.registration.tracking import Fit, ImageRegistration
from navnode.types import Array, CArm, Effort, Matrix, Registration, View, Volume, invalid

__all__ = ["Image", "ImageRegistration", "register", "register_counts"]

_FULL_SCALE_COUNTS = 60_000.0


def register(
    volume: Volume, views: Sequence[View], *, effort: Effort = Effort.REFINE, pivot_mm: float | None = None
) -> list[Registration]:
    """Register each view by itself, starting from its ``volume_from_carm``.

    Args:
        volume: HU.
        effort: how far off the starts may be.
        pivot_mm: source-to-anatomy distance; default: to the middle of the volume, per view.

    Raises:
        ConfigError: a view has no starting pose.
    """
    registration = ImageRegistration(volume)
    results = []
    for index, view in enumerate(views):
        if view.volume_from_carm is None:
            raise ConfigError(f"view {index} has no volume_from_carm to start from")
        depth_mm = pivot_mm or float(np.linalg.norm(volume.center_mm - view.volume_from_carm[:3, 3]))
        brightest = np.nanmin(view.line_integrals)
        counts = np.nan_to_num(_FULL_SCALE_COUNTS * np.exp(brightest - view.line_integrals), nan=65_535.0)
        results.append(
            register_counts(registration, counts, view.carm, view.volume_from_carm, depth_mm, effort, view.timestamp_ns)
        )
    return results


def register_counts(
    registration: ImageRegistration,
    counts: Array,
    carm: CArm,
    start_volume_from_carm: Matrix,
    pivot_mm: float,
    effort: Effort,
    timestamp_ns: int = 0,
    *,
    sparse_volume: bool = False,
) -> Registration:
    """Register one image of detector counts (H, W); ``sparse_volume``: see :func:`quality.assess`."""
    started = time.perf_counter()
    if reason := blank_reason(counts):
        verdict = invalid(reason, timestamp_ns)
        nothing = np.eye(6) * 1e6
        return Registration(
            start_volume_from_carm, verdict, float("inf"), 0.0, nothing, pivot_mm, 0, 0.0, informative=False
        )
    fit = _found(registration, Image(counts, carm), start_volume_from_carm, pivot_mm, effort).fit
    return Registration(
        volume_from_carm=fit.volume_from_carm,
        validity=assess(fit, timestamp_ns, sparse_volume=sparse_volume),
        residual=fit.residual,
        similarity=fit.similarity,
        covariance=fit.covariance,
        pivot_mm=pivot_mm,
        iterations=fit.iterations,
        elapsed_ms=1e3 * (time.perf_counter() - started),
    )


_CONVINCING_SIMILARITY, _CONVINCING_RESIDUAL = 0.985, 0.04
"""A fit like this needs no other to compare it with."""


def _convincing(fit: Fit) -> bool:
    likely = fit.similarity >= _CONVINCING_SIMILARITY and fit.residual <= _CONVINCING_RESIDUAL
    return likely and fit.credible and fit.converged


def _found(
    registration: ImageRegistration, image: Image, start_volume_from_carm: Matrix, pivot_mm: float, effort: Effort
) -> Found:
    """As little work as convinces, as much as the effort allows."""
    if effort is Effort.TRACK and (fit := registration.track(image, start_volume_from_carm, pivot_mm)):
        return Found(fit, None)
    fit = registration.fit(image, start_volume_from_carm, pivot_mm)
    best = Found(fit, None)
    if effort is Effort.TRACK or _convincing(fit):
        return best
    for reach in (NEAR, FAR) if effort is Effort.SEARCH else (NEAR,):
        found = find_pose(registration, image, start_volume_from_carm, pivot_mm, reach)
        if rank(found.fit) < rank(best.fit):
            best = found
        if _convincing(best.fit):
            break
    return best
