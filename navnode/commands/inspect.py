"""``navnode inspect``: what is in a session."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from navnode.commands.options import (
    Json,
    Session,
    percent,
    print_json,
    write_text,
)
from navnode.errors import ConfigError, RecordingError
from navnode.recording import Recording

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
        found = summary.look(Recording(session), progress)
    document = found.document()
    if report is not None:
        _write_new(report, summary.page(found))
    if trace is not None:
        if not found.spans:
            raise RecordingError(f"{session}: holds no spans; they are of a node's recording")
        _write_new(trace, json.dumps(chrome_trace(found.spans)))
    if as_json:
        print_json(document)
    else:
        _tell_inspection(document)
    if found.damage:
        raise RecordingError(found.damage)


def _write_new(path: Path, text: str) -> None:
    if os.path.lexists(path):
        raise ConfigError(f"{path}: exists already; nothing is replaced")
    write_text(path, text)


def _tell_inspection(document: dict[str, Any]) -> None:
    out = Console()
    told = {
        "start": document["start"], "seconds": document["seconds"], "whole": document["whole"],
        "lost": document["lost"], "clock jumps": document["clock_jumps"], "dropped": document["dropped"],
        "versions": document["versions"],
    }  # fmt: skip
    head = Table.grid(padding=(0, 2))
    for key, value in told.items():
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        head.add_row(f"[bold]{key}[/]", shown)
    out.print(head)
    topics = Table("topic", "messages", "Hz", "MB", "longest gap s")
    for name, row in document["topics"].items():
        hz = "" if row["hz"] is None else f"{row['hz']:g}"
        topics.add_row(name, str(row["messages"]), hz, f"{row['bytes'] / 1e6:.2f}", f"{row['longest_gap_s']:g}")
    out.print(topics)
    if document["latency_ms"]:
        table = Table("latency, ms", "p50", "p95", "p99", "max", "count")
        for name, row in document["latency_ms"].items():
            table.add_row(name, *(f"{row[key]:g}" for key in ("p50", "p95", "p99", "max", "count")))
        out.print(table)
    for name, shares in document["validity"].items():
        out.print(f"{name}: " + "   ".join(f"{status} {share:.1%}" for status, share in shares.items()))
    for gap in document["gaps"][:10]:
        out.print(f"gap: {gap['topic']} {gap['seconds']:g} s at {gap['at_s']:g} s", highlight=False)
