"""Samples of devices, received over OpenIGTLink so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from navnode import geometry as g
from navnode.igtl import Image, Message, Point, TrackingData, Transform
from navnode.igtl.conventions import angles_rad, is_seen
from navnode.types import Array, Matrix

from .inputs import Pictures, Poses

__all__ = ["Heard", "record"]

_MOST_FRAMES = 2_000
_MOST_SAMPLES = 200_000
_NS = 1e-9


@dataclass
class Heard:
    """Samples of the wanted devices."""

    times_s: dict[str, list[float]] = field(default_factory=dict)
    poses: dict[str, list[Matrix]] = field(default_factory=dict)
    """``tracker_from_marker`` of every device."""
    frames: dict[str, list[Array]] = field(default_factory=dict)
    """Counts (H, W)."""
    angles_rad: dict[str, list[tuple[float, float] | None]] = field(default_factory=dict)
    points: dict[str, list[Matrix]] = field(default_factory=dict)
    """Unlabelled points (M, 3) of every message."""

    def series(self, device: str, most: int | None = None) -> Poses:
        """A device's poses so far, evenly thinned out to at most ``most``."""
        rows = np.array(self.poses.get(device, [])).reshape(-1, 4, 4)
        some = _some(len(rows), most)
        return Poses(rows[some], np.array(self.times_s.get(device, []))[some])

    def pictures(self, device: str) -> Pictures:
        """A device's images so far."""
        angles = tuple(self.angles_rad.get(device, []))
        return Pictures(np.array(self.times_s.get(device, [])), np.array(self.frames.get(device, [])), angles)

    def add(
        self,
        name: str,
        stamp_ns: int,
        *,
        pose: Matrix | None = None,
        frame: Array | None = None,
        angles: tuple[float, float] | None = None,
        points: Matrix | None = None,
    ) -> None:
        """Add a sample, unless it is no newer than the last: a 4x4 pose, a frame (H, W) with its angles, or points
        (M, 3)."""
        times = self.times_s.setdefault(name, [])
        if (times and stamp_ns * _NS <= times[-1]) or len(times) >= _MOST_SAMPLES:
            return
        times.append(stamp_ns * _NS)
        if pose is not None:
            self.poses.setdefault(name, []).append(pose)
        if frame is not None:
            self.frames.setdefault(name, []).append(frame)
            self.angles_rad.setdefault(name, []).append(angles)
        if points is not None:
            self.points.setdefault(name, []).append(points)


def _some(count: int, most: int | None) -> Array:
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(int)


def record(heard: Heard, message: Message, received_ns: int, wanted: set[str]) -> None:
    """Add the samples of wanted devices in a message; unseen and invalid poses become NaN."""
    stamp = message.timestamp_ns or received_ns
    if isinstance(message, Transform) and message.device in wanted:
        seen = is_seen(message) and g.is_rigid(message.matrix)
        heard.add(message.device, stamp, pose=message.matrix.copy() if seen else np.full((4, 4), np.nan))
    elif isinstance(message, TrackingData):
        for element in message.elements:
            if element.name in wanted:
                heard.add(element.name, stamp, pose=element.matrix.copy())
    elif isinstance(message, Point) and message.device in wanted:
        places = np.array([each.position_mm for each in message.points], np.float64).reshape(-1, 3)
        heard.add(message.device, stamp, points=places)
    elif (
        isinstance(message, Image)
        and message.device in wanted
        and len(message.voxels) == 1
        and len(heard.frames.get(message.device, [])) < _MOST_FRAMES
    ):
        heard.add(message.device, stamp, frame=message.voxels[0].copy(), angles=angles_rad(message.metadata))
