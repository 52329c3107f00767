"""Reconstruction of files: ``navnode reconstruct``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from navnode.clock import elapsed_ms
from navnode.errors import ComputeError, ConfigError
from navnode.files.dicom import refuse_filled, write_series
from navnode.files.meshes import ENDINGS as MESH_ENDINGS
from navnode.files.meshes import write_mesh
from navnode.files.segments import Identity, identity_of, of_one_run, write_model, write_segmentation
from navnode.files.views import ViewFile, read_views
from navnode.files.volumes import VOLUME_ENDINGS, read_volume, write_volume
from navnode.files.whole import check_output, refuse_twice
from navnode.geometry import where_rays_meet
from navnode.offline.requests import ReconstructRequest
from navnode.offline.views import RECONSTRUCTION_PX, hashes_of, view_of
from navnode.reconstruction import Method, Reconstruction, Reconstructor
from navnode.reconstruction.lungs import LungsFound
from navnode.reconstruction.surface import Surface, inside, skin_surface
from navnode.registration import (
    distance_mm,
)
from navnode.types import Grid, Matrix, Progress, Status

__all__ = ["ReconstructionReport", "SurfaceReport", "reconstruct"]


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
        per_view_ms.append(round(elapsed_ms(began), 1))
    center_mm = _center_mm(request, view_files)
    for view in view_files:
        distance_mm(center_mm, view.pose())
    grid = Grid.around(center_mm, request.size, request.spacing_mm)
    prior_volume = read_volume(prior, request.read_as()) if prior is not None else None
    result = reconstructor.reconstruct(views, grid, prior=prior_volume, progress=progress)
    spent_ms = round(elapsed_ms(started), 1)
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
        elapsed_ms=spent_ms,
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
