"""An archive of sessions replayed and scored, and two versions or configurations held against each other.

Dask (``distributed``) does the work: processes of this machine, or a scheduler's where one machine is too small. What
is done is written down at once, so that an evaluation that was interrupted goes on; a session that fails is a row.
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
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from navnode import __version__
from navnode import geometry as g
from navnode.config import Config
from navnode.errors import ConfigError, NavError, RecordingError
from navnode.files.report import BAD, GOOD, LINE, STYLE, Axes, dot
from navnode.igtl import Transform
from navnode.projector.grids import onto
from navnode.recording import regression as replaying
from navnode.recording.recording import Recording
from navnode.recording.regression import Mode, Stepped
from navnode.recording.summary import look
from navnode.simulation.sample_ct import load_ct
from navnode.simulation.scenario import TRUTH_CARM, TRUTH_PATIENT
from navnode.simulation.score import WRONG_MM, summary
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


def score(task: Task) -> dict[str, Any]:
    """Replay a session in lockstep and score it; whatever goes wrong is in the row."""
    row: dict[str, Any] = {"key": task.key, "session": task.session, "label": task.label, "version": __version__}
    began_s = time.perf_counter()
    try:
        row |= _scored(task)
        row["status"] = "damaged" if row["damage"] else "done"  # its figures are of what comes before the damage
    except NavError as error:
        row |= {"status": "failed", "reason": str(error)}
    except Exception as error:  # one session of many
        row |= {"status": "failed", "reason": f"an error of our own ({type(error).__name__}: {error})"}
    return {**row, "elapsed_s": round(time.perf_counter() - began_s, 2)}


def _scored(task: Task) -> dict[str, Any]:
    recording = Recording(task.session)
    given = msgspec.json.decode(task.config, type=Config) if task.config else None
    with replaying.unpacked() as folder:
        config = replaying.configuration(recording, given, folder)
        wanted = task.ct or config.volume.ct
        if wanted not in ("", "sample", "procedural") and not Path(wanted).exists():
            raise ConfigError(f"{wanted}: the CT of this session is not there; give it with --ct")
        volume = load_ct(wanted, Console(stderr=True)) if wanted else None
        run = replaying.Replay(recording, replaying.Prepared(config, volume), threads=task.threads)
        report, scorer = replaying.Report(Mode.LOCKSTEP), _Scorer(recording, config, volume)
        began_s, damage = time.perf_counter(), ""
        try:
            for step in run.lockstep():
                report.take(step)
                scorer.take(step)
        except RecordingError as error:
            if not report.steps:
                raise
            damage = str(error)
        elapsed_s = time.perf_counter() - began_s
    told = report.document(run.found, recording.seconds, elapsed_s)
    frames = max(report.frames, 1)
    live = look(recording).document()
    return {
        **told, "registered": round(report.registered / frames, 4), "damage": damage,
        "valid": round(report.status_counts[Status.VALID.value] / frames, 4), **scorer.document(),
        "recorded": {"latency_ms": live["latency_ms"], "validity": live["validity"], "version": live["versions"]},
    }  # fmt: skip


class _Scorer:
    """Compares what comes out with the truth that a virtual room told, where one did, and volumes with the CT."""

    def __init__(self, recording: Recording, config: Config, volume: Volume | None) -> None:
        self._volume = volume
        self._truth: dict[tuple[str, int], Matrix] = {}
        patient: Matrix | None = None
        with contextlib.suppress(RecordingError):  # what comes before the damage is known
            for entry in recording.entries(lambda channel: channel.topic.startswith("in/TRANSFORM/Truth")):
                told = entry.content
                if isinstance(told, Transform):
                    self._truth[told.device.removeprefix("Truth"), told.timestamp_ns] = told.matrix
                    patient = told.matrix if told.device == TRUTH_PATIENT else patient
        self._patient, self._targets = patient, np.zeros((0, 3))
        # Without a CT the volume's frame is the patient's.
        self._volume_from_ct = np.eye(4) if volume is not None or patient is None else g.inverse(patient)
        poses = [m for (device, _), m in self._truth.items() if device == TRUTH_CARM.removeprefix("Truth")]
        if poses and patient is not None:
            depth = config.carm.source_to_isocentre_mm
            middle = np.median([m[:3, 3] + depth * m[:3, 2] for m in poses], axis=0)
            corners = np.array(np.meshgrid(*[(-_TARGETS_MM, _TARGETS_MM)] * 3)).reshape(3, -1).T + middle
            self._targets = g.transform(g.inverse(patient), corners)
        self._target_errors: list[float] = []
        self._tip_errors: list[float] = []
        self._psnr: list[float] = []
        self._wrong = 0

    def take(self, step: Stepped) -> None:
        """Score a step's outputs."""
        for output in step.outputs:
            match output:
                case PatientPose() if output.volume_from_patient is not None and len(self._targets):
                    assert self._patient is not None
                    true = g.transform(self._volume_from_ct @ self._patient, self._targets)
                    off = np.linalg.norm(g.transform(output.volume_from_patient, self._targets) - true, axis=1)
                    self._count(self._target_errors, float(off.mean()), output.validity.status)
                case ToolPose() if output.volume_from_tool is not None:
                    known = self._truth.get((f"{output.tool}ToVolume", output.validity.source_time_ns))
                    if known is not None:
                        tip = (self._volume_from_ct @ known)[:3, 3]
                        error = float(np.linalg.norm(output.volume_from_tool[:3, 3] - tip))
                        self._count(self._tip_errors, error, output.validity.status)
                case VolumeUpdate() if self._volume is not None and output.role == "reconstruction":
                    self._psnr.append(_psnr_db(output.volume, self._volume))

    def _count(self, errors: list[float], error: float, status: Status) -> None:
        errors.append(error)
        self._wrong += status is Status.VALID and error > WRONG_MM

    def document(self) -> dict[str, Any]:
        """The figures; None where there is no truth."""
        return {
            "tre_mm": summary(self._target_errors, "median") if self._target_errors else None,
            "tip_error_mm": summary(self._tip_errors, "median") if self._tip_errors else None,
            "wrong_while_valid": self._wrong if self._truth else None,
            "psnr_db": round(float(np.mean(self._psnr)), 2) if self._psnr else None,
        }


