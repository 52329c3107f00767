"""Small messages to a peer gather while what arrived is handled, and leave in one call of the system.

With many consoles, calls of the system are most of what publishing a pose costs.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Gathers", "Outbox"]


class Gathers(Protocol):
    """A peer, as its outbox sees it."""

    def write_gathered(self) -> None:
        """Write what gathered."""


class Outbox:
    """The peers with something to write. Those of one server share it, as a turn costs as much for one as for all."""

    def __init__(self) -> None:
        self._peers: dict[Gathers, None] = {}

    def gathered(self, peer: Gathers) -> None:
        """A peer has something to write, at the end of this turn."""
        if not self._peers:
            asyncio.get_running_loop().call_soon(self.flush)
        self._peers[peer] = None

    def flush(self) -> None:
        """Let everything leave now: what arrived has been handled, and another turn would only cost time."""
        peers, self._peers = self._peers, {}
        for peer in peers:
            peer.write_gathered()
