"""Waiting for what other threads, processes and browsers do.

What runs out of patience says so with an error of its own: on a busy machine such a test has a second attempt (FAST in
the Makefile), which a test that saw a wrong value never has. The summary lists every second attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Found = TypeVar("Found")


class OutOfPatienceError(AssertionError):
    """What was waited for did not come in time."""


def until(condition: Callable[[], Found], timeout_s: float = 60.0, said: object = "", every_s: float = 0.01) -> Found:
    """The first true value of a condition.

    Args:
        condition: Asked every `every_s` seconds.
        said: What to say of its absence; called for it, if it can be.

    Raises:
        OutOfPatienceError: None within `timeout_s`.
    """
    for wait in _until(condition, timeout_s, said):
        if wait is not None:
            return wait
        time.sleep(every_s)
    raise AssertionError("unreachable")


async def until_async(
    condition: Callable[[], Found], timeout_s: float = 60.0, said: object = "", every_s: float = 0.01
) -> Found:
    """As `until`, while other tasks go on."""
    for wait in _until(condition, timeout_s, said):
        if wait is not None:
            return wait
        await asyncio.sleep(every_s)
    raise AssertionError("unreachable")


def _until(condition: Callable[[], Found], timeout_s: float, said: object) -> Iterator[Found | None]:
    """What was found, or None as long as there is nothing and still patience."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() >= deadline_s:
            raise OutOfPatienceError(f"not within {timeout_s} s: {said() if callable(said) else said or condition}")
        yield None
    yield found
