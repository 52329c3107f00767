"""Motions in the virtual operating room as functions of time, and the truth about them.

Everything repeats after ``period_s``, so that frames rendered once can be streamed for hours.
The frame ``room`` is fixed; it equals ``volume`` at mid-breath.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.types import CArm, FloatArray, Matrix, Volume

__all__ = [
    "CARM_DEVICE",
    "CARM_FROM_MARKER",
    "DETECTOR_MM",
    "MARKER_FROM_TOOLTIP",
    "PATIENT_DEVICE",
    "SOURCE_TO_DETECTOR_MM",
    "SOURCE_TO_ISOCENTRE_MM",
    "TRUTH_CARM",
    "TRUTH_PATIENT",
    "XRAY_DEVICE",
    "Occlusion",
    "Scenario",
    "carm_of_size",
    "scenario_for",
]

SOURCE_TO_ISOCENTRE_MM = 700.0
SOURCE_TO_DETECTOR_MM = 1020.0
DETECTOR_MM = 300.0

_ORBIT_DEG = (0.0, 45.0, 90.0, 45.0)
"""Orbital angles where the C-arm stops, in order; then it starts over."""

CARM_FROM_MARKER: Matrix = g.rigid(g.rotation_exp(np.array([0.4, -1.1, 0.3])), (180.0, -95.0, 310.0))
"""Hand-eye calibration: the marker sits on the image receptor's housing."""

MARKER_FROM_TOOLTIP: Matrix = g.rigid(g.rotation_exp(np.array([0.0, 0.6, 0.0])), (12.0, -4.0, 182.0))
"""Tip and axis calibration of the drill."""

CARM_DEVICE, PATIENT_DEVICE, XRAY_DEVICE = "CArmToTracker", "PatientToTracker", "XRay"
TRUTH_PATIENT, TRUTH_CARM = "TruthPatientToVolume", "TruthCArmToVolume"


def carm_of_size(size_px: int) -> CArm:
    """The simulated C-arm with a ``size_px`` x ``size_px`` detector."""
    spacing = DETECTOR_MM / size_px
    middle = (size_px - 1) / 2
    return CArm(size_px, size_px, (spacing, spacing), SOURCE_TO_DETECTOR_MM, (middle, middle))


@dataclass(frozen=True)
class Occlusion:
    """A time within the loop during which the tracker does not see a marker."""

    device: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Scenario:
    """One loop of the operation around ``isocentre_mm`` (RAS)."""

    isocentre_mm: Matrix
    """(3,)"""
    targets_mm: Matrix
    """(N, 3) points on the spine at which registration errors are scored."""
    tool_name: str = "Drill"
    station_s: float = 2.0
    move_s: float = 2.0
    breath_mm: tuple[float, float, float] = (0.0, 2.5, 1.5)
    breath_period_s: float = 4.0
    noise_mm: float = 0.1
    noise_rad: float = np.deg2rad(0.05)
    tracker_latency_s: float = 0.012
    xray_latency_s: float = 0.040
    occlusions: tuple[Occlusion, ...] = (
        Occlusion("DrillToTracker", 5.0, 5.4),
        Occlusion(PATIENT_DEVICE, 9.0, 9.25),
        Occlusion(CARM_DEVICE, 13.0, 13.2),
    )
    volume_from_patient: Matrix = field(
        default_factory=lambda: g.rigid(g.rotation_exp(np.array([0.25, -0.4, 1.9])), (60.0, 120.0, -75.0))
    )
    tracker_from_room: Matrix = field(
        default_factory=lambda: g.rigid(g.rotation_exp(np.array([1.1, 0.5, -0.7])), (150.0, -220.0, -1900.0))
    )

    @property
    def period_s(self) -> float:
        """Length of the loop."""
        return len(_ORBIT_DEG) * (self.station_s + self.move_s)

    @property
    def tool_device(self) -> str:
        """Device name of the tool's poses."""
        return f"{self.tool_name}ToTracker"

    @property
    def truth_tool(self) -> str:
        """Device name of the tool's true poses."""
        return f"Truth{self.tool_name}ToVolume"

    # --- motions ---------------------------------------------------------------------------------

    def orbital_rad(self, t_s: float) -> float:
        """Orbital angle of the C-arm: it rests at each station, then moves smoothly to the next."""
        leg, within = divmod(t_s % self.period_s, self.station_s + self.move_s)
        here = _ORBIT_DEG[int(leg)]
        there = _ORBIT_DEG[(int(leg) + 1) % len(_ORBIT_DEG)]
        x = max(0.0, (within - self.station_s) / self.move_s)
        smooth = x * x * (3 - 2 * x)
        return float(np.deg2rad(here + (there - here) * smooth))

    def angulation_rad(self, t_s: float) -> float:
        """Angulation of the C-arm; it changes a little with the orbital angle."""
        return float(np.deg2rad(6.0) * np.sin(self.orbital_rad(t_s)))

    def room_from_carm(self, t_s: float) -> Matrix:
        """4x4; at 0 rad the source is posterior, image right is patient right, image up is superior."""
        orbital, angulation = self.orbital_rad(t_s), self.angulation_rad(t_s)
        at_zero = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # columns: R, -S, A
        turn = g.rotation_exp(np.array([0, 0, orbital])) @ g.rotation_exp(np.array([angulation, 0, 0]))
        rotation = turn @ at_zero
        return g.rigid(rotation, self.isocentre_mm - SOURCE_TO_ISOCENTRE_MM * rotation[:, 2])

    def room_from_volume(self, t_s: float) -> Matrix:
        """Breathing, 4x4: moves the whole patient a little, bone and marker together."""
        return g.rigid(None, np.sin(2 * np.pi * t_s / self.breath_period_s) * np.array(self.breath_mm))

    def volume_from_carm(self, t_s: float) -> Matrix:
        """4x4 pose of the C-arm relative to the breathing patient."""
        return g.inverse(self.room_from_volume(t_s)) @ self.room_from_carm(t_s)

    def volume_from_tool(self, t_s: float) -> Matrix:
        """4x4; the drill moves in and out along a line through the isocentre while the hand sways a little."""
        phase = 2 * np.pi * t_s / self.period_s
        advance = g.rotation_exp(np.array([0.15 * np.sin(2 * phase), 0.55 + 0.1 * np.cos(3 * phase), 0.0]))
        posterior_to_anterior = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
        rotation = advance @ posterior_to_anterior
        sway = np.array([3 * np.sin(5 * phase), 0.0, 3 * np.cos(4 * phase)])
        depth = 22 * (1 + np.cos(2 * phase))
        return g.rigid(rotation, self.isocentre_mm + sway - depth * rotation[:, 2])

    # --- what the tracker sees --------------------------------------------------------------------

    def tracker_from_marker(self, device: str, t_s: float) -> Matrix:
        """Exact 4x4 pose of a device's marker.

        Raises:
            KeyError: the scenario has no such device.
        """
        tracker_from_volume = self.tracker_from_room @ self.room_from_volume(t_s)
        if device == PATIENT_DEVICE:
            return tracker_from_volume @ self.volume_from_patient
        if device == CARM_DEVICE:
            return self.tracker_from_room @ self.room_from_carm(t_s) @ CARM_FROM_MARKER
        if device == self.tool_device:
            return tracker_from_volume @ self.volume_from_tool(t_s) @ g.inverse(MARKER_FROM_TOOLTIP)
        raise KeyError(device)

    def occluded(self, device: str, t_s: float) -> bool:
        """Whether the tracker does not see a device's marker."""
        t_s %= self.period_s
        return any(o.device == device and o.start_s <= t_s < o.end_s for o in self.occlusions)


