"""Whether a geometry that was found may be used, and how well it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.clock import elapsed_ms
from navnode.registration.appearance import (
    POSE_SCALE,
    XrayImage,
)
from navnode.registration.carm.descent import (
    CENTER_SIGMA,
    FOCAL_SIGMA,
    RELATIVE_SIGMA,
    SCALE,
    State,
    Views,
    geometry_apart,
)
from navnode.registration.carm.readout import READOUTS, Readout, Shot, image_of
from navnode.registration.fit import Fit
from navnode.registration.quality import RUNNER_UP, assess, inspect
from navnode.registration.tracking import ImageRegistration
from navnode.types import CArm, Matrix, Registration, Status, Validity

__all__ = [
    "Calibrated",
    "LEAST_APART_DEG",
    "MAX_CENTER_PX",
    "MAX_FOCAL",
    "MAX_LOCATED_MM",
    "blamed",
    "judged",
    "nothing",
]

LEAST_APART_DEG = 30.0
"""Views from directions closer than this count as one."""
MAX_LOCATED_MM = 0.3
"""Largest 1-sigma of a point that the views locate."""
MAX_FOCAL, MAX_CENTER_PX = 0.003, 2.0
"""Largest 1-sigma of the focal length, a share, and of the principal point: what docs/frames.md asks for."""

_MOTION_SIGMAS, _MOTION_MM = 4.0, 10.0
"""Two pictures of a patient who moved by so much between them fit a geometry that is off by as much; what was stated is
then known to be off by more than the former, and by no more than motion explains."""
_FARTHEST_SIGMAS = 2.5
"""A result farther from the start is not what was stated."""
_SCALE_ERROR = 1e-3
"""Outlines in a CT are softer than in pictures, by its voxels; common to all views, that is a wrong focal length."""
_SETTLED_MM = 0.3
_ALIKE = 0.93
"""Similarity of small images from which a view may be of this patient, its geometry being off by a tenth."""
_CONTRADICTION = 2.0
"""Largest weighted squared disagreement of the views per degree of freedom."""


@dataclass(frozen=True)
class Calibrated:
    """A C-arm's geometry and the poses found with it."""

    carm: CArm
    """Of the pictures after mirroring, if they are mirrored."""
    readout: Readout
    registrations: list[Registration]
    """Of each view, in the order of the shots; their covariances include the geometry's error."""
    covariance: Matrix
    """3x3: source to detector (mm), principal point (u, v px)."""
    patient_mm: float
    """1-sigma by which the geometry's error moves the patient as the C-arm sees him, the poses adapted to it."""
    located_mm: float | None
    """1-sigma of a point of the patient that the pictures themselves locate, each by its ray; None: one view."""
    lateral_mm: float
    """The same across the ray, in the worst of the views."""
    apart_deg: float
    """Largest angle between two views; those from opposite sides count as one."""
    contradiction: float
    """Squared disagreement of the views per degree of freedom, in units of sigma; 0: one view."""
    runner_up: float
    """What the next best readout leaves unexplained, relative to this one."""
    validity: Validity
    elapsed_ms: float

    @property
    def sigma(self) -> Matrix:
        """1-sigma of source to detector (mm) and principal point (u, v px), (3,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def judged(
    registration: ImageRegistration,
    shots: Sequence[Shot],
    readout: Readout,
    views: Views,
    state: State,
    alone: Sequence[Fit],
    runner_up: tuple[float, Readout],
    started_s: float,
) -> Calibrated:
    """Poses and geometry with a verdict.

    Args:
        alone: of each view, the best fit by itself with the geometry as stated, on small images.
        runner_up: what the next best readout leaves unexplained, as a ratio, and that readout.
        started_s: when it began, by the performance counter.
    """
    count = len(shots)
    covariances = [state.covariance_of(k) for k in range(count)]
    (su, sv), distance_mm = state.carm.pixel_spacing_mm, state.carm.source_to_detector_mm
    units = np.array([distance_mm, 1 / su, 1 / sv])
    apart_deg = _apart_deg(state.poses)
    patient_mm = max(_patient_mm(covariance) for covariance in covariances)
    located_mm, lateral_mm = _located_mm(state)
    contradiction = _contradiction(state) if count > 1 else 0.0
    verdicts, fits = [], []
    for shot, pose, view in zip(shots, state.poses, state.views, strict=True):
        fit = Fit(pose, view.appearance, state.iterations, 0.0, view.pose_covariance)
        image = (
            image_of(shot, state.carm, False)
            if not readout.mirrored
            else XrayImage(np.ascontiguousarray(shot.counts[:, ::-1]), state.carm)
        )
        verdicts.append(assess(fit, inspect(registration, image, fit), image.covered_share))
        fits.append(fit)
    ratio, other = runner_up
    focal_off, *center_off = geometry_apart(state.carm, views.carm) / np.array(
        [FOCAL_SIGMA, *[CENTER_SIGMA * views.carm.width_px * su] * 2]
    )
    depth_mm = 1.96 * float(np.sqrt(max(covariance[5, 5] for covariance in covariances)))
    geometry = (covariances[0][6:, 6:] + np.diag([_SCALE_ERROR**2, 0.0, 0.0])) * np.outer(units, units)
    sigma = np.sqrt(np.diag(geometry))
    joint = len(state.deviation) > 0
    moved_mm = _moved_mm(state, views.carm, sigma) if joint and _directions(state.poses) == 2 else 0.0

    def verdict() -> tuple[Status, str]:
        refused = [k for k, (status, _) in enumerate(verdicts) if status is Status.INVALID]
        if refused:
            return Status.INVALID, verdicts[0][1] if count == 1 else blamed(refused, verdicts, alone)
        if not ratio >= RUNNER_UP:
            return Status.INVALID, f"read {other}, the pictures fit nearly as well as {readout}"
        if not contradiction <= _CONTRADICTION:
            return Status.INVALID, "the views contradict each other: one geometry and one patient do not explain them"
        if not max(map(abs, (focal_off, *center_off))) <= _FARTHEST_SIGMAS:
            return Status.INVALID, "the geometry that fits is far from the stated one"
        if not state.step_mm <= _SETTLED_MM:
            return Status.DEGRADED, "the geometry has not settled"
        if count == 1:
            return Status.DEGRADED, f"one view: depth is open, ± {depth_mm:.0f} mm; across the ray it is right"
        if not apart_deg >= LEAST_APART_DEG:
            return (
                Status.DEGRADED,
                f"the views' directions differ by {apart_deg:.0f} degrees only; {LEAST_APART_DEG:.0f} are needed",
            )
        for k, (status, reason) in enumerate(verdicts):
            if status is Status.DEGRADED:
                return status, f"view {k}: {reason}"
        if readout.mirrored:
            return Status.DEGRADED, f"the pictures are {readout}: read out the detector the other way round"
        if moved_mm:
            return (
                Status.DEGRADED,
                f"the stated geometry is off, or the patient moved by {moved_mm:.0f} mm or more: a third view tells",
            )
        known = f"principal point known to {max(sigma[1:]):.1f} px, distance to {sigma[0] / distance_mm:.2%}"
        if not (located_mm is not None and located_mm <= MAX_LOCATED_MM):
            return Status.DEGRADED, f"{known}: points that the views locate are uncertain by {located_mm or 0:.1f} mm"
        if not (sigma[0] <= MAX_FOCAL * distance_mm and max(sigma[1:]) <= MAX_CENTER_PX):
            reason = f"{known}, {MAX_CENTER_PX:.0f} px and {MAX_FOCAL:.1%} are needed; right for what the views locate"
            return Status.DEGRADED, reason
        return Status.VALID, ""

    validity = Validity(*verdict())
    spent_ms = elapsed_ms(started_s)
    registrations = [
        Registration(
            volume_from_carm=g.orthonormal(fit.volume_from_carm),
            validity=Validity(validity.status, validity.reason, shot.timestamp_ns),
            residual=fit.residual,
            similarity=fit.similarity,
            covariance=covariance[:6, :6],
            pivot_mm=pivot_mm,
            iterations=state.iterations,
            elapsed_ms=spent_ms / count,
        )
        for shot, fit, covariance, pivot_mm in zip(shots, fits, covariances, state.pivots_mm, strict=True)
    ]
    return Calibrated(
        carm=state.carm,
        readout=readout,
        registrations=registrations,
        covariance=geometry,
        patient_mm=patient_mm,
        located_mm=located_mm,
        lateral_mm=lateral_mm,
        apart_deg=apart_deg,
        contradiction=contradiction,
        runner_up=ratio,
        validity=validity,
        elapsed_ms=spent_ms,
    )


def blamed(refused: Sequence[int], verdicts: Sequence[tuple[Status, str]], alone: Sequence[Fit]) -> str:
    """Which view is not of this patient and C-arm: one that matches nowhere by itself spoils a geometry for all."""
    unlike = min(range(len(alone)), key=lambda k: alone[k].similarity)
    if unlike not in refused and alone[unlike].similarity < _ALIKE:
        return f"view {unlike}: image and volume do not match (similarity {alone[unlike].similarity:.2f} by itself)"
    if len(refused) > 1 and alone[unlike].similarity >= _ALIKE:
        which = ", ".join(map(str, refused))
        return f"views {which}, one of which may spoil the geometry for all: {verdicts[refused[0]][1]}"
    k = unlike if unlike in refused else refused[0]
    return f"view {k}: {verdicts[k][1]}"


def _apart_deg(poses: Sequence[Matrix]) -> float:
    rays = np.stack([pose[:3, 2] for pose in poses])
    return float(np.rad2deg(np.arccos(np.clip(np.abs(rays @ rays.T).min(), 0.0, 1.0))))


def _directions(poses: Sequence[Matrix]) -> int:
    """Number of directions of which no two count as one."""
    found: list[Matrix] = []
    for pose in poses:
        ray, least = pose[:3, 2], np.cos(np.deg2rad(LEAST_APART_DEG))
        if all(abs(float(ray @ other)) <= least for other in found):
            found.append(ray)
    return len(found)


def _moved_mm(state: State, stated: CArm, sigma: Matrix) -> float:
    """By how much a patient who moved between two pictures would make the stated geometry the one that was found; 0: it
    is as it was found, or farther from it than patients move.

    Args:
        sigma: (3,) of source to detector (mm) and principal point (px).
    """
    focal, *off_mm = geometry_apart(state.carm, stated)
    distance_mm = state.carm.source_to_detector_mm
    off = np.abs([focal * distance_mm, *(off_mm / np.array(state.carm.pixel_spacing_mm))]) / sigma
    at_patient = max(state.pivots_mm) / distance_mm
    moved_mm = float(np.hypot(*off_mm)) * at_patient
    return moved_mm if off.max() > _MOTION_SIGMAS and moved_mm <= _MOTION_MM else 0.0


def _patient_mm(covariance: Matrix) -> float:
    """How far the geometry's error moves the pivot: the part of the pose's covariance (9x9) that follows from it."""
    follows = covariance[3:6, 6:] @ np.linalg.solve(covariance[6:, 6:], covariance[6:, 3:6])
    return float(np.sqrt(max(np.trace(follows), 0.0)))


def _located_mm(state: State) -> tuple[float | None, float]:
    """1-sigma of the pivot, found where the views' rays meet (None for one view), and across the worst ray."""
    moves, across, laterals = [], [], []
    for pose, through, pivot_mm in zip(state.poses, state.maps, state.pivots_mm, strict=True):
        of_view = through / SCALE[:, None]
        ray = of_view[3:6].copy()
        ray[:2] -= pivot_mm / state.carm.source_to_detector_mm * of_view[7:9]  # the same pixel is on another ray
        laterals.append(np.sqrt(np.trace(ray[:2] @ state.covariance @ ray[:2].T)))
        part = np.eye(3) - np.outer(pose[:3, 2], pose[:3, 2])
        across.append(part)
        moves.append(part @ pose[:3, :3] @ ray)
    if len(moves) == 1:
        return None, float(laterals[0])
    met = np.linalg.pinv(np.sum(across, axis=0)) @ np.sum(moves, axis=0)
    return float(np.sqrt(np.trace(met @ state.covariance @ met.T))), float(max(laterals))


