"""The projector compared with RTK's Joseph and nanodrr, in one run and in all kinds of directions."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from navnode import geometry as g
from navnode.bench import rtk
from navnode.clock import elapsed_ms
from navnode.projector import Projector, reference
from navnode.projector.grids import resample
from navnode.projector.nanodrr import NanodrrRays
from navnode.projector.native import attenuation, default_threads, instruction_sets
from navnode.simulation import anatomy
from navnode.simulation.scenario import carm_of_size
from navnode.types import CArm, Matrix, Volume

__all__ = ["DIRECTIONS", "IMAGE_PX", "VOXELS", "alternating_ms", "beside_nanodrr", "medians_ms", "run", "steps"]

VOXELS, IMAGE_PX, REFERENCE_PX = 256, 256, 32
_DISTANCE_MM = 700.0
_REFERENCE_STEP_MM = 0.1

DIRECTIONS: dict[str, tuple[float, float]] = {
    "AP": (0, 0),
    "lateral": (90, 0),
    "45 degrees": (45, 0),
    "oblique": (20, 30),
    "along the body": (0, 80),
    "space diagonal": (45, 35),
    "steep": (60, -50),
}
"""(orbital, angulation) in degrees; at 45 the dominant axis changes within the image."""

Step = Callable[[str], None]


class DirectionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one direction."""

    ms: dict[str, float]
    """Projector -> median time."""
    error: float
    """Relative error compared with short steps through the volume."""
    error_rtk: float | UnsetType = UNSET
    rtk_over: dict[str, float] | UnsetType = UNSET
    """Instruction set -> time of RTK's projection over that of ours with derivatives."""


class BesideNanodrr(msgspec.Struct, frozen=True, kw_only=True):
    """One iteration of a gradient-based registration."""

    nanodrr_ms: float = msgspec.field(name="nanodrr forward + backward")
    ours_ms: float = msgspec.field(name="ours with derivatives")
    ratio: float


class ProjectorReport(msgspec.Struct, frozen=True, kw_only=True):
    """The projector compared with its peers."""

    voxels: int
    """Along each axis."""
    image_px: int
    threads: int
    repeats: int
    directions: dict[str, DirectionFigures]
    adjoint_error: float
    nanodrr: BesideNanodrr | UnsetType = UNSET
    """Present if nanodrr is installed."""


def steps() -> int:
    """Number of times that :func:`run` calls ``progress``."""
    return len(DIRECTIONS) + 2


def run(repeats: int, threads: int, progress: Step = lambda what: None) -> ProjectorReport:
    """Measure medians in ms, also of peers that are installed.

    Args:
        repeats: of each measurement; implementations alternate, so that a busy moment affects all of them.
        threads: of every implementation; 0: all cores.
    """
    threads = threads or default_threads()
    progress("preparing")
    volume = resample(anatomy.torso(), 1.0, (VOXELS, VOXELS, VOXELS))
    carm = carm_of_size(IMAGE_PX)
    projectors = {name: Projector(volume, threads=threads, instruction_set=name) for name in instruction_sets()}
    floats = Projector(volume, threads=threads, precision="float32")
    peer = rtk.RtkProjector(volume, threads) if rtk.available() else None
    directions: dict[str, DirectionFigures] = {}
    for name, (orbital_deg, angulation_deg) in DIRECTIONS.items():
        progress(name)
        pose = g.pose_at(volume.center_mm, _DISTANCE_MM, orbital_deg=orbital_deg, angulation_deg=angulation_deg)
        runs: dict[str, Callable[[], object]] = {}
        for isa, projector in projectors.items():
            runs[f"{isa} forward"] = partial(projector.render, carm, pose)
            runs[f"{isa} with derivatives"] = partial(projector.render, carm, pose, jacobian=True)
        runs["float32 with derivatives"] = partial(floats.render, carm, pose, jacobian=True)
        if peer is not None:
            runs["RTK forward"] = peer.again(carm, pose)
        ms = medians_ms(runs, repeats)
        error = _error(volume, next(iter(projectors.values())), pose)
        if peer is None:
            directions[name] = DirectionFigures(ms=ms, error=error)
            continue
        over = {isa: round(ms["RTK forward"] / ms[f"{isa} with derivatives"], 2) for isa in projectors}
        directions[name] = DirectionFigures(ms=ms, error=error, error_rtk=_error(volume, peer, pose), rtk_over=over)
    progress("nanodrr, adjoint")
    beside: BesideNanodrr | UnsetType = UNSET
    if importlib.util.find_spec("nanodrr"):
        beside = _beside_nanodrr(volume, carm, next(iter(projectors.values())), threads)
    return ProjectorReport(
        voxels=VOXELS,
        image_px=IMAGE_PX,
        threads=threads,
        repeats=repeats,
        directions=directions,
        adjoint_error=_adjoint_error(),
        nanodrr=beside,
    )


