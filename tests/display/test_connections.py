"""Connections to the page's server that ask for nothing are ended; those that are served are kept."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from navnode.display.connections import Connections

HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "


def served(connections: Connections) -> TestServer:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="page")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    app = web.Application(middlewares=[connections.middleware])
    app.router.add_get("/", page)
    app.router.add_get("/ws", socket)
    return TestServer(app, host="127.0.0.1")


@contextlib.asynccontextmanager
async def watched(connections: Connections):
    async with served(connections) as server:
        watching = asyncio.create_task(connections.watch(server.runner.server))
        try:
            yield server
        finally:
            watching.cancel()


async def half_request(port: int) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HALF)
    await writer.drain()
    reader.writer = writer  # keeps the connection open
    return reader


async def ended(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        return await reader.read(1) == b""
    return True


def test_half_requests_are_ended_and_open_pages_are_not():
    async def story() -> None:
        async with watched(Connections(header_s=1.0)) as server, aiohttp.ClientSession() as session:
            socket = await session.ws_connect(server.make_url("/ws"))
            halves = [await half_request(server.port) for _ in range(30)]
            async with asyncio.timeout(10):
                assert all([await ended(half) for half in halves])
            await socket.send_str("still here")
            assert (await socket.receive(timeout=5)).data == "still here"
            async with session.get(server.make_url("/")) as response:
                assert await response.text() == "page"
            await socket.close()

    asyncio.run(story())


def test_a_flood_does_not_lock_out_who_asks():
    async def story() -> None:
        async with watched(Connections(header_s=60.0, most=20)) as server:
            flood = [await half_request(server.port) for _ in range(120)]
            async with asyncio.timeout(10):
                while len(server.runner.server.connections) > 20:
                    await asyncio.sleep(0.1)
            async with aiohttp.ClientSession() as session, session.get(server.make_url("/")) as response:
                assert response.status == 200
            assert len(flood) == 120

    asyncio.run(story())
