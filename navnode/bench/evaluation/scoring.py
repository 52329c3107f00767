"""Replays one session in lockstep and scores it."""

from __future__ import annotations

import contextlib
import time
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from navnode import __version__
from navnode import geometry as g
from navnode.bench.evaluation.rows import RecordedFigures, Row, ScoredRow, without_figures
from navnode.bench.evaluation.sessions import Session, Task, opened
from navnode.config import Config, VolumeSection
from navnode.errors import DamagedError, NavError
from navnode.igtl import Transform
from navnode.projector.grids import onto
from navnode.recording import regression as replaying
from navnode.recording.recording import Recording
from navnode.recording.regression import ReplayedStep, Rerun
from navnode.recording.requests import Mode
from navnode.recording.summary import summarize
from navnode.simulation.sample_ct import load_ct, resolve_ct
from navnode.simulation.scenario import TRUTH_CARM, TRUTH_PATIENT
from navnode.simulation.score import Errors, ErrorSpread
from navnode.types import CArmPose, Matrix, PatientPose, Status, ToolPose, Volume, VolumeUpdate

__all__ = ["score"]

_HU = (-1000.0, 1500.0)
"""Range in which volumes are compared."""
_TRUE_CARM = TRUTH_CARM.removeprefix("Truth")
_TARGETS_MM = 30.0
"""Distance of targets, along each axis, from the point where the C-arm's central rays meet."""


def score(task: Task) -> Row:
    """Replay a session in lockstep and score it; errors are reported in the row."""
    began_s = time.perf_counter()
    try:
        with opened(task.session, task.most_bytes) as path:
            row = _told(_scored_or_not(task, path), task.session, path)
    except NavError as error:  # it did not come
        row = without_figures(task, "failed", str(error))
    except Exception as error:  # one session of many
        row = without_figures(task, "failed", f"internal error ({type(error).__name__}: {error})")
    return msgspec.structs.replace(row, elapsed_s=round(time.perf_counter() - began_s, 2))


def _scored_or_not(task: Task, path: Path) -> Row:
    try:
        return _scored(task, path)
    except DamagedError as error:  # damaged so early that nothing can be replayed
        return without_figures(task, "damaged", str(error))
    except NavError as error:
        return without_figures(task, "failed", str(error))


def _told(row: Row, session: Session, path: Path) -> Row:
    """A row that names the session's own files, not those of a copy."""
    texts: dict[str, object] = {"reason": session.told(row.reason, path)}
    if isinstance(row, ScoredRow):
        notes = [session.told(note, path) for note in row.notes]
        texts |= {"damage": session.told(row.damage, path), "notes": notes}
    return msgspec.structs.replace(row, **texts)


@lru_cache(maxsize=1)
def _ct(wanted: VolumeSection, changed_ns: int) -> Volume:
    """The CT, kept until another one is asked for: many sessions of an archive may share it."""
    return load_ct(wanted)


def _scored(task: Task, path: Path) -> Row:
    recording = Recording(path)
    override = msgspec.json.decode(task.config, type=Config) if task.config else None
    with replaying.attachments_folder() as folder:
        config = replaying.configuration(recording, override, folder)
        wanted = replaying.volume_of(config, task.ct)
        volume = _ct(wanted, resolve_ct(wanted.ct).stat().st_mtime_ns) if wanted.ct else None
        run = Rerun(recording, replaying.ReplaySetup(config, volume), Mode.LOCKSTEP, threads=task.threads)
        truth = _Truth(recording, config, volume)
        for step, _ in run.steps():
            truth.score(step)
    replay, live = run.report(), summarize(recording).report()
    frames = max(replay.frames, 1)
    return ScoredRow(
        key=task.key,
        session=task.session.place,
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
        poses = [m for (device, _), m in self._known.items() if device == _TRUE_CARM]
        if poses and patient is not None:
            depth_mm = config.carm.source_to_isocentre_mm
            middle = np.median([m[:3, 3] + depth_mm * m[:3, 2] for m in poses], axis=0)
            corners = np.array(np.meshgrid(*[(-_TARGETS_MM, _TARGETS_MM)] * 3)).reshape(3, -1).T + middle
            targets_patient_mm = g.transform(g.inverse(patient), corners)
        true = np.eye(4) if patient is None else self._volume_from_ct @ patient
        self._errors = Errors(true, targets_patient_mm)
        self._located = len(targets_patient_mm) > 0
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
                case CArmPose() if output.volume_from_carm is not None:
                    known = self._known.get((_TRUE_CARM, output.validity.source_time_ns))
                    if known is not None and self._located:
                        valid = output.validity.status is Status.VALID
                        self._errors.carm(output.volume_from_carm, self._volume_from_ct @ known, valid=valid)
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
        return self._errors.wrong_while_valid if self._errors.compared else None

    @property
    def psnr_db(self) -> float | None:
        """Mean over all volumes."""
        return round(float(np.mean(self._psnr_db)), 2) if self._psnr_db else None


def _psnr_db(volume: Volume, ct: Volume) -> float:
    """PSNR of a volume compared with the CT, over all its voxels; air outside the CT."""
    true = onto(ct, volume.volume_from_index, volume.voxels.shape[::-1]).voxels
    squared = float(np.mean((np.clip(volume.voxels, *_HU) - np.clip(true, *_HU)) ** 2))
    return float(20 * np.log10((_HU[1] - _HU[0]) / np.sqrt(max(squared, 1e-12))))
