"""Where what takes pictures in puts them, and says how it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from navnode.clock import now_ns
from navnode.igtl import Image, Server, StatusMessage

__all__ = ["Intake", "Outlet"]

log = logging.getLogger(__name__)

_ON_ITS_WAY_S = 1.0
"""A client that has not read a picture for this long loses those after it, up to the newest."""
_MOST_TEXT = 500


class Outlet:
    """Where a source puts its pictures and says how it is; every method may be called from any thread.

    Args:
        device: name of the images and of the states.
    """

    def __init__(self, server: Server, device: str, loop: asyncio.AbstractEventLoop) -> None:
        self.device = device
        self.pictures = self.held = self.refused = 0
        self._server, self._loop = server, loop
        self._problem = ""
        self._lock = threading.Lock()

    @property
    def problem(self) -> str:
        """What is wrong now, or ''."""
        return self._problem

    def show(self, image: Image) -> None:
        """Send a picture; a client that is too slow gets the newest only."""
        self.pictures += 1
        self._soon(lambda: self._server.publish(image, greets=False))

    def show_in_order(self, images: Iterable[Image]) -> None:
        """Send pictures one after the other; waits until clients have taken each, up to a second in all."""
        waited_s = 0.0
        for image in images:
            self.pictures += 1
            waiting = self._show_and_wait(image, max(0.0, _ON_ITS_WAY_S - waited_s))
            with contextlib.suppress(RuntimeError):  # it ends
                waited_s += asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    async def _show_and_wait(self, image: Image, longest_s: float) -> float:
        began_s = self._loop.time()
        self._server.publish(image, greets=False)
        await self._server.drain(longest_s)
        return self._loop.time() - began_s

    def tell(self, problem: str) -> None:
        """Say what is wrong, or that all is well (''); clients get the state, the operator a line, at every change."""
        with self._lock:
            if problem == self._problem:
                return
            self._problem = problem
        if problem:
            log.warning("%s", problem)
        code = StatusMessage.NOT_READY if problem else StatusMessage.OK
        state = StatusMessage(device=self.device, timestamp_ns=now_ns(), code=code, text=problem[:_MOST_TEXT])
        self._soon(lambda: self._server.publish(state))

    def _soon(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it ends
            self._loop.call_soon_threadsafe(call)


class Intake(Protocol):
    """What takes pictures in, in threads of its own."""

    def start(self, outlet: Outlet) -> None:
        """Begin; returns at once."""

    def stop(self) -> None:
        """End, and wait for the threads."""

    def lives(self) -> bool:
        """Whether its threads still move."""
