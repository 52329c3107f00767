"""From counts to registrations with a verdict: one X-ray, or several that share one motion of the patient."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.registration.appearance import XrayImage
from navnode.registration.carm.stated import Evidence, bent, contradicted, doubted, evidence, of_one_carm, worse
from navnode.registration.fit import Fit, Inspection
from navnode.registration.gradations import as_read, best_gradation
from navnode.registration.joint import JointView, fit_jointly
from navnode.registration.misreading import unless_misread
from navnode.registration.quality import assess, assess_sparse, inspect, inspect_tracked
from navnode.registration.search import FAR, NEAR, Reach, SearchResult, convincing, find_pose, rank
from navnode.registration.smear import MAX_SMEAR_MM, SEEN_SMEAR_MM, smeared
from navnode.registration.tracking import ImageRegistration, apart_mm
from navnode.types import Array, CArm, Effort, FloatArray, Matrix, Registration, Status, Validity, View, Volume, invalid
from navnode.xray.counts import blank_reason
from navnode.xray.fields import one_moment
from navnode.xray.gradation import Gradation, is_picture

__all__ = ["distance_mm", "evidence_in", "judged_together", "register", "register_counts", "register_jointly"]

_FULL_SCALE_COUNTS = 60_000.0
_NEAREST_MM = 50.0
"""No source comes nearer to the middle of what it shows."""
_REACHES: dict[Effort, tuple[Reach, ...]] = {
    Effort.TRACK: (),
    Effort.REFINE: (),
    Effort.FIND: (NEAR,),
    Effort.SEARCH: (NEAR, FAR),
}


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
        joint: the views share one rigid motion of the patient: their starts are correct relative to each other.
        pivot_mm: source-to-anatomy distance; default: to the middle of the volume, per view.
        threads: of the projector; default: all.

    Raises:
        ConfigError: a view has no starting pose.
    """
    registration = ImageRegistration(volume, threads)
    exposures = []
    for index, view in enumerate(views):
        if view.volume_from_carm is None:
            raise ConfigError(f"view {index} has no volume_from_carm to start from")
        brightest = np.nanmin(view.line_integrals)
        counts = np.nan_to_num(_FULL_SCALE_COUNTS * np.exp(brightest - view.line_integrals), nan=65_535.0)
        depth_mm = pivot_mm or distance_mm(volume.center_mm, view.volume_from_carm)
        exposures.append((counts, view.carm, view.volume_from_carm, depth_mm, view.timestamp_ns))
    if joint:
        return register_jointly(registration, exposures, effort)
    found = [
        register_counts(registration, counts, carm, start, depth_mm, effort, timestamp_ns)
        for counts, carm, start, depth_mm, timestamp_ns in exposures
    ]
    said = [
        evidence_in(registration, counts, carm, each) for (counts, carm, *_), each in zip(exposures, found, strict=True)
    ]
    return judged_together(found, said)


def distance_mm(middle_mm: Matrix, volume_from_carm: Matrix) -> float:
    """Distance from the source to the middle of the volume, a good pivot for rotations.

    Args:
        middle_mm: (3,), in the pose's frame.

    Raises:
        ConfigError: no source is so near to a patient.
    """
    found_mm = float(np.linalg.norm(middle_mm - volume_from_carm[:3, 3]))
    if found_mm < _NEAREST_MM:
        where = f"a pose puts the source {found_mm:.0f} mm from the volume's middle"
        raise ConfigError(f"{where}: is volume_from_carm in mm, not in metres?")
    return found_mm


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
    """Register one image (H, W): a detector's counts, or the grey values of a display (:mod:`~navnode.xray.gradation`).

    Args:
        pivot_mm: distance from the source to the point on the principal ray that rotations turn about.
        effort: how far off the start may be.
        sparse_volume: the volume was made from a few X-rays, not from a CT.
    """
    started = time.perf_counter()
    if reason := blank_reason(counts):
        return _blank(reason, start_volume_from_carm, pivot_mm, timestamp_ns)

    def attempt(image: XrayImage, start: Matrix, effort: Effort) -> _Attempt:
        return _register(
            registration, image, start, pivot_mm, effort, timestamp_ns, started, sparse_volume=sparse_volume
        )

    counts = one_moment(counts)
    if not is_picture(counts):
        return attempt(XrayImage(counts, carm), start_volume_from_carm, effort).registration

    def read_as(gradation: Gradation, before: _Attempt | None, effort: Effort) -> _Attempt:
        start = start_volume_from_carm if before is None else before.registration.volume_from_carm
        return attempt(XrayImage(gradation.counts(counts), carm, gradation.dark_share(counts)), start, effort)

    found, gradation = best_gradation((counts, carm), registration.gradation, effort, read_as)
    registration.gradation = gradation or registration.gradation
    return found.registration


