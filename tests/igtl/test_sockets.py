"""Server and client over real sockets, with each other and with pyigtl."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyigtl
import pytest
import trustme

from navnode.errors import ConfigError
from navnode.igtl import (
    BlockingClient,
    BlockingServer,
    Client,
    ClientInfo,
    Command,
    CommandError,
    Framer,
    Get,
    Image,
    Point,
    Raw,
    Server,
    Start,
    StatusMessage,
    Stop,
    String,
    TrackedElement,
    TrackingData,
    Transform,
    WireError,
    connection,
    encode,
)
from navnode.igtl import client as client_module
from navnode.security.tls import Tls
from tests.conftest import find_free_port


def transform(device: str, x: float, **more) -> Transform:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return Transform(device=device, matrix=matrix, **more)


async def until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.01)


class Plain:
    """A socket that speaks only the bytes it is given."""

    async def connect(self, port: int) -> Plain:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.framer, self.got = Framer(), []
        return self

    async def ask(self, data: bytes, count: int = 1) -> list:
        self.writer.write(data)
        return await self.read(count)

    async def until(self, found) -> list:
        """The messages up to one, keep-alives left out."""
        messages = []
        while not messages or not found(messages[-1]):
            messages += [m for m in await self.read(1) if m.device != "KeepAlive"]
        return messages

    async def read(self, count: int) -> list:
        while len(self.got) < count:
            data = await asyncio.wait_for(self.reader.read(1 << 16), 5)
            assert data, "closed"
            self.got += self.framer.feed(data)
        taken, self.got = self.got[:count], self.got[count:]
        return taken


def run(coroutine) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_a_client_receives_and_comes_back_after_the_server_was_gone():
    async def story():
        got, states = [], []
        server = Server(port=find_free_port())
        await server.start()
        client = Client("127.0.0.1", server.port, lambda m, _: got.append(m), lambda up, why: states.append(up))
        task = asyncio.create_task(client.run())
        await until(lambda: server.peers)
        server.publish(transform("A", 1))
        await until(lambda: any(m.device == "A" for m in got))
        await server.stop()
        await until(lambda: states[-1] is False)
        again = Server(port=server.port)
        await again.start()
        await until(lambda: again.peers)
        again.publish(transform("B", 2))
        await until(lambda: any(m.device == "B" for m in got))
        task.cancel()
        await again.stop()
        assert states == [True, False, True] or (states[0] and states[-1])

    run(story())


def test_version_2_only_messages_stay_away_from_version_1_clients():
    async def story():
        server = Server(port=0)
        await server.start()
        old, new = await Plain().connect(server.port), await Plain().connect(server.port)
        new.writer.write(encode(StatusMessage(device="hello", version=2)))
        await until(lambda: sorted(peer.version for peer in server.peers) == [1, 2])
        server.publish(transform("Drill", 0, metadata={"TransformStatus": "INVALID"}), min_version=2)
        server.publish(transform("Other", 0))
        (first,) = await old.read(1)
        assert first.device == "Other" and first.version == 1
        hidden, _ = await new.read(2)
        assert hidden.metadata["TransformStatus"] == "INVALID" and hidden.version == 2
        await server.stop()

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


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n" * 10, b"\0\1IMAGE" + b"\xff" * 60, encode(transform("x", 1))[:-1] + b"\1"]
)
def test_a_bad_client_is_closed_and_the_others_do_not_notice(garbage):
    async def story():
        server = Server(port=0)
        await server.start()
        good, bad = await Plain().connect(server.port), await Plain().connect(server.port)
        await until(lambda: len(server.peers) == 2)
        bad.writer.write(garbage)
        await until(lambda: len(server.peers) == 1)
        server.publish(transform("A", 5))
        (message,) = await good.read(1)
        assert message.matrix[0, 3] == 5
        await server.stop()

    run(story())


def test_a_client_that_never_reads_costs_nobody_and_gets_the_latest():
    async def story():
        server = Server(port=0)
        await server.start()
        slow, quick = await Plain().connect(server.port), await Plain().connect(server.port)
        await until(lambda: len(server.peers) == 2)
        eye, picture = np.eye(4), np.zeros((1, 512, 512), np.uint16)
        for k in range(60):
            server.publish(Image(device="XRay", timestamp_ns=k, voxels=picture, ras_from_index=eye))
            (message,) = await quick.read(1)
            assert message.timestamp_ns == k
        assert sum(peer.dropped for peer in server.peers) > 0
        newest = -1
        while newest != 59:
            (message,) = await slow.read(1)
            assert message.timestamp_ns > newest
            newest = message.timestamp_ns
        await server.stop()

    run(story())


def test_many_clients_come_and_go():
    async def story():
        server = Server(port=0)
        await server.start()
        for _ in range(60):
            peer = await Plain().connect(server.port)
            peer.writer.close()
        await until(lambda: not server.peers)
        last = await Plain().connect(server.port)
        assert (await last.ask(encode(Get(kind="STATUS"))))[0].type == "STATUS"
        await server.stop()

    run(story())


def test_a_port_in_use_is_named():
    async def story():
        first = Server(port=0)
        await first.start()
        with pytest.raises(ConfigError, match=f"port {first.port} .* in use"):
            await Server(port=first.port).start()
        await first.stop()

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


def test_tracking_comes_at_the_asked_rate_and_stops():
    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            await peer.ask(encode(Start(kind="TDATA", resolution_ms=50)))
            tools = TrackingData(device="Tools", elements=(TrackedElement("Drill", np.eye(4)),))
            for _ in range(50):
                server.publish(tools)
                await asyncio.sleep(0.01)
            peer.writer.write(encode(Stop(kind="TDATA")))
            messages = await peer.until(lambda m: m.type == "RTS_TDATA")
            count = sum(m.type == "TDATA" for m in messages)
            assert 7 <= count <= 13
            for _ in range(5):
                server.publish(tools)
            server.publish(transform("A", 1))
            assert [m.type for m in await peer.until(lambda m: m.device == "A")] == ["TRANSFORM"]

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


def test_a_client_that_takes_parts_is_sent_what_has_changed_of_a_volume():
    async def story():
        def volume(voxels, device="Volume", **more):
            return Image(device=device, voxels=voxels, ras_from_index=np.eye(4), **more)

        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            other = await Plain().connect(server.port)
            peer.writer.write(encode(ClientInfo(text='<ClientInfo ChangedParts="TRUE"/>', version=2)))
            await peer.ask(encode(Get(kind="STATUS")))
            await other.ask(encode(Get(kind="STATUS")))
            rng = np.random.default_rng(1)
            first = rng.integers(0, 99, (6, 7, 8)).astype(np.int16)
            second = first.copy()
            second[2:4, 1, 3:8] += 1
            server.publish(volume(first))
            (whole,) = await peer.until(lambda m: m.type == "IMAGE")
            server.publish(volume(second))
            (part,) = await peer.until(lambda m: m.type == "IMAGE")
            assert (part.voxels.shape, part.offset, part.size) == ((2, 1, 5), (3, 1, 2), (8, 7, 6))
            assert np.array_equal(part.put_into(whole).voxels, second)
            # nothing changed but what is said of it
            server.publish(volume(second, metadata={"Validity": "INVALID"}))
            (same,) = await peer.until(lambda m: m.type == "IMAGE")
            assert same.voxels.size == 1 and same.metadata["Validity"] == "INVALID"
            # asked for: whole, and what follows differs from that
            asked = await peer.ask(encode(Get(kind="IMAGE", device="Volume")))
            assert asked[0].size is None
            # another grid, another type: whole
            for other_voxels in (second[:5], second[:5].astype(np.uint8)):
                server.publish(volume(other_voxels))
                assert (await peer.until(lambda m: m.type == "IMAGE"))[-1].size is None
            # who did not ask has got all of it
            got = [await other.until(lambda m: m.type == "IMAGE") for _ in range(5)]
            assert all(messages[-1].size is None for messages in got)
            # no more parts
            peer.writer.write(encode(ClientInfo(text="<ClientInfo/>")))
            await peer.ask(encode(Get(kind="STATUS")))
            server.publish(volume(second[:5].astype(np.uint8)))
            assert (await peer.until(lambda m: m.type == "IMAGE"))[-1].size is None

    run(story())


def test_a_slow_client_that_takes_parts_misses_none():
    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            peer.writer.write(encode(ClientInfo(text='<ClientInfo ChangedParts="TRUE"/>')))
            await peer.ask(encode(Get(kind="STATUS")))
            voxels, rng = np.zeros((64, 128, 128), np.int16), np.random.default_rng(2)
            for step in range(1, 40):  # far more than the socket takes while nobody reads: most are dropped
                voxels = voxels.copy()
                k, j, i = rng.integers(0, 60, 3)
                voxels[k : k + 4, j : j + 60, i : i + 60] = step
                server.publish(
                    Image(device="Volume", voxels=voxels, ras_from_index=np.eye(4), timestamp_ns=step * 10**9)
                )
                await asyncio.sleep(0)
            assert next(iter(server.peers)).dropped > 0
            seen = None
            while seen is None or seen.timestamp_ns < 39 * 10**9:
                (image,) = (await peer.until(lambda m: m.type == "IMAGE"))[-1:]
                seen = image if seen is None else image.put_into(seen)
            assert np.array_equal(seen.voxels, voxels)

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
                ('<Command Name="Nix"/>', "there is no command 'Nix'"),
                ("no xml", "is no XML"),
                ('<!DOCTYPE x [<!ENTITY a "b">]><Command Name="Greet"/>', "entities"),
            ):
                ask = Command(command_id=10 + len(text), text=text, version=2)
                (reply,) = await peer.ask(encode(ask))
                assert reply.metadata["Status"] == "FAIL" and why in reply.metadata["Message"]

    run(story())


def test_answers_are_never_dropped():
    async def story():
        async with Server(port=0) as server:
            server.publish(transform("A", 1))
            peer = await Plain().connect(server.port)
            peer.writer.write(encode(Get(kind="TRANSFORM", device="A")) * 2_000)
            assert len(await peer.read(2_000)) == 2_000

    run(story())


def test_a_stopped_client_stays_connected_and_goes_on_with_the_newest():
    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            peer.writer.transport.pause_reading()
            picture = np.zeros((1, 512, 512), np.uint16)
            for k in range(70):  # 3.5 s: longer than it takes to notice a peer that has vanished
                server.publish(Image(device="XRay", timestamp_ns=k, voxels=picture, ras_from_index=np.eye(4)))
                await asyncio.sleep(0.05)
            assert len(server.peers) == 1
            peer.writer.transport.resume_reading()
            got = await peer.until(lambda m: m.timestamp_ns == 69)
            assert len(got) < 20

    run(story())


def test_no_device_is_sent_more_often_than_allowed():
    async def story():
        async with Server(port=0, max_rate_hz=20) as server:
            peer = await Plain().connect(server.port)
            for k in range(100):
                server.publish(transform("A", k))
                server.publish(transform("B", k))
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            server.publish(transform("End", 0))
            got = await peer.until(lambda m: m.device == "End")
            for device in "AB":
                values = [m.matrix[0, 3] for m in got if m.device == device]
                assert 15 <= len(values) <= 24 and values[-1] == 99

    run(story())


def test_who_sends_too_much_is_read_more_slowly():
    async def story():
        got: list[float] = []

        def heard(*_):
            got.append(time.monotonic())

        async with Server(port=0, on_message=heard, max_messages_per_s=2_000) as server:
            peer = await Plain().connect(server.port)
            peer.writer.write(encode(transform("A", 1)) * 6_000)
            await until(lambda: len(got) == 6_000, 10)
            assert got[-1] - got[0] > 0.5

    run(story())


def test_connections_come_and_go_without_a_trace():
    async def story():
        fds = Path("/proc/self/fd")
        async with Server(port=0) as server:
            await Plain().connect(server.port)
            await until(lambda: len(server.peers) == 1)
            before = len(list(fds.iterdir()))
            for k in range(300):
                peer = await Plain().connect(server.port)
                if k % 3 == 0:
                    peer.writer.write(encode(transform("x", 1))[:30])  # half a header
                if k % 3 == 1:
                    peer.writer.transport.abort()
                peer.writer.close()
            await until(lambda: len(server.peers) == 1)
            assert len(list(fds.iterdir())) <= before + 2

    run(story())


def test_a_hundred_clients_are_served_and_one_more_is_turned_away():
    async def story():
        async with Server(port=0) as server:
            peers = [await Plain().connect(server.port) for _ in range(100)]
            await until(lambda: len(server.peers) == 100)
            extra = await Plain().connect(server.port)
            assert await asyncio.wait_for(extra.reader.read(), 5) == b""
            server.publish(transform("A", 5))
            for peer in peers:
                (message,) = await peer.read(1)
                assert message.matrix[0, 3] == 5

    run(story())


CAN_UNSHARE = shutil.which("ip") is not None and subprocess.run(
    ["unshare", "-rn", "true"], capture_output=True, check=False
).returncode == 0  # fmt: skip


@pytest.mark.skipif(not CAN_UNSHARE, reason="no network namespace can be made here")
def test_who_vanishes_without_a_word_is_noticed_within_two_seconds():
    command = ["unshare", "-rn", sys.executable, "-m", "tests.igtl.half_open"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    for noticed in found.values():
        assert noticed["server_s"] < 2.0 and noticed["client_s"] < 2.0


# --- what a peer may try -----------------------------------------------------------------------------


def test_a_senseless_interval_costs_nobody_anything():
    async def story():
        async with Server(port=0) as server:
            peer, other = await Plain().connect(server.port), await Plain().connect(server.port)
            info = f'<ClientInfo TDATARequested="TRUE" TDATAResolution="{"9" * 330}"/>'
            peer.writer.write(encode(ClientInfo(text=info)) * 3)
            await peer.ask(encode(Start(kind="TDATA", resolution_ms=2**31 - 1)))
            await until(lambda: len(server.peers) == 2)
            for k in range(3):
                server.publish(TrackingData(device="Tools", elements=()))
                server.publish(transform("A", k))
            assert (await other.until(lambda m: m.device == "A"))[-1].matrix[0, 3] == 0
            assert (await peer.until(lambda m: m.device == "A"))[-1].matrix[0, 3] == 0

    run(story())


def test_who_closes_its_half_without_reading_keeps_no_place():
    async def story():
        async with Server(port=0) as server:
            voxels = np.zeros((64, 256, 256), np.uint16)
            peers = [await Plain().connect(server.port) for _ in range(5)]
            for peer in peers:
                peer.writer.transport.pause_reading()
            await until(lambda: len(server.peers) == 5)
            server.publish(Image(device="CT", voxels=voxels, ras_from_index=np.eye(4)))
            for peer in peers:
                peer.writer.write_eof()
            await until(lambda: not server.peers)
            another = await Plain().connect(server.port)
            assert (await another.read(1))[0].device == "CT"

    run(story())


def test_a_part_of_a_message_and_then_silence_ends_the_connection(monkeypatch):
    monkeypatch.setattr(connection, "_UNFINISHED_NS", 300_000_000)

    async def story():
        async with Server(port=0) as server:
            part, header, whole = [await Plain().connect(server.port) for _ in range(3)]
            part.writer.write(encode(transform("x", 1))[:7])
            header.writer.write(encode(transform("x", 1))[:70])
            whole.writer.write(encode(transform("x", 1)))
            await until(lambda: len(server.peers) == 1)
            assert (await whole.ask(encode(Get(kind="STATUS"))))[0].type == "STATUS"
            for ended in (part, header):
                with contextlib.suppress(ConnectionResetError):
                    await asyncio.wait_for(ended.reader.read(), 5)
                assert ended.reader.at_eof() or ended.reader.exception() is not None

    run(story())


def test_what_is_asked_for_a_thousand_times_is_encoded_once(monkeypatch):
    calls = []

    def counted(message, version):
        calls.append(message.device)
        return encode(message, version)

    monkeypatch.setattr(connection, "encode", counted)

    async def story():
        async with Server(port=0) as server:
            voxels = np.zeros((64, 128, 128), np.uint16)
            server.publish(Image(device="CT", voxels=voxels, ras_from_index=np.eye(4)))
            peer = await Plain().connect(server.port)
            peer.writer.transport.pause_reading()
            peer.writer.write(encode(Get(kind="IMAGE", device="CT")) * 2_000)
            await until(lambda: not server.peers)
            assert calls.count("CT") == 1

    run(story())


def test_what_cannot_be_sent_does_not_hold_up_the_rest():
    async def story():
        async with Server(port=0) as server:
            client = await Plain().connect(server.port)
            await until(lambda: server.peers)
            (peer,) = server.peers
            peer.pause_writing()
            server.publish(transform("ANameThatDoesNotFitVersion1", 1))
            server.publish(transform("B", 2))
            peer.resume_writing()
            assert (await client.until(lambda m: True))[0].device == "B"

    run(story())


def test_a_device_that_waits_long_does_not_make_others_wait():
    async def story():
        async with Server(port=0, max_rate_hz=50) as server:
            client = await Plain().connect(server.port)
            await client.ask(encode(Start(kind="TDATA", resolution_ms=50_000)))
            for _ in range(2):
                server.publish(TrackingData(device="Tools", elements=()))
            for k in range(2):
                server.publish(transform("A", k))
            got = await asyncio.wait_for(client.until(lambda m: m.device == "A" and m.matrix[0, 3] == 1), 2)
            assert [m.device for m in got] == ["Tools", "A", "A"]

    run(story())


def test_nothing_old_is_sent_of_a_device_that_is_not_wanted_any_more():
    async def story():
        async with Server(port=0) as server:
            client = await Plain().connect(server.port)
            await until(lambda: server.peers)
            (peer,) = server.peers
            peer.pause_writing()
            server.publish(transform("Drill", 1))
            peer.stopped.add("TRANSFORM")
            server.publish(transform("Drill", 2))
            peer.resume_writing()
            server.publish(String(device="End", text=""))
            assert [m.device for m in await client.until(lambda m: m.device == "End")] == ["End"]

    run(story())


def test_a_pushed_pose_says_that_it_is_invalid():
    async def story():
        heard = []
        async with Server(port=0, on_message=lambda m, peer, ns: heard.append(m)) as server:
            async with Client("127.0.0.1", server.port) as client:
                await until(lambda: client.connected)
                client.send(transform("Drill", 0, metadata={"TransformStatus": "INVALID"}))
                await until(lambda: heard)
            assert heard[0].metadata == {"TransformStatus": "INVALID"} and heard[0].version == 2

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
                    message = await asyncio.wait_for(client.receive(), 5)
                    got[message.device] = message
                assert got["Volume"].metadata["Validity"] == "DEGRADED"

    run(story())


def test_a_server_stops_whatever_its_callbacks_do():
    async def story():
        def fail(*_):
            raise RuntimeError("a callback of the user's")

        server = Server(port=0, on_left=fail)
        await server.start()
        await Plain().connect(server.port)
        await until(lambda: server.peers)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await asyncio.wait_for(server.stop(), 5)
        assert not server.peers
        with pytest.raises(ConnectionRefusedError):
            await Plain().connect(server.port)

    run(story())


def test_waiting_to_send_can_be_given_up():
    async def story():
        async with Server(port=0) as server:
            client = await Plain().connect(server.port)
            await until(lambda: server.peers)
            (peer,) = server.peers
            peer.pause_writing()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(peer.drain(), 0.05)
            other = asyncio.ensure_future(peer.drain())
            await asyncio.sleep(0.05)
            peer.resume_writing()
            await asyncio.wait_for(other, 2)
            await asyncio.wait_for(peer.drain(), 2)
            client.writer.close()

    run(story())


def test_what_ended_a_client_is_said_where_it_is_waited_for():
    async def story():
        def fail(*_):
            raise RuntimeError("a callback of the user's")

        with pytest.raises(RuntimeError, match="of the user's"):
            async with Server(port=0) as server, Client("127.0.0.1", server.port, on_state=fail) as client:
                await asyncio.wait_for(client.receive(), 5)

    run(story())


def test_a_host_that_cannot_be_is_no_crash():
    async def story():
        states = []
        client = Client("a..b", 1, on_state=lambda *state: states.append(state))
        task = asyncio.create_task(client.run())
        await until(lambda: states)
        assert states[0][0] is False and not task.done()
        task.cancel()

    run(story())


def test_a_server_that_closes_at_once_is_asked_less_and_less():
    async def story():
        times = []

        async def turn_away(reader, writer):
            times.append(time.monotonic())
            writer.close()

        turning = await asyncio.start_server(turn_away, "127.0.0.1", 0)
        client = Client("127.0.0.1", turning.sockets[0].getsockname()[1])
        task = asyncio.create_task(client.run())
        await until(lambda: len(times) == 4, 10)
        assert times[3] - times[2] > 2 * (times[1] - times[0])
        task.cancel()
        turning.close()

    run(story())


def test_a_client_nobody_reads_keeps_no_more_than_it_may(monkeypatch):
    monkeypatch.setattr(client_module, "_QUEUED_BYTES", 1_000_000)

    async def story():
        async with Server(port=0) as server, Client("127.0.0.1", server.port) as client:
            await until(lambda: server.peers)
            picture = np.zeros((1, 300, 500), np.uint16)
            for k in range(20):
                server.send(Image(device="XRay", timestamp_ns=k, voxels=picture, ras_from_index=np.eye(4)))
            server.send(transform("End", 0))
            await until(lambda: client._inbox and client._inbox[-1].device == "End")
            assert len(client._inbox) <= 5

    run(story())


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Certificates of one authority for both sides, and of another one."""

    def issue(name: str) -> Tls:
        folder = tmp_path_factory.mktemp(name)
        authority = trustme.CA()
        paths = [str(folder / f"{part}.pem") for part in ("certificate", "key", "authorities")]
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.cert_chain_pems[0].write_to_path(paths[0])
        certificate.private_key_pem.write_to_path(paths[1])
        authority.cert_pem.write_to_path(paths[2])
        return Tls(*paths)

    return issue("ours"), issue("theirs")


