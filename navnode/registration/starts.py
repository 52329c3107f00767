"""Starting poses from a station's name, or from landmarks marked in volume and image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.types import CArm, Matrix, Volume

__all__ = ["STATIONS_DEG", "landmark_pose", "station_poses"]

STATIONS_DEG = {
    "AP": 0.0,
    "PA": 180.0,
    "lateral": 90.0,
    "left lateral": 90.0,
    "right lateral": -90.0,
    "oblique": 45.0,
    "LAO": 45.0,
    "RAO": -45.0,
    "LPO": 135.0,
    "RPO": -135.0,
}
"""Orbital angle of the C-arm by station name, patient supine; 0: the source behind the patient."""

_SOURCE_TO_PATIENT = 0.68
"""Typical distance from source to patient, as a share of the source-to-detector distance."""

_APART_MM = 150.0
"""Distance between the starting heights in a volume that is longer than the search reaches."""

_LEAST_SPREAD_MM = 5.0
"""Points of anatomy that are marked lie farther apart."""
_MIN_LANDMARKS = 4
_WORST_LANDMARK = 0.06
"""Largest reprojection error of a landmark marked by hand, as a share of the detector's width."""


def station_poses(name: str, volume: Volume, carm: CArm) -> list[Matrix]:
    """volume_from_carm for a named station, at every height of the volume where a search must begin.

    Raises:
        ConfigError: no such station.
    """
    by_name = {known.lower(): angle for known, angle in STATIONS_DEG.items()}
    if name.lower() not in by_name:
        raise ConfigError(f"unknown station {name!r}; known: {', '.join(STATIONS_DEG)}")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.voxels.shape[::-1]])).reshape(3, -1).T
    heights = g.transform(volume.volume_from_index, corners)[:, 2]
    count = max(1, round(float(np.ptp(heights)) / _APART_MM))
    middle = volume.center_mm
    distance_mm = _SOURCE_TO_PATIENT * carm.source_to_detector_mm
    return [
        g.pose_at(np.array([middle[0], middle[1], height]), distance_mm, orbital_deg=by_name[name.lower()])
        for height in heights.min() + (np.arange(count) + 0.5) / count * float(np.ptp(heights))
    ]


def landmark_pose(
    carm: CArm, points_mm: Mapping[str, Sequence[float]], pixels: Mapping[str, Sequence[float]]
) -> Matrix:
    """volume_from_carm from points named in both volume (mm) and image (u, v), by PnP (Terzakis and Lourakis 2020).

    Raises:
        ConfigError: there are too few points, or they lie nearly on a line, or they contradict each other.
    """
    names = [name for name in pixels if name in points_mm]
    if len(names) < _MIN_LANDMARKS:
        raise ConfigError(f"landmarks: only {len(names)} are in both volume and image; {_MIN_LANDMARKS} are needed")
    points = np.array([points_mm[name] for name in names], np.float64)
    marked_px = np.array([pixels[name] for name in names], np.float64)
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    camera = np.array([[carm.source_to_detector_mm / su, 0, cu], [0, carm.source_to_detector_mm / sv, cv], [0, 0, 1]])
    spread_mm = np.linalg.svd(points - points.mean(axis=0))[1]
    if spread_mm[0] < _LEAST_SPREAD_MM:
        raise ConfigError(f"landmarks: their points lie within {spread_mm[0]:.2g} mm: are they in metres?")
    if spread_mm[1] < 1.0:
        raise ConfigError("landmarks: they lie on a line, which leaves the pose undetermined")
    try:
        solved, rotation, translation = cv2.solvePnP(points, marked_px, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:  # marks that coincide
        solved = False
    if not solved or translation[2, 0] <= 0:
        raise ConfigError("landmarks: no pose explains them")
    carm_from_volume = g.rigid(g.rotation_exp(rotation.ravel()), translation.ravel())
    errors_px = np.linalg.norm(g.project(carm, carm_from_volume, points) - marked_px, axis=1)
    worst = int(np.argmax(errors_px))
    if not errors_px[worst] <= _WORST_LANDMARK * carm.width_px:
        raise ConfigError(f"landmarks: {names[worst]!r} is {errors_px[worst]:.0f} px from where the others put it")
    return g.inverse(carm_from_volume)
