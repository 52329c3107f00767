"""pyigtl itself at the other end of our server and of our client."""

from __future__ import annotations

import asyncio

import numpy as np
import pyigtl

from navnode.igtl import Client, Image, Point, Server, String, Transform
from tests.conftest import find_free_port
from tests.igtl.peers import PATIENCE_S, run, transform
from tests.patience import until_async


def test_pyigtl_receives_from_our_server():
    async def story():
        server = Server(port=0)
        await server.start()
        client = await asyncio.to_thread(pyigtl.OpenIGTLinkClient, "127.0.0.1", server.port)
        await until_async(lambda: server.peers)
        voxels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
        for _ in range(3):
            server.publish(transform("DrillToVolume", 42))
            server.publish(Image(device="Volume", voxels=voxels, ras_from_index=np.eye(4)))
            server.publish(String(device="Note", text="hello"))
            server.publish(Point(device="DrillTip", points=()))
            await asyncio.sleep(0.05)
        found = await asyncio.to_thread(client.wait_for_message, "DrillToVolume", PATIENCE_S)
        assert found.matrix[0, 3] == 42
        image = await asyncio.to_thread(client.wait_for_message, "Volume", PATIENCE_S)
        assert np.array_equal(image.image, voxels)
        note = await asyncio.to_thread(client.wait_for_message, "Note", PATIENCE_S)
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

        while not (received(Transform) and received(Image)):
            if server.is_connected():
                server.send_message(pyigtl.TransformMessage(matrix, device_name="StylusToTracker"))
                server.send_message(pyigtl.ImageMessage(np.ones((1, 4, 5), np.uint8), device_name="XRay"))
            await asyncio.sleep(0.05)
        assert next(m for m in got if isinstance(m, Transform)).matrix[1, 3] == -7
        assert next(m for m in got if isinstance(m, Image)).voxels.shape == (1, 4, 5)
        task.cancel()
        server.stop()

    run(story())
