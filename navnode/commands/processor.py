"""Processor time of a run's processes, as the system tells it in /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from navnode.node.supervisor import Supervisor


class ProcessorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time, in percent of one core; None if the system does not report it."""

    loop: float | None
    """The node's loop: everything between a message and its outputs, except registration and large messages."""
    others: float | None
    """The node's other threads."""
    room: float | None
    """The source process that runs along: the virtual room, or a player."""
    worker: float | None
    """The reconstruction worker; 0 if none runs here."""
    cores: float | None
    """Everything that ran on the cores that this process may use, meanwhile."""


class Used(NamedTuple):
    """Processor time so far, s; None where the system does not report it."""

    loop: float | None
    """The node's first thread."""
    node: float | None
    room: float | None
    worker: float | None
    cores: float | None


def used(supervisor: Supervisor) -> Used:
    """Processor time so far of a supervisor's processes."""
    node, room, worker = supervisor.pid("node"), supervisor.room_pid, supervisor.worker_pid
    return Used(
        loop=task_s(f"{node}/task/{node}"),
        node=task_s(f"{node}"),
        room=0.0 if room is None else task_s(f"{room}"),
        worker=0.0 if worker is None else task_s(f"{worker}"),
        cores=cores_s(),
    )


def percent(before: Used, after: Used, elapsed_s: float) -> ProcessorFigures:
    """Processor time between two moments; None also for what was started again meanwhile."""

    def share(early: float | None, late: float | None) -> float | None:
        if early is None or late is None or late < early:
            return None
        return round(100 * (late - early) / elapsed_s, 1)

    loop, node, room, worker, cores = map(share, before, after)
    others = None if loop is None or node is None else round(node - loop, 1)
    return ProcessorFigures(loop=loop, others=others, room=room, worker=worker, cores=cores)


def task_s(task: str) -> float | None:
    """Processor time of a process or thread so far, s.

    Args:
        task: its folder below /proc.
    """
    try:
        fields = Path(f"/proc/{task}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # another system, or the process has ended
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cores_s() -> float | None:
    """Of all cores that this process may use, s: user, nice, system, and both kinds of interrupts; neither idle nor
    waiting for a disk."""
    allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return None
    ticks = [[int(field) for field in fields] for name, *fields in lines if name in allowed]
    return sum(sum(each[:3]) + sum(each[5:7]) for each in ticks) / os.sysconf("SC_CLK_TCK")
