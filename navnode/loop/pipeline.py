"""The loop: one message in, messages out. No sockets, no clock, no threads.

Heavy work leaves as a request and comes back as a message: ``RegistrationRequest`` -> ``RegistrationDone``,
``ReconstructionRequest`` -> ``VolumeReady``, ``SurfaceRequest`` -> ``SurfaceReady``. The caller of
:meth:`Pipeline.step` decides where it runs: the node in a thread and in the worker process, a replay at once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from navnode.config import Config
from navnode.loop.bodies import Bodies
from navnode.loop.clocks import Clocks
from navnode.loop.frames import Frames
from navnode.loop.plans import Plans
from navnode.loop.status import NodeStatus
from navnode.loop.tools import PoseOutcome, Tools
from navnode.loop.touch import Touches
from navnode.loop.volume import Volumes
from navnode.registration.over_time import Loss, RegistrationOverTime
from navnode.types import (
    CommandResult,
    Frame,
    Input,
    Matrix,
    NodeState,
    Operation,
    OperatorCommand,
    Output,
    PlanCommand,
    RegisteredFrame,
    RegistrationDone,
    Rejected,
    SourceState,
    Status,
    SurfaceReady,
    Tick,
    TrackedPose,
    Validity,
    Volume,
    VolumeReady,
    WorkerState,
    invalid,
)
from navnode.xray.counts import blank_reason

__all__ = ["Pipeline"]

_DONE = {
    Operation.ACCEPT_REGISTRATION: "Accepted; it stays DEGRADED until X-rays confirm it",
    Operation.REJECT_REGISTRATION: "Registration rejected; searching again",
    Operation.TAKE_VIEW: "The next X-ray is kept as a view",
    Operation.SET_TOOL: "The slices follow {tool}",
    Operation.CONFIRM_TOOL: "{tool} is confirmed",
}

_PAIRED_EVERY = 3
"""X-rays after which it is tried again how their clock and the tracker's are related."""
_ASIDE = "placed by tracking alone: none of the volume's X-rays is from this side"


