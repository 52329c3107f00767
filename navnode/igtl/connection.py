"""One OpenIGTLink peer on an asyncio transport: bytes in, queues out. Server and client are built on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple, cast

from navnode.clock import NS_PER_S, now_ns
from navnode.errors import LocalError, PeerError
from navnode.igtl.budget import Budget
from navnode.igtl.framing import Framer, RawBytes
from navnode.igtl.messages import Image, Message, StatusMessage
from navnode.igtl.outbox import Outbox
from navnode.igtl.parts import Parts
from navnode.igtl.sender import Outcome, Outlet, Sender
from navnode.igtl.sockets import is_gone, tune, unsent_bytes
from navnode.igtl.wire import encode

__all__ = ["Arrival", "CHECK_EVERY_S", "Connection", "GONE", "Key", "LEFT", "MAX_MESSAGES_PER_S", "Tap", "log"]

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""A device: its message type and its name."""

_HIGH_WATER_BYTES = 1 << 16
"""When more bytes wait for the socket, messages wait in the latest-wins queue instead: bytes on their way to a slow
reader only grow old."""

_GATHERED_BYTES, _BY_ITSELF_BYTES = 1 << 16, 1 << 14
"""Messages gather up to the former; one of the latter leaves by itself, as copying it would cost more than a call."""

_LARGE_BYTES = 1 << 16
"""Messages from this size on are sent by the sender's thread: shorter ones are copied sooner than that has woken up."""

_MAX_LOSSLESS_BYTES = 1 << 26
_LARGE = ("IMAGE", "POLYDATA")
_KEEP_ALIVE_NS = 400_000_000
CHECK_EVERY_S = 0.2
"""Together, and with the time that its operating system may leave unanswered, a vanished peer is noticed within 2 s."""

_STUCK_NS, _STUCK_LONG_NS = 1_800_000_000, 10_000_000_000
"""A peer that has read nothing for so long is reported as stuck, and later disconnected."""

_UNFINISHED_NS = 5_000_000_000
"""Silence within a message after which the connection is closed."""

_SLOWEST_BYTES_PER_S = 100_000
"""A body may take as long as at this rate, and no longer, however steadily its bytes trickle in."""

MAX_MESSAGES_PER_S = 100_000
"""More than any device sends; a faster sender is slowed down."""

LEFT, GONE = "it closed the connection", "it went away"
"""The usual ends of a connection, which are no faults."""


Tap = Callable[[Message, RawBytes, int], int | None]
"""Called with every received message, its bytes, and the arrival of its last byte, before anything else happens.

It may return a number, which then accompanies the message."""


class Arrival(NamedTuple):
    """A message's arrival."""

    received_ns: int
    """Arrival of its last byte (node clock)."""
    number: int | None = None
    """Number from the tap."""


