"""Server and client over real sockets, with each other and with pyigtl."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pyigtl
import pytest

from navnode.errors import ConfigError
from navnode.igtl import Client, Framer, Image, Point, Raw, Server, StatusMessage, String, Transform, encode
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
