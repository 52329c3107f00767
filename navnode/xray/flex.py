"""How a C-arm bends, as calibrated: its geometry at any angle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import CalibrationError, ConfigError
from navnode.geometry import carm_document, carm_of
from navnode.types import CArm, Matrix

__all__ = ["FlexModel", "MODEL", "flex_of", "kernel", "turned"]

MODEL = "arc+gaussian_process"
CHANNELS = 9
"""Quantities that change: rotation (3, rad), translation (3, mm), source to detector (mm), principal point (2, px)."""
BEYOND_RAD, FARTHEST_RAD = 0.05, 0.35
"""How far beyond the calibrated angles, and from the nearest of them, the model may be used."""


@dataclass(frozen=True)
class FlexModel:
    """An ideal arc and its deviations.

    ``volume_from_carm(o, a) = volume_from_base Rz(o) Rx(a) arm_from_carm exp(bend(o, a))``, where ``bend`` is the mean
    of a Gaussian process over the angles (Rasmussen and Williams, 2006, eq. 2.25).
    """

    volume_from_base: Matrix
    arm_from_carm: Matrix
    carm: CArm
    """With the mean detector geometry."""
    angles_rad: Matrix
    """(N, 2) orbital, angulation"""
    weights: Matrix
    """(N, 9)"""
    mean: Matrix
    """(9,)"""
    length_rad: float

    def covers(self, orbital_rad: float, angulation_rad: float) -> bool:
        """Whether an angle lies among the calibrated ones, in their convex hull and near one of them."""
        beyond_rad, nearest_rad = self.apart_rad(orbital_rad, angulation_rad)
        return beyond_rad <= BEYOND_RAD and nearest_rad <= FARTHEST_RAD

    def apart_rad(self, orbital_rad: float, angulation_rad: float) -> tuple[float, float]:
        """How far an angle lies outside the convex hull of the calibrated ones (0: inside), and from the nearest."""
        angle = np.array([orbital_rad, angulation_rad])
        hull = cv2.convexHull(self.angles_rad.astype(np.float32))
        inside_rad = cv2.pointPolygonTest(hull, tuple(angle.tolist()), True)
        return max(0.0, -float(inside_rad)), float(np.linalg.norm(self.angles_rad - angle, axis=1).min())

    def carm_at(self, orbital_rad: float, angulation_rad: float) -> CArm:
        """The detector's geometry at an angle."""
        return self.at(orbital_rad, angulation_rad)[0]

    def at(self, orbital_rad: float, angulation_rad: float) -> tuple[CArm, Matrix]:
        """The detector's geometry and volume_from_carm at an angle."""
        here = np.array([[orbital_rad, angulation_rad]])
        bend = (kernel(here, self.angles_rad, self.length_rad) @ self.weights)[0] + self.mean
        pose = self.volume_from_base @ turned(here[0]) @ self.arm_from_carm @ g.exp(bend[:6])
        u, v = self.carm.principal_point_px
        middle = u + float(bend[7]), v + float(bend[8])
        distance_mm = self.carm.source_to_detector_mm + float(bend[6])
        return replace(self.carm, source_to_detector_mm=distance_mm, principal_point_px=middle), pose

    def parameters(self) -> dict[str, Any]:
        """The model's parameters as an artifact stores them; read by :func:`flex_of`."""
        return {
            "volume_from_base": self.volume_from_base,
            "arm_from_carm": self.arm_from_carm,
            "carm": carm_document(self.carm),
            "angles_rad": self.angles_rad,
            "weights": self.weights,
            "mean": self.mean,
            "length_rad": self.length_rad,
        }


def flex_of(model: Mapping[str, Any]) -> FlexModel:
    """The flex model in an artifact's result.

    Raises:
        CalibrationError: the model is of an unknown kind, or its parameters are incomplete or invalid.
    """
    if model.get("kind") != MODEL:
        raise CalibrationError(f"flex: this version does not know the model {model.get('kind')!r}")
    try:
        parameters = model["parameters"]
        base, arm, angles, weights, mean = (
            np.array(parameters[name], np.float64)
            for name in ("volume_from_base", "arm_from_carm", "angles_rad", "weights", "mean")
        )
        carm, length = carm_of(parameters["carm"]), float(parameters["length_rad"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CalibrationError(f"flex: the model's parameters are incomplete ({error})") from error
    shapes = angles.ndim == 2 and angles.shape[1:] == (2,) and weights.shape == (len(angles), CHANNELS)
    finite = all(np.isfinite(part).all() for part in (angles, weights, mean))
    if not (shapes and mean.shape == (CHANNELS,) and len(angles) and finite and length > 0):
        raise CalibrationError("flex: the model's parameters are invalid")
    if not (g.is_rigid(base) and g.is_rigid(arm)):
        raise CalibrationError("flex: volume_from_base or arm_from_carm is not a rigid transform")
    return FlexModel(base, arm, carm, angles, weights, mean, length)


def turned(angle_rad: Matrix) -> Matrix:
    """4x4 Rz(orbital) Rx(angulation) of an angle pair (2,)."""
    return g.rigid(
        g.rotation_exp(np.array([0.0, 0.0, angle_rad[0]])) @ g.rotation_exp(np.array([angle_rad[1], 0.0, 0.0]))
    )


def kernel(a: Matrix, b: Matrix, length_rad: float) -> Matrix:
    """Gaussian covariance (N, M) between angles (N, 2) and (M, 2)."""
    return np.asarray(np.exp(-0.5 * ((a[:, None] - b) ** 2).sum(axis=2) / length_rad**2))
