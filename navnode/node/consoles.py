"""Between OpenIGTLink devices and the loop's values: what every name on the wire means, in one place."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.config import Config, OutputsSection
from navnode.detector import Detector
from navnode.igtl import (
    Image,
    Message,
    Point,
    PointElement,
    PolyData,
    StatusMessage,
    TrackedElement,
    TrackingData,
    Transform,
    cells,
)
from navnode.types import (
    CArmPose,
    Frame,
    Input,
    Matrix,
    NodeState,
    Output,
    PatientPose,
    RegisteredFrame,
    Rejected,
    Status,
    ToolPose,
    TrackedPose,
    Validity,
    VolumeUpdate,
)

_TOOL_LENGTH_MM = 150.0
_EXTENSION_MM = 60.0
_HIGHEST_HU = 4095
"""How far the axis is drawn back along the tool and ahead of its tip."""

DOSE_KEY = "ImageAndFluoroscopyAreaDoseProduct"
"""Metadata of an X-ray: its dose-area product in dGy cm2, by DICOM's name and unit (PS3.6, 0018,115E)."""
_HIGHEST_GY_CM2 = 100.0
"""No single image gives more."""

REPLAY_KEY = "Replay"
"""In the metadata of whatever comes from a recording, and of what is made of it: it is not happening now."""
ANGLE_KEYS = ("PositionerPrimaryAngle", "PositionerSecondaryAngle")
"""Metadata of an X-ray: the C-arm's orbital and angular position in degrees, by DICOM's names (PS3.6, 0018,1510 and
1511), as its scales say when it is calibrated, too."""

_FARTHEST_MM = 100_000.0
"""No marker is farther from its tracker."""

_SEEN = ("", "OK")


class Ingest:
    """OpenIGTLink messages of a source -> what the pipeline takes.

    Args:
        detector: makes images into those of the configuration's C-arm; None: they are.
    """

    def __init__(self, config: Config, detector: Detector | None = None) -> None:
        self._detector = None if detector is None or detector.ideal else detector
        self._shape = config.carm.height_px, config.carm.width_px
        self._xray = config.devices.xray
        self._poses = {config.devices.carm, config.devices.patient, *(tool.device for tool in config.tools)}
        self._sequence = 0

    def computes(self, message: Message) -> bool:
        """Whether taking a message in costs milliseconds: a raw image that is to be corrected."""
        return self._detector is not None and isinstance(message, Image) and message.device == self._xray

    def __call__(self, message: Message, received_ns: int) -> Input | None:
        """None for devices that nobody here listens to."""
        if isinstance(message, Transform) and message.device in self._poses:
            return self._pose(message, received_ns)
        if isinstance(message, Image) and message.device == self._xray:
            return self._frame(message, received_ns)
        return None

    def _pose(self, message: Transform, received_ns: int) -> Input:
        stamp = message.timestamp_ns or received_ns
        if message.metadata.get("TransformStatus", "") not in _SEEN:
            return TrackedPose(message.device, None, stamp, received_ns)
        if not g.is_rigid(message.matrix):
            what = "holds numbers that are none" if not np.isfinite(message.matrix).all() else "is no rigid transform"
            return Rejected(message.device, f"the pose {what}", received_ns)
        if np.abs(message.matrix[:3, 3]).max() > _FARTHEST_MM:
            return Rejected(message.device, "the pose lies outside the room", received_ns)
        return TrackedPose(message.device, g.orthonormal(message.matrix), stamp, received_ns)

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
        if self._detector is not None and counts.shape == self._shape:  # the pipeline tells of another size
            angles = angles_rad(message.metadata)
            flex = self._detector.flex
            if flex is not None and angles is None:
                return Rejected(message.device, "the X-ray states no angles, which the C-arm's flex needs", received_ns)
            if flex is not None and angles is not None and not flex.covers(*angles):
                return Rejected(
                    message.device, "the X-ray's angles are outside what flex was calibrated at", received_ns
                )
            counts = self._detector.corrected(counts, angles)
        self._sequence += 1
        stamped = message.timestamp_ns > 0
        dose_gy_cm2 = _dose_gy_cm2(message.metadata)
        return Frame(counts, message.timestamp_ns or received_ns, received_ns, self._sequence, stamped, dose_gy_cm2)


def _dose_gy_cm2(metadata: Mapping[str, str]) -> float | None:
    """What the metadata state, None if they state nothing that can be meant."""
    try:
        gy_cm2 = float(metadata.get(DOSE_KEY, "")) / 10
    except ValueError:
        return None
    return gy_cm2 if 0 <= gy_cm2 <= _HIGHEST_GY_CM2 else None


