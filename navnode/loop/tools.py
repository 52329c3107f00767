"""Tracked markers, and the overlay of every tool on the volume."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.clock import Stamp
from navnode.config import Config, matrix
from navnode.loop.camera import Camera
from navnode.loop.clocks import Clocks
from navnode.loop.continuity import Continuity
from navnode.loop.identity import Identities
from navnode.loop.pairing import inverses
from navnode.loop.poses import Missing, PoseRing
from navnode.loop.topics import PATIENT_HIDDEN_NS, TOOL_WAITS_NS, max_age_ns
from navnode.registration.over_time import RegistrationOverTime
from navnode.types import Matrix, Output, Rejected, Status, ToolPose, TrackedPose, Validity, invalid

__all__ = ["PoseOutcome", "Tools"]

_SILENT = "no pose from the tracker"
_LATE_NS = max_age_ns("pose")
"""A pose that arrives later than this is not used."""


class PoseOutcome(Enum):
    """What became of a tracked pose."""

    KEPT = auto()
    MOVED = auto()
    """Kept, but the patient's marker may have moved on the patient."""
    CARM_UNWATCHED = auto()
    """Kept, but the C-arm's marker was hidden, or jumped."""
    CLOCK_SET = auto()
    """Dropped with all earlier ones: the clock that stamped them was set since."""
    NOT_SEEN = auto()
    """The tracker does not see the marker, or only repeats an old pose."""
    DROPPED = auto()
    """Of an unknown device, late, or out of order."""


