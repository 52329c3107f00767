"""Projection, registration and reconstruction of files; what the commands of these names do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import cv2
import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files.dicom import write_series
from navnode.files.views import ViewFile, read_landmarks, read_views, write_views
from navnode.files.volumes import read_volume, write_mesh, write_volume
from navnode.offline.requests import ProjectRequest, ReconstructRequest, RegisterRequest
from navnode.projector import Projector
from navnode.reconstruction import Method, Reconstruction, Reconstructor
from navnode.reconstruction.surface import Surface
from navnode.registration import FilmRegistration, ImageRegistration, distance_mm, register_counts, register_jointly
from navnode.registration.starts import landmark_pose, station_poses
from navnode.types import Array, Effort, Grid, Matrix, Registration, Status, View, Volume
from navnode.xray.counts import line_integrals, open_beam_counts

Progress = Callable[[float], None]
_RECONSTRUCTION_PX = 256
"""Images are averaged down to about this many pixels: finer than the voxels project."""


class ProjectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``project`` wrote."""

    images: list[str]
    elapsed_ms: float


class PoseSigma(msgspec.Struct, frozen=True, kw_only=True):
    """1-sigma of a pose, along three axes each."""

    rotation_rad: list[float]
    translation_mm: list[float]


class RegisteredView(msgspec.Struct, frozen=True, kw_only=True):
    """What one view's registration came to."""

    status: str
    reason: str
    volume_from_carm: list[list[float]]
    """4x4."""
    residual: float | None
    """None where there is none."""
    similarity: float
    sigma: PoseSigma
    iterations: int
    elapsed_ms: float


class RegistrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``register`` found."""

    views: list[RegisteredView]
    elapsed_ms: float


class SurfaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A bone surface."""

    triangles: int
    size_mm: list[float]
    volume_cm3: float
    error_mm: float | None
    """How far off its places are expected to be; None where the method does not say."""


class ReconstructionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``reconstruct`` made."""

    method: str
    engine: str
    views: int
    spread_deg: float
    """Of the directions of the views."""
    status: str
    reason: str
    size: list[int]
    spacing_mm: list[float]
    elapsed_ms: float
    per_view_ms: list[float]
    out: str
    surface: SurfaceReport | msgspec.UnsetType = msgspec.UNSET
    """Where one was asked for."""


def project(request: ProjectRequest, progress: Progress) -> ProjectionReport:
    """Render every view into a folder: line integrals as float32 ``.npy``, or counts as 16-bit PNG with their views."""
    i0, out = request.i0, request.out
    progress(0.0)
    started = time.perf_counter()
    wanted = read_views(request.views)
    poses = [view.pose() for view in wanted]
    projector = Projector(read_volume(request.volume), threads=request.threads or None)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for index, (view, pose) in enumerate(zip(wanted, poses, strict=True)):
        line = projector.render(view.carm, pose)
        path = out / f"view_{index:03}{'.npy' if i0 is None else '.png'}"
        if i0 is None:
            np.save(path, line)
        else:
            counts = np.clip(np.round(i0 * np.exp(-line)), 0, 65_535).astype(np.uint16)
            if not cv2.imwrite(str(path), counts):
                raise ConfigError(f"{path}: cannot be written")
        written.append(ViewFile("", path, view.carm, pose, i0, view.timestamp_ns))
        progress((index + 1) / len(wanted))
    if i0 is not None:
        write_views(out / "views.json", written)
    return ProjectionReport(images=[str(view.path) for view in written], elapsed_ms=_ms(started))


def register(request: RegisterRequest, progress: Progress) -> RegistrationReport:
    """Register views to a CT.

    Raises:
        ConfigError: a file or an image cannot be used; a view that needs a start has none.
    """
    landmarks, track = request.landmarks, request.track
    effort = Effort.SEARCH if request.search else Effort.FIND
    progress(0.0)
    wanted = read_views(request.views)
    for view in wanted[:1] if track else wanted:
        if view.volume_from_carm is None and landmarks is None and not view.station:  # said before a CT is read
            raise ConfigError(f"{view.name}: volume_from_carm is missing; a station's name or landmarks would do")
    volume = read_volume(request.volume)
    starts = _starts(wanted, volume, landmarks, only_first=track)
    registration = ImageRegistration(volume, request.threads or None)
    started = time.perf_counter()
    if request.joint:
        shots = [
            (counts, view.carm, start[0], distance_mm(volume, start[0]), view.timestamp_ns)
            for view, start, counts in zip(wanted, starts, _read_ahead(wanted), strict=True)
        ]
        results = register_jointly(registration, shots, effort)
        progress(1.0)
    elif track:
        results = []
        sequence = FilmRegistration(registration, volume.center_mm)
        for view, counts in zip(wanted, _read_ahead(wanted), strict=True):
            if results:
                results.append(sequence.follow(counts, view.carm, view.timestamp_ns))
            else:
                results.append(sequence.begin(_best_of(registration, volume, view, counts, starts[0], effort)))
            progress(len(results) / len(wanted))
    else:
        results = []
        for view, start, counts in zip(wanted, starts, _read_ahead(wanted), strict=True):
            how = Effort.SEARCH if view.volume_from_carm is None and landmarks is None else effort
            results.append(_best_of(registration, volume, view, counts, start, how))
            progress(len(results) / len(wanted))
    return RegistrationReport(views=[_registered(result) for result in results], elapsed_ms=_ms(started))


def _best_of(
    registration: ImageRegistration,
    volume: Volume,
    view: ViewFile,
    counts: Array,
    starts: list[Matrix],
    effort: Effort,
) -> Registration:
    """The best from several starts; one that is VALID ends it."""
    best: Registration | None = None
    spent_ms = 0.0
    for start in starts:
        found = register_counts(
            registration, counts, view.carm, start, distance_mm(volume, start), effort, view.timestamp_ns
        )
        spent_ms += found.elapsed_ms
        if best is None or (found.validity.usable, found.similarity) > (best.validity.usable, best.similarity):
            best = found
        if best.validity.status is Status.VALID:
            break
    assert best is not None
    return replace(best, elapsed_ms=spent_ms)


def _starts(
    views: Sequence[ViewFile], volume: Volume, landmarks: Path | None, *, only_first: bool
) -> list[list[Matrix]]:
    """Where each view begins: its landmarks, its pose, or its station's name."""
    marked = read_landmarks(landmarks, len(views)) if landmarks is not None else None
    starts = []
    for index, view in enumerate(views[:1] if only_first else views):
        if marked is not None and marked.pixels[index]:
            starts.append([landmark_pose(view.carm, marked.points_mm, marked.pixels[index])])
        elif view.volume_from_carm is None and view.station:
            starts.append(station_poses(view.station, volume, view.carm))
        else:
            starts.append([view.pose()])
    return starts


