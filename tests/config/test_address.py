"""One form of HOST:PORT for all options and keys."""

import contextlib
import socket

import pytest
import zmq

from navnode import config
from navnode.config.fields import address_option, parse_address
from navnode.errors import ConfigError
from navnode.loop import bus

WRONG = ["", "5", ":5", "host", "host:", "a:b:1", "::1:5", "[::1]", "[::1]:", "[host]:5", "[]:5"]
WRONG += [f"host:{port}" for port in ("0", "65536", "-1", "1 ", " 1", "\u0663", "\u00b2")]  # the last two are digits
WRONG += ["tcp://host:5", "host/5:5"]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:18944", "localhost", 18944),
        ("10.0.0.7:1", "10.0.0.7", 1),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_addresses(text, host, port):
    assert parse_address(text) == (host, port) and str(parse_address(text)) == text


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_address_is_refused_alike_everywhere(text, tmp_path):
    said = f"{text!r} is not HOST:PORT (ports are 1 to 65535; IPv6 addresses go in brackets)"
    with pytest.raises(ConfigError) as option:
        address_option(text, "--source")
    assert str(option.value) == f"--source: {said}"
    worker = tmp_path / "worker.toml"
    worker.write_text(f'node = "{text}"\nkey = "a"\nnode_key = "b"\n')
    with pytest.raises(ConfigError) as key:
        config.load_worker(worker)
    assert str(key.value) == f"{worker}: node: {said}"


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_node_and_worker_meet_at_an_ipv6_address(free_port):
    remote = config.RemoteSection(key="a", worker_key="b", host="::1", port=free_port)
    context = zmq.Context()
    with context.socket(zmq.DEALER) as node, context.socket(zmq.DEALER) as worker:
        for each in (node, worker):
            bus.limited(each, 8)
        node.bind(remote.address)
        worker.connect(f"tcp://{parse_address(f'[::1]:{free_port}')}")
        worker.send(b"alive")
        assert node.poll(5000) and node.recv() == b"alive"
    context.term()