def evidence_in(registration: ImageRegistration, counts: Array, carm: CArm, found: Registration) -> Evidence | None:
    """What an image (H, W) says of its C-arm's geometry where it was found; None: it was not.

    Args:
        counts: as for :func:`register_counts`.
    """
    if not found.validity.usable:
        return None
    image = as_read(registration.gradation, counts, carm)
    return evidence(registration, image, found.volume_from_carm, found.pivot_mm)


def judged_together(found: Sequence[Registration], said: Sequence[Evidence | None]) -> list[Registration]:
    """What was found in images one by one, unless those of one C-arm contradict its geometry together: each says a
    little of it, from each direction something else.

    Args:
        said: of each image, by :func:`evidence_in`.
    """
    carms = {each.carm for each in said if each is not None}
    verdicts = {carm: of_one_carm([each for each in said if each is not None and each.carm == carm]) for carm in carms}
    return [
        each if own is None else replace(each, validity=doubted(each.validity, verdicts[own.carm]))
        for each, own in zip(found, said, strict=True)
    ]


@dataclass(frozen=True)
class _Attempt:
    """A registration of one image, and the contrast of its fit."""

    registration: Registration
    contrast: float
    bend: float
    render: Callable[[CArm, Matrix], FloatArray]

    @property
    def status(self) -> Status:
        return self.registration.validity.status

    @property
    def similarity(self) -> float:
        return self.registration.similarity

    def rendered(self, carm: CArm) -> FloatArray:
        """Line integrals (H, W) of the volume."""
        return self.render(carm, self.registration.volume_from_carm)


def _register(
    registration: ImageRegistration,
    image: XrayImage,
    start_volume_from_carm: Matrix,
    pivot_mm: float,
    effort: Effort,
    timestamp_ns: int,
    started: float,
    *,
    sparse_volume: bool,
) -> _Attempt:
    """Register one image."""
    best = _search(registration, image, start_volume_from_carm, pivot_mm, effort)
    appearance = best.fit.appearance
    found = appearance.contrast, appearance.bend, registration.middle.projector.render
    if sparse_volume:
        return _Attempt(_result(best.fit, assess_sparse(best.fit), pivot_mm, timestamp_ns, started), *found)
    inspection = _inspected(registration, image, best)
    verdict = assess(best.fit, inspection, image.covered_share, best.runner_up)
    if not best.tracked and _REACHES[effort]:
        verdict = unless_misread(verdict, registration, image, start_volume_from_carm, pivot_mm, best.fit, inspection)
    if verdict[0] is Status.INVALID:
        return _Attempt(_result(best.fit, verdict, pivot_mm, timestamp_ns, started), *found)
    smear = smeared(registration, image, best.fit, pivot_mm)
    if smear.mm > MAX_SMEAR_MM:
        smeared_result = _result(best.fit, (Status.INVALID, smear.reason), pivot_mm, timestamp_ns, started)
        return _Attempt(replace(smeared_result, informative=False), *found)
    if not best.tracked:  # what is tracked was judged when it was found
        own = evidence(registration, image, best.fit.volume_from_carm, pivot_mm)
        verdict = worse(verdict, contradicted([own]))
    result = _result(best.fit, verdict, pivot_mm, timestamp_ns, started)
    if smear.mm > SEEN_SMEAR_MM:
        result.covariance[3:5, 3:5] += smear.covariance_mm2
    return _Attempt(result, *found)


