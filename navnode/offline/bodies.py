"""Registration of several bones, each by itself: the work of ``navnode register --bodies`` and ``navnode bodies``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.files.bodies import BodyFile, read_bodies, write_list
from navnode.files.segments import Identity, identity_of, write_segmentation
from navnode.files.views import read_views
from navnode.files.volumes import read_volume
from navnode.files.whole import refuse_existing, refuse_twice
from navnode.offline.carm import calibrated_views, capped
from navnode.offline.requests import BodiesRequest, RegisterRequest
from navnode.projector.native import default_threads
from navnode.registration.appearance import MOST_BODIES
from navnode.registration.bodies import Body, BodyFit, BodyRegistration, Joints, Shot, WholeRegistration, pairs_of
from navnode.types import Progress, Volume

__all__ = ["BodiesReport", "BodyRow", "ListedBody", "ListReport", "list_bodies", "register_bodies"]

_WHOLE, _EDGES = "the whole image, with the CT's soft tissue", "edges of the bodies alone"


class BodyRow(msgspec.Struct, frozen=True, kw_only=True):
    """Registration of one body."""

    name: str
    status: str
    reason: str
    volume_from_body: list[list[float]]
    """4x4: from the frame of the body's own file to the frame of the views' poses."""
    similarity: list[float | None]
    """In every view, -1..1; None: it is not in the picture."""
    runner_up: float | None
    """Mean similarity of the best other place; None: there is none."""
    mirrored: float | None
    """The same of its best mirror image; None: not tried, since it is not VALID anyhow."""
    views_apart_mm: float | None
    """How far single views would move it; None: there is one view."""
    sigma_rotation_rad: list[float]
    sigma_translation_mm: list[float]
    """1-sigma at its center."""
    center_mm: list[float]
    """Of the body, in the frame of the views' poses."""


class BodiesReport(msgspec.Struct, frozen=True, kw_only=True):
    """Registrations of all bodies."""

    likeness: str
    """What bodies and pictures were compared by."""
    bodies: list[BodyRow]
    elapsed_ms: float


class ListedBody(msgspec.Struct, frozen=True, kw_only=True):
    """One body, as its file has it."""

    name: str
    voxels: int
    size_mm: list[float]
    center_mm: list[float]
    status: str
    reason: str = ""


class ListReport(msgspec.Struct, frozen=True, kw_only=True):
    """Bodies of a file."""

    bodies: list[ListedBody]
    out: str = ""


def register_bodies(request: RegisterRequest, progress: Progress) -> BodiesReport:
    """Find every body in views with calibrated cameras.

    Raises:
        ConfigError: a file cannot be used, a view has no pose, or there is no body.
    """
    progress(0.0)
    view_files = read_views(request.views)
    doubt = ""
    if request.carm is not None:
        geometry = calibrated_views(view_files, request.carm)
        view_files, doubt = geometry.views, geometry.doubt
    poses = [view.pose() for view in view_files]
    ct = None if request.volume is None else read_volume(request.volume, request.read_as())
    files = [body for path in request.bodies for body in read_bodies(path, ct)]
    names = [file.name for file in files]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"--bodies: two bodies are called {twice!r}; a list (.toml) names them")
    bodies = [Body.of(file.volume, file.label, file.name, 1) for file in files]
    shots = [Shot(view.counts(), view.carm, pose) for view, pose in zip(view_files, poses, strict=True)]
    started = time.perf_counter()
    threads = request.threads or default_threads()
    labels = [file.label for file in files if file.label is not None]
    starts = [file.start for file in files if file.start is not None]
    if ct is not None and len(labels) == len(starts) == len(files) and not request.search:
        likeness = _WHOLE
        if len(bodies) > MOST_BODIES:
            raise ConfigError(
                f"{len(bodies)} bodies in one image, at most {MOST_BODIES}: choose some in a list (`navnode bodies`)"
            )
        pairs = pairs_of(names, [file.meets for file in files])
        joints = Joints(ct, labels, names, pairs) if pairs else None
        fits = WholeRegistration(ct, labels, bodies, shots, threads, joints).register(starts, progress)
    else:
        if met := next((file.name for file in files if file.meets), ""):
            raise ConfigError(f"{met}: joints (meets) need a CT with labels of all bodies, and no --search")
        likeness = _EDGES
        anywhere = [None if request.search else file.start for file in files]
        fits = BodyRegistration(shots, threads).register(bodies, anywhere, progress)
    fits = [replace(fit, validity=capped(fit.validity, doubt)) for fit in fits]
    rows = [_row(body, fit) for body, fit in zip(bodies, fits, strict=True)]
    return BodiesReport(
        likeness=likeness,
        bodies=rows,
        elapsed_ms=round(elapsed_ms(started), 1),
    )


