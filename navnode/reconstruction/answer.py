"""Answers requests to the worker: in its own process, or at once in a replay."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from navnode.clock import elapsed_ms
from navnode.errors import ComputeError
from navnode.reconstruction.choice import described
from navnode.reconstruction.methods import Reconstructor
from navnode.reconstruction.surface import bone_surface
from navnode.types import (
    ReconstructionRequest,
    Status,
    SurfaceReady,
    SurfaceRequest,
    VolumeReady,
    WorkerAnswer,
    WorkerRequest,
)

__all__ = ["answer", "elapsed_ms", "log"]

log = logging.getLogger(__name__)


def answer(reconstructor: Reconstructor, request: WorkerRequest, now_ns: Callable[[], int]) -> WorkerAnswer:
    """Compute a volume from views or the bone surface of a CT; a failure is answered with its reason.

    Args:
        now_ns: clock that stamps the answer.
    """
    started = time.perf_counter()
    try:
        if isinstance(request, SurfaceRequest):
            surface = bone_surface(request.volume)
            mesh = surface.mesh if surface is not None else None
            return SurfaceReady(mesh, "", elapsed_ms(started), now_ns(), request.request)
        return _reconstruct(reconstructor, request, started, now_ns)
    except ComputeError as error:
        return request.failed(str(error), now_ns(), elapsed_ms(started))
    except Exception as error:  # the worker stays up for the next request
        log.exception("request failed")
        return request.failed(f"internal error ({type(error).__name__})", now_ns(), elapsed_ms(started))


def _reconstruct(
    reconstructor: Reconstructor, job: ReconstructionRequest, started: float, now_ns: Callable[[], int]
) -> VolumeReady:
    try:
        grid = job.grid
    except ValueError as error:
        raise ComputeError(f"invalid grid: {error}") from error
    done = reconstructor.reconstruct(job.views, grid)
    if done.status is Status.INVALID:
        raise ComputeError(done.reason)
    surface = None if done.doubtful_bone else done.surface()  # unreliable bone is never displayed
    bone = surface.mesh if surface is not None else None
    found = reconstructor.lungs(job.views, grid) if job.lungs else None
    lungs = found.surface(coarsely=True) if found is not None else None
    engine = described(done.method, done.engine)
    log.info("volume from %d views in %.0f ms by %s", done.views, elapsed_ms(started), engine)
    return VolumeReady(
        done.volume,
        bone,
        job.request,
        done.views,
        engine,
        elapsed_ms(started),
        done.reason,
        now_ns(),
        done.uncertainty_hu,
        lungs.mesh if lungs is not None else None,
    )
