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
from navnode.config import Config, PlayerSection, SimulatorSection, Source, SourceSection
from navnode.errors import CalibrationError, ConfigError, NavError, PeerError
from navnode.loop import bus, calibrations, topics
from navnode.node.processes import LOG_PREFIX, READY, SIGN, output_address
from navnode.types import Dose, NodeState

__all__ = [
    "Supervisor",
    "calibrations_folder",
    "gateways",
    "plays_a_session",
    "read_config",
    "read_dose",
    "read_source_process",
    "wait_while",
]

_READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.3, 5.0
_DOSE = "dose.json"
_HUNG_S = {"node": 2.5, "worker": 6.0, "display": 10.0}
"""A process that is silent for this long hangs. The worker may wait for its core, and pages notice by themselves."""
_GATEWAY_HUNG_S = 6.0
_STARTS_LATE, _LEAST_START_S = 3.0, 10.0
"""A process that takes so many times as long to start as it did before, and at least so long, hangs."""
_UNWATCHED_S = 1.0
"""If longer passed between two looks, the supervisor itself was stopped, and the silence of others proves nothing."""

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
    """Time of the last sign of life; 0 before the first."""
    said_s: float = 0.0
    """Time at which it last gave one itself."""
    died_s: float = field(default=0.0)


class Supervisor:
    """Runs the processes of one node in a temporary folder; a context manager.

    Args:
        config: the node's configuration.
        source_process: settings of a process that serves X-rays and poses and is started as well: a virtual operating
            room, or the player of a session; None: start none.
        announce: called with one line when a process ends, and with the processes' warnings.
    """

    def __init__(
        self,
        config: Config,
        source_process: SimulatorSection | PlayerSection | None,
        announce: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self._source_process, self._announce = config, source_process, announce
        self.folder = Path(tempfile.mkdtemp(prefix="navnode-"))
        self.projector = ""
        """With what the node projects, as it said when it was ready for the first time."""
        self._children: dict[str, _Child] = {}
        self._state: NodeState | None = None
        self._dose: Dose | None = None
        """Of the whole procedure, as the node said last."""
        self._heard_s = self._watched_s = 0.0
        self._starts_s: dict[str, float] = {}
        """The longest that each process took from its launch to its first sign of life."""
        self._read_up_to: dict[str, int] = {}
        self._states: bus.Subscriber | None = None

    def __enter__(self) -> Supervisor:
        (self.folder / "config.json").write_bytes(msgspec.json.encode(_with_start_time(self.config)))
        try:
            calibrations.copy(self.config, calibrations_folder(self.folder))
        except CalibrationError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if (settings := self._source_process) is not None:
            (self.folder / f"{_source_name(settings)}.json").write_bytes(msgspec.json.encode(settings))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all processes and wait until they are ready.

        Raises:
            ConfigError: a process refused its configuration, or a port is in use.
            NavError: a process failed to start; the message says which and why.
        """
        # First the display, for whoever waits to see that others are starting, and the node, which takes longest.
        for name in (["display"] if self.config.display.enabled else []) + ["node"]:
            self._children[name] = self._launch(name)
        if "display" in self._children:
            self._await_ready(self._children["display"])
        names = [_source_name(self._source_process)] if self._source_process is not None else []
        names += ["worker"] if self.config.reconstruction.remote is None else []
        names += gateways(self.config)
        for name in names:
            self._children[name] = self._launch(name)
        for child in self._children.values():
            self._await_ready(child)
        self.projector = (self._children["node"].ready or "").partition(" ")[2]  # after its port
        # Until now they could not reach each other: their warnings about that are no news. Gateways reach nobody.
        unread = gateways(self.config)
        self._read_up_to = {
            name: (self.folder / f"{name}.log").stat().st_size for name in self._children if name not in unread
        }
        self._states = bus.Subscriber(output_address(self.folder), topics.bound_of("state"), "state")

    def watch(self) -> NodeState | None:
        """Restart processes that ended; call it a few times a second.

        Returns:
            The node's newest state; None: the node is silent.
        """
        assert self._states is not None
        self._pass_on_warnings()
        with contextlib.suppress(PeerError):
            while (state := self._states.next()) is not None:
                self._state, self._heard_s = state, time.monotonic()
                self._hear(state)
        self._hear_signs()
        self._end_hung()
        for name, child in list(self._children.items()):
            if child.process.poll() is None:
                continue
            now = time.monotonic()
            if not child.died_s:
                child.died_s = now
                why = _exit_text(child.process.returncode)
                said = self._last_line(name) if child.process.returncode > 0 else ""
                self._announce(f"{name} ended ({why}{': ' + said if said else ''}); restarting it")
                if name == "node":
                    self._state = None
            elif now - child.died_s >= child.wait_s:
                if name == "node" and self._dose is not None:  # a patient's dose does not begin anew with a process
                    (self.folder / _DOSE).write_bytes(msgspec.json.encode(self._dose))
                successor = self._launch(name)
                successor.restarts = child.restarts + 1
                lived_s = child.died_s - child.started_s
                successor.wait_s = _FIRST_WAIT_S if lived_s > 10 else min(2 * child.wait_s, _LONGEST_WAIT_S)
                self._children[name] = successor
        silent = time.monotonic() - self._heard_s > topics.max_age_ns("state") / 1e9
        return None if silent else self._state

    def _hear(self, state: NodeState) -> None:
        """Note a sign of life of the node, and of the worker if the node hears it, and the dose."""
        now_s, self._dose = time.monotonic(), state.dose
        for name, lives in (("node", True), ("worker", state.worker_alive)):
            child = self._children.get(name)
            if lives and child is not None:
                self._lives(child, now_s)

    def _hear_signs(self) -> None:
        """Note the signs of life that processes gave themselves."""
        for child in self._children.values():
            if child.said_s > child.heard_s:
                self._lives(child, child.said_s)

    def _lives(self, child: _Child, at_s: float) -> None:
        if not child.heard_s:
            took_s = at_s - child.started_s
            self._starts_s[child.name] = max(took_s, self._starts_s.get(child.name, 0.0))
        child.heard_s = at_s

    def _end_hung(self) -> None:
        """Kill processes that are alive but silent; they are restarted like those that ended."""
        now_s = time.monotonic()
        unwatched, self._watched_s = now_s - self._watched_s > _UNWATCHED_S, now_s
        for name, limit_s in (_HUNG_S | dict.fromkeys(gateways(self.config), _GATEWAY_HUNG_S)).items():
            child = self._children.get(name)
            if child is None or child.process.poll() is not None:
                continue
            if unwatched or (name == "worker" and now_s - self._heard_s > _HUNG_S["node"]):
                # Its silence proves nothing.
                if child.heard_s:
                    child.heard_s = now_s
                else:
                    child.started_s = now_s
            elif not child.heard_s:
                known_s = self._starts_s.get(name)
                limit_s = _READY_TIMEOUT_S if known_s is None else max(_STARTS_LATE * known_s, _LEAST_START_S)
                if now_s - child.started_s > limit_s:
                    self._announce(f"{name} hangs while it starts; killing it")
                    child.process.kill()
            elif now_s - child.heard_s > limit_s:
                self._announce(f"{name} hangs; killing it")
                child.process.kill()

    def restarts(self) -> dict[str, int]:
        """How often each process was restarted."""
        return {name: child.restarts for name, child in self._children.items()}

    def pid(self, name: str) -> int:
        """Process id of a process."""
        return self._children[name].process.pid

    @property
    def room_pid(self) -> int | None:
        """Process id of the source process; None: none runs along."""
        return None if self._source_process is None else self.pid(_source_name(self._source_process))

    @property
    def worker_pid(self) -> int | None:
        """Process id of the reconstruction worker; None: it runs elsewhere, or there is none."""
        return self.pid("worker") if "worker" in self._children else None

    def stop(self) -> None:
        """End all processes and remove their folder."""
        with _signals_ignored():  # a second signal must not interrupt the clean-up
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
        """Announce warnings that processes have logged since the last call."""
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
def _signals_ignored() -> Iterator[None]:
    """Ignore signals in the block; only the main thread receives them."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not the main thread
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_start_time(config: Config) -> Config:
    """The configuration of a procedure that starts now: calibrations are judged as of its start, so that a restarted
    node accepts those that have expired meanwhile."""
    calibration = config.calibration
    if calibration.as_of_ns:
        return config
    return msgspec.structs.replace(config, calibration=msgspec.structs.replace(calibration, as_of_ns=now_ns()))


def read_config(folder: Path) -> Config:
    """The configuration of the processes in a supervisor's folder."""
    return msgspec.json.decode((folder / "config.json").read_bytes(), type=Config)


def read_dose(folder: Path) -> Dose | None:
    """The patient's dose until the node was restarted; None: it was not."""
    path = folder / _DOSE
    return msgspec.json.decode(path.read_bytes(), type=Dose) if path.exists() else None


def calibrations_folder(folder: Path) -> Path:
    """Where the calibrations are, as they were when the procedure began, in a supervisor's folder."""
    return folder / "calibrations"


def gateways(config: Config) -> dict[str, Source]:
    """The gateways that a configuration needs: name of the process -> its source."""
    return {
        f"{source.__struct_config__.tag}-{number}": source
        for number, source in enumerate(config.sources, 1)
        if not isinstance(source, SourceSection)
    }


def plays_a_session(folder: Path) -> bool:
    """Whether what a supervisor runs is a replay, by its folder."""
    return (folder / "player.json").exists()


def read_source_process(folder: Path) -> SimulatorSection | PlayerSection:
    """The settings of the process that serves X-rays and poses, in a supervisor's folder."""
    if plays_a_session(folder):
        return msgspec.json.decode((folder / "player.json").read_bytes(), type=PlayerSection)
    return msgspec.json.decode((folder / "simulator.json").read_bytes(), type=SimulatorSection)


def _source_name(settings: SimulatorSection | PlayerSection) -> str:
    return "player" if isinstance(settings, PlayerSection) else "simulator"


def _read_ready(child: _Child) -> None:
    assert child.process.stdout is not None
    for line in child.process.stdout:
        if line.startswith(SIGN):
            child.said_s = time.monotonic()
        elif line.startswith(READY):
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
    """Watch the processes until the time is up, or ``over`` returns True.

    Args:
        on_state: called ten times a second with the node's newest state; None: the node is silent.
        seconds: None: no limit.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while not over() and (deadline is None or time.monotonic() < deadline):
        on_state(supervisor.watch())
        time.sleep(0.1)
