"""``navnode inspect``: shows what is in a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from navnode.commands.command import command
from navnode.commands.ui import Ui, say, standard_output
from navnode.errors import DamagedError
from navnode.recording.requests import InspectRequest

if TYPE_CHECKING:  # plots and tables are loaded only when the command runs
    from navnode.recording.summary import SessionReport

app = typer.Typer()


@command(app, InspectRequest, example="navnode inspect session.mcap --report session.html --trace perfetto.json")
def inspect(request: InspectRequest, ui: Ui) -> None:
    """Show what is in a session: topics, rates, gaps, latencies, and shares of validity."""
    from navnode.recording import summary

    inspected = summary.inspect(request, ui.progress(f"Reading {request.session.name}"))
    ui.show(inspected.report(), _draw)
    if inspected.damage:
        raise DamagedError(inspected.damage)
    if inspected.verdict.text:
        say(inspected.verdict.text)


def _draw(report: SessionReport) -> None:
    out = standard_output()
    head = Table.grid(padding=(0, 2))
    for key in ("start", "seconds", "whole", "lost_before", "lost", "clock_jumps", "dropped", "versions"):
        value = getattr(report, key)
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        head.add_row(Text(f"{key.replace('_', ' ')}", "bold"), shown)
    out.print(head)
    topics = Table("topic", "messages", "Hz", "MB", "longest gap s")
    for name, row in report.topics.items():
        hz = "" if row.hz is None else f"{row.hz:g}"
        topics.add_row(name, str(row.messages), hz, f"{row.bytes / 1e6:.2f}", f"{row.longest_gap_s:g}")
    out.print(topics)
    if report.latency_ms:
        table = Table("latency, ms", "p50", "p95", "p99", "max", "count")
        for name, late in report.latency_ms.items():
            table.add_row(name, *(f"{value:g}" for value in msgspec.structs.astuple(late)))
        out.print(table)
    for name, shares in report.validity.items():
        out.print(f"{name}: " + "   ".join(f"{status} {share:.1%}" for status, share in shares.items()))
    for gap in report.gaps[:10]:
        out.print(f"gap: {gap.topic} {gap.seconds:g} s at {gap.at_s:g} s", highlight=False)
