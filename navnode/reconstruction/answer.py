"""Requests for volumes answered: by the worker, or by a replay at once."""

from __future__ import annotations

import logging
import time
from typing import Any

from navnode.clock import now_ns
from navnode.errors import ComputeError
from navnode.reconstruction.methods import Reconstructor, described
from navnode.types import ReconstructionRequest, VolumeReady

log = logging.getLogger(__name__)


def answer(reconstructor: Reconstructor, request: ReconstructionRequest) -> VolumeReady:
    """A volume from the views of a request, or why there is none."""
    started = time.perf_counter()
    try:
        return _reconstruct(reconstructor, request, started)
    except ComputeError as error:
        return failed(request, started, str(error))
    except Exception as error:
        log.exception("a volume could not be computed")
        return failed(request, started, f"it could not be computed ({type(error).__name__})")


def failed(job: Any, started: float, reason: str) -> VolumeReady:
    """The answer to a job that could not be done."""
    return VolumeReady(None, None, getattr(job, "request", 0), 0, "", elapsed_ms(started), reason, now_ns())


def _reconstruct(reconstructor: Reconstructor, job: ReconstructionRequest, started: float) -> VolumeReady:
    try:
        grid = job.grid
    except ValueError as error:
        raise ComputeError(f"a volume like that is not made: {error}") from error
    done = reconstructor.reconstruct(job.views, grid)
    surface = done.surface()
    bone = surface.mesh if surface is not None else None
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
    )


def elapsed_ms(started: float) -> float:
    """Since a ``time.perf_counter()``."""
    return 1e3 * (time.perf_counter() - started)