class Connection(asyncio.BufferedProtocol):
    """A peer.

    Args:
        on_message: called with every message and its arrival.
        on_lost: called once with the reason why the connection ended.
        max_rate_hz: largest rate of one device's messages to this peer; 0: no limit.
        max_messages_per_s: a peer that sends more is slowed down.
        tap: called with every message first.
        budget: memory shared with other peers, for what is received and for what waits to be sent.
        outbox: shared with other peers, too.
        sender: writes to the socket; None: the event loop does (always with TLS).
        absent_crc: see :class:`Framer`.
    """

    def __init__(
        self,
        on_message: Callable[[Message, Arrival], None],
        on_lost: Callable[[str], None],
        *,
        max_rate_hz: float = 0.0,
        max_messages_per_s: float = MAX_MESSAGES_PER_S,
        tap: Tap | None = None,
        budget: Budget | None = None,
        outbox: Outbox[Any] | None = None,
        sender: Sender | None = None,
        absent_crc: bool = False,
    ) -> None:
        self.version = 1
        """Header version to send: the highest that the peer has used (Debian's 1.11 cannot read 2)."""
        self.address = ""
        self.dropped = 0
        """Number of messages replaced by a newer one of their device before the peer could read them."""
        self.stuck = False
        """Whether the peer has read nothing for two seconds although messages wait for it."""
        self.intervals_ns: dict[str, int] = {}
        """Shortest interval between two messages of one device, by type."""
        self._on_message, self._on_lost, self._tap = on_message, on_lost, tap
        self._interval_ns = round(NS_PER_S / max_rate_hz) if max_rate_hz else 0
        self._rate = _Rate(max_messages_per_s)
        self._budget = budget or Budget(sys.maxsize)
        self._framer = Framer(self._budget, absent_crc=absent_crc)
        self._unfinished_since_ns: int | None = None
        """When the message that is incomplete began."""
        self._transport: asyncio.Transport | None = None
        self._latest: dict[Key, tuple[Message, MutableMapping[int, bytes]]] = {}
        self._outbox, self._sender = outbox or Outbox(), sender
        self._outlet: Outlet | None = None
        """The only way to the socket, if there is one."""
        self._large: dict[Key, int] = {}
        """Numbers of the devices whose messages are large, from 1 on."""
        self._gathered: list[bytes] = []
        self._gathered_bytes, self._gathered_ordered = 0, False
        self._lossless: deque[bytes] = deque()
        self._lossless_bytes = 0
        self._sent_ns: dict[Key, int] = {}
        self._parts: Parts | None = None
        """What a peer that accepts changed parts has of images; None for other peers."""
        self._last_sent_ns = self._heard_ns = now_ns()
        self._paused = False
        self._waiting: tuple[int, int] | None = None
        """Bytes that wait for the peer, and since when that number has not changed."""
        self._timer: asyncio.TimerHandle | None = None
        self._why = ""
        self._can_send = asyncio.Event()
        self._can_send.set()

    # --- the transport's side --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # transports of other event loops are not subclasses
        peer = self._transport.get_extra_info("peername")
        self.address = "{}:{}".format(*peer[:2]) if isinstance(peer, tuple) else str(peer)
        self._transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        tune(self._transport.get_extra_info("socket"))
        if self._sender is not None and self._transport.get_extra_info("sslcontext") is None:
            with contextlib.suppress(OSError):  # the event loop can send, too
                number = self._transport.get_extra_info("socket").fileno()
                self._outlet = self._sender.outlet(number, self._on_freed)

    def get_buffer(self, sizehint: int) -> memoryview:
        try:
            return self._framer.buffer()
        except PeerError as error:
            self.close(str(error))
            return memoryview(bytearray(1))  # asyncio wants room even for what nobody reads any more

    def buffer_updated(self, nbytes: int) -> None:
        received_ns = now_ns()
        self._heard_ns = received_ns
        try:
            messages = self._framer.received(nbytes)
            if messages or self._unfinished_since_ns is None:
                self._unfinished_since_ns = received_ns if self._framer.unfinished else None
            for message, raw in zip(messages, self._framer.raw, strict=True):
                number = self._tap(message, raw, received_ns) if self._tap is not None else None
                if message.version > self.version:
                    self.version = message.version
                    self.version_risen()
                self._on_message(message, Arrival(received_ns, number))
                if not self.connected:  # a callback closed the connection
                    return
            if self._framer.failed is not None:
                raise self._framer.failed
        except PeerError as error:
            self.close(str(error))
            return
        except Exception as error:  # a bug here must affect this connection alone
            log.exception("connection %s", self.address)
            self.close(f"internal error ({type(error).__name__})")
            return
        if messages:
            self._outbox.flush()
        pause_s = self._rate.count(len(messages), received_ns)
        if pause_s > 0 and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(pause_s, self._read_on)

    def version_risen(self) -> None:
        """Called when the peer uses a higher header version than before."""

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        self.close(LEFT)  # a peer that closed its half reads no answers either
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._close_outlet()
        self._gathered.clear()
        self._latest.clear()
        self._lossless.clear()
        self._budget.give_back(self._lossless_bytes)
        self._lossless_bytes = 0
        self._framer.discard()
        self._parts = None
        self._can_send.set()
        self._on_lost(self._why or (GONE if exc is None or isinstance(exc, ConnectionError) else str(exc)))

    def pause_writing(self) -> None:
        self._paused = True
        self._can_send.clear()

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()
        if not self._paused and not self._lossless:
            self._can_send.set()

    def _on_freed(self) -> None:
        if self.connected:
            self.resume_writing()

    @property
    def unchecked(self) -> int:
        """Messages so far that carried no checksum."""
        return self._framer.unchecked

    # --- our side --------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def idle(self) -> bool:
        """Whether all queued messages were handed to the operating system."""
        return not self._lossless and not self._latest and not self._gathered and not self._on_its_way_bytes

    @property
    def _on_its_way_bytes(self) -> int:
        """Bytes that were handed over, but that the operating system has not taken yet."""
        in_outlet = self._outlet.waiting_bytes if self._outlet is not None else 0
        return in_outlet + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def close(self, why: str = "closed here") -> None:
        """Close the connection at once, discarding queued messages."""
        self._why = self._why or why
        self._outbox.settle()
        self.write_gathered()
        self._close_outlet()
        if self._transport is not None:
            self._transport.abort()

    def _close_outlet(self) -> None:
        if self._outlet is not None:
            self._outlet.close()
            self._outlet = None

    def send(self, message: Message) -> None:
        """Queue a message that must not be dropped, at its header version or the peer's if that is higher.

        A peer that does not read its queue is disconnected.

        Raises:
            LocalError: the message cannot be sent.
        """
        self.send_bytes(encode(message, max(message.version, self.version)))

    def reply(self, message: Message, encoded: MutableMapping[int, bytes] | None = None) -> None:
        """:meth:`send` at the peer's header version; ``encoded``: see :meth:`offer`.

        Raises:
            LocalError: the message cannot be sent.
        """
        if not self.connected:
            return
        encoded = {} if encoded is None else encoded
        if self.version not in encoded:
            encoded[self.version] = encode(message, self.version)
        self._withdraw_large((message.type, message.device))  # an older one must not come after it
        self.send_bytes(encoded[self.version])
        if self._parts is not None and isinstance(message, Image):  # shares the queue with later parts
            self._parts.has((message.type, message.device), message)

    def send_bytes(self, data: bytes) -> None:
        """:meth:`send` for an encoded message."""
        if not self.connected:
            return
        if not self._paused and not self._lossless:
            self._write(data)
            return
        self._can_send.clear()
        if self._lossless_bytes + len(data) > _MAX_LOSSLESS_BYTES or not self._budget.take(len(data)):
            self.close("client too slow: it does not read the data it requested")
            return
        self._lossless.append(data)
        self._lossless_bytes += len(data)

    def offer(self, message: Message, encoded: MutableMapping[int, bytes]) -> None:
        """Send now or as soon as the peer can read; replaces an older waiting message of the same device.

        Args:
            encoded: cache of the message's bytes by header version, shared by all receiving peers.

        Raises:
            LocalError: the message cannot be sent.
        """
        key = (message.type, message.device)
        if self._writes_at_once and self.version in encoded:
            self._write(encoded[self.version], key)
            return
        if not self.connected:
            return
        if self._paused or self._lossless or self._latest or self._wait_ns(key) > 0:
            self.dropped += key in self._latest
            self._latest[key] = message, encoded
            self._flush()
            return
        self._write_latest(key, message, encoded)

    @property
    def _writes_at_once(self) -> bool:
        """Whether nothing waits for the peer and nothing about it needs a thought: that is so nearly always, and a pose
        has several messages to many consoles."""
        waits = self._paused or self._lossless or self._latest
        return not (waits or self._interval_ns or self.intervals_ns or self._parts is not None) and self.connected

    def shares(self, key: Key) -> bool:
        """Whether a small message of a device may reach the peer together with others, by its outbox."""
        return self._outlet is not None and self._writes_at_once and key not in self._large

    @property
    def outlet(self) -> Outlet | None:
        """The only way to the socket, if there is one; None once the connection is closed."""
        return self._outlet

    def send_parts(self, wanted: bool) -> None:
        """Choose whether 3-D images are sent to this peer as changed parts; offered voxels must then never change."""
        self._parts = Parts() if wanted else None

    def withdraw(self, key: Key) -> None:
        """Discard a waiting message of this device, as it is no longer true."""
        self._latest.pop(key, None)
        if self._withdraw_large(key) and self._parts is not None:
            self._parts.forget(key)

    def _withdraw_large(self, key: Key) -> bool:
        """Discard a device's large message that was handed over, unless its turn has come; whether there was one."""
        number = self._large.get(key)
        return number is not None and self._outlet is not None and self._outlet.withdraw(number)

    def withdraw_unless(self, is_wanted: Callable[[Key], bool]) -> None:
        """Discard waiting messages of devices that the peer does not want."""
        for key in [key for key in (*self._latest, *self._large) if not is_wanted(key)]:
            self.withdraw(key)

    async def drain(self) -> None:
        """Wait until the peer has read enough for more to be sent."""
        while self.connected and not self._can_send.is_set():
            await self._can_send.wait()

    def check(self) -> None:
        """Send a keep-alive and detect a dead peer; call every :data:`CHECK_EVERY_S`."""
        if not self.connected:
            return
        if self._framer.unfinished and now_ns() - self._heard_ns > _UNFINISHED_NS:
            self.close("incomplete message, then silence")
            return
        if self._unfinished_since_ns is not None:
            allowed_ns = _UNFINISHED_NS + self._framer.awaited_bytes * NS_PER_S // _SLOWEST_BYTES_PER_S
            if now_ns() - self._unfinished_since_ns > allowed_ns:
                self.close("client too slow: it does not finish its message")
                return
        if now_ns() - self._last_sent_ns > _KEEP_ALIVE_NS and not self._paused:
            self.reply(StatusMessage(device="KeepAlive", timestamp_ns=now_ns()))
        assert self._transport is not None
        if is_gone(self._transport.get_extra_info("socket")):
            self.close("it no longer answers")
            return
        stuck_ns = self._stuck_ns(self._transport)
        if stuck_ns > _STUCK_LONG_NS:
            self.close(f"it has read nothing for {stuck_ns / NS_PER_S:.0f} s")
        elif (stuck_ns > _STUCK_NS) is not self.stuck:
            self.stuck = not self.stuck
            log.warning("%s %s", self.address, "has read nothing for 2 s" if self.stuck else "reads again")

    def _stuck_ns(self, transport: asyncio.Transport) -> int:
        """How long the peer has read nothing although its window is full.

        Its operating system may be gone as well: one that said that its window is full is probed ever less often.
        """
        if not self._paused:
            self._waiting = None
            return 0
        waiting = self._on_its_way_bytes + unsent_bytes(transport.get_extra_info("socket"))
        if self._waiting is None or self._waiting[0] != waiting:
            self._waiting = waiting, now_ns()
        return now_ns() - self._waiting[1]

    # --- queues ----------------------------------------------------------------------------------

    def _flush(self) -> None:
        while self._lossless and not self._paused and self.connected:
            data = self._lossless.popleft()
            self._lossless_bytes -= len(data)
            self._budget.give_back(len(data))
            self._write(data)
        while self._latest and not self._paused and self.connected:
            ready = [key for key in self._latest if self._wait_ns(key) <= 0]
            if not ready:
                self._come_back(min(map(self._wait_ns, self._latest)))
                return
            key = min(ready, key=lambda k: k[0] in _LARGE)  # poses and states before images and surfaces
            message, encoded = self._latest.pop(key)
            try:
                self._write_latest(key, message, encoded)
            except LocalError as error:  # must not block the others
                log.error("not sent: %s", error)

    def _wait_ns(self, key: Key) -> int:
        """Time until this device may be sent again."""
        interval_ns = max(self._interval_ns, self.intervals_ns.get(key[0], 0))
        return self._sent_ns.get(key, 0) + interval_ns - now_ns() if interval_ns else 0

    def _come_back(self, wait_ns: int) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + wait_ns / NS_PER_S
        if self._timer is not None and self._timer.when() <= due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush()

    def _write_latest(self, key: Key, message: Message, encoded: MutableMapping[int, bytes]) -> None:
        part = self._part(key, message)
        try:
            if part is not None and part is not message:
                encoded = {self.version: encode(part, self.version)}
            if self.version not in encoded:
                encoded[self.version] = encode(message, self.version)
        except LocalError:
            if self._parts is not None:
                self._parts.forget(key)
            raise
        self._write(encoded[self.version], key, ordered=part is not None)
        if self._interval_ns or self.intervals_ns:
            self._sent_ns[key] = now_ns()

    def _part(self, key: Key, message: Message) -> Image | None:
        """What to send of a 3-D image to a peer that accepts parts; None for others."""
        if self._parts is None or not isinstance(message, Image) or len(message.voxels) == 1:
            return None
        withdrawn = self._withdraw_large(key)
        self.dropped += withdrawn
        return self._parts.following(key, message, withdrawn=withdrawn)

    def _write(self, data: bytes, key: Key | None = None, *, ordered: bool = False) -> None:
        """Write bytes.

        Args:
            key: their device, whose newer message may take their place.
            ordered: whether they keep their order also if they are a device's; those of none always do.
        """
        size = len(data)
        ordered |= key is None
        self._outbox.settle()
        if key is not None and size < _LARGE_BYTES:
            self._withdraw_large(key)  # an older one must not come after it
        if size >= _BY_ITSELF_BYTES or self._gathered_bytes + size > _GATHERED_BYTES:
            self.write_gathered()
        if size >= _BY_ITSELF_BYTES:
            self._hand_over(data, key, ordered)
            return
        if not self._gathered:
            self._outbox.gathered(self)
        self._gathered.append(data)
        self._gathered_bytes += size
        self._gathered_ordered |= ordered

    def write_gathered(self) -> None:
        """Hand the small messages that gathered to the operating system."""
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        ordered, self._gathered_ordered = self._gathered_ordered, False
        if gathered and self.connected:
            self._hand_over(b"".join(gathered), None, ordered)

    def _hand_over(self, data: bytes, key: Key | None, ordered: bool) -> None:
        assert self._transport is not None
        if self._outlet is None:
            self._last_sent_ns = now_ns()
            self._transport.write(data)
            return
        if len(data) < _LARGE_BYTES:
            outcome = self._outlet.write(data, ordered=ordered)
        else:
            number = self._large.setdefault(key, len(self._large) + 1) if key is not None else 0
            outcome = self._outlet.queue(data, number)
        self.handed_over(outcome)

    def handed_over(self, outcome: Outcome) -> None:
        """Note what became of bytes that were handed to the outlet."""
        self._last_sent_ns = now_ns()
        match outcome:
            case Outcome.BUSY:
                self.pause_writing()
            case Outcome.REPLACED:
                self.dropped += 1
            case Outcome.FAILED:
                self.close(GONE)


class _Rate:
    """A token bucket that fills at a steady rate and holds one second's messages."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._at_ns = now_ns()

    def count(self, messages: int, at_ns: int) -> float:
        """Count messages; returns the seconds to wait before reading more."""
        self._left = min(self._per_s, self._left + (at_ns - self._at_ns) / NS_PER_S * self._per_s) - messages
        self._at_ns = at_ns
        return -self._left / self._per_s if self._left < 0 else 0.0
