"""What navnode's processes agree on: where they meet, how they say that they serve, how the system schedules
them, and that they end together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

READY = "ready"
LOG_PREFIX = "navnode: "
"""How the lines begin that are meant for a person."""

_LOOP_PRIORITY = 5
"""Real-time priority of the loop: above everything that is not real-time, below the kernel's own threads."""

_PR_SET_PDEATHSIG = 1


def worker_address(folder: Path) -> str:
    """Where the node waits for its reconstruction worker."""
    return f"ipc://{folder}/worker"


def output_address(folder: Path) -> str:
    """Where the node's outputs can be had."""
    return f"ipc://{folder}/outputs"


def say_ready(about: str) -> None:
    """Tell the supervisor that this process serves now."""
    print(f"{READY} {about}", flush=True)  # noqa: T201 - its standard output is the supervisor's pipe


def die_with(parent: int) -> None:
    """Make this process end when its supervisor does, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we asked
            sys.exit(0)


def take_loop_priority() -> bool:
    """Schedule the calling thread before all that is not real-time; False where the system does not allow it.

    The loop needs a core for fractions of a millisecond at a time; on two busy cores, ordinary scheduling makes a
    tool's pose wait up to 5 ms for one. Threads and processes started from here are scheduled ordinarily again.
    """
    return _schedule("SCHED_RR", _LOOP_PRIORITY)


def may_take_loop_priority() -> bool:
    """Whether this user may: as root, or with a real-time limit (``ulimit -r``), on Linux."""
    allowed = take_loop_priority()
    _schedule("SCHED_OTHER", 0)
    return allowed


def _schedule(policy: str, priority: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        os.sched_setscheduler(0, getattr(os, policy) | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError:  # not permitted, or a kernel without it
        return False
    return True
