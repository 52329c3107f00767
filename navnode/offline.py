"""Projection, registration and reconstruction of files; what the commands of these names do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.projector import Projector
from navnode.reconstruction import reconstruct
from navnode.reconstruction.surface import bone_surface
from navnode.registration import ImageRegistration, register_counts
from navnode.registration.fusion import PatientFilter, measurement
from navnode.types import Effort, Matrix, Registration, Volume
from navnode.viewfiles import ViewFile, read_views, write_views
from navnode.volumes import read_volume, write_mesh, write_volume

Progress = Callable[[float], None]
_RECONSTRUCTION_PX = 192
"""Images are averaged down to about this many pixels: finer than the voxels project."""


def project(ct: Path, views: Path, out: Path, i0: float | None, threads: int, progress: Progress) -> dict[str, Any]:
    """Render every view into a folder: line integrals as float32 ``.npy``, or counts as 16-bit PNG with their views."""
    started = time.perf_counter()
    wanted = read_views(views)
    poses = [view.pose() for view in wanted]
    projector = Projector(read_volume(ct), threads=threads or None)
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
    return {"images": [str(view.path) for view in written], "elapsed_ms": _ms(started)}


def register(
    ct: Path, views: Path, effort: Effort, joint: bool, track: bool, threads: int, progress: Progress
) -> dict[str, Any]:
    """Register every view to a CT; see :func:`navnode.registration.register`."""
    wanted = read_views(views)
    first_poses = [view.pose() for view in (wanted[:1] if track else wanted)]
    volume = read_volume(ct)
    registration = ImageRegistration(volume, threads or None)
    started = time.perf_counter()
    results: list[Registration] = []
    for index, view in enumerate(wanted):
        if track and results:
            start, how = results[-1].volume_from_carm, Effort.REFINE
        else:
            start, how = first_poses[index], effort
        depth_mm = float(np.linalg.norm(volume.center_mm - start[:3, 3]))
        result = register_counts(registration, view.counts(), view.carm, start, depth_mm, how, view.timestamp_ns)
        if track and results and not result.validity.usable:
            # A lost frame must not carry the next ones away: they start where the last good one was.
            result = replace(result, volume_from_carm=results[-1].volume_from_carm)
        results.append(result)
        progress((index + 1) / len(wanted))
    if joint:
        results = _joined(results, first_poses)
    return {"views": [_told(result) for result in results], "elapsed_ms": _ms(started)}


def reconstruct_views(
    views: Path,
    out: Path,
    *,
    size: int,
    spacing_mm: float,
    center_mm: Sequence[float] | None,
    mesh: Path | None,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """A volume from views with poses."""
    wanted = read_views(views)
    started = time.perf_counter()
    made, per_view_ms = [], []
    for view in wanted:
        began = time.perf_counter()
        made.append(view.view(max(1, round(view.carm.width_px / _RECONSTRUCTION_PX))))
        per_view_ms.append(_ms(began))
    center = _where_rays_meet([view.pose() for view in wanted]) if center_mm is None else np.array(center_mm)
    volume = reconstruct(
        made, size=size, spacing_mm=spacing_mm, center_mm=center, threads=threads or None, progress=progress
    )
    write_volume(volume, out)
    if mesh is not None:
        _write_bone(volume, mesh)
    return {
        "method": "sart",
        "engine": "native",
        "views": len(made),
        "size": [size] * 3,
        "spacing_mm": [spacing_mm] * 3,
        "elapsed_ms": _ms(started),
        "per_view_ms": per_view_ms,
        "out": str(out),
    }


def _joined(results: list[Registration], starts: list[Matrix]) -> list[Registration]:
    """Views that share one rigid motion of the patient: their registrations, weighted by their covariances."""
    usable = [(r, s) for r, s in zip(results, starts, strict=True) if r.validity.usable]
    if not usable:
        return results
    pivot = np.mean([s[:3, 3] + r.pivot_mm * s[:3, 2] for r, s in usable], axis=0)
    estimate: PatientFilter | None = None
    for registration, start in usable:
        moved, covariance = measurement(
            registration.volume_from_carm, registration.covariance, registration.pivot_mm, g.inverse(start), pivot
        )
        if estimate is None:
            estimate = PatientFilter(moved, pivot, covariance)
        else:
            estimate.combine(moved, covariance)
    assert estimate is not None
    motion = estimate.volume_from_patient
    return [
        replace(r, volume_from_carm=motion @ s, covariance=estimate.covariance_at(s, r.pivot_mm))
        for r, s in zip(results, starts, strict=True)
    ]


def _told(registration: Registration) -> dict[str, Any]:
    sigma = registration.sigma.tolist()
    return {
        "status": registration.validity.status.value,
        "reason": registration.validity.reason,
        "volume_from_carm": registration.volume_from_carm.tolist(),
        "residual": registration.residual if np.isfinite(registration.residual) else None,
        "similarity": registration.similarity,
        "sigma": {"rotation_rad": sigma[:3], "translation_mm": sigma[3:]},
        "iterations": registration.iterations,
        "elapsed_ms": round(registration.elapsed_ms, 3),
    }


def _where_rays_meet(poses: list[Matrix]) -> Matrix:
    """The point nearest to all principal rays."""
    across = [np.eye(3) - np.outer(pose[:3, 2], pose[:3, 2]) for pose in poses]
    aimed = [p @ pose[:3, 3] for p, pose in zip(across, poses, strict=True)]
    return np.asarray(np.linalg.lstsq(np.sum(across, axis=0), np.sum(aimed, axis=0), rcond=None)[0])


def _write_bone(volume: Volume, path: Path) -> None:
    bone = bone_surface(volume, relative=True)
    if bone is None:
        raise ConfigError(f"{path}: the reconstruction holds no bone")
    write_mesh(bone, path)


def _ms(started: float) -> float:
    return round(1e3 * (time.perf_counter() - started), 1)
