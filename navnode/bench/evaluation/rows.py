"""What an evaluation says of every session, and the file that it grows in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from navnode import __version__
from navnode.bench.evaluation.sessions import Task
from navnode.errors import ConfigError
from navnode.files.report import Percentiles
from navnode.simulation.score import ErrorSpread

__all__ = ["ROWS", "FigureSums", "RecordedFigures", "Row", "ScoredRow", "read_rows", "without_figures"]

ROWS = "rows.jsonl"


class RecordedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the session as recorded."""

    latency_ms: dict[str, Percentiles]
    validity: dict[str, dict[str, float]]
    version: Mapping[str, object]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Result of a session with a configuration."""

    key: str
    session: str
    label: str
    version: str
    status: str
    """``done``, ``damaged`` or ``failed``."""
    reason: str = ""
    """Why there are no figures."""
    elapsed_s: float | None = None


class ScoredRow(Row, frozen=True, kw_only=True, omit_defaults=True):
    """A session that was replayed."""

    mode: str
    digest: str
    messages: int
    steps: int
    outputs: int
    frames: int
    registered: float
    """Share of frames."""
    volumes: int
    status_counts: dict[str, int]
    lost: int
    clock_jumps: int
    notes: list[str]
    seconds: float
    realtime_factor: float
    damage: str
    """Why replay ended early, in which case figures cover the part before; '' if it did not."""
    valid: float
    """Share of frames."""
    tre_mm: ErrorSpread | None
    """None without truth, like the next two."""
    tip_error_mm: ErrorSpread | None
    wrong_while_valid: int | None
    psnr_db: float | None
    """Volumes compared with the CT; None without either."""
    recorded: RecordedFigures


def without_figures(task: Task, status: str, reason: str) -> Row:
    """The row of a session that could not be scored."""
    place = task.session.place
    return Row(key=task.key, session=place, label=task.label, version=__version__, status=status, reason=reason)


class FigureSums(msgspec.Struct, frozen=True, kw_only=True):
    """All sessions with one configuration: means, and sums of counts."""

    sessions: int
    failed: int
    """Number of sessions not replayed to their end."""
    compared: int
    """Number of sessions done with every configuration; means are over these."""
    registered: float | None
    """Share of frames."""
    valid: float | None
    """Share of outputs that were VALID."""
    tre_mm: float | None
    tip_error_mm: float | None
    wrong_while_valid: float | None
    """Sum."""
    psnr_db: float | None
    realtime_factor: float | None


def read_rows(path: Path) -> list[Row]:
    """Read the rows of an evaluation, without an incomplete last one and rows of versions that lack figures.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
    try:
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError, msgspec.ValidationError):
                document = json.loads(line)
                scored = isinstance(document, dict) and "digest" in document
                rows.append(msgspec.convert(document, ScoredRow if scored else Row))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return rows
