"""Collecting over OpenIGTLink while the operator moves, with guidance: what is missing, how good it is already."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from calibration.heard import Heard, taken
from calibration.verdict import Calibration
from navnode.errors import ConfigError, WireError
from navnode.igtl import BlockingClient

_EVERY_S = 0.5
_NOTHING_S = 5.0
_MOST_ROWS = 400
"""That a preliminary verdict is made of."""
_PASSES = 4
"""Verdicts in a row that must be PASS before it is enough."""


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
    """Collect until the routine would pass and goes on passing, the time is over, or the operator interrupts.

    Args:
        devices: option -> device.
        judge: a verdict of what was heard, of at most so many rows.
        terminal: where guidance goes.
        quiet: no bell when it is enough.

    Raises:
        ConfigError: nobody answers, or a device is silent from the start.
    """
    heard, wanted = Heard(), set(devices.values())
    began = looked = time.monotonic()
    passes, found = 0, None
    try:
        with (
            BlockingClient(host, port) as client,
            Live(console=terminal, refresh_per_second=4, transient=True) as panel,
        ):
            while time.monotonic() - began < seconds:
                _take(client, heard, wanted)
                now = time.monotonic()
                if now - looked < _EVERY_S:
                    continue
                looked = now
                silent = [name for name in wanted if not heard.times_s.get(name)]
                if silent and now - began > _NOTHING_S:
                    raise ConfigError(f"--live {host}:{port}: nothing comes of {', '.join(sorted(silent))}")
                if not silent:
                    found = judge(heard, _MOST_ROWS)
                    passes = passes + 1 if found.passed else 0
                panel.update(_panel(heard, found, seconds - (now - began)))
                if passes >= _PASSES:
                    break
    except KeyboardInterrupt:
        pass
    except (OSError, WireError) as error:
        raise ConfigError(f"--live {host}:{port}: {error}") from error
    if not quiet and terminal.is_terminal:
        terminal.bell()
    return heard


def _take(client: BlockingClient, heard: Heard, wanted: set[str]) -> None:
    message = client.receive(0.1)
    if message is not None:
        taken(heard, message, client.received_ns, wanted)


def _worst(value: object) -> float | None:
    """One number of a figure that may be several."""
    if isinstance(value, Mapping):
        value = list(value.values())
    numbers = np.asarray([] if value is None else value, np.float64).ravel()
    return float(numbers.max()) if len(numbers) else None


def _panel(heard: Heard, found: Calibration[Any] | None, left_s: float) -> Group:
    """Figures against their gates, and the one thing to do next."""
    table = Table.grid(padding=(0, 2))
    for device, times in heard.times_s.items():
        table.add_row(f"[bold]{device}[/]", f"{len(times)} samples", "")
    if found is not None:
        for key, limit in found.gates.items():
            worst = _worst(found.quality.get(key))
            table.add_row(key, "-" if worst is None else f"{worst:.3g}", f"gate {limit:g}")
    if found is None:
        say = Text("waiting for the devices", style="yellow")
    elif found.passed:
        say = Text("good: go on for a moment", style="green")
    else:
        say = Text(found.reason.split("; ")[-1], style="yellow")
    return Group(table, say, Text(f"{max(left_s, 0):.0f} s left; Ctrl-C: enough", style="dim"))
