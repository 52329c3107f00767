"""Benchmarks kept from version to version: one line a run, and what fell since."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from navnode import __version__
from navnode.errors import ConfigError
from navnode.files.ordinary import refuse_special
from navnode.projector.native import instruction_sets

__all__ = ["SCHEMA", "Entry", "Fall", "Figure", "append", "entry", "fallen", "machine_kind", "read"]

SCHEMA = "navnode/bench/1"
_FALL = 0.2
"""A ratio that is lower than usual by this share has fallen."""
_LARGEST_BYTES = 16 << 20


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured, several times in one run."""

    value: float
    """Median; beside a peer, how many times faster than it."""
    unit: str
    spread: float
    """How far repeats lie from the median, half of the distance between quartiles, relative to it: what two runs of the
    same code differ by."""
    peer: str = ""

    @classmethod
    def of(cls, values: Sequence[float], unit: str, peer: str = "") -> Figure:
        """From repeats, at least one."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(
            value=float(f"{median:.4g}"), unit=unit, spread=round(float((high - low) / 2 / median), 4), peer=peer
        )


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the benchmarks."""

    schema: str
    at: str
    """ISO 8601, UTC."""
    navnode: str
    machine: str
    """Its kind: figures of one kind can be compared."""
    runs: int
    figures: dict[str, Figure]


class Fall(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio against a peer that is lower than it was."""

    name: str
    peer: str
    now: float
    usual: float
    """Median of earlier runs on machines of this kind."""

    def __str__(self) -> str:
        return f"{self.name}: {self.now:g} times as fast as {self.peer}, was {self.usual:g}"


def entry(figures: dict[str, Figure], runs: int) -> Entry:
    """What was just measured here."""
    return Entry(
        schema=SCHEMA,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        navnode=__version__,
        machine=machine_kind(),
        runs=runs,
        figures=figures,
    )


def machine_kind() -> str:
    """Processor, cores that may be used, and best instruction set; nothing that names a single machine."""
    models = [line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {next(iter(instruction_sets()))}"


def append(path: Path, made: Entry) -> None:
    """Add a line; the file and its folder are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(made) + b"\n")


def read(path: Path) -> tuple[Entry, ...]:
    """All runs, the oldest first.

    Raises:
        ConfigError: there is no such file, or it is none of these; the line is named.
    """
    refuse_special(path)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(f"{path} is larger than {_LARGEST_BYTES >> 20} MiB")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    made = []
    for number, line in enumerate(lines, 1):
        try:
            made.append(msgspec.json.decode(line, type=Entry))
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        if made[-1].schema != SCHEMA:
            raise ConfigError(f"{path}, line {number}: of schema {made[-1].schema!r}, not {SCHEMA}")
    return tuple(made)


def fallen(now: Entry, before: Sequence[Entry]) -> list[Fall]:
    """Ratios against peers that fell by more than a fifth, by more than repeats differ, and below all earlier runs.

    Peers run beside in the same run, so that a busy machine slows both. Earlier runs on machines of the same kind are
    what is usual; without any, nothing can be said, and nothing is.
    """
    return list(_falls(now, [each for each in before if each.machine == now.machine]))


def _falls(now: Entry, before: Sequence[Entry]) -> Iterator[Fall]:
    for name, figure in now.figures.items():
        earlier = [each.figures[name] for each in before if name in each.figures]
        if not figure.peer or not earlier:
            continue
        values = np.array([each.value for each in earlier])
        usual = float(np.median(values))
        noise = max(figure.spread, *(each.spread for each in earlier))
        below = float((1 - values / usual).max())
        if figure.value < usual * (1 - max(_FALL, 2 * noise, below)):
            yield Fall(name=name, peer=figure.peer, now=figure.value, usual=round(usual, 4))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
