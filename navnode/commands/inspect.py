"""``navnode inspect``: what is in a session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from navnode.commands.options import (
    Json,
    Session,
    messages,
    percent,
    print_json,
    write_text,
)
from navnode.errors import DamagedError, RecordingError
from navnode.files.whole import refuse_existing
from navnode.recording import Recording

if TYPE_CHECKING:  # plots and tables are loaded when a session is looked into
    from navnode.recording.summary import SessionReport

app = typer.Typer()


@app.command(epilog="Example:  navnode inspect session.mcap --report session.html --trace perfetto.json")
def inspect(
    session: Session,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="PAGE.html", help="Plots, timeline and tables, as a page.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="T.json", help="Where frames' time went, for ui.perfetto.dev.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is in a session: topics, rates, gaps, latencies, and how long what could be trusted."""
    from navnode.recording import summary
    from navnode.recording.spans import chrome_trace

    with percent(f"Reading {session.name}") as progress:
        found = summary.summarized(Recording(session), progress)
    if report is not None:
        _write_new(report, summary.page(found))
    if trace is not None:
        if not found.spans:
            raise RecordingError(f"{session}: holds no spans; they are of a node's recording")
        _write_new(trace, json.dumps(chrome_trace(found.spans)))
    if as_json:
        print_json(found.report())
    else:
        _show(found.report())
    if found.damage:
        raise DamagedError(found.damage)
    if found.verdict.text:
        messages.print(found.verdict.text, markup=False, highlight=False)


def _write_new(path: Path, text: str) -> None:
    refuse_existing(path)
    write_text(path, text)


def _show(report: SessionReport) -> None:
    out = Console()
    head = Table.grid(padding=(0, 2))
    for key in ("start", "seconds", "whole", "lost", "clock_jumps", "dropped", "versions"):
        value = getattr(report, key)
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        head.add_row(f"[bold]{key.replace('_', ' ')}[/]", shown)
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
