"""How many rooms and consoles a machine serves: what a node costs here, measured, and other machines, simulated.

In a few live runs, the processor time of a node's loop, of its other threads and of its worker is measured at several
loads, and solved for what one X-ray, one pose and one message to one console cost. :mod:`.simulated_rooms` puts these
together on machines that are not here. Another live run, at a load that was not used, says how far to trust it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from navnode.bench.simulated_rooms import MESSAGES_PER_XRAY, Costs, Load, Simulated, simulated
from navnode.errors import ConfigError

__all__ = ["CHECKED", "Capacity", "Observed", "RUNS", "capacity", "fitted", "steps"]

_NINETY_NINTH = 2.326
"""Standard deviations between the median and the 99th percentile."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """A live run: one room, its node and its consoles on one machine."""

    load: Load
    loop_percent: float
    """Of one core, by the node's loop."""
    others_percent: float
    """By its other threads."""
    room_percent: float
    """By the virtual room."""
    worker_percent: float
    """By the worker that computes volumes."""
    beside_percent: float
    """By everything else on the machine: consoles, and who holds outputs against the truth."""
    registered_hz: float
    """X-rays; a loaded node drops some."""
    xray_p50_ms: float
    xray_p99_ms: float
    overlay_p50_ms: float
    overlay_p99_ms: float


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A run that the costs were not taken from, and what is simulated for it; the room is on the same cores."""

    observed: Observed
    simulated: Simulated


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How far a machine reaches."""

    costs_ms: Costs
    loop_first: bool
    """Whether the loop has real-time priority here, and has it in the simulation."""
    checks: list[Check]
    simulated: list[Simulated]
    """Rooms are on machines of their own."""


RUNS = (
    Load(xrays_hz=8, tools=1, consoles=0),
    Load(xrays_hz=25, tools=1, consoles=0),
    Load(xrays_hz=8, tools=8, consoles=0),
    Load(xrays_hz=8, tools=8, consoles=16),
    Load(xrays_hz=25, tools=1, consoles=16),
)
"""Of these the costs are taken."""
CHECKED = Load(xrays_hz=15, tools=4, consoles=8)


def capacity(
    live: Callable[[Load], Observed],
    rooms: Sequence[int],
    consoles: Sequence[int],
    cores: Sequence[int],
    own_cores: int,
    progress: Callable[[str], None] = lambda what: None,
    *,
    loop_first: bool = True,
) -> Capacity:
    """Measure what a node costs here, and simulate it on other machines.

    Args:
        live: runs a room with its node on this machine.
        rooms: numbers of rooms to simulate.
        consoles: numbers of consoles of each room.
        cores: numbers of cores.
        own_cores: of this machine, which the check is for.
        loop_first: whether loops have real-time priority.

    Raises:
        ConfigError: simpy is missing; asked before anything runs for minutes.
    """
    if importlib.util.find_spec("simpy") is None:
        raise ConfigError("rooms are simulated by simpy: pip install 'navnode[bench]'")
    runs = []
    for load in RUNS:
        progress(f"{load.xrays_hz:g} X-rays/s, {load.tools} tools, {load.consoles} consoles")
        runs.append(live(load))
    costs = fitted(runs)
    progress("check")
    observed = live(CHECKED)
    here = simulated(
        costs, CHECKED, 1, own_cores, with_rooms=True, beside_percent=observed.beside_percent, loop_first=loop_first
    )
    check = Check(observed=observed, simulated=here)
    progress("simulating")
    found = [
        simulated(costs, Load(xrays_hz=15, tools=8, consoles=listening), count, number, loop_first=loop_first)
        for count in rooms
        for listening in consoles
        for number in cores
    ]
    return Capacity(costs_ms=costs, loop_first=loop_first, checks=[check], simulated=found)


def steps() -> int:
    """Number of times that :func:`capacity` calls ``progress``."""
    return len(RUNS) + 2


def fitted(runs: Sequence[Observed]) -> Costs:
    """Costs of the pieces, by least squares over runs at different loads; none is negative. X-rays that a node dropped
    cost its loop alone."""
    from scipy.optimize import nnls

    loads = [run.load for run in runs]
    per_s = np.array([[1.0, x.poses_per_s, x.xrays_hz, x.pose_messages_per_s] for x in loads])
    loop = nnls(per_s, np.array([10 * run.loop_percent for run in runs]))[0]  # 1 % is 10 ms a second
    per_s = np.array([[1, MESSAGES_PER_XRAY * run.load.consoles] for run in runs])
    per_s = per_s * np.array([[run.registered_hz] for run in runs])
    others = nnls(per_s, np.array([10 * run.others_percent for run in runs]))[0]
    per_s = np.array([[x.xrays_hz, x.poses_per_s] for x in loads])
    room = nnls(per_s, np.array([10 * run.room_percent for run in runs]))[0]
    quiet = min(runs, key=lambda run: run.loop_percent + run.others_percent)
    return Costs(
        idle_percent=round(float(loop[0]) / 10, 2),
        pose=_rounded(loop[1]),
        xray_loop=_rounded(loop[2]),
        pose_message=_rounded(loop[3]),
        xray=_rounded(others[0]),
        xray_message=_rounded(others[1]),
        worker_percent=round(float(np.mean([run.worker_percent for run in runs])), 1),
        xray_spread=round(math.log(max(quiet.xray_p99_ms / quiet.xray_p50_ms, 1.0)) / _NINETY_NINTH, 3),
        room_xray=_rounded(room[0]),
        room_pose=_rounded(room[1]),
    )


def _rounded(ms: float) -> float:
    return round(float(ms), 4)
