"""Starts navnode's processes, watches them, restarts those that die or hang, and ends them together."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from navnode.clock import now_ns
from navnode.config import Config, PlayerSection, SimulatorSection
from navnode.errors import ConfigError, NavError, PeerError
from navnode.loop import bus, topics
from navnode.node.processes import LOG_PREFIX, READY, output_address
from navnode.types import NodeState

_READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.3, 5.0
_HUNG_S = {"node": 2.5, "worker": 6.0}
"""A process that lives, but has said nothing for so long, hangs. The worker may have to wait for its core."""
_UNWATCHED_S = 1.0
"""Nobody looked for longer: this process was stopped itself, and says nothing of others."""


# The linear algebra here is small: BLAS threads would only take cores from the kernels and the loop.
_ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[str]
    started_s: float
    ready: str | None = None
    restarts: int = 0
    wait_s: float = _FIRST_WAIT_S
    heard_s: float = 0.0
    """When it last gave a sign of life; 0 before the first."""
    died_s: float = field(default=0.0)


class Supervisor:
    """The processes of one node, in a folder of their own; a context manager.

    Args:
        config: what the node is told.
        room: also start what serves X-rays and poses: a virtual operating room, or the player of a session.
        announce: called with one line when a process dies or returns, and with the warnings of processes.
    """

    def __init__(
        self,
        config: Config,
        room: SimulatorSection | PlayerSection | None,
        announce: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self._room, self._announce = config, room, announce
        self.folder = Path(tempfile.mkdtemp(prefix="navnode-"))
        self.projector = ""
        """With what the node projects, as it said when it was ready for the first time."""
        self._children: dict[str, _Child] = {}
        self._state: NodeState | None = None
        self._heard_s = self._watched_s = 0.0
        self._read_up_to: dict[str, int] = {}
        self._states: bus.Subscriber | None = None

    def __enter__(self) -> Supervisor:
        (self.folder / "config.json").write_bytes(msgspec.json.encode(_begun(self.config)))
        if self._room is not None:
            (self.folder / f"{_room_name(self._room)}.json").write_bytes(msgspec.json.encode(self._room))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            ConfigError: a process refused its configuration, or a port is in use.
            NavError: a process failed to start; the line says which and why.
        """
        names = [_room_name(self._room)] if self._room is not None else []
        names += ["worker"] if self.config.reconstruction.remote is None else []
        names += ["node"]
        names += ["display"] if self.config.display.enabled else []
        for name in names:
            self._children[name] = self._launch(name)
        for child in self._children.values():
            self._await_ready(child)
        self.projector = (self._children["node"].ready or "").partition(" ")[2]  # after its port
        # Until now they could not reach each other; their warnings about that are not news.
        self._read_up_to = {name: (self.folder / f"{name}.log").stat().st_size for name in names}
        self._states = bus.Subscriber(output_address(self.folder), topics.bound_of("state"), "state")

    def watch(self) -> NodeState | None:
        """Restart what died; the newest state of the node, None when it has none. Call it a few times a second."""
        assert self._states is not None
        self._pass_on_warnings()
        with contextlib.suppress(PeerError):
            while (state := self._states.next()) is not None:
                self._state, self._heard_s = state, time.monotonic()
                self._hear(state)
        self._end_hung()
        for name, child in list(self._children.items()):
            if child.process.poll() is None:
                continue
            now = time.monotonic()
            if not child.died_s:
                child.died_s = now
                why = _exit_text(child.process.returncode)
                said = self._last_line(name) if child.process.returncode > 0 else ""
                self._announce(f"{name} ended ({why}{': ' + said if said else ''}); starting it again")
                if name == "node":
                    self._state = None
            elif now - child.died_s >= child.wait_s:
                again = self._launch(name)
                again.restarts = child.restarts + 1
                lived_s = child.died_s - child.started_s
                again.wait_s = _FIRST_WAIT_S if lived_s > 10 else min(2 * child.wait_s, _LONGEST_WAIT_S)
                self._children[name] = again
        silent = time.monotonic() - self._heard_s > topics.max_age_ns("state") / 1e9
        return None if silent else self._state

    def _hear(self, state: NodeState) -> None:
        """The node's report is a sign of its life, and tells of the worker's."""
        now_s = time.monotonic()
        for name, lives in (("node", True), ("worker", state.worker_alive)):
            if lives and name in self._children:
                self._children[name].heard_s = now_s

    def _end_hung(self) -> None:
        """Kill what lives and says nothing; it is started again like all that dies."""
        now_s = time.monotonic()
        unwatched, self._watched_s = now_s - self._watched_s > _UNWATCHED_S, now_s
        for name, limit_s in _HUNG_S.items():
            child = self._children.get(name)
            if child is None or not child.heard_s or child.process.poll() is not None:
                continue
            if unwatched or (name == "worker" and now_s - self._heard_s > _HUNG_S["node"]):
                child.heard_s = now_s  # nothing is known of it
            elif now_s - child.heard_s > limit_s:
                self._announce(f"{name} hangs; ending it")
                child.process.kill()

    def restarts(self) -> dict[str, int]:
        """How often each process had to be started again."""
        return {name: child.restarts for name, child in self._children.items()}

    def pid(self, name: str) -> int:
        return self._children[name].process.pid

    def stop(self) -> None:
        """End all processes and remove their folder."""
        with _deaf():  # being told twice must not leave things behind
            self._end()

    def _end(self) -> None:
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for child in self._children.values():
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        if self._states is not None:
            self._states.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self, name: str) -> _Child:
        log = (self.folder / f"{name}.log").open("a")
        command = [sys.executable, "-m", "navnode", "_process", name, str(self.folder), str(os.getpid())]
        with log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_ENVIRONMENT,
            )
        child = _Child(name, process, time.monotonic())
        threading.Thread(target=_read_ready, args=(child,), daemon=True).start()
        return child

    def _await_ready(self, child: _Child) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while child.ready is None:
            if child.process.poll() is not None:
                reason = self._last_line(child.name) or _exit_text(child.process.returncode)
                kind = ConfigError if child.process.returncode == 2 else NavError
                raise kind(reason if kind is ConfigError else f"{child.name}: {reason}")
            if time.monotonic() > deadline:
                raise NavError(f"{child.name} did not become ready within {_READY_TIMEOUT_S:.0f} s")
            time.sleep(0.02)

    def _pass_on_warnings(self) -> None:
        """What the processes have logged since the last time."""
        for name in self._children:
            with (self.folder / f"{name}.log").open(errors="replace") as log:
                log.seek(self._read_up_to.get(name, 0))
                lines = log.readlines()
                self._read_up_to[name] = log.tell()
            for line in lines:
                if line.startswith(LOG_PREFIX):  # tracebacks stay in the file
                    self._announce(f"{name}: {line.removeprefix(LOG_PREFIX).strip()}")

    def _last_line(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix(LOG_PREFIX) if lines else ""


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore signals in the block. Only the main thread receives them anyway."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not the main thread
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begun(config: Config) -> Config:
    """What a procedure that begins now is told: also a node that is started again in it takes calibrations that have
    expired meanwhile."""
    calibration = config.calibration
    if calibration.as_of_ns:
        return config
    return msgspec.structs.replace(config, calibration=msgspec.structs.replace(calibration, as_of_ns=now_ns()))


def read_config(folder: Path) -> Config:
    return msgspec.json.decode((folder / "config.json").read_bytes(), type=Config)


def read_room(folder: Path) -> SimulatorSection | PlayerSection:
    """What the room's process is told."""
    player = folder / "player.json"
    if player.exists():
        return msgspec.json.decode(player.read_bytes(), type=PlayerSection)
    return msgspec.json.decode((folder / "simulator.json").read_bytes(), type=SimulatorSection)


def _room_name(room: SimulatorSection | PlayerSection) -> str:
    return "player" if isinstance(room, PlayerSection) else "simulator"


def _read_ready(child: _Child) -> None:
    assert child.process.stdout is not None
    for line in child.process.stdout:
        if line.startswith(READY):
            child.ready = line.removeprefix(READY).strip()


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit {code}"


def wait_while(
    supervisor: Supervisor,
    on_state: Callable[[NodeState | None], Any],
    seconds: float | None,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Watch the processes for ``seconds``, until ``over``, or for ever."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while not over() and (deadline is None or time.monotonic() < deadline):
        on_state(supervisor.watch())
        time.sleep(0.1)
