"""Inputs of calibration: poses, points, signals and image stacks, from arrays and tables.

Unreadable files, wrong shapes and wrong headers raise a :class:`~navnode.errors.ConfigError` that names the file.
Invalid poses are passed on, as the routines handle them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.expansion import Budget, TooLargeError
from navnode.files.ordinary import refuse_special
from navnode.files.placing import unit_mm
from navnode.files.xrays import read_array
from navnode.types import Array, Matrix

__all__ = [
    "Files",
    "Pictures",
    "Poses",
    "angles",
    "array",
    "cloud",
    "frames",
    "has_signal_header",
    "matrix",
    "points",
    "poses",
    "signal",
    "stack",
    "times",
]

_MAX_BYTES = 1 << 32
_POSE_HEADER = ["timestamp_s", *(f"m{i}{j}" for i in range(4) for j in range(4))]
_POINT_HEADER = ["label", "x_mm", "y_mm", "z_mm"]
_SIGNAL_HEADER = ["timestamp_s", "value"]
_ANGLE_HEADER = ["orbital_rad", "angulation_rad"]
_FRAME_HEADER = ["frame", "x_mm", "y_mm", "z_mm"]


@dataclass(frozen=True)
class Poses:
    """A series of poses."""

    poses: Matrix
    """(N, 4, 4), including invalid rows."""
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
    """Orbital, angulation; None for X-rays that carry none."""


@dataclass
class Files:
    """Files that were read, for the artifact."""

    paths: list[Path] = field(default_factory=list)

    def read(self, path: Path) -> Path:
        """Remember a file that is about to be read.

        Raises:
            ConfigError: the file is missing or too large.
        """
        refuse_special(path)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ConfigError(f"{path}: too large")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        self.paths.append(path)
        return path


def poses(path: Path, files: Files, units: str = "") -> Poses:
    """Read poses from ``.npy`` (N, 4, 4), or CSV with the header ``timestamp_s,m00,...,m33``.

    Args:
        units: of their positions: m, cm, mm or um; '': mm.

    Raises:
        ConfigError: names the file, or what is not a unit; or all matrices are transposed, or left-handed.
    """
    factor = unit_mm(units, "--units") if units else 1.0
    if path.suffix.lower() == ".csv":
        rows = _numbers(path, _POSE_HEADER, files)
        return Poses(_scaled(_right_way(rows[:, 1:].reshape(-1, 4, 4), path), factor), rows[:, 0])
    loaded = array(path, files)
    real = np.issubdtype(loaded.dtype, np.floating) or np.issubdtype(loaded.dtype, np.integer)
    if loaded.ndim != 3 or loaded.shape[1:] != (4, 4) or not real:
        raise ConfigError(f"{path}: {loaded.shape} is not a series of poses, (N, 4, 4)")
    return Poses(_scaled(_right_way(loaded.astype(np.float64), path), factor))


def _right_way(poses: Matrix, path: Path) -> Matrix:
    """Poses (N, 4, 4), unless each would be one if it were written another way."""
    if not len(poses) or any(g.is_rigid(pose) for pose in poses):
        return poses
    if all(g.is_rigid(pose.T) for pose in poses):
        raise ConfigError(f"{path}: the matrices are transposed: a translation stands in the last column, not row")
    if all(g.is_rigid(pose * [-1, 1, 1, 1]) for pose in poses):
        raise ConfigError(f"{path}: the matrices mirror: their axes are left-handed")
    return poses


def _scaled(poses: Matrix, factor: float) -> Matrix:
    poses[:, :3, 3] *= factor
    return poses


def matrix(path: Path, files: Files) -> Matrix:
    """Read one rigid transform from ``.npy`` (4, 4).

    Raises:
        ConfigError: names the file.
    """
    loaded = array(path, files)
    if not g.is_rigid(loaded):
        raise ConfigError(f"{path}: not a rigid transform (4, 4)")
    return g.orthonormal(loaded)


def array(path: Path, files: Files) -> Array:
    """Read an ``.npy`` file, of any shape, without executing anything in it.

    Raises:
        ConfigError: names the file.
    """
    return read_array(files.read(path), _MAX_BYTES)


def points(path: Path, files: Files) -> dict[str, Matrix]:
    """Read labelled points (3,) from CSV with the header ``label,x_mm,y_mm,z_mm``, or from Slicer markups.

    Raises:
        ConfigError: names the file, and a repeated label.
    """
    if path.name.lower().endswith((".mrk.json", ".fcsv")):
        from . import exchange

        return dict(exchange.read(files.read(path)).points_mm)
    labelled: dict[str, Matrix] = {}
    for number, row in enumerate(_rows(path, _POINT_HEADER, files)):
        if row[0] in labelled:
            raise ConfigError(f"{path}: label {row[0]!r} occurs twice")
        labelled[row[0]] = np.array([_number(path, number, text) for text in row[1:]])
    return labelled


def cloud(path: Path, files: Files) -> Matrix:
    """Read points (N, 3) on a surface; labels are ignored.

    Raises:
        ConfigError: names the file.
    """
    header, rows = _table(path, files)
    if header not in (_POINT_HEADER, _POINT_HEADER[1:]):
        raise ConfigError(f"{path}: the header is {','.join(header)!r}, not {','.join(_POINT_HEADER)!r}")
    return np.array([[_number(path, n, text) for text in row[-3:]] for n, row in enumerate(rows)]).reshape(-1, 3)


def signal(path: Path, files: Files) -> tuple[Matrix, Matrix]:
    """Read times (N,) and values (N,) from CSV with the header ``timestamp_s,value``.

    Raises:
        ConfigError: names the file.
    """
    rows = _numbers(path, _SIGNAL_HEADER, files)
    return rows[:, 0], rows[:, 1]


def times(path: Path, files: Files) -> Matrix:
    """Read times (N,) from CSV whose first column is ``timestamp_s``; other columns are ignored.

    Raises:
        ConfigError: names the file.
    """
    header, rows = _table(path, files)
    if header[0] != "timestamp_s":
        raise ConfigError(f"{path}: the first column is {header[0]!r}, not 'timestamp_s'")
    return np.array([_number(path, n, row[0]) for n, row in enumerate(rows)])


def angles(path: Path, files: Files) -> Matrix:
    """Read angles (N, 2), orbital and angulation, from CSV with the header ``orbital_rad,angulation_rad``.

    Raises:
        ConfigError: names the file.
    """
    angles_rad = _numbers(path, _ANGLE_HEADER, files)
    if not np.isfinite(angles_rad).all():
        raise ConfigError(f"{path}: angles must be finite")
    return angles_rad


def frames(path: Path, files: Files) -> list[Matrix]:
    """Read the points (N, 3) of every frame from CSV with the header ``frame,x_mm,y_mm,z_mm``; frames may be missing.

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
    """Whether a CSV file contains a signal rather than poses."""
    try:
        with path.open(newline="") as file:
            return [name.strip() for name in file.readline().split(",")] == _SIGNAL_HEADER
    except (OSError, UnicodeDecodeError):
        return False


