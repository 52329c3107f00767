"""A theatre whose tracker and X-ray source have rates of their own, with several tools that may be mistaken."""

from __future__ import annotations

import dataclasses

import numpy as np

from navnode import geometry as g
from navnode.simulation.scenario import CARM_DEVICE, MARKER_FROM_TOOLTIP, PATIENT_DEVICE
from navnode.types import Frame, SourceState, Status, Tick, ToolPose, TrackedPose, Validity
from tests.loop.theatre import SCENARIO, SOURCE, T0, Theatre, of, rows

_TICK_NS = 20_000_000
_DRILL = "DrillToTracker"


class Rated(Theatre):
    """Feeds poses and X-rays at any rates; ``labels`` says whose pose the tracker sends under which tool's name.

    Args:
        hz, xrays_hz: rates.
        places_mm: tool -> where it is held, relative to the scenario's drill.
    """

    def __init__(
        self, hz: float = 100, xrays_hz: float = 10, places_mm: dict[str, tuple[float, float, float]] | None = None
    ) -> None:
        self._ns = 0
        self.hz, self.xrays_hz = hz, xrays_hz
        self.places_mm = places_mm or {"Drill": (0.0, 0.0, 0.0)}
        marker = rows(MARKER_FROM_TOOLTIP)
        super().__init__(
            tools=[
                {"name": name, "device": f"{name}ToTracker", "marker_from_tooltip": marker} for name in self.places_mm
            ]
        )
        self.labels = {name: name for name in self.places_mm}
        self._poses_sent = self._xrays_sent = self._ticks = 0
        self._last_arrival_ns = 0

    @property
    def now_ns(self) -> int:
        return T0 + self._ns

    def run(self, seconds: float) -> list[object]:
        before, end_ns = len(self.outputs), self._ns + round(seconds * 1e9)
        while True:
            next_pose_ns = round((self._poses_sent + 1) * 1e9 / self.hz)
            next_xray_ns = round((self._xrays_sent + 1) * 1e9 / self.xrays_hz)
            next_tick_ns = (self._ticks + 1) * _TICK_NS
            next_ns = min(next_pose_ns, next_xray_ns, next_tick_ns)
            if next_ns > end_ns:
                break
            self._ns, self.time_s = next_ns, next_ns / 1e9
            if next_ns == next_pose_ns:
                self._poses_sent += 1
                self._send_poses()
            if next_ns == next_xray_ns:
                self._xrays_sent += 1
                self._expose()
            while self._sent and self._sent[0].received_ns <= self.now_ns:
                self.feed(self._sent.popleft())
            if next_ns == next_tick_ns:
                self._ticks += 1
                self.feed(Tick(self.now_ns))
        self._ns = end_ns
        return self.outputs[before:]

    def _send_poses(self) -> None:
        for device in (PATIENT_DEVICE, CARM_DEVICE, *(f"{name}ToTracker" for name in self.places_mm)):
            if device in self.hidden:
                continue
            if device in (PATIENT_DEVICE, CARM_DEVICE):
                pose = SCENARIO.tracker_from_marker(device, self.time_s)
            else:
                pose = self._tracker_from_tool(self.labels[device.removesuffix("ToTracker")], self.time_s)
            if device == PATIENT_DEVICE:
                pose = pose @ self.moved_patient_marker
            self.feed(TrackedPose(device, self.measured(pose), self.now_ns + self.tracker_clock_ns, self.now_ns))

    def _expose(self) -> None:
        if not self.xray:
            return
        self._frames += 1
        self._last_arrival_ns = max(self._last_arrival_ns, self.now_ns + self.xray_delay_ns)
        frame = Frame(self.image(), self.now_ns + self.xray_clock_ns, self._last_arrival_ns, self._frames)
        self._sent.append(dataclasses.replace(frame, exposure_ns=self.exposure_ns))

    def _tracker_from_tool(self, tool: str, time_s: float) -> np.ndarray:
        pose = SCENARIO.tracker_from_marker(_DRILL, time_s).copy()
        pose[:3, 3] += self.places_mm[tool]
        return pose

    def exchange(self, one: str, other: str) -> None:
        """The tracker takes the tool that it calls one for the other, and the other way round."""
        self.labels[one], self.labels[other] = self.labels[other], self.labels[one]

    def disconnect(self) -> None:
        self.feed(SourceState(SOURCE, False, "closed the connection", self.now_ns))

    def connect(self) -> None:
        self.feed(SourceState(SOURCE, True, "", self.now_ns))

    def verdict(self, tool: str = "Drill") -> Validity:
        """What was said of a tool last."""
        return next(
            pose for pose in reversed(self.outputs) if isinstance(pose, ToolPose) and pose.tool == tool
        ).validity

    def wrong_mm(self, outputs: list[object], tool: str = "Drill") -> float:
        """The greatest error of a tool's tip while it is said to be VALID."""
        errors_mm = [0.0]
        for pose in of(ToolPose, outputs):
            if pose.tool != tool or pose.validity.status is not Status.VALID:
                continue
            time_s = (pose.validity.source_time_ns - T0 - self.tracker_clock_ns) / 1e9
            tracker_from_patient = SCENARIO.tracker_from_marker(PATIENT_DEVICE, time_s)
            marker = g.inverse(tracker_from_patient) @ self._tracker_from_tool(tool, time_s)
            true = SCENARIO.volume_from_patient @ marker @ MARKER_FROM_TOOLTIP
            errors_mm.append(float(np.linalg.norm(pose.volume_from_tool[:3, 3] - true[:3, 3])))
        return max(errors_mm)
