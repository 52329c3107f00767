"""Converts the loop's outputs into OpenIGTLink devices for consoles: defines every name on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from navnode import clock
from navnode import geometry as g
from navnode.config import OutputsSection
from navnode.igtl import (
    Image,
    Message,
    Point,
    PointElement,
    PolyData,
    Sensor,
    StatusMessage,
    TrackedElement,
    TrackingData,
    Trajectory,
    TrajectoryElement,
    Transform,
    cells,
)
from navnode.igtl.conventions import REPLAY_KEY, transform_metadata
from navnode.types import (
    BodyPose,
    CArmPose,
    Matrix,
    NodeState,
    Output,
    PatientPose,
    Plan,
    PlanDeviation,
    RegisteredFrame,
    Status,
    ToolPose,
    Validity,
    VolumeUpdate,
    invalid,
)

__all__ = ["Consoles", "validity_metadata"]

_AXIS_MM = np.array([[0.0, 0.0, -150.0], [0.0, 0.0, 0.0], [0.0, 0.0, 60.0]])
"""How far the axis is drawn back along the tool, its tip, and how far ahead of it."""
_HIGHEST_HU = 4095
_CLOCK_SET_NS = 1_000_000_000
"""Stamps go back with a clock that was set back by more; what is measured by less before the last stamp is withheld."""
_AHEAD_NS = 100_000_000
"""A stamp that cannot be trusted is not repeated if it is this far ahead."""
_NOWHERE = g.rigid(None, (float("nan"),) * 3)
"""Pose of a tool whose pose is unknown, in a list that has no other way to say so."""


_UNKNOWN = "nothing is known yet"
_AIMED_AT, _PLANNED = (0, 220, 120, 255), (140, 140, 140, 255)


def _degrees(angle_rad: float | None) -> float | None:
    return None if angle_rad is None else float(np.rad2deg(angle_rad))


def body_devices(body: str) -> tuple[str, str]:
    """The devices of a body: where it is in the volume, and where the C-arm is relative to it."""
    return f"{body}ToVolume", f"CArmTo{body}"


def validity_metadata(validity: Validity) -> dict[str, str]:
    """Metadata for version-2 clients: status, age and reason."""
    metadata = {"Validity": validity.status.value, "AgeMs": f"{validity.age_ns / 1e6:.1f}"}
    if validity.reason:
        metadata["Reason"] = validity.reason
    return metadata


class _Said(NamedTuple):
    """The last stamp of a device."""

    stamp_ns: int
    at_ns: int
    """When it was sent."""
    measured_ns: int
    """Of the last measurement; 0: none was said. A withdrawal is stamped by what the clock should show; X-rays that are
    late may have been taken before that, and then no clock was set back."""

    def set_back(self, source_ns: int) -> bool:
        """Whether the clock of the source was set back since, by more than a second."""
        return source_ns <= (self.measured_ns or self.stamp_ns) - _CLOCK_SET_NS


def _axis(device: str, volume_from_tool: Matrix | None, stamp: int, metadata: dict[str, str]) -> PolyData:
    """A tool's axis as a line; nothing is drawn of a tool whose pose is unknown."""
    points_mm, lines = np.zeros((0, 3), np.float32), tuple[tuple[int, int], ...]()
    if volume_from_tool is not None:
        points_mm, lines = g.transform(volume_from_tool, _AXIS_MM).astype(np.float32), ((0, 1), (1, 2))
    return PolyData(device=device, timestamp_ns=stamp, metadata=metadata, points_mm=points_mm, lines=cells(lines))


