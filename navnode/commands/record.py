"""``navnode record``: what a server sends, as a session."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode import config
from navnode.clock import now_ns
from navnode.commands.options import (
    Json,
    address,
    done,
    messages,
)
from navnode.errors import RecordingError
from navnode.files.whole import refuse_existing
from navnode.loop.calibrations import Calibrations
from navnode.recording.recorder import MAX_FILE_BYTES, Recorder

app = typer.Typer()


class RecordReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded."""

    out: str
    messages: int
    lost: int
    """Because the disk was too slow."""


@app.command(epilog="Example:  navnode record --source 127.0.0.1:18945 --out session.mcap")
def record(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    source: Annotated[str, typer.Option("--source", metavar="HOST:PORT", help="An OpenIGTLink server.")] = (
        "127.0.0.1:18944"
    ),
    configuration: Annotated[
        Path | None,
        typer.Option("--config", metavar="NODE.toml", help="Of the node it is for: kept with it, so that it replays."),
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="Stop by itself.")] = None,
    max_file_mb: Annotated[
        int, typer.Option("--max-file-mb", min=16, help="Then a further file begins, FILE.001.mcap and so on.")
    ] = MAX_FILE_BYTES >> 20,
    as_json: Json = False,
) -> None:
    """Record what a server sends, byte by byte as it comes, until Ctrl-C."""
    from navnode.igtl import Client
    from navnode.recording.tap import about_for

    host, port = address(source, "--source")
    refuse_existing(out)
    loaded = None if configuration is None else Calibrations.load(config.load(configuration), now_ns())
    recorder = Recorder(out, about_for(loaded), max_file_bytes=max_file_mb << 20)

    async def listen() -> None:
        messages.print(f"Recording {source} to {out}; Ctrl-C ends it.", markup=False, highlight=False)
        client = Client(
            host, port, lambda message, at: None, tap=lambda message, raw, at: recorder.record(message, at, raw)
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.run(), seconds)

    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(listen())
    finally:
        told = recorder.stop()
    if not recorder.messages:
        out.unlink()
        raise RecordingError(f"nothing came from {source}; nothing is recorded")
    done(RecordReport(out=str(out), messages=recorder.messages, lost=recorder.lost), told, as_json)
