"""Sets of X-ray views on disk: ``navnode/views/1``, a JSON file with its images beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.expansion import Budget, TooLargeError
from navnode.files.strict import read_document
from navnode.files.xrays import read_counts
from navnode.geometry import CArmDocument, carm_document, is_rigid, orthonormal
from navnode.types import Array, CArm, Matrix

__all__ = ["ViewFile", "read_landmarks", "read_views", "write_views"]

SCHEMA = "navnode/views/1"
LANDMARKS_SCHEMA = "navnode/landmarks/1"
_MAX_FILE_BYTES = 1 << 28


class _Angles(msgspec.Struct, frozen=True):
    orbital: float
    angulation: float = 0.0


class _View(msgspec.Struct, frozen=True):
    image: str = ""
    i0: float | None = None
    carm: CArmDocument | None = None
    volume_from_carm: tuple[tuple[float, float, float, float], ...] | None = None
    timestamp_ns: int = 0
    station: str = ""
    angles_rad: _Angles | None = None

    def __post_init__(self) -> None:
        if self.i0 is not None and not self.i0 > 0:
            raise ValueError("i0 must be positive")


class _Views(msgspec.Struct, frozen=True):
    views: tuple[_View, ...]
    schema: str = ""
    carm: CArmDocument | None = None


class _Landmarks(msgspec.Struct, frozen=True):
    points_mm: dict[str, tuple[float, float, float]]
    views: tuple[dict[str, tuple[float, float]], ...]
    schema: str = ""


@dataclass(frozen=True)
class ViewFile:
    """One view of a file; the image is read on demand."""

    name: str
    """File and index of the view, for error messages."""
    path: Path | None
    carm: CArm
    volume_from_carm: Matrix | None
    i0: float | None
    """Open-beam counts, if stated."""
    timestamp_ns: int
    station: str = ""
    """Name of the C-arm's position, such as ``AP``; for views without a pose."""
    angles_rad: tuple[float, float] | None = None
    """Orbital and angulation, from the C-arm's scales."""
    corrected: Callable[[Array], Array] | None = None
    """Turns the image (H, W) into that of ``carm``, (H, W); None: it is."""
    quarter_turns: int = 0
    """Counter-clockwise, of the image after that, so that it is that of ``carm``."""

    def counts(self) -> Array:
        """Detector counts (H, W).

        Raises:
            ConfigError: the image is missing, unreadable or has another size.
        """
        if self.path is None:
            raise ConfigError(f"{self.name}: image is missing")
        counts = read_counts(self.path, self.i0)
        expected = (self.carm.height_px, self.carm.width_px)[:: -1 if self.quarter_turns % 2 else 1]
        if counts.shape != expected:
            raise ConfigError(
                f"{self.name}: {self.path.name} has {counts.shape[1]} x {counts.shape[0]} pixels, "
                f"the C-arm geometry {expected[1]} x {expected[0]}"
            )
        counts = counts if self.corrected is None else self.corrected(counts)
        return np.ascontiguousarray(np.rot90(counts, self.quarter_turns)) if self.quarter_turns else counts

    def pose(self) -> Matrix:
        """``volume_from_carm``.

        Raises:
            ConfigError: it is missing.
        """
        if self.volume_from_carm is None:
            raise ConfigError(f"{self.name}: volume_from_carm is missing")
        return self.volume_from_carm


def read_views(path: str | Path, *, any_pose: bool = False) -> list[ViewFile]:
    """Read the views of a file.

    Args:
        any_pose: return poses that are not rigid unchanged, for the caller to handle.

    Raises:
        ConfigError: names the file and the key.
    """
    path = Path(path)
    read = read_document(path, _Views, SCHEMA, _MAX_FILE_BYTES)
    if not read.views:
        raise ConfigError(f"{path}: views is empty")
    views, budget = [], Budget()
    for index, view in enumerate(read.views):
        carm = view.carm or read.carm
        if carm is None:
            raise ConfigError(f"{path}: views[{index}] has no carm, and the file has no common one")
        try:
            budget.take(4.0 * carm.width_px * carm.height_px if view.image else 0)
        except TooLargeError as error:
            raise ConfigError(f"{path}: views[{index}]: the images together are too large ({error})") from error
        pose = None if view.volume_from_carm is None else np.array(view.volume_from_carm)
        if pose is not None and is_rigid(pose):
            pose = orthonormal(pose)
        elif pose is not None and not any_pose:
            raise ConfigError(
                f"{path}: views[{index}]: volume_from_carm is not a rigid transform (4 rows of 4; rotation, mm; last "
                "row 0 0 0 1)"
            )
        image = path.parent / view.image if view.image else None
        angles = None if view.angles_rad is None else (view.angles_rad.orbital, view.angles_rad.angulation)
        name = f"{path}: views[{index}]"
        views.append(ViewFile(name, image, carm.geometry, pose, view.i0, view.timestamp_ns, view.station, angles))
    return views


@dataclass(frozen=True)
class Landmarks:
    """Named points, marked in a volume and in views of it."""

    points_mm: dict[str, tuple[float, float, float]]
    """RAS."""
    pixels: tuple[dict[str, tuple[float, float]], ...]
    """(u, v) in each view."""


def read_landmarks(path: Path, views: int) -> Landmarks:
    """Read landmarks for a set of ``views`` views, ``navnode/landmarks/1``.

    Raises:
        ConfigError: names the file and the key.
    """
    read = read_document(path, _Landmarks, LANDMARKS_SCHEMA, _MAX_FILE_BYTES)
    if len(read.views) != views:
        raise ConfigError(f"{path}: views has {len(read.views)} entries, the set of views has {views}")
    for index, marked in enumerate(read.views):
        if unknown := sorted(set(marked) - set(read.points_mm)):
            raise ConfigError(f"{path}: views[{index}]: {unknown[0]!r} is not among points_mm")
    return Landmarks(read.points_mm, read.views)


def write_views(path: Path, views: list[ViewFile]) -> None:
    """Write a set of views; image paths are relative to the file."""
    data: dict[str, Any] = {"schema": SCHEMA, "views": []}
    for view in views:
        entry: dict[str, Any] = {
            "carm": carm_document(view.carm),
            "timestamp_ns": view.timestamp_ns,
        }
        if view.path is not None:
            entry["image"] = view.path.name
        if view.i0 is not None:
            entry["i0"] = view.i0
        if view.volume_from_carm is not None:
            entry["volume_from_carm"] = view.volume_from_carm.tolist()
        if view.station:
            entry["station"] = view.station
        data["views"].append(entry)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))