def test_tls_carries_messages_both_ways(tls):
    ours, _ = tls

    async def story():
        heard = []
        port = find_free_port()
        async with (
            Server(port=port, on_message=lambda m, peer, ns: heard.append(m), tls=ours) as server,
            Client("127.0.0.1", port, tls=ours) as client,
        ):
            await until(lambda: server.peers)
            voxels = np.arange(300_000, dtype=np.uint16).reshape(1, 500, 600)
            server.publish(Image(device="XRay", voxels=voxels, ras_from_index=np.eye(4)))
            message = await asyncio.wait_for(client.receive(), 5)
            assert np.array_equal(message.voxels, voxels)
            client.send(transform("Pushed", 1))
            await until(lambda: heard)

            def blocking():
                with BlockingClient("127.0.0.1", port, tls=ours) as other:
                    return other.command("ListDevices").metadata["Message"]

            assert "XRay (IMAGE)" in await asyncio.to_thread(blocking)

    run(story())


def test_tls_lets_nobody_else_in(tls):
    ours, theirs = tls

    async def story():
        async with Server(port=0, tls=ours) as server:
            states: list[tuple[bool, str]] = []
            stranger = Client("127.0.0.1", server.port, on_state=lambda *state: states.append(state), tls=theirs)
            task = asyncio.create_task(stranger.run())
            plain = await Plain().connect(server.port)
            plain.writer.write(encode(transform("x", 1)) * 10)
            assert await asyncio.wait_for(plain.reader.read(), 10) in (b"",) or not server.peers
            await until(lambda: states)
            assert not server.peers and not any(up for up, _ in states)
            task.cancel()

    run(story())


