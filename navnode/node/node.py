"""The node process: sockets and threads around the pipeline."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import zmq

from navnode import __version__
from navnode.clock import now_ns
from navnode.config import Config, Source, SourceSection
from navnode.errors import RecordingError
from navnode.igtl import (
    Arrival,
    Client,
    CommandError,
    Handler,
    Message,
    Peer,
    Point,
    PolyData,
    Server,
    TrackingData,
    Trajectory,
)
from navnode.igtl.conventions import REPLAY_KEY, is_shown
from navnode.loop import bus, topics
from navnode.loop.backends import backends_of
from navnode.loop.calibrations import Calibrations
from navnode.loop.executors import AtOnce
from navnode.loop.ingest import Ingest
from navnode.loop.pipeline import Pipeline
from navnode.loop.runner import Runner, Step
from navnode.node.consoles import Consoles
from navnode.node.latencies import LatencyWindow
from navnode.node.origins import Origins
from navnode.node.plans import PlanDesk, numbers
from navnode.node.processes import may_open_more, say_ready, take_loop_priority
from navnode.node.registrations import Threaded
from navnode.node.surfaces import Surfaces
from navnode.node.worker_line import WorkerLine
from navnode.recording.spans import Spans
from navnode.recording.tap import Tap
from navnode.types import (
    CommandResult,
    Dose,
    Input,
    NodeState,
    Operation,
    OperatorCommand,
    Output,
    PlanDeviation,
    PlanOperation,
    RegisteredFrame,
    Rejected,
    SourceState,
    Status,
    Tick,
    ToolPose,
    Volume,
    VolumeUpdate,
)

__all__ = ["Node", "prepare_interpreter", "serve"]

log = logging.getLogger(__name__)

_MOST_CORRECTING = 3
"""Largest number of raw images in correction; the operator is notified when more are refused."""

_CONSOLE_MESSAGES_PER_S = 10_000
"""As much as ten trackers send: a console that sends more is read more slowly, to leave time for the others."""


class Node:
    """One node; :meth:`run` runs until cancelled.

    Args:
        volume: the CT; None: there is none.
        worker_address, output_address: ZeroMQ endpoints to bind for the worker and for the displays.
        calibrations: folder of copies of the calibration files, made when the procedure began; None: the files.
        replayed: its only source plays a session: all outputs say so, and plans are not kept.
        dose_before: the patient's dose until this node took another one's place; None: it is the first.

    Raises:
        CalibrationError: a calibration file cannot be used.
    """

    def __init__(
        self,
        config: Config,
        volume: Volume | None,
        worker_address: str,
        output_address: str,
        calibrations: Path | None = None,
        *,
        replayed: bool = False,
        dose_before: Dose | None = None,
    ) -> None:
        self._dose_before = dose_before
        calibrated = Calibrations.load(config, now_ns(), calibrations)
        self._config = config = calibrated.config
        self._worker = WorkerLine(config.reconstruction.remote, worker_address)
        self._registrations = Threaded(AtOnce(config, volume, now_ns))
        self._runner = Runner(
            Pipeline(config, volume),
            Ingest(config, calibrated.detector),
            register=self._registrations,
            ask_worker=self._worker.ask,
            now_ns=now_ns,
            emit=self._emit,
            record=self._stepped,
        )
        self._corrections = ThreadPoolExecutor(1, thread_name_prefix="detector")
        self._correcting = 0
        self._consoles = Consoles(config.outputs, [tool.name for tool in config.tools], replay=replayed)
        self.backends = backends_of(config.reconstruction)
        self._tap = Tap(config, volume, self.backends, calibrated.files)
        self._spans = Spans()
        self._desk = PlanDesk(
            Path(config.plans.file) if config.plans.file else None,
            lambda command: _result(self._runner.feed(command)),
            lambda: (*self._runner.pipeline.plans.present, self._runner.pipeline.volume.current),
            keep=not replayed,
        )
        console = config.console
        self._takes_pushes = console.may_push or not config.sources
        self.server = Server(
            console.host,
            console.port,
            self._from_console,
            self._console_left,
            commands=self._commands(),
            tap=self._tap.on_arrival if self._takes_pushes else self._tap.on_console_arrival,
            tls=console.tls,
            insecure=console.insecure,
            max_rate_hz=console.max_rate_hz,
            max_messages_per_s=_CONSOLE_MESSAGES_PER_S,
            wary=console.invalid == "withhold",
        )
        self._surfaces = Surfaces(config.outputs.most_triangles, self._publish)
        self._output_address = output_address
        self._latency, self._overlay_latency = LatencyWindow(), LatencyWindow()
        self._listed: TrackingData | None = None
        """The list of tools, until it is published at the end of the turn."""
        self._displayed: dict[str, VolumeUpdate] = {}
        """Role -> the volume that a display is shown when it comes."""
        self._displayed_epoch = 0
        self._displayed_as: dict[tuple[str, str], tuple[int, Status | None]] = {}
        """Topic and tool -> when displays last got its newest, and its status then."""
        self._pushing: set[Peer] = set()
        self._origins = Origins()
        self._sources: list[Client] = []
        self._failed: asyncio.Future[None]
        """Ends the node with the error of a step that nobody waits for."""

    async def start(self) -> None:
        """Listen for consoles, worker and displays.

        Raises:
            ConfigError: a port or an address is not available.
        """
        if self._config.recording.file:
            self._tap.start(_unused(Path(self._config.recording.file)))
        self._failed = asyncio.get_running_loop().create_future()
        self._desk.begin(self._runner.pipeline.volume.current)
        await self.server.start()
        self._worker.open()
        self._out: zmq.Socket[Any] = zmq.Context.instance().socket(zmq.XPUB)
        self._displays = bus.Publisher(self._out)
        bus.listening(self._out, self._output_address, topics.bound_of(*topics.TO_DISPLAYS))

    async def run(self) -> None:
        """Serve until cancelled, once started; the error of a step that fails ends it."""
        loop = asyncio.get_running_loop()
        feed = self._ending(self._runner.feed)
        self._registrations.start(
            lambda done: loop.call_soon_threadsafe(feed, done),
            lambda error: loop.call_soon_threadsafe(self._fail, error),
        )
        self._sources = [self._source(source) for source in self._config.sources]
        gc.freeze()  # garbage collections in the loop must not scan what is loaded for good
        try:
            await asyncio.gather(self._failed, self._tick(), *(source.run() for source in self._sources))
        finally:
            self._surfaces.close()
            self._close_recordings()

    def _ending(self, step: Callable[..., object]) -> Callable[..., None]:
        """A step that ends the node where it fails: asyncio would only log it, and half of a step would stay done."""

        def tried(*arguments: object) -> None:
            try:
                step(*arguments)
            except Exception as error:
                self._fail(error)

        return tried

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def stop(self) -> None:
        """Close what :meth:`start` opened, once nothing runs any more.

        The sockets of worker and displays go with the process: ZeroMQ aborts if one closes within a message.
        """
        await self.server.stop()
        self._worker.close()

    # --- in --------------------------------------------------------------------------------------

    def _source(self, source: Source) -> Client:
        name = f"{source.host}:{source.port}"

        def on_state(up: bool, reason: str) -> None:
            if not up:
                self._origins.gone(name)
            self._runner.feed(SourceState(name, up, reason, now_ns()))

        unchecked = isinstance(source, SourceSection) and source.crc == "absent-allowed"
        if unchecked:
            log.warning("source %s: messages without checksums are taken (crc = absent-allowed)", name)
        return Client(
            source.host,
            source.port,
            on_message=lambda message, arrival: self._from_source(name, message, arrival),
            on_state=on_state,
            tls=source.client_tls,
            tap=self._tap.on_arrival,
            absent_crc=unchecked,
            outbox=self.server.outbox,
        )

    def _from_source(self, name: str, message: Message, arrival: Arrival) -> None:
        if self._belongs(message, name, arrival, configured=True):
            self._ingest_message(message, arrival, self._runner.feed)

    def _belongs(self, message: Message, origin: str, arrival: Arrival, *, configured: bool) -> bool:
        """Whether a source may send a message's device; if not, the operator is notified."""
        if not self._runner.ingest.listens_to(message):
            if doubt := self._runner.ingest.mistaken(message):
                log.warning("%s %s", origin, doubt)
                self._runner.feed(Rejected(origin, doubt, arrival.received_ns))
            return True
        refusal = self._origins.refusal(message.device, origin, configured=configured)
        if refusal:
            self._runner.feed(Rejected(origin, refusal, arrival.received_ns))
        return not refusal

    def _ingest_message(self, message: Message, arrival: Arrival, then: Callable[[Input, int | None], object]) -> None:
        """Convert a message and call ``then`` with the input and its arrival number.

        Raw images are corrected in a separate thread, in order, so that tools do not wait for them.
        """
        if REPLAY_KEY in message.metadata:  # for good: later outputs derive from this message, too
            self._consoles.replay = True
        ingest = self._runner.ingest
        if not ingest.computes(message):
            if (converted := ingest(message, arrival.received_ns)) is not None:
                then(converted, arrival.number)
            return
        if self._correcting >= _MOST_CORRECTING:
            reason = "images come faster than they can be corrected"
            then(Rejected(message.device, reason, arrival.received_ns), None)
            return
        self._correcting += 1
        then = self._ending(then)

        def done(future: asyncio.Future[Input | None]) -> None:
            self._correcting -= 1
            if future.cancelled():
                return
            if error := future.exception():
                log.error("an image could not be corrected", exc_info=error)
                then(Rejected(message.device, "the image could not be corrected", arrival.received_ns), None)
            elif (converted := future.result()) is not None:
                then(converted, arrival.number)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._corrections, ingest, message, arrival.received_ns).add_done_callback(done)

    def _from_console(self, message: Message, peer: Peer, arrival: Arrival) -> None:
        """Accept plans, and frames and poses if that is allowed; the console then counts as a source."""
        if isinstance(message, Trajectory | Point) and message.device == self._config.devices.plan:
            self._desk.from_console(message, peer.address)
            return
        if not self._runner.ingest.listens_to(message):
            return
        if not self._takes_pushes:
            refusal = f"sends {message.device}, which this node accepts from its sources alone: ignored"
            self._runner.feed(Rejected(peer.address, refusal, arrival.received_ns))
            return
        if not self._belongs(message, peer.address, arrival, configured=False):
            return

        def feed(pushed: Input, number: int | None) -> None:
            if peer not in self.server.peers:
                return  # it left while its image was corrected
            if peer not in self._pushing:
                self._pushing.add(peer)
                self._runner.feed(SourceState(peer.address, True, "", arrival.received_ns))
            self._runner.feed(pushed, number)

        self._ingest_message(message, arrival, feed)

    def _console_left(self, peer: Peer, why: str) -> None:
        self._origins.gone(peer.address)  # also where its first image is still being corrected
        if peer in self._pushing:
            self._pushing.discard(peer)
            self._runner.feed(SourceState(peer.address, False, why, now_ns()))

    def _commands(self) -> dict[str, Handler]:
        """Commands for consoles, in addition to those of the server."""

        def operate(operation: Operation) -> Handler:
            return lambda parameters: self._operate(operation, parameters)

        def plan(operation: PlanOperation) -> Handler:
            return lambda parameters: self._desk.command(operation, parameters)

        operations = {operation.value: operate(operation) for operation in Operation}
        return (
            operations
            | {operation.value: plan(operation) for operation in PlanOperation}
            | {
                "Version": lambda _: f"navnode {__version__}",
                "Reconnect": self._reconnect,
                "StartRecording": self._start_recording,
                "StopRecording": self._stop_recording,
            }
        )

    def _operate(self, operation: Operation, parameters: Mapping[str, str]) -> str:
        point_mm = numbers(parameters, "Point") if operation is Operation.CHECK_TIP else None
        command = OperatorCommand(operation, parameters.get("Tool", ""), now_ns(), point_mm)
        result = _result(self._runner.feed(command))
        if not result.done:
            raise CommandError(result.text)
        if operation is Operation.CHECK_TIP:
            log.info("tip check: %s", result.text)
        return result.text

    def _reconnect(self, _: Mapping[str, str]) -> str:
        if not self._sources:
            raise CommandError("there are no configured sources")
        self._origins.forget()
        for source in self._sources:
            source.reconnect()
        return f"reconnecting {', '.join(f'{source.host}:{source.port}' for source in self._sources)}"

    def _start_recording(self, parameters: Mapping[str, str]) -> str:
        if self._tap.path is not None:
            raise CommandError(f"a recording is under way: {self._tap.path}")
        name = parameters.get("OutputFilename", "").removesuffix(".mcap") or time.strftime("session-%Y%m%d-%H%M%S")
        if not re.fullmatch(r"[\w-]{1,64}", name):
            raise CommandError("OutputFilename must be 1 to 64 letters, digits, - or _")
        folder = Path(self._config.recording.folder or platformdirs.user_data_dir("navnode"))
        self._tap.start(folder / f"{name}.mcap")  # the loop does not wait for the disk: the state reports failures
        return f"recording to {folder / name}.mcap"

    def _stop_recording(self, _: Mapping[str, str]) -> str:
        try:
            return self._tap.stop()
        except RecordingError as error:
            raise CommandError(str(error)) from error

    def _close_recordings(self) -> None:
        """Close recordings at the end of the node; a failure is logged and stops nothing else."""
        try:
            for line in self._tap.close():
                log.info("%s", line)
        except RecordingError as error:
            log.error("%s", error)

    async def _tick(self) -> None:
        """Periodic work: time itself, messages of the worker, new displays."""
        while True:
            await asyncio.sleep(topics.TICK_NS / 1e9)
            for said in self._worker.hear():
                self._runner.feed(said)
            self._hear_displays()
            self._runner.feed(Tick(now_ns()))

    def _hear_displays(self) -> None:
        """Send the volumes to a display that has just connected."""
        while self._out.poll(0):
            if self._out.recv()[:1] == b"\1":
                for update in self._displayed.values():
                    self._displays.send(update)

    # --- step ------------------------------------------------------------------------------------

    def _stepped(self, step: Step) -> None:
        self._tap.on_step(step)
        if spans := self._spans.completed_by(step, self._registrations.began_ns):
            self._tap.note("spans", spans)

    def _emit(self, output: Output) -> None:
        match output:
            case NodeState():
                output = self._with_figures(output)
                self._forget_displayed(output)
            case VolumeUpdate():
                self._displayed[output.role] = output
        for message in self._consoles(output):
            if isinstance(message, PolyData) and not isinstance(output, ToolPose):
                self._surfaces(message)
                continue
            if isinstance(message, TrackingData):
                if self._listed is None:
                    asyncio.get_running_loop().call_soon(self._publish_list)
                self._listed = message
                continue
            self._publish(message)
        if isinstance(output, RegisteredFrame) and output.volume_from_carm is not None:
            self._latency.add(now_ns() - output.frame.received_ns)
        if isinstance(output, ToolPose) and output.received_ns:
            self._overlay_latency.add(now_ns() - output.received_ns)
        self._to_displays(output)

    def _forget_displayed(self, state: NodeState) -> None:
        """What displays have withdrawn is not shown to those that come later."""
        if not state.volume:
            self._displayed.pop("navigation", None)
        if not state.volumes or state.epoch != self._displayed_epoch:
            self._displayed.pop("reconstruction", None)
        self._displayed_epoch = state.epoch

    def _publish(self, message: Message) -> None:
        self.server.publish(message, needs_status=not is_shown(message))

    def _publish_list(self) -> None:
        """Publish the list of tools once for all poses that came together: it holds them all."""
        listed, self._listed = self._listed, None
        if listed is not None:
            self.server.publish(listed, needs_status=not is_shown(listed), only_asked=True)

    def _to_displays(self, output: Output) -> None:
        topic = topics.topic_of(output)
        if topic.name not in topics.TO_DISPLAYS:
            return
        if isinstance(output, ToolPose | PlanDeviation):  # a change of status at once, what repeats more rarely
            now, device = now_ns(), (topic.name, output.tool)
            last_ns, status = self._displayed_as.get(device, (0, None))
            if status is output.validity.status and now - last_ns < topic.every_ms * 1e6:
                return
            self._displayed_as[device] = now, output.validity.status
        self._displays.send(output)

    def _with_figures(self, state: NodeState) -> NodeState:
        """Add to the state what the loop does not know."""
        stuck = [peer.address for peer in self.server.peers if peer.stuck]
        unchecked = [f"{source.host}:{source.port}" for source in self._sources if source.unchecked]
        return replace(
            state,
            notices=(
                *state.notices,
                *(f"console {address} has stopped reading" for address in stuck),
                *(f"source {name} sends no checksums: damage on the way is not noticed" for name in unchecked),
            ),
            latency_ms=self._latency.figures(),
            overlay_latency_ms=self._overlay_latency.figures(),
            consoles=len(self.server.peers) - len(stuck),
            dropped={**state.dropped, "console": sum(peer.dropped for peer in self.server.peers)},
            recording=self._tap.state,
            replay=self._consoles.replay,
            dose=state.dose if self._dose_before is None else self._dose_before + state.dose,
        )


def _unused(path: Path) -> Path:
    """The path, numbered if it exists: a restarted node continues its recording in another file."""
    unused, number = path, 1
    while unused.exists():
        number += 1
        unused = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return unused


def _result(outputs: list[Output]) -> CommandResult:
    return next(output for output in outputs if isinstance(output, CommandResult))


async def serve(node: Node) -> None:
    """Run a node until cancelled; print ``ready`` once consoles can connect.

    Raises:
        ConfigError: a port or an address is not available.
    """
    await node.start()
    say_ready(f"{node.server.port} {node.backends.projector}")
    try:
        await node.run()
    finally:
        await node.stop()


def prepare_interpreter() -> None:
    """Prepare a process whose threads share cores with the loop; call it in the loop's thread."""
    sys.setswitchinterval(0.0001)
    may_open_more()
    take_loop_priority()
