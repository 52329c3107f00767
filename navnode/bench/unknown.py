"""Two X-rays from a C-arm whose geometry is known only roughly, beside the same with the geometry known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.bench.cases import Case
from navnode.registration import ImageRegistration, register_counts
from navnode.registration.carm import Calibrated, Shot, calibrate
from navnode.types import CArm, Effort, Matrix, Status

__all__ = ["Located", "located"]

_FOCAL, _CENTER_PX = 0.1, 50.0
"""Largest error of the start."""
_ACROSS_MM, _DEPTH_MM, _TURN_DEG = 25, 50, 15


@dataclass(frozen=True)
class Located:
    """How well two views locate targets, each by the ray on which it is seen."""

    known_mm: float
    """Mean error with the geometry known."""
    unknown_mm: float
    """The same with the geometry found."""
    read_rightly: bool
    """Whether mirrored pictures were recognised."""
    sigmas: tuple[float, float, float]
    """Errors of source to detector and principal point, in units of their stated sigma."""
    valid: bool
    ms: float


def located(
    registration: ImageRegistration, center_mm: Matrix, cases: tuple[Case, Case], rng: np.random.Generator
) -> Located:
    """Register two cases of one C-arm with a geometry that is off, in half of them mirrored, and as it is.

    Args:
        center_mm: middle of the volume, (3,).
    """
    true = cases[0].carm
    u, v = true.principal_point_px + rng.uniform(-_CENTER_PX, _CENTER_PX, 2)
    mirrored = bool(rng.random() < 0.5)
    rough = replace(
        true,
        source_to_detector_mm=true.source_to_detector_mm * float(rng.uniform(1 - _FOCAL, 1 + _FOCAL)),
        principal_point_px=(float(true.width_px - 1 - u if mirrored else u), float(v)),
    )
    starts = [case.start(rng, _ACROSS_MM, _DEPTH_MM, _TURN_DEG) for case in cases]
    shown = [np.ascontiguousarray(case.counts[:, ::-1]) if mirrored else case.counts for case in cases]
    shots = [Shot(counts, [start]) for counts, start in zip(shown, starts, strict=True)]
    found = calibrate(registration, center_mm, rough, shots)
    known = [
        register_counts(registration, case.counts, true, start, case.pivot_mm, Effort.FIND).volume_from_carm
        for case, start in zip(cases, starts, strict=True)
    ]
    poses = [each.volume_from_carm for each in found.registrations]
    return Located(
        known_mm=_error_mm(cases, true, known),
        unknown_mm=_error_mm(cases, found.carm, poses),
        read_rightly=found.readout.mirrored == mirrored and found.readout.turned_deg == 0,
        sigmas=_sigmas(found, true),
        valid=found.validity.status is Status.VALID,
        ms=found.elapsed_ms,
    )


def _error_mm(cases: tuple[Case, Case], carm: CArm, poses: list[Matrix]) -> float:
    """Mean distance of the first case's targets from where the rays through their true pixels meet."""
    targets_mm = cases[0].targets_mm
    total, at = np.zeros((len(targets_mm), 3, 3)), np.zeros((len(targets_mm), 3))
    for case, pose in zip(cases, poses, strict=True):
        seen_px = g.project(case.carm, g.inverse(case.volume_from_carm), targets_mm)
        off_mm = (seen_px - carm.principal_point_px) * carm.pixel_spacing_mm
        rays = np.column_stack([off_mm, np.full(len(off_mm), carm.source_to_detector_mm)]) @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
        total, at = total + across, at + across @ pose[:3, 3]
    met = np.linalg.solve(total, at[..., None])[..., 0]
    return float(np.linalg.norm(met - targets_mm, axis=1).mean())


def _sigmas(found: Calibrated, true: CArm) -> tuple[float, float, float]:
    off = [
        found.carm.source_to_detector_mm - true.source_to_detector_mm,
        *np.subtract(found.carm.principal_point_px, true.principal_point_px),
    ]
    distance, u, v = (np.array(off) / found.sigma).tolist()
    return distance, u, v
