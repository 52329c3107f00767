"""From samples of a room's devices, live or recorded, to the verdicts of the routines that they serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from navnode.clock import now_ns
from navnode.errors import ConfigError
from navnode.files.artifacts import CARM, FLATFIELD, FLEX, HANDEYE, IMAGE_LAG, PATIENT, PHANTOM, PIVOT, SPIN, TOOL
from navnode.types import Array
from navnode.xray.distortion import DistortionField

from . import documents, inputs, recordings
from .fitting import from_middle_deg
from .heard import Heard, record
from .inputs import Files
from .room import Room, Step
from .verdict import Calibration

# Routines are imported where they are used: the page shows coverage without SciPy, until something is judged.

__all__ = [
    "LEAST_SHOTS",
    "Coverage",
    "Glance",
    "coverage",
    "devices",
    "from_recording",
    "judged",
    "newest_shot",
    "worth_judging",
]

_MOST_ROWS = 400
"""Number of poses for a preliminary verdict."""
LEAST_SHOTS = 12
"""Shots before beads are looked for: what `flex` needs. Looking takes seconds."""
_EVERY_PX = 8
_DARK_SHARE = 0.2
"""An image darker than this share of the brightest was taken without X-rays."""


class Coverage(msgspec.Struct, frozen=True):
    """What has been measured so far, to be drawn."""

    kind: str
    """``directions`` (of a tool), ``angles`` (of a C-arm) or ``points``; '': nothing to draw."""
    places: list[tuple[float, float, bool]] = []
    """Degrees to the side and up, of a tool about its mean, or orbital and angulation; and whether it is used."""
    labels: list[tuple[str, bool]] = []
    """Planned points and targets, or kinds of images: whether they have been taken."""


class Glance(msgspec.Struct, frozen=True):
    """How one shot of the phantom looks by itself, before all are judged together."""

    number: int
    beads: int
    """Number of beads that are identified; 0: the phantom is not recognised."""
    of: int
    residual_px: float | None = None
    """Their rms distance from where they are expected, with the C-arm as its maker says."""


def devices(room: Room, step: Step, tool: str) -> dict[str, str]:
    """Role -> device that a step's measurement listens to.

    Args:
        tool: the tool that touches points.

    Raises:
        ConfigError: there is no such tool.
    """
    named = room.config.devices
    match step.measurement:
        case "tip" | "axis":
            return {"tool": room.device_of(step.tool)}
        case "points" | "targets":
            return {"tool": room.device_of(tool), "patient": named.patient}
        case "shots" | "sweep":
            return {"xray": named.xray, "carm": named.carm}
        case "flat":
            return {"xray": named.xray}
    return {"spheres": room.config.calibration.spheres}


def from_recording(path: Path, wanted: Mapping[str, str], files: Files) -> Heard:
    """The samples of devices in a recording.

    Args:
        wanted: role -> device.

    Raises:
        ConfigError: it cannot be read, or lacks a device; names it.
    """
    heard, names = Heard(), set(wanted.values())
    for message in recordings.messages(path, files):
        record(heard, message, message.timestamp_ns, names)
    for name in sorted(names):
        if not heard.times_s.get(name):
            raise ConfigError(f"{path}: nothing of {name!r}")
    return heard


def judged(
    room: Room, step: Step, tool: str, heard: Heard, found: Mapping[str, Calibration[Any]], *, final: bool
) -> Calibration[Any]:
    """The verdict of a step's routine on the samples so far.

    Args:
        tool: the tool that touches points.
        found: verdicts of this measurement's steps before, by routine.
        final: judge all rows, not some of them.

    Raises:
        ConfigError: the samples do not suffice for a verdict, or a file cannot be read.
        CalibrationError: another calibration that is needed may not be used.
    """
    return _ROUTINES[step.kind.name](_Samples(room, step, tool, heard, found, final))


class _Samples:
    """What a routine is given."""

    def __init__(
        self, room: Room, step: Step, tool: str, heard: Heard, found: Mapping[str, Calibration[Any]], final: bool
    ) -> None:
        self.room, self.step, self.tool, self.heard, self.found = room, step, tool, heard, found
        self.devices = devices(room, step, tool)
        self.most = None if final else _MOST_ROWS
        self.section = room.config.calibration

    def poses(self, role: str, most: int | None = None) -> inputs.Poses:
        return self.heard.series(self.devices[role], most)

    def pictures(self) -> inputs.Pictures:
        pictures = self.heard.pictures(self.devices["xray"])
        if not len(pictures.counts):
            raise ConfigError(f"nothing received from {self.devices['xray']}")
        return pictures

    def shots(self) -> Any:
        """The shots that `carm` found, of this measurement."""
        found = self.found.get(CARM.name)
        if found is None or not found.passed or found.result is None or found.result.views is UNSET:
            raise ConfigError("carm must pass first")
        return found.result.views


def _pivot(given: _Samples) -> Calibration[Any]:
    from .pivot import pivot

    return pivot(given.poses("tool", given.most).poses)


def _spin(given: _Samples) -> Calibration[Any]:
    from .spin import spin

    tip_mm = given.room.tip_mm(given.step.tool)
    return spin(given.poses("tool", given.most).poses, tip_mm if tip_mm.any() else None)


def _carm(given: _Samples) -> Calibration[Any]:
    from .carm import PhantomShot, carm

    pictures, beads = given.pictures(), documents.bead_phantom(Path(given.section.phantom), Files())
    chosen = recordings.different(pictures.counts)
    nominal = given.room.config.carm.geometry
    shots = [
        PhantomShot(
            pictures.counts[n],
            nominal,
            timestamp_ns=round(1e9 * float(pictures.times_s[n])),
            angles_rad=pictures.angles_rad[n],
        )
        for n in chosen
    ]
    per_shot = all(shot.angles_rad is not None for shot in shots)
    plate = _plate(given.section.plate)
    return carm(shots, beads.ids, beads.positions_mm, beads.diameters_mm, per_shot=per_shot, plate=plate)


def _plate(path: str) -> DistortionField | None:
    """Distortion that the configuration says a plate showed."""
    return documents.plate(Path(path), Files(), now_ns()) if path else None


def _flex(given: _Samples) -> Calibration[Any]:
    from .flex import flex

    return flex(*documents.bent(given.shots(), "shots"))


def _handeye(given: _Samples) -> Calibration[Any]:
    from .handeye import handeye

    xrays = documents.shot_poses(given.shots())
    assert xrays.times_s is not None
    return handeye(recordings.at_times(given.poses("carm"), xrays.times_s).poses, xrays.poses)


def _temporal(given: _Samples) -> Calibration[Any]:
    from .temporal import temporal

    moved, pictures = given.poses("carm"), given.pictures()
    assert moved.times_s is not None
    return temporal(moved.times_s, moved.poses, pictures.times_s, pictures.counts)


def _flatfield(given: _Samples) -> Calibration[Any]:
    from .flatfield import flatfield

    counts = given.pictures().counts
    dark, flat = _dark_and_flat(counts)
    return flatfield(counts[dark], counts[flat])


def _dark_and_flat(counts: Array) -> tuple[Array, Array]:
    """Masks of the images (N, H, W) without X-rays and of those with nothing in the beam, by their brightness.

    Images in between, of a beam that was just switched, are neither.
    """
    level = np.array([float(np.median(each[::_EVERY_PX, ::_EVERY_PX])) for each in counts])
    if level.min() > _DARK_SHARE * level.max():
        return np.zeros(len(level), bool), np.ones(len(level), bool)
    return level < level.min() + 0.1 * np.ptp(level), level > level.max() - 0.1 * np.ptp(level)


def _touches(given: _Samples) -> tuple[inputs.Poses, inputs.Poses, Array]:
    stylus = given.poses("tool")
    assert stylus.times_s is not None
    return stylus, recordings.at_times(given.poses("patient"), stylus.times_s), given.room.tip_mm(given.tool)


def _patient(given: _Samples) -> Calibration[Any]:
    from .patient import patient, touched_in_order
    from .phantom import steady_places, tips_in_patient

    stylus, marker, tip_mm = _touches(given)
    planned = inputs.points(Path(given.section.points), Files())
    places = steady_places(tips_in_patient(stylus.poses, marker.poses, tip_mm))
    return patient(planned, touched_in_order(planned, places))


def _phantom(given: _Samples) -> Calibration[Any]:
    from .phantom import phantom_from_stream

    stylus, marker, tip_mm = _touches(given)
    targets = inputs.points(Path(given.section.targets), Files())
    return phantom_from_stream(targets, stylus.poses, marker.poses, tip_mm, given.room.volume_from_patient())


def _tool(given: _Samples) -> Calibration[Any]:
    from .tool import tool

    return tool(given.heard.points.get(given.devices["spheres"], []))


_ROUTINES: dict[str, Callable[[_Samples], Calibration[Any]]] = {
    PIVOT.name: _pivot,
    SPIN.name: _spin,
    CARM.name: _carm,
    FLEX.name: _flex,
    HANDEYE.name: _handeye,
    IMAGE_LAG.name: _temporal,
    FLATFIELD.name: _flatfield,
    PATIENT.name: _patient,
    PHANTOM.name: _phantom,
    TOOL.name: _tool,
}


# --- coverage --------------------------------------------------------------------------------------------------------


def coverage(room: Room, step: Step, heard: Heard, found: Mapping[str, Calibration[Any]]) -> Coverage:
    """What has been measured so far."""
    match step.measurement:
        case "tip":
            return _of_directions(found.get(PIVOT.name))
        case "shots":
            degrees = [np.rad2deg(each) for each in heard.angles_rad.get(room.config.devices.xray, []) if each]
            places = [(round(float(orbital), 1), round(float(angulation), 1), True) for orbital, angulation in degrees]
            return Coverage("angles", places[-_MOST_ROWS:])
        case "points" | "targets":
            return _of_points(room, step, found.get(step.kind.name))
        case "flat":
            counts = heard.pictures(room.config.devices.xray).counts
            dark, flat = _dark_and_flat(counts) if len(counts) else (np.zeros(0, bool), np.zeros(0, bool))
            return Coverage("points", labels=[("dark", dark.sum() >= 5), ("flat", flat.sum() >= 5)])
    return Coverage("")


def _of_directions(verdict: Calibration[Any] | None) -> Coverage:
    data = {} if verdict is None else dict(verdict.pictures).get("directions")
    if not data:
        return Coverage("directions")
    flat, used = from_middle_deg(np.asarray(data["directions"])), np.asarray(data["used"])
    return Coverage(
        "directions",
        [(round(float(x), 1), round(float(y), 1), bool(ok)) for (x, y), ok in zip(flat, used, strict=True)],
    )


def _of_points(room: Room, step: Step, verdict: Calibration[Any] | None) -> Coverage:
    section = room.config.calibration
    planned = inputs.points(Path(section.points if step.kind is PATIENT else section.targets), Files())
    quality: Mapping[str, Any] = {} if verdict is None else verdict.quality
    touched = quality.get("fre_mm" if step.kind is PATIENT else "per_target_mm") or {}
    return Coverage("points", labels=[(label, label in touched) for label in planned])


def newest_shot(room: Room, heard: Heard) -> Glance | None:
    """How the newest shot of the phantom looks by itself; None: there is none.

    Raises:
        ConfigError: the phantom's file cannot be read, or that of the plate.
    """
    from .carm import PhantomShot, corrected, glance

    pictures = heard.pictures(room.config.devices.xray)
    frames = pictures.counts
    if not len(frames):
        return None
    beads = documents.bead_phantom(Path(room.config.calibration.phantom), Files())
    nominal = room.config.carm.geometry
    if frames[-1].shape != (nominal.height_px, nominal.width_px):
        return Glance(len(frames), 0, len(beads.ids))
    shot = PhantomShot(frames[-1], nominal, angles_rad=pictures.angles_rad[-1])
    plate = _plate(room.config.calibration.plate)
    if plate is not None:
        try:
            shot = corrected([shot], plate)[0]
        except ConfigError:  # at its angles the plate says nothing: the verdict will name it
            return Glance(len(frames), 0, len(beads.ids))
    seen = glance(shot, beads.positions_mm, beads.diameters_mm)
    number, residual_px = (0, None) if seen is None else seen
    return Glance(len(frames), number, len(beads.ids), residual_px)


def worth_judging(room: Room, step: Step, heard: Heard) -> bool:
    """Whether there are enough samples for a verdict that takes long."""
    return step.measurement != "shots" or heard.taken(room.config.devices.xray) >= LEAST_SHOTS
