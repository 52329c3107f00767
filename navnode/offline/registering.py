"""Registration of files: ``navnode register``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.files.artifacts import hashed
from navnode.files.views import ViewFile, read_landmarks, read_views
from navnode.files.volumes import read_volume
from navnode.geometry import carm_document
from navnode.offline.carm import Geometry, calibrated_views, write_calibrated
from navnode.offline.overlays import Overlays, write_overlays
from navnode.offline.requests import RegisterRequest
from navnode.registration import (
    FilmRegistration,
    ImageRegistration,
    distance_mm,
    evidence_in,
    judged_together,
    register_counts,
    register_jointly,
)
from navnode.registration.carm import Calibrated, Shot, focal_px
from navnode.registration.carm import calibrate as find_geometry
from navnode.registration.starts import landmark_pose, station_poses
from navnode.types import Array, Effort, Matrix, Progress, Registration, Status, Volume

__all__ = ["CalibrationReport", "PoseSigma", "RegisteredView", "RegistrationReport", "calibrate", "register"]


class PoseSigma(msgspec.Struct, frozen=True, kw_only=True):
    """1-sigma of a pose: three rotations and three translations."""

    rotation_rad: list[float]
    translation_mm: list[float]


class RegisteredView(msgspec.Struct, frozen=True, kw_only=True):
    """Registration of one view."""

    status: str
    reason: str
    volume_from_carm: list[list[float]]
    """4x4."""
    residual: float | None
    """None if there is no overlap to compute it from."""
    similarity: float
    """Correlation of image and prediction, -1..1."""
    sigma: PoseSigma
    """With what a calibration (``--carm``) states of its own error. Else for the C-arm's geometry as it is stated:
    where its focal length is 1 % off, depth is 1 % of the distance off."""
    iterations: int
    elapsed_ms: float


class RegistrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Registrations of all views."""

    views: list[RegisteredView]
    elapsed_ms: float
    overlays: list[str] | msgspec.UnsetType = msgspec.UNSET
    """Pictures of the results, where they were wanted."""


class CalibrationReport(RegistrationReport, frozen=True, kw_only=True):
    """A C-arm's geometry, found with the registrations of all views."""

    status: str
    reason: str
    carm: dict[str, Any]
    """``navnode/carm/1``, of the pictures after mirroring. The pixel spacing is the stated one: pictures tell only the
    focal length in pixels, which is the distance over the spacing."""
    focal_px: list[float]
    """Along u and v."""
    reading: str
    """In words: how the pictures are mirrored and turned against the starts."""
    mirrored: bool
    turned_deg: int
    sigma_sdd_mm: float
    sigma_pp_px: list[float]
    sigma_patient_mm: float | None
    """By how much the geometry's error moves the patient as the C-arm sees him."""
    sigma_located_mm: float | None
    """Of a point that the pictures themselves locate; None: one view."""
    sigma_lateral_mm: float | None
    """Of a point across its ray."""
    apart_deg: float
    """Largest angle between two views."""
    out: str
    """The file that was written, or ''."""


def register(request: RegisterRequest, progress: Progress) -> RegistrationReport:
    """Register views to a CT.

    Raises:
        ConfigError: a file or an image cannot be used, or a view lacks the start that it needs.
    """
    landmarks, track = request.landmarks, request.track
    effort = Effort.SEARCH if request.search else Effort.FIND
    progress(0.0)
    geometry = Geometry(read_views(request.views))
    if request.carm is not None:
        geometry = calibrated_views(geometry.views, request.carm)
    view_files = geometry.views
    _need_starts(view_files[:1] if track else view_files, landmarks)
    assert request.volume is not None
    volume = read_volume(request.volume, request.read_as())
    starts = _starts(view_files, volume, landmarks, only_first=track)
    registration = ImageRegistration(volume, request.threads or None)
    started = time.perf_counter()
    if request.joint:
        shots = [
            (counts, view.carm, start[0], distance_mm(volume.center_mm, start[0]), view.timestamp_ns)
            for view, start, counts in zip(view_files, starts, _read_ahead(view_files), strict=True)
        ]
        results = register_jointly(registration, shots, effort)
        progress(1.0)
    elif track:
        results = []
        sequence = FilmRegistration(registration, volume.center_mm)
        for view, counts in zip(view_files, _read_ahead(view_files), strict=True):
            if results:
                results.append(sequence.follow(counts, view.carm, view.timestamp_ns))
            else:
                results.append(sequence.begin(_best_of(registration, volume, view, counts, starts[0], effort)))
            progress(len(results) / len(view_files))
    else:
        results, said = [], []
        for view, start, counts in zip(view_files, starts, _read_ahead(view_files), strict=True):
            view_effort = Effort.SEARCH if view.volume_from_carm is None and landmarks is None else effort
            results.append(_best_of(registration, volume, view, counts, start, view_effort))
            said.append(evidence_in(registration, counts, view.carm, results[-1]) if len(view_files) > 1 else None)
            progress(len(results) / len(view_files))
        results = judged_together(results, said)
    results = [geometry.judged(result, view.carm) for result, view in zip(results, view_files, strict=True)]
    spent_ms = round(elapsed_ms(started), 1)
    pictures: list[str] | msgspec.UnsetType = msgspec.UNSET
    if request.overlays is not None:
        pictures = write_overlays(request.overlays, view_files, results, Overlays(volume, request.threads or None))
    views = [_registered_view(result) for result in results]
    return RegistrationReport(views=views, overlays=pictures, elapsed_ms=spent_ms)


