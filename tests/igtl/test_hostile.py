"""What a peer may try: the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from navnode.igtl import ClientInfo, Get, Image, Server, Start, TrackingData, connection, encode
from tests.igtl.peers import PATIENCE_S, Plain, run, transform
from tests.patience import until_async


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n" * 10, b"\0\1IMAGE" + b"\xff" * 60, encode(transform("x", 1))[:-1] + b"\1"]
)
def test_a_bad_client_is_closed_and_the_others_do_not_notice(garbage):
    async def story():
        server = Server(port=0)
        await server.start()
        good, bad = await Plain().connect(server.port), await Plain().connect(server.port)
        await until_async(lambda: len(server.peers) == 2)
        bad.writer.write(garbage)
        await until_async(lambda: len(server.peers) == 1)
        server.publish(transform("A", 5))
        (message,) = await good.read(1)
        assert message.matrix[0, 3] == 5
        await server.stop()

    run(story())


def test_many_clients_come_and_go():
    async def story():
        server = Server(port=0)
        await server.start()
        for _ in range(60):
            peer = await Plain().connect(server.port)
            peer.writer.close()
        await until_async(lambda: not server.peers)
        last = await Plain().connect(server.port)
        assert (await last.ask(encode(Get(kind="STATUS"))))[0].type == "STATUS"
        await server.stop()

    run(story())


def test_who_sends_too_much_is_read_more_slowly():
    async def story():
        got: list[float] = []

        def heard(*_):
            got.append(time.monotonic())

        async with Server(port=0, on_message=heard, max_messages_per_s=2_000) as server:
            peer = await Plain().connect(server.port)
            peer.writer.write(encode(transform("A", 1)) * 6_000)
            await until_async(lambda: len(got) == 6_000)
            assert got[-1] - got[0] > 0.5

    run(story())


def test_connections_come_and_go_without_a_trace():
    async def story():
        fds = Path("/proc/self/fd")
        async with Server(port=0) as server:
            await Plain().connect(server.port)
            await until_async(lambda: len(server.peers) == 1)
            before = len(list(fds.iterdir()))
            for k in range(300):
                peer = await Plain().connect(server.port)
                if k % 3 == 0:
                    peer.writer.write(encode(transform("x", 1))[:30])  # half a header
                if k % 3 == 1:
                    peer.writer.transport.abort()
                peer.writer.close()
            await until_async(lambda: len(server.peers) == 1)
            assert len(list(fds.iterdir())) <= before + 2

    run(story())


def test_a_hundred_clients_are_served_and_one_more_is_turned_away():
    async def story():
        async with Server(port=0) as server:
            peers = [await Plain().connect(server.port) for _ in range(100)]
            await until_async(lambda: len(server.peers) == 100)
            extra = await Plain().connect(server.port)
            assert await asyncio.wait_for(extra.reader.read(), PATIENCE_S) == b""
            server.publish(transform("A", 5))
            for peer in peers:
                (message,) = await peer.read(1)
                assert message.matrix[0, 3] == 5

    run(story())


def _can_unshare() -> bool:
    command = ["unshare", "-rn", "true"]
    return shutil.which("ip") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


CAN_UNSHARE = _can_unshare()


@pytest.mark.skipif(not CAN_UNSHARE, reason="no network namespace can be made here")
@pytest.mark.long
def test_who_vanishes_without_a_word_is_noticed_within_two_seconds():
    command = ["unshare", "-rn", sys.executable, "-m", "tests.igtl.half_open"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    for noticed in found.values():  # left to itself, the system would try for a quarter of an hour
        assert noticed["server_s"] < 2.0 and noticed["client_s"] < 2.0


def test_a_senseless_interval_costs_nobody_anything():
    async def story():
        async with Server(port=0) as server:
            peer, other = await Plain().connect(server.port), await Plain().connect(server.port)
            info = f'<ClientInfo TDATARequested="TRUE" TDATAResolution="{"9" * 330}"/>'
            peer.writer.write(encode(ClientInfo(text=info)) * 3)
            await peer.ask(encode(Start(kind="TDATA", resolution_ms=2**31 - 1)))
            await until_async(lambda: len(server.peers) == 2)
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
            await until_async(lambda: len(server.peers) == 5)
            server.publish(Image(device="CT", voxels=voxels, ras_from_index=np.eye(4)))
            for peer in peers:
                peer.writer.write_eof()
            await until_async(lambda: not server.peers)
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
            await until_async(lambda: len(server.peers) == 1)
            assert (await whole.ask(encode(Get(kind="STATUS"))))[0].type == "STATUS"
            for ended in (part, header):
                with contextlib.suppress(ConnectionResetError):
                    await asyncio.wait_for(ended.reader.read(), PATIENCE_S)
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
            await until_async(lambda: not server.peers)
            assert calls.count("CT") == 1

    run(story())


def test_unfinished_messages_of_all_clients_together_are_bounded(monkeypatch):
    """Each may announce the largest image; what they hold of it together has a limit, and is given back."""
    monkeypatch.setattr("navnode.igtl.server.MAX_HELD_BYTES", 40 << 20)
    voxels = np.zeros((1, 4096, 4096), np.uint16)
    most = encode(Image(device="X", timestamp_ns=1, voxels=voxels, ras_from_index=np.eye(4)))[: 30 << 20]

    async def story():
        server = Server(port=0)
        await server.start()
        clients = [await Plain().connect(server.port) for _ in range(6)]
        await until_async(lambda: len(server.peers) == 6)
        sending = [asyncio.create_task(send(client, most)) for client in clients]
        await until_async(lambda: len(server.peers) <= 2)
        assert server.budget.used_bytes <= 40 << 20
        for task in sending:
            task.cancel()
        good = await Plain().connect(server.port)
        server.publish(transform("A", 5))
        (message,) = await good.read(1)
        assert message.matrix[0, 3] == 5
        for client in clients:
            client.writer.close()
        await until_async(lambda: len(server.peers) == 1 and server.budget.used_bytes == 0)
        await server.stop()

    async def send(client, data):
        with contextlib.suppress(ConnectionError):
            client.writer.write(data)
            await client.writer.drain()

    run(story())


def test_who_trickles_a_message_is_closed(monkeypatch):
    """A byte now and then is no silence, but no progress either."""
    monkeypatch.setattr(connection, "_UNFINISHED_NS", 500_000_000)
    data = encode(transform("X", 1)) * 3

    async def story():
        server = Server(port=0)
        await server.start()
        slow, fine = await Plain().connect(server.port), await Plain().connect(server.port)
        await until_async(lambda: len(server.peers) == 2)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for n in range(200):
                slow.writer.write(data[n : n + 1])
                await slow.writer.drain()
                if n % len(encode(transform("X", 1))) == 0:
                    fine.writer.write(encode(transform("X", 1)))  # whole messages, with pauses between them
                if len(server.peers) == 1:
                    break
                await asyncio.sleep(0.05)
        assert len(server.peers) == 1 and time.monotonic() - began < PATIENCE_S
        await server.stop()

    run(story())
