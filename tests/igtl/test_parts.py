"""Volumes of which a client takes what has changed."""

from __future__ import annotations

import asyncio

import numpy as np

from navnode.igtl import ClientInfo, Get, Image, Server, encode
from tests.igtl.peers import Plain, run
from tests.patience import until_async


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


async def followed(peer: Plain, seen: Image | None, until_ns: int) -> Image:
    """The volume as a client has it that lays every part on what it has, up to a time stamp."""
    while seen is None or seen.timestamp_ns < until_ns:
        (image,) = (await peer.until(lambda m: m.device == "Volume"))[-1:]
        seen = image if seen is None else image.put_into(seen)
    return seen


async def taking_parts(server: Server) -> Plain:
    """A client that takes changed parts."""
    peer = await Plain().connect(server.port)
    peer.writer.write(encode(ClientInfo(text='<ClientInfo ChangedParts="TRUE"/>')))
    await peer.ask(encode(Get(kind="STATUS")))
    return peer


def test_a_slow_client_that_takes_parts_misses_none():
    async def story():
        async with Server(port=0) as server:
            peer = await taking_parts(server)
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
            seen = await followed(peer, None, 39 * 10**9)
            assert np.array_equal(seen.voxels, voxels)

    run(story())


def test_what_was_replaced_before_its_turn_is_no_base_of_a_part():
    async def story():
        async with Server(port=0) as server:
            peer = await taking_parts(server)
            (served,) = server.peers
            others = [await Plain().connect(server.port) for _ in range(8)]
            await until_async(lambda: len(server.peers) == 9)
            for other in others:
                other.writer.transport.pause_reading()
            rng, seen, number = np.random.default_rng(3), None, 0
            voxels = np.zeros((8, 64, 128), np.int16)
            while served.dropped < 5:  # the others' pictures keep the thread busy while several volumes follow
                picture = np.full((1, 1024, 1024), number, np.uint16)
                server.publish(Image(device="XRay", voxels=picture, ras_from_index=np.eye(4), timestamp_ns=number))
                for depth in rng.integers(1, 9, 4):  # parts are small and large ones
                    voxels, number = voxels.copy(), number + 1
                    voxels[:depth, : depth * 8] = number
                    server.publish(
                        Image(device="Volume", voxels=voxels, ras_from_index=np.eye(4), timestamp_ns=number * 10**9)
                    )
                seen = await followed(peer, seen, number * 10**9)
                assert np.array_equal(seen.voxels, voxels)

    run(story())
