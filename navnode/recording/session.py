"""A session as arrays and tables, for those who analyse it.

session = navnode.Session("room.mcap")
drill = session.poses("DrillToTracker")
table = session.table("tool/Drill")
session.plot().savefig("session.png")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from navnode.clock import NS_PER_S
from navnode.errors import ConfigError, RecordingError
from navnode.igtl import Image, Transform
from navnode.igtl.conventions import is_seen
from navnode.recording.recording import Recording
from navnode.types import Array, Matrix, Status

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Poses", "Session", "XRay"]

_IN_TRANSFORM, _IN_IMAGE, _OUT = "in/TRANSFORM/", "in/IMAGE/", "out/"
_COLOURS = {Status.VALID.value: "#1a8f5a", Status.DEGRADED.value: "#d98e04", Status.INVALID.value: "#b3261e"}


@dataclass(frozen=True)
class Poses:
    """Poses of a device, in the order in which they arrived."""

    time_s: Matrix
    """(N,), arrival, since the session's start."""
    stamp_ns: npt.NDArray[np.int64]
    """(N,), by the clock of the source; 0: it stated none."""
    matrix: Matrix
    """(N, 4, 4), as the device's name says: ``DrillToTracker`` is ``tracker_from_drill``; NaN where it is not seen."""

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """(N,)"""
        return np.isfinite(self.matrix[:, 0, 0])


@dataclass(frozen=True)
class XRay:
    """One X-ray as it arrived."""

    time_s: float
    """Arrival, since the session's start."""
    stamp_ns: int
    """By the clock of the source; 0: it stated none."""
    counts: Array
    """(H, W)"""


class Session:
    """A recorded session, read on demand.

    Raises, when it is read:
        RecordingError: not a session, or one of a newer format.
        DamagedError: it is damaged; ``navnode recover`` keeps what can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._recording = Recording(path)
        self.path = self._recording.path

    def __repr__(self) -> str:
        return f"<Session {self.path.name}: {self.seconds:.1f} s, {sum(self.topics.values())} entries>"

    @property
    def seconds(self) -> float:
        """Duration."""
        return self._recording.seconds

    @cached_property
    def topics(self) -> Mapping[str, int]:
        """Number of entries by topic: ``in/IMAGE/XRay``, ``out/tool/Drill`` ..."""
        return dict(sorted(Counter(entry.channel.topic for entry in self._recording.raw()).items()))

    @property
    def devices(self) -> list[str]:
        """Devices whose poses arrived."""
        return [topic.removeprefix(_IN_TRANSFORM) for topic in self.topics if topic.startswith(_IN_TRANSFORM)]

    def poses(self, device: str) -> Poses:
        """All poses of a device.

        Raises:
            ConfigError: there is no such device; names those that there are.
        """
        topic = self._known(_IN_TRANSFORM, device)
        times, stamps, matrices = [], [], []
        for entry in self._recording.entries(lambda channel: channel.topic == topic):
            message = entry.content
            if isinstance(message, Transform):
                times.append(self._since(entry.time_ns))
                stamps.append(message.timestamp_ns)
                matrices.append(message.matrix if is_seen(message) else np.full((4, 4), np.nan))
        return Poses(np.array(times), np.array(stamps, np.int64), np.array(matrices))

    def frames(self, device: str = "XRay") -> Iterator[XRay]:
        """The X-rays of a device, one by one.

        Raises:
            ConfigError: there is no such device; names those that there are.
        """
        topic = self._known(_IN_IMAGE, device)
        for entry in self._recording.entries(lambda channel: channel.topic == topic):
            if isinstance(entry.content, Image):
                yield XRay(self._since(entry.time_ns), entry.content.timestamp_ns, entry.content.voxels[0])

    def outputs(self, name: str) -> Iterator[dict[str, Any]]:
        """What the node said, as it is recorded, each with its ``time_s`` since the session's start.

        Args:
            name: ``tool/Drill``, ``patient``, ``frame``, ``state``, ``deviation`` ...

        Raises:
            ConfigError: there is no such output; names those that there are.
        """
        topic = self._known(_OUT, name)
        for entry in self._recording.entries(lambda channel: channel.topic == topic):
            if isinstance(entry.content, dict):
                yield {"time_s": self._since(entry.time_ns), **entry.content}

    def table(self, name: str) -> pd.DataFrame:
        """Outputs as a data frame: columns for numbers and words, nested ones named with dots, and arrays for matrices.

        Raises:
            ConfigError: as :meth:`outputs`; or pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ConfigError("tables need pandas: pip install 'navnode[analysis]'") from error
        return pd.DataFrame([dict(_flat(document)) for document in self.outputs(name)])

    def plot(self) -> Figure:
        """Status of registration and tools over time, and the expected error at the anatomy.

        Raises:
            ConfigError: matplotlib is not installed.
            RecordingError: the session holds no outputs of a node.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ConfigError("plots need matplotlib: pip install 'navnode[analysis]'") from error
        said = [topic.removeprefix(_OUT) for topic in self.topics if topic.startswith(_OUT)]
        judged = [name for name in said if name in ("frame", "patient") or name.startswith(("tool/", "body/"))]
        if not judged:
            raise RecordingError(f"{self.path}: holds no outputs of a node; navnode replay --out makes them")
        figure = Figure(figsize=(10, 2.2 + 0.4 * len(judged)), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(len(judged), 3))
        for row, name in enumerate(judged):
            for status, colour in _COLOURS.items():
                times = [each["time_s"] for each in self.outputs(name) if each["validity"]["status"] == status]
                above.plot(
                    times, [row] * len(times), "|", color=colour, markersize=9, label=status if row == 0 else None
                )
        above.set_yticks(range(len(judged)), judged)
        above.set_ylim(len(judged) - 0.5, -0.5)
        figure.legend(loc="outside upper right", ncols=3, fontsize="small")
        if f"{_OUT}state" in self.topics:
            states = [(each["time_s"], each.get("target_sigma_mm")) for each in self.outputs("state")]
            below.plot([t for t, _ in states], [np.nan if mm is None else mm for _, mm in states])
        below.set_ylabel("expected error (mm)")
        below.set_xlabel("s")
        figure.suptitle(self.path.name, x=0.01, ha="left")
        return figure

    def _since(self, time_ns: int) -> float:
        return (time_ns - self._recording.start_ns) / NS_PER_S

    def _known(self, prefix: str, name: str) -> str:
        known = [topic.removeprefix(prefix) for topic in self.topics if topic.startswith(prefix)]
        if name not in known:
            raise ConfigError(f"{self.path}: there is no {name!r}; there is {', '.join(known) or 'none'}")
        return prefix + name


def _flat(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            is_matrix = isinstance(value, list) and value and isinstance(value[0], list)
            yield f"{before}{key}", np.array(value) if is_matrix else value