def test_other_addresses_need_tls_or_consent(tls):
    with pytest.raises(ConfigError, match="insecure"):
        Server("0.0.0.0")
    Server("0.0.0.0", insecure=True)
    Server("0.0.0.0", tls=tls[0])


def test_certificates_that_cannot_be_used_are_named(tls, tmp_path):
    ours, theirs = tls
    with pytest.raises(ConfigError, match="no such file"):
        Server(tls=Tls(str(tmp_path / "missing.pem"), ours.key, ours.authorities))
    with pytest.raises(ConfigError, match=r"tls\.certificate and tls\.key"):
        Server(tls=Tls(ours.certificate, theirs.key, ours.authorities))


# --- without asyncio ---------------------------------------------------------------------------------


def test_a_few_lines_of_plain_python():
    heard: list[object] = []
    with BlockingServer(port=0, on_message=heard.append) as server, BlockingClient(port=server.port) as client:
        client.send(transform("Pushed", 1))
        reply = client.command("ListDevices")
        assert reply.metadata["Status"] == "SUCCESS"
        server.publish(transform("Other", 1))
        server.publish(transform("DrillToVolume", 42))
        assert client.wait_for("DrillToVolume", timeout_s=5).matrix[0, 3] == 42
        assert client.wait_for("Nothing", timeout_s=0.2) is None
        assert heard[0].device == "Pushed" and client.received_ns > 0


