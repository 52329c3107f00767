"""Converts OpenIGTLink messages into inputs of the loop."""

from __future__ import annotations

import difflib
import math

import numpy as np

from navnode import geometry as g
from navnode.config import Config
from navnode.igtl.conventions import angles_rad, dose_gy_cm2, exposure_ns, is_seen
from navnode.igtl.messages import Image, Message, StatusMessage, Transform
from navnode.types import Frame, Input, Rejected, TrackedPose
from navnode.xray.correction import ImageCorrection

__all__ = ["Ingest"]

_IDENTITY = np.eye(4).tolist()
_MOST_STRANGERS = 256
_ALIKE = 0.75
"""Likeness of names, 0..1, from which on one may be meant for the other."""


class Ingest:
    """OpenIGTLink messages of a source -> inputs of the pipeline.

    Args:
        detector: corrects images to those of the configuration's C-arm; None: they need no correction.
    """

    def __init__(self, config: Config, detector: ImageCorrection | None = None) -> None:
        self._detector = None if detector is None or detector.ideal else detector
        self._shape = config.carm.height_px, config.carm.width_px
        self._xray = config.devices.xray
        self._poses = {config.devices.carm, config.devices.patient, *(tool.device for tool in config.tools)}
        self._range_mm = config.trust.tracker_range_mm
        self._sequence = 0
        self._strangers: set[str] = set()

    def listens_to(self, message: Message) -> bool:
        """Whether the loop uses messages of this device."""
        if isinstance(message, Transform):
            return message.device in self._poses
        return isinstance(message, Image) and message.device == self._xray

    def mistaken(self, message: Message) -> str:
        """Whose name a device that the loop does not use may be a variant of, told once per device; or ''.

        A PlusServer sends an image with an embedded transform as ``<name>_<frame>``.
        """
        names = [self._xray] if isinstance(message, Image) else sorted(self._poses)
        device = message.device
        if device in self._strangers or len(self._strangers) >= _MOST_STRANGERS:
            return ""
        self._strangers.add(device)
        if not isinstance(message, Image | Transform):
            return ""
        framed = [name for name in names if device.startswith(f"{name}_")]
        near = framed or difflib.get_close_matches(device, names, 1, _ALIKE)
        return f"sends {device}, which is not configured: is it {near[0]}?" if near else ""

    def computes(self, message: Message) -> bool:
        """Whether converting a message takes milliseconds: a raw image that needs correction."""
        return self._detector is not None and isinstance(message, Image) and message.device == self._xray

    def __call__(self, message: Message, received_ns: int) -> Input | None:
        """Convert a message; None: the loop does not use its device."""
        if isinstance(message, Transform) and message.device in self._poses:
            return self._pose(message, received_ns)
        if isinstance(message, Image) and message.device == self._xray:
            return self._frame(message, received_ns)
        if isinstance(message, StatusMessage) and message.device == self._xray and message.code != StatusMessage.OK:
            return Rejected(message.device, message.text or "the source of X-rays is not ready", received_ns)
        return None

    def _pose(self, message: Transform, received_ns: int) -> Input:
        stamp = message.timestamp_ns or received_ns
        if not is_seen(message):
            return TrackedPose(message.device, None, stamp, received_ns)
        tracker_from_marker = g.nearest_rigid(message.matrix)
        if tracker_from_marker is None:
            finite = np.isfinite(message.matrix).all()
            what = "is not a rigid transform" if finite else "contains NaN or infinity"
            return Rejected(message.device, f"the pose {what}", received_ns)
        rows = tracker_from_marker.tolist()
        if rows == _IDENTITY and message.matrix.tolist() == _IDENTITY:
            return Rejected(message.device, "the pose is exactly the identity: nothing was measured", received_ns)
        if math.hypot(rows[0][3], rows[1][3], rows[2][3]) > self._range_mm:
            return Rejected(message.device, "the pose lies outside the tracker's range", received_ns)
        return TrackedPose(message.device, tracker_from_marker, stamp, received_ns)

    def _frame(self, message: Image, received_ns: int) -> Input:
        voxels = message.voxels
        if voxels.ndim != 3 or voxels.shape[0] != 1:
            return Rejected(
                message.device,
                f"an X-ray is one plane of one value per pixel, not {voxels.shape}",
                received_ns,
            )
        if voxels.dtype not in (np.uint16, np.uint8, np.int16):
            return Rejected(message.device, f"pixels are {voxels.dtype}; 8- or 16-bit counts are expected", received_ns)
        counts = np.maximum(voxels[0], 0).astype(np.uint16, copy=False)
        if self._detector is not None and counts.shape == self._shape:  # the pipeline reports another size
            angles = angles_rad(message.metadata)
            if refusal := self._detector.refusal(angles):
                return Rejected(message.device, refusal, received_ns)
            counts = self._detector.corrected(counts, angles)
        self._sequence += 1
        stamped = message.timestamp_ns > 0
        return Frame(
            counts,
            message.timestamp_ns or received_ns,
            received_ns,
            self._sequence,
            stamped,
            dose_gy_cm2(message.metadata),
            exposure_ns(message.metadata),
        )
