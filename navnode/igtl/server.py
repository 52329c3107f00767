"""An OpenIGTLink server on asyncio: many clients, latest-wins per device for each of them."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable

from navnode.clock import now_ns
from navnode.errors import ConfigError, LocalError, WireError
from navnode.igtl.framing import Framer
from navnode.igtl.messages import Capability, Message, Raw, StatusMessage, String, TrackingData, encode

log = logging.getLogger(__name__)

DEFAULT_PORT = 18944
_READ_BYTES = 1 << 18
_HIGH_WATER_BYTES = 1 << 16
"""More than this waiting for a client, and messages wait in its latest-wins queue instead: what is on its way to a
slow reader only grows old."""

_SEND_BUFFER_BYTES = 1 << 18
_MAX_CLIENTS = 100
_MAX_REPLIES = 256
_KEEP_ALIVE_S = 1.0
_SILENT_PEER_MS = 2_000

_ASKED_AS = {"GET_TRANS": "TRANSFORM"}
"""Queries whose 12 bytes do not hold the whole type."""

SUPPORTED = ("TRANSFORM", "IMAGE", "STATUS", "STRING", "CAPABILITY", "POINT", "TDATA", "POLYDATA")


class Peer:
    """One connected client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.address = "{}:{}".format(*writer.get_extra_info("peername")[:2])
        self.version = 1
        """Header version it is answered in: the highest it has used (Debian's 1.11 cannot read 2)."""
        self.tracking_interval_ns = 0
        self.dropped = 0
        self._writer = writer
        self._latest: dict[str, Message] = {}
        self._replies: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._last_tracking_ns = 0
        self._last_sent_ns = now_ns()

    def offer(self, message: Message, encoded: dict[int, bytes]) -> None:
        """Queue a message; an older one of the same device that is still waiting is dropped."""
        if isinstance(message, TrackingData) and self.tracking_interval_ns:
            now = now_ns()
            if now - self._last_tracking_ns < self.tracking_interval_ns:
                return
            self._last_tracking_ns = now
        key = f"{message.type}/{message.device}"
        if not self._latest and not self._replies and self._room():
            self._write(message, encoded)
            return
        self.dropped += key in self._latest
        self._latest[key] = message
        self._wake.set()

    def withdraw(self, message: Message) -> None:
        """What waits of this device is not true any more."""
        self._latest.pop(f"{message.type}/{message.device}", None)

    def reply(self, message: Message) -> None:
        """Queue an answer; answers are never dropped, a client that asks and never reads is closed."""
        if len(self._replies) >= _MAX_REPLIES:
            log.warning("console %s asks without reading; closing it", self.address)
            self._writer.transport.abort()
            return
        self._replies.append(message)
        self._wake.set()

    async def write_forever(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), _KEEP_ALIVE_S)
            except TimeoutError:
                if now_ns() - self._last_sent_ns > _KEEP_ALIVE_S * 1e9:
                    self._write(StatusMessage(device="NodeAlive", timestamp_ns=now_ns()), {})
                continue
            self._wake.clear()
            while self._replies or self._latest:
                await self._writer.drain()
                if self._replies:
                    self._write(self._replies.popleft(), {})
                elif self._latest:
                    # Poses and states before pictures.
                    key = min(self._latest, key=lambda name: name.startswith("IMAGE/"))
                    self._write(self._latest.pop(key), {})

    def _room(self) -> bool:
        return self._writer.transport.get_write_buffer_size() < _HIGH_WATER_BYTES

    def _write(self, message: Message, encoded: dict[int, bytes]) -> None:
        if self.version not in encoded:
            encoded[self.version] = encode(message, self.version)
        self._writer.write(encoded[self.version])
        self._last_sent_ns = now_ns()


