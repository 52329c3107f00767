"""What calibration reads: poses, points, signals, phantoms, image stacks, and the same from recordings.

What cannot be read, has another shape or another header is a :class:`~navnode.errors.ConfigError` that names the file;
poses that are no poses are data, and the routines deal with them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from navnode import geometry as g
from navnode.errors import CalibrationError, ConfigError, RecordingError
from navnode.files import artifacts
from navnode.files.views import ViewFile, read_views
from navnode.geometry import CARM_SCHEMA, carm_of, series_at
from navnode.igtl import Image, TrackingData, Transform
from navnode.igtl.conventions import angles_rad, seen_pose
from navnode.recording import Recording
from navnode.types import Array, CArm, Matrix

_MAX_BYTES = 1 << 32
_POSE_HEADER = ["timestamp_s", *(f"m{i}{j}" for i in range(4) for j in range(4))]
_POINT_HEADER = ["label", "x_mm", "y_mm", "z_mm"]
_SIGNAL_HEADER = ["timestamp_s", "value"]
_ANGLE_HEADER = ["orbital_rad", "angulation_rad"]
_FRAME_HEADER = ["frame", "x_mm", "y_mm", "z_mm"]
_MOST_APART_NS = 100_000_000
"""Two devices' poses of a recording belong together when one lies between two of the other that are this near."""
_NS = 1e-9


@dataclass(frozen=True)
class Poses:
    """A series of poses."""

    poses: Matrix
    """(N, 4, 4); rows that are no poses are still there."""
    times_s: Matrix | None = None
    """(N,), where they are known."""


@dataclass(frozen=True)
class Pictures:
    """X-rays of one device."""

    times_s: Matrix
    """(N,)"""
    counts: Array
    """(N, H, W)"""
    angles_rad: tuple[tuple[float, float] | None, ...]
    """Orbital, angulation; None where an X-ray states none."""


