"""Rooms, nodes, consoles and cores that are not here: a discrete-event simulation (simpy).

A node's pieces of work wait for each other: for Python's lock, which its threads share; for the registration before;
and for cores, which all nodes share, in turns. What each piece costs is measured (:mod:`~navnode.bench.capacity`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    import simpy

__all__ = ["Costs", "Load", "MESSAGES_PER_XRAY", "Simulated", "simulated"]

_TURN_MS, _LOCK_MS = 1.0, 0.1
"""How long a thread keeps a core, and Python's lock, when others wait."""
_IDLE_EVERY_MS = 4.0
_VOLUME_MS = 100.0
"""Pieces of a worker's time."""
_OUTPUTS_PER_POSE = 2
"""Messages to each console for a tool's pose: its transform and its tip."""
MESSAGES_PER_XRAY = 2
"""Messages to each console for an X-ray: the picture and its pose."""
_SHARED, _LOCKED = 0.4, 0.2
"""Shares of a registration's time that threads share (projections), and that need Python's lock (profiled)."""
_REGISTRATION_THREADS = 2
_SIMULATED_S, _SETTLES_S = 10.0, 1.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one room sends, and who listens."""

    xrays_hz: float
    tools: int
    consoles: int
    poses_hz: float = 100.0
    """Of every tool; the patient's and the C-arm's markers come with them."""

    @property
    def poses_per_s(self) -> float:
        """Of tools and of both markers."""
        return (self.tools + 2) * self.poses_hz

    @property
    def pose_messages_per_s(self) -> float:
        """To consoles."""
        return self.tools * self.poses_hz * _OUTPUTS_PER_POSE * self.consoles


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time, ms."""

    idle_percent: float
    """Of one core, whatever comes."""
    pose: float
    """Loop, for every pose."""
    xray_loop: float
    """Loop, for every X-ray."""
    xray: float
    """Other threads, for every X-ray."""
    pose_message: float
    """Loop, for every message of a pose to a console."""
    xray_message: float
    """Other threads, for every message of an X-ray to a console."""
    worker_percent: float
    """Of one core, by volumes."""
    xray_spread: float
    """Standard deviation of the logarithm of an X-ray's time, from its pose's latencies in the quietest run."""
    room_xray: float
    room_pose: float


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation says."""

    rooms: int
    cores: int
    load: Load
    xray_p50_ms: float | None
    """From an X-ray to its pose; None: none was registered."""
    xray_p99_ms: float | None
    overlay_p50_ms: float | None
    """From a tool's pose until its overlay has been handed to all consoles; None: none was."""
    overlay_p99_ms: float | None
    registered: float
    """Share of the X-rays, 0..1; newer ones replace those that wait."""
    shown: float
    """Share of the tools' poses, likewise."""
    busy: float
    """Share of all cores' time, 0..1."""


Process = Generator[Any, Any, None]


def simulated(
    costs: Costs,
    load: Load,
    rooms: int,
    cores: int,
    *,
    with_rooms: bool = False,
    beside_percent: float = 0.0,
    loop_first: bool = True,
    seconds: float = _SIMULATED_S,
) -> Simulated:
    """Some rooms' nodes on one machine.

    Args:
        with_rooms: the virtual rooms are on the same cores.
        beside_percent: of one core, which something else takes, in pieces that come by chance.
        loop_first: whether loops have real-time priority.
        seconds: simulated.
    """
    import simpy

    env = simpy.Environment()
    machine = _Machine(env, simpy.PriorityResource(env, cores), cores, loop_first=loop_first)
    nodes = [_Node(machine, costs, load, np.random.default_rng(number)) for number in range(rooms)]
    for node in nodes:
        for process in node.processes(with_rooms=with_rooms):
            env.process(process)
    others = [(beside_percent, _TURN_MS)] + [(costs.worker_percent, _VOLUME_MS)] * rooms
    for number, (percent, piece_ms) in enumerate(others):
        if percent > 0:
            env.process(machine.beside(percent / 100, piece_ms, np.random.default_rng((rooms, number))))
    env.run(1e3 * seconds)
    xrays_ms, overlays_ms = [[ms for node in nodes for ms in node.waits_ms[what]] for what in ("xrays", "poses")]
    came = sum((node.came for node in nodes), Counter[str]())
    return Simulated(
        rooms=rooms,
        cores=cores,
        load=load,
        xray_p50_ms=_percentile(xrays_ms, 50),
        xray_p99_ms=_percentile(xrays_ms, 99),
        overlay_p50_ms=_percentile(overlays_ms, 50),
        overlay_p99_ms=_percentile(overlays_ms, 99),
        registered=round(len(xrays_ms) / max(came["xrays"], 1), 3),
        shown=round(len(overlays_ms) / max(came["poses"], 1), 3),
        busy=round(machine.used_ms / (1e3 * seconds * cores), 3),
    )


def _percentile(values_ms: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values_ms, percent)), 2) if values_ms else None


class _Machine:
    """Cores that threads take in turns; the loops' go first where they have real-time priority."""

    def __init__(self, env: simpy.Environment, cores: simpy.PriorityResource, count: int, *, loop_first: bool) -> None:
        self.env, self.count, self._cores, self._loop_first = env, count, cores, loop_first
        self.used_ms = 0.0

    def work(self, ms: float, *, urgent: bool = False, lock: simpy.Resource | None = None) -> Process:
        """Compute for some time, holding Python's lock if there is one; what is urgent is not interrupted."""
        urgent &= self._loop_first
        turn_ms = ms if urgent else _TURN_MS if lock is None else _LOCK_MS
        while ms > 0:
            piece_ms = min(ms, turn_ms)
            if lock is None:
                yield from self._piece(piece_ms, urgent=urgent)
            else:
                with lock.request() as held:
                    yield held
                    yield from self._piece(piece_ms, urgent=urgent)
            ms -= piece_ms

    def beside(self, share: float, piece_ms: float, rng: np.random.Generator) -> Process:
        """Take a share of a core, above 0, in pieces that come by chance."""
        while True:
            yield self.env.timeout(float(rng.exponential(piece_ms / share)))
            self.env.process(self.work(piece_ms))

    def _piece(self, ms: float, *, urgent: bool) -> Process:
        with self._cores.request(priority=0 if urgent else 1) as core:
            yield core
            yield self.env.timeout(ms)
            self.used_ms += ms


