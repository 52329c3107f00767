"""The reconstruction worker: a separate process, so that it cannot disturb the loop."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from queue import Queue, SimpleQueue
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from navnode.clock import now_ns
from navnode.errors import ConfigError, PeerError
from navnode.loop import bus, topics
from navnode.reconstruction.answer import answer
from navnode.reconstruction.choice import Method, described
from navnode.reconstruction.methods import Reconstructor
from navnode.types import VolumeReady, WorkerAnswer, WorkerRequest, WorkerState

__all__ = ["run_beside_the_loop", "serve"]

log = logging.getLogger(__name__)

_NICE = 19
"""A volume may wait for a frame, never a frame for a volume."""
_THREADS = 1
"""The other core belongs to the loop."""


def run_beside_the_loop(address: str, method: Method = Method.AUTO) -> None:
    """:func:`serve` at low priority on the node's machine, so that the loop never waits for it."""
    os.nice(_NICE)
    serve(address, method, threads=_THREADS)


def serve(
    address: str,
    method: Method = Method.AUTO,
    *,
    threads: int | None = None,
    secured: Callable[[zmq.Socket[Any]], None] = lambda socket: None,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve requests until the process ends.

    Args:
        address: ZeroMQ address of the node.
        threads: number of threads; None: one per core.
        secured: called with the socket, to set its keys.
        report: called with a line about every volume, and about the connection.

    Raises:
        ConfigError: the node does not know this worker's key.
    """
    reconstructor = Reconstructor(method, threads)
    engine = described(reconstructor.method, reconstructor.engine)
    context: zmq.Context[Any] = zmq.Context.instance()
    socket = context.socket(zmq.DEALER)
    bus.limited(socket, queued=topics.bound_of(*topics.TO_WORKER))
    secured(socket)
    greeting = _Greeting(socket, address, report)
    socket.connect(address)
    jobs: Queue[WorkerRequest] = Queue(topics.bound_of(*topics.TO_WORKER))
    results: SimpleQueue[WorkerAnswer] = SimpleQueue()
    threading.Thread(target=_work, args=(reconstructor, jobs, results), daemon=True).start()
    last_beat = 0.0
    while True:
        if time.monotonic() - last_beat >= topics.HEARTBEAT_NS / 1e9:
            last_beat = time.monotonic()
            socket.send_multipart(bus.pack(WorkerState(True, engine, "", now_ns(), os.getpid())))
        greeting.follow()
        if jobs.full():  # further requests wait in the socket, until that is full as well
            time.sleep(0.1)
        elif socket.poll(100):
            try:
                job = bus.unpack([frame.buffer for frame in socket.recv_multipart(copy=False)])
            except PeerError as error:
                log.warning("request refused: %s", error)
            else:
                if isinstance(job, WorkerRequest):
                    jobs.put(job)
                else:
                    log.warning("request refused: %s is not a request", topics.topic_of(job).name)
        while not results.empty():
            result = results.get()
            socket.send_multipart(bus.pack(result))
            if isinstance(result, VolumeReady):
                report(f"{result.views} views: {result.elapsed_ms:.0f} ms; {result.reason}")


class _Greeting:
    """What becomes of the connection to the node, a line for every change."""

    def __init__(self, socket: zmq.Socket[Any], address: str, report: Callable[[str], None]) -> None:
        kinds = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_DISCONNECTED
        refusals = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        self._events = socket.get_monitor_socket(kinds | refusals | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._node, self._report = address.removeprefix("tcp://"), report
        self._joined, self._said = False, ""

    def follow(self) -> None:
        """Report what has happened since.

        Raises:
            ConfigError: the node does not know this worker's key.
        """
        while self._events.poll(0):
            self._on(int(recv_monitor_message(self._events)["event"]))

    def _on(self, event: int) -> None:
        match event:
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._joined = True
                self._say(f"connected to the node at {self._node}")
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:  # ZeroMQ does not try again
                raise ConfigError(f"the node at {self._node} does not know this worker's key (its worker_key)")
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._say(f"the node at {self._node} does not hold the key that node_key names; trying again")
            case zmq.EVENT_DISCONNECTED if self._joined:
                self._joined = False
                self._say(f"the node at {self._node} is gone; waiting for it")
            case zmq.EVENT_CONNECT_RETRIED if not self._said:
                self._say(f"no node at {self._node} yet; waiting for it")

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._report(line)


def _work(reconstructor: Reconstructor, jobs: Queue[WorkerRequest], results: SimpleQueue[WorkerAnswer]) -> None:
    while True:
        results.put(answer(reconstructor, jobs.get(), now_ns))
