"""Projection, registration and reconstruction of files: the work of the commands of the same names."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from navnode.errors import ComputeError, ConfigError
from navnode.files.artifacts import hashed
from navnode.files.dicom import refuse_filled, write_series
from navnode.files.meshes import ENDINGS as MESH_ENDINGS
from navnode.files.meshes import write_mesh
from navnode.files.segments import Identity, identity_of, of_one_run, write_model, write_segmentation
from navnode.files.views import ViewFile, read_landmarks, read_views, write_views
from navnode.files.volumes import VOLUME_ENDINGS, read_volume, write_volume
from navnode.files.whole import check_output, refuse_twice
from navnode.geometry import carm_document, where_rays_meet
from navnode.offline.carm import Geometry, calibrated_views, write_calibrated
from navnode.offline.overlays import Overlays, write_overlays
from navnode.offline.requests import ProjectRequest, ReconstructRequest, RegisterRequest
from navnode.projector import Projector
from navnode.reconstruction import Method, Reconstruction, Reconstructor
from navnode.reconstruction.lungs import LungsFound
from navnode.reconstruction.surface import Surface, inside, skin_surface
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
from navnode.types import Array, Effort, Grid, Matrix, Registration, Status, View, Volume
from navnode.xray.counts import line_integrals, open_beam_counts

__all__ = [
    "CalibrationReport",
    "PoseSigma",
    "ProjectionReport",
    "RECONSTRUCTION_PX",
    "ReconstructionReport",
    "RegisteredView",
    "RegistrationReport",
    "SurfaceReport",
    "calibrate",
    "hashes_of",
    "project",
    "reconstruct",
    "register",
    "view_of",
]

Progress = Callable[[float], None]
"""Called with the share of the work that is done, 0 to 1."""
RECONSTRUCTION_PX = 256
"""Images are averaged down to about this width: still finer than the projection of a voxel."""


_MOST_OVER_BEAM = 1.5
"""How much more than the stated open beam a picture may show: scatter, and a tube that is brighter in its middle."""


class ProjectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """Files that ``project`` wrote."""

    images: list[str]
    elapsed_ms: float


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


class SurfaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """A closed surface."""

    out: str
    bone: str = ""
    """Kind of bone that it surrounds, '' if none is known."""
    triangles: int
    size_mm: list[float]
    volume_cm3: float
    error_mm: float | None
    """Expected distance from the true surface, on average; None if the method gives no uncertainty."""
    error_95_mm: list[float] | None = None
    """95 % interval of that average."""
    status: str = Status.DEGRADED.value
    reason: str = ""
    """Why it is INVALID."""


class ReconstructionReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a reconstruction."""

    method: str
    engine: str
    views: int
    spread_deg: float
    """Largest angle between directions of the views."""
    status: str
    reason: str
    size: list[int]
    spacing_mm: list[float]
    elapsed_ms: float
    per_view_ms: list[float]
    out: str
    surface: SurfaceReport | msgspec.UnsetType = msgspec.UNSET
    """Present if a mesh was requested, as the others."""
    bones: list[SurfaceReport] | msgspec.UnsetType = msgspec.UNSET
    """Connected bones, largest first."""
    lungs: SurfaceReport | msgspec.UnsetType = msgspec.UNSET
    skin: SurfaceReport | msgspec.UnsetType = msgspec.UNSET


def project(request: ProjectRequest, progress: Progress) -> ProjectionReport:
    """Render every view into a folder: line integrals as float32 ``.npy``, or counts as 16-bit PNG with a views file.

    Raises:
        ConfigError: a file cannot be read or written, or a view has no pose.
    """
    i0, out = request.i0, request.out
    progress(0.0)
    started = time.perf_counter()
    view_files = read_views(request.views)
    poses = [view.pose() for view in view_files]
    projector = Projector(read_volume(request.volume, request.read_as()), threads=request.threads or None)
    paths = [out / f"view_{index:03}{'.npy' if i0 is None else '.png'}" for index in range(len(poses))]
    inputs = [request.views, request.volume, *(view.path for view in view_files if view.path is not None)]
    refuse_twice([*paths, out / "views.json"], inputs)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for index, (view, pose, path) in enumerate(zip(view_files, poses, paths, strict=True)):
        line = projector.render(view.carm, pose)
        if i0 is None:
            np.save(path, line)
        else:
            counts = np.clip(np.round(i0 * np.exp(-line)), 0, 65_535).astype(np.uint16)
            if not cv2.imwrite(str(path), counts):
                raise ConfigError(f"{path}: cannot be written")
        written.append(ViewFile("", path, view.carm, pose, i0, view.timestamp_ns))
        progress((index + 1) / len(view_files))
    if i0 is not None:
        write_views(out / "views.json", written)
    return ProjectionReport(images=[str(view.path) for view in written], elapsed_ms=_ms(started))


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
    elapsed_ms = _ms(started)
    pictures: list[str] | msgspec.UnsetType = msgspec.UNSET
    if request.overlays is not None:
        pictures = write_overlays(request.overlays, view_files, results, Overlays(volume, request.threads or None))
    views = [_registered_view(result) for result in results]
    return RegistrationReport(views=views, overlays=pictures, elapsed_ms=elapsed_ms)


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


