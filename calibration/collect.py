"""Collects samples over OpenIGTLink while the operator moves, showing the quality so far and what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from navnode.errors import ConfigError, WireError
from navnode.igtl import BlockingClient

from .heard import Heard, record
from .results import in_words, measured
from .verdict import Calibration

__all__ = ["collect"]

_EVERY_S = 0.5
_NOTHING_S = 5.0
_MOST_ROWS = 400
"""Number of rows for a preliminary verdict."""
_PASSES = 4
"""Number of consecutive PASS verdicts that end collection."""


def collect(
    host: str,
    port: int,
    devices: Mapping[str, str],
    judge: Callable[[Heard, int | None], Calibration[Any]],
    *,
    seconds: float,
    terminal: Console,
    quiet: bool = False,
) -> Heard:
    """Collect until the routine passes steadily, the time is over, or the operator interrupts.

    Args:
        devices: option -> device.
        judge: returns a verdict on the samples so far, from at most the given number of rows.
        terminal: shows guidance.
        quiet: do not ring the bell at the end.

    Raises:
        ConfigError: the connection failed, or a device sends nothing.
    """
    heard, wanted = Heard(), set(devices.values())
    began = looked = time.monotonic()
    passes, verdict = 0, None
    try:
        with (
            BlockingClient(host, port) as client,
            Live(console=terminal, refresh_per_second=4, transient=True) as panel,
        ):
            while time.monotonic() - began < seconds:
                _receive(client, heard, wanted)
                now = time.monotonic()
                if now - looked < _EVERY_S:
                    continue
                looked = now
                silent = [name for name in wanted if not heard.times_s.get(name)]
                if silent and now - began > _NOTHING_S:
                    raise ConfigError(f"--live {host}:{port}: nothing received from {', '.join(sorted(silent))}")
                if not silent:
                    verdict = judge(heard, _MOST_ROWS)
                    passes = passes + 1 if verdict.passed else 0
                panel.update(_panel(heard, verdict, seconds - (now - began)))
                if passes >= _PASSES:
                    break
    except KeyboardInterrupt:
        pass
    except (OSError, WireError) as error:
        raise ConfigError(f"--live {host}:{port}: {error}") from error
    if not quiet and terminal.is_terminal:
        terminal.bell()
    return heard


def _receive(client: BlockingClient, heard: Heard, wanted: set[str]) -> None:
    message = client.receive(0.1)
    if message is not None:
        record(heard, message, client.received_ns, wanted)


def _panel(heard: Heard, verdict: Calibration[Any] | None, left_s: float) -> Group:
    """Figures beside their pass marks, and the next thing to do."""
    table = Table.grid(padding=(0, 2))
    for device, times in heard.times_s.items():
        table.add_row(Text(device, "bold"), f"{len(times)} samples", "")
    if verdict is not None:
        for figure in map(measured, verdict.figures):
            table.add_row(figure.what, in_words(figure), Text("✓", "green") if figure.kept else Text("…", "yellow"))
    if verdict is None:
        advice = Text("waiting for the devices", style="yellow")
    elif verdict.passed:
        advice = Text("good: continue for a moment", style="green")
    else:
        advice = Text(verdict.reason.split("; ")[-1], style="yellow")
    return Group(table, advice, Text(f"{max(left_s, 0):.0f} s left; Ctrl-C to finish", style="dim"))
