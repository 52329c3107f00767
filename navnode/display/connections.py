"""How many connections the page's server keeps, and for how long it waits for a request.

aiohttp waits for ever for the rest of a request's header and of its body, and accepts any number of connections: some
hundred half requests would leave it without descriptors.
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
"""For a request's header to arrive, from the connection's start or the end of the request before, and for its body."""
_SLOWEST_BYTES_PER_S = 100_000
"""A body may take longer, as long as at this rate, however steadily it trickles in."""
_LOOKED_AT_EVERY_S = 0.5


class Connections:
    """Watches the connections of a server; ends those whose request does not arrive.

    Args:
        header_s: how long to wait for a request's header, and for its body.
        most: how many connections to keep.
    """

    def __init__(self, header_s: float = _HEADER_S, most: int = _MOST) -> None:
        self._header_s, self._most = header_s, most
        self._requests: dict[Any, web.Request] = {}
        self._waiting_since_s: dict[Any, float] = {}

    @property
    def middleware(self) -> Middleware:
        """For the application whose requests count."""

        @web.middleware
        async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._requests[connection] = request
            self._waiting_since_s.pop(connection, None)
            try:
                return await handler(request)
            except ConnectionError as error:
                if request.transport is not None:
                    raise
                raise web.HTTPRequestTimeout from error  # which nobody gets: the connection is gone
            finally:
                self._requests.pop(connection, None)
                self._waiting_since_s.pop(connection, None)

        return watched

    async def watch(self, server: web.Server) -> None:
        """End connections of a server that are waited for in vain, until cancelled."""
        while True:
            self._end_late(server, time.monotonic())
            await asyncio.sleep(_LOOKED_AT_EVERY_S)

    def _end_late(self, server: web.Server, now_s: float) -> None:
        waiting = [each for each in server.connections if self._arrived_bytes(each) is not None]
        self._waiting_since_s = {each: self._waiting_since_s.get(each, now_s) for each in waiting}
        oldest_first = sorted(waiting, key=self._waiting_since_s.__getitem__)
        too_many = max(0, len(server.connections) - self._most)
        late = [each for each in oldest_first if now_s - self._waiting_since_s[each] > self._allowed_s(each)]
        surplus = oldest_first[len(oldest_first) - too_many :]
        for connection in {*late, *surplus}:
            if connection.transport is not None:
                connection.transport.abort()
        if late or surplus:
            log.warning("page: ended %d connections whose request did not arrive", len({*late, *surplus}))

    def _arrived_bytes(self, connection: Any) -> int | None:
        """Bytes of the body that arrived so far; None: the whole request did."""
        request = self._requests.get(connection)
        if request is None:
            return 0
        return None if request.content.is_eof() else request.content.total_bytes

    def _allowed_s(self, connection: Any) -> float:
        return self._header_s + (self._arrived_bytes(connection) or 0) / _SLOWEST_BYTES_PER_S
