"""The loop: one message in, messages out. No sockets, no clock, no threads.

Heavy work leaves as a request and comes back as a message: ``RegistrationRequest`` -> ``RegistrationDone``,
``ReconstructionRequest`` -> ``VolumeReady``. Whoever calls :meth:`Pipeline.step` decides where it is done: the
node in a thread and in the worker process, a replay at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from navnode import geometry as g
from navnode.clock import Lateness, Stamp
from navnode.config import Config, matrix
from navnode.loop.poses import Missing, PoseRing
from navnode.loop.topics import max_age_ns
from navnode.loop.views import Motion, Stations, Views
from navnode.registration.patient import Loss, PatientRegistration
from navnode.types import (
    CArmPose,
    CommandResult,
    Frame,
    Input,
    Matrix,
    NodeState,
    Operation,
    OperatorCommand,
    Output,
    PatientPose,
    RegisteredFrame,
    RegistrationDone,
    RegistrationRequest,
    Rejected,
    SourceState,
    Status,
    Tick,
    ToolPose,
    TrackedPose,
    Validity,
    View,
    Volume,
    VolumeReady,
    VolumeUpdate,
    WorkerState,
    invalid,
)
from navnode.xray.counts import blank_reason, line_integrals, open_beam_counts
from navnode.xray.dose import Ledger

_FRAME_WAITS_NS = 150_000_000
"""How long a frame may wait for tracker poses around its exposure."""

_TOOL_WAITS_NS = 40_000_000
"""How long a tool's pose may wait for the patient's."""

_POSE_STALE_NS = max_age_ns("pose")
"""A marker without a pose for this long is not seen."""

_FRAME_STALE_NS = max_age_ns("xray")

_FRAME_LATE_NS = 150_000_000
"""A frame later than usual by more may be stamped by a clock that was set back: its pose would be another one's."""

_CLOCKS_APART_NS = 60_000_000
"""Markers whose stamps differ by more against their arrival are not stamped by one clock; and by as much may the
images' clock move against the tracker's while they are connected."""

_STATE_EVERY_NS = 200_000_000
_VIEW_PX = 128