def stack(path: Path, files: Files) -> Array:
    """Read images (N, H, W) from ``.npy``, or from a folder of PNG files in the order of their names.

    Raises:
        ConfigError: names the file.
    """
    if not path.is_dir():
        loaded = array(path, files)
        if loaded.ndim != 3 or not np.issubdtype(loaded.dtype, np.number) or np.iscomplexobj(loaded):
            raise ConfigError(f"{path}: {loaded.shape} is not a stack of images, (N, H, W)")
        return loaded
    images: list[Array] = []
    budget = Budget()
    for each in sorted(path.glob("*.png")):
        try:
            image = cv2.imread(str(files.read(each)), cv2.IMREAD_UNCHANGED)
            budget.take(2 * image.nbytes if image is not None else 0)  # they are stacked below
        except (cv2.error, TooLargeError) as error:
            raise ConfigError(f"{each}: too large ({error})") from error
        if image is None or image.ndim != 2:
            raise ConfigError(f"{each}: not an image with one channel")
        if images and image.shape != images[0].shape:
            raise ConfigError(f"{each}: {image.shape[1]} x {image.shape[0]} pixels, unlike the others")
        images.append(image)
    if not images:
        raise ConfigError(f"{path}: no PNG images in this folder")
    return np.array(images)


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
    actual, rows = _table(path, files)
    if actual != header:
        raise ConfigError(f"{path}: the header is {','.join(actual)[:200]!r}, not {','.join(header)!r}")
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
        raise ConfigError(f"{path}: row {row}: {text.strip()!r} is not a number") from error
