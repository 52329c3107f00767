"""OpenIGTLink for programs without asyncio: a client on a blocking socket, a server in a background thread."""

from __future__ import annotations

import asyncio
import itertools
import math
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from navnode.clock import NS_PER_S, now_ns
from navnode.errors import PeerError, WireError
from navnode.igtl.client import CONNECT_TIMEOUT_S, FIRST_WAIT_S, LONGEST_WAIT_S
from navnode.igtl.framing import Framer
from navnode.igtl.messages import Command, CommandReply, Message, StatusMessage
from navnode.igtl.plus import contents
from navnode.igtl.server import DEFAULT_PORT, Server
from navnode.igtl.sockets import tune
from navnode.igtl.wire import encode
from navnode.security.tls import Tls

__all__ = ["BlockingClient", "BlockingServer"]

_SEND_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.2


class BlockingClient:
    """A client with blocking calls; also an iterator over received messages, and a context manager.

    It connects on first use, and reconnects with increasing delays::

        with BlockingClient("127.0.0.1", 18944) as client:
            pose = client.wait_for("DrillToVolume", timeout_s=2)

    Args:
        tls: encrypt, and present this certificate.
        version: header version to send from the start; servers answer with the same.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = DEFAULT_PORT, *, tls: Tls | None = None, version: int = 2
    ) -> None:
        self.host, self.port = host, port
        self.received_ns = 0
        """Arrival of the last byte of the message returned last, node clock."""
        self._version = version
        self._context = tls.client_context() if tls else None
        self._socket: socket.socket | None = None
        self._framer = Framer()
        self._inbox: deque[Message] = deque()
        self._wait_s = FIRST_WAIT_S
        self._numbers = itertools.count(now_ns() // NS_PER_S % 1_000_000_000)

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        while True:
            message = self.receive()
            assert message is not None
            yield message

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None if none arrives in time. Without a time: wait forever."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._inbox:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            try:
                self._read(left_s)
            except (OSError, PeerError):
                self.close()
                self._back_off(left_s)
            if not self._inbox and deadline_s is not None and time.monotonic() >= deadline_s:
                return None
        return self._inbox.popleft()

    def wait_for(self, device: str, timeout_s: float | None = None) -> Message | None:
        """The next message of a device; messages of others are dropped meanwhile."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            message = self.receive(left_s)
            if message is None or message.device == device:
                return message

    def send(self, message: Message) -> None:
        """Send a message; waits while the server is busy.

        Raises:
            LocalError: the message cannot be sent.
            WireError: the connection failed or was lost.
        """
        data = memoryview(encode(message, max(message.version, self._version)))
        try:
            connection = self._connected()
            while data:
                try:
                    data = data[connection.send(data) :]
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    writable = select.poll()
                    writable.register(connection, select.POLLOUT)
                    if not writable.poll(_milliseconds(_SEND_TIMEOUT_S)):
                        raise TimeoutError("the server no longer reads") from None
        except OSError as error:
            self.close()
            raise WireError(f"not sent to {self.host}:{self.port}: {error}") from error

    def command(self, name: str, text: str = "", *, device: str = "", timeout_s: float = 5.0) -> CommandReply:
        """Send a command and wait for its answer; other messages that arrive meanwhile are kept.

        Raises:
            WireError: the connection failed, or no answer came.
        """
        number = next(self._numbers)
        self.send(
            Command(
                device=device, timestamp_ns=now_ns(), version=2, command_id=number, name=name, text=contents(name, text)
            )
        )
        sent_on, others = self._socket, []
        deadline_s = time.monotonic() + timeout_s
        try:
            while (left_s := deadline_s - time.monotonic()) > 0:
                message = self.receive(min(left_s, _LOOK_EVERY_S))
                if isinstance(message, CommandReply) and message.command_id == number:
                    return message
                others += [message] if message is not None else []
                if self._socket is not sent_on:
                    raise WireError(f"the connection to {self.host}:{self.port} was lost before the answer came")
        finally:
            self._inbox.extendleft(reversed(others))
        raise WireError(f"{self.host}:{self.port} did not answer {name or 'the command'} within {timeout_s:g} s")

    # --- the socket -------------------------------------------------------------------------------

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.create_connection((self.host, self.port), CONNECT_TIMEOUT_S)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_hostname=self.host)
            tune(connection)
            self._socket, self._framer = connection, Framer()
            hello = StatusMessage(device="navnode", timestamp_ns=now_ns(), version=self._version)
            connection.sendall(encode(hello))
            connection.setblocking(False)
            self._readable = select.poll()
            self._readable.register(connection, select.POLLIN)
        return self._socket

    def _read(self, timeout_s: float | None) -> None:
        connection = self._connected()
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
        if not pending and not self._readable.poll(_milliseconds(timeout_s)):
            return
        try:
            size = connection.recv_into(self._framer.buffer())
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        self.received_ns = now_ns()
        if size == 0:
            raise ConnectionResetError("closed by the server")
        messages = self._framer.received(size)
        self._inbox.extend(messages)
        if messages:
            self._wait_s = FIRST_WAIT_S

    def _back_off(self, left_s: float | None) -> None:
        time.sleep(self._wait_s if left_s is None else min(self._wait_s, max(left_s, 0.0)))
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)


def _milliseconds(timeout_s: float | None) -> int | None:
    return None if timeout_s is None else math.ceil(1e3 * timeout_s)


class BlockingServer:
    """A server in a background thread; also a context manager.

    Args:
        on_message: called in that thread with every message that the server does not answer.
        options: those of :class:`Server`.

    Raises:
        ConfigError: listening on the address failed.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        on_message: Callable[[Message], Any] = lambda message: None,
        **options: Any,
    ) -> None:
        self._server = Server(host, port, lambda message, _peer, _arrival: on_message(message), **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="OpenIGTLink server", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()
        except BaseException:
            self._end()
            raise
        self.port = self._server.port

    @property
    def clients(self) -> int:
        """Number of connected clients."""
        return len(self._server.peers)

    def publish(self, message: Message) -> None:
        """Send to every client; a client that is busy with an older message of this device gets only the newest."""
        self._loop.call_soon_threadsafe(self._server.publish, message)

    def send(self, message: Message) -> None:
        """Send to every client through its queue; never dropped."""
        self._loop.call_soon_threadsafe(self._server.send, message)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all messages were handed to the operating system; False if that takes too long.

        Raises:
            RuntimeError: called from the server's thread (``on_message`` or a command), which would deadlock.
        """
        self._refuse_own_thread()
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not asyncio.run_coroutine_threadsafe(self._idle(), self._loop).result():
            if deadline_s is not None and time.monotonic() > deadline_s:
                return False
            time.sleep(0.001)
        return True

    def close(self) -> None:
        """Close all connections and the port.

        Raises:
            RuntimeError: called from the server's thread (``on_message`` or a command), which would deadlock.
        """
        if self._loop.is_closed():
            return
        self._refuse_own_thread()
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result()
        self._end()

    def __enter__(self) -> BlockingServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("must not be called from the server's callbacks")

    async def _idle(self) -> bool:
        return all(peer.idle for peer in self._server.peers)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
