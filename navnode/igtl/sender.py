"""Writes to many peers in native code, large messages from a thread of its own (``native/sender.cpp``; Linux).

What copies images into sockets would otherwise be the loop's thread: an X-ray for a hundred consoles takes ten
milliseconds, in which no tool is placed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Sequence
from enum import IntEnum

from navnode import native

__all__ = ["Outcome", "Outlet", "Sender"]

_AT_ONCE = 256


class Outcome(IntEnum):
    """What became of bytes for a peer."""

    FAILED = -1
    """The connection is gone."""
    FREE = 0
    """Sent, or in line."""
    BUSY = 1
    """They wait, and the peer should get no more until it is free."""
    REPLACED = 2
    """In line, in the place of an older message of the device."""


class Sender:
    """The thread, and the peers it writes to. Make it in the event loop that is to hear of peers that are free again.

    Raises:
        OSError: the system cannot provide it.
    """

    def __init__(self) -> None:
        self.quick, self._handle = native.holding_library(), None
        if not hasattr(self.quick, "navnode_sender_start"):
            raise OSError("not on this system")
        self._handle = native.library().navnode_sender_start()
        if not self._handle:
            raise OSError("no descriptors left")
        self._on_freed: dict[int, Callable[[], None]] = {}
        self._copied: tuple[bytes, int] | None = None
        """The message copied last: the same goes to one peer after another."""
        self._numbers = (ctypes.c_uint64 * _AT_ONCE)()
        self._freed_fd = int(self.quick.navnode_sender_freed_fd(self._handle))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._freed_fd, self._freed)

    @property
    def handle(self) -> int | None:
        """What native functions know it by; None once it is closed."""
        return self._handle

    def outlet(self, socket_fd: int, on_freed: Callable[[], None]) -> Outlet:
        """The way to a peer; nothing else may write to its socket from now on.

        Args:
            on_freed: called when the peer was busy and no longer is.

        Raises:
            OSError: no descriptors are left.
        """
        number = int(self.quick.navnode_sender_add(self._handle, socket_fd))
        if not number:
            raise OSError("no descriptors left")
        self._on_freed[number] = on_freed
        return Outlet(self, number)

    def close(self) -> None:
        """End the thread; what waits is discarded."""
        if self._handle is None:
            return
        self._loop.remove_reader(self._freed_fd)
        self.forget_copy()
        self._on_freed.clear()
        handle, self._handle = self._handle, None
        native.library().navnode_sender_stop(handle)

    def remove(self, number: int) -> None:
        """Forget a peer and what waits for it."""
        self._on_freed.pop(number, None)
        if self._handle is not None:
            self.quick.navnode_sender_remove(self._handle, number)

    def copied(self, data: bytes) -> int:
        """A large message as native functions know it, copied once for all peers that get it in a row."""
        if self._copied is None or self._copied[0] is not data:
            self.forget_copy()
            self._copied = data, native.library().navnode_sender_copy(data, len(data))
            self._loop.call_soon(self.forget_copy)
        return self._copied[1]

    def write_all(self, outlets: Sequence[Outlet], data: bytes) -> list[Outcome]:
        """Write a small unordered message to many peers, like :meth:`Outlet.write`, without the GIL."""
        if self._handle is None:
            return [Outcome.FAILED] * len(outlets)
        numbers, outcomes = (ctypes.c_uint64 * len(outlets))(), (ctypes.c_int * len(outlets))()
        numbers[:] = [outlet.number for outlet in outlets]
        native.library().navnode_sender_write_all(self._handle, numbers, len(outlets), data, len(data), outcomes)
        return [Outcome(outcome) for outcome in outcomes]

    def forget_copy(self) -> None:
        """Let go of the message copied last; peers that wait for it keep it."""
        if self._copied is not None:
            self.quick.navnode_sender_forget(self._copied[1])
            self._copied = None

    def _freed(self) -> None:
        os.eventfd_read(self._freed_fd)
        count = _AT_ONCE
        while count == _AT_ONCE and self._handle is not None:
            count = self.quick.navnode_sender_take_freed(self._handle, self._numbers, _AT_ONCE)
            for number in self._numbers[:count]:
                if (on_freed := self._on_freed.get(number)) is not None:
                    on_freed()


class Outlet:
    """The way to one peer."""

    def __init__(self, sender: Sender, number: int) -> None:
        self._sender, self.number = sender, number

    def write(self, data: bytes, *, ordered: bool = True) -> Outcome:
        """Write a small message: at once, unless another has begun.

        Args:
            ordered: whether it must not pass large ones of no device.
        """
        sender = self._sender
        if sender.handle is None:
            return Outcome.FAILED
        return Outcome(sender.quick.navnode_sender_write(sender.handle, self.number, data, len(data), ordered))

    def queue(self, data: bytes, device: int = 0) -> Outcome:
        """Write a large message in its turn.

        Args:
            device: number of its device, whose newer message takes its place until its turn comes; 0: keep the order.
        """
        sender = self._sender
        if sender.handle is None:
            return Outcome.FAILED
        return Outcome(sender.quick.navnode_sender_queue(sender.handle, self.number, sender.copied(data), device))

    def withdraw(self, device: int) -> bool:
        """Discard a device's message unless its turn has come; whether there was one."""
        sender = self._sender
        return sender.handle is not None and bool(
            sender.quick.navnode_sender_withdraw(sender.handle, self.number, device)
        )

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait here."""
        sender = self._sender
        return int(sender.quick.navnode_sender_bytes(sender.handle, self.number)) if sender.handle is not None else 0

    def close(self) -> None:
        """Discard what waits, but for a piece that is being sent."""
        self._sender.remove(self.number)
