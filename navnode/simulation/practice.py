"""Calibration scenes of the virtual operating room: a tool in its divot, beads under the C-arm, touched points.

Every scene is a series of timed messages, for a server to send or a recorder to record. The room's hardware deviates
from its data sheet, so that there is something to calibrate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from navnode import geometry as g
from navnode.clock import NS_PER_S
from navnode.igtl import Image, Message, Transform
from navnode.igtl.conventions import ANGLE_KEYS, STATUS_KEY, status_of
from navnode.simulation.beads import exposed, helix, rendered
from navnode.simulation.scenario import (
    CARM_DEVICE,
    CARM_FROM_MARKER,
    MARKER_FROM_TOOLTIP,
    PATIENT_DEVICE,
    SOURCE_TO_ISOCENTRE_MM,
    XRAY_DEVICE,
    Scenario,
    carm_of_size,
)
from navnode.types import Array, CArm, FloatArray, Matrix

__all__ = [
    "IMAGE_LAG_S",
    "SCENES",
    "Practice",
    "Timed",
    "angles_metadata",
    "as_seen",
    "margin_px",
    "true_carm",
    "undistorted",
]

IMAGE_LAG_S = 0.035
"""Image stamps lag pose stamps by this much in a room with errors."""
_SDD_MM, _SHIFT = 1012.0, (6.0 / 512, -4.0 / 512)
_CUSHION, _SPIRAL = 4.0 / 512, 2.0 / 512
"""As shares of the image size: shift of the principal point, and distortion in the corners."""

_SAG_MM, _SAG = 3.0, (5.0 / 512, 4.0 / 512)
"""Flex of the C-arm: change of the source's distance, and of the principal point as a share of the image size."""

_MOST_OFF = (_CUSHION + _SPIRAL) * 1.2
_POSES_HZ, _FRAMES_HZ = 50.0, 15.0
_REST_S, _MOVE_S = 1.0, 0.6
_STATIONS_DEG = tuple((o, a) for a in (-10.0, 12.0) for o in np.linspace(-30.0, 95.0, 8).tolist())
"""Orbital angle and angulation: all angles of the operation, dense enough for a model of the C-arm's flex."""
_DIVOT_MM = np.array([40.0, 30.0, -20.0])
_FIDUCIALS_MM = np.array([[70.0, 40, 60], [-65, 45, 55], [5, 90, -10], [60, 50, -70], [-70, 35, -60], [-10, 95, 80]])
_TARGETS_MM = np.array([[20.0, -10, 15], [-15, 5, -25], [0, 25, 30], [30, 10, -15], [-25, -15, 10]])
SCENES = ("pivot", "spin", "beads", "sweep", "points", "targets")

Timed = Iterator[tuple[int, Message]]
"""Pairs of nanoseconds since the scene's start and message, in order of time."""


def true_carm(size_px: int, orbital_rad: float = 0.0, angulation_rad: float = 0.0) -> CArm:
    """The true C-arm of a room with errors: it deviates from its data sheet, and flexes with the angles."""
    nominal = carm_of_size(size_px)
    u, v = nominal.principal_point_px
    sideways, along = np.sin(orbital_rad), 1 - np.cos(orbital_rad) + 0.5 * np.sin(angulation_rad)
    middle = (
        float(u + (_SHIFT[0] + _SAG[0] * sideways) * size_px),
        float(v + (_SHIFT[1] + _SAG[1] * along) * size_px),
    )
    return CArm(size_px, size_px, nominal.pixel_spacing_mm, float(_SDD_MM + _SAG_MM * sideways), middle)


def angles_metadata(orbital_rad: float, angulation_rad: float) -> dict[str, str]:
    """C-arm angles as metadata of an X-ray."""
    degrees = np.rad2deg((orbital_rad, angulation_rad))
    return {key: f"{angle:.3f}" for key, angle in zip(ANGLE_KEYS, degrees, strict=True)}


def undistorted(raw_px: Matrix, size_px: int) -> Matrix:
    """Positions of raw pixels (..., 2) on an ideal detector: removes cushion and spiral distortion."""
    at = (raw_px - (size_px - 1) / 2) / (size_px / 2)
    far = (at**2).sum(axis=-1, keepdims=True)
    turned = np.stack([-at[..., 1], at[..., 0]], axis=-1)
    return np.asarray(raw_px - size_px * (_CUSHION / 2 * at + _SPIRAL / 2 * turned) * far)


def margin_px(size_px: int) -> int:
    """How much must be rendered around the nominal detector, so that the true one sees no edge."""
    return size_px // 16


