"""Connections to the page's server that ask for nothing are ended; those that are served are kept."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from navnode.display.connections import Connections

HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
BODILESS = b"POST /command HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
"""The header is complete, and the body does not come."""


def served(connections: Connections) -> TestServer:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="page")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    async def command(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application(middlewares=[connections.middleware])
    app.router.add_get("/", page)
    app.router.add_post("/command", command)
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


async def half_request(port: int, half: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(half)
    await writer.drain()
    reader.writer = writer  # keeps the connection open
    return reader


async def ended(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        return await reader.read(1) == b""
    return True


both_halves = pytest.mark.parametrize("half", [HALF, BODILESS], ids=["header", "body"])


@both_halves
def test_half_requests_are_ended_and_open_pages_are_not(half, caplog):
    async def story() -> None:
        async with watched(Connections(header_s=1.0)) as server, aiohttp.ClientSession() as session:
            socket = await session.ws_connect(server.make_url("/ws"))
            halves = [await half_request(server.port, half) for _ in range(30)]
            async with asyncio.timeout(10):
                assert all([await ended(half) for half in halves])
            await socket.send_str("still here")
            assert (await socket.receive(timeout=5)).data == "still here"
            async with session.get(server.make_url("/")) as response:
                assert await response.text() == "page"
            await socket.close()

    asyncio.run(story())
    assert not [record for record in caplog.records if record.exc_info], "what hostile peers do is no error of ours"


def test_a_body_may_take_its_time_but_not_trickle():
    async def story() -> None:
        async def sent(port: int, size: int) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /command HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (10 * size))
            for _ in range(10):
                writer.write(bytes(size))
                await asyncio.sleep(0.3)
            return reader

        async with watched(Connections(header_s=1.0)) as server, asyncio.timeout(20):
            large, trickling = await asyncio.gather(sent(server.port, 100_000), sent(server.port, 10))
            assert b"1000000" in await large.read(1000)
            assert await ended(trickling)

    asyncio.run(story())


@both_halves
def test_a_flood_does_not_lock_out_who_asks(half):
    async def story() -> None:
        async with watched(Connections(header_s=60.0, most=20)) as server:
            flood = [await half_request(server.port, half) for _ in range(120)]
            async with asyncio.timeout(10):
                while len(server.runner.server.connections) > 20:
                    await asyncio.sleep(0.1)
            async with aiohttp.ClientSession() as session, session.get(server.make_url("/")) as response:
                assert response.status == 200
            for each in flood:
                each.writer.close()
            assert len(flood) == 120

    asyncio.run(story())