def test_polling_connects_and_reads():
    with BlockingServer(port=0) as server, BlockingClient(port=server.port) as client:
        deadline = time.monotonic() + 5
        while server.clients == 0 and time.monotonic() < deadline:
            assert client.receive(timeout_s=0) is None
        server.publish(transform("A", 1))
        found = None
        while found is None and time.monotonic() < deadline:
            found = client.receive(timeout_s=0)
        assert found is not None and found.device == "A"


def test_a_command_whose_connection_is_lost_fails_soon():
    port = find_free_port()
    with BlockingServer(port=port, commands={"Wait": lambda _: time.sleep(0.3)}) as server:
        client = BlockingClient(port=port)
        threading.Timer(0.1, lambda: next(iter(server._server.peers)).close()).start()
        began = time.monotonic()
        with pytest.raises(WireError, match="lost before the answer"):
            client.command("Wait", timeout_s=20)
        assert time.monotonic() - began < 10
        client.close()


def test_a_server_cannot_be_closed_from_its_own_thread():
    raised: list[BaseException] = []

    def close(_) -> str:
        try:
            server.close()
        except RuntimeError as error:
            raised.append(error)
        return "tried"

    with BlockingServer(port=0, commands={"Close": close}) as server, BlockingClient(port=server.port) as client:
        assert client.command("Close").metadata["Message"] == "tried" and raised