def reconstruct(request: ReconstructRequest, progress: Progress) -> ReconstructionReport:
    """Reconstruct a volume from views with poses, and write it with the extra files of the request.

    Raises:
        ConfigError: a file cannot be used, or the method gives no uncertainty.
        ComputeError: there is no bone, lung or skin for a surface.
    """
    prior = request.prior
    progress(0.0)
    method = request.method if prior is None else Method.PRIOR
    reconstructor = Reconstructor(method, request.threads or None, request.model)
    if request.uncertainty is not None and reconstructor.method is not Method.LEARNED:
        raise ConfigError(f"--uncertainty: the method {reconstructor.method.value} gives none; use --method learned")
    if request.mesh_lungs is not None and reconstructor.method is not Method.LEARNED:
        raise ConfigError(f"--mesh-lungs: the method {reconstructor.method.value} finds none; use --method learned")
    identity, outputs = _check_outputs(request)
    view_files = read_views(request.views)
    inputs = [request.views, prior, *(view.path for view in view_files)]
    refuse_twice(outputs, [path for path in inputs if path is not None])
    started = time.perf_counter()
    views, per_view_ms = [], []
    for view in view_files:
        began = time.perf_counter()
        views.append(view_of(view, max(1, round(view.carm.width_px / RECONSTRUCTION_PX))))
        per_view_ms.append(_ms(began))
    center_mm = _center_mm(request, view_files)
    for view in view_files:
        distance_mm(center_mm, view.pose())
    grid = Grid.around(center_mm, request.size, request.spacing_mm)
    prior_volume = read_volume(prior, request.read_as()) if prior is not None else None
    result = reconstructor.reconstruct(views, grid, prior=prior_volume, progress=progress)
    elapsed_ms = _ms(started)
    hashes_of(views)
    _write(request, result, identity)
    lungs = reconstructor.lungs(views, grid) if request.mesh_lungs is not None else None
    return ReconstructionReport(
        method=result.method.value,
        engine=result.engine,
        views=result.views,
        spread_deg=round(float(np.rad2deg(result.spread_rad)), 1),
        status=result.status.value,
        reason=result.reason,
        size=[request.size] * 3,
        spacing_mm=[request.spacing_mm] * 3,
        elapsed_ms=elapsed_ms,
        per_view_ms=[round(a + b, 1) for a, b in zip_longest(per_view_ms, result.per_view_ms, fillvalue=0.0)],
        out=str(request.out),
        **_surfaces(request, result, lungs, identity),
    )


def _center_mm(request: ReconstructRequest, views: Sequence[ViewFile]) -> Matrix:
    if request.center_mm is not None:
        return np.array(request.center_mm)
    return where_rays_meet([view.pose() for view in views])


def _check_outputs(request: ReconstructRequest) -> tuple[Identity, list[Path]]:
    """Nothing is computed, or written, if not all can be; returns to what DICOM files belong, and the other files."""
    volumes = [path for path in (request.out, request.uncertainty, request.prior_map) if path is not None]
    surfaces = [path for path in (request.mesh, request.mesh_lungs, request.mesh_skin) if path is not None]
    for volume in volumes:
        check_output(volume, VOLUME_ENDINGS)
    for surface in surfaces:
        check_output(surface, MESH_ENDINGS)
    if request.dicom is not None:
        refuse_filled(request.dicom)
    for folder in (request.mesh_bones, request.dicom_bones):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: is a file; bones need a folder")
        if folder is not None and any(folder.glob("bone-*")):
            raise ConfigError(
                f"{folder}: contains bones already; those of two reconstructions would be taken for one's"
            )
    identity = of_one_run(None if request.patient is None else identity_of(request.patient))
    return identity, [*volumes, *surfaces]


def _write(request: ReconstructRequest, result: Reconstruction, identity: Identity) -> None:
    """Write the requested volumes."""
    write_volume(result.volume, request.out)
    if request.uncertainty is not None and result.uncertainty_hu is not None:
        write_volume(result.uncertainty_hu, request.uncertainty)
    if request.prior_map is not None and result.rests is not None:
        write_volume(result.rests, request.prior_map)
    if request.dicom is not None:
        write_series(
            result.volume,
            request.dicom,
            how=f"navnode, {result.method.value}: {result.reason}.",
            study="" if request.patient is not None else identity.elements["StudyInstanceUID"],
            frame_of_reference=identity.frame_of_reference,
        )


