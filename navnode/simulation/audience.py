"""Who is told of what takes long in preparing a room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _silent(*_: object) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Audience:
    """Who is told; nobody, unless said otherwise."""

    say: Callable[[str], None] = _silent
    """Takes a line for people."""
    counted: Callable[[int, int, str], None] = _silent
    """Takes how many are done, of how many, and what."""


NOBODY = Audience()
