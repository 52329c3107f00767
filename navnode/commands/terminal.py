"""What the terminal shows while a node runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from navnode.types import LatencyFigures, NodeState, Status, Validity

NOTICE = "Research use only. Not a medical device."
_COLOURS = {Status.VALID: "green", Status.DEGRADED: "yellow", Status.INVALID: "red"}
_PLAIN_EVERY_S = 5.0


class Screen:
    """A live table on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._live: Live | None = None
        self._last_plain_s = 0.0
        self._events: list[str] = []

    @contextmanager
    def shown(self) -> Iterator[Screen]:
        """Show the table while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(render(None, self._title, []), console=self._console, refresh_per_second=5) as live:
            self._live = live
            yield self
        self._live = None

    def announce(self, line: str) -> None:
        """Show an event."""
        self._events = [*self._events[-3:], line]
        if self._live is None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def update(self, state: NodeState | None) -> None:
        """Show a state of the node; None if there is no contact."""
        if self._live is not None:
            self._live.update(render(state, self._title, self._events))
        elif state is not None and time.monotonic() - self._last_plain_s >= _PLAIN_EVERY_S:
            self._last_plain_s = time.monotonic()
            self._console.print(line_of(state), markup=False, highlight=False, soft_wrap=True)


def line_of(state: NodeState) -> str:
    """A state in one line."""
    frame, overlay = state.latency_ms, state.overlay_latency_ms
    return ("REPLAY | " if state.replay else "") + (
        f"registration {state.registration.status.value} | {state.frame_rate_hz:.1f} frames/s | "
        f"latency p50 {frame.p50 or 0:.0f} p99 {frame.p99 or 0:.0f} ms | "
        f"overlay p99 {overlay.p99 or 0:.1f} ms | "
        + " ".join(f"{name} {validity.status.value}" for name, validity in (state.bodies | state.tools).items())
        + (f" | {state.registration.reason}" if state.registration.reason else "")
    )


def render(state: NodeState | None, title: str, events: list[str]) -> Panel:
    """The live table."""
    if state is None:
        return Panel(Text("No contact with the node; status unknown", "red"), title=Text(title), subtitle=NOTICE)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    sigma_mm = float("nan") if state.target_sigma_mm is None else state.target_sigma_mm
    table.add_row("Registration", _validity(state.registration))
    for name, validity in (state.bodies | state.tools).items():
        table.add_row(name, _validity(validity))
    for name, problem in state.sources.items():
        table.add_row(f"Source {name}", Text("connected", "green") if not problem else Text(problem, "red"))
    worker = Text(state.worker, "" if state.worker_alive else "red")
    table.add_row("Reconstruction", worker + Text(f"   {volumes_text(state)}"))
    table.add_row("Volume", state.volume or Text("none yet", "yellow"))
    table.add_row(
        "Frames",
        f"{state.frame_rate_hz:5.1f}/s registered   {state.frames_registered} of {state.frames_received} received   "
        f"expected error {sigma_mm:.2f} mm",
    )
    table.add_row("Frame → pose", _latency(state.latency_ms))
    table.add_row("Pose → overlay", _latency(state.overlay_latency_ms))
    table.add_row("Dropped", "   ".join(f"{name} {count}" for name, count in state.dropped.items()))
    table.add_row("Consoles", f"{state.consoles} connected")
    table.add_row("Dose", str(state.dose))
    recording = state.recording
    if str(recording):
        table.add_row(
            "Recording",
            Text(str(recording), "red" if recording.failure or recording.lost or recording.short_of_disk else ""),
        )
    notes = [Text(line, "yellow") for line in (*state.notices, *events)]
    replayed = Text.assemble((" REPLAY ", "bold reverse"), f" {title}") if state.replay else Text(title)
    return Panel(Group(table, *notes), title=replayed, subtitle=NOTICE)


def _validity(validity: Validity) -> Text:
    text = Text(validity.status.value, _COLOURS[validity.status])
    return text + Text(f"   {validity.reason}" if validity.reason else "", "default")


def volumes_text(state: NodeState) -> str:
    """Number of volumes, and the time of the last one against its budget."""
    times = state.volume_times
    if times is None:
        return f"{state.volumes} volumes"
    took_s, elsewhere_s, budget_s = (ms / 1000 for ms in (times.took_ms, times.elsewhere_ms, times.budget_ms))
    return (
        f"{state.volumes} volumes, the last in {took_s:.1f} s, {elsewhere_s:.1f} s of it in transit "
        f"(at most {budget_s:.0f} s)"
    )


def _latency(figures: LatencyFigures) -> str:
    if figures.p50 is None:
        return "-"
    return f"p50 {figures.p50:.1f} ms   p99 {figures.p99:.1f} ms   max {figures.max:.1f} ms"