def test_everything_sent_has_left_after_a_flush():
    with BlockingServer(port=0) as server, BlockingClient(port=server.port) as client:
        client.receive(timeout_s=0.2)
        picture = np.zeros((1, 1_000, 1_000), np.uint16)
        reader = threading.Thread(target=lambda: [client.wait_for("XRay", 5) for _ in range(10)])
        reader.start()
        for _ in range(10):
            server.send(Image(device="XRay", voxels=picture, ras_from_index=np.eye(4)))
        assert server.flush(timeout_s=10)
        server.close()
        reader.join()
        assert client.receive(timeout_s=0) is None


def test_a_blocking_client_connects_again():
    port = find_free_port()
    client = BlockingClient(port=port)
    assert client.receive(timeout_s=0.3) is None
    with pytest.raises(WireError, match="not sent"):
        client.send(transform("x", 1))
    for k in range(2):
        with BlockingServer(port=port) as server:
            server.publish(String(device="Note", text=str(k)))
            deadline = time.monotonic() + 10
            while server.clients == 0 and time.monotonic() < deadline:
                client.receive(timeout_s=0.1)
            server.publish(transform("A", k))
            assert client.wait_for("A", timeout_s=5).matrix[0, 3] == k
    client.close()


def test_an_asyncio_client_is_an_iterator():
    async def story():
        async with Server(port=0) as server, Client("127.0.0.1", server.port) as client:
            await until(lambda: server.peers)
            for k in range(3):
                server.publish(transform(f"T{k}", k))
            found = []
            async for message in client:
                found += [message.device] if message.type == "TRANSFORM" else []
                if len(found) == 3:
                    break
            assert found == ["T0", "T1", "T2"]
            assert (await client.command("Nix")).metadata["Status"] == "FAIL"

    run(story())