def as_seen(size_px: int) -> Callable[[Array, float, float], Array]:
    """A function that turns counts of the nominal C-arm into those (H, W) of the true one.

    Counts have :func:`margin_px` more on every side. Further arguments are orbital angle and angulation in rad, as of
    :func:`true_carm`.
    """
    nominal = carm_of_size(size_px)
    raw = np.stack(np.meshgrid(np.arange(size_px), np.arange(size_px)), axis=-1).astype(np.float64)
    ideal = undistorted(raw, size_px).astype(np.float32)
    middle_px = np.add(nominal.principal_point_px, margin_px(size_px))

    def seen(counts: Array, orbital_rad: float, angulation_rad: float) -> Array:
        true = true_carm(size_px, orbital_rad, angulation_rad)
        scale = nominal.source_to_detector_mm / true.source_to_detector_mm
        shift = middle_px - np.multiply(scale, true.principal_point_px)
        at = ideal * np.float32(scale) + shift.astype(np.float32)
        return np.asarray(cv2.remap(counts, at, None, cv2.INTER_LINEAR))

    return seen


@dataclass(frozen=True)
class Practice:
    """The scenes of one room.

    Args:
        size_px: detector size.
        seed: random seed of the noise.
    """

    size_px: int = 512
    seed: int = 0
    scenario: Scenario = field(default_factory=lambda: Scenario(isocentre_mm=np.zeros(3), targets_mm=_TARGETS_MM))

    def messages(self, scene: str) -> Timed:
        """The messages of one of :data:`SCENES`."""
        makers: dict[str, Callable[[np.random.Generator], Timed]] = {
            "pivot": self._pivot,
            "spin": self._spin,
            "beads": self._beads,
            "sweep": self._sweep,
            "points": lambda rng: self._touches(rng, _FIDUCIALS_MM),
            "targets": lambda rng: self._touches(rng, _TARGETS_MM),
        }
        return makers[scene](np.random.default_rng((self.seed, SCENES.index(scene))))

    def write_references(self, folder: Path) -> None:
        """Write what the operator knows beforehand: the phantom's beads, planned points and targets, nominal C-arm."""
        from navnode.geometry import carm_document

        phantom = helix()
        beads = [
            {"id": n, "position_mm": at.tolist(), "diameter_mm": float(diameter_mm)}
            for n, (at, diameter_mm) in enumerate(zip(phantom.positions_mm, phantom.diameters_mm, strict=True))
        ]
        document = {"schema": "navnode/phantom/1", "name": "helix", "beads": beads}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "phantom.json").write_text(json.dumps(document, indent=1))
        (folder / "nominal.json").write_text(json.dumps(carm_document(carm_of_size(self.size_px)), indent=1))
        for name, points in (("points", _FIDUCIALS_MM), ("targets", _TARGETS_MM)):
            rows = [f"{name[0]}{n},{x:g},{y:g},{z:g}" for n, (x, y, z) in enumerate(points)]
            (folder / f"{name}.csv").write_text("\n".join(["label,x_mm,y_mm,z_mm", *rows]) + "\n")

    # --- scenes -----------------------------------------------------------------------------------------------------

    def _pivot(self, rng: np.random.Generator) -> Timed:
        for n, t in self._times(16.0):
            lean = 0.55 * np.sin(2 * np.pi * t / 3.7)
            around = 2 * np.pi * t / 6.1
            turn = 0.7 * np.sin(2 * np.pi * t / 5.0)
            tilt = g.rotation_exp(lean * np.array([np.cos(around), np.sin(around), 0.0]))
            tip = g.rigid(tilt @ g.rotation_exp(np.array([0, 0, turn])), tuple(_DIVOT_MM))
            yield n, self._tool(n, tip, rng)

    def _spin(self, rng: np.random.Generator) -> Timed:
        lying = g.rotation_exp(np.array([0.9, 0.2, 0.0]))
        for n, t in self._times(6.0):
            yield n, self._tool(n, g.rigid(lying @ g.rotation_exp(np.array([0, 0, 0.7 * t])), tuple(_DIVOT_MM)), rng)

    def _touches(self, rng: np.random.Generator, places: Matrix) -> Timed:
        here, t, tracker = np.array([0.0, 140, 120]), 0.0, 1 / _POSES_HZ
        path: list[Matrix] = []
        for place in places:
            shares = np.arange(0, 1, tracker / 1.2)
            path += [here + (place - here) * (3 * share**2 - 2 * share**3) for share in shares]
            here = place
            path += [place] * round(_REST_S / tracker)
        for at in path:
            stamp = round(t * NS_PER_S)
            lean = g.rotation_exp(np.array([2.2 + 0.05 * np.sin(t), 0.1, 0.0]))
            tracker_from_volume = self.scenario.tracker_from_room
            tool = tracker_from_volume @ g.rigid(lean, tuple(at)) @ g.inverse(MARKER_FROM_TOOLTIP)
            marker = tracker_from_volume @ self.scenario.volume_from_patient
            yield stamp, self._pose(self.scenario.tool_device, tool, stamp, rng)
            yield stamp, self._pose(PATIENT_DEVICE, marker, stamp, rng)
            t += tracker

    def _beads(self, rng: np.random.Generator) -> Timed:
        """The C-arm rests at each station over the phantom, then moves on."""
        rest, move = round(_REST_S * _POSES_HZ), round(_MOVE_S * _POSES_HZ)
        n = 0
        for here, there in zip(_STATIONS_DEG, [*_STATIONS_DEG[1:], _STATIONS_DEG[-1]], strict=True):
            image = self._shot(self._room_from_carm(*here), rng, *np.deg2rad(here))
            for step in range(rest + move):
                share = max(0.0, (step - rest) / move)
                orbital, angulation = np.array(here) + share * (np.array(there) - here)
                stamp = round(n / _POSES_HZ * NS_PER_S)
                yield stamp, self._marker(stamp, self._room_from_carm(orbital, angulation), rng)
                # One image halfway through the rest: fluoroscopy is on only while the C-arm stands.
                if step == rest // 2:
                    yield stamp, self._image(stamp, image, *np.deg2rad(here))
                n += 1

    def _sweep(self, rng: np.random.Generator) -> Timed:
        """The C-arm is pushed to and fro along the table, irregularly, under fluoroscopy."""

        def room_from_carm(t: float) -> Matrix:
            parts = [(12, 0.31, 0.0), (8, 0.73, 1.0), (4, 1.3, 2.0)]
            along = float(sum(size * np.sin(2 * np.pi * hz * t + phase) for size, hz, phase in parts))
            return g.rigid(None, (0.0, 0.0, along)) @ self._room_from_carm(0.0, 0.0)

        every = round(_POSES_HZ / _FRAMES_HZ)
        for n, t in self._times(10.0):
            yield n, self._marker(n, room_from_carm(t), rng)
            if round(t * _POSES_HZ) % every == 0:
                yield n, self._image(n, self._shot(room_from_carm(t), rng))

    # --- parts ------------------------------------------------------------------------------------------------------

    def _times(self, seconds: float) -> Iterator[tuple[int, float]]:
        for n in range(round(seconds * _POSES_HZ)):
            yield round(n / _POSES_HZ * NS_PER_S), n / _POSES_HZ

    def _room_from_carm(self, orbital_deg: float, angulation_deg: float) -> Matrix:
        return g.pose_at(np.zeros(3), SOURCE_TO_ISOCENTRE_MM, orbital_deg=orbital_deg, angulation_deg=angulation_deg)

    def _shot(
        self, room_from_carm: Matrix, rng: np.random.Generator, orbital_rad: float = 0.0, angulation_rad: float = 0.0
    ) -> Array:
        line: FloatArray = rendered(
            helix(),
            true_carm(self.size_px, orbital_rad, angulation_rad),
            room_from_carm,
            undistorted=lambda raw: undistorted(raw, self.size_px),
            most_off_px=_MOST_OFF * self.size_px,
        )
        return exposed(line, rng)

    def _pose(self, device: str, pose: Matrix, stamp: int, rng: np.random.Generator) -> Message:
        sigma = [self.scenario.noise_rad] * 3 + [self.scenario.noise_mm] * 3
        return Transform(
            device=device,
            timestamp_ns=stamp,
            matrix=pose @ g.exp(rng.normal(0, sigma)),
            metadata={STATUS_KEY: status_of(pose)},
        )

    def _tool(self, stamp: int, room_from_tip: Matrix, rng: np.random.Generator) -> Message:
        pose = self.scenario.tracker_from_room @ room_from_tip @ g.inverse(MARKER_FROM_TOOLTIP)
        return self._pose(self.scenario.tool_device, pose, stamp, rng)

    def _marker(self, stamp: int, room_from_carm: Matrix, rng: np.random.Generator) -> Message:
        return self._pose(CARM_DEVICE, self.scenario.tracker_from_room @ room_from_carm @ CARM_FROM_MARKER, stamp, rng)

    def _image(self, stamp: int, counts: Array, orbital_rad: float = 0.0, angulation_rad: float = 0.0) -> Message:
        spacing = carm_of_size(self.size_px).pixel_spacing_mm
        return Image(
            device=XRAY_DEVICE,
            timestamp_ns=stamp + round(IMAGE_LAG_S * NS_PER_S),
            voxels=counts[None],
            ras_from_index=np.diag([spacing[0], spacing[1], 1.0, 1.0]),
            metadata=angles_metadata(orbital_rad, angulation_rad),
        )
