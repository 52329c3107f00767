"""An archive of sessions replayed and scored, and two versions or configurations held against each other.

Dask (``distributed``) does the work: processes of this machine, or a scheduler's where one machine is too small. What
is done is written down at once, so that an evaluation that was interrupted goes on; a session that fails is a row.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from navnode.files.report import BAD, GOOD, LINE, STYLE, Axes, Html, Percentiles, dot, table
from navnode.files.whole import write_text
from navnode.igtl import Transform
from navnode.projector.grids import onto
from navnode.recording import regression as replaying
from navnode.recording.given import configuration_of
from navnode.recording.recording import Recording
from navnode.recording.regression import Rerun, Stepped
from navnode.recording.requests import Mode
from navnode.recording.summary import summarized
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

ROWS = "rows.jsonl"
REPORT = "report.html"
_HU = (-1000.0, 1500.0)
"""What volumes are compared over."""
_TARGETS_MM = 30.0
"""Targets lie so far from where the C-arm's central rays meet, along each axis."""
_COMPARED = (
    ("registered", "share of X-rays registered", 1.0),
    ("valid", "share of X-rays VALID", 1.0),
    ("tre_mm", "target error, mm, median", -1.0),
    ("tip_error_mm", "tool's tip, mm, median", -1.0),
    ("wrong_while_valid", f"shown VALID, off by over {WRONG_MM:g} mm", -1.0),
    ("psnr_db", "volumes against the CT, dB", 1.0),
    ("realtime_factor", "times as fast as it was", 0.0),
)
"""Key, what it is, and whether more is better."""
_COUNTED = (
    ("sessions", "sessions", 0.0),
    ("failed", "failed", -1.0),
    ("compared", "done with all, of which the means are", 0.0),
)


@dataclass(frozen=True)
class Task:
    """A session and what it is replayed with.

    Args:
        label: of the configuration.
        config: JSON; empty: as the session was recorded.
        ct: in place of the configuration's; '': that.
    """

    session: str
    label: str
    config: bytes
    ct: str
    threads: int

    @property
    def key(self) -> str:
        """The same for the same work: content of the session, configuration and version."""
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
    """The sessions of files and folders; further parts of one, references, and outputs of replays are none.

    Raises:
        ConfigError: there is no such file or folder, or no session in any.
    """
    found: list[Path] = []
    for path in archive:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        found += sorted(path.rglob("*.mcap")) if path.is_dir() else [path]
    chosen = [path for path in dict.fromkeys(found) if not _is_part(path)]
    if not chosen:
        raise ConfigError(f"{', '.join(map(str, archive))}: no session there")
    return chosen


def _is_part(path: Path) -> bool:
    ending = path.stem.rpartition(".")[2]
    return path.name.startswith(".") or ending == "reference" or (ending.isdigit() and len(ending) == 3)


class RecordedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How the session was when it was recorded."""

    latency_ms: dict[str, Percentiles]
    validity: dict[str, dict[str, float]]
    version: Mapping[str, object]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session with a configuration, and what became of it."""

    key: str
    session: str
    label: str
    version: str
    status: str
    """``done``, ``damaged`` or ``failed``."""
    reason: str = ""
    """Why it has no figures."""
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
    """Why it could not be replayed to its end: figures are of what comes before; '' if it could."""
    valid: float
    """Share of frames."""
    tre_mm: ErrorSpread | None
    """None where there is no truth, as of the next two."""
    tip_error_mm: ErrorSpread | None
    wrong_while_valid: int | None
    psnr_db: float | None
    """Of volumes against the CT; None without either."""
    recorded: RecordedFigures