class Pipeline:
    """The node's state, and how every message changes it; without a CT, the first X-rays make a volume."""

    def __init__(self, config: Config, volume: Volume | None) -> None:
        self.config, self.status, self.epoch = config, NodeStatus(config), 0
        self.tools, self.frames, self.volume = Tools(config), Frames(config), Volumes(config, volume)
        self.clocks = Clocks(config.devices.xray, config.devices.carm, self.tools.rings)
        self.patient = RegistrationOverTime(
            config.registration, config.carm, source_sigma_mm=config.calibration.source_sigma_mm
        )
        self.bodies, self.plans, self.touches = Bodies(config), Plans(), Touches()
        self._unpaired = 0

    def step(self, message: Input) -> list[Output]:
        """Handle one message; returns the outputs."""
        self.clocks.advance(message)
        self.epoch = self.epoch or self.clocks.now_ns  # differs from the epochs of other nodes
        outputs: list[Output] = []
        match message:
            case TrackedPose():
                outputs = self._on_pose(message)
            case Frame():
                self.status.received(message, self.frames.mismatch(message), repeated=self.frames.repeats(message))
                outputs = self.frames.on_frame(message, self.clocks)
                outputs += self._start() if self.frames.pending is message else []
            case RegistrationDone():
                outputs = self._on_registration(message)
            case VolumeReady() | SurfaceReady():
                outputs = self._on_volume(message)
            case WorkerState():
                self.volume.on_worker(message)
            case SourceState():
                outputs = self._reset_source(message) if self.status.on_source(message) else []
            case OperatorCommand():
                outputs = self._on_command(message)
            case PlanCommand():
                result = self.plans.on_command(message, self.volume)
                self.status.notice("" if result.done else result.text)
                outputs = [result]
            case Rejected():
                self.status.reject(message)
                outputs = self.tools.reject(message)
            case Tick():
                outputs = self._on_tick()
        outputs += self.plans.deviations(outputs, self.tools.active, self.patient)
        self.touches.on_outputs(outputs)
        self.status.count(outputs, self.clocks.now_ns)
        for output in outputs:
            if isinstance(output, RegisteredFrame) and not output.validity.usable:
                self.patient.refused(output.validity.reason)
        if isinstance(message, Tick) and self.status.due(self.clocks.now_ns):
            outputs += [*self.volume.ask(self.clocks.now_ns), self.state()]
        return outputs

    def state(self) -> NodeState:
        """The node's present state."""
        return self.status.report(
            self.patient,
            self.bodies,
            self.frames,
            self.tools,
            self.plans,
            self.volume,
            self.epoch,
            self.clocks.now_ns,
        )

    def _on_pose(self, pose: TrackedPose) -> list[Output]:
        outcome, reason = self.tools.on_pose(pose, self.clocks)
        if outcome is PoseOutcome.NOT_SEEN:
            return self.tools.invalidate(pose.device, reason, pose.timestamp_ns, seen=False)
        if outcome is PoseOutcome.CLOCK_SET:
            self.patient.clock_set(f"the clock of {pose.device} was set; an X-ray would confirm that nothing moved")
        if outcome is PoseOutcome.MOVED:
            told = f"{reason}; an X-ray would confirm that it has not moved on the patient"
            self.patient.moved(told, pose.timestamp_ns)
            if not self.volume.with_ct:
                self.volume.forget_views()  # theirs and later ones are of two places of the marker
        if outcome is PoseOutcome.CARM_UNWATCHED:
            self.patient.carm_unwatched(reason)
        if outcome in (PoseOutcome.CLOCK_SET, PoseOutcome.DROPPED):
            return []
        overlays = self.tools.overlays(self.patient, self.clocks)
        return overlays + self._start() if pose.device == self.config.devices.carm else overlays

    def _start(self) -> list[Output]:
        """Send the newest frame to registration when that is free and the tracker knows its exposure."""
        own = None if self.frames.in_flight else self.volume.next_of_its_own()
        if own is not None:
            return [self.frames.of_volume(own[1], own[0], self.volume, self.epoch)]
        frame, outputs = self.frames.next(self.clocks)
        if frame is None:
            return outputs
        if drifted := self.clocks.drifted():
            self.patient.doubt(drifted)
        patient_from_carm = self.tools.patient_from_carm(self.frames.exposed_ns(frame, self.clocks), self.clocks)
        placed, outputs = self.frames.place(frame, patient_from_carm, self.clocks)
        if placed is None:
            return outputs
        if blurred := self.frames.blurred(frame, self.tools, self.clocks):
            return self.frames.refuse(frame, blurred, self.clocks)
        made = self.volume.current is not None
        if self.config.bones_alone or (made and self.volume.shows_side_of(self.patient.best_guess @ placed)):
            bodies = self.bodies.starts()
            return [self.frames.request(frame, placed, self.patient, bodies, self.volume, self.epoch)]
        unpaired = self.frames.unpaired(frame, placed, self.tools, self.clocks)
        if reason := unpaired or blank_reason(frame.counts):
            return self.frames.refuse(frame, reason, self.clocks)
        if made:
            return self._place_by_tracking(frame, placed)
        requests = self.volume.offer(frame, placed, self.clocks.now_ns)  # the first volume's frame is the patient's
        self.patient.doubt(self.volume.progress)
        return self.frames.show(frame, None, invalid(self.volume.progress), self.clocks) + requests

    def _place_by_tracking(self, frame: Frame, patient_from_carm: Matrix) -> list[Output]:
        """Show an X-ray from a side of which a volume made from a few shows nothing; the next volume may."""
        trusted = self.patient.validity(self.clocks.now_ns)
        tracked = self.patient.best_guess @ patient_from_carm
        sure = trusted.usable and not self.patient.doubted
        verdict = Validity(Status.DEGRADED, _ASIDE, frame.timestamp_ns) if sure else trusted
        outputs = self.frames.show(frame, None, verdict, self.clocks, tracked)
        return outputs + (self.volume.offer(frame, tracked, self.clocks.now_ns) if sure else [])

    def _on_registration(self, done: RegistrationDone) -> list[Output]:
        self.frames.in_flight = False
        request, registration = done.request, done.registration
        if (request.volume_id, request.epoch) != (self.volume.number, self.epoch):  # replaced, or poses do not hold
            self.frames.dropped["xray"] += 1
            return self._start()
        if request.of_volume:
            self.patient.learn_side(request, registration)
            return self._start()
        if registration.validity.usable and self.volume.with_ct:
            self.clocks.pairing.add(request.frame.timestamp_ns, registration)
        if unpaired := self.frames.unpaired(request.frame, request.patient_from_carm, self.tools, self.clocks):
            verdict, loss = invalid(unpaired), Loss.NONE
        else:
            exposed_ns = self.frames.exposed_ns(request.frame, self.clocks)
            marker = self.tools.tracker_from_patient(exposed_ns)
            verdict, loss = self.patient.on_registration(request, registration, self.clocks.now_ns, exposed_ns, marker)
        outputs = self._reset_registration(loss)
        if loss is not Loss.NONE:
            self.clocks.reconsider()
        shown, lost = self._pair_anew()
        outputs += lost
        if shown and verdict.usable:
            verdict = invalid(shown)
        if verdict.usable and self.frames.stale(request.frame, self.clocks):
            verdict = invalid("registering the X-ray took too long")
        if verdict.status is Status.VALID and self.patient.blamed:  # perhaps the picture is
            verdict = replace(verdict, status=Status.DEGRADED, reason=self.patient.blamed)
        fused = self.patient.best_guess @ request.patient_from_carm  # its depth is better than one frame's
        tracked = fused if request.sparse_volume else None
        if request.sparse_volume and verdict.usable and self.patient.doubted:
            verdict = self.patient.validity(self.clocks.now_ns)
        outputs += self.frames.show(request.frame, registration, verdict, self.clocks, tracked)
        outputs += self.bodies.on_registration(done, verdict)
        outputs += self._report_patient(only_changed=True)
        if verdict.usable and self.patient.confirmed and not (request.sparse_volume and self.patient.doubted):
            outputs += self.volume.offer(request.frame, fused, self.clocks.now_ns)
        return outputs + self._start()

    def _pair_anew(self) -> tuple[str, list[Output]]:
        """Pair X-rays with poses by what they show of the clocks, if they contradict tracking and agree on that.

        Returns:
            What they show, or '', and outputs that withdraw what was placed before.
        """
        self._unpaired += 1
        if self._unpaired % _PAIRED_EVERY or (self.clocks.related and not self.patient.doubted):
            return "", []
        lag_ns, related = self.frames.image_lag_ns, self.clocks.related
        possible_ns = self.clocks.possible_shifts_ns(ahead_ns=self.frames.waits_ns) - lag_ns
        present_ns = self.clocks.shift_ns - lag_ns
        shift = self.clocks.pairing.shift(present_ns, possible_ns, self.tools.patient_from_carm_at)
        if shift is None or (related and shift.ns == present_ns):
            return "", []
        told = self.clocks.pair(shift.ns + lag_ns)
        self.status.notice(told)
        if not related:
            return "", []  # what moved was not used, so nothing is wrong
        return told, self._reset_registration(self.patient.restart(told, shift.volume_from_patient))

    def _on_volume(self, ready: VolumeReady | SurfaceReady) -> list[Output]:
        first = self.volume.current is None
        update, notice = self.volume.on_answer(ready, self.clocks.now_ns)
        self.status.notice(notice)
        if update is not None and first:
            earliest_ns = self.frames.exposed_ns(self.volume.earliest, self.clocks)
            self.patient.begin_with_tracking(self.volume.center_mm, self.clocks.now_ns, earliest_ns)
        return [] if update is None else [update]

    def _on_tick(self) -> list[Output]:
        outputs = [*self.volume.begin(), *self._start()]
        outputs += self.tools.tick(self.patient, self.clocks) + self.frames.tick(self.clocks)
        outputs += self.bodies.tick(self.clocks.now_ns)
        self.patient.watch(why_hidden=self.tools.why_patient_hidden(self.clocks), seen_ns=self.tools.patient_newest_ns)
        changed = self.patient.validity(self.clocks.now_ns).status is not self.patient.reported
        return outputs + self._report_patient() if changed else outputs

    def _on_command(self, command: OperatorCommand) -> list[Output]:
        outputs, why_not = list[Output](), ""
        match command.operation:
            case Operation.ACCEPT_REGISTRATION:
                why_not = self.patient.accept()
            case Operation.REJECT_REGISTRATION:
                outputs = self._reset_registration(self.patient.reject())
                outputs += self.frames.withdraw("the operator rejected the registration") + self._report_patient()
            case Operation.TAKE_VIEW:
                why_not = self.volume.want_view(confirmed=self.patient.confirmed, doubted=self.patient.doubted)
            case Operation.SET_TOOL:
                why_not = self.tools.select(command.tool)
            case Operation.CONFIRM_TOOL:
                why_not = self.tools.confirm(command.tool)
            case Operation.CHECK_TIP:
                return [self._touched(command)]
        text = why_not or _DONE[command.operation].format(tool=command.tool)
        return [*outputs, CommandResult(command.operation, not why_not, text)]

    def _touched(self, command: OperatorCommand) -> CommandResult:
        """How far a tool's tip is from the point that it touches."""
        tool, point_mm = command.tool or self.tools.active, command.point_mm
        if why_not := self.tools.unknown(tool) or ("" if point_mm else "there is no point to touch"):
            return CommandResult(command.operation, False, why_not)
        done, text = self.touches.check(tool, np.array(point_mm), self.patient, self.volume, self.clocks.now_ns)
        return CommandResult(command.operation, done, text)

    def _reset_registration(self, loss: Loss) -> list[Output]:
        """Forget what a lost registration placed."""
        if loss is Loss.NONE:
            return []
        self.epoch += 1
        self.frames.forget_pictures()
        self.volume.forget_views(lost=loss is Loss.VOLUME_LOST)
        if loss is Loss.VOLUME_LOST:
            self.status.notice(self.plans.forget())
        return [*self.bodies.forget(loss.value)]

    def _reset_source(self, source: SourceState) -> list[Output]:
        """A source vanished, and may be moved before it returns: forget what it sent."""
        self.epoch += 1  # a registration that is still running uses earlier poses
        self.tools.reset()
        self.clocks.reset()
        self.frames.reset()
        if self.volume.current is None:
            self.volume.forget_views()  # their poses are relative to a marker that may be moved
        vanished = f"source {source.name} vanished"
        self.patient.clock_set(vanished)  # it may come back with another one
        self.patient.doubt(vanished)
        return [*self._report_patient(), *self.frames.withdraw(vanished), *self.bodies.forget(vanished)]

    def _report_patient(self, *, only_changed: bool = False) -> list[Output]:
        """Report the patient's pose; if it is unusable, withdraw the tools.

        Args:
            only_changed: where it was reported as unusable before, they are withdrawn already.
        """
        withdrawn = only_changed and self.patient.reported is Status.INVALID
        pose = self.patient.pose(self.tools.patient_newest_ns, self.clocks.now_ns)
        return [pose] if pose.validity.usable or withdrawn else [pose, *self.tools.withdraw(pose.validity.reason)]
