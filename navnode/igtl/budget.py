"""Memory that the peers of one server may hold together."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Bytes that are held, and how many there may be.

    Args:
        limit_bytes: of all who share it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.used_bytes = 0

    def take(self, size: int) -> bool:
        """Hold more bytes; False: there is no room for them."""
        if self.used_bytes + size > self._limit_bytes:
            return False
        self.used_bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Hold fewer bytes."""
        self.used_bytes -= size