class FigureSums(msgspec.Struct, frozen=True, kw_only=True):
    """All sessions with one configuration; means, and sums of what is counted."""

    sessions: int
    failed: int
    """That are not done to their end."""
    compared: int
    """Done with every configuration: means are over those."""
    registered: float | None
    valid: float | None
    tre_mm: float | None
    tip_error_mm: float | None
    wrong_while_valid: float | None
    psnr_db: float | None
    realtime_factor: float | None


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Many sessions, scored."""

    totals: dict[str, FigureSums]
    """By label of the configuration."""
    rows: list[Row]
    report: str
    """The page."""


def score(task: Task) -> Row:
    """Replay a session in lockstep and score it; whatever goes wrong is in the row."""
    began_s = time.perf_counter()
    try:
        row = _scored(task)
    except DamagedError as error:  # so early that nothing of it can be replayed
        row = _without_figures(task, "damaged", str(error))
    except NavError as error:
        row = _without_figures(task, "failed", str(error))
    except Exception as error:  # one session of many
        row = _without_figures(task, "failed", f"an error of our own ({type(error).__name__}: {error})")
    return msgspec.structs.replace(row, elapsed_s=round(time.perf_counter() - began_s, 2))


def _without_figures(task: Task, status: str, reason: str) -> Row:
    return Row(key=task.key, session=task.session, label=task.label, version=__version__, status=status, reason=reason)


def _scored(task: Task) -> Row:
    recording = Recording(task.session)
    given = msgspec.json.decode(task.config, type=Config) if task.config else None
    with replaying.unpacked() as folder:
        config = replaying.configuration(recording, given, folder)
        wanted = replaying.ct_of(config, task.ct)
        volume = load_ct(wanted) if wanted else None
        run = Rerun(recording, replaying.ReplaySetup(config, volume), Mode.LOCKSTEP, threads=task.threads)
        truth = _Truth(recording, config, volume)
        for step, _ in run.steps():
            truth.take(step)
    told, live = run.report(), summarized(recording).report()
    frames = max(told.frames, 1)
    return ScoredRow(
        key=task.key,
        session=task.session,
        label=task.label,
        version=__version__,
        status="damaged" if told.damage else "done",
        mode=told.mode.value,
        digest=told.digest,
        messages=told.messages,
        steps=told.steps,
        outputs=told.outputs,
        frames=told.frames,
        registered=round(told.registered / frames, 4),
        volumes=told.volumes,
        status_counts=told.status_counts,
        lost=told.lost,
        clock_jumps=told.clock_jumps,
        notes=told.notes,
        seconds=told.seconds,
        realtime_factor=told.realtime_factor,
        damage=told.damage,
        valid=round(told.status_counts[Status.VALID.value] / frames, 4),
        tre_mm=truth.tre_mm,
        tip_error_mm=truth.tip_error_mm,
        wrong_while_valid=truth.wrong_while_valid,
        psnr_db=truth.psnr_db,
        recorded=RecordedFigures(latency_ms=live.latency_ms, validity=live.validity, version=live.versions),
    )


class _Truth:
    """The truth that a virtual room told, where one did, and what comes out held against it; volumes against the CT."""

    def __init__(self, recording: Recording, config: Config, volume: Volume | None) -> None:
        self._volume = volume
        self._known: dict[tuple[str, int], Matrix] = {}
        patient: Matrix | None = None
        with contextlib.suppress(DamagedError):  # what comes before the damage is known
            for entry in recording.entries(lambda channel: channel.topic.startswith("in/TRANSFORM/Truth")):
                told = entry.content
                if isinstance(told, Transform):
                    self._known[told.device.removeprefix("Truth"), told.timestamp_ns] = told.matrix
                    patient = told.matrix if told.device == TRUTH_PATIENT else patient
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

    def take(self, step: Stepped) -> None:
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
        """Of the patient's registration."""
        found = self._errors.target_errors_mm
        return ErrorSpread.of(found) if found else None

    @property
    def tip_error_mm(self) -> ErrorSpread | None:
        """Of tools."""
        found = self._errors.tip_errors_mm
        return ErrorSpread.of(found) if found else None

    @property
    def wrong_while_valid(self) -> int | None:
        """How often what was VALID was off."""
        return self._errors.wrong_while_valid if self._known else None

    @property
    def psnr_db(self) -> float | None:
        """Mean of all volumes."""
        return round(float(np.mean(self._psnr_db)), 2) if self._psnr_db else None


def _psnr_db(made: Volume, ct: Volume) -> float:
    """Of a volume against the CT, over all its voxels; air outside the CT."""
    true = onto(ct, made.volume_from_index, made.voxels.shape[::-1]).voxels
    squared = float(np.mean((np.clip(made.voxels, *_HU) - np.clip(true, *_HU)) ** 2))
    return float(20 * np.log10((_HU[1] - _HU[0]) / np.sqrt(max(squared, 1e-12))))


# --- many of them ----------------------------------------------------------------------------------------------------