def scenario_for(volume: Volume) -> Scenario:
    """A scenario around the spine of a CT.

    Raises:
        ConfigError: the CT contains no bone.
    """
    isocentre = _spine_center_mm(volume)
    bone = np.argwhere(volume.voxels > 250.0)[:, ::-1]
    points = g.transform(volume.volume_from_index, bone)
    near = points[np.linalg.norm(points - isocentre, axis=1) < 60.0]
    if len(near) < 20:
        near = isocentre + np.array(np.meshgrid(*[(-30.0, 0.0, 30.0)] * 3)).reshape(3, -1).T
    chosen = np.random.default_rng(0).choice(len(near), min(200, len(near)), replace=False)
    return Scenario(isocentre_mm=isocentre, targets_mm=near[chosen])


def _spine_center_mm(volume: Volume) -> Matrix:
    """Center of the spine, halfway up the scan: the longest column of bone behind the center of the body.

    Raises:
        ConfigError: the CT contains no bone.
    """
    body = np.argwhere(volume.voxels[::4, ::4, ::4] > -300.0)[:, ::-1] * 4.0
    middle = g.transform(volume.volume_from_index, body).mean(axis=0)
    bone = np.argwhere(volume.voxels[::2, ::2, ::2] > _DENSE_BONE_HU)[:, ::-1] * 2.0
    if not len(bone):
        raise ConfigError(f"{volume.name}: this CT contains no bone to operate on")
    points = g.transform(volume.volume_from_index, bone)
    behind = (points[:, 1] < middle[1]) & (np.abs(points[:, 0] - middle[0]) < 60.0)
    if behind.sum() < 100:  # no spine in this scan: use any bone
        behind = np.ones(len(points), bool)
    density, x_edges, y_edges = np.histogram2d(points[behind, 0], points[behind, 1], bins=_bins(points[behind]))
    peak = np.unravel_index(np.argmax(gaussian_filter(density, 12.0 / _BIN_MM)), density.shape)
    return np.array([x_edges[peak[0]], y_edges[peak[1]], volume.center_mm[2]])


_BIN_MM = 3.0
_DENSE_BONE_HU = 420.0
"""Above contrast-enhanced blood."""


def _bins(points_mm: Matrix) -> list[FloatArray]:
    return [np.arange(points_mm[:, a].min() - 30, points_mm[:, a].max() + 30, _BIN_MM) for a in (0, 1)]