def list_bodies(request: BodiesRequest) -> ListReport:
    """What a file has, and whether X-rays can show it.

    Raises:
        ConfigError: a file cannot be used, ``out`` is asked for without a label map, or an output exists.
    """
    outputs = [path for path in (request.seg, request.out) if path is not None]
    for path in outputs:
        refuse_existing(path)
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: its folder does not exist")
    refuse_twice(outputs)
    ct = None if request.volume is None else read_volume(request.volume, request.read_as())
    files = read_bodies(request.bodies, ct)
    no_map = ct is None or any(file.label is None for file in files)
    if request.out is not None and (no_map or request.bodies.suffix == ".toml"):
        raise ConfigError("--out lists the labels of a map: --volume CT and a label map are needed")
    if request.seg is not None:
        _write_segmentation(request.seg, files, ct, None if request.patient is None else identity_of(request.patient))
    if request.out is not None:
        write_list(request.out, request.bodies, files)
    return ListReport(bodies=[_listed(file) for file in files], out=str(request.out or ""))


def _write_segmentation(path: Path, files: list[BodyFile], ct: Volume | None, identity: Identity | None) -> None:
    """Bodies of a CT as a DICOM segmentation."""
    if ct is None or any(file.label is None for file in files):
        raise ConfigError("--seg writes labels of a CT: --volume CT and a label map are needed")
    labels = np.zeros(ct.voxels.shape, np.int32)
    for number, file in enumerate(files, 1):
        if (labels[file.label] > 0).any():
            raise ConfigError(f"--seg: {file.name} overlaps another body")
        labels[file.label] = number
    names = {number: file.name for number, file in enumerate(files, 1)}
    write_segmentation(path, labels, names, ct.volume_from_index, how="Labels of a CT.", identity=identity)


def _listed(file: BodyFile) -> ListedBody:
    try:
        body = Body.of(file.volume, file.label, file.name, 1)
    except ConfigError as error:
        reason = str(error).removeprefix(f"{file.name}: ")
        return ListedBody(name=file.name, voxels=file.voxels, size_mm=[], center_mm=[], status="INVALID", reason=reason)
    return ListedBody(
        name=file.name,
        voxels=file.voxels,
        size_mm=np.ptp(body.corners_mm, axis=0).round(1).tolist(),
        center_mm=body.center_mm.round(1).tolist(),
        status="VALID",
    )


def _row(body: Body, fit: BodyFit) -> BodyRow:
    sigma = np.sqrt(np.diag(fit.covariance))
    pose = fit.world_from_body
    return BodyRow(
        name=fit.name,
        status=fit.validity.status.value,
        reason=fit.validity.reason,
        volume_from_body=pose.tolist(),
        similarity=[_number(value) for value in fit.likeness],
        runner_up=fit.runner_up if fit.runner_up > -1 else None,
        mirrored=_number(fit.mirrored),
        views_apart_mm=_number(fit.apart_mm),
        sigma_rotation_rad=sigma[:3].tolist(),
        sigma_translation_mm=sigma[3:].tolist(),
        center_mm=(pose[:3, :3] @ body.center_mm + pose[:3, 3]).tolist(),
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
