"""Evaluates an archive: what was done already is read, the rest is done, and all of it reported.

Every result is saved at once, so that an interrupted evaluation resumes; a session that fails becomes a row, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby, takewhile
from operator import itemgetter
from pathlib import Path, PurePosixPath

import msgspec

from navnode.bench.evaluation import cluster
from navnode.bench.evaluation.report import damage_of, page, totals
from navnode.bench.evaluation.rows import ROWS, FigureSums, Row, read_rows, without_figures
from navnode.bench.evaluation.scoring import score
from navnode.bench.evaluation.sessions import Session, Task, calibrations_of, sessions_of
from navnode.bench.requests import EvaluateRequest
from navnode.errors import ConfigError, DamagedError
from navnode.files.stores import printable
from navnode.files.whole import write_text
from navnode.recording.node_config import load_configuration

__all__ = ["REPORT", "EvaluationReport", "Told", "evaluate", "evaluate_tasks", "raise_if_damaged"]

REPORT = "report.html"


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of many sessions."""

    totals: dict[str, FigureSums]
    """Label of the configuration -> totals."""
    rows: list[Row]
    report: str
    """Path of the HTML report."""


Told = Callable[[Row, int, int], None]
"""Called with every finished row, the number of rows so far, and their total."""


def evaluate(request: EvaluateRequest, progress: Told = lambda row, done, total: None) -> EvaluationReport:
    """Replay and score the sessions of an archive, and write the page.

    Raises:
        ConfigError: a configuration, the archive, the baseline or the folder cannot be used.
    """
    configs = _configs(request)
    sessions = sessions_of(request.archive)
    earlier = [] if request.baseline is None else _baseline(request.baseline, sessions)
    hashes = {label: calibrations_of(data) for label, data in configs.items()}
    tasks = [
        Task(session, label, data, request.ct, request.threads, round(request.session_gb * 1e9), hashes[label])
        for session in sessions
        for label, data in configs.items()
    ]
    rows = evaluate_tasks(tasks, request.out, scheduler=request.scheduler, workers=request.workers, progress=progress)
    report = request.out / REPORT
    write_text(report, page([*earlier, *rows], [*(["baseline"] if earlier else []), *configs]))
    return EvaluationReport(totals=totals([*earlier, *rows]), rows=rows, report=str(report))


def raise_if_damaged(report: EvaluationReport) -> None:
    """End the command with an error if a session is damaged.

    Raises:
        DamagedError: a session is damaged.
    """
    if damage := list(dict.fromkeys(filter(None, map(damage_of, report.rows)))):
        more = f" (and {len(damage) - 1} more, see {report.report})" if len(damage) > 1 else ""
        raise DamagedError(f"{damage[0]}{more}")


def _configs(request: EvaluateRequest) -> dict[str, bytes]:
    """Label -> configuration, as :class:`Task` takes it."""
    label = "as recorded" if request.config is None else request.config.stem
    given = {f"{label} (configuration)" if label == "baseline" else label: _encoded(request.config)}
    if (against := request.against) is not None:
        given[against.stem if against.stem not in given else f"{against.stem} (against)"] = _encoded(against)
    return given


def _encoded(path: Path | None) -> bytes:
    given = load_configuration(path)
    return b"" if given is None else msgspec.json.encode(given)


def _baseline(path: Path, sessions: list[Session]) -> list[Row]:
    """Rows of another evaluation, of the same sessions; by the ends of their paths, as archives move.

    Raises:
        ConfigError: there are none, they are of several configurations, or it is not clear which session a row is of.
    """
    if not path.exists():
        raise ConfigError(f"--baseline {path}: there is no such file")
    found = read_rows(path)
    if len(labels := sorted({row.label for row in found})) > 1:
        raise ConfigError(f"--baseline {path}: rows of several configurations ({', '.join(labels)}): give those of one")
    rows = {row.session: row for row in found}
    named: dict[str, list[str]] = {}
    for recorded in rows:
        named.setdefault(PurePosixPath(recorded).name, []).append(recorded)
    pairs = [
        (_shared_end(recorded, session.place), recorded, session.place)
        for session in sessions
        for recorded in named.get(session.name, ())
    ]
    place_of: dict[str, str] = {}
    for _, alike in groupby(sorted(pairs, reverse=True), itemgetter(0)):
        free = [(one, place) for _, one, place in alike if one not in place_of and place not in place_of.values()]
        for one, place in free:
            if len([pair for pair in free if pair[0] == one or pair[1] == place]) > 1:
                raise ConfigError(f"--baseline {path}: which session {printable(one)} is now is not clear")
        place_of.update(free)
    if not place_of:
        raise ConfigError(f"--baseline {path}: holds none of these sessions")
    return [msgspec.structs.replace(rows[one], label="baseline", session=place) for one, place in place_of.items()]


def _shared_end(one: str, other: str) -> int:
    """How many names two paths have in common, from the last one on."""
    pairs = zip(reversed(PurePosixPath(one).parts), reversed(PurePosixPath(other).parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def evaluate_tasks(
    tasks: Sequence[Task],
    folder: Path,
    *,
    scheduler: str = "",
    workers: int = 1,
    progress: Told = lambda row, done, total: None,
) -> list[Row]:
    """Score all tasks that a folder has no rows of yet; returns all rows in the order of the tasks.

    A session that is there twice, by name and content, is scored and counted once. Failed and damaged ones are done
    again: they may have been repaired.

    Args:
        folder: contains :data:`ROWS`, which grows row by row.
        scheduler: ``tcp://host:port`` of a Dask scheduler whose workers see the sessions under the same paths or
            URLs; '': processes of this machine.
        workers: number of those processes.
        progress: called with every row, the number of rows so far, and their total.

    Raises:
        ConfigError: ``distributed`` is not installed, or the scheduler does not answer.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot create the folder ({error.strerror})") from error
    path = folder / ROWS
    tasks = list({(task.label, task.key): task for task in reversed(tasks)}.values())[::-1]
    rows = {row.key: row for row in read_rows(path) if row.status == "done"}
    open_tasks = {task.key: task for task in tasks if task.key not in rows}
    done = len(tasks) - sum(task.key in open_tasks for task in tasks)
    for task in tasks:
        if task.key in rows:
            progress(rows[task.key], done, len(tasks))
    if open_tasks:
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" if torn else "")
            for task, result in cluster.run(list(open_tasks.values()), score, scheduler, workers):
                row = without_figures(task, "failed", result) if isinstance(result, str) else result
                rows[row.key] = row
                file.write(json.dumps(msgspec.to_builtins(row)) + "\n")
                file.flush()
                done += 1
                progress(row, done, len(tasks))
    # Sessions may lie elsewhere than when they were scored.
    return [msgspec.structs.replace(rows[t.key], session=t.session.place, label=t.label) for t in tasks]
