"""Records a server's messages as a session, without a node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from navnode.errors import RecordingError
from navnode.files.whole import refuse_existing
from navnode.igtl import Client
from navnode.recording.node_config import load_calibrations
from navnode.recording.recorder import Recorder
from navnode.recording.requests import RecordRequest
from navnode.recording.tap import about_for

__all__ = ["RecordReport", "record"]


class RecordReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded."""

    out: str
    messages: int
    lost: int
    """Number of messages lost because the disk was too slow."""


def record(request: RecordRequest, say: Callable[[str], None]) -> tuple[RecordReport, str]:
    """Record what a server sends, until the time is up or the keyboard interrupts.

    Args:
        say: called with a line when recording starts.

    Returns:
        The report, and a line that sums it up.

    Raises:
        CalibrationError: a calibration of the configuration cannot be used.
        ConfigError: the file exists already, or the configuration cannot be used.
        RecordingError: nothing came, or the file cannot be written.
    """
    refuse_existing(request.out)
    megabyte = 1 << 20
    about = about_for(load_calibrations(request.config))
    recorder = Recorder(request.out, about, max_file_bytes=request.max_file_mb * megabyte)

    async def listen() -> None:
        say(f"Recording {request.source} to {request.out}; Ctrl-C ends it.")
        client = Client(
            *request.address(),
            lambda message, at: None,
            tap=lambda message, raw, at: recorder.record(message, at, raw),
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.run(), request.seconds)

    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(listen())
    finally:
        ending = recorder.stop()
        if not recorder.messages:
            request.out.unlink()
    if not recorder.messages:
        raise RecordingError(f"nothing came from {request.source}; nothing is recorded")
    return RecordReport(out=str(request.out), messages=recorder.messages, lost=recorder.lost), ending
