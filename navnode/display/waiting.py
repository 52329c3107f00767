"""The page before there is one: what is being prepared, and how far; until the display takes over."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from navnode.config import DisplaySection
from navnode.display.connections import Connections
from navnode.display.web import asset, headers, refuse_other_origins, serving

__all__ = ["WaitingPage"]

_HERE = Path(__file__).parent


class WaitingPage:
    """Serves the page of what is being prepared, from a thread of its own; a context manager.

    Within the block the port is in use; after it, the display's own server may have it. The page asks again until that
    answers, and then gives way to it.

    Args:
        section: where the display will be; nothing is served where there will be none.
    """

    def __init__(self, section: DisplaySection) -> None:
        self._section = section
        self._now: tuple[str, int, int] = ("", 0, 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def tell(self, done: int, total: int, what: str) -> None:
        """Say what is being prepared, and how far: ``done`` of ``total``; call it from any thread."""
        self._now = what, done, total

    def __enter__(self) -> Self:
        """Serve it.

        Raises:
            ConfigError: the port is in use.
        """
        if self._section.enabled:
            begun: Future[None] = Future()
            self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(begun)), daemon=True)
            self._thread.start()
            begun.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_way()

    def give_way(self) -> None:
        """Serve it no longer: the display may have the port."""
        if self._thread is not None and self._loop is not None and self._over is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
            self._thread = None

    async def _serve(self, begun: Future[None]) -> None:
        connections = Connections()
        app = web.Application(middlewares=[connections.middleware])
        app.router.add_get("/", self._page)
        app.router.add_get("/static/{name}", self._asset)
        app.router.add_get("/preparing", self._preparing)
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with serving(app, connections, self._section, "display.port"):
                begun.set_result(None)
                await self._over.wait()
        except Exception as error:
            if begun.done():
                raise
            begun.set_exception(error)

    async def _page(self, _: web.Request) -> web.Response:
        return asset(_HERE, "waiting.html")

    async def _asset(self, request: web.Request) -> web.Response:
        return asset(_HERE, request.match_info["name"])

    async def _preparing(self, request: web.Request) -> web.Response:
        refuse_other_origins(request, self._section)
        what, done, total = self._now
        return web.json_response({"what": what, "done": done, "total": total}, headers=headers())
