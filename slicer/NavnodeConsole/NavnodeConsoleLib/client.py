"""The connection to a node: never blocks, for a program whose one thread draws."""

from __future__ import annotations

import errno
import itertools
import socket
import time
from collections.abc import Callable

from NavnodeConsoleLib.wire import Framer, Message, WireError, command, hello

__all__ = ["Client", "Reply"]

_CONNECT_S, _FIRST_WAIT_S, _LONGEST_WAIT_S = 3.0, 0.5, 5.0
_ANSWER_S = 5.0
_MOST_AT_ONCE = 1 << 24
"""Bytes that are read in one call, so that drawing goes on."""
_PENDING = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EISCONN, getattr(errno, "WSAEWOULDBLOCK", 0))

Reply = Callable[[bool, str], None]
"""Called with whether a command succeeded, and what the node says."""


class Client:
    """Connects, and connects again after a loss; :meth:`poll` does everything.

    Args:
        clock_s: a steady clock.
    """

    def __init__(self, host: str, port: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.host, self.port = host, port
        self.trouble = ""
        """Why there is no connection; '' while there is one."""
        self._clock_s = clock_s
        self._socket: socket.socket | None = None
        self._up = False
        self._framer = Framer()
        self._unsent = bytearray()
        self._began_s, self._again_s, self._wait_s = 0.0, 0.0, _FIRST_WAIT_S
        self._numbers = itertools.count(int(time.time()) % 1_000_000_000)
        self._asked: dict[int, tuple[Reply, float]] = {}

    @property
    def connected(self) -> bool:
        """Whether messages can arrive now."""
        return self._up

    def poll(self) -> list[Message]:
        """What arrived since the last call; connects, sends and gives up as time goes by."""
        now_s = self._clock_s()
        messages: list[Message] = []
        try:
            if self._socket is None and now_s >= self._again_s:
                self._begin(now_s)
            if self._socket is not None:
                messages = self._exchange(self._socket, now_s)
        except (OSError, WireError) as error:
            self._lose(str(error) or type(error).__name__)
        for number, (reply, until_s) in list(self._asked.items()):
            if now_s >= until_s:
                del self._asked[number]
                reply(False, f"the node did not answer within {_ANSWER_S:g} s")
        return [message for message in messages if not self._answers(message)]

    def command(self, name: str, parameters: dict[str, str], reply: Reply) -> None:
        """Send a command; its answer, or that there is none, is told by :meth:`poll`."""
        if not self._up:
            reply(False, "not connected")
            return
        number = next(self._numbers)
        self._asked[number] = reply, self._clock_s() + _ANSWER_S
        self._unsent += command(number, name, parameters)

    def close(self) -> None:
        """Close the connection."""
        self._lose("closed")

    def _begin(self, now_s: float) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._framer, self._unsent, self._began_s = Framer(), bytearray(hello()), now_s
        code = self._socket.connect_ex((self.host, self.port))
        if code not in _PENDING:
            raise OSError(code, f"{self.host}:{self.port}: {errno.errorcode.get(code, code)}")

    def _exchange(self, connection: socket.socket, now_s: float) -> list[Message]:
        if not self._up:
            try:
                connection.getpeername()
            except OSError:
                failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failed or now_s - self._began_s > _CONNECT_S:
                    name = errno.errorcode.get(failed, "no answer")
                    raise OSError(failed, f"{self.host}:{self.port}: {name}") from None
                return []
            self._up, self.trouble = True, ""
        try:
            while self._unsent:
                del self._unsent[: connection.send(self._unsent)]
        except BlockingIOError:
            pass
        messages: list[Message] = []
        read = 0
        while read < _MOST_AT_ONCE:
            try:
                data = connection.recv(1 << 18)
            except BlockingIOError:
                break
            if not data:
                raise OSError(0, "the node closed the connection")
            read += len(data)
            messages += self._framer.feed(data)
        if messages:
            self._wait_s = _FIRST_WAIT_S
        return messages

    def _answers(self, message: Message) -> bool:
        if message.type != "RTS_COMMAND":
            return False
        reply, _ = self._asked.pop(message.content, (None, 0.0))
        if reply is not None:
            reply(message.metadata.get("Status") == "SUCCESS", message.metadata.get("Message", ""))
        return True

    def _lose(self, why: str) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._up, self.trouble = None, False, why
        self._again_s = self._clock_s() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        asked, self._asked = self._asked, {}
        for reply, _ in asked.values():
            reply(False, "the connection was lost before the answer came")