@dataclass
class Files:
    """Which files were read, for the artifact."""

    paths: list[Path] = field(default_factory=list)

    def read(self, path: Path) -> Path:
        """Remember a file that is about to be read.

        Raises:
            ConfigError: there is none, or it is too large.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ConfigError(f"{path}: too large")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        self.paths.append(path)
        return path


def poses(path: Path, files: Files) -> Poses:
    """``.npy`` (N, 4, 4), or CSV with the header ``timestamp_s,m00,...,m33``.

    Raises:
        ConfigError: names the file.
    """
    if path.suffix.lower() == ".csv":
        rows = _numbers(path, _POSE_HEADER, files)
        return Poses(rows[:, 1:].reshape(-1, 4, 4), rows[:, 0])
    loaded = array(path, files)
    real = np.issubdtype(loaded.dtype, np.floating) or np.issubdtype(loaded.dtype, np.integer)
    if loaded.ndim != 3 or loaded.shape[1:] != (4, 4) or not real:
        raise ConfigError(f"{path}: {loaded.shape} is no series of poses, (N, 4, 4)")
    return Poses(loaded.astype(np.float64))


def matrix(path: Path, files: Files) -> Matrix:
    """One rigid transform, ``.npy`` (4, 4).

    Raises:
        ConfigError: names the file.
    """
    loaded = array(path, files)
    if not g.is_rigid(loaded):
        raise ConfigError(f"{path}: no rigid transform (4, 4)")
    return g.orthonormal(loaded)


def array(path: Path, files: Files) -> Array:
    """An ``.npy`` file; nothing in it is executed.

    Raises:
        ConfigError: names the file.
    """
    try:
        loaded = np.load(files.read(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read as .npy ({error})") from error
    if not isinstance(loaded, np.ndarray):
        raise ConfigError(f"{path}: not one array")
    return loaded


def points(path: Path, files: Files) -> dict[str, Matrix]:
    """Labelled points, CSV with the header ``label,x_mm,y_mm,z_mm``, or Slicer's markups.

    Raises:
        ConfigError: names the file, and a label that is there twice.
    """
    if path.name.lower().endswith((".mrk.json", ".fcsv")):
        from calibration import exchange

        return dict(exchange.read(files.read(path)).points_mm)
    found: dict[str, Matrix] = {}
    for number, row in enumerate(_rows(path, _POINT_HEADER, files)):
        if row[0] in found:
            raise ConfigError(f"{path}: label {row[0]!r} is there twice")
        found[row[0]] = np.array([_number(path, number, text) for text in row[1:]])
    return found


def cloud(path: Path, files: Files) -> Matrix:
    """Points (N, 3) of a surface; labels, if there are any, do not matter.

    Raises:
        ConfigError: names the file.
    """
    header, rows = _table(path, files)
    if header not in (_POINT_HEADER, _POINT_HEADER[1:]):
        raise ConfigError(f"{path}: the header is {','.join(header)!r}, not {','.join(_POINT_HEADER)!r}")
    return np.array([[_number(path, n, text) for text in row[-3:]] for n, row in enumerate(rows)]).reshape(-1, 3)


def signal(path: Path, files: Files) -> tuple[Matrix, Matrix]:
    """Times (N,) and values (N,), CSV with the header ``timestamp_s,value``."""
    rows = _numbers(path, _SIGNAL_HEADER, files)
    return rows[:, 0], rows[:, 1]


def times(path: Path, files: Files) -> Matrix:
    """Times (N,), CSV whose first column is ``timestamp_s``; others do not matter."""
    header, rows = _table(path, files)
    if header[0] != "timestamp_s":
        raise ConfigError(f"{path}: the first column is {header[0]!r}, not 'timestamp_s'")
    return np.array([_number(path, n, row[0]) for n, row in enumerate(rows)])


def angles(path: Path, files: Files) -> Matrix:
    """(N, 2) orbital, angulation, CSV with the header ``orbital_rad,angulation_rad``."""
    found = _numbers(path, _ANGLE_HEADER, files)
    if not np.isfinite(found).all():
        raise ConfigError(f"{path}: angles must be finite")
    return found


def frames(path: Path, files: Files) -> list[Matrix]:
    """Points of every frame, CSV with the header ``frame,x_mm,y_mm,z_mm``; frames may have lost their rows.

    Raises:
        ConfigError: names the file.
    """
    rows = _numbers(path, _FRAME_HEADER, files)
    if not len(rows):
        return []
    number = rows[:, 0]
    if not np.isfinite(number).all() or (number != np.round(number)).any():
        raise ConfigError(f"{path}: frame must be a whole number")
    order = np.argsort(number, kind="stable")
    _, first = np.unique(number[order], return_index=True)
    return list(np.split(rows[order, 1:], first[1:]))


def has_signal_header(path: Path) -> bool:
    """Whether a CSV is a signal and not a series of poses."""
    try:
        with path.open(newline="") as file:
            return [name.strip() for name in file.readline().split(",")] == _SIGNAL_HEADER
    except (OSError, UnicodeDecodeError):
        return False


def stack(path: Path, files: Files) -> Array:
    """Images (N, H, W): ``.npy``, or a folder of PNG, in the order of their names.

    Raises:
        ConfigError: names the file.
    """
    if not path.is_dir():
        loaded = array(path, files)
        if loaded.ndim != 3 or not np.issubdtype(loaded.dtype, np.number) or np.iscomplexobj(loaded):
            raise ConfigError(f"{path}: {loaded.shape} is no stack of images, (N, H, W)")
        return loaded
    images: list[Array] = []
    for each in sorted(path.glob("*.png")):
        image = cv2.imread(str(files.read(each)), cv2.IMREAD_UNCHANGED)
        if image is None or image.ndim != 2:
            raise ConfigError(f"{each}: no image with one channel")
        if images and image.shape != images[0].shape:
            raise ConfigError(f"{each}: {image.shape[1]} x {image.shape[0]} pixels, others have another size")
        images.append(image)
    if not images:
        raise ConfigError(f"{path}: no PNG images in this folder")
    return np.array(images)


def carm(path: Path, files: Files) -> CArm:
    """A C-arm's geometry, ``navnode/carm/1``.

    Raises:
        ConfigError: names the file.
    """
    try:
        document = msgspec.json.decode(files.read(path).read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != CARM_SCHEMA:
        raise ConfigError(f"{path}: no {CARM_SCHEMA}")
    try:
        return carm_of(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def shots(path: Path, files: Files, now_ns: int) -> Poses:
    """phantom_from_carm of every shot: of a ``navnode/views/1`` file, or of what `calibrate carm` wrote; NaN where a
    shot has none.

    Raises:
        ConfigError: names the file.
    """
    if _schema(path, files) != artifacts.SCHEMA:
        views = read_views(path, any_pose=True)
        stamps = np.array([view.timestamp_ns for view in views])
        return Poses(poses_of(views), stamps * _NS)
    try:
        found = artifacts.usable(path, "carm", now_ns).result["views"]
        poses = [view["phantom_from_carm"] or np.full((4, 4), np.nan).tolist() for view in found]
        return Poses(np.array(poses, np.float64), np.array([view.get("timestamp_ns", 0) for view in found]) * _NS)
    except CalibrationError as error:
        raise ConfigError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: its result has no views") from error


def bent_shots(path: Path, files: Files, now_ns: int) -> tuple[list[CArm], Matrix, Matrix]:
    """C-arm, volume_from_carm and angles (orbital, angulation) of every shot: of a ``navnode/views/1`` file, or of what
    `calibrate carm --per-shot` wrote.

    Raises:
        ConfigError: names the file, and what a shot lacks.
    """
    if _schema(path, files) != artifacts.SCHEMA:
        views = read_views(path, any_pose=True)
        for view in views:
            if view.angles_rad is None:
                raise ConfigError(f"{view.name}: angles_rad is missing")
        return [view.carm for view in views], poses_of(views), np.array([view.angles_rad for view in views])
    carms, poses, angles = [], [], []
    try:
        for n, view in enumerate(artifacts.usable(path, "carm", now_ns).result["views"]):
            if view["phantom_from_carm"] is None:
                continue
            if "carm" not in view:
                raise ConfigError(f"{path}: one C-arm for all shots; calibrate carm with --per-shot")
            if view.get("angles_rad") is None:
                raise ConfigError(f"{path}: views[{n}]: the X-ray stated no angles")
            carms.append(carm_of(view["carm"]))
            poses.append(view["phantom_from_carm"])
            angles.append((view["angles_rad"]["orbital"], view["angles_rad"]["angulation"]))
        return carms, np.array(poses, np.float64).reshape(-1, 4, 4), np.array(angles, np.float64).reshape(-1, 2)
    except CalibrationError as error:
        raise ConfigError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: its result has no views") from error


def _schema(path: Path, files: Files) -> object:
    try:
        return msgspec.json.decode(files.read(path).read_bytes()).get("schema")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def poses_of(views: list[ViewFile]) -> Matrix:
    """volume_from_carm (N, 4, 4); NaN where a view has none."""
    given = [view.volume_from_carm for view in views]
    return np.array([np.full((4, 4), np.nan) if pose is None else pose for pose in given]).reshape(-1, 4, 4)


def different(pictures: Array, most: int = 20) -> Array:
    """Which of a series' pictures to take: those that stand still and differ most from each other, in their order."""
    if len(pictures) <= most:
        return np.arange(len(pictures))
    small = np.array([cv2.resize(p.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA) for p in pictures])
    small = small.reshape(len(small), -1)
    steps = np.linalg.norm(np.diff(small, axis=0), axis=1)
    still = np.minimum(np.append(steps, np.inf), np.append(np.inf, steps)) <= np.median(steps)
    rows = np.flatnonzero(still)
    chosen = [int(rows[0])]
    nearest = np.linalg.norm(small[rows] - small[chosen[0]], axis=1)
    while len(chosen) < min(most, len(rows)):
        chosen.append(int(rows[nearest.argmax()]))
        nearest = np.minimum(nearest, np.linalg.norm(small[rows] - small[chosen[-1]], axis=1))
    return np.array(sorted(chosen))


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
    """``navnode/phantom/1``"""

    name: str
    ids: tuple[str | int, ...]
    positions_mm: Matrix
    """(N, 3), frame ``phantom``."""
    diameters_mm: Matrix
    """(N,)"""


