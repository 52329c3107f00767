"""What waits for a peer: the newest of every device, and no answer is lost."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from navnode.igtl import ClientInfo, Get, Image, PolyData, Server, Start, Stop, String, TrackingData, encode
from navnode.igtl.messages import cells
from tests.igtl.peers import PATIENCE_S, Clock, Plain, run, transform
from tests.patience import until_async


def test_a_client_that_never_reads_costs_nobody_and_gets_the_latest():
    async def story():
        server = Server(port=0)
        await server.start()
        slow, quick = await Plain().connect(server.port), await Plain().connect(server.port)
        await until_async(lambda: len(server.peers) == 2)
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


@pytest.mark.long
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


def test_who_stops_reading_is_reported_and_then_disconnected(monkeypatch, caplog):
    clock = Clock(monkeypatch)

    def later(condition):
        """The condition as time passes."""

        def holds() -> bool:
            clock.pass_ms(100)
            return condition()

        return holds

    async def story():
        async with Server(port=0) as server:
            peer = await Plain().connect(server.port)
            peer.writer.transport.pause_reading()
            picture = np.zeros((1, 1024, 1024), np.uint16)

            async def filled(k: int) -> None:
                """Messages until no more fit between here and there, and the system has moved what it can."""
                for n in range(12):
                    server.publish(Image(device="XRay", timestamp_ns=k + n, voxels=picture, ras_from_index=np.eye(4)))
                    await asyncio.sleep(0.02)

            await filled(0)
            (served,) = server.peers
            await until_async(later(lambda: served.stuck))
            assert "has read nothing for 2 s" in caplog.text and len(server.peers) == 1
            peer.writer.transport.resume_reading()
            await peer.until(lambda m: m.timestamp_ns == 11)
            await until_async(lambda: not served.stuck)
            peer.writer.transport.pause_reading()
            await filled(20)
            await until_async(later(lambda: not server.peers))
            assert "left: it has read nothing for 1" in caplog.text

    run(story())


def test_answers_are_never_dropped():
    async def story():
        async with Server(port=0) as server:
            server.publish(transform("A", 1))
            peer = await Plain().connect(server.port)
            peer.writer.write(encode(Get(kind="TRANSFORM", device="A")) * 2_000)
            assert len(await peer.read(2_000)) == 2_000

    run(story())


def test_no_device_is_sent_more_often_than_allowed(monkeypatch):
    clock = Clock(monkeypatch)

    async def story():
        async with Server(port=0, max_rate_hz=20) as server:
            peer = await Plain().connect(server.port)
            await until_async(lambda: server.peers)
            for k in range(100):
                server.publish(transform("A", k))
                server.publish(transform("B", k))
                clock.pass_ms(10)
            clock.pass_ms(50)
            got = await peer.read(2 * 21)  # in a second 20 of each, and at last the newest
            for device in "AB":
                values = [m.matrix[0, 3] for m in got if m.device == device]
                assert len(values) == 21 and values[-1] == 99

    run(story())


def test_what_cannot_be_sent_does_not_hold_up_the_rest():
    async def story():
        async with paused() as (server, client, peer):
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
            got = await asyncio.wait_for(
                client.until(lambda m: m.device == "A" and m.matrix[0, 3] == 1), PATIENCE_S / 2
            )
            assert [m.device for m in got] == ["Tools", "A", "A"]

    run(story())


def test_nothing_old_is_sent_of_a_device_whose_newest_message_is_withheld():
    async def story():
        async with paused() as (server, client, peer):
            server.publish(transform("Drill", 1))
            server.publish(transform("Drill", 2), needs_status=True)
            peer.resume_writing()
            server.publish(String(device="End", text=""))
            assert [m.device for m in await client.until(lambda m: m.device == "End")] == ["End"]

    run(story())


def test_wishes_hold_from_the_next_message_on():
    async def story():
        async with Server(port=0) as server:
            client = await Plain().connect(server.port)
            await until_async(lambda: server.peers)
            for wish, gets in ((Stop(kind="TRANSFORM"), False), (Start(kind="TRANSFORM"), True)):
                assert (await client.ask(encode(wish)))[0].type == "RTS_TRANS"
                server.publish(transform("Drill", 1))
                server.publish(String(device="End", text=""))
                got = [m.device for m in await client.until(lambda m: m.device == "End")]
                assert got == (["Drill", "End"] if gets else ["End"])

    run(story())


@pytest.mark.parametrize("says", [True, False], ids=["says what it accepts", "says nothing"])
def test_an_answer_waits_behind_no_surface_and_none_follows_that_is_not_accepted(says):
    async def story():
        async with paused() as (server, client, peer):
            server.publish(surface("BoneModel"))
            server.publish(transform("Drill", 1))
            if says:
                text = '<ClientInfo><MessageTypes><Message Type="TRANSFORM"/></MessageTypes></ClientInfo>'
                client.writer.write(encode(ClientInfo(text=text)))
            client.writer.write(encode(Get(kind="STATUS")))
            await until_async(lambda: peer._lossless)
            peer.resume_writing()
            await until_async(lambda: peer.idle)
            server.send(String(device="End", text=""))
            got = [m.type for m in await client.until(lambda m: m.device == "End")]
            assert got == ["STATUS", "TRANSFORM", *([] if says else ["POLYDATA"]), "STRING"]

    run(story())


@contextlib.asynccontextmanager
async def paused():
    """A server, a client, and the server's side of their connection, which may not write for now."""
    async with Server(port=0) as server:
        client = await Plain().connect(server.port)
        await until_async(lambda: server.peers)
        (peer,) = server.peers
        peer.pause_writing()
        yield server, client, peer


def surface(device: str) -> PolyData:
    corners = np.eye(3, dtype=np.float32)
    return PolyData(device=device, points_mm=corners, polygons=cells([[0, 1, 2]]))


def test_waiting_to_send_can_be_given_up():
    async def story():
        async with paused() as (_, client, peer):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(peer.drain(), 0.05)
            other = asyncio.ensure_future(peer.drain())
            await asyncio.sleep(0.05)
            peer.resume_writing()
            await asyncio.wait_for(other, PATIENCE_S)
            await asyncio.wait_for(peer.drain(), PATIENCE_S)
            client.writer.close()

    run(story())
