"""The table of topics, row by row: what is too much is dropped and counted or refused, what is too old is INVALID."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
import typing
import uuid
from importlib import resources

import numpy as np
import pytest
import zmq

from navnode.commands.supervised import free_port
from navnode.display.scene import Scene
from navnode.loop import bus, topics
from navnode.loop.poses import Missing, PoseRing
from navnode.loop.topics import TOPICS, Queue, Recorded, max_age_ns
from navnode.node.node import Node
from navnode.recording import format as session_format
from navnode.types import (
    CArmPose,
    Frame,
    Input,
    NodeState,
    Operation,
    Output,
    PatientPose,
    Plan,
    PlanCommand,
    PlanOperation,
    ReconstructionRequest,
    RegisteredFrame,
    RegistrationRequest,
    Status,
    SurfaceReady,
    SurfaceRequest,
    ToolPose,
    Validity,
    Volume,
    VolumeReady,
    VolumeUpdate,
    WorkerAnswer,
    WorkerState,
)
from tests.loop.theatre import CT, T0, Theatre, configuration, of

PLAN = Plan("along", (1.0, 1.0, 1.0), (1.0, 6.0, 1.0))

INPUTS, OUTPUTS = set(typing.get_args(Input)), set(typing.get_args(Output))
STEP_NS = 10_000_000


def test_everything_that_flows_has_a_row_and_is_recorded():
    kinds = {topic.kind: topic for topic in TOPICS.values()}
    assert set(kinds) == INPUTS | OUTPUTS and len(kinds) == len(TOPICS)
    assert all(kinds[kind].recorded is Recorded.OUTPUT for kind in OUTPUTS)
    assert all(kinds[kind].recorded is not Recorded.OUTPUT for kind in INPUTS)
    for topic in TOPICS.values():
        assert (topic.bound == 0) == (topic.queue is Queue.NONE), topic.name


@pytest.mark.parametrize("topic", [t for t in TOPICS.values() if t.recorded is Recorded.STEP], ids=lambda t: t.name)
def test_what_is_recorded_as_a_step_comes_back(topic):
    values: dict[object, object] = {str: "a", bool: True, int: 7, Operation: "SetTool", PlanOperation: "PlanAdd"}
    values[Plan | None] = PLAN
    values[tuple[float, float, float] | None] = (1.0, 2.0, 3.0)
    hints = typing.get_type_hints(topic.kind)
    told = {name: values[hint] for name, hint in hints.items()}
    message = session_format.step_of({"kind": topic.kind.__name__, **told})
    assert type(message) is topic.kind
    assert b'"kind":"%b"' % topic.kind.__name__.encode() in session_format.step_bytes(message, None)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_xray_only_the_newest_waits_and_the_others_are_counted():
    theatre = Theatre()
    theatre.run(1.0)
    dropped = theatre.pipeline.state().dropped["xray"]
    theatre.pipeline.frames.in_flight = True
    for number in range(TOPICS["xray"].bound + 3):
        stamp = theatre.now_ns + number
        theatre.feed(Frame(theatre.image() + np.uint16(number), stamp, stamp, 1000 + number))
    assert theatre.pipeline.state().dropped["xray"] - dropped == 3
    assert theatre.pipeline.frames.pending.sequence == 1000 + TOPICS["xray"].bound + 2


def test_pose_the_last_ones_are_kept_by_time():
    ring = PoseRing("Drill")
    for k in range(1, 3 * TOPICS["pose"].bound):
        ring.add(k * STEP_NS, np.eye(4))
    newest = (3 * TOPICS["pose"].bound - 1) * STEP_NS
    assert isinstance(ring.at(newest - TOPICS["pose"].bound // 2 * STEP_NS), np.ndarray)
    assert isinstance(ring.at(STEP_NS), Missing), "no more than twice the bound"


def test_registration_one_is_under_way():
    theatre = Theatre()
    requests = of(RegistrationRequest, theatre.run(1.0))
    assert requests
    theatre.pipeline.frames.in_flight = True
    assert not of(RegistrationRequest, theatre.run(1.0))


@pytest.fixture
def node(tmp_path):
    told = configuration("procedural", console={"port": free_port("127.0.0.1")})
    return Node(told, CT, f"ipc://{tmp_path}/w", f"ipc://{tmp_path}/o")


@pytest.mark.parametrize("topic", topics.TO_WORKER)
def test_requests_that_find_no_room_are_answered_with_a_failure(node, tmp_path, topic):
    volume = Volume(np.zeros((128, 128, 128), np.float32), np.eye(4), "large")
    request = SurfaceRequest(volume, 1)
    if topic == "reconstruction.request":
        request = ReconstructionRequest(3, (), (0.0, 0.0, 0.0), 128, 2.0)

    async def overfilled() -> list[WorkerAnswer | None]:
        await node.start()
        idle = zmq.Context.instance().socket(zmq.DEALER)
        bus.limited(idle, topics.bound_of(*topics.TO_WORKER))
        idle.connect(f"ipc://{tmp_path}/w")
        idle.send_multipart(bus.pack(WorkerState(True, "idle", "", 1)))
        assert node._worker._socket.poll(20_000)
        try:  # what the system's own buffers take is full before
            for _ in range(6):
                node._worker.ask(SurfaceRequest(volume, 1))
            return [node._worker.ask(request) for _ in range(4 * topics.bound_of(*topics.TO_WORKER))]
        finally:
            idle.close()
            # Gone before the node's socket: ZeroMQ aborts if that closes in a message.
            node._worker._events.poll(20_000)
            await node.stop()

    *_, answer = asyncio.run(overfilled())
    assert isinstance(answer, VolumeReady | SurfaceReady) and "takes no more requests" in answer.reason
    assert type(answer) is TOPICS[topic.replace("request", "done")].kind
    if isinstance(answer, VolumeReady):
        assert answer.request == 3 and answer.volume is None


def test_a_node_that_ends_leaves_zeromq_working_for_all_others(node, tmp_path):
    """Where nobody reads what a socket tells of itself, the one thread that serves all sockets waits for ever."""
    context = zmq.Context.instance()

    def worker(address: str) -> zmq.Socket:
        socket = context.socket(zmq.DEALER)
        socket.connect(address)
        socket.send_multipart(bus.pack(WorkerState(True, "idle", "", 1)))
        return socket

    async def ended() -> bool:
        await node.start()
        alone = worker(f"ipc://{tmp_path}/w")
        heard = node._worker._socket.poll(20_000)
        await node.stop()
        alone.close()
        return bool(heard)

    assert asyncio.run(ended()) and node._worker._events.closed
    other = context.socket(zmq.DEALER)
    other.bind(f"ipc://{tmp_path}/other")
    connected = worker(f"ipc://{tmp_path}/other")
    assert other.poll(20_000)
    connected.close(), other.close()


@pytest.mark.parametrize("name", topics.TO_DISPLAYS)
@pytest.mark.long
def test_displays_lose_the_older_values_and_count_them(name):
    address, sent = f"inproc://{uuid.uuid4().hex}", 500
    socket = zmq.Context.instance().socket(zmq.XPUB)
    bus.limited(socket, TOPICS[name].bound)
    socket.bind(address)
    publisher, reader = bus.Publisher(socket), bus.Subscriber(address, TOPICS[name].bound, name)
    assert socket.poll(20_000) and socket.recv() == b"\1" + name.encode()
    value = _values()[TOPICS[name].kind]
    for _ in range(sent):
        publisher.send(value)
    read = _read_all(reader)
    assert 0 < read <= 2 * TOPICS[name].bound + 2
    publisher.send(value)
    assert _read_all(reader) == 1 and reader.dropped[name] == sent - read
    again = bus.Publisher(socket)  # another node's numbers begin anew, and are no loss
    again.send(value)
    assert _read_all(reader) == 1 and reader.dropped[name] == sent - read
    reader.close(), socket.close()


def test_a_reader_that_stood_still_knows_the_age_of_what_it_reads_and_asks_for_lost_volumes_again():
    address, values = f"inproc://{uuid.uuid4().hex}", _values()
    state, volume = values[NodeState], values[VolumeUpdate]
    socket = zmq.Context.instance().socket(zmq.XPUB)
    bus.limited(socket, 4)
    socket.bind(address)
    publisher, reader = bus.Publisher(socket), bus.Subscriber(address, 4)
    assert socket.poll(20_000) and socket.recv() == b"\1"
    publisher.send(volume)
    before_ns = time.monotonic_ns()
    publisher.send(state)
    assert _read_all(reader) == 2 and not reader.lacks_volume and reader.dropped.total() == 0
    assert before_ns <= reader.sent_ns <= before_ns + 20_000_000_000 and reader.sent_ns < time.monotonic_ns()
    for _ in range(50):
        publisher.send(state)
    publisher.send(volume)  # there is no room for it, and no other follows
    _read_all(reader)
    publisher.send(state)
    assert _read_all(reader) == 1 and reader.lacks_volume
    reader.ask_again()
    assert [socket.recv() for _ in range(2) if socket.poll(20_000)] == [b"\0", b"\1"]
    publisher.send(volume)
    assert _read_all(reader) == 1 and not reader.lacks_volume
    again = bus.Publisher(socket)  # another node's, which has sent none
    again.send(state)
    assert _read_all(reader) == 1 and not reader.lacks_volume
    again.send(volume)
    assert _read_all(reader) == 1 and not reader.lacks_volume
    reader.close(), socket.close()


@pytest.mark.parametrize(("epoch", "shown"), [(1, ["navigation", "reconstruction"]), (2, ["navigation"])])
def test_a_display_that_comes_later_is_shown_nothing_that_was_withdrawn(node, tmp_path, epoch, shown):
    values = _values()
    state, volume = (
        dataclasses.replace(values[NodeState], volume="CT", volumes=1, epoch=1),
        values[VolumeUpdate],
    )

    async def story() -> list[str]:
        await node.start()
        node._emit(state)
        node._emit(volume)
        node._emit(dataclasses.replace(volume, role="reconstruction"))
        node._emit(dataclasses.replace(state, epoch=epoch))
        late, roles = bus.Subscriber(f"ipc://{tmp_path}/o", 8), []
        try:
            for _ in range(200):
                node._hear_displays()
                if (value := late.next()) is not None:
                    roles.append(value.role)
                elif roles:
                    break
                await asyncio.sleep(0.02)
        finally:
            late.close()
            await node.stop()
        return sorted(roles)

    assert asyncio.run(story()) == shown


def _read_all(reader: bus.Subscriber) -> int:
    read, until = 0, time.monotonic() + 0.3
    while time.monotonic() < until:
        while reader.next() is not None:
            read += 1
        time.sleep(0.005)
    return read


def _values() -> dict[type, object]:
    theatre = Theatre()
    theatre.feed(PlanCommand(PlanOperation.ADD, PLAN.name, PLAN, "a test", theatre.now_ns))
    theatre.run(1.0)
    found: dict[type, object] = {type(output): output for output in theatre.outputs}
    found[VolumeUpdate] = VolumeUpdate(CT, None, "navigation", Validity(Status.VALID), "CT", 0)
    return found


# --- ages ------------------------------------------------------------------------------------------------------------


@pytest.mark.risk("silent-source")
def test_pose_too_old_takes_the_tool_away():
    theatre = Theatre()
    theatre.run(2.0)
    theatre.hidden = {"DrillToTracker"}
    last = of(ToolPose, theatre.run(max_age_ns("pose") / 1e9 + 0.05))[-1]
    assert last.validity.status is Status.INVALID and last.volume_from_tool is None


@pytest.mark.risk("silent-source")
@pytest.mark.parametrize("name", ["xray", "carm", "frame", "registration.request", "registration.done"])
def test_xray_too_old_takes_the_carms_place_back(name):
    assert max_age_ns(name) == max_age_ns("xray")
    theatre = Theatre()
    theatre.run(2.0)
    theatre.xray = False
    assert not [pose for pose in of(CArmPose, theatre.run(0.4)) if pose.volume_from_carm is None]
    (taken_back,) = of(CArmPose, theatre.run(0.2))
    assert taken_back.volume_from_carm is None and "no X-ray came" in taken_back.validity.reason
    theatre = Theatre()
    theatre.run(2.0)
    theatre.register = theatre.nothing
    shown = [pose.volume_from_carm for pose in of(CArmPose, theatre.run(max_age_ns(name) / 1e9 + 0.1))]
    assert all(pose is None for pose in shown), "X-rays that match nothing keep nothing alive"


@pytest.mark.risk("silent-source")
def test_registration_too_old_shows_nothing():
    theatre = Theatre()
    theatre.run(1.0)
    right, asked = theatre.register, []

    def slowly(request):
        asked.append(request)
        theatre.time_s += max_age_ns("registration.done") / 1e9 + 0.1
        return right(request)

    theatre.register = slowly
    shown = of(RegisteredFrame, theatre.run(0.2))
    assert asked and all(frame.validity.status is Status.INVALID for frame in shown)
    assert "took too long" in shown[0].validity.reason


@pytest.mark.parametrize("name", ["reconstruction.done", "surface.done"])
def test_an_answer_that_never_comes_is_not_waited_for_for_ever(name):
    kind = ReconstructionRequest if name == "reconstruction.done" else SurfaceRequest
    theatre = Theatre()
    theatre.feed(WorkerState(True, "SART", "", theatre.now_ns))
    asked = of(kind, theatre.run(9.0))
    assert len(asked) == 1 and max_age_ns(name.replace("done", "request")) == max_age_ns(name)
    theatre.time_s += max_age_ns(name) / 1e9
    (again,) = of(kind, theatre.run(1.0))
    if isinstance(again, ReconstructionRequest):
        late = VolumeReady(CT, None, asked[0].request, 4, "SART", 1.0, "", theatre.now_ns)
        assert theatre.feed(late) == [], "it is not the one that is waited for"


def test_worker_too_long_silent_is_lost(node):
    async def silent() -> str:
        await node.start()
        node._worker._seen_ns = time.time_ns() - max_age_ns("worker") - 1
        node._runner.feed(WorkerState(True, "SART", "", 1))
        ticking = asyncio.create_task(node._tick())
        await asyncio.sleep(0.2)
        ticking.cancel()
        await node.stop()
        return node._runner.pipeline.volume.worker.reason

    assert "does not answer" in asyncio.run(silent())


@pytest.mark.parametrize("name", ["tool", "state", "patient"])
def test_a_page_shows_nothing_that_is_too_old(name):
    theatre, scene = Theatre(), Scene()
    for output in theatre.run(3.0):
        if isinstance(output, ToolPose | PatientPose | NodeState | RegisteredFrame):
            scene.on_output(output, T0)
    fresh = scene.describe(T0 + 1)
    assert fresh["tools"][0]["validity"]["status"] == "VALID" and not fresh["silent"]
    limit_ns = max_age_ns("state" if name == "patient" else name)  # where the patient is stands in the state as well
    stale = scene.describe(T0 + limit_ns + 1)
    assert stale["tools"][0]["validity"]["status"] == "INVALID"
    assert stale["silent"] == (name != "tool")


def test_the_page_notices_silence_by_itself_as_soon_as_the_table_says():
    script = (resources.files("navnode.display") / "static" / "app.js").read_text()
    (limit_ms,) = re.findall(r"const SILENT_MS = (\d+);", script)
    assert int(limit_ms) == TOPICS["state"].max_age_ms


def test_every_row_with_an_age_or_a_bound_is_walked_above():
    bounded = {"xray", "pose", "registration.request", "registration.done", *topics.TO_WORKER, *topics.FROM_WORKER}
    bounded |= {*topics.TO_DISPLAYS, "carm"}
    assert bounded == {topic.name for topic in TOPICS.values() if topic.queue is not Queue.NONE}
