"""Peers of servers and clients, and how stories about them are told."""

from __future__ import annotations

import asyncio

import numpy as np

from navnode.igtl import Framer, Transform, connection

PATIENCE_S = 30.0
"""Far more than anything here takes, on a machine however busy."""


def transform(device: str, x: float, **more) -> Transform:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return Transform(device=device, matrix=matrix, **more)


class Plain:
    """A socket that speaks only the bytes it is given."""

    async def connect(self, port: int) -> Plain:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.framer, self.got = Framer(), []
        return self

    async def ask(self, data: bytes, count: int = 1) -> list:
        self.writer.write(data)
        return await self.read(count)

    async def until(self, found) -> list:
        """The messages up to one, keep-alives left out."""
        messages = []
        while not messages or not found(messages[-1]):
            messages += [m for m in await self.read(1) if m.device != "KeepAlive"]
        return messages

    async def read(self, count: int) -> list:
        while len(self.got) < count:
            data = await asyncio.wait_for(self.reader.read(1 << 16), PATIENCE_S)
            assert data, "closed"
            self.got += self.framer.feed(data)
        taken, self.got = self.got[:count], self.got[count:]
        return taken


def run(coroutine) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 3 * PATIENCE_S))


class Clock:
    """The connections' time, which passes only here."""

    def __init__(self, monkeypatch) -> None:
        self._now_ns = connection.now_ns()
        monkeypatch.setattr(connection, "now_ns", lambda: self._now_ns)

    def pass_ms(self, ms: int) -> None:
        self._now_ns += ms * 1_000_000