def calibrate(request: RegisterRequest, progress: Progress) -> CalibrationReport:
    """Register views to a CT with a C-arm that is known only roughly, and find its geometry.

    Raises:
        ConfigError: a file or an image cannot be used, a view lacks its start, or the views are of several C-arms.
    """
    progress(0.0)
    view_files = read_views(request.views)
    _need_starts(view_files, request.landmarks)
    for view in view_files[1:]:
        if view.carm != view_files[0].carm:
            raise ConfigError(f"{view.name}: its C-arm is not that of views[0]; --calibrate finds one for all")
    assert request.volume is not None
    volume = read_volume(request.volume, request.read_as())
    starts = _starts(view_files, volume, request.landmarks, only_first=False)
    progress(0.1)
    found = find_geometry(
        ImageRegistration(volume, request.threads or None),
        volume.center_mm,
        view_files[0].carm,
        [Shot(view.counts(), start, view.timestamp_ns) for view, start in zip(view_files, starts, strict=True)],
        joint=request.joint,
        search=request.search or (any(view.volume_from_carm is None for view in view_files) and not request.landmarks),
        progress=lambda share: progress(0.1 + 0.9 * share),
    )
    images = [view.path for view in view_files if view.path is not None]
    written = request.out is not None and write_calibrated(
        request.out,
        found,
        {str(path): hashed(path) for path in (request.volume, request.views, *images) if path.is_file()},
    )
    progress(1.0)
    return _calibration_report(found, str(request.out) if written else "")


def _calibration_report(found: Calibrated, out: str) -> CalibrationReport:
    def rounded(value: float | None) -> float | None:
        return None if value is None or not np.isfinite(value) else round(value, 3)

    return CalibrationReport(
        status=found.validity.status.value,
        reason=found.validity.reason,
        carm=carm_document(found.carm),
        focal_px=list(focal_px(found.carm)),
        reading=str(found.readout),
        mirrored=found.readout.mirrored,
        turned_deg=found.readout.turned_deg,
        sigma_sdd_mm=float(found.sigma[0]),
        sigma_pp_px=found.sigma[1:].tolist(),
        sigma_patient_mm=rounded(found.patient_mm),
        sigma_located_mm=rounded(found.located_mm),
        sigma_lateral_mm=rounded(found.lateral_mm),
        apart_deg=round(found.apart_deg, 1),
        views=[_registered_view(each) for each in found.registrations],
        out=out,
        elapsed_ms=round(found.elapsed_ms, 1),
    )


def _need_starts(views: Sequence[ViewFile], landmarks: Path | None) -> None:
    """Refuse a view without a start, before the slow reading of a CT."""
    for view in views:
        if view.volume_from_carm is None and landmarks is None and not view.station:
            raise ConfigError(f"{view.name}: volume_from_carm is missing; a station name or landmarks serve as well")


def _best_of(
    registration: ImageRegistration,
    volume: Volume,
    view: ViewFile,
    counts: Array,
    starts: list[Matrix],
    effort: Effort,
) -> Registration:
    """The best result from several starts; the first VALID one ends the search."""
    best: Registration | None = None
    spent_ms = 0.0
    for start in starts:
        result = register_counts(
            registration, counts, view.carm, start, distance_mm(volume.center_mm, start), effort, view.timestamp_ns
        )
        spent_ms += result.elapsed_ms
        if best is None or (result.validity.usable, result.similarity) > (best.validity.usable, best.similarity):
            best = result
        if best.validity.status is Status.VALID:
            break
    assert best is not None
    return replace(best, elapsed_ms=spent_ms)


def _starts(
    views: Sequence[ViewFile], volume: Volume, landmarks: Path | None, *, only_first: bool
) -> list[list[Matrix]]:
    """Starting poses of each view: from its landmarks, its own pose, or its station name."""
    marked = read_landmarks(landmarks, len(views)) if landmarks is not None else None
    starts = []
    for index, view in enumerate(views[:1] if only_first else views):
        if marked is not None and marked.pixels[index]:
            try:
                starts.append([landmark_pose(view.carm, marked.points_mm, marked.pixels[index])])
            except ConfigError as error:
                raise ConfigError(f"{landmarks}: {view.name}: {error}") from error
        elif view.volume_from_carm is None and view.station:
            starts.append(station_poses(view.station, volume, view.carm))
        else:
            starts.append([view.pose()])
    return starts


def _read_ahead(views: Sequence[ViewFile]) -> Iterator[Array]:
    """Images of the views; the next one is read while the caller works on the current one."""
    with ThreadPoolExecutor(1) as reader:
        waiting = deque([reader.submit(views[0].counts)])
        for view in views[1:]:
            waiting.append(reader.submit(view.counts))
            yield waiting.popleft().result()
        yield waiting.popleft().result()


def _registered_view(registration: Registration) -> RegisteredView:
    sigma = registration.sigma.tolist()
    return RegisteredView(
        status=registration.validity.status.value,
        reason=registration.validity.reason,
        volume_from_carm=registration.volume_from_carm.tolist(),
        residual=registration.residual if np.isfinite(registration.residual) else None,
        similarity=registration.similarity,
        sigma=PoseSigma(rotation_rad=sigma[:3], translation_mm=sigma[3:]),
        iterations=registration.iterations,
        elapsed_ms=round(registration.elapsed_ms, 3),
    )