Told = Callable[[Row, int, int], None]
"""Called with every row as it is done, how many are, and of how many."""


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
    """What a caller is told by how the command ends.

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
    given = configuration_of(path)
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
    """Score all tasks, those that a folder's rows already hold excepted; the rows in the order of the tasks.

    Args:
        folder: of :data:`ROWS`, which grows row by row.
        scheduler: ``tcp://host:port`` of a Dask scheduler whose workers see the sessions under the same paths; '':
            processes of this machine.
        workers: how many of those.
        progress: told every row as it is done.

    Raises:
        ConfigError: ``distributed`` is not installed, or the scheduler does not answer.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: no folder can be made there ({error.strerror})") from error
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
    """The rows of an evaluation; a last one that was torn is left out, as are those of other versions that say less.

    Raises:
        ConfigError: it cannot be read.
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
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is in the rows
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
            else:  # the worker died, and again when it was tried elsewhere
                why = f"its process ended ({type(future.exception()).__name__})"
                yield _without_figures(task, "failed", why)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


# --- the report ------------------------------------------------------------------------------------------------------


def totals(rows: Sequence[Row]) -> dict[str, FigureSums]:
    """By label: how many sessions, how many have failed, and means over those that all labels have done: others would
    compare one session with another."""
    labels = list(dict.fromkeys(row.label for row in rows))
    done = [{row.session for row in rows if row.label == label and row.status == "done"} for label in labels]
    common = set.intersection(*done) if done else set()
    return {label: _sums([row for row in rows if row.label == label], common) for label in labels}


def _sums(rows: Sequence[Row], common: set[str]) -> FigureSums:
    sums: dict[str, float | None] = {}
    for key, _, _ in _COMPARED:
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
    """How a row's session is damaged; '' where it is not."""
    if row.status != "damaged":
        return ""
    return row.damage if isinstance(row, ScoredRow) else row.reason


def page(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """A report as one HTML file: what is better and what is worse, session by session."""
    by: dict[str, dict[str, Row]] = {}
    for row in rows:
        by.setdefault(row.session, {})[row.label] = row
    parts = [
        "<!doctype html><meta charset=utf-8><title>Evaluation</title>",
        f"<style>{STYLE}</style><h1>{len(by)} sessions replayed</h1>",
        f"<p>navnode {__version__}; research use only, not a medical device</p>",
        "<h2>Means</h2>",
        _means(totals(rows), labels),
        "<h2>Session by session</h2>",
        _sessions(by, labels),
    ]
    if len(labels) == 2:
        parts += [_scatter(by, labels, key, name) for key, name, _ in _COMPARED[:4]]
    return "\n".join(parts)


def _means(sums: Mapping[str, FigureSums], labels: Sequence[str]) -> str:
    rows = []
    for key, name, better in (*_COUNTED, *_COMPARED):
        values = [getattr(sums[label], key) for label in labels]
        rows.append([name, *map(_number, values), _judged(values, better)])
    return table(("figure", *labels, ""), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _judged(values: Sequence[float | None], better: float) -> Html:
    if len(values) != 2 or None in values or not better or values[0] == values[1]:
        return Html()
    gained = (values[1] - values[0]) * better > 0  # type: ignore[operator]
    return Html(f'<b style="color:{GOOD if gained else BAD}">{"better" if gained else "worse"}</b>')


def _sessions(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    rows = []
    for session, found in by.items():
        for row in (found[label] for label in labels if label in found):
            figures = [_number(figure_of(row, key)) for key, _, _ in _COMPARED]
            more = [row.damage, *row.notes] if isinstance(row, ScoredRow) else []
            said = "; ".join(dict.fromkeys(filter(None, [row.reason, *more])))
            rows.append([Path(session).name, row.label, *figures, said])
    return table(("session", "with", *(name for _, name, _ in _COMPARED), ""), rows)


def _scatter(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str, name: str) -> str:
    """One against the other; a point is a session."""
    both_ran = [found for found in by.values() if len(found) == 2]
    figures = [[figure_of(found[label], key) for label in labels[:2]] for found in both_ran]
    pairs = [pair for pair in figures if None not in pair]
    if not pairs:
        return ""
    points = np.array(pairs, np.float64)
    both = np.array([points.min(), points.max()])
    axes = Axes(both, both)
    (x0, y0), (x1, y1) = axes.at(both[0], both[0]), axes.at(both[1], both[1])
    line = f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#9aa4b2"/>'
    return axes.svg([line, *(dot(axes.at(x, y), LINE) for x, y in points)], labels[0], labels[1], name)