class Pipeline:
    """The node's state and what every message does to it.

    Args:
        config: the node's configuration.
        volume: the pre-operative CT, or None to make the volume from the first X-rays.
    """

    def __init__(self, config: Config, volume: Volume | None) -> None:
        self._config = config
        self._carm = config.carm.geometry
        self._pivot_mm = config.carm.source_to_isocentre_mm
        self._carm_from_marker = matrix(config.calibration.carm_from_marker)
        self._image_lag_ns = round(config.calibration.image_lag_ms * 1e6)
        self._with_ct = volume is not None
        self._volume = volume
        self._volume_id = 1 if volume is not None else 0
        self._now_ns = 0
        self._began = False

        devices = config.devices
        self._rings = {name: PoseRing(name) for name in (devices.carm, devices.patient)}
        self._tools = {tool.device: _Tool(tool.name, matrix(tool.marker_from_tooltip)) for tool in config.tools}
        self._rings.update({device: PoseRing(device) for device in self._tools})
        self._received_ns = dict.fromkeys(self._rings, 0)

        self._patient = PatientRegistration(config.registration, config.carm)
        self._pending: Frame | None = None
        self._in_flight = False
        self._epoch = 0
        self._last_frame_ns = self._last_exposure_ns = self._last_registered_ns = 0
        self._carm_known = False
        self._lateness = {name: Lateness() for name in (*self._rings, devices.xray)}
        self._clock_gap_ns: float | None = None
        self._motion = Motion(self._pivot_mm)
        self._stations = Stations()
        self._views = Views(config.reconstruction)
        self._dose = Ledger(config.dose.frame_gy_cm2, config.dose.msv_per_gy_cm2, config.dose.ct_msv)
        self._volume_ms: dict[str, float] = {}

        self._sources: dict[str, str] = {f"{s.host}:{s.port}": "not connected yet" for s in config.sources}
        self._configured = frozenset(self._sources)
        self._active_tool = config.tools[0].name if config.tools else ""
        self._worker = WorkerState(False, "", "starting", 0)
        self._frames_received = self._frames_registered = self._volumes = 0
        self._registered_at_ns: deque[int] = deque(maxlen=30)
        self._dropped: dict[str, int] = {"xray": 0, "pose": 0, "late": 0, "rejected": 0}
        self._status_counts: dict[str, int] = {status.value: 0 for status in Status}
        self._tool_validity: dict[str, Validity] = {}
        self._notices: deque[str] = deque(maxlen=5)
        self._last_state_ns = 0
        self._last_patient_status: Status | None = None

    def step(self, message: Input) -> list[Output]:
        """What one message leads to."""
        if not self._began and self._now_ns:
            self._began, self._epoch = True, self._epoch + self._now_ns  # never another node's
        match message:
            case TrackedPose():
                self._now_ns = max(self._now_ns, message.received_ns)
                return self._on_pose(message)
            case Frame():
                self._now_ns = max(self._now_ns, message.received_ns)
                return self._on_frame(message)
            case RegistrationDone():
                self._now_ns = max(self._now_ns, message.now_ns)
                return self._on_registration(message)
            case Tick():
                self._now_ns = max(self._now_ns, message.now_ns)
                return self._on_tick()
            case VolumeReady():
                self._now_ns = max(self._now_ns, message.now_ns)
                return self._on_volume(message)
            case WorkerState():
                if not message.alive or message.instance != self._worker.instance:
                    self._views.forget_request()
                self._worker = message
                return []
            case SourceState():
                self._now_ns = max(self._now_ns, message.now_ns)
                return self._on_source(message)
            case OperatorCommand():
                self._now_ns = max(self._now_ns, message.now_ns)
                return self._on_command(message)
            case Rejected():
                self._now_ns = max(self._now_ns, message.received_ns)
                return self._on_rejected(message)

    @property
    def volume(self) -> Volume | None:
        """What tools and frames refer to."""
        return self._volume

    @property
    def volume_id(self) -> int:
        """Counts up with every new navigation volume."""
        return self._volume_id

    # --- poses and tools -------------------------------------------------------------------------

    def _on_pose(self, pose: TrackedPose) -> list[Output]:
        ring = self._rings.get(pose.device)
        if ring is None:
            return []
        if pose.tracker_from_marker is None:  # the tracker says that it does not see it
            ring.lost()
            return self._invalidate_tool(pose.device, "not seen by the tracker", pose.timestamp_ns, seen=False)
        lateness = self._lateness[pose.device]
        stamp = lateness.take(pose.timestamp_ns, pose.received_ns)
        if stamp is Stamp.CLOCK_SET:
            ring.clear()
            self._patient.doubt(f"the clock of {pose.device} was set")
        if stamp is not Stamp.EXPECTED or lateness.age_ns(pose.timestamp_ns, pose.received_ns) > _POSE_STALE_NS:
            # As good as none: if all of them are, the silence is noticed.
            self._dropped["late"] += stamp is not Stamp.LEARNING
            return []
        jumps = ring.jumps
        if not ring.add(pose.timestamp_ns, pose.tracker_from_marker):
            self._dropped["pose"] += 1
            return []
        if ring.jumps > jumps and pose.device == self._config.devices.patient:
            self._patient.unsure("the patient's marker jumped; an X-ray would confirm that it has not moved")
        self._received_ns[pose.device] = pose.received_ns
        if pose.device in self._tools:
            self._tools[pose.device].wait(pose)
        outputs = [output for tool in self._tools.values() for output in self._waiting_tool(tool)]
        if pose.device != self._config.devices.carm or self._pending is None:
            return outputs
        return outputs + self._try_start()

    def _waiting_tool(self, tool: _Tool) -> list[Output]:
        """The newest of the tool's poses for which the patient's pose at that time is known."""
        if not tool.waiting:
            return []
        patient = self._rings[self._config.devices.patient]
        ready = [pose for pose in tool.waiting if pose.timestamp_ns <= patient.newest_ns]
        if ready:
            while tool.waiting and tool.waiting[0].timestamp_ns <= ready[-1].timestamp_ns:
                tool.waiting.popleft()
            tool.waiting_since_ns = self._now_ns
            return self._tool_pose(tool, ready[-1])
        if self._now_ns - tool.waiting_since_ns < _TOOL_WAITS_NS:
            return []
        newest = tool.waiting[-1]
        tool.waiting.clear()
        return self._tool_output(tool, None, invalid("the patient's marker is not seen", newest.timestamp_ns))

    def _tool_pose(self, tool: _Tool, pose: TrackedPose) -> list[Output]:
        """The tool in the volume at its own time."""
        patient = self._config.devices.patient
        if reason := self._clocks_apart(pose.device, patient):
            return self._tool_output(tool, None, invalid(reason, pose.timestamp_ns))
        tracker_from_patient = self._rings[patient].at(pose.timestamp_ns)
        tracker_from_marker = self._rings[pose.device].at(pose.timestamp_ns)
        for found in (tracker_from_patient, tracker_from_marker):
            if isinstance(found, Missing):
                return self._tool_output(tool, None, invalid(found.reason, pose.timestamp_ns), seen=False)
        assert not isinstance(tracker_from_patient, Missing) and not isinstance(tracker_from_marker, Missing)
        registration = self._patient.validity(self._now_ns)
        estimate = self._patient.filter
        if not registration.usable or estimate is None:
            return self._tool_output(tool, None, invalid(registration.reason, pose.timestamp_ns))
        volume_from_tool = (
            estimate.volume_from_patient
            @ g.inverse(tracker_from_patient)
            @ tracker_from_marker
            @ tool.marker_from_tooltip
        )
        age_ns = self._lateness[pose.device].age_ns(pose.timestamp_ns, self._now_ns)
        validity = Validity(registration.status, registration.reason, pose.timestamp_ns, age_ns)
        return self._tool_output(tool, volume_from_tool, validity, pose.received_ns)

    def _clocks_apart(self, device: str, other: str) -> str:
        """Why the stamps of two markers cannot be compared, or ''."""
        one, two = self._lateness[device].offset_ns, self._lateness[other].offset_ns
        if one is None or two is None or abs(one - two) <= _CLOCKS_APART_NS:
            return ""
        return f"the clocks of {device} and {other} differ by {abs(one - two) / 1e6:.0f} ms"

    def _tool_output(
        self,
        tool: _Tool,
        volume_from_tool: Matrix | None,
        validity: Validity,
        received_ns: int = 0,
        *,
        seen: bool = True,
    ) -> list[Output]:
        self._tool_validity[tool.name] = validity
        return [ToolPose(tool.name, volume_from_tool, validity, received_ns, seen)]

    def _invalidate_tool(self, device: str, reason: str, timestamp_ns: int, *, seen: bool = True) -> list[Output]:
        tool = self._tools.get(device)
        if tool is None:
            return []
        tool.waiting.clear()
        return self._tool_output(tool, None, invalid(reason, timestamp_ns), seen=seen)

    # --- frames ----------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> list[Output]:
        self._frames_received += 1
        self._dose.add(frame)
        self._last_frame_ns = frame.received_ns
        expected = (self._carm.height_px, self._carm.width_px)
        if frame.counts.shape != expected:
            height, width = frame.counts.shape
            reason = f"the image is {width} x {height} pixels, the C-arm geometry is for {expected[1]} x {expected[0]}"
            return [*self._refuse(frame, reason), *self._notice(reason)]
        if frame.timestamp_ns == self._last_exposure_ns:  # a source that sends its last image again
            self._dropped["xray"] += 1
            return []
        if reason := self._mistimed(frame):
            self._dropped["late"] += 1
            return self._refuse(frame, reason)
        self._last_exposure_ns = frame.timestamp_ns
        outputs: list[Output] = []
        if self._pending is not None:
            self._dropped["xray"] += 1
            if not self._in_flight:  # it was the tracker that kept it waiting
                outputs = self._refuse(self._pending, "the tracker has no pose for the exposure")
        self._pending = frame
        return outputs + self._try_start()

    def _mistimed(self, frame: Frame) -> str:
        """Why the frame's time stamp cannot be believed, or ''."""
        lateness = self._lateness[self._config.devices.xray]
        stamp = lateness.take(frame.timestamp_ns, frame.received_ns)
        late_ns = lateness.age_ns(frame.timestamp_ns, frame.received_ns)
        if stamp in (Stamp.AHEAD, Stamp.CLOCK_SET):
            return "the X-ray is stamped ahead of time"
        if late_ns > _FRAME_LATE_NS:
            return f"the X-ray arrived {late_ns / 1e9:.1f} s late, or the clock of its source was set back"
        if frame.timestamp_ns < self._last_exposure_ns:
            return "the X-ray is older than the last one"
        return ""

    def _try_start(self) -> list[Output]:
        """Send the newest frame to registration when that is free and the tracker knows its exposure."""
        frame = self._pending
        if frame is None or self._in_flight:
            return []
        if self._now_ns - frame.received_ns > _FRAME_STALE_NS:
            self._pending = None
            return self._refuse(frame, "the X-ray waited too long")
        patient_from_carm = self._patient_from_carm(frame.timestamp_ns - self._image_lag_ns)
        if isinstance(patient_from_carm, Missing):
            if patient_from_carm.not_yet and self._now_ns - frame.received_ns < _FRAME_WAITS_NS:
                return []
            self._pending = None
            return self._refuse(frame, patient_from_carm.reason)
        self._pending = None
        self._motion.add(frame.timestamp_ns, patient_from_carm)
        if not frame.stamped and not self._motion.still:
            return self._refuse(frame, "the X-ray has no time stamp; it is used only while the C-arm stands still")
        if self._volume is None:
            return self._without_volume(frame, patient_from_carm)
        self._in_flight = True
        volume_from_patient = self._patient.best_guess
        request = RegistrationRequest(
            frame=frame,
            epoch=self._epoch,
            volume_id=self._volume_id,
            start_volume_from_carm=volume_from_patient @ patient_from_carm,
            patient_from_carm=patient_from_carm,
            effort=self._patient.effort,
            sparse_volume=not self._with_ct,
        )
        return [request]

    def _patient_from_carm(self, timestamp_ns: int) -> Matrix | Missing:
        devices = self._config.devices
        if reason := self._clocks_apart(devices.carm, devices.patient) or self._clock_moved():
            return Missing(reason, not_yet=False)
        tracker_from_marker = self._rings[self._config.devices.carm].at(timestamp_ns)
        if isinstance(tracker_from_marker, Missing):
            return tracker_from_marker
        tracker_from_patient = self._rings[self._config.devices.patient].at(timestamp_ns)
        if isinstance(tracker_from_patient, Missing):
            return tracker_from_patient
        return g.inverse(tracker_from_patient) @ tracker_from_marker @ g.inverse(self._carm_from_marker)

    def _clock_moved(self) -> str:
        """Why images cannot be paired with poses any more, or ''.

        The ways of the two differ by an unknown but steady time: what is not steady is a clock that was set.
        """
        image, tracker = (self._lateness[d].offset_ns for d in (self._config.devices.xray, self._config.devices.carm))
        if image is None or tracker is None:
            return ""
        if self._clock_gap_ns is None:
            self._clock_gap_ns = image - tracker
        moved_ns = image - tracker - self._clock_gap_ns
        if abs(moved_ns) <= _CLOCKS_APART_NS:
            return ""
        reason = f"the clocks of image and tracker have moved apart by {abs(moved_ns) / 1e6:.0f} ms; connect anew"
        self._patient.doubt(reason)
        return reason

    def _without_volume(self, frame: Frame, patient_from_carm: Matrix) -> list[Output]:
        """CT-less: the volume's frame is the patient's until there is a volume."""
        if reason := blank_reason(frame.counts):
            return self._refuse(frame, reason)
        requests = self._take_view(frame, patient_from_carm)
        self._patient.doubt(self._views.progress)
        return self._registered(frame, None, invalid(self._views.progress), np.inf, 0.0) + requests

    def _on_registration(self, done: RegistrationDone) -> list[Output]:
        self._in_flight = False
        request, registration = done.request, done.registration
        if (request.volume_id, request.epoch) != (self._volume_id, self._epoch):
            # Made against a volume that has been replaced, or with poses that do not hold any more.
            self._dropped["xray"] += 1
            return self._try_start()
        verdict, loss = self._patient.take(request, registration, self._now_ns)
        if loss is not Loss.NONE:
            self._forget_what_was_lost(loss)
        usable = verdict.usable and self._now_ns - request.frame.received_ns <= _FRAME_STALE_NS
        if verdict.usable and not usable:
            verdict = invalid("registering the X-ray took too long")
        volume_from_carm = registration.volume_from_carm if usable else None
        outputs = self._registered(
            request.frame, volume_from_carm, verdict, registration.residual, registration.similarity
        )
        outputs += self._patient_pose(request.frame.timestamp_ns)
        if usable and self._patient.confirmed and self._patient.filter is not None:
            # The fused pose, not the single frame's: its depth is better.
            fused = self._patient.filter.volume_from_patient @ request.patient_from_carm
            outputs += self._take_view(request.frame, fused)
        return outputs + self._try_start()

    def _forget_what_was_lost(self, loss: Loss) -> None:
        """With a registration goes what was placed by it."""
        self._epoch += 1
        self._views.forget()
        self._stations = Stations()
        if loss is Loss.VOLUME_LOST:  # nothing says where that volume is now
            self._volume, self._volume_id = None, self._volume_id + 1

    def _registered(
        self,
        frame: Frame,
        volume_from_carm: Matrix | None,
        validity: Validity,
        residual: float,
        similarity: float,
    ) -> list[Output]:
        if volume_from_carm is not None:
            self._frames_registered += 1
            self._last_registered_ns = frame.received_ns
            self._registered_at_ns.append(self._now_ns)
        self._status_counts[validity.status.value] += 1
        age_ns = self._lateness[self._config.devices.xray].age_ns(frame.timestamp_ns, self._now_ns)
        stamped = Validity(validity.status, validity.reason, frame.timestamp_ns, age_ns)
        station = None
        if volume_from_carm is not None and self._motion.still:
            station = self._stations.slot_of(volume_from_carm[:3, 2])
        self._carm_known = volume_from_carm is not None
        return [
            CArmPose(volume_from_carm, stamped),
            RegisteredFrame(frame, self._carm, volume_from_carm, stamped, residual, similarity, station, self._now_ns),
        ]

    def _carm_unknown(self, reason: str) -> list[Output]:
        """CArmToVolume is taken back, once."""
        if not self._carm_known:
            return []
        self._carm_known = False
        return [CArmPose(None, invalid(reason))]

    def _refuse(self, frame: Frame, reason: str) -> list[Output]:
        """A frame that cannot be registered to anything."""
        self._dropped["rejected"] += 1
        return self._registered(frame, None, invalid(reason), np.inf, 0.0)

    def _patient_pose(self, timestamp_ns: int) -> list[Output]:
        validity = self._patient.validity(self._now_ns)
        self._last_patient_status = validity.status
        estimate = self._patient.filter
        if estimate is None or not validity.usable:
            return [PatientPose(None, Validity(validity.status, validity.reason, timestamp_ns), ())]
        stamped = Validity(validity.status, validity.reason, timestamp_ns, validity.age_ns)
        return [PatientPose(estimate.volume_from_patient, stamped, tuple(estimate.sigma.tolist()))]

    # --- volumes ---------------------------------------------------------------------------------

    def _take_view(self, frame: Frame, volume_from_carm: Matrix) -> list[Output]:
        """Keep the frame for reconstruction if it shows the patient from a new direction."""
        if not self._config.reconstruction.enabled or not self._views.wanted(volume_from_carm):
            return []
        factor = max(1, self._carm.width_px // _VIEW_PX)
        i0 = self._config.registration.i0 or open_beam_counts(frame.counts)
        line = line_integrals(frame.counts, i0, factor)
        self._views.add(View(line, self._carm.binned(factor), volume_from_carm, frame.timestamp_ns))
        return self._ask_for_volume()

    def _ask_for_volume(self) -> list[Output]:
        return list(self._views.request(self._pivot_mm, self._now_ns)) if self._worker.alive else []

    def _on_volume(self, ready: VolumeReady) -> list[Output]:
        if not self._views.answered(ready.request):
            return []  # asked for by a node that is no more
        if ready.volume is None:
            self._views.failed(self._now_ns)
            return self._notice(f"no reconstruction: {ready.reason}")
        self._volumes += 1
        took_ms = self._views.took_ms(self._now_ns)
        budget_ms = self._config.reconstruction.budget_ms
        self._volume_ms = {
            "volume_ms": took_ms,
            "volume_elsewhere_ms": max(took_ms - ready.elapsed_ms, 0.0),
            "volume_budget_ms": budget_ms,
        }
        if took_ms > budget_ms:
            self._notice(f"a volume took {took_ms / 1000:.1f} s, more than its {budget_ms / 1000:.1f} s")
        stamp = self._views.newest_ns
        validity = Validity(Status.DEGRADED, f"{ready.method}: {ready.reason}", stamp)
        role = "reconstruction" if self._with_ct else "navigation"
        if not self._with_ct:
            if self._volume is None:
                self._patient.begin_with_tracking(self._views.center_mm(self._pivot_mm))
            # Later, a better volume in the same frame: the registration's estimate stays, its image is replaced.
            self._volume, self._volume_id = ready.volume, self._volume_id + 1
        return [
            VolumeUpdate(
                ready.volume, ready.bone, role, validity, ready.method, ready.views, ready.uncertainty_hu
            )
        ]  # fmt: skip

    # --- time, sources, states -------------------------------------------------------------------

    def _on_tick(self) -> list[Output]:
        outputs: list[Output] = []
        if self._pending is not None:
            outputs += self._try_start()
        for device, tool in self._tools.items():
            outputs += self._waiting_tool(tool)
            silent_ns = self._now_ns - self._received_ns[device]
            known = self._tool_validity.get(tool.name)
            if silent_ns > _POSE_STALE_NS and (known is None or known.usable):
                newest_ns = self._rings[device].newest_ns
                outputs += self._invalidate_tool(device, "no pose from the tracker", newest_ns, seen=False)
        if self._now_ns - self._last_registered_ns > _FRAME_STALE_NS:
            outputs += self._carm_unknown("no X-ray was registered just now")
        self._patient.watch(tracked=self._tracked())
        validity = self._patient.validity(self._now_ns)
        if validity.status is not self._last_patient_status:
            newest_ns = self._rings[self._config.devices.patient].newest_ns
            outputs += self._patient_pose(newest_ns) if validity.usable else self._withdraw()
        if self._now_ns - self._last_state_ns >= _STATE_EVERY_NS:
            self._last_state_ns = self._now_ns
            outputs += self._ask_for_volume()
            outputs.append(self._state())
        return outputs

    def _tracked(self) -> bool:
        """Whether the patient's marker has been seen just now."""
        return self._now_ns - self._received_ns[self._config.devices.patient] < 1_000_000_000

    def _on_source(self, source: SourceState) -> list[Output]:
        was = self._sources.get(source.name)
        if source.connected or source.name in self._configured:
            self._sources[source.name] = "" if source.connected else source.reason
        else:
            self._sources.pop(source.name, None)  # a console that pushed something
        if source.connected or was != "":
            return []
        # What came from there may be moved before it returns: begin again with nothing known to be true.
        for ring in self._rings.values():
            ring.clear()
        self._lateness = {name: Lateness() for name in self._lateness}
        self._last_exposure_ns = 0
        self._clock_gap_ns = None
        self._pending = None
        self._epoch += 1  # what is being registered belongs to the poses from before
        if self._volume is None:
            self._views.forget()  # their poses are in the frame of a marker that may be moved
        self._patient.doubt(f"source {source.name} vanished")
        self._motion = Motion(self._pivot_mm)
        outputs = self._withdraw() + self._carm_unknown(f"source {source.name} vanished")
        return outputs + self._notice(f"source {source.name}: {source.reason}")

    def _on_command(self, command: OperatorCommand) -> list[Output]:
        outputs: list[Output] = []
        match command.operation:
            case Operation.ACCEPT_REGISTRATION:
                why_not = self._patient.accept()
                text = "accepted; it stays DEGRADED until X-rays confirm it"
            case Operation.REJECT_REGISTRATION:
                self._forget_what_was_lost(self._patient.reject())
                why_not, text = "", "rejected; it is searched for anew"
                outputs = self._carm_unknown("the operator rejected the registration") + self._withdraw()
            case Operation.TAKE_VIEW:
                why_not = self._why_no_view()
                self._views.wanted_now = not why_not
                text = "the next X-ray is kept as a view"
            case Operation.SET_TOOL:
                names = [tool.name for tool in self._tools.values()]
                why_not = "" if command.tool in names else f"there is no tool {command.tool!r}; there are: {names}"
                self._active_tool = self._active_tool if why_not else command.tool
                text = f"the slices follow {self._active_tool}"
        return [*outputs, CommandResult(command.operation, not why_not, why_not or text)]

    def _why_no_view(self) -> str:
        if not self._config.reconstruction.enabled:
            return "reconstruction is not enabled in the configuration"
        if self._volume is not None and not self._patient.confirmed:
            return "where the C-arm stands is not known: the registration is not confirmed"
        return ""

    def _withdraw(self) -> list[Output]:
        """Take back the patient's pose and the tools, for the reason that the registration gives."""
        reason = self._patient.validity(self._now_ns).reason
        outputs = self._patient_pose(self._rings[self._config.devices.patient].newest_ns)
        for device in self._tools:
            outputs += self._invalidate_tool(device, reason, 0)
        return outputs

    def _on_rejected(self, rejected: Rejected) -> list[Output]:
        self._dropped["rejected"] += 1
        if rejected.device in self._rings:
            self._rings[rejected.device].lost()
        outputs = self._invalidate_tool(rejected.device, rejected.reason, 0)
        return outputs + self._notice(f"{rejected.device}: {rejected.reason}")

    def _notice(self, text: str) -> list[Output]:
        if text not in self._notices:
            self._notices.append(text)
        return []

    def _state(self) -> NodeState:
        times = self._registered_at_ns
        recent = [t for t in times if self._now_ns - t < 2_000_000_000]
        rate = (len(recent) - 1) / max((recent[-1] - recent[0]) / 1e9, 1e-3) if len(recent) > 1 else 0.0
        extra = {"target_sigma_mm": self._patient.filter.target_sigma_mm} if self._patient.filter else {}
        extra |= self._volume_ms
        extra["xray_age_s"] = (self._now_ns - self._last_frame_ns) / 1e9 if self._last_frame_ns else -1.0
        return NodeState(
            registration=self._patient.validity(self._now_ns),
            tools=dict(self._tool_validity),
            sources=dict(self._sources),
            worker=self._worker.engine if self._worker.alive else self._worker.reason,
            worker_alive=self._worker.alive,
            volume=self._volume.name if self._volume else "",
            frames_received=self._frames_received,
            frames_registered=self._frames_registered,
            frame_rate_hz=rate,
            volumes=self._volumes,
            dropped=dict(self._dropped),
            status_counts=dict(self._status_counts),
            notices=tuple(self._notices),
            now_ns=self._now_ns,
            epoch=self._epoch,
            active_tool=self._active_tool,
            dose=self._dose.total,
            extra=extra,
        )


@dataclass
class _Tool:
    name: str
    marker_from_tooltip: Matrix
    waiting: deque[TrackedPose] = field(default_factory=lambda: deque(maxlen=16))
    """Poses that have not become outputs yet: the patient's at their time is not known."""
    waiting_since_ns: int = 0
    """Since when none could become one."""

    def wait(self, pose: TrackedPose) -> None:
        if not self.waiting:
            self.waiting_since_ns = pose.received_ns
        self.waiting.append(pose)
