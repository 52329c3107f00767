"""The node's line to its reconstruction worker: who is at the other end, and whether it still answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from navnode.clock import now_ns
from navnode.config.sections import RemoteSection
from navnode.errors import PeerError
from navnode.loop import bus, topics
from navnode.security import curve
from navnode.types import WorkerAnswer, WorkerRequest, WorkerState

__all__ = ["WorkerLine"]

log = logging.getLogger(__name__)

_LOST_NS = topics.max_age_ns("worker")

_ASKED_MS, _GONE_MS = 250, 800
"""A worker whose process ended or stopped is noticed within this time; a slow one has the maximum age of its topic."""

_GREETS_MS = 2_000
"""Who does not say within this time that he is the worker is sent away: each holds a descriptor meanwhile."""

_DOUBTED_NS = 2 * topics.HEARTBEAT_NS
"""A connection to a port that strangers reach ended, perhaps one of theirs: so long may the worker's next beat take."""

_TURNED_AWAY = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


class WorkerLine:
    """Requests to the worker, and what it says.

    Args:
        remote: a worker on another machine; None: one of this node's own.
        address: ZeroMQ endpoint for the node's own worker.
    """

    def __init__(self, remote: RemoteSection | None, address: str) -> None:
        self._remote, self._address = remote, address if remote is None else remote.address
        self._socket: zmq.Socket[Any]
        self._events: zmq.Socket[Any]
        self._keys: ThreadAuthenticator | None = None
        self._instance, self._seen_ns = 0, 0
        """Of the worker in use; 0: none is."""
        self._doubted_ns = 0
        """Since when a connection ended after which the worker has not been heard; 0: none did."""
        self._others: set[int] = set()
        self._said = ""

    def open(self) -> None:
        """Wait for the worker.

        Raises:
            ConfigError: the address is not available, or a key cannot be used.
        """
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        if self._remote is not None:
            self._keys = curve.listen(self._socket, Path(self._remote.key), Path(self._remote.worker_key))
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, _GREETS_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _ASKED_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _GONE_MS)
        self._events = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | _TURNED_AWAY)
        bus.listening(self._socket, self._address, topics.bound_of(*topics.TO_WORKER))

    def ask(self, request: WorkerRequest) -> WorkerAnswer | None:
        """Send a request; returns a failure if the queue is full."""
        try:
            self._socket.send_multipart(bus.pack(request), zmq.NOBLOCK)
        except zmq.Again:
            return request.failed("the reconstruction worker takes no more requests", now_ns())
        return None

    def hear(self) -> Iterator[WorkerState | WorkerAnswer]:
        """What the worker has said, and what became of it, without waiting."""
        while self._socket.poll(0):  # first: what was sent before a connection ended says nothing of what is after
            message = self._received()
            if isinstance(message, WorkerState) and self._is_another(message):
                continue
            if message is not None:
                yield message
        now = now_ns()
        while self._events.poll(0):
            yield from self._noticed(int(recv_monitor_message(self._events)["event"]), now)
        if self._doubted_ns and now - self._doubted_ns > _DOUBTED_NS:
            yield self._lost("the reconstruction worker is gone", now)
        elif self._seen_ns and now - self._seen_ns > _LOST_NS:
            yield self._lost("the reconstruction worker does not answer", now)

    def _received(self) -> WorkerState | WorkerAnswer | None:
        try:
            message = bus.unpack([part.buffer for part in self._socket.recv_multipart(copy=False)])
        except PeerError as error:
            log.warning("worker: %s", error)
            return None
        if not isinstance(message, WorkerState | WorkerAnswer):
            log.warning("worker: %s is not a message of a worker", topics.topic_of(message).name)
            return None
        return replace(message, now_ns=now_ns())  # the worker may run on a machine with another clock

    def _is_another(self, state: WorkerState) -> bool:
        """Whether a second worker is there beside the one in use: it may answer requests, and changes nothing."""
        if self._seen_ns and state.instance != self._instance:
            if state.instance not in self._others:
                self._others.add(state.instance)
                log.warning("a second reconstruction worker has this node's keys and is connected: end one of them")
            return True
        self._instance, self._seen_ns, self._doubted_ns, self._said = state.instance, state.now_ns, 0, ""
        return False

    def _noticed(self, event: int, now: int) -> Iterator[WorkerState]:
        """A connection ended, which may have been the worker's, or one was turned away."""
        reason = "a reconstruction worker was turned away: its keys are not those of this node"
        if event & _TURNED_AWAY and not self._seen_ns and self._said != reason:
            log.warning("%s", reason)
            yield self._lost(reason, now)
        elif event == zmq.EVENT_DISCONNECTED and self._seen_ns and self._remote is None:
            yield self._lost("the reconstruction worker is gone", now)
        elif event == zmq.EVENT_DISCONNECTED and self._seen_ns:
            self._doubted_ns = self._doubted_ns or now

    def _lost(self, reason: str, now: int) -> WorkerState:
        self._seen_ns, self._doubted_ns, self._said = 0, 0, reason
        self._others.clear()
        return WorkerState(False, "", reason, now)

    def close(self) -> None:
        """Listen no longer. The socket goes with the process: ZeroMQ aborts if one closes within a message."""
        if self._keys is not None:
            self._keys.stop()
        # Where nobody reads what a socket tells of itself, the one thread that serves all sockets waits for ever.
        self._socket.disable_monitor()
        self._events.close()
