"""How many connections the page's server keeps, and for how long it waits for a request.

aiohttp waits for ever for the rest of a request's header, and accepts any number of connections: some hundred half
requests would leave it without descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["Connections"]

log = logging.getLogger(__name__)

_MOST = 200
"""Browsers open six for a page; the newest of more, that are not being served, are closed."""
_HEADER_S = 10.0
"""For a request to arrive, from the connection's start or the end of the request before."""
_LOOKED_AT_EVERY_S = 0.5


class Connections:
    """Watches the connections of a server; ends those that do not ask for anything.

    Args:
        header_s: how long to wait for a request.
        most: how many connections to keep.
    """

    def __init__(self, header_s: float = _HEADER_S, most: int = _MOST) -> None:
        self._header_s, self._most = header_s, most
        self._served: set[Any] = set()
        self._idle_since_s: dict[Any, float] = {}

    @property
    def middleware(self) -> Middleware:
        """For the application whose requests count."""

        @web.middleware
        async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._served.add(connection)
            try:
                return await handler(request)
            finally:
                self._served.discard(connection)
                self._idle_since_s.pop(connection, None)

        return watched

    async def watch(self, server: web.Server) -> None:
        """End idle connections of a server until cancelled."""
        while True:
            self._end_idle(server, time.monotonic())
            await asyncio.sleep(_LOOKED_AT_EVERY_S)

    def _end_idle(self, server: web.Server, now_s: float) -> None:
        idle = [connection for connection in server.connections if connection not in self._served]
        self._idle_since_s = {connection: self._idle_since_s.get(connection, now_s) for connection in idle}
        oldest_first = sorted(idle, key=self._idle_since_s.__getitem__)
        too_many = max(0, len(server.connections) - self._most)
        late = [each for each in oldest_first if now_s - self._idle_since_s[each] > self._header_s]
        surplus = oldest_first[len(oldest_first) - too_many :]
        for connection in {*late, *surplus}:
            if connection.transport is not None:
                connection.transport.abort()
        if late or surplus:
            log.warning("page: ended %d connections without a request", len({*late, *surplus}))
