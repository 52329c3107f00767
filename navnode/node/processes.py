"""What navnode's processes share: addresses, the line that says they are ready, log lines, priorities, a common end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

__all__ = [
    "LOG_PREFIX",
    "READY",
    "SIGN",
    "die_with",
    "may_open_more",
    "may_take_loop_priority",
    "output_address",
    "say_alive",
    "say_ready",
    "serve_until_told",
    "take_loop_priority",
    "worker_address",
]

READY, SIGN = "ready", "alive"
LOG_PREFIX = "navnode: "
"""Prefix of log lines that are shown to the operator."""

_LOOP_PRIORITY = 5
"""Real-time priority of the loop: above everything that is not real-time, below threads of the kernel."""

_PR_SET_PDEATHSIG = 1

_DESCRIPTORS = 65_536
"""Wanted for sockets: systems allow a process 1024 unless it asks, and whoever idles until he is sent away has one."""


def worker_address(folder: Path) -> str:
    """ZeroMQ address at which the node waits for its reconstruction worker."""
    return f"ipc://{folder}/worker"


def output_address(folder: Path) -> str:
    """ZeroMQ address at which the node publishes its outputs."""
    return f"ipc://{folder}/outputs"


def say_ready(about: str) -> None:
    """Tell the supervisor that this process is ready.

    Args:
        about: what the supervisor should know of it: a port, an engine.
    """
    _to_supervisor(f"{READY} {about}")


def say_alive() -> None:
    """Give the supervisor a sign of life; for processes that the node does not hear."""
    _to_supervisor(SIGN)


def _to_supervisor(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # the supervisor's pipe
    sys.stdout.flush()


def serve_until_told(work: Coroutine[object, object, object]) -> None:
    """Run what a process does until it ends by itself or by a signal: between two of its steps, never within one.

    A node that ended within a step would record that step without its outputs, and no replay would repeat it.

    Raises:
        SystemExit: SIGTERM or SIGHUP arrived, and the work has been cancelled.
    """

    told: list[int] = []

    async def serve() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def end(number: int) -> None:
            told.append(number)
            if len(told) == 1:  # a second one must not end what closes connections
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        try:
            await task
        except asyncio.CancelledError:
            if not told:
                raise

    asyncio.run(serve())
    if told:  # not within the loop, which would leave other tasks where they are
        sys.exit(128 + told[0])


def die_with(parent: int) -> None:
    """End this process when its supervisor ends, however that happens (Linux).

    Args:
        parent: process id of the supervisor.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the call
            sys.exit(0)


def may_open_more() -> None:
    """Let this process open as many files and sockets as its user is allowed to, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def take_loop_priority() -> bool:
    """Give the calling thread a real-time priority; False: the system does not allow it.

    The loop needs a core for fractions of a millisecond at a time; on two busy cores, ordinary scheduling makes a
    tool's pose wait up to 5 ms for one. Threads and processes that it starts are scheduled ordinarily.
    """
    return _schedule("SCHED_RR", _LOOP_PRIORITY)


def may_take_loop_priority() -> bool:
    """Whether this user may use a real-time priority: on Linux, as root or with a real-time limit (``ulimit -r``)."""
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
