"""One X-ray, or several that share one motion of the patient: from counts to a result that says how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.registration.appearance import Image
from navnode.registration.fit import Fit, Inspection
from navnode.registration.joint import JointView, fit_jointly
from navnode.registration.quality import INVERTED, Doubt, assess, assess_sparse, doubt, inspect, inspect_tracked
from navnode.registration.search import FAR, NEAR, Found, Reach, convincing, find_pose, rank
from navnode.registration.tracking import ImageRegistration
from navnode.types import Array, CArm, Effort, Matrix, Registration, Status, Validity, View, Volume, invalid
from navnode.xray.counts import blank_reason

_FULL_SCALE_COUNTS = 60_000.0
_MISREAD_LIKENESS = 0.01
"""In similarity on small pictures; the right reading of a mirrored image is the better one there already."""

_INVERTED_SIMILARITY = 0.9
"""On small pictures; mirrored, turned and empty images that seem inverted stay below 0.8."""

_REACHES: dict[Effort, tuple[Reach, ...]] = {
    Effort.TRACK: (), Effort.REFINE: (), Effort.FIND: (NEAR,), Effort.SEARCH: (NEAR, FAR),
}  # fmt: skip


def register(
    volume: Volume,
    views: Sequence[View],
    *,
    effort: Effort = Effort.FIND,
    joint: bool = False,
    pivot_mm: float | None = None,
    threads: int | None = None,
) -> list[Registration]:
    """Register views, each by itself or all together, starting from their ``volume_from_carm``.

    Args:
        volume: HU.
        effort: how far off the starts may be.
        joint: the views share one rigid motion of the patient: their starts are right relative to each other.
        pivot_mm: source-to-anatomy distance; default: to the middle of the volume, per view.
        threads: for the projector; default: all.

    Raises:
        ConfigError: a view has no starting pose.
    """
    registration = ImageRegistration(volume, threads)
    shots = []
    for index, view in enumerate(views):
        if view.volume_from_carm is None:
            raise ConfigError(f"view {index} has no volume_from_carm to start from")
        brightest = np.nanmin(view.line_integrals)
        counts = np.nan_to_num(_FULL_SCALE_COUNTS * np.exp(brightest - view.line_integrals), nan=65_535.0)
        depth_mm = pivot_mm or distance_mm(volume, view.volume_from_carm)
        shots.append((counts, view.carm, view.volume_from_carm, depth_mm, view.timestamp_ns))
    if joint:
        return register_jointly(registration, shots, effort)
    return [
        register_counts(registration, counts, carm, start, depth_mm, effort, timestamp_ns)
        for counts, carm, start, depth_mm, timestamp_ns in shots
    ]


def distance_mm(volume: Volume, volume_from_carm: Matrix) -> float:
    """From the source to the middle of the volume: about where rotations should turn."""
    return float(np.linalg.norm(volume.center_mm - volume_from_carm[:3, 3]))


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
    """Register one image of detector counts (H, W); ``sparse_volume``: to a volume made from a few X-rays."""
    started = time.perf_counter()
    if reason := blank_reason(counts):
        return _unseen(reason, start_volume_from_carm, pivot_mm, timestamp_ns)
    image = Image(counts, carm)
    found = _found(registration, image, start_volume_from_carm, pivot_mm, effort)
    if sparse_volume:
        return _told(found.fit, assess_sparse(found.fit), pivot_mm, timestamp_ns, started)
    inspection = _inspected(registration, image, found)
    verdict = assess(found.fit, inspection, image.covered_share, found.runner_up)
    searched = not found.tracked and _REACHES[effort]
    if searched and verdict[0] is Status.INVALID and _inverted(registration, image, start_volume_from_carm, pivot_mm):
        verdict = INVERTED
    if (
        searched
        and verdict[0] is Status.VALID
        and _misread(registration, image, start_volume_from_carm, pivot_mm, found.fit, inspection)
    ):
        reason = "mirrored or turned, the image fits better: is the detector read out the right way round?"
        verdict = (Status.INVALID, reason)
    return _told(found.fit, verdict, pivot_mm, timestamp_ns, started)


def register_jointly(
    registration: ImageRegistration,
    shots: Sequence[tuple[Array, CArm, Matrix, float, int]],
    effort: Effort,
) -> list[Registration]:
    """Register images that share one motion of the patient.

    Args:
        shots: (counts, carm, start_volume_from_carm, pivot_mm, timestamp_ns) of each.
    """
    started = time.perf_counter()
    results: dict[int, Registration] = {}
    views: dict[int, JointView] = {}
    for index, (counts, carm, start, pivot_mm, timestamp_ns) in enumerate(shots):
        if reason := blank_reason(counts):
            results[index] = _unseen(reason, start, pivot_mm, timestamp_ns)
        else:
            views[index] = JointView(Image(counts, carm), start, pivot_mm)
    if views:
        fits = fit_jointly(registration, list(views.values()), _REACHES[effort])
        for (index, view), fit in zip(views.items(), fits, strict=True):
            inspection = _inspected(registration, view.image, Found(fit, None))
            verdict = assess(fit, inspection, view.image.covered_share)
            results[index] = _told(fit, verdict, view.pivot_mm, shots[index][4], started)
    return [results[index] for index in range(len(shots))]


def _found(
    registration: ImageRegistration, image: Image, start_volume_from_carm: Matrix, pivot_mm: float, effort: Effort
) -> Found:
    """As little work as convinces, as much as the effort allows."""
    if effort is Effort.TRACK and (fit := registration.track(image, start_volume_from_carm, pivot_mm)):
        return Found(fit, None, tracked=True)
    best = Found(registration.fit(image, start_volume_from_carm, pivot_mm), None)
    for reach in _REACHES[effort]:
        if convincing(best.fit):
            break
        found = find_pose(registration, image, start_volume_from_carm, pivot_mm, reach)
        if rank(found.fit) < rank(best.fit):
            best = found
    return best


def _inverted(registration: ImageRegistration, image: Image, start_volume_from_carm: Matrix, pivot_mm: float) -> bool:
    """Whether an image that a search could not place looks, near its start, like the volume with bone bright."""
    fit = registration.glance(image, start_volume_from_carm, pivot_mm)
    return fit.appearance.contrast < 0 and fit.similarity >= _INVERTED_SIMILARITY


def _misread(
    registration: ImageRegistration,
    image: Image,
    start_volume_from_carm: Matrix,
    pivot_mm: float,
    fit: Fit,
    inspection: Inspection,
) -> bool:
    """Whether an image that leaves doubt fits better when it is read out mirrored or turned."""
    doubtful = doubt(fit, inspection)
    if doubtful is Doubt.NONE:
        return False
    others = image.misread()
    if doubtful is Doubt.LITTLE:  # then only what fits about as well on small pictures is worth a search
        enough = registration.glance(image, fit.volume_from_carm, pivot_mm).similarity - _MISREAD_LIKENESS
        others = (
            other
            for other in others
            if registration.glance(other, start_volume_from_carm, pivot_mm).similarity >= enough
        )
    found = (find_pose(registration, other, start_volume_from_carm, pivot_mm, NEAR).fit for other in others)
    return any(rank(other) < rank(fit) for other in found)


def _inspected(registration: ImageRegistration, image: Image, found: Found) -> Inspection:
    if found.tracked:
        return inspect_tracked(registration, image, found.fit)
    registration.inspected = None
    return inspect(registration, image, found.fit)


def _told(fit: Fit, verdict: tuple[Status, str], pivot_mm: float, timestamp_ns: int, started: float) -> Registration:
    return Registration(
        volume_from_carm=g.orthonormal(fit.volume_from_carm),  # rounding adds up over many steps
        validity=Validity(*verdict, timestamp_ns),
        residual=fit.residual,
        similarity=fit.similarity,
        covariance=fit.covariance,
        pivot_mm=pivot_mm,
        iterations=fit.iterations,
        elapsed_ms=1e3 * (time.perf_counter() - started),
    )


def _unseen(reason: str, start_volume_from_carm: Matrix, pivot_mm: float, timestamp_ns: int) -> Registration:
    """Of an image that shows nothing."""
    verdict = invalid(reason, timestamp_ns)
    nothing = np.eye(6) * 1e6
    return Registration(
        start_volume_from_carm, verdict, float("inf"), 0.0, nothing, pivot_mm, 0, 0.0, informative=False
    )