def _psnr_db(made: Volume, ct: Volume) -> float:
    """Of a volume against the CT, over all its voxels; air outside the CT."""
    true = onto(ct, made.volume_from_index, made.voxels.shape[::-1]).voxels
    squared = float(np.mean((np.clip(made.voxels, *_HU) - np.clip(true, *_HU)) ** 2))
    return float(20 * np.log10((_HU[1] - _HU[0]) / np.sqrt(max(squared, 1e-12))))


# --- many of them ----------------------------------------------------------------------------------------------------


def evaluate(
    tasks: Sequence[Task], folder: Path, *, scheduler: str = "", workers: int = 1,
    progress: Callable[[dict[str, Any], int, int], None] = lambda row, done, total: None,
) -> list[dict[str, Any]]:  # fmt: skip
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
    rows = {row["key"]: row for row in read_rows(path) if row.get("status") in ("done", "damaged")}
    open_tasks = [task for task in tasks if task.key not in rows]
    done = len(tasks) - len(open_tasks)
    for task in tasks:
        if task.key in rows:
            progress(rows[task.key], done, len(tasks))
    if open_tasks:
        with path.open("a") as file:
            for row in _run(open_tasks, scheduler, workers):
                rows[row["key"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                done += 1
                progress(row, done, len(tasks))
    return [rows[task.key] for task in tasks]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation; a last one that was torn is left out.

    Raises:
        ConfigError: it cannot be read.
    """
    if not path.exists():
        return []
    rows = []
    try:
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and {"key", "session", "label", "status"} <= row.keys():
                rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return rows


def _run(tasks: Sequence[Task], scheduler: str, workers: int) -> Iterable[dict[str, Any]]:
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
                yield {
                    "key": task.key, "session": task.session, "label": task.label, "version": __version__,
                    "status": "failed", "reason": why,
                }  # fmt: skip
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


# --- the report ------------------------------------------------------------------------------------------------------


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By label: how many sessions, how many have failed, and means over those that all labels have done: others would
    compare one session with another."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    done = {label: {row["session"]: row for row in rows if row["label"] == label and row["status"] == "done"}
            for label in labels}  # fmt: skip
    common = set.intersection(*(set(found) for found in done.values())) if done else set()
    return {label: _totals([row for row in rows if row["label"] == label], common) for label in labels}


def _totals(rows: Sequence[Mapping[str, Any]], common: set[str]) -> dict[str, Any]:
    failed = sum(row["status"] != "done" for row in rows)
    found: dict[str, Any] = {"sessions": len(rows), "failed": failed, "compared": len(common)}
    for key, _, _ in _COMPARED:
        values = [value for row in rows if row["session"] in common and (value := figure_of(row, key)) is not None]
        whole = key == "wrong_while_valid"
        found[key] = (sum(values) if whole else round(float(np.mean(values)), 4)) if values else None
    return found


def figure_of(row: Mapping[str, Any], key: str) -> float | None:
    """A row's figure as one number."""
    value = row.get(key)
    return value.get("median") if isinstance(value, Mapping) else value


def page(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """A report as one HTML file: what is better and what is worse, session by session."""
    by: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["session"], {})[row["label"]] = row
    sums = totals(rows)
    parts = [
        "<!doctype html><meta charset=utf-8><title>Evaluation</title>",
        f"<style>{STYLE}</style><h1>{len(by)} sessions replayed</h1>",
        f"<p>navnode {__version__}; research use only, not a medical device</p>",
        "<h2>Means</h2>", _means(sums, labels), "<h2>Session by session</h2>", _sessions(by, labels),
    ]  # fmt: skip
    if len(labels) == 2:
        parts += [_scatter(by, labels, key, name) for key, name, _ in _COMPARED[:4]]
    return "\n".join(parts)


def _means(sums: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> str:
    rows = ["<tr><th>figure</th>" + "".join(f"<th>{html.escape(label)}</th>" for label in labels) + "<th></th></tr>"]
    for key, name, better in (*_COUNTED, *_COMPARED):
        values = [sums[label].get(key) for label in labels]
        cells = "".join(f"<td>{'' if value is None else f'{value:g}'}</td>" for value in values)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}<td>{_judged(values, better)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _judged(values: Sequence[float | None], better: float) -> str:
    if len(values) != 2 or None in values or not better or values[0] == values[1]:
        return ""
    gained = (values[1] - values[0]) * better > 0  # type: ignore[operator]
    return f'<b style="color:{GOOD if gained else BAD}">{"better" if gained else "worse"}</b>'


def _sessions(by: Mapping[str, Mapping[str, Mapping[str, Any]]], labels: Sequence[str]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for _, name, _ in _COMPARED)
    rows = [f"<tr><th>session</th><th>with</th>{head}<th></th></tr>"]
    for session, found in by.items():
        for label in labels:
            row = found.get(label)
            if row is None:
                continue
            values = [figure_of(row, key) for key, _, _ in _COMPARED]
            cells = "".join(f"<td>{'' if value is None else f'{value:g}'}</td>" for value in values)
            said = "; ".join(filter(None, [row.get("reason", ""), row.get("damage", ""), *row.get("notes", [])]))
            rows.append(
                f"<tr><td>{html.escape(Path(session).name)}</td><td>{html.escape(label)}</td>{cells}"
                f"<td>{html.escape(said)}</td></tr>"
            )
    return f"<table>{''.join(rows)}</table>"


def _scatter(by: Mapping[str, Mapping[str, Mapping[str, Any]]], labels: Sequence[str], key: str, name: str) -> str:
    """One against the other; a point is a session."""
    pairs = [
        (a, b) for found in by.values() if len(found) == 2
        and (a := figure_of(found[labels[0]], key)) is not None and (b := figure_of(found[labels[1]], key)) is not None
    ]  # fmt: skip
    if not pairs:
        return ""
    points = np.array(pairs, np.float64)
    both = np.array([points.min(), points.max()])
    axes = Axes(both, both)
    (x0, y0), (x1, y1) = axes.at(both[0], both[0]), axes.at(both[1], both[1])
    line = f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#9aa4b2"/>'
    return axes.svg([line, *(dot(axes.at(x, y), LINE) for x, y in points)], labels[0], labels[1], name)
