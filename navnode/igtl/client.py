"""An OpenIGTLink client on asyncio that reconnects by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

from navnode.clock import NS_PER_S, now_ns
from navnode.errors import WireError
from navnode.igtl.connection import CHECK_EVERY_S, Arrival, Connection, Tap
from navnode.igtl.messages import Command, CommandReply, Message, StatusMessage, held_bytes
from navnode.igtl.outbox import Outbox
from navnode.igtl.plus import contents
from navnode.security.tls import Tls

__all__ = ["CONNECT_TIMEOUT_S", "Client", "FIRST_WAIT_S", "LONGEST_WAIT_S", "log"]

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0
CONNECT_TIMEOUT_S = 3.0
_QUEUED, _QUEUED_BYTES = 10_000, 1 << 28


class Client:
    """Receives from a server, and sends to it.

    Either pass ``on_message`` and await :meth:`run`, or iterate over the client as an async context manager::

        async with Client("127.0.0.1", 18944) as client:
            async for message in client:
                ...

    Args:
        on_message: called with every message and its arrival.
        on_state: called with (connected, reason) at every change.
        silence_s: reconnect when the server sends nothing for this long.
        tls: encrypt, and present this certificate.
        version: header version to send from the start; servers answer with the same.
        tap: called with every message and its bytes first.
        absent_crc: take messages whose checksum field is 0, of servers that compute none.
        outbox: of whatever is written to because of what is received here: it leaves as soon as that has been handled.
    """

    def __init__(
        self,
        host: str,
        port: int,
        on_message: Callable[[Message, Arrival], None] | None = None,
        on_state: Callable[[bool, str], None] = lambda connected, reason: None,
        silence_s: float = 3.0,
        *,
        tls: Tls | None = None,
        version: int = 2,
        tap: Tap | None = None,
        absent_crc: bool = False,
        outbox: Outbox[Any] | None = None,
    ) -> None:
        self.host, self.port = host, port
        self._on_message, self._on_state = on_message or self._keep, on_state
        self._silence_ns = silence_s * NS_PER_S
        self._version, self._tap, self._absent_crc, self._outbox = version, tap, absent_crc, outbox
        self._context = tls.client_context() if tls else None
        self._connection: Connection | None = None
        self._heard_ns = 0
        self._heard_something = False
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self._arrived, self._up = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._numbers = itertools.count(now_ns() // NS_PER_S % 1_000_000_000)
        self._replies: dict[int, asyncio.Future[CommandReply]] = {}

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None and self._connection.connected

    @property
    def unchecked(self) -> int:
        """Messages of this connection that carried no checksum."""
        return 0 if self._connection is None else self._connection.unchecked

    async def run(self) -> None:
        """Connect and receive until cancelled; reconnect with increasing delays."""
        wait_s, last_reason = FIRST_WAIT_S, ""
        try:
            while True:
                self._heard_something = False
                reason = await self._session()
                if self._heard_something:
                    wait_s = FIRST_WAIT_S
                if reason != last_reason:
                    log.warning("source %s:%d: %s", self.host, self.port, reason)
                    last_reason = reason
                self._on_state(False, reason)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        finally:
            if self._connection is not None:
                self._connection.close()

    def reconnect(self) -> None:
        """Close the connection, if there is one; :meth:`run` then connects again."""
        if self._connection is not None:
            self._connection.close("reconnecting on request")

    def send(self, message: Message) -> bool:
        """Send a message; False if there is no connection.

        Raises:
            LocalError: the message cannot be sent.
        """
        if self._connection is None or not self._connection.connected:
            return False
        self._connection.send(message)
        return True

    async def drain(self) -> None:
        """Wait until the server has read enough for more to be sent."""
        if self._connection is not None:
            await self._connection.drain()

    async def command(self, name: str, text: str = "", *, device: str = "", timeout_s: float = 5.0) -> CommandReply:
        """Send a command and wait for its answer.

        Raises:
            TimeoutError: no answer came.
        """
        number = next(self._numbers)
        future: asyncio.Future[CommandReply] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
                self.send(_command(number, name, text, device))
                return await future
        finally:
            del self._replies[number]

    # --- as a context manager and iterator --------------------------------------------------------

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def receive(self) -> Message:
        """The next message. Keeps at most 10 000 waiting messages and 256 MB, dropping the oldest.

        Raises:
            WireError: the client has ended. An error that ended :meth:`run` is raised instead.
        """
        while not self._inbox:
            self._arrived.clear()
            waiting = asyncio.ensure_future(self._arrived.wait())
            running = [self._task] if self._task is not None else []
            try:
                await asyncio.wait((waiting, *running), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if self._task is not None and self._task.done() and not self._inbox:
                self._task.result()
                raise WireError(f"the client of {self.host}:{self.port} has ended")
        message = self._inbox.popleft()
        self._inbox_bytes -= held_bytes(message)
        return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            yield await self.receive()

    def _keep(self, message: Message, _: Arrival) -> None:
        self._inbox.append(message)
        self._inbox_bytes += held_bytes(message)
        while len(self._inbox) > _QUEUED or (self._inbox_bytes > _QUEUED_BYTES and len(self._inbox) > 1):
            self._inbox_bytes -= held_bytes(self._inbox.popleft())
        self._arrived.set()

    # --- one connection ---------------------------------------------------------------------------

    async def _session(self) -> str:
        """Run one connection from start to end; returns why it ended."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        connection = Connection(
            self._heard,
            lambda why: None if ended.done() else ended.set_result(why),
            tap=self._tap,
            outbox=self._outbox,
            absent_crc=self._absent_crc,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: connection, self.host, self.port, ssl=self._context)
        except (OSError, TimeoutError, UnicodeError) as error:  # TLS errors are OSErrors; invalid names, UnicodeErrors
            return f"cannot connect ({getattr(error, 'strerror', None) or 'timed out'})"
        self._connection, self._heard_ns = connection, now_ns()
        connection.version = self._version  # so that messages carry metadata
        # A greeting, like Slicer's, so that the server answers with this version, and with metadata.
        connection.send(StatusMessage(device="navnode", timestamp_ns=now_ns(), version=self._version))
        self._up.set()
        self._on_state(True, "")
        try:
            while not ended.done():
                await asyncio.wait((ended,), timeout=CHECK_EVERY_S)
                connection.check()
                silent_ns = now_ns() - self._heard_ns
                if silent_ns > self._silence_ns:
                    connection.close(f"silent for {silent_ns / NS_PER_S:.0f} s")
            return ended.result()
        finally:
            self._up.clear()
            connection.close()
            self._connection = None

    def _heard(self, message: Message, arrival: Arrival) -> None:
        self._heard_ns, self._heard_something = arrival.received_ns, True
        if isinstance(message, CommandReply) and (future := self._replies.get(message.command_id)) is not None:
            if not future.done():
                future.set_result(message)
            return
        self._on_message(message, arrival)


def _command(number: int, name: str, text: str, device: str) -> Command:
    return Command(
        device=device, timestamp_ns=now_ns(), version=2, command_id=number, name=name, text=contents(name, text)
    )
