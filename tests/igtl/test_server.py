"""What a server tells its clients, and how it comes and goes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.igtl import (
    Client,
    ClientInfo,
    Command,
    CommandError,
    CommandReply,
    Get,
    Image,
    PolyData,
    Raw,
    Server,
    Start,
    StatusMessage,
    Stop,
    String,
    TrackedElement,
    TrackingData,
    cells,
    encode,
)
from navnode.igtl.plus import contents
from tests.igtl.peers import PATIENCE_S, Clock, Plain, run, transform
from tests.patience import until_async


def test_version_2_only_messages_stay_away_from_version_1_clients():
    async def story():
        server = Server(port=0)
        await server.start()
        old, new = await Plain().connect(server.port), await Plain().connect(server.port)
        new.writer.write(encode(StatusMessage(device="hello", version=2)))
        await until_async(lambda: sorted(peer.version for peer in server.peers) == [1, 2])
        server.publish(transform("Drill", 0, metadata={"TransformStatus": "INVALID"}), needs_status=True)
        server.publish(transform("Other", 0))
        (first,) = await old.read(1)
        assert first.device == "Other" and first.version == 1
        hidden, _ = await new.read(2)
        assert hidden.metadata["TransformStatus"] == "INVALID" and hidden.version == 2
        await server.stop()

    run(story())


def test_a_first_command_is_answered_before_surfaces_are_sent_again():
    """The client's version rises with it, and what was said at version 1 could be said in more words."""

    async def story():
        surface = PolyData(
            device="BoneModel",
            metadata={"Validity": "VALID"},
            points_mm=np.zeros((100_000, 3), np.float32),
            lines=cells(()),
        )
        async with Server(port=0) as server:
            server.publish(surface)
            server.publish(StatusMessage(device="NodeStatus", code=1))
            console = await Plain().connect(server.port)
            assert {message.device for message in await console.read(2)} == {"BoneModel", "NodeStatus"}
            answers = await console.ask(encode(Command(command_id=1, name="ListDevices", version=2)))
            assert [message.type for message in answers] == ["RTS_COMMAND"]

    run(story())


class Scene:
    """What 3D Slicer shows of transforms: each stays until the next of its name comes, whatever its status."""

    def __init__(self) -> None:
        self.shown = {}

    def see(self, messages) -> None:
        self.shown |= {m.device: m.matrix[0, 3] for m in messages if m.type == "TRANSFORM"}


@pytest.mark.parametrize(
    "greeting",
    [
        None,
        StatusMessage(device="hello", version=2),
        String(device="CMD_7", text='<Command Name="ListDevices"/>', version=2),
    ],
    ids=["Slicer", "greets", "commands by STRING"],
)
def test_a_console_that_only_commands_is_not_trusted_to_obey_statuses(greeting):
    """3D Slicer stays at header version 1 until its first command; then it draws INVALID transforms at the origin."""

    async def story():
        async with Server(port=0, wary=True) as server:
            console, scene = await Plain().connect(server.port), Scene()
            if greeting is not None:
                console.writer.write(encode(greeting))
            console.writer.write(encode(Command(device="CMD", version=2, command_id=1, name="ListDevices")))
            await console.until(lambda m: isinstance(m, CommandReply))
            server.publish(transform("Drill", 7))
            server.publish(transform("Drill", 0, metadata={"TransformStatus": "INVALID"}), needs_status=True)
            server.publish(transform("End", 1))
            scene.see(await console.until(lambda m: m.device == "End"))
            assert scene.shown["Drill"] == (7 if greeting is None else 0)
            console.writer.write(encode(Get(kind="TRANSFORM", device="Drill", version=1)))
            (answer,) = (await console.until(lambda m: m.device != "End"))[-1:]
            assert answer.type == ("STATUS" if greeting is None else "TRANSFORM")

    run(story())


