"""An OpenIGTLink server on asyncio for many clients, each with a latest-wins queue per device."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple

from navnode.clock import now_ns
from navnode.errors import ConfigError, LocalError
from navnode.igtl.budget import Budget
from navnode.igtl.connection import CHECK_EVERY_S, GONE, LEFT, MAX_MESSAGES_PER_S, Arrival, Connection, Key, Tap
from navnode.igtl.contents import CODECS, scalar_code
from navnode.igtl.messages import (
    Capability,
    ClientInfo,
    Command,
    Get,
    Image,
    ImageMeta,
    ImageMetaElement,
    LabelMeta,
    Message,
    Ready,
    Start,
    StatusMessage,
    Stop,
    String,
)
from navnode.igtl.outbox import Outbox
from navnode.igtl.plus import LONGEST_INTERVAL_MS, CommandError, Commands, Handler, Wanted, wanted_of
from navnode.igtl.sender import Sender
from navnode.igtl.wire import encode
from navnode.security.tls import Tls, is_loopback

__all__ = ["DEFAULT_PORT", "MAX_CLIENTS", "MAX_HELD_BYTES", "Peer", "Server", "log"]

log = logging.getLogger(__name__)

DEFAULT_PORT = 18944
MAX_CLIENTS = 100
MAX_HELD_BYTES = 3 << 28
"""Unfinished messages from all clients and answers that wait for them, together: the largest, and half of it beside."""
_HANDSHAKE_S = 5.0
_STOPPED = "the server stopped"
_STATUS_NOT_FOUND = 4
_KEPT = ("IMAGE", "POLYDATA", "STATUS", "TRAJ")
"""Sent to new clients at once, as these change rarely: volumes, surfaces, states, plans."""

_STREAMS = ("TDATA", "QTDATA")

_MOST_AUDIENCES = 4096
"""More devices than a node has; names that a program makes up by the thousand are not all remembered."""


_MANY, _SMALL = 4, 1 << 13
"""To so many clients or more, messages of at most so many bytes are written together."""

_REQUESTS = (Get, Start, Stop, ClientInfo, StatusMessage, Command, String)


class Peer(Connection):
    """One connected client and its requests."""

    def __init__(self, server: Server, max_rate_hz: float, max_messages_per_s: float, tap: Tap | None) -> None:
        super().__init__(
            self._heard,
            self._lost,
            max_rate_hz=max_rate_hz,
            max_messages_per_s=max_messages_per_s,
            tap=tap,
            budget=server.budget,
            outbox=server.outbox,
            sender=server.sender,
        )
        self.wants = Wanted()
        self.stopped: set[str] = set()
        """Streams that the client ended with ``STP_``."""
        self.asked: set[str] = set()
        """Types that the client asked for, by ``STT_`` or CLIENTINFO."""
        self.reads_status = False
        """Whether the client can be expected to obey the status of a message."""
        self.warned = False
        """Whether an invalid CLIENTINFO was logged."""
        self.commands = Commands(server.commands)
        self.ended = asyncio.Event()
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.welcome(self)

    def _heard(self, message: Message, arrival: Arrival) -> None:
        self._server.heard(self, message, arrival)

    def version_risen(self) -> None:
        self._server.version_risen(self)

    def _lost(self, why: str) -> None:
        try:
            self._server.lost(self, why)
        finally:
            self.ended.set()


class _Device:
    """The newest message of a device, and a cache of its bytes by header version."""

    def __init__(
        self, message: Message, *, needs_status: bool = False, only_asked: bool = False, greets: bool = True
    ) -> None:
        self.message, self.needs_status, self.only_asked = message, needs_status, only_asked
        self.greets = greets and message.type in _KEPT
        """Whether new clients get it at once."""
        self.encoded: dict[int, bytes] = {}

    @property
    def says_more_in_version_2(self) -> bool:
        return bool(self.message.metadata or len(self.message.device.encode()) > 20)

    def is_for(self, peer: Peer) -> bool:
        """Whether a client wants the message and can read it."""
        message = self.message
        wanted = message.type not in peer.stopped and peer.wants(message.type, message.device)
        wanted &= not self.only_asked or message.type in peer.asked
        return wanted and (peer.reads_status or not self.needs_status)


class _Audience(NamedTuple):
    """Who gets a device, by header version, and who does not."""

    wanting: dict[int, tuple[Peer, ...]]
    others: list[Peer]


class Server:
    """Serves devices to consoles, and receives what they push. Also an async context manager.

    Args:
        host: address to listen on; default: loopback.
        port: 0 selects a free port.
        on_message: called with every message that the server does not answer, its peer, and its arrival.
        on_left: called with a client and the reason after its connection has ended.
        on_joined: called when a client has connected.
        name: device name of the server in answers.
        commands: handlers of clients' commands by name; None: commands go to ``on_message`` like other messages.
        tls: encrypt, and admit only clients with a certificate.
        insecure: allow an address that others can reach, without TLS.
        max_rate_hz: largest rate of one device's messages to one client; 0: no limit.
        max_messages_per_s: a client that sends more is slowed down.
        wary: whether a client that uses header version 2 for COMMAND alone is taken not to obey statuses, like 3D
            Slicer; otherwise every client that uses version 2 is taken to obey them.
        tap: called with every message from clients first, including those that the server answers.

    Raises:
        ConfigError: others can reach the address, and neither ``tls`` nor ``insecure`` is set.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        on_message: Callable[[Message, Peer, Arrival], None] | None = None,
        on_left: Callable[[Peer, str], None] | None = None,
        on_joined: Callable[[Peer], None] | None = None,
        name: str = "navnode",
        *,
        commands: Mapping[str, Handler] | None = MappingProxyType({}),
        tls: Tls | None = None,
        insecure: bool = False,
        max_rate_hz: float = 0.0,
        max_messages_per_s: float = MAX_MESSAGES_PER_S,
        wary: bool = False,
        tap: Tap | None = None,
    ) -> None:
        if not (is_loopback(host) or tls or insecure):
            raise ConfigError(
                f"host {host!r} is reachable from other machines, without encryption; set tls, or insecure = true"
            )
        self.host, self.port, self.name = host, port, name
        self.peers: set[Peer] = set()
        self.commands: dict[str, Handler] = {"ListDevices": self._list_devices, **(commands or {})}
        self._answers_commands = commands is not None
        self._on_message, self._on_left, self._on_joined = on_message, on_left, on_joined
        self._context = tls.server_context() if tls else None
        self._limits, self._wary = (max_rate_hz, max_messages_per_s, tap), wary
        self.budget, self.outbox = Budget(MAX_HELD_BYTES), Outbox(self._write_shared)
        self.sender: Sender | None = None
        self._devices: dict[Key, _Device] = {}
        self._audiences: dict[tuple[Key, bool, bool], _Audience] = {}
        self._unsent: set[Key] = set()
        self._server: asyncio.Server | None = None
        self._checks: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Start to listen.

        Raises:
            ConfigError: listening on the address failed; names it.
        """
        self._stopped = False
        loop = asyncio.get_running_loop()
        handshake = _HANDSHAKE_S if self._context else None
        try:
            self._server = await loop.create_server(
                lambda: Peer(self, *self._limits),
                self.host,
                self.port,
                ssl=self._context,
                ssl_handshake_timeout=handshake,
            )
        except (OSError, OverflowError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "is in use by another program" if in_use else f"cannot be opened ({error})"
            raise ConfigError(f"port {self.port} on {self.host} {reason}") from error
        with contextlib.suppress(OSError):  # without it the event loop sends everything
            self.sender = Sender()
        self.port = self._server.sockets[0].getsockname()[1]
        self._checks = asyncio.create_task(self._check_forever())

    async def stop(self) -> None:
        """Close all connections and the port."""
        if self._checks is not None:
            self._checks.cancel()
        if self._server is not None:
            self._server.close()
        self._stopped = True
        for peer in list(self.peers):
            peer.close(_STOPPED)
        await asyncio.gather(*(peer.ended.wait() for peer in list(self.peers)))
        if self.sender is not None:
            self.sender.close()
            self.sender = None
        if self._server is not None:
            await self._server.wait_closed()

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def publish(
        self, message: Message, *, needs_status: bool = False, only_asked: bool = False, greets: bool = True
    ) -> None:
        """Send to every client that wants the message and understands it.

        The message is kept for clients that request it or connect later.

        Args:
            message: what to send.
            needs_status: whether it misleads clients that ignore its status; these do not get it.
            only_asked: send only to clients that asked for the type, with ``STT_`` or CLIENTINFO.
            greets: whether clients that connect later get it at once, rather than when they request it.
        """
        key = (message.type, message.device)
        device = self._devices[key] = _Device(message, needs_status=needs_status, only_asked=only_asked, greets=greets)
        audience = self._audience(key, device)
        for version, peers in audience.wanting.items():
            self._offer_all(peers, key, device, version)
        for peer in audience.others:
            peer.withdraw(key)

    def _audience(self, key: Key, device: _Device) -> _Audience:
        """The clients that get a device, and those that do not; found out once, until wishes or clients change."""
        known = (key, device.needs_status, device.only_asked)
        audience = self._audiences.get(known)
        if audience is None:
            if len(self._audiences) >= _MOST_AUDIENCES:
                self._audiences.clear()
            wanting: dict[int, tuple[Peer, ...]] = {}
            for peer in self.peers:
                if device.is_for(peer):
                    wanting[peer.version] = (*wanting.get(peer.version, ()), peer)
            others = [peer for peer in self.peers if not device.is_for(peer)]
            audience = self._audiences[known] = _Audience(wanting, others)
        return audience

    def send(self, message: Message) -> None:
        """Send to every client through its queue: never dropped, and not kept for later clients."""
        encoded: dict[int, bytes] = {}
        for peer in list(self.peers):
            self._reply(peer, message, encoded)

    # --- events of connections -------------------------------------------------------------------

    async def drain(self, longest_s: float) -> None:
        """Wait until all clients have read enough for more to be sent, or for so long: one that never reads must not
        keep the others waiting."""
        drains = [asyncio.ensure_future(peer.drain()) for peer in self.peers]
        if drains:
            _, slow = await asyncio.wait(drains, timeout=longest_s)
            for drain in slow:
                drain.cancel()

    def welcome(self, peer: Peer) -> None:
        """Handle a new client."""
        if self._stopped:
            peer.close(_STOPPED)
            return
        if len(self.peers) >= MAX_CLIENTS:
            log.warning("more than %d consoles; refusing another", MAX_CLIENTS)
            peer.close("too many clients")
            return
        self.peers.add(peer)
        self._audiences.clear()
        log.info("console %s connected", peer.address)
        for key, device in list(self._devices.items()):
            if device.greets and device.is_for(peer):
                self._offer(peer, key, device)
        if self._on_joined:
            self._on_joined(peer)

    def version_risen(self, peer: Peer) -> None:
        """Handle a client's switch to version 2: send it what version 1 could not express, but first answer what it
        asked with that."""
        peer.reads_status = knows = not self._wary
        self._audiences.clear()

        def is_new(device: _Device) -> bool:
            return knows if device.needs_status else device.says_more_in_version_2

        asyncio.get_running_loop().call_soon(self._express, peer, is_new)

    def _express(self, peer: Peer, is_new: Callable[[_Device], bool]) -> None:
        """Send what the client could not understand before."""
        for key, device in list(self._devices.items()):
            if device.greets and device.is_for(peer) and is_new(device):
                self._offer(peer, key, device)

    def lost(self, peer: Peer, why: str) -> None:
        """Handle the end of a connection."""
        if peer in self.peers:
            self.peers.discard(peer)
            self._audiences.clear()
            level = logging.INFO if why in (LEFT, GONE, _STOPPED) else logging.WARNING
            log.log(level, "console %s left: %s", peer.address, why)
            if self._on_left:
                self._on_left(peer, why)

    def heard(self, peer: Peer, message: Message, arrival: Arrival) -> None:
        """Handle a message from a client."""
        if message.version >= 2 and not peer.reads_status and not isinstance(message, Command):
            peer.reads_status = True
            self._audiences.clear()
            self._express(peer, lambda device: device.needs_status)
        if not self._answer(peer, message) and self._on_message:
            self._on_message(message, peer, arrival)

    # --- answers, like those of a PlusServer -----------------------------------------------------

    def _answer(self, peer: Peer, message: Message) -> bool:
        """Answer a request; False if the message is not one."""
        if not isinstance(message, _REQUESTS):
            return False
        stamp = now_ns()
        if peer.commands.is_command(message):
            if self._answers_commands and (result := peer.commands.answer(message, stamp)):
                self._reply(peer, result, {})
            return self._answers_commands
        match message:
            case Get():
                for answer, encoded in self._requested(peer, message, stamp):
                    self._reply(peer, answer, encoded)
            case Start() | Stop():
                self._reply(peer, self._set_stream(peer, message, stamp), {})
            case ClientInfo():
                self._set_wanted(peer, message)
            case StatusMessage():
                pass  # a client's keep-alive
            case _:
                return False
        return True

    def _requested(self, peer: Peer, query: Get, stamp: int) -> list[tuple[Message, dict[int, bytes]]]:
        """Messages that answer a request, each with the cache of its bytes by header version."""
        name = query.device or self.name
        match query.kind:
            case "STATUS":
                return [(StatusMessage(device=name, timestamp_ns=stamp), {})]
            case "CAPABILITY":
                return [(Capability(device=name, timestamp_ns=stamp, types=tuple(CODECS)), {})]
            case "IMGMETA":
                return [(ImageMeta(device=name, timestamp_ns=stamp, images=self._images()), {})]
            case "LBMETA":
                return [(LabelMeta(device=name, timestamp_ns=stamp, labels=()), {})]
        matching = [
            (device.message, device.encoded)
            for (kind, known), device in self._devices.items()
            if kind == query.kind and query.device in ("", known) and (peer.reads_status or not device.needs_status)
        ]
        if not matching:
            text = f"there is no {query.kind} {query.device}".rstrip()
            return [(StatusMessage(device=name, timestamp_ns=stamp, code=_STATUS_NOT_FOUND, text=text), {})]
        return matching

    def _images(self) -> tuple[ImageMetaElement, ...]:
        return tuple(
            ImageMetaElement(
                name=name,
                device=name,
                modality=image.metadata.get("Modality", "")[:8],
                timestamp_ns=image.timestamp_ns,
                size=image.size or (image.voxels.shape[2], image.voxels.shape[1], image.voxels.shape[0]),
                scalar_type=scalar_code(image.voxels),
            )
            for (_, name), device in self._devices.items()
            if isinstance(image := device.message, Image) and len(name.encode()) <= 20
        )

    def _set_stream(self, peer: Peer, message: Start | Stop, stamp: int) -> Ready:
        kind = message.kind
        if kind not in CODECS:
            return Ready(device=message.device, timestamp_ns=stamp, kind=kind, status=1)
        peer.intervals_ns.pop(kind, None)
        self._audiences.clear()
        if isinstance(message, Stop):
            peer.stopped.add(kind)
            peer.withdraw_unless(lambda key: key[0] not in peer.stopped)
        else:
            peer.stopped.discard(kind)
            peer.asked.add(kind)
            if message.resolution_ms:
                peer.intervals_ns[kind] = min(max(0, message.resolution_ms), LONGEST_INTERVAL_MS) * 1_000_000
        return Ready(device=message.device, timestamp_ns=stamp, kind=kind)

    def _set_wanted(self, peer: Peer, message: ClientInfo) -> None:
        try:
            peer.wants = wanted_of(message.text)
        except CommandError as error:
            if not peer.warned:  # log only the first
                log.warning("console %s: CLIENTINFO: %s", peer.address, error)
            peer.warned = True
            return
        self._audiences.clear()
        peer.withdraw_unless(lambda key: peer.wants(*key))  # an answer must not wait behind what nobody wants
        peer.asked.update(_STREAMS)
        peer.send_parts(peer.wants.changed_parts)
        if peer.wants.tracking_interval_ms:
            for kind in _STREAMS:
                peer.intervals_ns[kind] = peer.wants.tracking_interval_ms * 1_000_000

    def _list_devices(self, _: Mapping[str, str]) -> str:
        return ", ".join(sorted(f"{name} ({kind})" for kind, name in self._devices))

    # --- housekeeping ----------------------------------------------------------------------------

    def _offer_all(self, peers: tuple[Peer, ...], key: Key, device: _Device, version: int) -> None:
        """Offer a message to peers of one header version: a small one to those together that nothing waits for."""
        if len(peers) >= _MANY and (data := self._encoded(key, device, version)) is not None and len(data) <= _SMALL:
            alone = tuple(peer for peer in peers if not peer.shares(key))
            sharing = tuple(peer for peer in peers if peer not in alone) if alone else peers
            if sharing:
                self.outbox.share(data, sharing)
            peers = alone
        for peer in peers:
            self._offer(peer, key, device)

    def _encoded(self, key: Key, device: _Device, version: int) -> bytes | None:
        """A message's bytes; None: it cannot be sent."""
        if version not in device.encoded:
            try:
                device.encoded[version] = encode(device.message, version)
            except LocalError as error:
                self._not_sent(key, error)
                return None
        return device.encoded[version]

    def _write_shared(self, peers: tuple[Peer, ...], data: bytes) -> None:
        """Write to peers what they share."""
        assert self.sender is not None  # only peers that it writes to share
        ways = [(peer, peer.outlet) for peer in peers if peer.outlet is not None]
        outcomes = self.sender.write_all([outlet for _, outlet in ways], data)
        for (peer, _), outcome in zip(ways, outcomes, strict=True):
            peer.handed_over(outcome)

    def _offer(self, peer: Peer, key: Key, device: _Device) -> None:
        try:
            peer.offer(device.message, device.encoded)
        except LocalError as error:
            self._not_sent(key, error)
        except Exception as error:  # a bug here must affect this client alone
            log.exception("console %s", peer.address)
            peer.close(f"internal error ({type(error).__name__})")

    def _reply(self, peer: Peer, message: Message, encoded: dict[int, bytes]) -> None:
        try:
            peer.reply(message, encoded)
        except LocalError as error:
            self._not_sent((message.type, message.device), error)

    def _not_sent(self, key: Key, error: LocalError) -> None:
        if key not in self._unsent:  # log once, not a hundred times a second
            self._unsent.add(key)
            log.error("not sent: %s", error)

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            for peer in list(self.peers):
                peer.check()
