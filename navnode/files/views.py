"""Sets of X-ray views on disk: ``navnode/views/1``, a JSON file beside its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.geometry import CArmDocument, carm_document, is_rigid, orthonormal
from navnode.types import Array, CArm, Matrix

SCHEMA = "navnode/views/1"
LANDMARKS_SCHEMA = "navnode/landmarks/1"
_MAX_FILE_BYTES = 1 << 28
_MAX_PIXELS = 1 << 26
_DICOM_ENDINGS = ("", ".dcm", ".dicom", ".ima")


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
    """One view as its file says; the image is read when it is asked for."""

    name: str
    """For messages: the file and which view."""
    path: Path | None
    carm: CArm
    volume_from_carm: Matrix | None
    i0: float | None
    timestamp_ns: int
    station: str = ""
    """What the C-arm's position is called, such as ``AP``; for views without a pose."""
    angles_rad: tuple[float, float] | None = None
    """Orbital, angulation: as the C-arm's own scales say."""

    def counts(self) -> Array:
        """Detector counts (H, W).

        Raises:
            ConfigError: the image is missing, unreadable or of another size.
        """
        if self.path is None:
            raise ConfigError(f"{self.name}: image is missing")
        counts = read_counts(self.path)
        expected = (self.carm.height_px, self.carm.width_px)
        if counts.shape != expected:
            raise ConfigError(
                f"{self.name}: {self.path.name} is {counts.shape[1]} x {counts.shape[0]} pixels, "
                f"the C-arm geometry is for {expected[1]} x {expected[0]}"
            )
        return counts

    def pose(self) -> Matrix:
        """``volume_from_carm``.

        Raises:
            ConfigError: it is missing.
        """
        if self.volume_from_carm is None:
            raise ConfigError(f"{self.name}: volume_from_carm is missing")
        return self.volume_from_carm


_Read = TypeVar("_Read", _Views, _Landmarks)


def _decoded(path: Path, kind: type[_Read], schema: str) -> _Read:
    """A JSON file that says which schema it follows."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"{path}: too large for {schema}")
        read = msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if read.schema != schema:
        raise ConfigError(f"{path}: schema is {read.schema!r}, not {schema!r}")
    return read


def read_views(path: str | Path, *, any_pose: bool = False) -> list[ViewFile]:
    """The views of a file.

    Args:
        any_pose: give poses that are none as they are; who asks deals with them.

    Raises:
        ConfigError: names the file and the key.
    """
    path = Path(path)
    read = _decoded(path, _Views, SCHEMA)
    if not read.views:
        raise ConfigError(f"{path}: views is empty")
    found = []
    for index, view in enumerate(read.views):
        carm = view.carm or read.carm
        if carm is None:
            raise ConfigError(f"{path}: views[{index}] has no carm, and there is none for all")
        pose = None if view.volume_from_carm is None else np.array(view.volume_from_carm)
        if pose is not None and is_rigid(pose):
            pose = orthonormal(pose)
        elif pose is not None and not any_pose:
            raise ConfigError(
                f"{path}: views[{index}]: volume_from_carm is no rigid transform (4 rows of 4; rotation, mm; last row "
                "0 0 0 1)"
            )
        image = path.parent / view.image if view.image else None
        angles = None if view.angles_rad is None else (view.angles_rad.orbital, view.angles_rad.angulation)
        name = f"{path}: views[{index}]"
        found.append(ViewFile(name, image, carm.geometry, pose, view.i0, view.timestamp_ns, view.station, angles))
    return found


@dataclass(frozen=True)
class Landmarks:
    """Points that were named in a volume and in views of it."""

    points_mm: dict[str, tuple[float, float, float]]
    """RAS."""
    pixels: tuple[dict[str, tuple[float, float]], ...]
    """(u, v) in each view."""


def read_landmarks(path: Path, views: int) -> Landmarks:
    """Landmarks for a set of ``views`` views, ``navnode/landmarks/1``.

    Raises:
        ConfigError: names the file and the key.
    """
    read = _decoded(path, _Landmarks, LANDMARKS_SCHEMA)
    if len(read.views) != views:
        raise ConfigError(f"{path}: views has {len(read.views)} entries, the set of views has {views}")
    for index, seen in enumerate(read.views):
        if unknown := sorted(set(seen) - set(read.points_mm)):
            raise ConfigError(f"{path}: views[{index}]: {unknown[0]!r} is not among points_mm")
    return Landmarks(read.points_mm, read.views)


def write_views(path: Path, views: list[ViewFile]) -> None:
    """Write a set of views; images are named relative to the file."""
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
        data["views"].append(entry)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))


def read_counts(path: Path) -> Array:
    """Detector counts (H, W) from a 16-bit PNG or TIFF, ``.npy``, or DICOM (XA, RF; one frame).

    Raises:
        ConfigError: names the file.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such image")
    try:
        counts = _read(path)
    except (OSError, ValueError, RuntimeError, cv2.error) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot be read as an image ({reason})") from error
    if counts.ndim != 2 or counts.size == 0:
        raise ConfigError(f"{path}: not one plane of one value per pixel, but {counts.shape}")
    if counts.dtype.kind not in "uif" or (counts.dtype.kind == "f" and not np.isfinite(counts).all()):
        raise ConfigError(f"{path}: its pixels are no counts ({counts.dtype})")
    if counts.min() < 0:
        raise ConfigError(f"{path}: its pixels are no counts (some are negative)")
    return counts


def _read(path: Path) -> Array:
    ending = path.suffix.lower()
    if ending == ".npy":
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.size > _MAX_PIXELS:
            raise ValueError(f"{mapped.size} pixels are too many")
        return np.array(mapped)
    if ending in _DICOM_ENDINGS:
        import SimpleITK as sitk  # here: it is large, and few images are DICOM

        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if np.prod(reader.GetSize(), dtype=np.float64) > _MAX_PIXELS:
            raise ValueError("too many pixels")
        array = sitk.GetArrayFromImage(reader.Execute())
        return np.asarray(array[0] if array.ndim == 3 and len(array) == 1 else array)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("not a PNG or TIFF")
    return np.asarray(image)
