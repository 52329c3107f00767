"""``navnode recover``, ``cut`` and ``merge``: sessions made of sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode.commands.options import (
    Json,
    Session,
    WrittenReport,
    done,
    percent,
)
from navnode.errors import ConfigError
from navnode.recording import Recording
from navnode.recording import edit as editing

app = typer.Typer()


class RecoverReport(msgspec.Struct, frozen=True, kw_only=True):
    """What could be kept of a session."""

    out: list[str]
    messages: int
    lost_bytes: int
    damaged_chunks: int


@app.command(epilog="Example:  navnode recover torn.mcap --out whole.mcap")
def recover(
    session: Session,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    as_json: Json = False,
) -> None:
    """A session that was torn or damaged, as far as it can be read, as a whole one again."""
    with percent(f"Recovering {session.name}") as progress:
        kept = editing.recover(session, out, progress)
    report = RecoverReport(
        out=[str(path) for path in kept.paths or ()],
        messages=kept.messages,
        lost_bytes=kept.lost_bytes,
        damaged_chunks=kept.damaged,
    )
    done(report, f"{out}: {kept.messages} messages; {kept.lost_bytes} bytes could not be read", as_json)


@app.command(epilog="Example:  navnode cut session.mcap --start 60 --duration 20 --deidentify --out piece.mcap")
def cut(
    session: Session,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    start: Annotated[float, typer.Option("--start", min=0, help="Seconds into the session.")] = 0.0,
    duration: Annotated[float | None, typer.Option("--duration", min=0, help="Seconds; else to the end.")] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", metavar="PATTERN", help="Such as 'in/*'; repeat. Else all.")
    ] = None,
    deidentify: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            help="Without texts, names of files and machines, and metadata that are not numbers of X-ray or tracker. "
            "Times, and what is written into pictures, stay.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """A piece of a session, or some of its topics, as a session of its own."""
    kept = editing.cut(
        Recording(session), out, start_s=start, duration_s=duration, topics=topics or (), identified=not deidentify
    )
    done(WrittenReport(out=str(out), messages=kept.messages), f"{out}: {kept.messages} messages", as_json)


@app.command(epilog="Example:  navnode merge tracker.mcap xray.mcap --out session.mcap")
def merge(
    sessions: Annotated[list[Path], typer.Argument(metavar="FILE.mcap...", help="Recorded with one clock.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    as_json: Json = False,
) -> None:
    """What came in, of several sessions, as one."""
    if len(sessions) < 2:
        raise ConfigError("merge needs two sessions or more")
    kept = editing.merge([Recording(path) for path in sessions], out)
    done(WrittenReport(out=str(out), messages=kept.messages), f"{out}: {kept.messages} messages", as_json)
