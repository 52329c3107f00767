"""Archives of many short sessions: what putting one there costs, and scoring it, by their number."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from navnode.bench import evaluation
from navnode.bench.requests import ArchiveBenchRequest
from navnode.errors import RecordingError
from navnode.recording.archive import archive
from navnode.recording.edit import cut
from navnode.recording.recording import Recording
from navnode.recording.regression import attachments_folder, configuration
from navnode.recording.requests import ArchiveRequest

__all__ = ["ArchiveFigures", "Scale", "run"]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one number of sessions."""

    sessions: int
    megabytes: float
    """All of them in the archive."""
    put_ms: float
    """Per session: read, copied without names, checked, sent, and sent its manifest."""
    put_again_s: float
    """All of them, once they are there."""
    list_s: float
    """All of them, with their fingerprints."""
    score_ms: float
    """Per session, in the worker: fetched, replayed and scored; median."""
    wall_s: float
    """The whole evaluation, its workers' start included."""
    sessions_per_s: float
    overhead_ms: float
    """Per session, time of a worker that was not spent on one: Dask's, its start, and waiting for the last."""
    resume_s: float
    """The whole evaluation once everything is done."""


class ArchiveFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How cost grows with the number of sessions."""

    to: str
    workers: int
    seconds: float
    """Length of a session."""
    scales: list[Scale]


def run(request: ArchiveBenchRequest, progress: Callable[[int, int, str], None]) -> ArchiveFigures:
    """Measure every number of sessions in an archive of its own.

    Raises:
        ConfigError: the session or the store cannot be used.
        RecordingError: a session was not archived, or not scored.
    """
    source, counts = Recording(request.session), sorted(set(request.counts or (100, 300, 1000)))
    config, scales = _light(source) if request.light else b"", []
    with tempfile.TemporaryDirectory(prefix="navnode-bench-") as name:
        folder = Path(name)
        paths = [folder / "sessions" / f"{n:05d}.mcap" for n in range(counts[-1])]
        for n, path in enumerate(paths):
            cut(source, path, duration_s=request.seconds)  # each becomes a session of its own
            progress(n + 1, len(paths), "making sessions")
        for count in counts:
            to = f"{request.to or folder / 'archive'}/{count}"
            scales.append(_scale(paths[:count], to, folder / f"scores{count}", config, request.workers, progress))
    where = request.to or "a folder"
    return ArchiveFigures(to=where, workers=request.workers, seconds=request.seconds, scales=scales)


def _scale(
    paths: list[Path], to: str, out: Path, config: bytes, workers: int, progress: Callable[[int, int, str], None]
) -> Scale:
    asked = ArchiveRequest(sessions=tuple(paths), to=to, xrays=0)
    began_s = time.perf_counter()
    put = archive(asked, progress)
    put_s = time.perf_counter() - began_s
    if missing := [row for row in put.rows if not row.sha256]:
        raise RecordingError(f"{len(missing)} of {len(paths)} sessions were not archived: {missing[0].reason}")
    put_again_s = _timed(lambda: archive(asked, progress))
    list_s = _timed(lambda: evaluation.sessions_of((to,)))

    def evaluated() -> list[evaluation.Row]:
        tasks = [
            evaluation.Task(each, "light" if config else "", config, "", 1) for each in evaluation.sessions_of((to,))
        ]
        return evaluation.evaluate_tasks(tasks, out, workers=workers, progress=told)

    def told(row: evaluation.Row, done: int, total: int) -> None:
        progress(done, total, "scoring")

    began_s = time.perf_counter()
    rows = evaluated()
    wall_s = time.perf_counter() - began_s
    if missing_rows := [row for row in rows if row.status != "done"]:
        raise RecordingError(f"{len(missing_rows)} sessions were not scored: {missing_rows[0].reason}")
    elapsed_s = np.array([row.elapsed_s or 0.0 for row in rows])
    count = len(rows)
    return Scale(
        sessions=count,
        megabytes=round(put.archive_bytes / 1e6, 1),
        put_ms=round(1e3 * put_s / count, 1),
        put_again_s=round(put_again_s, 2),
        list_s=round(list_s, 2),
        score_ms=round(1e3 * float(np.median(elapsed_s)), 1),
        wall_s=round(wall_s, 1),
        sessions_per_s=round(count / wall_s, 2),
        overhead_ms=round(1e3 * (wall_s * workers - float(elapsed_s.sum())) / count, 1),
        resume_s=round(_timed(evaluated), 2),
    )


def _light(recording: Recording) -> bytes:
    """The session's configuration without CT and volumes."""
    with attachments_folder() as folder:
        config = configuration(recording, None, folder)
    change = msgspec.structs.replace
    return msgspec.json.encode(
        change(
            config,
            volume=change(config.volume, ct=""),
            reconstruction=change(config.reconstruction, enabled=True, method="sart"),
            bodies=(),
        )
    )


def _timed(do: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    do()
    return time.perf_counter() - began_s