def alternating_ms(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """How long each takes, in turns, so that a busy moment affects all of them; a first round warms up."""
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, call in runs.items():
            started = time.perf_counter()
            call()
            if repeat:
                times_ms[name].append(elapsed_ms(started))
    return times_ms


def medians_ms(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Medians of :func:`alternating_ms`, by name."""
    return {name: round(float(np.median(times)), 2) for name, times in alternating_ms(runs, repeats).items()}


def _error(volume: Volume, projector: Projector | rtk.RtkProjector, pose: Matrix) -> float:
    """Relative L2 error against 0.1 mm steps through the trilinear volume, at every eighth pixel."""
    carm, every = carm_of_size(IMAGE_PX), IMAGE_PX // REFERENCE_PX
    (u, v), (su, sv) = carm.principal_point_px, carm.pixel_spacing_mm
    sparse = CArm(
        REFERENCE_PX, REFERENCE_PX, (every * su, every * sv), carm.source_to_detector_mm, (u / every, v / every)
    )
    true = reference.render(volume, sparse, pose, _REFERENCE_STEP_MM)
    return float(np.linalg.norm(projector.render(carm, pose)[::every, ::every] - true) / np.linalg.norm(true))


def _adjoint_error() -> float:
    """|<A x, y> - <x, A^T y>| relative to <A x, y>, with x and y positive; the largest over all directions."""
    rng = np.random.default_rng(0)
    volume = resample(anatomy.torso(), 4.0)
    projector = Projector(volume, precision="float32", threads=1)
    carm = carm_of_size(64)
    worst = 0.0
    for orbital_deg, angulation_deg in DIRECTIONS.values():
        pose = g.pose_at(volume.center_mm, _DISTANCE_MM, orbital_deg=orbital_deg, angulation_deg=angulation_deg)
        image = projector.render(carm, pose).astype(np.float64)
        values = rng.uniform(0.1, 1.0, image.shape).astype(np.float32)
        back = projector.backproject(carm, pose, values).astype(np.float64)
        forward_dot = float((image * values).sum())
        back_dot = float((back * projector.attenuation_per_mm).sum())
        worst = max(worst, abs(forward_dot - back_dot) / forward_dot)
    return worst


def beside_nanodrr(volume: Volume, carm: CArm, projector: Projector, threads: int) -> dict[str, Callable[[], object]]:
    """``nanodrr`` and ``ours``: forward and backward, as in one iteration of a gradient-based registration."""
    import torch

    torch.set_num_threads(threads)
    rays = NanodrrRays(attenuation(volume.voxels), volume.volume_from_index, "cpu")
    pose = g.pose_at(volume.center_mm, _DISTANCE_MM, orbital_deg=20, angulation_deg=10)
    return {
        "nanodrr": lambda: rays.project(carm, pose, None, 0.0, jacobian=True),
        "ours": lambda: projector.render(carm, pose, jacobian=True),
    }


def _beside_nanodrr(volume: Volume, carm: CArm, projector: Projector, threads: int) -> BesideNanodrr:
    # One pass of nanodrr takes seconds, so a few must do.
    ms = medians_ms(beside_nanodrr(volume, carm, projector, threads), 2)
    return BesideNanodrr(nanodrr_ms=ms["nanodrr"], ours_ms=ms["ours"], ratio=round(ms["nanodrr"] / ms["ours"], 1))
