"""Server and client for programs without asyncio."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from navnode.igtl import BlockingClient, BlockingServer, Framer, Image, String, WireError
from tests.conftest import find_free_port
from tests.igtl.peers import PATIENCE_S, transform
from tests.patience import until


def test_a_few_lines_of_plain_python():
    heard: list[object] = []
    with BlockingServer(port=0, on_message=heard.append) as server, BlockingClient(port=server.port) as client:
        client.send(transform("Pushed", 1))
        reply = client.command("ListDevices")
        assert reply.metadata["Status"] == "SUCCESS"
        server.publish(transform("Other", 1))
        server.publish(transform("DrillToVolume", 42))
        assert client.wait_for("DrillToVolume", timeout_s=PATIENCE_S).matrix[0, 3] == 42
        assert client.wait_for("Nothing", timeout_s=0.2) is None
        assert heard[0].device == "Pushed" and client.received_ns > 0


def poll(client, done):
    """What comes until it is done, keep-alives left out."""
    got = []

    def polled():
        message = None if (finished := done(got)) else client.receive(timeout_s=0)
        got.extend([message] if message is not None and message.device != "KeepAlive" else [])
        return finished

    until(polled, PATIENCE_S, every_s=0)
    return got


def test_polling_connects_and_reads():
    with BlockingServer(port=0) as server, BlockingClient(port=server.port) as client:
        assert poll(client, lambda _: server.clients) == []
        server.publish(transform("A", 1))
        assert [message.device for message in poll(client, len)] == ["A"]


def test_a_command_whose_connection_is_lost_fails_before_its_time_is_up():
    def hang_up(listening):
        connection, framer = listening.accept()[0], Framer()
        with connection:
            while not any(message.type == "COMMAND" for message in framer.feed(connection.recv(1 << 16))):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=hang_up, args=(listening,)).start()
        client = BlockingClient(port=listening.getsockname()[1])
        with client, pytest.raises(WireError, match="lost before the answer"):
            client.command("Wait", timeout_s=PATIENCE_S)


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
        poll(client, lambda _: server.clients)
        picture = np.zeros((1, 1_000, 1_000), np.uint16)
        reader = threading.Thread(target=lambda: [client.wait_for("XRay", PATIENCE_S) for _ in range(10)])
        reader.start()
        for _ in range(10):
            server.send(Image(device="XRay", voxels=picture, ras_from_index=np.eye(4)))
        assert server.flush(timeout_s=PATIENCE_S)
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
            poll(client, lambda _: server.clients)
            server.publish(transform("A", k))
            assert client.wait_for("A", timeout_s=PATIENCE_S).matrix[0, 3] == k
    client.close()