def test_pyigtl_receives_from_our_server():
    async def story():
        server = Server(port=0)
        await server.start()
        client = await asyncio.to_thread(pyigtl.OpenIGTLinkClient, "127.0.0.1", server.port)
        await until(lambda: server.peers, 10)
        voxels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
        for _ in range(3):
            server.publish(transform("DrillToVolume", 42))
            server.publish(Image(device="Volume", voxels=voxels, ras_from_index=np.eye(4)))
            server.publish(String(device="Note", text="hello"))
            server.publish(Point(device="DrillTip", points=()))
            await asyncio.sleep(0.05)
        found = await asyncio.to_thread(client.wait_for_message, "DrillToVolume", 5)
        assert found.matrix[0, 3] == 42
        image = await asyncio.to_thread(client.wait_for_message, "Volume", 5)
        assert np.array_equal(image.image, voxels)
        note = await asyncio.to_thread(client.wait_for_message, "Note", 5)
        assert note.string == "hello"
        client.stop()
        await server.stop()

    run(story())


def test_our_client_receives_from_pyigtl():
    async def story():
        port = find_free_port()
        server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
        got = []
        client = Client("127.0.0.1", port, lambda m, _: got.append(m))
        task = asyncio.create_task(client.run())
        matrix = np.eye(4)
        matrix[1, 3] = -7

        def received(kind):
            return any(isinstance(m, kind) for m in got)

        for _ in range(100):
            if server.is_connected():
                server.send_message(pyigtl.TransformMessage(matrix, device_name="StylusToTracker"))
                server.send_message(pyigtl.ImageMessage(np.ones((1, 4, 5), np.uint8), device_name="XRay"))
            await asyncio.sleep(0.05)
            if received(Transform) and received(Image):
                break
        assert next(m for m in got if isinstance(m, Transform)).matrix[1, 3] == -7
        assert next(m for m in got if isinstance(m, Image)).voxels.shape == (1, 4, 5)
        task.cancel()
        server.stop()

    run(story())