def _surfaces(
    request: ReconstructRequest, result: Reconstruction, lungs: LungsFound | None, identity: Identity
) -> dict[str, Any]:
    """Write the requested surfaces; returns what the report says of them, by its fields."""
    reports: dict[str, Any] = {}
    whole = result.reason if result.status is Status.INVALID else ""
    doubt = result.doubtful_bone
    wanted = request.mesh or request.mesh_bones or request.dicom_bones
    if wanted is not None:
        bone = result.surface()
        if bone is None:
            raise ComputeError(f"{wanted}: the reconstruction contains no bone")
        if request.mesh is not None:
            reports["surface"] = _written_surface(bone, request.mesh, doubt)
        if request.mesh_bones is not None:
            request.mesh_bones.mkdir(parents=True, exist_ok=True)
            reports["bones"] = [
                _written_surface(piece, request.mesh_bones / _bone_file(number, piece), doubt)
                for number, piece in enumerate(result.bones(), 1)
            ]
        if request.dicom_bones is not None:
            _write_dicom_bones(request.dicom_bones, result, identity)
    if request.mesh_lungs is not None:
        around = None if lungs is None else lungs.surface()
        if around is None:
            raise ComputeError(f"{request.mesh_lungs}: the X-rays show no lung")
        reports["lungs"] = _written_surface(around, request.mesh_lungs, whole)
    if request.mesh_skin is not None:
        skin = skin_surface(result.volume)
        if skin is None:
            raise ComputeError(f"{request.mesh_skin}: the reconstruction contains no body")
        reports["skin"] = _written_surface(skin, request.mesh_skin, whole)
    return reports


def _write_dicom_bones(folder: Path, result: Reconstruction, identity: Identity) -> None:
    """A model of each bone, and a segmentation of all on the volume's grid."""
    doubt = f"INVALID: {result.doubtful_bone}. " if result.doubtful_bone else ""
    how = f"{doubt}navnode, {result.method.value}: {result.reason}."
    folder.mkdir(parents=True, exist_ok=True)
    grid, names = result.volume, {}
    labels = np.zeros(grid.voxels.shape, np.int32)
    for number, bone in reversed(list(enumerate(result.bones(), 1))):  # where two overlap, the larger one stays
        names[number] = bone.name or f"bone {number}"
        write_model(folder / _bone_file(number, bone, ".dcm"), bone.mesh, names[number], how=how, identity=identity)
        labels[inside(bone.mesh, grid)] = number
    write_segmentation(folder / "bones.seg.dcm", labels, names, grid.volume_from_index, how=how, identity=identity)


def _bone_file(number: int, bone: Surface, ending: str = ".stl") -> str:
    return f"bone-{number:02}-{bone.name}{ending}" if bone.name else f"bone-{number:02}{ending}"


def _written_surface(surface: Surface, path: Path, doubt: str) -> SurfaceReport:
    """Write a surface; returns what the report says of it.

    Args:
        doubt: why it must not be relied on, '' if nothing is known against it.
    """
    write_mesh(surface.mesh, path)
    return SurfaceReport(
        out=str(path),
        bone=surface.name,
        triangles=len(surface.mesh.triangles),
        size_mm=[round(extent, 1) for extent in surface.size_mm],
        volume_cm3=round(surface.volume_cm3, 1),
        error_mm=None if surface.error_mm is None else round(surface.error_mm, 2),
        error_95_mm=None if surface.error_95_mm is None else [round(end, 2) for end in surface.error_95_mm],
        status=(Status.INVALID if doubt else Status.DEGRADED).value,
        reason=doubt,
    )


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


def _ms(started: float) -> float:
    return round(1e3 * (time.perf_counter() - started), 1)


def hashes_of(views: Sequence[View]) -> list[str]:
    """SHA-256 of every view's picture.

    Raises:
        ConfigError: two are the same picture, which cannot have been taken from two places.
    """
    found = [hashlib.sha256(view.line_integrals.tobytes()).hexdigest() for view in views]
    for n, one in enumerate(found):
        if one in found[:n]:
            raise ConfigError(f"pictures {found.index(one) + 1} and {n + 1} are the same picture")
    return found


def view_of(file: ViewFile, binning: int = 1) -> View:
    """Line integrals and pose of a view; ``binning`` x ``binning`` pixels are averaged into one.

    Raises:
        ConfigError: the image, its open beam or the pose is missing or wrong.
    """
    counts = file.counts()
    shown = open_beam_counts(counts)
    if file.i0 and shown > _MOST_OVER_BEAM * file.i0:
        more = f"i0 is {file.i0:g}, parts of the picture have {shown:g} counts"
        raise ConfigError(f"{file.name}: {more}: a patient lets no more through than the open beam has")
    i0 = file.i0 or shown
    return View(
        line_integrals(counts, i0, binning, see_lead=True), file.carm.binned(binning), file.pose(), file.timestamp_ns
    )
