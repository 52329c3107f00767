"""Reads a device's poses and images from recordings, by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode.errors import ConfigError, RecordingError
from navnode.geometry import series_at
from navnode.igtl import Image, TrackingData, Transform
from navnode.igtl.conventions import angles_rad, seen_pose
from navnode.recording import Recording
from navnode.types import Array, Matrix

from .inputs import Files, Pictures, Poses

__all__ = ["at_other_angles", "at_times", "different", "messages", "pictures", "poses"]

_MOST_APART_NS = 100_000_000
"""Poses of a device are interpolated only between neighbours no farther apart than this."""
_NS = 1e-9


def poses(recording: Path, device: str, files: Files) -> Poses:
    """Read a device's poses from a recording; NaN where the tracker did not see the marker.

    Raises:
        ConfigError: the recording cannot be read, or lacks the device; names the devices that it has.
    """
    stamps, matrices = [], []
    others: set[str] = set()
    for message in messages(recording, files):
        if isinstance(message, Transform):
            others.add(message.device)
            if message.device == device:
                stamps.append(message.timestamp_ns)
                matrices.append(seen_pose(message))
        elif isinstance(message, TrackingData):
            for element in message.elements:
                others.add(element.name)
                if element.name == device:
                    stamps.append(message.timestamp_ns)
                    matrices.append(element.matrix)
    if not matrices:
        raise ConfigError(f"{recording}: no poses of {device!r}; there are: {', '.join(sorted(others)) or 'none'}")
    at = np.array(stamps) * _NS
    first = np.unique(at, return_index=True)[1]  # a pose may have been sent twice
    return Poses(np.array(matrices, np.float64)[first], at[first])


def pictures(recording: Path, device: str, files: Files) -> Pictures:
    """Read a device's images from a recording.

    Raises:
        ConfigError: there are none, or their sizes differ.
    """
    stamps, images, angles = [], [], []
    for message in messages(recording, files):
        if isinstance(message, Image) and message.device == device:
            stamps.append(message.timestamp_ns)
            images.append(message.voxels[0])
            angles.append(angles_rad(message.metadata))
    if not images:
        raise ConfigError(f"{recording}: no images of {device!r}")
    if len({image.shape for image in images}) > 1:
        raise ConfigError(f"{recording}: images of {device!r} have several sizes")
    at = np.array(stamps) * _NS
    first = np.unique(at, return_index=True)[1]
    return Pictures(at[first], np.array(images)[first], tuple(angles[n] for n in first))


def at_times(series: Poses, times_s: Matrix) -> Poses:
    """Poses interpolated at other times (N,), one row per time; NaN in gaps of the series."""
    assert series.times_s is not None
    return Poses(series_at(series.times_s, series.poses, times_s, _MOST_APART_NS * _NS), times_s)


def different(pictures: Array, most: int = 20) -> Array:
    """Indices of the images (N, H, W) to use: those without motion that differ most from each other, in order."""
    if len(pictures) <= most:
        return np.arange(len(pictures))
    small = np.array([cv2.resize(p.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA) for p in pictures])
    small = small.reshape(len(small), -1)
    steps = np.linalg.norm(np.diff(small, axis=0), axis=1)
    still = np.minimum(np.append(steps, np.inf), np.append(np.inf, steps)) <= np.median(steps)
    rows = np.flatnonzero(still)
    return np.asarray(rows[_farthest(small[rows], most)])


def at_other_angles(angles_rad: Sequence[tuple[float, float] | None], most: int = 32) -> Array:
    """Indices (K,) of the images to use: those whose angles differ most from each other, in order.

    Args:
        angles_rad: orbital and angulation of every image; None: it carried none.
    """
    known = [angles for angles in angles_rad if angles is not None]
    if len(angles_rad) <= most or len(known) < len(angles_rad):
        return np.unique(np.linspace(0, len(angles_rad) - 1, min(most, len(angles_rad))).astype(int))
    return _farthest(np.array(known), most)


def _farthest(points: Matrix, most: int) -> Array:
    """Indices of points (N, D), in order: each next one that is chosen is the farthest from those before."""
    chosen = [0]
    nearest = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(most, len(points)) and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(sorted(chosen))


def messages(recording: Path, files: Files) -> Iterator[Any]:
    """The messages in a recording, or in a folder of them.

    Raises:
        ConfigError: it cannot be read; names it.
    """
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