def test_a_greeting_brings_volumes_once():
    async def story():
        async with Server(port=0, wary=True) as server:
            voxels, eye = np.zeros((1, 4, 4), np.uint8), np.eye(4)
            for device in ("Volume", "XRay"):
                image = Image(device=device, voxels=voxels, ras_from_index=eye, metadata={"Validity": "INVALID"})
                server.publish(image, needs_status=device == "XRay")
            console = await Plain().connect(server.port)
            await console.until(lambda m: m.device == "Volume")  # at header version 1
            console.writer.write(encode(StatusMessage(device="hello", version=2)))
            got = [m.device for m in await console.until(lambda m: m.device == "XRay")]
            console.writer.write(encode(Get(kind="STATUS", device="End", version=2)))
            got += [m.device for m in await console.until(lambda m: m.device == "End")]
            assert sorted(got) == ["End", "Volume", "XRay"]

    run(story())


def test_a_late_console_learns_what_version_1_cannot_say():
    async def story():
        async with Server(port=0) as server:
            voxels, eye = np.zeros((1, 4, 4), np.uint8), np.eye(4)
            server.publish(Image(device="Volume", voxels=voxels, ras_from_index=eye, metadata={"Validity": "DEGRADED"}))
            server.publish(Image(device="AVolumeWithALongNameIndeed", voxels=voxels, ras_from_index=eye))
            async with Client("127.0.0.1", server.port) as client:
                got = {}
                while "AVolumeWithALongNameIndeed" not in got or not got["Volume"].metadata:
                    message = await asyncio.wait_for(client.receive(), PATIENCE_S)
                    got[message.device] = message
                assert got["Volume"].metadata["Validity"] == "DEGRADED"

    run(story())


def test_a_pushed_pose_says_that_it_is_invalid():
    async def story():
        heard = []
        async with Server(port=0, on_message=lambda m, peer, ns: heard.append(m)) as server:
            async with Client("127.0.0.1", server.port) as client:
                await until_async(lambda: client.connected)
                client.send(transform("Drill", 0, metadata={"TransformStatus": "INVALID"}))
                await until_async(lambda: heard)
            assert heard[0].metadata == {"TransformStatus": "INVALID"} and heard[0].version == 2

    run(story())


def test_questions_are_answered_like_a_plusserver():
    async def story():
        server = Server(port=0)
        await server.start()
        server.publish(transform("DrillToVolume", 3))
        peer = await Plain().connect(server.port)
        (status,) = await peer.ask(encode(Raw(type_name="GET_STATUS", device="x")))
        assert isinstance(status, StatusMessage) and status.code == 1
        (capability,) = await peer.ask(encode(Raw(type_name="GET_CAPABIL", device="x")))
        assert "IMAGE" in capability.types
        (found,) = await peer.ask(encode(Raw(type_name="GET_TRANS", device="DrillToVolume")))
        assert found.matrix[0, 3] == 3
        (started,) = await peer.ask(encode(Raw(type_name="STT_TDATA", device="Tools", body=b"\0\0\0\x32" + b"\0" * 32)))
        assert started.type == "RTS_TDATA" and started.status == 0
        (reply,) = await peer.ask(encode(String(device="CMD_7", text="<Command/>")))
        assert reply.device == "ACK_7" and "FAIL" in reply.text
        await server.stop()

    run(story())


def test_devices_that_are_not_there_are_said_to_be_missing():
    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            (answer,) = await peer.ask(encode(Get(kind="IMAGE", device="Nothing")))
            assert answer.type == "STATUS" and answer.code == 4 and "IMAGE Nothing" in answer.text

    run(story())


def test_images_are_listed():
    async def story():
        async with Server(port=0) as server:
            voxels = np.zeros((2, 3, 4), np.int16)
            server.publish(Image(device="CT", voxels=voxels, ras_from_index=np.eye(4), metadata={"Modality": "CT"}))
            peer = await Plain().connect(server.port)
            image, listed = await peer.ask(encode(Get(kind="IMGMETA")), 2)
            assert image.type == "IMAGE"  # a new client gets what does not change
            assert [(e.device, e.modality, e.size) for e in listed.images] == [("CT", "CT", (4, 3, 2))]

    run(story())


