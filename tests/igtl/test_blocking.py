"""Server and client for programs without asyncio."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from navnode.igtl import BlockingClient, BlockingServer, Image, String, WireError
from tests.conftest import find_free_port
from tests.igtl.peers import transform


def test_a_few_lines_of_plain_python():
    heard: list[object] = []
    with BlockingServer(port=0, on_message=heard.append) as server, BlockingClient(port=server.port) as client:
        client.send(transform("Pushed", 1))
        reply = client.command("ListDevices")
        assert reply.metadata["Status"] == "SUCCESS"
        server.publish(transform("Other", 1))
        server.publish(transform("DrillToVolume", 42))
        assert client.wait_for("DrillToVolume", timeout_s=5).matrix[0, 3] == 42
        assert client.wait_for("Nothing", timeout_s=0.2) is None
        assert heard[0].device == "Pushed" and client.received_ns > 0


def test_polling_connects_and_reads():
    with BlockingServer(port=0) as server, BlockingClient(port=server.port) as client:
        deadline = time.monotonic() + 5
        while server.clients == 0 and time.monotonic() < deadline:
            assert client.receive(timeout_s=0) is None
        server.publish(transform("A", 1))
        found = None
        while found is None and time.monotonic() < deadline:
            found = client.receive(timeout_s=0)
        assert found is not None and found.device == "A"


def test_a_command_whose_connection_is_lost_fails_soon():
    port = find_free_port()
    with BlockingServer(port=port, commands={"Wait": lambda _: time.sleep(0.3)}) as server:
        client = BlockingClient(port=port)
        threading.Timer(0.1, lambda: next(iter(server._server.peers)).close()).start()
        began = time.monotonic()
        with pytest.raises(WireError, match="lost before the answer"):
            client.command("Wait", timeout_s=20)
        assert time.monotonic() - began < 10
        client.close()


def test_a_server_cannot_be_closed_from_its_own_thread():
    raised: list[BaseException] = []

    def close(_) -> str:
        try:
            server.close()
        except RuntimeError as error:
            raised.append(error)
        return "tried"

    with BlockingServer(port=0, commands={"Close": close}) as server, BlockingClient(port=server.port) as client:
        assert client.command("Close").metadata["Message"] == "tried" and raised


def test_everything_sent_has_left_after_a_flush():
    with BlockingServer(port=0) as server, BlockingClient(port=server.port) as client:
        client.receive(timeout_s=0.2)
        picture = np.zeros((1, 1_000, 1_000), np.uint16)
        reader = threading.Thread(target=lambda: [client.wait_for("XRay", 5) for _ in range(10)])
        reader.start()
        for _ in range(10):
            server.send(Image(device="XRay", voxels=picture, ras_from_index=np.eye(4)))
        assert server.flush(timeout_s=10)
        server.close()
        reader.join()
        assert client.receive(timeout_s=0) is None


def test_a_blocking_client_connects_again():
    port = find_free_port()
    client = BlockingClient(port=port)
    assert client.receive(timeout_s=0.3) is None
    with pytest.raises(WireError, match="not sent"):
        client.send(transform("x", 1))
    for k in range(2):
        with BlockingServer(port=port) as server:
            server.publish(String(device="Note", text=str(k)))
            deadline = time.monotonic() + 10
            while server.clients == 0 and time.monotonic() < deadline:
                client.receive(timeout_s=0.1)
            server.publish(transform("A", k))
            assert client.wait_for("A", timeout_s=5).matrix[0, 3] == k
    client.close()
