"""What a console shows of a node's messages: decides, and tells a scene; knows nothing of 3D Slicer."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from NavnodeConsoleLib.wire import Image, Message, PolyData, Trajectory

__all__ = ["Console", "Deviation", "Scene", "State", "slice_from_image"]

SILENT_S = 1.0
"""A node states how it is four times a second, and tools more often: after silence nothing is known."""
_TOGETHER_S = 0.25
"""An axis and the pose that it belongs to are sent together."""
_KEPT_POSES = 16
"""An X-ray comes later than its pose: it is larger."""
_PATIENT, _TO_VOLUME, _CARM, _TOOL_AXIS = "PatientToVolume", "ToVolume", "CArmToVolume", "Axis"
_XRAY, _VOLUME, _PLANS, _DEVIATION, _STATUS = "XRay", "Volume", "Plans", "PlanDeviation", "NodeStatus"
VALID, DEGRADED, INVALID = "VALID", "DEGRADED", "INVALID"


@dataclass(frozen=True)
class State:
    """What the border and the banner show."""

    status: str
    """VALID, DEGRADED or INVALID."""
    text: str
    replay: bool = False


@dataclass(frozen=True)
class Deviation:
    """How the active tool deviates from the active plan; half of the 95 % interval stands beside each number."""

    plan: str
    tool: str
    lateral_mm: tuple[float, float]
    angle_deg: tuple[float, float]
    depth_mm: tuple[float, float]
    degraded: bool


class Scene(Protocol):
    """Where things are shown. All positions are RAS mm in the volume, except what has a parent transform."""

    def transform(self, name: str, matrix: np.ndarray | None) -> None:
        """Set a transform; None: it is unknown, and what hangs below it must not be seen."""

    def model(self, name: str, surface: PolyData | None) -> None:
        """Show lines or a surface; None: hide it."""

    def picture(self, name: str, image: Image) -> None:
        """Take a new X-ray, without a place in space yet."""

    def place_picture(self, name: str, volume_from_slice: np.ndarray | None) -> None:
        """Show the X-ray in space, in this plane, (4, 4) mm: axes along u and v and their normal, origin in its middle.

        None: hide it.
        """

    def volume(self, name: str, image: Image) -> None:
        """Show a reconstruction."""

    def plans(self, plans: list[Trajectory]) -> None:
        """Show plans; the first is aimed at."""

    def deviation(self, deviation: Deviation | None) -> None:
        """Show numbers; None: there are none that may be shown."""

    def state(self, state: State) -> None:
        """Colour the border and say why."""


def slice_from_image(image: Image) -> np.ndarray:
    """Plane of a picture, (4, 4): unit axes along u and v and their normal, origin in the middle of the picture."""
    frame = np.eye(4)
    frame[:3, :3] = image.ras_from_index[:3, :3] / np.linalg.norm(image.ras_from_index[:3, :3], axis=0)
    frame[:3, 2] = np.cross(frame[:3, 0], frame[:3, 1])
    middle = (np.array(image.voxels.shape[::-1]) - 1) / 2
    frame[:3, 3] = image.ras_from_index[:3, :3] @ middle + image.ras_from_index[:3, 3]
    return frame


class Console:
    """Messages in, what may be shown out.

    A transform whose status is not OK, an empty axis and a NaN withdraw what was shown; so does silence. An X-ray
    stands in space only with the pose of its own exposure.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._heard_s = self._stated_s = -np.inf
        self._seen_s: dict[str, float] = {}
        """Transform that is shown -> when it was said last."""
        self._drawn: set[str] = set()
        """Tools whose axis is shown."""
        self._tools: set[str] = set()
        self._early: dict[str, tuple[PolyData, float]] = {}
        """Axes that came without a pose, and when."""
        self._poses: OrderedDict[int, np.ndarray] = OrderedDict()
        """Stamp -> the C-arm's pose."""
        self._picture: tuple[int, Image] | None = None
        self._deviation_s: float | None = None
        self._state: State | None = None
        self._say(State(INVALID, "not connected"))

    @property
    def state(self) -> State:
        """What is shown now."""
        assert self._state is not None
        return self._state

    def hear(self, messages: list[Message], now_s: float) -> None:
        """Show what arrived, and withdraw what was not repeated; call it regularly, also with nothing.

        Args:
            now_s: a steady clock.
        """
        for message in messages:
            self._heard_s = now_s
            self._take(message, now_s)
        if now_s - self._heard_s > SILENT_S:
            self.silent("the node says nothing")
            return
        if now_s - self._stated_s > SILENT_S and self.state.status != INVALID:
            self._say(State(INVALID, "the node does not say how it is", self.state.replay))
        for tool in self._tools:
            device = f"{tool}{_TO_VOLUME}"
            if now_s - self._seen_s.get(device, now_s) > SILENT_S:
                self._withdraw(device)
        if self._deviation_s is not None and now_s - self._deviation_s > SILENT_S:
            self._no_deviation()

    def silent(self, why: str) -> None:
        """Withdraw everything that has a place: the node is gone."""
        for device in list(self._seen_s):
            self._withdraw(device)
        for tool in list(self._drawn):
            self._undraw(tool)
        self._no_deviation()
        self._poses.clear()
        self._place()
        self._say(State(INVALID, why, self.state.replay))

    # --- messages --------------------------------------------------------------------------------

    def _take(self, message: Message, now_s: float) -> None:
        kind, device = message.type, message.device
        if kind == "TRANSFORM":
            self._transform(message, now_s)
        elif kind == "STATUS" and device == _STATUS:
            self._stated_s = now_s
            status = message.metadata.get("Validity", INVALID)
            known = status if status in (VALID, DEGRADED) else INVALID
            self._say(State(known, message.content, message.metadata.get("Replay") == "true"))
        elif kind == "POLYDATA":
            self._surface(device, message.content, message.metadata, now_s)
        elif kind == "IMAGE" and device == _XRAY:
            self._picture = message.stamp, message.content
            self._scene.picture(_XRAY, message.content)
            self._place()
        elif kind == "IMAGE" and device == _VOLUME:
            self._scene.volume(_VOLUME, message.content)
        elif kind == "TRAJ" and device == _PLANS:
            self._scene.plans(message.content)
        elif kind == "SENSOR" and device == _DEVIATION:
            self._deviate(message, now_s)

    def _transform(self, message: Message, now_s: float) -> None:
        device, metadata = message.device, message.metadata
        shown = metadata.get("TransformStatus") == "OK" and metadata.get("Validity") in (VALID, DEGRADED)
        if not shown or not np.isfinite(message.content).all():
            self._withdraw(device)
            return
        self._seen_s[device] = now_s
        self._scene.transform(device, message.content)
        tool = device.removesuffix(_TO_VOLUME)
        axis, came_s = self._early.pop(tool, (None, 0.0))
        if axis is not None and now_s - came_s < _TOGETHER_S:
            self._draw(tool, axis)
        if device == _CARM:
            self._poses[message.stamp] = message.content
            while len(self._poses) > _KEPT_POSES:
                self._poses.popitem(last=False)
            self._place()

    def _withdraw(self, device: str) -> None:
        if self._seen_s.pop(device, None) is not None or device in (_CARM, _PATIENT):
            self._scene.transform(device, None)
        self._undraw(device[: -len(_TO_VOLUME)] if device.endswith(_TO_VOLUME) else device)
        if device == _CARM:
            self._poses.clear()
            self._place()

    def _place(self) -> None:
        pose = self._poses.get(self._picture[0]) if self._picture is not None else None
        if self._picture is None or pose is None:
            self._scene.place_picture(_XRAY, None)
            return
        self._scene.place_picture(_XRAY, pose @ slice_from_image(self._picture[1]))

    def _surface(self, device: str, surface: PolyData, metadata: dict[str, str], now_s: float) -> None:
        if not device.endswith(_TOOL_AXIS):
            invalid = metadata.get("Validity") == INVALID or not len(surface.points_mm)
            self._scene.model(device, None if invalid else surface)
            return
        tool = device[: -len(_TOOL_AXIS)]
        self._tools.add(tool)
        # The axis comes more rarely than the pose, and must not outlive it; it may come first.
        if not len(surface.points_mm) or metadata.get("Validity") not in (VALID, DEGRADED):
            self._undraw(tool)
        elif f"{tool}{_TO_VOLUME}" in self._seen_s:
            self._draw(tool, surface)
        else:
            self._early[tool] = surface, now_s

    def _draw(self, tool: str, axis: PolyData) -> None:
        self._drawn.add(tool)
        self._scene.model(f"{tool}{_TOOL_AXIS}", axis)

    def _undraw(self, tool: str) -> None:
        self._early.pop(tool, None)
        if tool in self._drawn:
            self._drawn.discard(tool)
            self._scene.model(f"{tool}{_TOOL_AXIS}", None)

    def _deviate(self, message: Message, now_s: float) -> None:
        values, metadata = message.content, message.metadata
        status = metadata.get("Validity", INVALID)
        if status not in (VALID, DEGRADED) or len(values) != 6 or not np.isfinite(values).all():
            self._no_deviation()
            return
        lateral, angle, depth, *halves = (float(value) for value in values)
        self._deviation_s = now_s
        self._scene.deviation(
            Deviation(
                metadata.get("Plan", ""),
                metadata.get("Tool", ""),
                (lateral, halves[0]),
                (angle, halves[1]),
                (depth, halves[2]),
                status == DEGRADED,
            )
        )

    def _no_deviation(self) -> None:
        if self._deviation_s is not None:
            self._deviation_s = None
            self._scene.deviation(None)

    def _say(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._scene.state(state)
