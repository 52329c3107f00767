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
_MOST_IMAGE_BYTES = 1 << 30
"""Of all images together: 512 of 1024 x 1024 pixels, 17 s at 30 Hz."""
_MOST_SAMPLES = 200_000
_NS = 1e-9


class _Images:
    """Images of one size and type, in a block of memory of which only what was written is used."""

    def __init__(self, first: Array, most_bytes: int) -> None:
        self._block = np.empty((min(_MOST_FRAMES, most_bytes // max(first.nbytes, 1)), *first.shape), first.dtype)
        self.count = 0

    @property
    def reserved_bytes(self) -> int:
        return self._block.nbytes

    def add(self, image: Array) -> str:
        """Add one; returns why it is not taken, or ''."""
        if image.shape != self._block.shape[1:] or image.dtype != self._block.dtype:
            return "differ in size or type"
        if self.count == len(self._block):
            return f"are more than {self.count}, which are all that is held"
        self._block[self.count] = image
        self.count += 1
        return ""

    def so_far(self) -> Array:
        """A view (N, H, W), which stays as it is."""
        images = self._block[: self.count]
        images.flags.writeable = False
        return images


@dataclass
class Heard:
    """Samples of the wanted devices."""

    times_s: dict[str, list[float]] = field(default_factory=dict)
    poses: dict[str, list[Matrix]] = field(default_factory=dict)
    """``tracker_from_marker`` of every device."""
    left_out: str = ""
    """Why some images are not among the samples; '': all are."""
    angles_rad: dict[str, list[tuple[float, float] | None]] = field(default_factory=dict)
    points: dict[str, list[Matrix]] = field(default_factory=dict)
    """Unlabelled points (M, 3) of every message."""
    _images: dict[str, _Images] = field(default_factory=dict)

    def series(self, device: str, most: int | None = None) -> Poses:
        """A device's poses so far, evenly thinned out to at most ``most``."""
        rows = np.array(self.poses.get(device, [])).reshape(-1, 4, 4)
        some = _some(len(rows), most)
        return Poses(rows[some], np.array(self.times_s.get(device, []))[some])

    def pictures(self, device: str) -> Pictures:
        """A device's images so far."""
        angles = tuple(self.angles_rad.get(device, []))  # which come last
        counts = self._images[device].so_far() if angles else np.zeros((0, 0, 0))
        return Pictures(np.array(self.times_s.get(device, [])[: len(angles)]), counts[: len(angles)], angles)

    def taken(self, device: str) -> int:
        """Number of a device's images."""
        return len(self.angles_rad.get(device, []))

    def forgotten(self) -> Heard:
        """The same without what was measured: with what says how much it was."""
        return Heard(times_s=self.times_s, left_out=self.left_out)

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
        if frame is not None and not self._take(name, frame):
            return
        times.append(stamp_ns * _NS)
        if pose is not None:
            self.poses.setdefault(name, []).append(pose)
        if frame is not None:
            self.angles_rad.setdefault(name, []).append(angles)
        if points is not None:
            self.points.setdefault(name, []).append(points)

    def _take(self, name: str, frame: Array) -> bool:
        if name not in self._images:
            left_bytes = _MOST_IMAGE_BYTES - sum(each.reserved_bytes for each in self._images.values())
            self._images[name] = _Images(frame, left_bytes)
        if why := self._images[name].add(frame):
            self.left_out = f"some images of {name} are left out: they {why}"
        return not why


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
    elif isinstance(message, Image) and message.device in wanted and len(message.voxels) == 1:
        heard.add(message.device, stamp, frame=message.voxels[0], angles=angles_rad(message.metadata))