def bead_phantom(path: Path, files: Files) -> BeadPhantom:
    """A phantom's description.

    Raises:
        ConfigError: names the file and the key.
    """
    try:
        read = msgspec.json.decode(files.read(path).read_bytes(), type=_Phantom)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if read.schema != "navnode/phantom/1":
        raise ConfigError(f"{path}: schema is {read.schema!r}, not 'navnode/phantom/1'")
    ids = tuple(bead.id for bead in read.beads)
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{path}: beads: an id is there twice")
    if any(bead.diameter_mm <= 0 for bead in read.beads):
        raise ConfigError(f"{path}: beads: diameter_mm must be positive")
    return BeadPhantom(
        read.name, ids, np.array([bead.position_mm for bead in read.beads], np.float64).reshape(-1, 3),
        np.array([bead.diameter_mm for bead in read.beads], np.float64),
    )  # fmt: skip


def result_or_matrix(path: Path, kind: str, name: str, files: Files, now_ns: int) -> Array:
    """A part of a calibration's result, or an ``.npy`` with just that.

    Raises:
        ConfigError: names the file.
    """
    if path.suffix.lower() != ".json":
        return array(path, files)
    try:
        found = artifacts.usable(files.read(path), kind, now_ns)
    except CalibrationError as error:
        raise ConfigError(str(error)) from error
    if name not in found.result:
        raise ConfigError(f"{path}: its result has no {name}")
    return np.array(found.result[name], np.float64)


