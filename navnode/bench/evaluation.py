"""Replay and score an archive of sessions, and compare two versions or configurations.

Dask (``distributed``) does the work, in processes of this machine or those of a scheduler. Every result is saved at
once, so that an interrupted evaluation resumes; a session that fails becomes a row, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import importlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from navnode import __version__
from navnode import geometry as g
from navnode.bench.requests import EvaluateRequest
from navnode.config import Config
from navnode.errors import ConfigError, DamagedError, NavError
from navnode.files.plots import Plot
from navnode.files.report import BAD, GOOD, STYLE, Html, Percentiles, table
from navnode.files.whole import write_text
from navnode.igtl import Transform
from navnode.projector.grids import onto
from navnode.recording import regression as replaying
from navnode.recording.node_config import load_configuration
from navnode.recording.recording import Recording
from navnode.recording.regression import ReplayedStep, Rerun
from navnode.recording.requests import Mode
from navnode.recording.summary import summarize
from navnode.simulation.sample_ct import load_ct
from navnode.simulation.scenario import TRUTH_CARM, TRUTH_PATIENT
from navnode.simulation.score import WRONG_MM, Errors, ErrorSpread
from navnode.types import (
    Matrix,
    PatientPose,
    Status,
    ToolPose,
    Volume,
    VolumeUpdate,
)

__all__ = [
    "EvaluationReport",
    "FigureSums",
    "REPORT",
    "Row",
    "Task",
    "damage_of",
    "evaluate",
    "evaluate_tasks",
    "judged",
    "page",
    "raise_if_damaged",
    "read_rows",
    "sessions_in",
    "totals",
]

ROWS = "rows.jsonl"
REPORT = "report.html"
_HU = (-1000.0, 1500.0)
"""Range in which volumes are compared."""
_TARGETS_MM = 30.0
"""Distance of targets, along each axis, from the point where the C-arm's central rays meet."""
_COMPARED = (
    ("registered", "share of X-rays registered", 1.0, 0.005),
    ("valid", "share of X-rays VALID", 1.0, 0.005),
    ("tre_mm", "target error, mm, median", -1.0, 0.05),
    ("tip_error_mm", "tool tip error, mm, median", -1.0, 0.05),
    ("wrong_while_valid", f"shown VALID, off by over {WRONG_MM:g} mm", -1.0, 0.0),
    ("psnr_db", "volumes compared with the CT, dB", 1.0, 0.1),
    ("realtime_factor", "speed relative to real time", 0.0, 0.0),
)
"""Key, description, 1 if more is better, -1 if less is, 0 if neither; and the largest difference that is none."""
_LEAST_PAIRS = 5
"""Sessions from which on their scatter says what is chance."""
_COUNTED = (
    ("sessions", "sessions", 0.0, 0.0),
    ("failed", "failed", -1.0, 0.0),
    ("compared", "done with all (means are over these)", 0.0, 0.0),
)


@dataclass(frozen=True)
class Task:
    """A session to replay, and how.

    Args:
        label: name of the configuration.
        config: JSON; empty: the session's configuration.
        ct: replaces the configuration's CT; '': keep that.
    """

    session: str
    label: str
    config: bytes
    ct: str
    threads: int

    @property
    def key(self) -> str:
        """Identifies the work: content of the session, configuration and version."""
        path = Path(self.session)
        stat = path.stat()
        about = (
            path.name,
            stat.st_size,
            stat.st_mtime_ns,
            hashlib.sha256(self.config).hexdigest(),
            self.ct,
            __version__,
        )
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]


def sessions_in(archive: Sequence[Path]) -> list[Path]:
    """Sessions in files and folders, without further parts of split sessions, references and replays.

    Raises:
        ConfigError: a file or folder is missing, or there is no session in any.
    """
    files: list[Path] = []
    for path in archive:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        files += sorted(path.rglob("*.mcap")) if path.is_dir() else [path]
    chosen = [path for path in dict.fromkeys(files) if not _is_part(path)]
    if not chosen:
        raise ConfigError(f"{', '.join(map(str, archive))}: no session there")
    return chosen