class Server:
    """Serves devices to consoles, and hears what they push.

    Args:
        host: the address to listen on; loopback unless the user asks for more.
        port: 0 picks a free one.
        on_message: called with every message that is not answered here, its peer, and when its last
            byte came (ns, node clock).
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        on_message: Callable[[Message, Peer, int], None] | None = None,
        name: str = "navnode",
    ) -> None:
        self.host, self.port, self.name = host, port, name
        self.peers: set[Peer] = set()
        self._on_message = on_message
        self._devices: dict[str, tuple[Message, int]] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on; says which.
        """
        try:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)
        except (OSError, OverflowError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "is in use by another program" if in_use else f"cannot be listened on ({error})"
            raise ConfigError(f"port {self.port} on {self.host} {reason}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._server:
            self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self, message: Message, *, min_version: int = 1) -> None:
        """Send to every client that has spoken at least header version ``min_version``.

        The message is remembered for clients that ask for it or connect later.
        """
        self._devices[f"{message.type}/{message.device}"] = (message, min_version)
        encoded: dict[int, bytes] = {}
        for peer in self.peers:
            if peer.version >= min_version:
                try:
                    peer.offer(message, encoded)
                except LocalError as error:
                    log.error("not sent: %s", error)
            else:
                peer.withdraw(message)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if len(self.peers) >= _MAX_CLIENTS:
            log.warning("more than %d consoles; one more is turned away", _MAX_CLIENTS)
            writer.transport.abort()
            return
        _tune(writer.get_extra_info("socket"))
        writer.transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        peer = Peer(writer)
        sender = asyncio.create_task(peer.write_forever())
        self.peers.add(peer)
        log.info("console %s connected", peer.address)
        # A new client sees what does not change (volumes, surfaces, states) at once.
        for message, min_version in list(self._devices.values()):
            if message.type in ("IMAGE", "POLYDATA", "STATUS") and peer.version >= min_version:
                peer.offer(message, {})
        receiver = asyncio.create_task(self._read(reader, peer))
        try:
            ended, _ = await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
            log.info("console %s left", peer.address)
        except (WireError, OSError) as error:
            log.warning("console %s closed: %s", peer.address, error)
        except Exception:  # our own fault, but this console's alone
            log.exception("console %s closed", peer.address)
        finally:
            self.peers.discard(peer)
            self._tasks.discard(task)
            for part in (sender, receiver):
                part.cancel()
            writer.transport.abort()
            await asyncio.gather(sender, receiver, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        framer = Framer()
        while data := await reader.read(_READ_BYTES):
            received_ns = now_ns()
            for message in framer.feed(data):
                peer.version = max(peer.version, message.version)
                if not self._answer(message, peer) and self._on_message:
                    self._on_message(message, peer, received_ns)

    def _answer(self, message: Message, peer: Peer) -> bool:
        """Answer like a PlusServer; False when the message is not a question."""
        stamp = now_ns()
        kind = message.type
        if kind == "GET_STATUS":
            peer.reply(StatusMessage(device=message.device or self.name, timestamp_ns=stamp))
        elif kind == "GET_CAPABIL":
            peer.reply(Capability(device=message.device or self.name, timestamp_ns=stamp, types=SUPPORTED))
        elif kind in ("STT_TDATA", "STP_TDATA"):
            self._set_tracking(message, peer)
            peer.reply(Raw(type_name="RTS_TDATA", device=message.device, timestamp_ns=stamp, body=b"\0"))
        elif kind.startswith("GET_"):
            wanted = _ASKED_AS.get(kind, kind.removeprefix("GET_"))
            for known, min_version in list(self._devices.values()):
                asked = known.type == wanted and message.device in ("", known.device)
                if asked and peer.version >= min_version:
                    peer.reply(known)
        elif isinstance(message, String) and message.device.startswith("CMD_"):
            name = message.device.removeprefix("CMD_")
            answer = '<CommandReply Status="FAIL" Message="this server takes no commands" />'
            peer.reply(String(device=f"ACK_{name}", timestamp_ns=stamp, text=answer))
        elif isinstance(message, StatusMessage):
            pass  # a client's keep-alive
        else:
            return False
        return True

    def _set_tracking(self, message: Message, peer: Peer) -> None:
        body = message.body if isinstance(message, Raw) else b""
        if message.type == "STT_TDATA" and len(body) >= 4:
            (milliseconds,) = struct.unpack_from(">i", body)
            peer.tracking_interval_ns = max(0, milliseconds) * 1_000_000
        else:
            peer.tracking_interval_ns = 0


def _tune(connection: socket.socket) -> None:
    """Small messages leave at once; a peer that vanished without closing is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_PEER_MS)
