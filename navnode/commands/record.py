"""``navnode record``: records what a server sends as a session."""

from __future__ import annotations

import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui, say
from navnode.recording.requests import RecordRequest

app = typer.Typer()


@command(app, RecordRequest, example="navnode record --source 127.0.0.1:18945 --out session.mcap")
def record(request: RecordRequest, ui: Ui) -> None:
    """Record all bytes that a server sends, until Ctrl-C."""
    from navnode.recording import listening

    ui.done(*listening.record(request, say))