# --- recordings ------------------------------------------------------------------------------------------------------


def recorded_poses(recording: Path, device: str, files: Files) -> Poses:
    """A device's poses in a recording; those that the tracker calls not valid are no poses (NaN).

    Raises:
        ConfigError: there is no such recording, or no such device in it; names those that are.
    """
    stamps, found = [], []
    others: set[str] = set()
    for message in _messages(recording, files):
        if isinstance(message, Transform):
            others.add(message.device)
            if message.device == device:
                stamps.append(message.timestamp_ns)
                found.append(seen_pose(message))
        elif isinstance(message, TrackingData):
            for element in message.elements:
                others.add(element.name)
                if element.name == device:
                    stamps.append(message.timestamp_ns)
                    found.append(element.matrix)
    if not found:
        raise ConfigError(f"{recording}: no poses of {device!r}; there are: {', '.join(sorted(others)) or 'none'}")
    at = np.array(stamps) * _NS
    first = np.unique(at, return_index=True)[1]  # sent twice is one pose
    return Poses(np.array(found, np.float64)[first], at[first])


def recorded_frames(recording: Path, device: str, files: Files) -> Pictures:
    """A device's pictures in a recording.

    Raises:
        ConfigError: there are none, or of several sizes.
    """
    stamps, found, angles = [], [], []
    for message in _messages(recording, files):
        if isinstance(message, Image) and message.device == device:
            stamps.append(message.timestamp_ns)
            found.append(message.voxels[0])
            angles.append(angles_rad(message.metadata))
    if not found:
        raise ConfigError(f"{recording}: no images of {device!r}")
    if len({image.shape for image in found}) > 1:
        raise ConfigError(f"{recording}: images of {device!r} have several sizes")
    at = np.array(stamps) * _NS
    first = np.unique(at, return_index=True)[1]
    return Pictures(at[first], np.array(found)[first], tuple(angles[n] for n in first))


def at_times(series: Poses, times_s: Matrix) -> Poses:
    """Poses interpolated at other times; NaN where the series has a gap there, so that rows correspond."""
    assert series.times_s is not None
    return Poses(series_at(series.times_s, series.poses, times_s, _MOST_APART_NS * _NS), times_s)


def _messages(recording: Path, files: Files) -> Iterator[Any]:
    paths = sorted(recording.glob("*.mcap")) if recording.is_dir() else [recording]
    if not paths:
        raise ConfigError(f"{recording}: no .mcap file in this folder")
    try:
        for path in paths:
            for entry in Recording(files.read(path) if path not in files.paths else path):
                if not isinstance(entry.content, dict):
                    yield entry.content
    except RecordingError as error:
        raise ConfigError(str(error)) from error


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(path: Path, files: Files) -> tuple[list[str], list[list[str]]]:
    try:
        with files.read(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(text.strip() for text in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise ConfigError(f"{path}: empty")
    return [name.strip() for name in rows[0]], rows[1:]


def _rows(path: Path, header: list[str], files: Files) -> list[list[str]]:
    found, rows = _table(path, files)
    if found != header:
        raise ConfigError(f"{path}: the header is {','.join(found)[:200]!r}, not {','.join(header)!r}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(row)} columns, not {len(header)}")
    return rows


def _numbers(path: Path, header: list[str], files: Files) -> Matrix:
    rows = _rows(path, header, files)
    return np.array([[_number(path, n, text) for text in row] for n, row in enumerate(rows)]).reshape(-1, len(header))


def _number(path: Path, row: int, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{path}: row {row}: {text.strip()!r} is no number") from error
