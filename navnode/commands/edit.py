"""``navnode recover``, ``cut`` and ``merge``: new sessions from old ones."""

from __future__ import annotations

import msgspec
import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui
from navnode.recording import Recording
from navnode.recording import edit as editing
from navnode.recording.requests import CutRequest, MergeRequest, RecoverRequest

app = typer.Typer()


class RecoverReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was recovered of a session."""

    out: list[str]
    messages: int
    lost_bytes: int
    damaged_chunks: int
    damaged_attachments: int
    """Configuration and calibrations that could not be read: a replay needs them."""
    missing: list[str]
    """Files of the session that are not there."""


class WrittenReport(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was written."""

    out: str
    messages: int


@command(app, RecoverRequest, example="navnode recover torn.mcap --out whole.mcap")
def recover(request: RecoverRequest, ui: Ui) -> None:
    """Repair a torn or damaged session as far as it can be read."""
    kept = editing.recover(request.session, request.out, ui.progress(f"Recovering {request.session.name}"))
    report = RecoverReport(
        out=[str(path) for path in kept.paths or ()],
        messages=kept.messages,
        lost_bytes=kept.lost_bytes,
        damaged_chunks=kept.damaged,
        damaged_attachments=kept.damaged_attachments,
        missing=[str(path) for path in kept.missing],
    )
    ui.done(report, f"{request.out}: {kept.messages} messages; lost: {', '.join(kept.losses()) or 'nothing'}")


@command(app, CutRequest, example="navnode cut session.mcap --start 60 --duration 20 --deidentify --out piece.mcap")
def cut(request: CutRequest, ui: Ui) -> None:
    """Cut a piece of a session, or some of its topics, into a new session."""
    kept = editing.cut(
        Recording(request.session),
        request.out,
        start_s=request.start_s,
        duration_s=request.duration_s,
        topics=request.topics,
        identified=not request.deidentify,
    )
    ui.done(WrittenReport(out=str(request.out), messages=kept.messages), f"{request.out}: {kept.messages} messages")


@command(app, MergeRequest, example="navnode merge tracker.mcap xray.mcap --out session.mcap")
def merge(request: MergeRequest, ui: Ui) -> None:
    """Merge the received messages of several sessions into one session."""
    kept = editing.merge([Recording(path) for path in request.sessions], request.out)
    ui.done(WrittenReport(out=str(request.out), messages=kept.messages), f"{request.out}: {kept.messages} messages")