def register_jointly(
    registration: ImageRegistration,
    exposures: Sequence[tuple[Array, CArm, Matrix, float, int]],
    effort: Effort,
) -> list[Registration]:
    """Register images that share one motion of the patient.

    Args:
        exposures: (counts, carm, start_volume_from_carm, pivot_mm, timestamp_ns) of each image.
    """
    started = time.perf_counter()
    results: dict[int, Registration] = {}
    views: dict[int, JointView] = {}
    for index, (counts, carm, start, pivot_mm, timestamp_ns) in enumerate(exposures):
        if reason := blank_reason(counts):
            results[index] = _blank(reason, start, pivot_mm, timestamp_ns)
        else:
            views[index] = JointView(XrayImage(counts, carm), start, pivot_mm)
    if views:
        fits = fit_jointly(registration, list(views.values()), _REACHES[effort])
        found = [
            evidence(registration, view.image, fit.volume_from_carm, view.pivot_mm)
            for view, fit in zip(views.values(), fits, strict=True)
            if np.isfinite(fit.appearance.noise)
        ]
        carms = {each.carm for each in found}
        others = {carm: of_one_carm([each for each in found if each.carm == carm]) for carm in carms}
        if any(others.values()) and len(views) > 1:
            others = _unless_poses(registration, list(views.values()), fits, others)
        for (index, view), fit in zip(views.items(), fits, strict=True):
            inspection = _inspected(registration, view.image, SearchResult(fit, None))
            verdict = worse(assess(fit, inspection, view.image.covered_share), bent(found))  # one patient in all views
            verdict = worse(verdict, others.get(view.image.carm))
            results[index] = _result(fit, verdict, view.pivot_mm, exposures[index][4], started)
        if any(results[index].validity.status is Status.INVALID for index in views):  # one motion explains all, or none
            doubt = Status.DEGRADED, "another view does not fit the same motion"
            results |= {
                index: replace(results[index], validity=doubted(results[index].validity, doubt))
                for index in views
                if results[index].validity.status is Status.VALID
            }
    return [results[index] for index in range(len(exposures))]


def _unless_poses(
    registration: ImageRegistration,
    views: Sequence[JointView],
    fits: Sequence[Fit],
    contradicted_carms: dict[CArm, tuple[Status, str] | None],
) -> dict[CArm, tuple[Status, str] | None]:
    """The verdicts on C-arms, unless each view by itself fits its geometry: then it is their poses that do not belong
    together."""
    alone = [
        registration.fit(view.image, fit.volume_from_carm, view.pivot_mm) for view, fit in zip(views, fits, strict=True)
    ]
    said = [
        evidence(registration, view.image, fit.volume_from_carm, view.pivot_mm)
        for view, fit in zip(views, alone, strict=True)
        if np.isfinite(fit.appearance.noise)
    ]
    if any(of_one_carm([each for each in said if each.carm == carm]) for carm in contradicted_carms):
        return contradicted_carms
    mm = max(
        apart_mm(fit.volume_from_carm, own.volume_from_carm, view.pivot_mm)
        for view, fit, own in zip(views, fits, alone, strict=True)
    )
    reason = f"the views' poses do not belong together: by itself one of them is {mm:.1f} mm elsewhere"
    return {carm: verdict and (verdict[0], reason) for carm, verdict in contradicted_carms.items()}


def _search(
    registration: ImageRegistration, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float, effort: Effort
) -> SearchResult:
    """Search until a fit convinces or the effort is spent."""
    if effort is Effort.TRACK and (fit := registration.track(image, start_volume_from_carm, pivot_mm)):
        return SearchResult(fit, None, tracked=True)
    best = SearchResult(registration.fit(image, start_volume_from_carm, pivot_mm), None)
    for reach in _REACHES[effort]:
        if convincing(best.fit):
            break
        candidate = find_pose(registration, image, start_volume_from_carm, pivot_mm, reach)
        if rank(candidate.fit) < rank(best.fit):
            best = candidate
    return best


def _inspected(registration: ImageRegistration, image: XrayImage, best: SearchResult) -> Inspection:
    if best.tracked:
        return inspect_tracked(registration, image, best.fit)
    registration.inspected = None
    return inspect(registration, image, best.fit)


def _result(fit: Fit, verdict: tuple[Status, str], pivot_mm: float, timestamp_ns: int, started: float) -> Registration:
    return Registration(
        volume_from_carm=g.orthonormal(fit.volume_from_carm),  # rounding errors add up over many steps
        validity=Validity(*verdict, timestamp_ns),
        residual=fit.residual,
        similarity=fit.similarity,
        covariance=fit.covariance,
        pivot_mm=pivot_mm,
        iterations=fit.iterations,
        elapsed_ms=elapsed_ms(started),
    )


def _blank(reason: str, start_volume_from_carm: Matrix, pivot_mm: float, timestamp_ns: int) -> Registration:
    """Result for an image that shows nothing."""
    verdict = invalid(reason, timestamp_ns)
    unknown = np.eye(6) * 1e6
    return Registration(
        start_volume_from_carm, verdict, float("inf"), 0.0, unknown, pivot_mm, 0, 0.0, informative=False
    )