class Consoles:
    """The pipeline's outputs -> the devices of docs/consoles.md.

    Args:
        names: names of the devices on the wire.
        tools: names of all tools, in the order of the list of tools.
        now_ns: the node's clock.
        replay: whether a session is played; otherwise that is noticed at its first message.
    """

    def __init__(
        self,
        names: OutputsSection,
        tools: Iterable[str] = (),
        now_ns: Callable[[], int] = clock.now_ns,
        *,
        replay: bool = False,
    ) -> None:
        self._names, self._now_ns = names, now_ns
        self._axis_ns = round(clock.NS_PER_S / names.axis_hz) if names.axis_hz else 0
        self._tools: dict[str, Matrix | None] = dict.fromkeys(tools)
        self._stamps: dict[str, _Said] = {}
        self._drawn: dict[str, tuple[int, bool]] = {}
        """Tool -> when its axis was sent last, and whether it was drawn then."""
        self._plans: tuple[tuple[Plan, ...], str] | None = None
        """As told last; None: nothing was, and consoles may have kept those of an earlier node."""
        self._shown: dict[str, str] = {}
        """Surface -> role of the volume that it shows; '': it is withdrawn."""
        self._epoch: int | None = None
        self.replay = replay
        """Whether outputs derive from a recording; their metadata then says so."""

    def __call__(self, output: Output) -> list[Message]:
        """Messages to publish.

        INVALID transforms carry the identity and TransformStatus INVALID; they must not be sent to clients that cannot
        read that status (header version 1).
        """
        messages = self._messages(output)
        if not self.replay:
            return messages
        return [msgspec.structs.replace(m, metadata={**m.metadata, REPLAY_KEY: "true"}) for m in messages]

    def _messages(self, output: Output) -> list[Message]:
        match output:
            case ToolPose():
                return self._tool(output)
            case PatientPose():
                if (overtaken := self._overtaken(self._names.patient, output.validity)) is not None:
                    output = PatientPose(None, overtaken, ())
                return [self._transform(self._names.patient, output.volume_from_patient, output.validity)]
            case CArmPose():
                if (overtaken := self._overtaken(self._names.carm, output.validity)) is not None:
                    output = CArmPose(None, overtaken)
                return [self._transform(self._names.carm, output.volume_from_carm, output.validity)]
            case BodyPose():
                return self._body(output)
            case RegisteredFrame():
                return [self._image(output)] if self._newer(self._names.xray, output.frame.timestamp_ns) else []
            case VolumeUpdate():
                return self._volume(output)
            case PlanDeviation():
                return [self._deviation(output)]
            case NodeState():
                return [self._status(output), *self._changed_plans(output), *self._untrue(output)]
            case _:
                return []

    def _body(self, pose: BodyPose) -> list[Message]:
        messages: list[Message] = []
        to_volume, from_carm = body_devices(pose.body)
        for device, matrix, stated in (
            (to_volume, pose.volume_from_body, pose.validity),
            (from_carm, pose.body_from_carm, pose.carm_validity),
        ):
            validity = self._overtaken(device, stated) or stated
            messages.append(self._transform(device, matrix if validity.usable else None, validity))
        return messages

    def _tool(self, pose: ToolPose) -> list[Message]:
        if (overtaken := self._overtaken(f"{pose.tool}ToVolume", pose.validity)) is not None:
            pose = replace(pose, volume_from_tool=None, validity=overtaken)
        self._tools[pose.tool] = pose.volume_from_tool
        shown = self._transform(f"{pose.tool}ToVolume", pose.volume_from_tool, pose.validity, pose.seen)
        stamp, metadata = shown.timestamp_ns, validity_metadata(pose.validity)
        # Always all tools in the same order: receivers identify elements by their index.
        listed = [
            TrackedElement(name, _NOWHERE if volume_from_tool is None else volume_from_tool)
            for name, volume_from_tool in self._tools.items()
        ]
        # Receivers using the C++ library ignore an empty list and keep the old point; NaN overwrites it, and those that
        # draw NaN all the same (3D Slicer) obey its opacity.
        nowhere = (float("nan"),) * 3
        tips = (PointElement("", nowhere, rgba=(0, 0, 0, 0)),)
        if pose.volume_from_tool is not None:
            x, y, z = pose.volume_from_tool[:3, 3].tolist()
            tips = (PointElement(f"{pose.tool}Tip", (x, y, z), "Tool", (255, 210, 0, 255), 2.0),)
        messages: list[Message] = [
            shown,
            TrackingData(device=self._names.tools, timestamp_ns=stamp, elements=tuple(listed)),
            Point(device=f"{pose.tool}Tip", timestamp_ns=stamp, metadata=metadata, points=tips),
        ]
        if self._draws(pose.tool, drawn=pose.volume_from_tool is not None):
            messages.append(_axis(f"{pose.tool}Axis", pose.volume_from_tool, stamp, metadata))
        return messages

    def _draws(self, tool: str, *, drawn: bool) -> bool:
        """Whether a tool's axis is sent now."""
        now = self._now_ns()
        last_ns, was_drawn = self._drawn.get(tool, (0, not drawn))
        if drawn is was_drawn and 0 <= now - last_ns < self._axis_ns:
            return False
        self._drawn[tool] = now, drawn
        return True

    def _deviation(self, deviation: PlanDeviation) -> Message:
        """Lateral distance (mm), angle (degrees), way left (mm), half of their 95 % intervals; NaN when INVALID."""
        validity = self._overtaken(self._names.deviation, deviation.validity) or deviation.validity
        numbers = (
            deviation.lateral_mm,
            _degrees(deviation.angle_rad),
            deviation.depth_mm,
            deviation.lateral_95_mm,
            _degrees(deviation.angle_95_rad),
            deviation.depth_95_mm,
        )
        return Sensor(
            device=self._names.deviation,
            timestamp_ns=self._stamp(self._names.deviation, validity.source_time_ns),
            metadata={**validity_metadata(validity), "Plan": deviation.plan, "Tool": deviation.tool},
            values=np.array([number if validity.usable and number is not None else np.nan for number in numbers]),
        )

    def _changed_plans(self, state: NodeState) -> list[Message]:
        """All plans, the active one first and in its own colour, when they have changed."""
        plans = state.plans, state.active_plan
        if plans == self._plans:
            return []
        self._plans = plans
        ordered = sorted(state.plans, key=lambda plan: plan.name != state.active_plan)
        colours = {state.active_plan: _AIMED_AT}
        elements = tuple(
            TrajectoryElement(plan.name, plan.entry_mm, plan.target_mm, rgba=colours.get(plan.name, _PLANNED))
            for plan in ordered
        )
        stamp = self._stamp(self._names.plans, state.now_ns)
        return [Trajectory(device=self._names.plans, timestamp_ns=stamp, trajectories=elements)]

    def _image(self, frame: RegisteredFrame) -> Message:
        """The X-ray on its detector, in the carm frame; consoles place it with CArmToVolume."""
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
            timestamp_ns=self._stamp(self._names.xray, frame.frame.timestamp_ns, trusted=frame.validity.usable),
            metadata=validity_metadata(frame.validity),
            voxels=frame.frame.counts[None],
            ras_from_index=carm_from_pixel,
        )

    def _volume(self, update: VolumeUpdate) -> list[Message]:
        metadata = {**validity_metadata(update.validity), "Method": update.method, "Views": str(update.views)}
        stamp = self._stamp(self._names.volume, update.validity.source_time_ns)
        messages: list[Message] = []
        if update.method != "CT":  # consoles have the CT already
            volumes = [(self._names.volume, update.volume)]
            if update.uncertainty_hu is not None:
                volumes.append((self._names.uncertainty, update.uncertainty_hu))
            messages += [
                Image(
                    device=name,
                    timestamp_ns=stamp,
                    metadata=metadata,
                    voxels=np.clip(np.round(volume.voxels), -1024, _HIGHEST_HU).astype(np.int16),
                    ras_from_index=volume.volume_from_index,
                )
                for name, volume in volumes
            ]
        bone = update.bone if update.role == "navigation" else None
        for name, surface in ((self._names.bone, bone), (self._names.lungs, update.lungs)):
            if surface is not None:
                self._shown[name] = update.role
                points_mm, polygons = surface.vertices_mm, cells(surface.triangles)
                messages.append(
                    PolyData(device=name, timestamp_ns=stamp, metadata=metadata, points_mm=points_mm, polygons=polygons)
                )
            elif self._shown.get(name) == update.role:
                messages.append(self._without(name, "the newest volume does not show it"))
        return messages

    def _untrue(self, state: NodeState) -> list[Message]:
        """Withdraws what no longer is as it was said.

        Surfaces of the volume that is navigated in hold until that is gone; those of another reconstruction hold with
        the registration that placed it. The first time, all that consoles may have kept of an earlier node, or of
        another case, and that nothing was said of yet.
        """
        first, replaced = self._epoch is None, self._epoch != state.epoch
        self._epoch = state.epoch
        messages: list[Message] = self._unsaid(state) if first else []
        for name in (self._names.bone, self._names.lungs):
            role = self._shown.get(name)
            if role is None and first:
                messages.append(self._without(name, "there is none yet"))
            elif role == "navigation" and not state.volume:
                messages.append(self._without(name, "its volume is lost with the registration"))
            elif role == "reconstruction" and (replaced or not state.volumes):
                messages.append(self._without(name, "the registration that placed it is lost"))
        return messages

    def _unsaid(self, state: NodeState) -> list[Message]:
        """Poses of which nothing is known yet, and how a tool deviates."""
        unknown, messages = invalid(_UNKNOWN), list[Message]()
        bodies = [each for name in state.bodies for each in body_devices(name)]
        for device in (self._names.patient, self._names.carm, *bodies):
            if device not in self._stamps:
                messages.append(self._transform(device, None, unknown))
        if self._names.deviation not in self._stamps:
            messages.append(self._deviation(PlanDeviation("", "", None, None, None, None, None, None, unknown)))
        return messages

    def _without(self, device: str, reason: str) -> Message:
        """A surface of nothing: clients that ignore its status draw it as well."""
        self._shown[device] = ""
        return PolyData(
            device=device,
            timestamp_ns=self._stamp(device, 0),
            metadata=validity_metadata(invalid(reason)),
            points_mm=np.zeros((0, 3), np.float32),
        )

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

    def _transform(self, device: str, matrix: Matrix | None, validity: Validity, seen: bool = True) -> Transform:
        metadata = {**transform_metadata(matrix, seen=seen), **validity_metadata(validity)}
        return Transform(
            device=device,
            timestamp_ns=self._stamp(device, validity.source_time_ns, trusted=matrix is not None),
            metadata=metadata,
            matrix=np.eye(4) if matrix is None else matrix,
        )

    def _newer(self, device: str, source_ns: int) -> bool:
        """Whether something was measured after all that was said of a device, or by a clock that was set far back."""
        said = self._stamps.get(device, _Said(0, 0, 0))
        return source_ns >= said.stamp_ns or said.set_back(source_ns)

    def _overtaken(self, device: str, validity: Validity) -> Validity | None:
        """INVALID for what was measured before something else that was said of a device; None: nothing was said since.

        Its stamp must not go back, nor may it carry another's. Such are the first outputs after a withdrawal, and those
        of a clock that was set back by less than a second, until it has caught up.
        """
        source_ns = validity.source_time_ns
        if not validity.usable or not source_ns or self._newer(device, source_ns):
            return None
        last_ns = self._stamps[device].stamp_ns
        return invalid(f"measured {(last_ns - source_ns) / 1e6:.0f} ms before what was said last", last_ns)

    def _stamp(self, device: str, source_ns: int, *, trusted: bool = True) -> int:
        """A message's time by its source's clock: that of the measurement, or now if something is withdrawn.

        It does not step back, unless that clock was set back by more than a second.

        Args:
            source_ns: time of the measurement; 0: there is none.
            trusted: whether that time can be trusted; otherwise it is not handed on if it is far off.
        """
        now_ns = self._now_ns()
        said = self._stamps.get(device, _Said(source_ns or now_ns, now_ns, 0))
        expected_ns = said.stamp_ns + now_ns - said.at_ns
        believable = not said.set_back(source_ns) and source_ns <= expected_ns + _AHEAD_NS
        if not source_ns or (not trusted and not believable):
            self._stamps[device] = said._replace(stamp_ns=expected_ns, at_ns=now_ns)
            return expected_ns
        stamp = source_ns if said.set_back(source_ns) else max(source_ns, said.stamp_ns)
        self._stamps[device] = _Said(stamp, now_ns, source_ns if trusted else said.measured_ns)
        return stamp
