"""What goes to many peers gathers once: everybody still gets all of it, in order, and is treated as by itself."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from navnode.igtl import ClientInfo, Image, Server, Start, encode
from navnode.igtl.sender import Sender
from tests.igtl.peers import Plain, run, transform
from tests.patience import until_async

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the sender needs Linux")

MANY = 6


@pytest.fixture
def writes(monkeypatch):
    """Numbers of peers of every shared write."""
    counts: list[int] = []
    write_all = Sender.write_all

    def noted(sender, outlets, data):
        counts.append(len(outlets))
        return write_all(sender, outlets, data)

    monkeypatch.setattr(Sender, "write_all", noted)
    return counts


async def joined(server: Server, count: int) -> list[Plain]:
    readers = [await Plain().connect(server.port) for _ in range(count)]
    await until_async(lambda: len(server.peers) == count)
    return readers


def picture(number: int, size: int = 512) -> Image:
    voxels = np.full((1, size, size), number, np.uint16)
    return Image(device="XRay", timestamp_ns=number, voxels=voxels, ras_from_index=np.eye(4))


def test_messages_of_one_turn_leave_together(writes):
    async def story():
        async with Server(port=0) as server:
            readers = await joined(server, MANY)
            for tool in ("A", "B", "C"):
                server.publish(transform(tool, 1.0))
            for reader in readers:
                assert [m.device for m in await reader.read(3)] == ["A", "B", "C"]
            assert writes == [MANY]

    run(story())


def test_few_peers_are_written_to_one_by_one(writes):
    async def story():
        async with Server(port=0) as server:
            (reader,) = await joined(server, 1)
            server.publish(transform("A", 1.0))
            assert [m.device for m in await reader.read(1)] == ["A"]
            assert not writes

    run(story())


@pytest.mark.parametrize("size", [40, 512])
def test_everything_keeps_its_order(size):
    """Poses, pictures, and answers that only one peer gets, mixed by chance: a device's messages never go back, and
    what is not replaced comes in the order in which it was given."""

    async def story():
        rng, nothing_waits = np.random.default_rng(size), size < 100
        async with Server(port=0) as server:
            readers = await joined(server, MANY)
            peers = list(server.peers)
            given: dict[object, list[int]] = {peer: [] for peer in peers}
            for number in range(1, 400):
                match int(rng.integers(5)):
                    case 0:
                        server.publish(picture(number, size))
                    case 1:
                        peer = peers[int(rng.integers(MANY))]
                        peer.send(transform("Answer", number, timestamp_ns=number))
                        given[peer].append(number)
                    case _:
                        server.publish(transform("Drill", number, timestamp_ns=number))
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            server.publish(transform("End", 0, timestamp_ns=400))
            answers = []
            for reader in readers:
                got = await reader.until(lambda m: m.device == "End")
                for device in ("Drill", "XRay"):
                    numbers = [m.timestamp_ns for m in got if m.device == device]
                    assert numbers == sorted(set(numbers)) and len(numbers) > (5 if nothing_waits else 0)
                small = [m.timestamp_ns for m in got if m.type == "TRANSFORM"]
                assert small == sorted(small) or not nothing_waits  # what waits is replaced, and answers are not
                answers.append([m.timestamp_ns for m in got if m.device == "Answer"])
            assert sorted(answers) == sorted(given.values())

    run(story())


def test_versions_rates_and_wishes_hold(writes):
    async def story():
        async with Server(port=0) as server:
            readers = await joined(server, 2 * MANY)
            for reader in readers[:MANY]:
                reader.writer.write(encode(ClientInfo(text="<ClientInfo/>", version=2)))
            seldom = readers[0]
            seldom.writer.write(encode(Start(kind="TDATA", resolution_ms=50, version=2)))
            await until_async(lambda: sum(peer.version == 2 for peer in server.peers) == MANY)
            await until_async(lambda: any(peer.intervals_ns for peer in server.peers))
            told = transform("Drill", 1.0, metadata={"Validity": "VALID"}, timestamp_ns=1)
            server.publish(told)
            server.publish(transform("Probe", 1.0, timestamp_ns=2), needs_status=True)
            for reader in readers[:MANY]:
                got = await reader.until(lambda m: m.device == "Probe")
                assert [m.version for m in got if m.device == "Drill"] == [2]
            server.publish(transform("End", 1.0, timestamp_ns=3))
            for reader in readers[MANY:]:
                got = await reader.until(lambda m: m.device == "End")
                assert [(m.device, m.version) for m in got] == [
                    ("Drill", 1),
                    ("End", 1),
                ]  # nothing that needs version 2
            assert set(writes) == {MANY - 1, MANY}  # who has a wish of his own is not among them

    run(story())


def test_who_does_not_read_keeps_nobody_waiting_and_gets_the_newest():
    async def story():
        async with Server(port=0) as server:
            slow, *readers = await joined(server, MANY)
            for reader in (slow, *readers):
                reader.writer.write(encode(ClientInfo(text="<ClientInfo/>", version=2)))
            await until_async(lambda: all(peer.version == 2 for peer in server.peers))
            slow.writer.transport.pause_reading()
            last, long = 6000, {"x": "y" * 2000}  # together more than a socket holds
            for number in range(1, last + 1):
                server.publish(transform("Drill", number, timestamp_ns=number, metadata=long))
                if number % 50 == 0:
                    await asyncio.sleep(0)
            assert max(peer.dropped for peer in server.peers) > 0
            slow.writer.transport.resume_reading()
            for reader in (slow, *readers):
                assert (await reader.until(lambda m: m.timestamp_ns == last))[-1].matrix[0, 3] == last

    run(story())


def test_one_that_leaves_in_the_middle_of_a_turn_hurts_nobody():
    async def story():
        async with Server(port=0) as server:
            readers = await joined(server, MANY)
            leaving = next(iter(server.peers))
            server.publish(transform("A", 1.0))
            leaving.close("told to")
            server.publish(transform("B", 1.0))
            await until_async(lambda: len(server.peers) == MANY - 1)
            server.publish(transform("C", 1.0))
            whole = 0
            for reader in readers:
                try:
                    whole += [m.device for m in await reader.read(3)] == ["A", "B", "C"]
                except (AssertionError, ConnectionError):
                    continue
            assert whole == MANY - 1

    run(story())


def test_what_cannot_be_sent_is_said_once_and_does_not_stop_others(caplog):
    async def story():
        async with Server(port=0) as server:
            readers = await joined(server, MANY)
            for _ in range(3):
                server.publish(transform("a name of more than twenty bytes", 1.0))  # clients read version 1
                server.publish(transform("Drill", 1.0))
            for reader in readers:
                assert [m.device for m in await reader.read(3)] == ["Drill"] * 3

    run(story())
    assert caplog.text.count("not sent") == 1
