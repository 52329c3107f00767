"""An OpenIGTLink client on asyncio that connects, and connects again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from navnode.clock import now_ns
from navnode.errors import PeerError
from navnode.igtl.framing import Framer
from navnode.igtl.messages import Message, StatusMessage, encode

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 18
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 2.0
_CONNECT_TIMEOUT_S = 3.0


class Client:
    """Receives from a server for as long as :meth:`run` runs.

    Args:
        on_message: called with every message and when its last byte came (ns, node clock).
        on_state: called with (connected, reason) at every change.
        silence_s: a server that sends nothing for this long is given up and connected to again.
    """

    def __init__(
        self,
        host: str,
        port: int,
        on_message: Callable[[Message, int], None],
        on_state: Callable[[bool, str], None] = lambda connected, reason: None,
        silence_s: float = 3.0,
    ) -> None:
        self.host, self.port = host, port
        self._on_message, self._on_state = on_message, on_state
        self._silence_s = silence_s
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Connect and receive until cancelled; reconnects with back-off."""
        wait_s, last_reason = _FIRST_WAIT_S, ""
        while True:
            reason = await self._session()
            if self._writer is not None:
                self._writer.transport.abort()
                self._writer = None
                wait_s = _FIRST_WAIT_S
            if reason != last_reason:
                log.warning("source %s:%d: %s", self.host, self.port, reason)
                last_reason = reason
            self._on_state(False, reason)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def send(self, message: Message) -> None:
        """Send if connected; silently nothing otherwise."""
        if self._writer is not None:
            self._writer.write(encode(message))

    async def _session(self) -> str:
        """One connection from start to end; why it ended."""
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port), _CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            return f"cannot connect ({getattr(error, 'strerror', None) or 'timed out'})"
        self._writer = writer
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A version-2 greeting, as Slicer sends it, so that the server answers with metadata.
        self.send(StatusMessage(device="navnode", timestamp_ns=now_ns(), version=2))
        self._on_state(True, "")
        framer = Framer()
        try:
            while data := await asyncio.wait_for(reader.read(_READ_BYTES), self._silence_s):
                received_ns = now_ns()
                for message in framer.feed(data):
                    self._on_message(message, received_ns)
        except TimeoutError:
            return f"silent for {self._silence_s:.0f} s"
        except (PeerError, OSError) as error:
            return f"lost ({error})"
        return "closed the connection"