class Tools:
    """The last seconds of every marker, and the overlay of every tool."""

    def __init__(self, config: Config) -> None:
        self._devices = config.devices
        self._carm_from_marker = matrix(config.calibration.carm_from_marker)
        self._tools = {tool.device: _Tool(tool.name, matrix(tool.marker_from_tooltip)) for tool in config.tools}
        names = (config.devices.carm, config.devices.patient, *self._tools)
        self.rings = {name: PoseRing(name) for name in names}
        self._frozen_after = config.trust.frozen_after
        self._continuity = Continuity()
        self._carm_continuity = Continuity()
        self._camera = Camera(config.devices.patient, config.devices.carm)
        self._identities = Identities({tool.device: tool.name for tool in config.tools})
        self._received_ns = dict.fromkeys(self.rings, 0)
        self._heard_ns = 0
        """When the tracker last said anything of any marker, be it that it does not see it."""
        self._refused: dict[str, tuple[int, Stamp]] = {}
        """Device -> when a pose last came that was not used, and what was thought of its stamp."""
        self.active = config.tools[0].name if config.tools else ""
        """The tool that the slices follow."""
        self.validity: dict[str, Validity] = {}
        """Tool's name -> validity of its last overlay."""
        self.dropped: Counter[str] = Counter()

    def on_pose(self, pose: TrackedPose, clocks: Clocks) -> tuple[PoseOutcome, str]:
        """Keep a pose or drop it; returns the outcome and its reason."""
        ring = self.rings.get(pose.device)
        if ring is None:
            return PoseOutcome.DROPPED, ""
        self._heard_ns = pose.received_ns
        if pose.tracker_from_marker is None:
            self._lost(pose.device)
            return PoseOutcome.NOT_SEEN, "not seen by the tracker"
        stamp = clocks.stamp(pose.device, pose.timestamp_ns, pose.received_ns)
        if stamp is Stamp.CLOCK_SET:
            ring.clear()
            self._continuity.lost()
            self._carm_continuity.lost()
            if pose.device in self._tools:
                self._identities.restamped(pose.device)
        if stamp is not Stamp.EXPECTED or clocks.late_ns(pose) > _LATE_NS:
            # Not used; if that happens to all poses, the silence is noticed.
            self.dropped["late"] += stamp is not Stamp.LEARNING
            if stamp is not Stamp.LEARNING:
                self._refused[pose.device] = pose.received_ns, stamp
            return (PoseOutcome.CLOCK_SET if stamp is Stamp.CLOCK_SET else PoseOutcome.DROPPED), ""
        if pose.timestamp_ns > ring.newest_ns and ring.frozen(pose.tracker_from_marker, self._frozen_after):
            self._lost(pose.device)
            return PoseOutcome.NOT_SEEN, f"the tracker repeats one pose of {pose.device}"
        jumps = ring.jumps
        if not ring.add(pose.timestamp_ns, pose.tracker_from_marker):
            self.dropped["pose"] += 1
            return PoseOutcome.DROPPED, ""
        self._received_ns[pose.device] = pose.received_ns
        if pose.device in self._tools:
            self._tools[pose.device].wait(pose)
            if ring.jumps > jumps:
                self._identities.lost(pose.device, jumped=True)
            seen_ns = clocks.usual_arrival_ns(pose.device, pose.timestamp_ns)
            self._identities.on_pose(
                pose.device, pose.timestamp_ns, seen_ns, pose.tracker_from_marker, settled=ring.settled
            )
        if pose.device == self._devices.patient:
            moved = self._continuity.check(pose.timestamp_ns, pose.tracker_from_marker)
            self._watch_camera(pose, jumped=bool(moved) and not self._continuity.came_back)
            return (PoseOutcome.MOVED, moved) if moved else (PoseOutcome.KEPT, "")
        if pose.device == self._devices.carm:
            jumped = self._carm_continuity.check(pose.timestamp_ns, pose.tracker_from_marker)
            self._watch_camera(pose, jumped=bool(jumped) and not self._carm_continuity.came_back)
            if self._carm_continuity.came_back:
                return PoseOutcome.CARM_UNWATCHED, "the C-arm's marker was hidden"
            if jumped:
                return PoseOutcome.CARM_UNWATCHED, "the C-arm's marker jumped"
        return PoseOutcome.KEPT, ""

    def _watch_camera(self, pose: TrackedPose, *, jumped: bool) -> None:
        assert pose.tracker_from_marker is not None
        now_from_before = self._camera.on_pose(pose.device, pose.timestamp_ns, pose.tracker_from_marker, jumped=jumped)
        if now_from_before is not None:
            self._identities.carried(now_from_before)

    def _lost(self, device: str) -> None:
        """A marker is hidden: nothing is interpolated across this."""
        self.rings[device].lost()
        if device in self._tools:
            self._identities.lost(device)
        if device == self._devices.patient:
            self._continuity.lost()
        if device == self._devices.carm:
            self._carm_continuity.lost()

    def overlays(self, patient: RegistrationOverTime, clocks: Clocks) -> list[Output]:
        """Overlays that have become possible, or impossible, since the last call."""
        waiting = [tool for tool in self._tools.values() if tool.waiting]
        return [output for tool in waiting for output in self._overlay(tool, patient, clocks)]

    def tick(self, patient: RegistrationOverTime, clocks: Clocks) -> list[Output]:
        """Overlays that become possible, or expire, as time passes."""
        outputs: list[Output] = []
        for device, tool in self._tools.items():
            outputs += self._overlay(tool, patient, clocks)
            known = self.validity.get(tool.name)
            if clocks.now_ns - self._received_ns[device] > self.rings[device].stale_ns and (
                known is None or known.usable
            ):
                newest_ns = self.rings[device].newest_ns
                outputs += self.invalidate(device, self._silence(device, clocks.now_ns), newest_ns, seen=False)
        return outputs

    def _silence(self, device: str, now_ns: int) -> str:
        """Why there is no pose of a marker to use."""
        refused_ns, stamp = self._refused.get(device, (0, Stamp.EXPECTED))
        if now_ns - refused_ns > self.rings[device].stale_ns:
            return _SILENT
        if stamp is Stamp.EXPECTED:
            return "its poses arrive late, or the tracker's clock was set back"
        return "its poses are stamped ahead of time, or the tracker's clock was set"

    def invalidate(self, device: str, reason: str, timestamp_ns: int, *, seen: bool = True) -> list[Output]:
        """Withdraw a tool's overlay; nothing for a device that is not a tool."""
        tool = self._tools.get(device)
        if tool is None:
            return []
        tool.waiting.clear()
        return self._say(tool, None, invalid(reason, timestamp_ns), seen=seen)

    def withdraw(self, reason: str) -> list[Output]:
        """Withdraw every tool's overlay."""
        return [output for device in self._tools for output in self.invalidate(device, reason, 0)]

    def reject(self, rejected: Rejected) -> list[Output]:
        """A marker's pose cannot be used: nothing is interpolated across it, and a tool's overlay is withdrawn."""
        if rejected.device in self.rings:
            self._lost(rejected.device)
        return self.invalidate(rejected.device, rejected.reason, 0)

    def reset(self) -> None:
        """Forget all poses."""
        for device, ring in self.rings.items():
            self._lost(device)
            ring.clear()
            if device in self._tools:
                self._identities.restamped(device)

    def select(self, name: str) -> str:
        """Let the slices follow a tool; returns why not, or ''."""
        if why_not := self.unknown(name):
            return why_not
        self.active = name
        return ""

    def confirm(self, name: str) -> str:
        """The operator confirms that the marker is this tool's; returns why that is impossible, or ''."""
        if why_not := self.unknown(name):
            return why_not
        self._identities.confirm(name)
        return ""

    def unknown(self, name: str) -> str:
        """Why there is no tool of a name, or ''."""
        names = [tool.name for tool in self._tools.values()]
        return "" if name in names else f"there is no tool {name!r}; known tools: {names}"

    def patient_from_carm(self, timestamp_ns: int, clocks: Clocks) -> Matrix | Missing:
        """patient_from_carm at an X-ray's time, relative to the patient's marker, from tracking alone."""
        if reason := clocks.apart(self._devices.carm, self._devices.patient) or clocks.drifted():
            return Missing(reason, not_yet=False)
        tracker_from_marker = self.rings[self._devices.carm].at(timestamp_ns)
        if isinstance(tracker_from_marker, Missing):
            return tracker_from_marker
        tracker_from_patient = self.rings[self._devices.patient].at(timestamp_ns)
        if isinstance(tracker_from_patient, Missing):
            return tracker_from_patient
        return g.inverse(tracker_from_patient) @ tracker_from_marker @ g.inverse(self._carm_from_marker)

    def tracker_from_patient(self, timestamp_ns: int) -> Matrix | None:
        """The patient's marker at an X-ray's time, 4x4, by tracking; None: it is not known."""
        tracker_from_patient = self.rings[self._devices.patient].at(timestamp_ns)
        return None if isinstance(tracker_from_patient, Missing) else tracker_from_patient

    def patient_from_carm_at(self, timestamps_ns: npt.NDArray[np.int64]) -> Matrix:
        """patient_from_carm at many times (M,) at once, (M, 4, 4), nearly rigid; NaN where it is unknown."""
        carm, patient = (self.rings[name].many(timestamps_ns) for name in (self._devices.carm, self._devices.patient))
        return inverses(patient) @ carm @ g.inverse(self._carm_from_marker)

    def moved_mm(self, timestamp_ns: int, exposure_ns: int, points_mm: Matrix, clocks: Clocks) -> float:
        """How far the C-arm moved relative to the anatomy in an exposure that ended at a time; 0: unknown.

        Args:
            points_mm: (N, 3), points of the anatomy in the C-arm's frame.
        """
        share, before = 1.0, self.patient_from_carm(timestamp_ns - exposure_ns, clocks)
        after = self.patient_from_carm(timestamp_ns, clocks)
        if isinstance(before, Missing):  # poses as far apart as images: what part of the way lies in the exposure
            earlier_ns = self.rings[self._devices.carm].before(timestamp_ns)
            share = min(1.0, exposure_ns / max(timestamp_ns - earlier_ns, 1))
            before = self.patient_from_carm(earlier_ns, clocks)
        if isinstance(before, Missing) or isinstance(after, Missing):
            return 0.0
        way_mm = np.linalg.norm(g.transform(after, points_mm) - g.transform(before, points_mm), axis=1)
        return share * float(way_mm.max())

    def why_patient_hidden(self, clocks: Clocks) -> str:
        """Why there was no pose of the patient's marker recently, or ''."""
        patient = self._devices.patient
        if clocks.now_ns - self._received_ns[patient] < PATIENT_HIDDEN_NS:
            return ""
        if (silence := self._silence(patient, clocks.now_ns)) != _SILENT:
            return f"the patient's marker: {silence}"
        return self._patient_unseen(clocks)

    def _patient_unseen(self, clocks: Clocks) -> str:
        """What is not there: the patient's marker, or all that the tracker says."""
        silent = clocks.now_ns - self._heard_ns >= PATIENT_HIDDEN_NS
        return _SILENT if silent else "the patient's marker is not seen"

    @property
    def carm_newest_ns(self) -> int:
        """Time until which the poses of C-arm and patient are both known; 0: there are none."""
        return min(self.rings[name].newest_ns for name in (self._devices.carm, self._devices.patient))

    @property
    def patient_newest_ns(self) -> int:
        """Time of the newest pose of the patient's marker; 0: there is none."""
        return self.rings[self._devices.patient].newest_ns

    def _overlay(self, tool: _Tool, patient: RegistrationOverTime, clocks: Clocks) -> list[Output]:
        """The overlay of a tool's newest pose for whose time the patient's pose is known."""
        if not tool.waiting:
            return []
        if (pose := tool.newest(self.patient_newest_ns)) is not None:
            tool.waiting_since_ns = clocks.now_ns
            return self._placed(tool, pose, patient, clocks)
        if clocks.now_ns - tool.waiting_since_ns < TOOL_WAITS_NS:
            return []
        newest = tool.waiting[-1]
        tool.waiting.clear()
        return self._say(tool, None, invalid(self._patient_unseen(clocks), newest.timestamp_ns))

    def _placed(self, tool: _Tool, pose: TrackedPose, patient: RegistrationOverTime, clocks: Clocks) -> list[Output]:
        """Turn a pose into an overlay: the tool's tip in the volume, at the time of the pose."""
        if reason := clocks.apart(pose.device, self._devices.patient):
            return self._say(tool, None, invalid(reason, pose.timestamp_ns))
        tracker_from_patient = self.rings[self._devices.patient].at(pose.timestamp_ns)
        if isinstance(tracker_from_patient, Missing):
            return self._say(tool, None, invalid(tracker_from_patient.reason, pose.timestamp_ns), seen=False)
        tracker_from_marker = self.rings[pose.device].at(pose.timestamp_ns)
        if isinstance(tracker_from_marker, Missing):
            return self._say(tool, None, invalid(tracker_from_marker.reason, pose.timestamp_ns), seen=False)
        registration = patient.validity(clocks.now_ns)
        if not registration.usable or patient.filter is None:
            return self._say(tool, None, invalid(registration.reason, pose.timestamp_ns))
        volume_from_tool = g.carry(
            patient.filter.volume_from_patient, tracker_from_patient, tracker_from_marker, tool.marker_from_tooltip
        )
        age_ns = clocks.age_ns(pose.device, pose.timestamp_ns)
        status, reason = registration.status, registration.reason
        best, doubt = self._identities.verdict(pose.device)
        if best is Status.INVALID:
            return self._say(tool, None, invalid(doubt, pose.timestamp_ns))
        if best is Status.DEGRADED:
            status, reason = best, "; ".join(filter(None, (doubt, reason)))
        validity = Validity(status, reason, pose.timestamp_ns, age_ns)
        return self._say(tool, volume_from_tool, validity, pose.received_ns)

    def _say(
        self,
        tool: _Tool,
        volume_from_tool: Matrix | None,
        validity: Validity,
        received_ns: int = 0,
        *,
        seen: bool = True,
    ) -> list[Output]:
        self.validity[tool.name] = validity
        return [ToolPose(tool.name, volume_from_tool, validity, received_ns, seen)]


@dataclass
class _Tool:
    name: str
    marker_from_tooltip: Matrix
    waiting: deque[TrackedPose] = field(default_factory=lambda: deque(maxlen=16))
    """Poses that are no overlays yet, because the patient's pose at their time is unknown."""
    waiting_since_ns: int = 0
    """Since when no pose has become an overlay."""

    def wait(self, pose: TrackedPose) -> None:
        if not self.waiting:
            self.waiting_since_ns = pose.received_ns
        self.waiting.append(pose)

    def newest(self, until_ns: int) -> TrackedPose | None:
        """The newest waiting pose not later than a time; removes it and earlier ones."""
        if self.waiting[0].timestamp_ns > until_ns:  # so it is while others' poses of the same moment come
            return None
        ready = [pose for pose in self.waiting if pose.timestamp_ns <= until_ns]
        while self.waiting and self.waiting[0].timestamp_ns <= ready[-1].timestamp_ns:
            self.waiting.popleft()
        return ready[-1]
