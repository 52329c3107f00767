"""Surfaces that no longer show what there is, at consoles: the C++ library, and 3D Slicer's module."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable

import numpy as np
import pytest
from NavnodeConsoleLib.client import Client as SlicerClient
from NavnodeConsoleLib.console import Console

from navnode.config import OutputsSection
from navnode.igtl import Client, Message, PolyData, Sensor, Server, Trajectory, Transform
from navnode.igtl.conventions import is_shown
from navnode.node.consoles import Consoles
from navnode.types import CArmPose, Mesh, NodeState, Output, Plan, Status, Validity, Volume, VolumeUpdate, invalid
from tests.conftest import needs_cpp, peer_program
from tests.patience import until_async
from tests.slicer.stage import Stage

MESH = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.uint32))
DEGRADED = Validity(Status.DEGRADED, "2 views", 7)
LOST = invalid("registration lost: searching again")


def state(volume: str = "2 X-rays", epoch: int = 1, volumes: int = 1) -> NodeState:
    room = {"127.0.0.1:18945": ""}
    return NodeState(LOST, {}, room, "SART", True, volume, 9, 9, 3.0, volumes, {}, {}, (), 10**18, epoch, "")


def update(role: str = "navigation", bone: Mesh | None = MESH, lungs: Mesh | None = MESH, method: str = "SART"):
    volume = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    return VolumeUpdate(volume, bone, role, DEGRADED, method, 2, lungs=lungs)


def withdrawn(messages: list[Message]) -> list[str]:
    """Devices of surfaces of nothing, which go to every client and say why."""
    empty = [each for each in messages if isinstance(each, PolyData) and not len(each.points_mm)]
    for each in empty:
        assert each.metadata["Validity"] == "INVALID" and each.metadata["Reason"] and is_shown(each)
    return [each.device for each in empty]


def told(*outputs: Output) -> list[list[str]]:
    """What is withdrawn with each of some outputs."""
    consoles = Consoles(OutputsSection())
    return [withdrawn(consoles(output)) for output in outputs]


BOTH = ["BoneModel", "LungModel"]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        # What a console kept of an earlier node, or of another case; once.
        ((state(volume=""), state(volume="")), [BOTH, []]),
        ((update(method="CT", lungs=None), state("CT")), [[], ["LungModel"]]),
        # Without a CT: the volume is lost with the registration; one that merely goes on is not.
        (
            (state(""), update(), state(), state(epoch=2), state("", epoch=3), state("", epoch=3)),
            [BOTH, [], [], [], BOTH, []],
        ),
        # Another volume, which shows no lungs, or no bone.
        ((state(""), update(), update(lungs=None), update(bone=None)), [BOTH, [], ["LungModel"], ["BoneModel"]]),
        # With a CT: its bone holds whatever happens; lungs of a reconstruction hold with the registration.
        (
            (state("CT"), update(method="CT", lungs=None), update("reconstruction"), state("CT"), state("CT", epoch=2)),
            [BOTH, [], [], [], ["LungModel"]],
        ),
        # The surface of the CT may come after a reconstruction, and takes nothing away.
        ((state("CT"), update("reconstruction"), update(method="CT", lungs=None)), [BOTH, [], []]),
    ],
)  # fmt: skip
def test_surfaces_are_withdrawn_when_they_are_no_longer_true(outputs, expected):
    assert told(*outputs) == expected


def test_a_node_begins_by_withdrawing_what_consoles_may_have_kept():
    """Of an earlier node: a pose that is not withdrawn stays where it was, on consoles that watch no clock."""
    consoles, known = Consoles(OutputsSection()), CArmPose(np.eye(4), DEGRADED)
    bodies = {"Femur": LOST}
    first = consoles(dataclasses.replace(state(), bodies=bodies))
    transforms = {each.device: each for each in first if isinstance(each, Transform)}
    assert set(transforms) == {"PatientToVolume", "CArmToVolume", "FemurToVolume", "CArmToFemur"}
    assert {each.metadata["Validity"] for each in transforms.values()} == {"INVALID"}
    assert not any(is_shown(each) for each in transforms.values())
    (deviation,) = [each for each in first if isinstance(each, Sensor)]
    assert np.isnan(deviation.values).all() and deviation.metadata["Validity"] == "INVALID"
    (plans,) = [each for each in first if isinstance(each, Trajectory)]
    assert plans.trajectories == ()
    assert not any(isinstance(each, Transform | Sensor | Trajectory) for each in consoles(state()))
    spoken = Consoles(OutputsSection())
    spoken(known)
    assert "CArmToVolume" not in [each.device for each in spoken(state())], "what was said holds"


def test_a_console_that_comes_later_gets_the_plans():
    plan = Plan("L4", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    heard: list[Message] = []

    async def run() -> None:
        node = Node()
        await node.server.start()
        node.say(dataclasses.replace(state(), plans=(plan,), active_plan="L4"))
        late = Client("127.0.0.1", node.server.port, lambda message, _: heard.append(message), lambda up, why: None)
        listening = asyncio.create_task(late.run())
        await until_async(lambda: any(isinstance(each, Trajectory) for each in heard))
        listening.cancel()
        await node.server.stop()

    asyncio.run(run())
    (plans,) = [each for each in heard if isinstance(each, Trajectory)]
    assert [each.name for each in plans.trajectories] == ["L4"]


def test_a_surface_comes_back_with_the_next_volume():
    consoles = Consoles(OutputsSection())
    for output in (state(""), update(), state("", epoch=2)):
        consoles(output)
    surfaces = [each for each in consoles(update()) if isinstance(each, PolyData)]
    assert [each.device for each in surfaces] == BOTH and all(len(each.points_mm) == 3 for each in surfaces)


class Node:
    """A server that publishes what the node would."""

    def __init__(self) -> None:
        self.server, self.consoles = Server(port=0), Consoles(OutputsSection())

    def say(self, *outputs: Output) -> None:
        for output in outputs:
            for message in self.consoles(output):
                self.server.publish(message, needs_status=not is_shown(message))


def at_a_node(story: Callable[[Node], object]) -> None:
    """Run a story at a node whose volume has bone and lungs."""

    async def run() -> None:
        node = Node()
        await node.server.start()
        node.say(state(""), update(), state())
        try:
            await story(node)
        finally:
            await node.server.stop()

    asyncio.run(run())


@needs_cpp
@pytest.mark.long
def test_the_cpp_library_in_header_version_1():
    program = peer_program("receiver")

    async def surfaces(node: Node, after_s: float = 0.0, *outputs: Output) -> dict[str, int]:
        listening = await asyncio.create_subprocess_exec(
            program, "127.0.0.1", str(node.server.port), "2", stdout=asyncio.subprocess.PIPE
        )
        await until_async(lambda: node.server.peers)
        await asyncio.sleep(after_s)
        node.say(*outputs)
        out, _ = await listening.communicate()
        lines = map(json.loads, out.decode().splitlines())
        seen = {line["device"]: line for line in lines if line["device"].startswith("POLYDATA")}
        assert not any(line["errors"] for line in seen.values())
        return {device: line["polygons"] for device, line in seen.items()}

    async def story(node: Node) -> None:
        drawn = {"POLYDATA/BoneModel": 1, "POLYDATA/LungModel": 1}
        assert await surfaces(node) == drawn
        assert await surfaces(node, 0.5, state("", epoch=2)) == dict.fromkeys(drawn, 0)
        assert await surfaces(node) == dict.fromkeys(drawn, 0), "one that connects later gets no older one"

    at_a_node(story)


def test_3d_slicers_module():
    async def story(node: Node) -> None:
        scene, client = Stage(), SlicerClient("127.0.0.1", node.server.port)
        console = Console(scene)

        def shown() -> list[bool]:
            messages = client.poll()
            if client.connected:
                console.hear(messages, time.monotonic())
            return [scene.models.get(device) is not None for device in BOTH]

        try:
            await until_async(lambda: shown() == [True, True])
            assert all(len(scene.models[device].polygons) > 0 for device in BOTH)
            node.say(state("", epoch=2))
            await until_async(lambda: shown() == [False, False])
            assert [scene.models[device] for device in BOTH] == [None, None], "taken away, not left out"
        finally:
            client.close()

    at_a_node(story)
