"""Runs a node and its processes for a command, with a live table and figures at the end."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType
from rich.console import Console
from rich.table import Table
from rich.text import Text

from navnode.commands import processor, terminal
from navnode.commands.ui import messages, print_json, standard_output
from navnode.config import Config, PlayerSection, SimulatorSection
from navnode.config.fields import option
from navnode.errors import NavError, RecordingError
from navnode.node.supervisor import Supervisor, wait_while
from navnode.types import Dose, LatencyFigures, NodeState, RecordingState

if TYPE_CHECKING:  # loaded only to score a run against the simulator
    from navnode.simulation.scenario import Scenario
    from navnode.simulation.score import ErrorSpread, Scorer


Record = option("Record the session, from its start.", "FILE.mcap")
"""For :func:`navnode.recording.node_config.with_recording`."""


class MemoryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the node, MB; None if the system does not report it."""

    begin: float | None
    end: float | None


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a run."""

    frames: int
    fps: float
    latency_ms: LatencyFigures
    """From a frame's last byte to its pose."""
    overlay_latency_ms: LatencyFigures
    """From a tracker pose to its overlay."""
    tre_mm: ErrorSpread | UnsetType = UNSET
    """Target registration error against the truth, if there is one."""
    tip_error_mm: ErrorSpread | UnsetType = UNSET
    wrong_while_valid: int | UnsetType = UNSET
    volumes: int
    dropped: dict[str, int]
    status_counts: dict[str, int]
    dose: Dose
    backend: dict[str, str]
    restarts: dict[str, int]
    recording: RecordingState
    seconds: float
    memory_mb: MemoryFigures
    processor_percent: processor.ProcessorFigures


def run_supervised(
    loaded: Config,
    room: SimulatorSection | PlayerSection | None,
    seconds: float | None,
    quiet: bool,
    scenario: Scenario | None = None,
    keys: contextlib.AbstractContextManager[Callable[[], bool]] | None = None,
    before: Callable[[], object] = lambda: None,
) -> RunReport:
    """Run the processes with the live table, and score the run if its truth is known.

    Args:
        room: the source process to run along: the simulator or a player.
        scenario: the truth about the simulated room.
        keys: listens to the keyboard meanwhile; yields a function that is true when the run shall end.
        before: called when the processes start, and the display needs its port.

    Raises:
        NavError: the node reported no status.
        KeyboardInterrupt: the run was ended by Ctrl-C; its figures were printed.
    """
    title = "navnode" if room is None else "navnode replay" if isinstance(room, PlayerSection) else "navnode demo"
    screen = terminal.Screen(messages, title)
    states: list[NodeState | None] = [None]
    interrupted = False

    def on_state(state: NodeState | None) -> None:
        states[0] = state or states[0]
        screen.update(state)

    with Supervisor(loaded, room, screen.announce) as supervisor:
        if not quiet:
            messages.print(terminal.NOTICE, style="bold")
        with messages.status("Starting: reading the CT and preparing registration …"):
            before()
            supervisor.start()
        _print_addresses(loaded)
        scorer = _scorer(loaded, scenario) if scenario is not None else None
        listening = scorer.listening(*_endpoints(loaded)) if scorer else contextlib.nullcontext()
        begin_mb = _memory_mb(supervisor)
        began_s, used_s = time.monotonic(), processor.used(supervisor)
        with listening, screen.shown(), keys or contextlib.nullcontext(lambda: False) as over:
            try:
                wait_while(supervisor, on_state, seconds, over)
            except KeyboardInterrupt:  # how a run without a limit is ended: it is summed up all the same
                interrupted = True
        elapsed_s = time.monotonic() - began_s
        memory_mb = MemoryFigures(begin=begin_mb, end=_memory_mb(supervisor))
        processor_percent = processor.percent(used_s, processor.used(supervisor), elapsed_s)
        restarts = supervisor.restarts()
    if states[0] is None:
        raise KeyboardInterrupt if interrupted else NavError("the node reported no status")
    report = _report(scorer, states[0], elapsed_s, restarts, memory_mb, processor_percent, _backend(loaded, supervisor))
    if interrupted:
        if quiet:
            print_json(report)
        else:
            _print_report(report, messages)
        raise KeyboardInterrupt
    return report


def free_port(host: str) -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _memory_mb(supervisor: Supervisor) -> float | None:
    """Resident memory of the node; None if the system does not report it."""
    try:
        pages = int(Path(f"/proc/{supervisor.pid('node')}/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _scorer(loaded: Config, scenario: Scenario) -> Scorer:
    from navnode.simulation.score import Scorer

    return Scorer(scenario, with_ct=bool(loaded.volume.ct))


def _endpoints(loaded: Config) -> tuple[tuple[str, int], tuple[str, int]]:
    """Addresses of the node's and the virtual room's servers."""
    return (loaded.console.host, loaded.console.port), (loaded.sources[0].host, loaded.sources[0].port)


def _report(
    scorer: Scorer | None,
    state: NodeState,
    elapsed_s: float,
    restarts: dict[str, int],
    memory_mb: MemoryFigures,
    processor_percent: processor.ProcessorFigures,
    backend: dict[str, str],
) -> RunReport:
    frames = scorer.frames if scorer else state.frames_registered
    truth = scorer.report() if scorer else None
    return RunReport(
        frames=frames,
        fps=round(frames / elapsed_s, 2),
        latency_ms=state.latency_ms,
        overlay_latency_ms=state.overlay_latency_ms,
        tre_mm=truth.tre_mm if truth else UNSET,
        tip_error_mm=truth.tip_error_mm if truth else UNSET,
        wrong_while_valid=truth.wrong_while_valid if truth else UNSET,
        volumes=state.volumes,
        dropped=state.dropped,
        status_counts=state.status_counts,
        dose=state.dose,
        backend=backend,
        restarts=restarts,
        recording=state.recording,
        seconds=round(elapsed_s, 2),
        memory_mb=memory_mb,
        processor_percent=processor_percent,
    )


def _print_addresses(loaded: Config) -> None:
    if loaded.display.enabled:
        address = f"http://{loaded.display.host}:{loaded.display.port}/"
        messages.print("Page:     ", Text(address, f"link {address}"), sep="", highlight=False)
    messages.print(f"Consoles: OpenIGTLink on {loaded.console.host}:{loaded.console.port}", highlight=False)


def show_figures(report: RunReport, as_json: bool, seconds: float | None) -> None:
    """Show the final figures: one JSON document, or a table if the run was limited in time.

    Raises:
        RecordingError: the recording failed.
    """
    if as_json:
        print_json(report)
    elif seconds is not None:
        _print_report(report, standard_output())
    if report.recording.failure:
        raise RecordingError(f"recording {report.recording}")


def _backend(loaded: Config, supervisor: Supervisor) -> dict[str, str]:
    """What node and worker computed with; of a worker elsewhere it is known there."""
    from navnode.reconstruction.choice import Method, engine_name  # here: a supervisor needs no reconstruction

    remote = loaded.reconstruction.remote
    made = engine_name(Method(loaded.reconstruction.method)) if remote is None else f"a worker at {remote.address}"
    return {"projector": supervisor.projector, "reconstruction": made}


def _print_report(report: RunReport, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for key, value in msgspec.to_builtins(report).items():
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(Text(key, "bold"), shown)
    console.print(table)
