"""Frames registered beside the loop, in a thread; kernels release the GIL, so the loop goes on meanwhile."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable

from navnode.clock import now_ns
from navnode.loop.executors import AtOnce
from navnode.node.processes import may_take_loop_priority
from navnode.types import RegistrationDone, RegistrationRequest, Volume

_NICE = 8
"""Where the loop cannot be scheduled in real time: a frame may wait for a tool, never a tool for a frame."""


class Threaded:
    """Takes the loop's requests; answers go to whoever started it."""

    def __init__(self, at_once: AtOnce) -> None:
        self._at_once = at_once
        self._requests: queue.SimpleQueue[tuple[RegistrationRequest, Volume | None]] = queue.SimpleQueue()
        self.began_ns = 0
        """When the last frame's registration began."""

    def __call__(self, request: RegistrationRequest, volume: Volume | None) -> None:
        """Register a frame against a volume, later."""
        self._requests.put((request, volume))

    def start(self, done: Callable[[RegistrationDone], object]) -> None:
        """Begin to answer; ``done`` is called in the thread."""
        threading.Thread(target=self._run, args=(done,), name="registration", daemon=True).start()

    def _run(self, done: Callable[[RegistrationDone], object]) -> None:
        if sys.platform == "linux" and not may_take_loop_priority():  # else the loop comes first anyway
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            request, volume = self._requests.get()
            self.began_ns = now_ns()
            answer = self._at_once.register(request, volume)
            done(answer)
            self._at_once.prepare(answer)