def _is_part(path: Path) -> bool:
    ending = path.stem.rpartition(".")[2]
    return path.name.startswith(".") or ending == "reference" or (ending.isdigit() and len(ending) == 3)


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


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of many sessions."""

    totals: dict[str, FigureSums]
    """Label of the configuration -> totals."""
    rows: list[Row]
    report: str
    """Path of the HTML report."""


def score(task: Task) -> Row:
    """Replay a session in lockstep and score it; errors are reported in the row."""
    began_s = time.perf_counter()
    try:
        row = _scored(task)
    except DamagedError as error:  # damaged so early that nothing can be replayed
        row = _without_figures(task, "damaged", str(error))
    except NavError as error:
        row = _without_figures(task, "failed", str(error))
    except Exception as error:  # one session of many
        row = _without_figures(task, "failed", f"internal error ({type(error).__name__}: {error})")
    return msgspec.structs.replace(row, elapsed_s=round(time.perf_counter() - began_s, 2))


def _without_figures(task: Task, status: str, reason: str) -> Row:
    return Row(key=task.key, session=task.session, label=task.label, version=__version__, status=status, reason=reason)


def _scored(task: Task) -> Row:
    recording = Recording(task.session)
    override = msgspec.json.decode(task.config, type=Config) if task.config else None
    with replaying.attachments_folder() as folder:
        config = replaying.configuration(recording, override, folder)
        wanted = replaying.volume_of(config, task.ct)
        volume = load_ct(wanted) if wanted.ct else None
        run = Rerun(recording, replaying.ReplaySetup(config, volume), Mode.LOCKSTEP, threads=task.threads)
        truth = _Truth(recording, config, volume)
        for step, _ in run.steps():
            truth.score(step)
    replay, live = run.report(), summarize(recording).report()
    frames = max(replay.frames, 1)
    return ScoredRow(
        key=task.key,
        session=task.session,
        label=task.label,
        version=__version__,
        status="damaged" if replay.damage else "done",
        mode=replay.mode.value,
        digest=replay.digest,
        messages=replay.messages,
        steps=replay.steps,
        outputs=replay.outputs,
        frames=replay.frames,
        registered=round(replay.registered / frames, 4),
        volumes=replay.volumes,
        status_counts=replay.status_counts,
        lost=replay.lost,
        clock_jumps=replay.clock_jumps,
        notes=replay.notes,
        seconds=replay.seconds,
        realtime_factor=replay.realtime_factor,
        damage=replay.damage,
        valid=round(replay.status_counts[Status.VALID.value] / frames, 4),
        tre_mm=truth.tre_mm,
        tip_error_mm=truth.tip_error_mm,
        wrong_while_valid=truth.wrong_while_valid,
        psnr_db=truth.psnr_db,
        recorded=RecordedFigures(latency_ms=live.latency_ms, validity=live.validity, version=live.versions),
    )


class _Truth:
    """Compares outputs with a virtual room's truth, if the session has it, and volumes with the CT."""

    def __init__(self, recording: Recording, config: Config, volume: Volume | None) -> None:
        self._volume = volume
        self._known: dict[tuple[str, int], Matrix] = {}
        patient: Matrix | None = None
        with contextlib.suppress(DamagedError):  # use everything before the damage
            for entry in recording.entries(lambda channel: channel.topic.startswith("in/TRANSFORM/Truth")):
                true_pose = entry.content
                if isinstance(true_pose, Transform):
                    self._known[true_pose.device.removeprefix("Truth"), true_pose.timestamp_ns] = true_pose.matrix
                    patient = true_pose.matrix if true_pose.device == TRUTH_PATIENT else patient
        # Without a CT the volume's frame is the patient's.
        self._volume_from_ct = np.eye(4) if volume is not None or patient is None else g.inverse(patient)
        targets_patient_mm = np.zeros((0, 3))
        poses = [m for (device, _), m in self._known.items() if device == TRUTH_CARM.removeprefix("Truth")]
        if poses and patient is not None:
            depth_mm = config.carm.source_to_isocentre_mm
            middle = np.median([m[:3, 3] + depth_mm * m[:3, 2] for m in poses], axis=0)
            corners = np.array(np.meshgrid(*[(-_TARGETS_MM, _TARGETS_MM)] * 3)).reshape(3, -1).T + middle
            targets_patient_mm = g.transform(g.inverse(patient), corners)
        true = np.eye(4) if patient is None else self._volume_from_ct @ patient
        self._errors = Errors(true, targets_patient_mm)
        self._psnr_db: list[float] = []

    def score(self, step: ReplayedStep) -> None:
        """Score a step's outputs."""
        for output in step.outputs:
            match output:
                case PatientPose() if output.volume_from_patient is not None:
                    valid = output.validity.status is Status.VALID
                    self._errors.patient(output.volume_from_patient, valid=valid)
                case ToolPose() if output.volume_from_tool is not None:
                    known = self._known.get((f"{output.tool}ToVolume", output.validity.source_time_ns))
                    if known is not None:
                        valid = output.validity.status is Status.VALID
                        self._errors.tool(output.volume_from_tool, self._volume_from_ct @ known, valid=valid)
                case VolumeUpdate() if self._volume is not None and output.role == "reconstruction":
                    self._psnr_db.append(_psnr_db(output.volume, self._volume))

    @property
    def tre_mm(self) -> ErrorSpread | None:
        """Errors of the patient's registration."""
        errors_mm = self._errors.target_errors_mm
        return ErrorSpread.of(errors_mm) if errors_mm else None

    @property
    def tip_error_mm(self) -> ErrorSpread | None:
        """Errors of tool tips."""
        errors_mm = self._errors.tip_errors_mm
        return ErrorSpread.of(errors_mm) if errors_mm else None

    @property
    def wrong_while_valid(self) -> int | None:
        """Number of VALID outputs that were wrong."""
        return self._errors.wrong_while_valid if self._known else None

    @property
    def psnr_db(self) -> float | None:
        """Mean over all volumes."""
        return round(float(np.mean(self._psnr_db)), 2) if self._psnr_db else None


