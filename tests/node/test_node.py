"""The node's sockets and threads around the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from navnode.igtl import Arrival, Image
from navnode.node.node import Node
from tests.conftest import find_free_port
from tests.loop.theatre import CT, configuration


async def run_until_it_ends(node: Node, begin: Callable[[], None] = lambda: None) -> None:
    await node.start()
    try:
        begin()
        async with asyncio.timeout(20):
            await node.run()
    finally:
        await node.stop()


def test_a_ct_that_cannot_be_prepared_ends_the_node(tmp_path, monkeypatch):
    """It listens already: it must not wait for X-rays that nobody will register."""
    told = configuration("procedural", console={"port": find_free_port()}, sources=[])
    node = Node(told, CT, f"ipc://{tmp_path}/w", f"ipc://{tmp_path}/o")

    def fails(*_: object) -> None:
        raise MemoryError("no room for the pyramid")

    monkeypatch.setattr("navnode.registration.answer.ImageRegistration", fails)

    with pytest.raises(MemoryError, match="no room"):
        asyncio.run(run_until_it_ends(node))


def test_a_step_that_fails_behind_a_corrected_image_ends_the_node(tmp_path, monkeypatch):
    """Its supervisor starts another one: a loop that goes on with half a step done may show anything."""
    told = configuration("procedural", console={"port": find_free_port()}, sources=[])
    node = Node(told, CT, f"ipc://{tmp_path}/w", f"ipc://{tmp_path}/o")
    monkeypatch.setattr(node._runner.ingest, "computes", lambda message: True)

    def fails(*_: object) -> None:
        raise RuntimeError("half a step")

    def take_in() -> None:
        counts = np.full((1, 32, 32), 900, np.uint16)
        node._ingest_message(Image(device="XRay", voxels=counts, ras_from_index=np.eye(4)), Arrival(5, 1), fails)

    with pytest.raises(RuntimeError, match="half a step"):
        asyncio.run(run_until_it_ends(node, take_in))
