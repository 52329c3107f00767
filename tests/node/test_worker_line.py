"""Who is at the other end of the worker's line: the worker in use, a second one, one with other keys, a stranger."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress

import pytest
import zmq

from navnode.config.sections import RemoteSection
from navnode.errors import ConfigError
from navnode.loop import bus
from navnode.node import worker
from navnode.node.worker_line import WorkerLine
from navnode.security import curve
from navnode.types import WorkerState
from tests.conftest import find_free_port
from tests.patience import until

TURNED_AWAY = "a reconstruction worker was turned away: its keys are not those of this node"
GONE = "the reconstruction worker is gone"


@pytest.fixture
def keys(tmp_path):
    for name in ("ours", "others"):
        curve.create(tmp_path / name)
    return tmp_path


@pytest.fixture
def remote(keys):
    ours = keys / "ours"
    return RemoteSection(key=str(ours / "node.key_secret"), worker_key=str(ours / "worker.key"), port=find_free_port())


def opened(remote) -> WorkerLine:
    def tried() -> WorkerLine | None:
        line = WorkerLine(remote, "")
        try:
            line.open()
        except zmq.ZMQError:  # who guarded the last one leaves a moment later
            return None
        return line

    return until(tried)


@pytest.fixture
def line(remote):
    line = opened(remote)
    yield line
    line.close()


class Peer:
    """A worker's socket."""

    def __init__(self, remote, keys, instance=0, own="ours", node="ours"):
        self.instance = instance
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        bus.limited(self.socket, 8)
        curve.join(self.socket, keys / own / "worker.key_secret", keys / node / "node.key")
        self.socket.connect(remote.address)

    def beat(self):
        with suppress(zmq.Again):  # nobody takes what one says who is not let in
            self.socket.send_multipart(bus.pack(WorkerState(True, "SART", "", 1, self.instance)), zmq.NOBLOCK)

    def close(self):
        self.socket.close()


def hears(line, wanted, *beating):
    """Everything heard until one of it is as wanted; workers beat meanwhile."""
    heard = []

    def listened():
        for each in beating:
            each.beat()
        heard.extend(line.hear())
        return any(map(wanted, heard))

    until(listened)
    return heard


def quiet(line, seconds, *beating):
    heard, began = [], time.monotonic()
    while time.monotonic() - began < seconds:
        for each in beating:
            each.beat()
        heard.extend(line.hear())
        time.sleep(0.05)
    return heard


def test_a_second_worker_changes_nothing_and_is_named(line, remote, keys, caplog):
    first, second = Peer(remote, keys, 1), Peer(remote, keys, 2)
    assert hears(line, lambda state: state.alive, first)[-1].instance == 1
    with caplog.at_level(logging.WARNING):
        heard = quiet(line, 0.6, first, second)
    assert {state.instance for state in heard if state.alive} == {1} and all(state.alive for state in heard)
    assert [record.message.count("a second reconstruction worker") for record in caplog.records] == [1]
    first.close()
    after = hears(line, lambda state: state.instance == 2, second)
    assert [state.reason for state in after if not state.alive] == [GONE], "then the second one is in use"
    second.close()
    hears(line, lambda state: state.reason == GONE)


def test_who_is_turned_away_does_not_end_the_worker_in_use(line, remote, keys):
    first = Peer(remote, keys, 1)
    hears(line, lambda state: state.alive, first)
    strangers = [Peer(remote, keys, 2, own="others"), Peer(remote, keys, 3, node="others")]
    with socket.create_connection((remote.host, remote.port)) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
        heard = quiet(line, 1.0, first, *strangers)
    for each in strangers:
        each.close()
    heard += quiet(line, 0.3, first)
    assert heard and all(state.alive and state.instance == 1 for state in heard), "nor does one who says nothing"
    first.close()
    assert hears(line, lambda state: not state.alive)[-1].reason == GONE


@pytest.mark.parametrize(("own", "node"), [("others", "ours"), ("ours", "others")])
def test_other_keys_are_said_once_while_there_is_no_worker(line, remote, keys, caplog, own, node):
    stranger = Peer(remote, keys, 2, own=own, node=node)
    with caplog.at_level(logging.WARNING):
        heard = hears(line, lambda state: state.reason == TURNED_AWAY) + quiet(line, 0.5)
    assert [(state.alive, state.reason) for state in heard] == [(False, TURNED_AWAY)]
    assert [record.message for record in caplog.records] == [TURNED_AWAY]
    first = Peer(remote, keys, 1)
    assert hears(line, lambda state: state.alive, first)[-1].instance == 1
    for each in (stranger, first):
        each.close()
    hears(line, lambda state: state.reason == GONE)


def serving(remote, own, node):
    """A worker of this very process; what it reports, and the error that ends it."""
    said, ended = [], []

    def run():
        try:
            worker.serve(
                remote.address,
                worker.Method.SART,
                threads=1,
                secured=lambda made: curve.join(made, own / "worker.key_secret", node / "node.key"),
                report=said.append,
            )
        except ConfigError as error:
            ended.append(str(error))

    threading.Thread(target=run, daemon=True).start()
    return said, ended


def test_a_worker_says_that_it_waits_is_connected_and_waits_again(remote, keys):
    said, ended = serving(remote, keys / "ours", keys / "ours")
    at = f"{remote.host}:{remote.port}"
    until(lambda: said)
    assert said == [f"no node at {at} yet; waiting for it"]
    node = opened(remote)
    heard = hears(node, lambda state: state.alive)
    assert [state.engine.split()[0] for state in heard] == ["SART"]
    until(lambda: len(said) > 1)
    node.close()
    node._socket.close()
    until(lambda: len(said) > 2)
    assert said[1:] == [f"connected to the node at {at}", f"the node at {at} is gone; waiting for it"]
    assert not ended


def test_a_worker_whose_key_the_node_does_not_know_ends(line, remote, keys):
    _, ended = serving(remote, keys / "others", keys / "ours")
    until(lambda: list(line.hear()) is not None and ended)
    assert "does not know this worker's key" in ended[0]


def test_a_worker_with_another_nodes_key_says_so_and_tries_on(line, remote, keys):
    said, ended = serving(remote, keys / "ours", keys / "others")
    until(lambda: said)
    quiet(line, 0.5)
    assert not ended and said == [
        f"the node at {remote.host}:{remote.port} does not hold the key that node_key names; trying again"
    ]
