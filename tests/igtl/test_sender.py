"""Large messages leave from another thread: whole, in order, and without holding anything back."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from navnode.igtl import Image, Server, encode
from navnode.igtl.sender import Outcome, Sender
from tests.igtl.peers import Plain, run, transform
from tests.patience import until_async

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the sender needs Linux")

_WORDS = np.arange(1 << 19, dtype=np.uint16).reshape(1, 512, -1)


def picture(number: int) -> Image:
    return Image(device="XRay", timestamp_ns=number, voxels=_WORDS + number, ras_from_index=np.eye(4))


def held() -> tuple[int, int]:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()


def test_readers_of_every_speed_get_whole_messages_and_the_newest_of_them():
    async def story():
        async with Server(port=0) as server:
            readers = [await Plain().connect(server.port) for _ in range(6)]
            await until_async(lambda: len(server.peers) == 6)
            assert server.sender is not None

            async def read(reader: Plain, pause_s: float) -> list[int]:
                numbers = []
                while not numbers or numbers[-1] != 39:
                    (message,) = await reader.read(1)
                    if message.type == "IMAGE":
                        assert np.array_equal(message.voxels, _WORDS + message.timestamp_ns)
                        numbers.append(message.timestamp_ns)
                    await asyncio.sleep(pause_s)
                return numbers

            async def publish() -> None:
                for number in range(40):
                    server.publish(picture(number))
                    server.publish(transform("Drill", number))
                    await asyncio.sleep(0.02)

            pauses_s = (0, 0, 0, 0.01, 0.05, 0.1)
            reads = [read(reader, pause_s) for reader, pause_s in zip(readers, pauses_s, strict=True)]
            _, *all_numbers = await asyncio.gather(publish(), *reads)
            for numbers in all_numbers:
                assert numbers == sorted(set(numbers))

    run(story())


def test_small_messages_keep_their_place_around_large_ones():
    async def story():
        async with Server(port=0) as server:
            reader = await Plain().connect(server.port)
            await until_async(lambda: server.peers)
            for number in range(5):
                server.send(transform("Before", number))
                server.send(picture(number))
                server.send(transform("After", number))
            got = [m for m in await reader.read(15) if m.device != "KeepAlive"]
            assert [m.device for m in got] == ["Before", "XRay", "After"] * 5

    run(story())


def test_clients_that_leave_in_the_middle_leave_nothing_behind():
    async def story():
        before = held()
        async with Server(port=0) as server:
            for number in range(20):
                clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
                await until_async(lambda: len(server.peers) == 4)
                server.publish(picture(number))
                await asyncio.sleep(0.001 * (number % 5))
                for client in clients:
                    client.close()
                await until_async(lambda: not server.peers)
            stays = await Plain().connect(server.port)
            server.publish(picture(99))
            got = await stays.until(lambda m: m.timestamp_ns == 99)
            assert np.array_equal(got[-1].voxels, _WORDS + 99)
            stays.writer.close()
        await until_async(lambda: held() <= before)

    run(story())


def test_a_peer_that_is_forgotten_gets_no_more_and_others_all():
    async def story():
        sender, freed = Sender(), []
        (near, far), (other_near, other_far) = socket.socketpair(), socket.socketpair()
        other_far.setblocking(False)
        data = bytes(range(256)) * 8192
        gone = sender.outlet(near.fileno(), lambda: freed.append("gone"))
        stays = sender.outlet(other_near.fileno(), lambda: freed.append("stays"))
        assert [each.queue(data) for each in (gone, stays, stays)] == [Outcome.BUSY] * 3
        assert stays.waiting_bytes > 0
        gone.close()
        assert await received(other_far, 2 * len(data)) == 2 * data
        await until_async(lambda: freed and stays.waiting_bytes == 0)
        assert set(freed) == {"stays"} and gone.queue(data) is Outcome.FAILED
        sender.close()
        sender.close()
        assert stays.write(b"late") is Outcome.FAILED
        for one in (near, far, other_near, other_far):
            one.close()

    run(story())


async def received(from_socket: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += await asyncio.get_running_loop().sock_recv(from_socket, 1 << 16)
    return got


def test_until_its_turn_comes_a_message_is_replaced_withdrawn_and_passed_by_small_ones():
    async def story():
        sender = Sender()
        near, far = socket.socketpair()
        far.setblocking(False)
        outlet = sender.outlet(near.fileno(), lambda: None)
        first, second, third, other = (bytes([value]) * 3_000_000 for value in range(4))
        outlet.queue(first, device=1)
        await until_async(lambda: 0 < outlet.waiting_bytes < len(first))  # begun, and the socket is full
        assert outlet.queue(second, device=1) is Outcome.FREE
        assert outlet.queue(other, device=2) is Outcome.FREE
        assert outlet.queue(third, device=1) is Outcome.REPLACED
        outlet.withdraw(2)
        assert outlet.write(b"small", ordered=False) is Outcome.BUSY
        assert await received(far, 2 * len(first) + 5) == first + b"small" + third
        assert outlet.waiting_bytes == 0
        sender.close()
        near.close()
        far.close()

    run(story())


def test_what_is_ordered_stays_so():
    async def story():
        sender = Sender()
        near, far = socket.socketpair()
        far.setblocking(False)
        outlet = sender.outlet(near.fileno(), lambda: None)
        parts = [bytes([value]) * (2_000_000 if value % 2 == 0 else 10) for value in range(10)]
        for part in parts:
            outlet.queue(part) if len(part) > 10 else outlet.write(part)
        assert await received(far, sum(map(len, parts))) == b"".join(parts)
        sender.close()
        near.close()
        far.close()

    run(story())


def test_an_encoded_message_is_what_is_sent():
    async def story():
        async with Server(port=0) as server:
            client = socket.create_connection(("127.0.0.1", server.port))
            await until_async(lambda: server.peers)
            server.publish(picture(7))
            expected = encode(picture(7), 1)
            client.setblocking(False)
            assert (await received(client, len(expected)))[: len(expected)] == expected
            client.close()

    run(story())


def test_a_small_picture_is_never_followed_by_an_older_large_one():
    async def story():
        async with Server(port=0) as server:
            reader = await Plain().connect(server.port)
            await until_async(lambda: server.peers)
            (served,) = server.peers
            reader.writer.transport.pause_reading()
            words = np.zeros((1, 4096, 4096), np.uint16)
            server.publish(Image(device="Other", timestamp_ns=1, voxels=words, ras_from_index=np.eye(4)))
            await asyncio.sleep(0.2)  # begun, and more than fits between here and there
            assert not served.idle
            for stamp, pixels in ((2, 400), (3, 20)):
                picture = Image(
                    device="XRay", timestamp_ns=stamp, voxels=words[:, :pixels, :pixels], ras_from_index=np.eye(4)
                )
                server.publish(picture)
            server.send(transform("Last", 4))
            reader.writer.transport.resume_reading()
            seen = await reader.until(lambda m: m.device == "Last")
            await until_async(lambda: served.idle)
            server.send(transform("Last", 5))
            seen += await reader.until(lambda m: m.device == "Last")
            assert [m.timestamp_ns for m in seen if m.device == "XRay"] == [3]

    run(story())