def _psnr_db(volume: Volume, ct: Volume) -> float:
    """PSNR of a volume compared with the CT, over all its voxels; air outside the CT."""
    true = onto(ct, volume.volume_from_index, volume.voxels.shape[::-1]).voxels
    squared = float(np.mean((np.clip(volume.voxels, *_HU) - np.clip(true, *_HU)) ** 2))
    return float(20 * np.log10((_HU[1] - _HU[0]) / np.sqrt(max(squared, 1e-12))))


# --- many sessions ---------------------------------------------------------------------------------------------------


Told = Callable[[Row, int, int], None]
"""Called with every finished row, the number of rows so far, and their total."""


def evaluate(request: EvaluateRequest, progress: Told = lambda row, done, total: None) -> EvaluationReport:
    """Replay and score the sessions of an archive, and write the page.

    Raises:
        ConfigError: a configuration, the archive, the baseline or the folder cannot be used.
    """
    configs = _configs(request)
    paths = sessions_in(request.archive)
    earlier = [] if request.baseline is None else _baseline(request.baseline, paths)
    tasks = [
        Task(str(path.absolute()), label, data, request.ct, request.threads)
        for path in paths
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
    given = {"as recorded" if request.config is None else request.config.stem: _encoded(request.config)}
    if (against := request.against) is not None:
        given[against.stem if against.stem not in given else f"{against.stem} (against)"] = _encoded(against)
    return given


def _encoded(path: Path | None) -> bytes:
    given = load_configuration(path)
    return b"" if given is None else msgspec.json.encode(given)


def _baseline(path: Path, sessions: list[Path]) -> list[Row]:
    """Rows of another evaluation, of the same sessions; by their names, as archives move."""
    if not path.exists():
        raise ConfigError(f"--baseline {path}: there is no such file")
    names = {session.name: str(session.absolute()) for session in sessions}
    found = {
        row.session: msgspec.structs.replace(row, label="baseline", session=names[Path(row.session).name])
        for row in read_rows(path)
        if Path(row.session).name in names
    }
    if not found:
        raise ConfigError(f"--baseline {path}: holds none of these sessions")
    return list(found.values())


def evaluate_tasks(
    tasks: Sequence[Task],
    folder: Path,
    *,
    scheduler: str = "",
    workers: int = 1,
    progress: Told = lambda row, done, total: None,
) -> list[Row]:
    """Score all tasks that a folder has no rows of yet; returns all rows in the order of the tasks.

    Args:
        folder: contains :data:`ROWS`, which grows row by row.
        scheduler: ``tcp://host:port`` of a Dask scheduler whose workers see the sessions under the same paths; '':
            processes of this machine.
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
    rows = {row.key: row for row in read_rows(path) if row.status in ("done", "damaged")}
    open_tasks = [task for task in tasks if task.key not in rows]
    done = len(tasks) - len(open_tasks)
    for task in tasks:
        if task.key in rows:
            progress(rows[task.key], done, len(tasks))
    if open_tasks:
        with path.open("a") as file:
            for row in _run(open_tasks, scheduler, workers):
                rows[row.key] = row
                file.write(json.dumps(msgspec.to_builtins(row)) + "\n")
                file.flush()
                done += 1
                progress(row, done, len(tasks))
    return [rows[task.key] for task in tasks]


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
                rows.append(msgspec.convert(document, ScoredRow if "digest" in document else Row))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return rows


def _run(tasks: Sequence[Task], scheduler: str, workers: int) -> Iterable[Row]:
    try:
        dask = importlib.import_module("distributed")
    except ImportError as error:
        raise ConfigError("evaluate needs Dask: pip install 'navnode[evaluate]'") from error
    for name in [*logging.root.manager.loggerDict, "distributed"]:
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are in the rows
    try:
        cluster = None
        if not scheduler:
            cluster = dask.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                memory_limit=0,
            )
        client = dask.Client(cluster or scheduler, timeout=20)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"--scheduler {scheduler}: does not answer ({error})") from error
    try:
        futures = {client.submit(score, task, pure=False, retries=0): task for task in tasks}
        for future in dask.as_completed(futures):
            task = futures[future]
            if future.status == "finished":
                yield future.result()
            else:  # the worker died
                why = f"its process ended ({type(future.exception()).__name__})"
                yield _without_figures(task, "failed", why)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


# --- the report ------------------------------------------------------------------------------------------------------


def totals(rows: Sequence[Row]) -> dict[str, FigureSums]:
    """Totals by label. Means are over sessions done with all labels, as others would compare different sessions."""
    labels = list(dict.fromkeys(row.label for row in rows))
    done = [{row.session for row in rows if row.label == label and row.status == "done"} for label in labels]
    common = set.intersection(*done) if done else set()
    return {label: _sums([row for row in rows if row.label == label], common) for label in labels}


def _sums(rows: Sequence[Row], common: set[str]) -> FigureSums:
    sums: dict[str, float | None] = {}
    for key, *_ in _COMPARED:
        values = [value for row in rows if row.session in common and (value := figure_of(row, key)) is not None]
        whole = key == "wrong_while_valid"
        sums[key] = (sum(values) if whole else round(float(np.mean(values)), 4)) if values else None
    failed = sum(row.status != "done" for row in rows)
    return FigureSums(sessions=len(rows), failed=failed, compared=len(common), **sums)


def figure_of(row: Row, key: str) -> float | None:
    """A row's figure as one number."""
    value: float | ErrorSpread | None = getattr(row, key, None)
    return value.median if isinstance(value, ErrorSpread) else value


def damage_of(row: Row) -> str:
    """Damage of a row's session, or ''."""
    if row.status != "damaged":
        return ""
    return row.damage if isinstance(row, ScoredRow) else row.reason


def page(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """The report as one HTML page: what is better and what is worse, session by session."""
    by: dict[str, dict[str, Row]] = {}
    for row in rows:
        by.setdefault(row.session, {})[row.label] = row
    parts = [
        "<!doctype html><meta charset=utf-8><title>Evaluation</title>",
        f"<style>{STYLE}</style><h1>{len(by)} session{'s' if len(by) != 1 else ''} replayed</h1>",
        f"<p class=result>{html.escape(_result(totals(rows), by, labels))}</p>",
        f"<p class=quiet>navnode {__version__}; research use only, not a medical device</p>",
        "<h2>Means</h2>",
        _means(totals(rows), by, labels),
        "<h2>Session by session</h2>",
        _sessions(by, labels),
    ]
    if len(labels) == 2:
        parts += [_scatter(by, labels, key, name) for key, name, *_ in _COMPARED[:4]]
    return "\n".join(parts)


def _result(sums: Mapping[str, FigureSums], by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    """The evaluation in one line: what failed, and the figures that differ, or the target error."""
    failed = sum(sums[label].failed for label in labels)
    parts = [f"{failed} failed" if failed else "none failed"]
    for key, name, better, least in _COMPARED:
        values = [getattr(sums[label], key) for label in labels]
        verdict = judged(values, better, max(least, _chance(by, labels, key)))
        if verdict.startswith("<b") or (key == "tre_mm" and None not in values):
            word = " (better)" if "better" in verdict else " (worse)" if "worse" in verdict else ""
            parts.append(f"{name}: {' → '.join(map(_number, values))}{word}")
    return "; ".join(parts)


def _means(sums: Mapping[str, FigureSums], by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    rows = []
    for key, name, better, least in (*_COUNTED, *_COMPARED):
        values = [getattr(sums[label], key) for label in labels]
        verdict = judged(values, better, max(least, _chance(by, labels, key)))
        rows.append([name, *map(_number, values), verdict])
    return table(("figure", *labels, ""), rows)


def _chance(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str) -> float:
    """Half of the 95 % interval of the mean difference between two labels, in the figure's unit, from sessions that ran
    with both; 0 where there are too few to tell, and for counts, each of which matters."""
    if len(labels) != 2 or key == "wrong_while_valid":
        return 0.0
    differences = [b - a for a, b in _pairs(by, labels, key)]
    if len(differences) < _LEAST_PAIRS:
        return 0.0
    return float(1.96 * np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _pairs(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str) -> list[tuple[float, float]]:
    """A figure of every session that has it with both labels."""
    found = []
    for rows in by.values():
        if len(rows) == 2:
            a, b = (figure_of(rows[label], key) for label in labels[:2])
            if a is not None and b is not None:
                found.append((a, b))
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def judged(values: Sequence[float | None], better: float, least: float) -> Html:
    """Better or worse, or why neither is said.

    Args:
        values: the figure before and after.
        better: 1 if more is better, -1 if less is, 0 if neither.
        least: the largest difference that is none, in the figure's unit.
    """
    before, after = values if len(values) == 2 else (None, None)
    if before is None or after is None or not better or before == after:
        return Html()
    if abs(after - before) <= least:
        return Html(f"<span class=quiet>the same within {least:.2g}</span>")
    gained = (after - before) * better > 0
    return Html(f'<b style="color:{GOOD if gained else BAD}">{"better" if gained else "worse"}</b>')


def _sessions(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    rows = []
    for session, by_label in by.items():
        for row in (by_label[label] for label in labels if label in by_label):
            figures = [_number(figure_of(row, key)) for key, *_ in _COMPARED]
            more = [row.damage, *row.notes] if isinstance(row, ScoredRow) else []
            remarks = "; ".join(dict.fromkeys(filter(None, [row.reason, *more])))
            rows.append([Path(session).name, row.label, *figures, remarks])
    return table(("session", "with", *(name for _, name, *_ in _COMPARED), ""), rows)


def _scatter(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str, name: str) -> str:
    """One against the other; a point is a session."""
    pairs = _pairs(by, labels, key)
    if len(pairs) < 2:
        return ""
    points = np.array(pairs, np.float64)
    both = np.array([points.min(), points.max()])
    plot = Plot(labels[0], labels[1]).line(both, both, "equal", colour="#9aa4b2", dashed=True)
    return plot.dots(points[:, 0], points[:, 1], "a session").svg(name)
