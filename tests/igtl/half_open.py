"""Run in a network namespace of its own: how long until each side notices that the other has vanished without a word.

The loopback interface is taken down, so that nothing arrives any more and nobody says so. Prints JSON.
"""

import asyncio
import json
import subprocess
import time

import numpy as np

from navnode.igtl import Client, Server, Transform


async def measure(streaming: bool) -> dict[str, float]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server, states = Server(port=0), []
    await server.start()
    client = Client("127.0.0.1", server.port, on_state=lambda up, why: states.append((up, time.monotonic())))
    task = asyncio.create_task(client.run())
    while not server.peers:
        await asyncio.sleep(0.01)
    await asyncio.sleep(1.0)
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    began = time.monotonic()
    noticed: dict[str, float] = {}
    while len(noticed) < 2 and time.monotonic() - began < 30:
        if streaming:
            server.publish(Transform(device="DrillToVolume", matrix=np.eye(4)))
        if not server.peers:
            noticed.setdefault("server_s", time.monotonic() - began)
        if states[-1][0] is False:
            noticed.setdefault("client_s", states[-1][1] - began)
        await asyncio.sleep(0.01)
    task.cancel()
    return noticed


print(json.dumps({name: asyncio.run(measure(name == "streaming")) for name in ("idle", "streaming")}))