def _read_ahead(views: Sequence[ViewFile]) -> Iterator[Array]:
    """The views' images, the next one read while the last one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        waiting = deque([reader.submit(views[0].counts)])
        for view in views[1:]:
            waiting.append(reader.submit(view.counts))
            yield waiting.popleft().result()
        yield waiting.popleft().result()


def reconstruct(request: ReconstructRequest, progress: Progress) -> ReconstructionReport:
    """A volume from views with poses, and what else is asked for of it.

    Raises:
        ConfigError: a file cannot be used, the method states no uncertainty, or there is no bone for a surface.
    """
    prior = request.prior
    progress(0.0)
    method = request.method if prior is None else Method.PRIOR
    reconstructor = Reconstructor(method, request.threads or None, request.model)
    if request.uncertainty is not None and reconstructor.method is not Method.LEARNED:
        raise ConfigError(f"--uncertainty: the method {reconstructor.method.value} states none; learned does")
    wanted = read_views(request.views)
    started = time.perf_counter()
    made, per_view_ms = [], []
    for view in wanted:
        began = time.perf_counter()
        made.append(view_of(view, max(1, round(view.carm.width_px / _RECONSTRUCTION_PX))))
        per_view_ms.append(_ms(began))
    grid = Grid.around(_center_mm(request, wanted), request.size, request.spacing_mm)
    done = reconstructor.reconstruct(
        made, grid, prior=read_volume(prior) if prior is not None else None, progress=progress
    )
    elapsed_ms = _ms(started)
    surface = _written(request, done)
    return ReconstructionReport(
        method=done.method.value,
        engine=done.engine,
        views=done.views,
        spread_deg=round(float(np.rad2deg(done.spread_rad)), 1),
        status=done.status.value,
        reason=done.reason,
        size=[request.size] * 3,
        spacing_mm=[request.spacing_mm] * 3,
        elapsed_ms=elapsed_ms,
        per_view_ms=[round(a + b, 1) for a, b in zip_longest(per_view_ms, done.per_view_ms, fillvalue=0.0)],
        out=str(request.out),
        surface=msgspec.UNSET if surface is None else _described(surface),
    )


def _center_mm(request: ReconstructRequest, views: Sequence[ViewFile]) -> Matrix:
    if request.center_mm is not None:
        return np.array(request.center_mm)
    return _where_rays_meet([view.pose() for view in views])


def _written(request: ReconstructRequest, done: Reconstruction) -> Surface | None:
    """Write what is asked for; the surface of bone, where that is."""
    write_volume(done.volume, request.out)
    if request.uncertainty is not None and done.uncertainty_hu is not None:
        write_volume(done.uncertainty_hu, request.uncertainty)
    if request.prior_map is not None and done.rests is not None:
        write_volume(done.rests, request.prior_map)
    if request.dicom is not None:
        write_series(done.volume, request.dicom, how=f"navnode, {done.method.value}: {done.reason}.")
    if request.mesh is None:
        return None
    surface = done.surface()
    if surface is None:
        raise ConfigError(f"{request.mesh}: the reconstruction holds no bone")
    write_mesh(surface.mesh, request.mesh)
    return surface


def _described(surface: Surface) -> SurfaceReport:
    return SurfaceReport(
        triangles=len(surface.mesh.triangles),
        size_mm=[round(extent, 1) for extent in surface.size_mm],
        volume_cm3=round(surface.volume_cm3, 1),
        error_mm=None if surface.error_mm is None else round(surface.error_mm, 2),
    )


def _registered(registration: Registration) -> RegisteredView:
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


def _where_rays_meet(poses: list[Matrix]) -> Matrix:
    """The point nearest to all principal rays."""
    across = [np.eye(3) - np.outer(pose[:3, 2], pose[:3, 2]) for pose in poses]
    aimed = [p @ pose[:3, 3] for p, pose in zip(across, poses, strict=True)]
    return np.asarray(np.linalg.lstsq(np.sum(across, axis=0), np.sum(aimed, axis=0), rcond=None)[0])


def _ms(started: float) -> float:
    return round(1e3 * (time.perf_counter() - started), 1)


def view_of(file: ViewFile, binning: int = 1) -> View:
    """Line integrals and pose, ``binning`` x ``binning`` pixels averaged into one.

    Raises:
        ConfigError: the image or the pose is missing or wrong.
    """
    counts = file.counts()
    i0 = file.i0 or open_beam_counts(counts)
    return View(
        line_integrals(counts, i0, binning, see_lead=True), file.carm.binned(binning), file.pose(), file.timestamp_ns
    )
