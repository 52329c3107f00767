"""Documents read by calibration: C-arms, views and shots, phantoms, and other calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.artifacts import CARM, PATIENT, PIVOT, PLATE, Kind, ShotResult
from navnode.files.strict import refuse_repeated_keys
from navnode.files.views import ViewFile, read_views
from navnode.geometry import CARM_SCHEMA, carm_of
from navnode.types import Array, CArm, Matrix
from navnode.xray.distortion import DistortionField, field_of

from .inputs import Files, Poses, array

__all__ = [
    "bead_phantom",
    "bent",
    "bent_shots",
    "carm",
    "plate",
    "shot_poses",
    "shots",
    "tip_mm",
    "volume_from_patient",
]

_R = TypeVar("_R")
_NS = 1e-9


def carm(path: Path, files: Files) -> CArm:
    """Read a C-arm's geometry, ``navnode/carm/1``.

    Raises:
        ConfigError: names the file.
    """
    try:
        content = files.read(path).read_bytes()
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    refuse_repeated_keys(content, path)
    if not isinstance(document, dict) or document.get("schema") != CARM_SCHEMA:
        raise ConfigError(f"{path}: not a {CARM_SCHEMA} document")
    try:
        return carm_of(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def plate(path: Path, files: Files, now_ns: int) -> DistortionField:
    """Read distortion by angle, from a result of `calibrate plate`.

    Raises:
        ConfigError: names the file.
    """
    result = _usable(files.read(path), PLATE, now_ns)
    try:
        return field_of(msgspec.to_builtins(result.field))
    except CalibrationError as error:
        raise ConfigError(f"{path}: {error}") from error


def shots(path: Path, files: Files, now_ns: int) -> Poses:
    """Read phantom_from_carm of every shot from a ``navnode/views/1`` file or a result of `calibrate carm`; NaN for
    shots without a pose.

    Raises:
        ConfigError: names the file.
    """
    if _schema(path, files) != artifacts.SCHEMA:
        views = read_views(path, any_pose=True)
        stamps = np.array([view.timestamp_ns for view in views])
        return Poses(poses_of(views), stamps * _NS)
    return shot_poses(_shots(path, now_ns))


def shot_poses(shots: Sequence[ShotResult]) -> Poses:
    """phantom_from_carm of every shot, with their times; NaN for shots without a pose."""
    poses = [shot.phantom_from_carm or np.full((4, 4), np.nan).tolist() for shot in shots]
    at_ns = [0 if shot.timestamp_ns is UNSET else shot.timestamp_ns for shot in shots]
    return Poses(np.array(poses, np.float64), np.array(at_ns) * _NS)


def bent_shots(path: Path, files: Files, now_ns: int) -> tuple[list[CArm], Matrix, Matrix]:
    """Read C-arm, volume_from_carm and angles (orbital, angulation) of every shot from a ``navnode/views/1`` file or a
    result of `calibrate carm --per-shot`.

    Raises:
        ConfigError: names the file, and what is missing from a shot.
    """
    if _schema(path, files) != artifacts.SCHEMA:
        views = read_views(path, any_pose=True)
        for view in views:
            if view.angles_rad is None:
                raise ConfigError(f"{view.name}: angles_rad is missing")
        return [view.carm for view in views], poses_of(views), np.array([view.angles_rad for view in views])
    return bent(_shots(path, now_ns), str(path))


def bent(shots: Sequence[ShotResult], name: str) -> tuple[list[CArm], Matrix, Matrix]:
    """C-arm, volume_from_carm (N, 4, 4) and angles (N, 2) of the shots that have a pose.

    Args:
        name: what errors call them.

    Raises:
        ConfigError: a shot has no C-arm of its own, or no angles.
    """
    carms, poses, angles = [], [], []
    for n, shot in enumerate(shots):
        if shot.phantom_from_carm is None:
            continue
        if shot.carm is UNSET:
            raise ConfigError(f"{name}: has one C-arm for all shots; run calibrate carm with --per-shot")
        if shot.angles_rad is UNSET:
            raise ConfigError(f"{name}: views[{n}]: the X-ray carried no angles")
        carms.append(shot.carm.geometry)
        poses.append(shot.phantom_from_carm)
        angles.append((shot.angles_rad.orbital, shot.angles_rad.angulation))
    return carms, np.array(poses, np.float64).reshape(-1, 4, 4), np.array(angles, np.float64).reshape(-1, 2)


def _shots(path: Path, now_ns: int) -> tuple[ShotResult, ...]:
    """Shots in a result of `calibrate carm`."""
    views = _usable(path, CARM, now_ns).views
    if views is UNSET:
        raise ConfigError(f"{path}: the result has no views")
    return views


def _schema(path: Path, files: Files) -> object:
    try:
        return msgspec.json.decode(files.read(path).read_bytes()).get("schema")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def poses_of(views: list[ViewFile]) -> Matrix:
    """volume_from_carm (N, 4, 4) of views; NaN for views without a pose."""
    poses = [view.volume_from_carm for view in views]
    return np.array([np.full((4, 4), np.nan) if pose is None else pose for pose in poses]).reshape(-1, 4, 4)


class _Bead(msgspec.Struct, frozen=True):
    id: str | int
    position_mm: tuple[float, float, float]
    diameter_mm: float


class _Phantom(msgspec.Struct, frozen=True):
    schema: str
    beads: tuple[_Bead, ...]
    name: str = ""


@dataclass(frozen=True)
class BeadPhantom:
    """A phantom of beads, ``navnode/phantom/1``."""

    name: str
    ids: tuple[str | int, ...]
    positions_mm: Matrix
    """(N, 3), in the phantom's frame."""
    diameters_mm: Matrix
    """(N,)"""


