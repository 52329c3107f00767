"""Registers frames in a thread beside the loop; kernels release the GIL, so the loop continues meanwhile."""

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

__all__ = ["Threaded"]

_NICE = 8
"""Used if the loop has no real-time priority: a frame may wait for a tool, never a tool for a frame."""


class Threaded:
    """Executes registration requests in a thread."""

    def __init__(self, at_once: AtOnce) -> None:
        self._at_once = at_once
        self._requests: queue.SimpleQueue[tuple[RegistrationRequest, Volume | None]] = queue.SimpleQueue()
        self.began_ns = 0
        """When the last registration began."""

    def __call__(self, request: RegistrationRequest, volume: Volume | None) -> None:
        """Queue a request to register a frame to a volume."""
        self._requests.put((request, volume))

    def start(self, done: Callable[[RegistrationDone], object], failed: Callable[[Exception], object]) -> None:
        """Start the thread, which prepares the CT first.

        Args:
            done: called in the thread with every answer.
            failed: called in the thread if the CT cannot be prepared, which ends it.
        """
        threading.Thread(target=self._run, args=(done, failed), name="registration", daemon=True).start()

    def _run(self, done: Callable[[RegistrationDone], object], failed: Callable[[Exception], object]) -> None:
        if sys.platform == "linux" and not may_take_loop_priority():  # otherwise the loop comes first anyway
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            self._at_once.begin()
        except Exception as error:
            failed(error)
            return
        while True:
            request, volume = self._requests.get()
            self.began_ns = now_ns()
            answer = self._at_once.register(request, volume)
            done(answer)
            self._at_once.prepare(answer)
