"""Collecting over OpenIGTLink while the operator moves, with guidance: what is missing, how good it is already."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from calibration.inputs import Pictures, Poses
from calibration.verdict import Calibration
from navnode import geometry as g
from navnode.errors import ConfigError, WireError
from navnode.igtl import BlockingClient, Image, Message, TrackingData, Transform
from navnode.igtl.conventions import angles_rad, is_seen
from navnode.types import Array, Matrix

_EVERY_S = 0.5
_NOTHING_S = 5.0
_MOST_ROWS = 400
"""That a preliminary verdict is made of."""
_PASSES = 4
"""Verdicts in a row that must be PASS before it is enough."""
_MOST_FRAMES = 2_000
_MOST_SAMPLES = 200_000
_NS = 1e-9


@dataclass
class Heard:
    """What came of the devices that are asked for."""

    times_s: dict[str, list[float]] = field(default_factory=dict)
    poses: dict[str, list[Matrix]] = field(default_factory=dict)
    frames: dict[str, list[Array]] = field(default_factory=dict)
    angles_rad: dict[str, list[tuple[float, float] | None]] = field(default_factory=dict)

    def series(self, device: str, most: int | None = None) -> Poses:
        """A device's poses so far; of many, evenly chosen ones."""
        rows = np.array(self.poses.get(device, [])).reshape(-1, 4, 4)
        some = _some(len(rows), most)
        return Poses(rows[some], np.array(self.times_s.get(device, []))[some])

    def pictures(self, device: str) -> Pictures:
        """A device's pictures so far."""
        angles = tuple(self.angles_rad.get(device, []))
        return Pictures(np.array(self.times_s.get(device, [])), np.array(self.frames.get(device, [])), angles)

    def take(
        self,
        name: str,
        stamp_ns: int,
        *,
        pose: Matrix | None = None,
        frame: Array | None = None,
        angles: tuple[float, float] | None = None,
    ) -> None:
        """One sample, a pose or a frame with its angles; what is not newer than the last is the last again."""
        times = self.times_s.setdefault(name, [])
        if (times and stamp_ns * _NS <= times[-1]) or len(times) >= _MOST_SAMPLES:
            return
        times.append(stamp_ns * _NS)
        if pose is not None:
            self.poses.setdefault(name, []).append(pose)
        if frame is not None:
            self.frames.setdefault(name, []).append(frame)
            self.angles_rad.setdefault(name, []).append(angles)


def _some(count: int, most: int | None) -> Array:
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(int)


def collect(
    host: str,
    port: int,
    devices: Mapping[str, str],
    judge: Callable[[Heard, int | None], Calibration],
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


def taken(heard: Heard, message: Message, received_ns: int, wanted: set[str]) -> None:
    """Keep what a message says of the devices that are wanted; poses that are none as NaN."""
    stamp = message.timestamp_ns or received_ns
    if isinstance(message, Transform) and message.device in wanted:
        seen = is_seen(message) and g.is_rigid(message.matrix)
        heard.take(message.device, stamp, pose=message.matrix.copy() if seen else np.full((4, 4), np.nan))
    elif isinstance(message, TrackingData):
        for element in message.elements:
            if element.name in wanted:
                heard.take(element.name, stamp, pose=element.matrix.copy())
    elif (
        isinstance(message, Image)
        and message.device in wanted
        and len(message.voxels) == 1
        and len(heard.frames.get(message.device, [])) < _MOST_FRAMES
    ):
        heard.take(message.device, stamp, frame=message.voxels[0].copy(), angles=angles_rad(message.metadata))


def _worst(value: object) -> float | None:
    """One number of a figure that may be several."""
    if isinstance(value, Mapping):
        value = list(value.values())
    numbers = np.asarray([] if value is None else value, np.float64).ravel()
    return float(numbers.max()) if len(numbers) else None


def _panel(heard: Heard, found: Calibration | None, left_s: float) -> Group:
    """Figures against their gates, and the one thing to do next."""
    table = Table.grid(padding=(0, 2))
    for device, times in heard.times_s.items():
        table.add_row(f"[bold]{device}[/]", f"{len(times)} samples", "")
    if found is not None:
        gates: Mapping[str, float] = found.quality["gates"]
        for key, limit in gates.items():
            worst = _worst(found.quality.get(key))
            table.add_row(key, "-" if worst is None else f"{worst:.3g}", f"gate {limit:g}")
    if found is None:
        say = Text("waiting for the devices", style="yellow")
    elif found.passed:
        say = Text("good: go on for a moment", style="green")
    else:
        say = Text(found.reason.split("; ")[-1], style="yellow")
    return Group(table, say, Text(f"{max(left_s, 0):.0f} s left; Ctrl-C: enough", style="dim"))