def angles_rad(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """Orbital and angulation that the metadata state, None if they state none."""
    try:
        orbital, angulation = (float(metadata[key]) for key in ANGLE_KEYS)
    except (KeyError, ValueError):
        return None
    found = float(np.deg2rad(orbital)), float(np.deg2rad(angulation))
    return found if np.isfinite(found).all() else None


def validity_metadata(validity: Validity) -> dict[str, str]:
    """What a version-2 client learns beside the numbers."""
    metadata = {"Validity": validity.status.value, "AgeMs": f"{validity.age_ns / 1e6:.1f}"}
    if validity.reason:
        metadata["Reason"] = validity.reason
    return metadata


class Consoles:
    """The pipeline's outputs -> the devices of docs/consoles.md.

    Args:
        names: what they are called on the wire.
    """

    def __init__(self, names: OutputsSection) -> None:
        self._names = names
        self._tools: dict[str, ToolPose] = {}
        self.replay = False
        """Whether what leaves is made of a recording, and says so."""

    def __call__(self, output: Output) -> list[Message]:
        """Messages to publish. INVALID transforms leave with identity and TransformStatus INVALID; whoever
        publishes must not send them to clients that cannot see that status (header version 1)."""
        messages = self._messages(output)
        if not self.replay:
            return messages
        return [msgspec.structs.replace(m, metadata={**m.metadata, REPLAY_KEY: "true"}) for m in messages]

    def _messages(self, output: Output) -> list[Message]:
        match output:
            case ToolPose():
                return self._tool(output)
            case PatientPose():
                return [_transform(self._names.patient, output.volume_from_patient, output.validity)]
            case CArmPose():
                return [_transform(self._names.carm, output.volume_from_carm, output.validity)]
            case RegisteredFrame():
                return [self._image(output)]
            case VolumeUpdate():
                return self._volume(output)
            case NodeState():
                return [self._status(output)]
            case _:
                return []

    def _tool(self, pose: ToolPose) -> list[Message]:
        self._tools[pose.tool] = pose
        stamp, metadata = pose.validity.source_time_ns, validity_metadata(pose.validity)
        seen = [
            TrackedElement(p.tool, p.volume_from_tool) for p in self._tools.values() if p.volume_from_tool is not None
        ]
        points = np.zeros((0, 3), np.float32)
        lines: tuple[tuple[int, int], ...] = ()
        # Receivers on the C++ library pass over an empty list and keep the old point: nowhere must be said.
        nowhere = (float("nan"),) * 3
        tips = (PointElement("", nowhere),)
        if pose.volume_from_tool is not None:
            ends = np.array([[0, 0, -_TOOL_LENGTH_MM], [0, 0, 0], [0, 0, _EXTENSION_MM]])
            points = g.transform(pose.volume_from_tool, ends).astype(np.float32)
            lines = ((0, 1), (1, 2))
            x, y, z = pose.volume_from_tool[:3, 3].tolist()
            tips = (PointElement(f"{pose.tool}Tip", (x, y, z), "Tool", (255, 210, 0, 255), 2.0),)
        return [
            _transform(f"{pose.tool}ToVolume", pose.volume_from_tool, pose.validity, pose.seen),
            TrackingData(device=self._names.tools, timestamp_ns=stamp, elements=tuple(seen)),
            PolyData(
                device=f"{pose.tool}Axis",
                timestamp_ns=stamp,
                metadata=metadata,
                points_mm=points,
                lines=cells(lines),
            ),
            Point(device=f"{pose.tool}Tip", timestamp_ns=stamp, metadata=metadata, points=tips),
        ]

    def _image(self, frame: RegisteredFrame) -> Message:
        """The X-ray at its detector, in the carm frame: put it under CArmToVolume to see it in place."""
        carm = frame.carm
        carm_from_pixel = np.eye(4)
        carm_from_pixel[0, 0], carm_from_pixel[1, 1] = carm.pixel_spacing_mm
        carm_from_pixel[:3, 3] = (
            -carm.principal_point_px[0] * carm.pixel_spacing_mm[0],
            -carm.principal_point_px[1] * carm.pixel_spacing_mm[1],
            carm.source_to_detector_mm,
        )
        return Image(
            device=self._names.xray,
            timestamp_ns=frame.frame.timestamp_ns,
            metadata=validity_metadata(frame.validity),
            voxels=frame.frame.counts[None],
            ras_from_index=carm_from_pixel,
        )

    def _volume(self, update: VolumeUpdate) -> list[Message]:
        metadata = {**validity_metadata(update.validity), "Method": update.method, "Views": str(update.views)}
        stamp = update.validity.source_time_ns
        messages: list[Message] = []
        if update.method != "CT":  # consoles have the CT; what they lack is what was made from X-rays
            made = [(self._names.volume, update.volume)]
            if update.uncertainty_hu is not None:
                made.append((self._names.uncertainty, update.uncertainty_hu))
            messages += [
                Image(
                    device=name,
                    timestamp_ns=stamp,
                    metadata=metadata,
                    voxels=np.clip(np.round(volume.voxels), -1024, _HIGHEST_HU).astype(np.int16),
                    ras_from_index=volume.volume_from_index,
                )
                for name, volume in made
            ]
        if update.bone is not None and update.role == "navigation":
            messages.append(
                PolyData(
                    device=self._names.bone,
                    timestamp_ns=stamp,
                    metadata=metadata,
                    points_mm=update.bone.vertices_mm,
                    polygons=cells(update.bone.triangles),
                )
            )
        return messages

    def _status(self, state: NodeState) -> StatusMessage:
        ok = state.registration.status is not Status.INVALID
        text = f"{state.registration.status.value} {state.registration.reason}".strip()
        text = f"REPLAY {text}" if self.replay else text
        return StatusMessage(
            device=self._names.status,
            timestamp_ns=state.now_ns,
            code=StatusMessage.OK if ok else StatusMessage.NOT_READY,
            error_name=state.registration.status.value,
            text=text,
            metadata=validity_metadata(state.registration),
        )


def _transform(device: str, matrix: Matrix | None, validity: Validity, seen: bool = True) -> Transform:
    status = "OK" if matrix is not None else ("INVALID" if seen else "MISSING")
    metadata: Mapping[str, str] = {
        "TransformValid": "true" if matrix is not None else "false",
        "TransformStatus": status,
        **validity_metadata(validity),
    }
    return Transform(
        device=device,
        timestamp_ns=validity.source_time_ns,
        metadata=metadata,
        matrix=np.eye(4) if matrix is None else matrix,
    )


def is_shown(message: Message) -> bool:
    """False for a transform that only a client reading its status may get."""
    return message.metadata.get("TransformStatus", "OK") == "OK"
