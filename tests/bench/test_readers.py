"""Consoles of the benchmarks read, wait for a server that is not there yet, and go with it."""

from __future__ import annotations

import numpy as np

from navnode.bench.readers import readers
from navnode.igtl import Server, Transform
from tests.conftest import find_free_port
from tests.igtl.peers import run
from tests.patience import until_async


def test_readers_wait_read_and_leave():
    async def story():
        port = find_free_port()
        with readers(port, 3):
            async with Server(port=port) as server:
                await until_async(lambda: len(server.peers) == 3)
                for number in range(2000):
                    server.publish(Transform(device="A", timestamp_ns=number, matrix=np.eye(4)))
                await until_async(lambda: all(peer.idle for peer in server.peers))
                assert not sum(peer.dropped for peer in server.peers)
            async with Server(port=port) as server:
                await until_async(lambda: len(server.peers) == 3)
                assert all(peer.connected for peer in server.peers)

    run(story())
