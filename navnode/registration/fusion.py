"""The patient's registration over many frames: a Kalman filter on SE(3) whose state is volume_from_patient.

One view fixes the depth along its principal ray poorly; views from other directions fix each other's depth.
Frames of one station repeat the same systematic error, so they count as few looks, not as many.
"""

from __future__ import annotations

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

_FRAMES_PER_LOOK = 30.0
"""Frames whose errors are taken to be one and the same: two seconds at 15 frames/s, a station's stay."""

_DEPTH_FLOOR_MM = 1.0
"""Systematic depth error of a single view (scatter), on top of what its image says."""

_SPARSE_DEPTH_FLOOR_MM, _SPARSE_INFLATION = 10.0, 4.0
"""The same against a volume made from a few X-rays, whose shapes are smeared along the rays; and how much more than
their sigma its registrations are off in every direction."""

_TRACKING_SIGMA = np.array([0.0012] * 3 + [0.35] * 3)
"""Tracker noise and hand-eye error at the anatomy, (rad, mm): 0.05 degrees on a lever of 400 mm, and 0.1 mm."""

_DRIFT_PER_ROOT_S = np.array([0.0003] * 3 + [0.05] * 3)
"""How much a patient marker may creep, (rad, mm) in one second."""

_GATE = 45.0
"""Squared Mahalanobis distance (6 degrees of freedom) over which a frame contradicts the state; chi-square
would exceed it once in 10^7, the slack is for a covariance that is itself an estimate."""

_LEVER_MM = 50.0
"""Targets lie within about this distance of the pivot; turns rotation sigma into displacement."""


class PatientFilter:
    """volume_from_patient with its covariance.

    The covariance is of the right perturbation ``volume_from_patient @ exp(xi, pivot_patient_mm)``.
    """

    def __init__(self, volume_from_patient: Matrix, pivot_patient_mm: Matrix, covariance: Matrix) -> None:
        self.volume_from_patient = volume_from_patient
        self.pivot_patient_mm = pivot_patient_mm
        self.covariance = covariance

    @property
    def sigma(self) -> Matrix:
        """1-sigma of (rotation rad, translation mm) at the pivot, (6,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    @property
    def target_sigma_mm(self) -> float:
        """Expected 3-D displacement of a target near the pivot."""
        rotation, translation = np.diag(self.covariance)[:3], np.diag(self.covariance)[3:]
        # A rotation about one axis moves a point by lever x angle, two of three axes at a time.
        return float(np.sqrt(translation.sum() + 2 / 3 * _LEVER_MM**2 * rotation.sum()))

    def predict(self, elapsed_s: float) -> None:
        """Let time pass."""
        self.covariance = self.covariance + np.diag(_DRIFT_PER_ROOT_S**2) * max(elapsed_s, 0.0)

    def distance(self, measured: Matrix, covariance: Matrix) -> float:
        """Squared Mahalanobis distance of a measurement from the state."""
        innovation = self._innovation(measured)
        return float(innovation @ np.linalg.solve(self.covariance + covariance, innovation))

    def agrees(self, measured: Matrix, covariance: Matrix) -> bool:
        return self.distance(measured, covariance) <= _GATE

    def update(self, measured: Matrix, covariance: Matrix) -> None:
        """Take one frame's volume_from_patient into account."""
        self.combine(measured, covariance * _FRAMES_PER_LOOK)

    def combine(self, measured: Matrix, noise: Matrix) -> None:
        """Take an independent look at volume_from_patient into account."""
        gain = np.linalg.solve(self.covariance + noise, self.covariance).T
        step = gain @ self._innovation(measured)
        keep = np.eye(6) - gain
        self.volume_from_patient = g.orthonormal(self.volume_from_patient @ g.exp(step, self.pivot_patient_mm))
        self.covariance = keep @ self.covariance @ keep.T + gain @ noise @ gain.T  # Joseph form

    def _innovation(self, measured: Matrix) -> Matrix:
        return g.log(g.inverse(self.volume_from_patient) @ measured, self.pivot_patient_mm)


def measurement(
    volume_from_carm: Matrix,
    covariance: Matrix,
    pivot_mm: float,
    carm_from_patient: Matrix,
    pivot_patient_mm: Matrix,
    *,
    sparse_volume: bool = False,
) -> tuple[Matrix, Matrix]:
    """One frame's (volume_from_patient, covariance at the patient pivot), tracker noise and depth floor included."""
    with_floor = covariance * (_SPARSE_INFLATION**2 if sparse_volume else 1.0)
    with_floor[5, 5] += (_SPARSE_DEPTH_FLOOR_MM if sparse_volume else _DEPTH_FLOOR_MM) ** 2
    through = g.perturbation_through(carm_from_patient, np.array([0.0, 0.0, pivot_mm]), pivot_patient_mm)
    return volume_from_carm @ carm_from_patient, through @ with_floor @ through.T + np.diag(_TRACKING_SIGMA**2)