class _Node:
    """A room's node: its loop, and the thread that registers one X-ray at a time. Of what waits, the newest counts."""

    def __init__(self, machine: _Machine, costs: Costs, load: Load, rng: np.random.Generator) -> None:
        import simpy

        self._machine, self._costs, self._load, self._rng = machine, costs, load, rng
        self._lock = simpy.Resource(machine.env)
        self._arrivals, self._xray = _Newest(machine.env), _Newest(machine.env)
        self.waits_ms: dict[str, list[float]] = {"xrays": [], "poses": []}
        self.came = Counter[str]()

    def processes(self, *, with_rooms: bool) -> Iterator[Process]:
        """All that goes on at the same time."""
        yield self._run_loop()
        yield self._register()
        yield self._send_poses(with_rooms=with_rooms)
        yield self._send_xrays(with_rooms=with_rooms)
        yield self._idle()

    def _idle(self) -> Process:
        """What the loop does whatever comes."""
        while True:
            yield self._machine.env.timeout(_IDLE_EVERY_MS)
            self._arrivals.put("idle", self._machine.env.now)

    def _send_poses(self, *, with_rooms: bool) -> Process:
        """The room's tracker: poses of all markers come together."""
        load, env, period_ms = self._load, self._machine.env, 1e3 / self._load.poses_hz
        yield env.timeout(self._rng.uniform(0, period_ms))
        while True:
            began_ms = env.now
            if with_rooms:
                yield from self._machine.work(self._costs.room_pose * (load.tools + 2))
            self._arrivals.put("markers", env.now)
            for tool in range(load.tools):
                self._arrivals.put(f"tool {tool}", env.now)
            self._count("poses", load.tools)
            yield env.timeout(max(period_ms - (env.now - began_ms), 0.0))

    def _send_xrays(self, *, with_rooms: bool) -> Process:
        env, period_ms = self._machine.env, 1e3 / self._load.xrays_hz
        yield env.timeout(self._rng.uniform(0, period_ms))
        while True:
            began_ms = env.now
            if with_rooms:
                yield from self._machine.work(self._costs.room_xray)
            self._arrivals.put("X-ray", env.now)
            self._count("xrays", 1)
            yield env.timeout(max(period_ms - (env.now - began_ms), 0.0))

    def _run_loop(self) -> Process:
        load, costs = self._load, self._costs
        idle_ms = costs.idle_percent / 100 * _IDLE_EVERY_MS
        shown_ms = costs.pose + _OUTPUTS_PER_POSE * load.consoles * costs.pose_message
        while True:
            what, came_ms = yield from self._arrivals.next()
            ms = {"X-ray": costs.xray_loop, "markers": 2 * costs.pose, "idle": idle_ms}.get(what, shown_ms)
            yield from self._machine.work(ms, urgent=True, lock=self._lock)
            if what == "X-ray":
                self._machine.env.process(self._paired(came_ms))
            elif what.startswith("tool"):
                self._done("poses", came_ms)

    def _paired(self, came_ms: float) -> Process:
        """An X-ray waits for the tracker's next poses."""
        yield self._machine.env.timeout(self._rng.uniform(0, 1e3 / self._load.poses_hz))
        self._xray.put("X-ray", came_ms)

    def _register(self) -> Process:
        machine, costs = self._machine, self._costs
        parts = min(machine.count, _REGISTRATION_THREADS)
        while True:
            _, came_ms = yield from self._xray.next()
            ms = costs.xray * float(np.exp(self._rng.normal(0, costs.xray_spread) - costs.xray_spread**2 / 2))
            shared = [machine.env.process(machine.work(_SHARED * ms / parts)) for _ in range(parts)]
            yield machine.env.all_of(shared)
            yield from machine.work((1 - _SHARED - _LOCKED) * ms)
            yield from machine.work(_LOCKED * ms, lock=self._lock)
            self._done("xrays", came_ms)
            messages = MESSAGES_PER_XRAY * self._load.consoles
            machine.env.process(machine.work(messages * costs.xray_message))

    def _count(self, what: str, count: int) -> None:
        if self._machine.env.now > 1e3 * _SETTLES_S:
            self.came[what] += count

    def _done(self, what: str, came_ms: float) -> None:
        if came_ms > 1e3 * _SETTLES_S:
            self.waits_ms[what].append(self._machine.env.now - came_ms)


class _Newest:
    """What waits, in the order in which it came first; what comes again replaces what still waits."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._waiting: dict[str, float] = {}
        self._came = env.event()

    def put(self, what: str, at_ms: float) -> None:
        """Let something wait, or something newer of its kind."""
        self._waiting[what] = at_ms
        if not self._came.triggered:
            self._came.succeed()

    def next(self) -> Generator[Any, Any, tuple[str, float]]:
        """Wait for what is first; what it is, and when it came, ms."""
        while not self._waiting:
            self._came = self._env.event()
            yield self._came
        what = next(iter(self._waiting))
        return what, self._waiting.pop(what)
