"""Projection of a CT to files: ``navnode project``."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from navnode.clock import elapsed_ms
from navnode.files.pictures import write_array, write_picture
from navnode.files.views import ViewFile, read_views, write_views
from navnode.files.volumes import read_volume
from navnode.files.whole import refuse_twice
from navnode.offline.requests import ProjectRequest
from navnode.projector import Projector
from navnode.types import Progress

__all__ = ["ProjectionReport", "project"]


class ProjectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """Files that ``project`` wrote."""

    images: list[str]
    elapsed_ms: float


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
            write_array(path, line)
        else:
            counts = np.clip(np.round(i0 * np.exp(-line)), 0, 65_535).astype(np.uint16)
            write_picture(path, counts)
        written.append(ViewFile("", path, view.carm, pose, i0, view.timestamp_ns))
        progress((index + 1) / len(view_files))
    if i0 is not None:
        write_views(out / "views.json", written)
    return ProjectionReport(images=[str(view.path) for view in written], elapsed_ms=round(elapsed_ms(started), 1))
