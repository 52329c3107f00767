"""The patient's registration over many frames: a Kalman filter on SE(3) whose state is volume_from_patient.

One view determines the depth along its principal ray poorly; views from different directions determine each other's.
Frames from one station repeat the same systematic error, so they count as few independent looks, not as many.
"""

from __future__ import annotations

import numpy as np

from navnode import geometry as g
from navnode.types import Matrix

__all__ = ["FRAMES_PER_LOOK", "ONE_VIEW", "SEVERAL_VIEWS", "PatientFilter", "measurement"]

FRAMES_PER_LOOK = 30.0
"""Frames assumed to share one error: two seconds at 15 frames/s, the stay at a station."""

ONE_VIEW = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
"""Systematic error of a single view in the C-arm's frame (rad, mm), besides its statistical one: depth, by scatter."""
SEVERAL_VIEWS = np.zeros(6)


_TRACKING_SIGMA = np.array([0.0012] * 3 + [0.35] * 3)
"""Tracker noise and hand-eye error at the anatomy, (rad, mm): 0.05 degrees on a lever of 400 mm, and 0.1 mm."""

_DRIFT_PER_ROOT_S = np.array([0.0003] * 3 + [0.05] * 3)
"""How far a patient marker may creep in one second, (rad, mm)."""

_MOVED = np.array([0.01] * 3 + [1.5] * 3)
"""What is unknown again when the marker may have moved, (rad, mm): more is a contradiction, and searched for."""

GATE = 45.0
"""Squared Mahalanobis distance (6 degrees of freedom) above which a frame contradicts the state; chi-square
exceeds it once in 10^7, and the margin allows for a covariance that is itself an estimate."""

_LEVER_MM = 50.0
"""Targets lie within about this distance of the rotation center; turns rotation sigma into displacement."""


class PatientFilter:
    """volume_from_patient with its covariance.

    The covariance is that of the right perturbation ``volume_from_patient @ exp(xi, rotation_center_mm)``; the center
    is a point (3,) in the patient marker's frame.
    """

    def __init__(self, volume_from_patient: Matrix, rotation_center_mm: Matrix, covariance: Matrix) -> None:
        self.volume_from_patient = volume_from_patient
        self.rotation_center_mm = rotation_center_mm
        self.covariance = covariance

    @property
    def sigma(self) -> Matrix:
        """1-sigma of (rotation rad, translation mm) at the rotation center, (6,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    @property
    def target_sigma_mm(self) -> float:
        """Expected 3-D displacement of a target near the rotation center."""
        rotation, translation = np.diag(self.covariance)[:3], np.diag(self.covariance)[3:]
        # A rotation about one axis moves a point by lever x angle, two of three axes at a time.
        return float(np.sqrt(translation.sum() + 2 / 3 * _LEVER_MM**2 * rotation.sum()))

    def predict(self, elapsed_s: float) -> None:
        """Let the uncertainty grow over elapsed time."""
        self.covariance = self.covariance + np.diag(_DRIFT_PER_ROOT_S**2) * max(elapsed_s, 0.0)

    def loosen(self) -> None:
        """The marker may have moved: let measurements pull the state to where they are."""
        self.covariance = self.covariance + np.diag(np.maximum(_MOVED**2 - np.diag(self.covariance), 0.0))

    def copy(self) -> PatientFilter:
        """As it is now."""
        return PatientFilter(self.volume_from_patient, self.rotation_center_mm, self.covariance)

    def carried(self, displacement: Matrix, covariance: Matrix) -> PatientFilter:
        """What is known once the marker has moved on the patient.

        Args:
            displacement: (6,) (rad, mm), of the patient about the rotation center, in the volume's frame.
            covariance: of that, 6x6.
        """
        point_mm = g.transform(self.volume_from_patient, self.rotation_center_mm)
        patient_from_volume = np.kron(np.eye(2), self.volume_from_patient[:3, :3].T)
        return PatientFilter(
            g.exp(displacement, point_mm) @ self.volume_from_patient,
            self.rotation_center_mm,
            self.covariance + patient_from_volume @ covariance @ patient_from_volume.T,
        )

    def distance(self, measured: Matrix, covariance: Matrix) -> float:
        """Squared Mahalanobis distance of a ``volume_from_patient``, covariance 6x6, from the state."""
        return self.surprise(self.innovation(measured), covariance)

    def surprise(self, innovation: Matrix, covariance: Matrix) -> float:
        """Squared Mahalanobis distance of an innovation, (6,), by the covariance 6x6 of one measurement."""
        return float(innovation @ np.linalg.solve(self.covariance + covariance, innovation))

    def agrees(self, measured: Matrix, covariance: Matrix) -> bool:
        """Whether a ``volume_from_patient``, covariance 6x6, is consistent with the state."""
        return self.distance(measured, covariance) <= GATE

    def update(self, measured: Matrix, covariance: Matrix) -> None:
        """Update with one frame's volume_from_patient; frames of a station share their errors."""
        self.combine(measured, covariance * FRAMES_PER_LOOK)

    def combine(self, measured: Matrix, noise: Matrix) -> None:
        """Update with an independent measurement of volume_from_patient."""
        gain = np.linalg.solve(self.covariance + noise, self.covariance).T
        step = gain @ self.innovation(measured)
        keep = np.eye(6) - gain
        self.volume_from_patient = g.orthonormal(self.volume_from_patient @ g.exp(step, self.rotation_center_mm))
        self.covariance = keep @ self.covariance @ keep.T + gain @ noise @ gain.T  # Joseph form

    def innovation(self, measured: Matrix) -> Matrix:
        """(rad, mm), (6,): how a ``volume_from_patient`` is off the state, at the rotation center."""
        return g.log(g.inverse(self.volume_from_patient) @ measured, self.rotation_center_mm)


def measurement(
    volume_from_carm: Matrix,
    covariance: Matrix,
    pivot_mm: float,
    carm_from_patient: Matrix,
    rotation_center_mm: Matrix,
    systematic: Matrix = ONE_VIEW,
) -> tuple[Matrix, Matrix]:
    """One frame's (volume_from_patient, covariance at the rotation center) with tracker noise and systematic errors.

    Args:
        systematic: 1 sigma in the C-arm's frame, (rad, mm), (6,).
    """
    with_floor = covariance + np.diag(systematic**2)
    through = g.perturbation_through(carm_from_patient, np.array([0.0, 0.0, pivot_mm]), rotation_center_mm)
    return volume_from_carm @ carm_from_patient, through @ with_floor @ through.T + np.diag(_TRACKING_SIGMA**2)
