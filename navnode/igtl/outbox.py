"""Small messages to a peer gather while what arrived is handled, and leave in one call of the system.

With many consoles, calls of the system are most of what publishing a pose costs, and handing its messages to every peer
by itself most of the rest: what goes to all of some peers gathers once, and leaves for all of them in native code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Gathers", "Outbox"]

_SHARED_BYTES = 1 << 16
"""So much gathers for several peers."""


class Gathers(Protocol):
    """A peer, as its outbox sees it."""

    def write_gathered(self) -> None:
        """Write what gathered."""


Peer = TypeVar("Peer", bound=Gathers)


def _nobody_shares(peers: object, data: bytes) -> None:
    raise AssertionError("an outbox whose peers share nothing")


class Outbox(Generic[Peer]):
    """The peers with something to write. Those of one server share it, as a turn costs as much for one as for all.

    Args:
        write_shared: writes bytes to several peers.
    """

    def __init__(self, write_shared: Callable[[tuple[Peer, ...], bytes], None] = _nobody_shares) -> None:
        self._write_shared = write_shared
        self._peers: dict[Gathers, None] = {}
        self._sharing: tuple[Peer, ...] = ()
        self._shared: list[bytes] = []
        self._shared_bytes = 0

    def gathered(self, peer: Gathers) -> None:
        """A peer has something to write, at the end of this turn."""
        self._come_back()
        self._peers[peer] = None

    def share(self, data: bytes, peers: tuple[Peer, ...]) -> None:
        """Write a small message to several peers at the end of this turn, or sooner if they get something else."""
        if self._shared and (peers != self._sharing or self._shared_bytes + len(data) > _SHARED_BYTES):
            self.settle()
        if not self._shared:
            for peer in peers:
                peer.write_gathered()  # what it got before comes first
            self._come_back()
            self._sharing = peers
        self._shared.append(data)
        self._shared_bytes += len(data)

    def settle(self) -> None:
        """Let what is shared leave now: one of its peers gets something else, which must come after it."""
        if self._shared:
            shared, self._shared, self._shared_bytes = self._shared, [], 0
            self._write_shared(self._sharing, b"".join(shared))

    def flush(self) -> None:
        """Let everything leave now: what arrived has been handled, and another turn would only cost time."""
        self.settle()
        peers, self._peers = self._peers, {}
        for peer in peers:
            peer.write_gathered()

    def _come_back(self) -> None:
        if not self._peers and not self._shared:
            asyncio.get_running_loop().call_soon(self.flush)