def test_commands_are_done_once_and_answered():
    async def story():
        done = []

        def greet(parameters):
            done.append(parameters)
            if parameters.get("Name") == "nobody":
                raise CommandError("nobody is not here")
            return f"hello {parameters.get('Who', '')}"

        async with Server(port=0, commands={"Greet": greet}) as server:
            peer = await Plain().connect(server.port)
            command = encode(String(device="CMD_7", text='<Command Name="Greet" Who="Ann &amp; Bo"/>'))
            peer.writer.write(command * 3)
            (reply, *more) = await peer.ask(encode(Get(kind="STATUS")), 2)
            assert reply.device == "ACK_7" and 'Status="SUCCESS"' in reply.text and "hello Ann &amp; Bo" in reply.text
            assert [m.type for m in more] == ["STATUS"] and len(done) == 1
            ask = Command(device="me", command_id=9, name="Greet", text="<Command/>", version=2)
            (reply,) = await peer.ask(encode(ask))
            assert (reply.type, reply.command_id, reply.device) == ("RTS_COMMAND", 9, "me")
            assert reply.metadata["Status"] == "SUCCESS"
            for text, why in (
                ('<Command Name="Nix"/>', "unknown command 'Nix'"),
                ("no xml", "is not valid XML"),
                ('<!DOCTYPE x [<!ENTITY a "b">]><Command Name="Greet"/>', "entities"),
            ):
                ask = Command(command_id=10 + len(text), text=text, version=2)
                (reply,) = await peer.ask(encode(ask))
                assert reply.metadata["Status"] == "FAIL" and why in reply.metadata["Message"]

    run(story())


def test_a_client_says_what_it_wants():
    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            wanted = (
                '<ClientInfo TDATARequested="TRUE" TDATAResolution="20"><MessageTypes><Message Type="TRANSFORM"/>'
                '</MessageTypes><TransformNames><Transform Name="DrillToVolume"/></TransformNames></ClientInfo>'
            )
            peer.writer.write(encode(ClientInfo(text=wanted)))
            await peer.ask(encode(Get(kind="STATUS")))
            server.publish(transform("Other", 1))
            server.publish(String(device="Note", text="x"))
            server.publish(transform("DrillToVolume", 2))
            (message,) = await peer.read(1)
            assert message.device == "DrillToVolume"

    run(story())


def test_tracking_comes_at_the_asked_rate_and_stops(monkeypatch):
    clock = Clock(monkeypatch)

    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            await peer.ask(encode(Start(kind="TDATA", resolution_ms=50)))
            tools = TrackingData(device="Tools", elements=(TrackedElement("Drill", np.eye(4)),))
            for _ in range(50):
                server.publish(tools)
                clock.pass_ms(10)
            peer.writer.write(encode(Stop(kind="TDATA")))
            messages = await peer.until(lambda m: m.type == "RTS_TDATA")
            assert sum(m.type == "TDATA" for m in messages) == 10
            for _ in range(5):
                server.publish(tools)
            server.publish(transform("A", 1))
            assert [m.type for m in await peer.until(lambda m: m.device == "A")] == ["TRANSFORM"]

    run(story())


def test_a_port_in_use_is_named():
    async def story():
        first = Server(port=0)
        await first.start()
        with pytest.raises(ConfigError, match=f"port {first.port} .* in use"):
            await Server(port=first.port).start()
        await first.stop()

    run(story())


def test_a_server_stops_whatever_its_callbacks_do():
    async def story():
        def fail(*_):
            raise RuntimeError("a callback of the user's")

        server = Server(port=0, on_left=fail)
        await server.start()
        await Plain().connect(server.port)
        await until_async(lambda: server.peers)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await asyncio.wait_for(server.stop(), PATIENCE_S)
        assert not server.peers
        with pytest.raises(ConnectionRefusedError):
            await Plain().connect(server.port)

    run(story())


def test_a_command_without_contents_carries_its_name_as_a_plusserver_needs_it():
    assert contents("Version", "") == '<Command Name="Version"/>'
    assert contents('a"b<', "") == "<Command Name='a\"b&lt;'/>"
    assert contents("SetTool", '<Command Tool="Saw"/>') == '<Command Tool="Saw"/>'
