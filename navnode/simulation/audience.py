"""Where the slow steps of preparing a room report their progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["NOBODY", "Audience"]


def _silent(*_: object) -> None:
    """Discard the report."""


@dataclass(frozen=True)
class Audience:
    """Receives progress; discards it by default."""

    say: Callable[[str], None] = _silent
    """Receives a line for people."""
    counted: Callable[[int, int, str], None] = _silent
    """Receives the number done, the total, and what is being done."""


NOBODY = Audience()
