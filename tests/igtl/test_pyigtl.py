"""Programs written for pyigtl, on this engine; and pyigtl itself at the other end."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time

import numpy as np
import pyigtl as theirs
import pytest

import navnode.igtl.pyigtl as ours
from navnode.errors import ConfigError
from tests.conftest import find_free_port
from tests.patience import until

MATRIX = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 1]], np.float32)
VOXELS = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4)
PAIRS = [(ours, theirs), (theirs, ours), (ours, ours)]


@pytest.mark.long
def test_pyigtls_own_tests_pass_unchanged():
    tests = importlib.util.find_spec("pyigtl.tests.test_basic_comm")
    assert tests is not None and tests.origin is not None
    program = (
        "import sys, unittest, navnode.igtl.pyigtl as ours; sys.modules['pyigtl'] = ours\n"
        "import importlib.util as util\n"
        f"spec = util.spec_from_file_location('theirs', {tests.origin!r})\n"
        "module = util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert module.pyigtl is ours\n"
        "result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromModule(module))\n"
        "sys.exit(not (result.wasSuccessful() and result.testsRun >= 3))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def connected(server_of, client_of):
    port = find_free_port()
    server, client = server_of.OpenIGTLinkServer(port=port), client_of.OpenIGTLinkClient("127.0.0.1", port)
    until(lambda: server.is_connected() and client.is_connected(), 30, "never connected")
    return server, client


def samples(module):
    return [
        module.TransformMessage(MATRIX, device_name="T"),
        module.ImageMessage(VOXELS, device_name="I"),
        module.ImageMessage(
            VOXELS.astype(np.uint8)[..., None].repeat(3, -1), np.diag([2, 3, 4, 1]), "ras", device_name="RGB"
        ),
        module.StringMessage("hello", device_name="S"),
        module.PointMessage(
            [[20, 30, 10], [2, -5, -10]],
            names=["a", "b"],
            rgba_colors=[255, 0, 0, 255],
            diameters=[1.5, 2.5],
            device_name="P",
        ),
        module.PositionMessage([[1, 2, 3], [4, 5, 6]], [[1, 2, 3, 4], [5, 6, 7, 8]], device_name="Q"),
    ]


@pytest.mark.parametrize(("server_of", "client_of"), PAIRS)
def test_messages_go_both_ways(server_of, client_of):
    server, client = connected(server_of, client_of)
    try:
        for sender, module, receiver in ((server, server_of, client), (client, client_of, server)):
            for message in samples(module):
                assert sender.send_message(message)
                got = receiver.wait_for_message(message.device_name, timeout=30)
                assert got is not None and got.message_type == message.message_type
                assert abs(got.timestamp - message.timestamp) < 1e-6
                for name in ("matrix", "image", "string", "positions", "quaternions", "ijk_to_world_matrix"):
                    if hasattr(message, name):
                        sent, came = getattr(message, name), getattr(got, name)
                        assert sent == came if isinstance(sent, str) else np.allclose(sent, came)
    finally:
        client.stop()
        server.stop()


@pytest.mark.parametrize("index", range(6))
def test_the_bytes_are_pyigtls(index):
    mine, other = samples(ours)[index], samples(theirs)[index]
    mine.timestamp = other.timestamp = 1_700_000_000.5
    packed, expected = mine.pack(), other.pack()
    assert packed[:34] == expected[:34] and packed[58:] == expected[58:]


def test_metadata_travels_at_header_version_2():
    server, client = connected(ours, ours)
    message = ours.StringMessage("x", device_name="ARatherLongDeviceNameIndeed")
    message.header_version, message.metadata = 2, {"Key": "value"}
    client.send_message(message)  # who speaks version 2 is answered in it
    assert server.wait_for_message(message.device_name, timeout=30).metadata == message.metadata
    server.send_message(message)
    got = client.wait_for_message("ARatherLongDeviceNameIndeed", timeout=30)
    assert got.metadata == {"Key": "value"} and "Key: value" in str(got)
    client.stop()
    server.stop()


def test_what_was_sent_before_anybody_came_is_kept_and_the_newest_is_got():
    port = find_free_port()
    server = ours.OpenIGTLinkServer(port=port)
    for k in range(150):
        server.send_message(ours.StringMessage(str(k), device_name=f"S{k}"), wait=False)
    client = ours.OpenIGTLinkClient(port=port)
    assert client.wait_for_message("S149", timeout=30).string == "149"
    names = {message.device_name for message in client.get_latest_messages()}
    assert "S50" in names and "S49" not in names  # 100 wait at most
    assert client.get_latest_messages() == []
    assert client.wait_for_message("Nothing", timeout=0.05) is None
    client.stop()
    server.stop()


def test_a_client_finds_a_server_that_comes_later_and_again():
    port = find_free_port()
    client = ours.OpenIGTLinkClient(port=port)
    for text in ("one", "two"):
        server = ours.OpenIGTLinkServer(port=port)
        server.send_message(ours.StringMessage(text, device_name="S"))
        assert client.wait_for_message("S", timeout=30).string == text
        server.stop()
    client.stop()


def test_surfaces_can_be_received():
    server, client = connected(ours, ours)
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    server.send_message(ours.PolyDataMessage(points=points, polygons=np.array([3, 0, 1, 2]), device_name="Mesh"))
    got = client.wait_for_message("Mesh", timeout=30)
    assert np.array_equal(got.points, points) and got.polygons.tolist() == [3, 0, 1, 2]
    client.stop()
    server.stop()


def test_a_port_in_use_is_named():
    port = find_free_port()
    server = ours.OpenIGTLinkServer(port=port)
    with pytest.raises(ConfigError, match="in use"):
        ours.OpenIGTLinkServer(port=port)
    server.stop()


def test_what_cannot_be_sent_does_not_stop_the_rest():
    server, client = connected(ours, ours)
    assert not server.send_message("no message")
    server.send_message(ours.StringMessage("x" * 70_000, device_name="Long"))
    server.send_message(ours.StringMessage("short", device_name="Short"))
    assert client.wait_for_message("Short", timeout=30).string == "short"
    client.stop()
    server.stop()


def test_a_client_that_never_reads_does_not_keep_the_others_waiting():
    server, client = connected(ours, ours)
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        deadline = time.monotonic() + 30
        while len(server._server.peers) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        picture = np.zeros((1, 700, 700), np.uint16)
        for k in range(8):
            server.send_message(ours.ImageMessage(picture, device_name=f"I{k}"))
            assert client.wait_for_message(f"I{k}", timeout=30) is not None
        assert silent.fileno() > 0
    client.stop()
    server.stop()


def test_commands_are_the_programs_to_answer():
    server, client = connected(ours, ours)
    client.send_message(ours.StringMessage("<Command/>", device_name="CMD_1"))
    assert server.wait_for_message("CMD_1", timeout=30).string == "<Command/>"
    client.stop()
    server.stop()


def test_after_stop_messages_are_only_queued():
    server, client = connected(ours, ours)
    client.stop()
    server.stop()
    assert server.send_message(ours.StringMessage("x"), wait=False)


def test_long_names_are_cut_at_version_1_as_pyigtl_does():
    mine, other = (module.StringMessage("x", device_name="A" * 30, timestamp=1.5) for module in (ours, theirs))
    assert mine.pack() == other.pack()


def test_a_message_that_cannot_be_sent_ends_nothing():
    server, client = connected(ours, ours)
    bad = ours.StringMessage("x", device_name="Bad")
    bad.header_version, bad.metadata = 2, {"n": 5}
    server.send_message(bad)
    server.send_message(ours.StringMessage("y", device_name="Good"))
    assert client.wait_for_message("Good", timeout=30) is not None
    client.stop()
    server.stop()