def bead_phantom(path: Path, files: Files) -> BeadPhantom:
    """Read a phantom's description.

    Raises:
        ConfigError: names the file and the key.
    """
    try:
        content = files.read(path).read_bytes()
        read = msgspec.json.decode(content, type=_Phantom)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    refuse_repeated_keys(content, path)
    if read.schema != "navnode/phantom/1":
        raise ConfigError(f"{path}: schema is {read.schema!r}, not 'navnode/phantom/1'")
    ids = tuple(bead.id for bead in read.beads)
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{path}: beads: an id occurs twice")
    if any(bead.diameter_mm <= 0 for bead in read.beads):
        raise ConfigError(f"{path}: beads: diameter_mm must be positive")
    positions_mm = np.array([bead.position_mm for bead in read.beads], np.float64).reshape(-1, 3)
    return BeadPhantom(read.name, ids, positions_mm, np.array([bead.diameter_mm for bead in read.beads], np.float64))


def tip_mm(numbers: tuple[float, float, float] | None, pivot: Path | None, files: Files, now_ns: int) -> Array | None:
    """A tool's tip (3,), from numbers, a pivot calibration or an ``.npy`` file; None without either.

    Raises:
        ConfigError: both were passed, or one is invalid; names the option or the file.
    """
    if numbers is not None and pivot is not None:
        raise ConfigError("use --tip or --pivot, not both")
    if pivot is not None:
        if pivot.suffix.lower() != ".json":
            return array(pivot, files).ravel()
        return np.array(_usable(files.read(pivot), PIVOT, now_ns).tip_mm)
    if numbers is not None and not (np.isfinite(numbers).all() and any(numbers)):
        raise ConfigError("--tip: three finite numbers, not all 0")
    return None if numbers is None else np.array(numbers)


def volume_from_patient(path: Path, files: Files, now_ns: int) -> Array:
    """Read the patient's registration, 4x4, from a calibration or an ``.npy`` file.

    Raises:
        ConfigError: names the file.
    """
    if path.suffix.lower() != ".json":
        return array(path, files)
    return np.array(_usable(files.read(path), PATIENT, now_ns).volume_from_patient)


def _usable(path: Path, kind: Kind[_R], now_ns: int) -> _R:
    try:
        return artifacts.usable(path, kind, now_ns).result
    except CalibrationError as error:
        raise ConfigError(str(error)) from error
