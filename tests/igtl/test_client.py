"""A client: it comes back, keeps no more than it may and says what ended it."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from navnode.igtl import Client, Image, Server
from navnode.igtl import client as client_module
from tests.conftest import find_free_port
from tests.igtl.peers import PATIENCE_S, run, transform
from tests.patience import until_async


def test_a_client_receives_and_comes_back_after_the_server_was_gone():
    async def story():
        got, states = [], []
        server = Server(port=find_free_port())
        await server.start()
        client = Client("127.0.0.1", server.port, lambda m, _: got.append(m), lambda up, why: states.append(up))
        task = asyncio.create_task(client.run())
        await until_async(lambda: server.peers)
        server.publish(transform("A", 1))
        await until_async(lambda: any(m.device == "A" for m in got))
        await server.stop()
        await until_async(lambda: states[-1] is False)
        again = Server(port=server.port)
        await again.start()
        await until_async(lambda: again.peers)
        again.publish(transform("B", 2))
        await until_async(lambda: any(m.device == "B" for m in got))
        task.cancel()
        await again.stop()
        assert states[0] is True and states[-1] is True

    run(story())


def test_an_asyncio_client_is_an_iterator():
    async def story():
        async with Server(port=0) as server, Client("127.0.0.1", server.port) as client:
            await until_async(lambda: server.peers)
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


def test_what_ended_a_client_is_said_where_it_is_waited_for():
    async def story():
        def fail(*_):
            raise RuntimeError("a callback of the user's")

        with pytest.raises(RuntimeError, match="of the user's"):
            async with Server(port=0) as server, Client("127.0.0.1", server.port, on_state=fail) as client:
                await asyncio.wait_for(client.receive(), PATIENCE_S)

    run(story())


def test_a_host_that_cannot_be_is_no_crash():
    async def story():
        states = []
        client = Client("a..b", 1, on_state=lambda *state: states.append(state))
        task = asyncio.create_task(client.run())
        await until_async(lambda: states)
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
        await until_async(lambda: len(times) == 4)
        assert times[3] - times[0] > 6 * client_module.FIRST_WAIT_S  # it waited once, twice and four times that
        task.cancel()
        turning.close()

    run(story())


def test_a_client_nobody_reads_keeps_no_more_than_it_may(monkeypatch):
    monkeypatch.setattr(client_module, "_QUEUED_BYTES", 1_000_000)

    async def story():
        async with Server(port=0) as server, Client("127.0.0.1", server.port) as client:
            await until_async(lambda: server.peers)
            picture = np.zeros((1, 300, 500), np.uint16)
            for k in range(20):
                server.send(Image(device="XRay", timestamp_ns=k, voxels=picture, ras_from_index=np.eye(4)))
            server.send(transform("End", 0))
            await client.command("ListDevices")  # whose answer comes after all that
            kept = [await client.receive()]
            while kept[-1].device != "End":
                kept.append(await client.receive())
            assert len(kept) <= 5

    run(story())