def _contradiction(state: State) -> float:
    """How much better each view would be explained by a pose and a geometry of its own, per degree of freedom."""
    squared = float(((state.deviation / np.tile(POSE_SCALE * RELATIVE_SIGMA, len(state.deviation) // 6)) ** 2).sum())
    for view in state.views:
        values, vectors = np.linalg.eigh(view.hessian)
        along = vectors.T @ view.gradient
        told = values > 1e-6 * max(values[-1], 1e-12)  # single precision knows no more
        squared += view.weight * float((along[told] ** 2 / values[told]).sum())
    return float(squared / (9 * len(state.views) + len(state.deviation) - state.maps[0].shape[1]))


def nothing(carm: CArm, shots: Sequence[Shot], center_mm: Matrix, blank: Sequence[str], started_s: float) -> Calibrated:
    """The result where a picture shows nothing.

    Args:
        center_mm: (3,), middle of the volume.
        blank: of every view, why it shows nothing, or ''.
        started_s: when it began, by the performance counter.
    """
    unknown = np.eye(6) * 1e6
    reason = next(f"view {k}: {reason}" for k, reason in enumerate(blank) if reason)
    validity = Validity(Status.INVALID, reason)
    poses = [shot.starts[0] for shot in shots]
    pivots_mm = [float(np.linalg.norm(center_mm - pose[:3, 3])) for pose in poses]
    registrations = [
        Registration(
            pose, replace(validity, source_time_ns=shot.timestamp_ns), float("inf"), 0.0, unknown, pivot_mm, 0, 0.0
        )
        for shot, pose, pivot_mm in zip(shots, poses, pivots_mm, strict=True)
    ]
    return Calibrated(
        carm=carm,
        readout=READOUTS[0],
        registrations=registrations,
        covariance=np.eye(3) * 1e6,
        patient_mm=float("inf"),
        located_mm=None,
        lateral_mm=float("inf"),
        apart_deg=0.0,
        contradiction=0.0,
        runner_up=1.0,
        validity=validity,
        elapsed_ms=elapsed_ms(started_s),
    )
