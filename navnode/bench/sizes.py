"""How times grow with volumes, detectors and threads: the projector's, and those of registration on full-size CTs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.bench.cases import Case, Chain, Patient
from navnode.bench.projector import medians_ms
from navnode.projector import Projector
from navnode.projector.grids import onto, resample
from navnode.projector.native import default_threads
from navnode.registration import ImageRegistration, register_counts
from navnode.simulation import anatomy
from navnode.simulation.scenario import carm_of_size
from navnode.types import CArm, Effort, Volume

__all__ = ["DETECTORS_PX", "FINER", "FULL_SIZE", "SizesReport", "VOLUMES", "full_size", "registrations", "run", "steps"]

VOLUMES, DETECTORS_PX = (128, 256, 512), (256, 512, 1024, 2048)
FULL_SIZE, _FULL_SIDE_MM = (512, 512, 300), 500.0
FINER = (1, 2, 4)
"""Detectors that a full-size CT is registered in: so many times 512 px."""
"""Voxels (i, j, k) of a whole body's CT, and the side of its slices."""
_SIDE_MM, _DISTANCE_MM = 320.0, 700.0
_MODELLED_THREADS = (1, 2, 4, 8, 16)
_PHOTONS = 30_000.0

Step = Callable[[str], None]


class ProjectionTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Projections with derivatives of one volume."""

    voxels: int
    """Along each side."""
    memory_mib: float
    """What a projector of packed integers keeps."""
    prepared_s: float
    ms: dict[str, float]
    """Detector's side in px -> median."""


class RegistrationTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Registrations of one X-ray, medians."""

    ct: str
    detector_px: int
    prepared_s: float
    found_ms: float
    """From 10 mm and 6 degrees away, with everything that is judged."""
    tracked_ms: float
    """From the pose of the X-ray before."""


class SizesReport(msgspec.Struct, frozen=True, kw_only=True):
    """How times grow."""

    threads: int
    repeats: int
    projections: list[ProjectionTimes]
    by_threads_ms: dict[str, float]
    """Threads -> one projection of 256³ to 512², measured."""
    modelled_ms: dict[str, float]
    """Threads -> the same by Amdahl's law, from what was measured with one thread and with all; memory sets no limit
    in it."""
    registrations: list[RegistrationTimes]


def steps() -> int:
    """Number of times that :func:`run` calls ``progress``."""
    return len(VOLUMES) + 3


def run(repeats: int, threads: int, progress: Step = lambda what: None) -> SizesReport:
    """Measure medians, in turns.

    Args:
        repeats: of each measurement.
        threads: 0: all cores.
    """
    threads = threads or default_threads()
    projections = []
    for voxels in VOLUMES:
        progress(f"{voxels}³")
        projections.append(_projections(voxels, repeats, threads))
    progress("threads")
    measured = _by_threads(repeats, threads)
    return SizesReport(
        threads=threads,
        repeats=repeats,
        projections=projections,
        by_threads_ms={str(count): ms for count, ms in measured.items()},
        modelled_ms=_modelled(measured),
        registrations=list(registrations(repeats, threads, progress)),
    )


def _projections(voxels: int, repeats: int, threads: int) -> ProjectionTimes:
    volume = _torso(voxels)
    started = time.perf_counter()
    projector = Projector(volume, threads=threads)
    prepared_s = time.perf_counter() - started
    pose = g.pose_at(volume.center_mm, _DISTANCE_MM, orbital_deg=20, angulation_deg=10)
    runs = {str(side): partial(projector.render, carm_of_size(side), pose, jacobian=True) for side in DETECTORS_PX}
    return ProjectionTimes(
        voxels=voxels,
        memory_mib=round(projector.memory_bytes / 2**20, 1),
        prepared_s=round(prepared_s, 2),
        ms=medians_ms(runs, repeats),
    )


def _torso(voxels: int) -> Volume:
    return resample(anatomy.torso(), _SIDE_MM / voxels, (voxels,) * 3)


def _by_threads(repeats: int, most: int) -> dict[int, float]:
    volume, carm = _torso(256), carm_of_size(512)
    pose = g.pose_at(volume.center_mm, _DISTANCE_MM, orbital_deg=20, angulation_deg=10)
    counts = sorted({1, most, *(count for count in _MODELLED_THREADS if count < most)})
    runs = {str(count): partial(Projector(volume, threads=count).render, carm, pose, jacobian=True) for count in counts}
    return {int(count): ms for count, ms in medians_ms(runs, repeats).items()}


def _modelled(measured: dict[int, float]) -> dict[str, float]:
    """Threads -> ms: a part that threads share, and one that they do not."""
    most = max(measured)
    if most == 1:
        return {}
    shared = min((measured[1] - measured[most]) / (1 - 1 / most), measured[1])
    return {str(count): round(measured[1] - shared + shared / count, 2) for count in _MODELLED_THREADS}


def full_size(volume: Volume) -> Volume:
    """A CT as whole-body scanners store it, from a smaller one: 512 x 512 x 300 voxels of 0.98 mm, most of them air."""
    spacing_mm = _FULL_SIDE_MM / FULL_SIZE[0]
    volume_from_index = np.diag([spacing_mm] * 3 + [1.0])
    volume_from_index[:3, 3] = volume.center_mm - spacing_mm * (np.array(FULL_SIZE) - 1) / 2
    return onto(volume, volume_from_index, FULL_SIZE)


def registrations(repeats: int, threads: int, progress: Step = lambda what: None) -> Iterator[RegistrationTimes]:
    """A drawn torso as a small CT and as a full-size one, and the latter in X-rays of larger detectors."""
    small = anatomy.torso()
    progress("registration")
    yield from _registered("small", small, (1,), repeats, threads)
    progress("registration, full size")
    yield from _registered("full size", full_size(small), FINER, repeats, threads)


def _registered(
    name: str, ct: Volume, finer: tuple[int, ...], repeats: int, threads: int
) -> Iterator[RegistrationTimes]:
    patient = Patient(ct, Projector(ct, threads=threads).render)
    case = patient.case(np.random.default_rng(0), _PHOTONS, Chain(i0=_PHOTONS), "AP")
    rng = np.random.default_rng(1)
    far, near = case.start(rng, 10.0, 20.0, 6.0), case.start(rng, 1.0, 1.0, 0.5)
    started = time.perf_counter()
    registration = ImageRegistration(ct, threads)
    prepared_s = time.perf_counter() - started
    for factor in finer:
        shown = _finer(case, factor)
        given = registration, shown.counts, shown.carm
        runs = {
            "found": partial(register_counts, *given, far, case.pivot_mm, Effort.FIND),
            "tracked": partial(register_counts, *given, near, case.pivot_mm, Effort.TRACK),
        }
        ms = medians_ms(runs, repeats)
        yield RegistrationTimes(
            ct=f"{name}, {' x '.join(map(str, ct.voxels.shape[::-1]))}",
            detector_px=shown.carm.width_px,
            prepared_s=round(prepared_s, 2),
            found_ms=ms["found"],
            tracked_ms=ms["tracked"],
        )


def _finer(case: Case, factor: int) -> Case:
    """The X-ray of a detector with pixels a ``factor`` smaller."""
    carm = case.carm
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    finer = CArm(
        carm.width_px * factor,
        carm.height_px * factor,
        (su / factor, sv / factor),
        carm.source_to_detector_mm,
        ((cu + 0.5) * factor - 0.5, (cv + 0.5) * factor - 0.5),
    )
    return replace(case, carm=finer, counts=np.repeat(np.repeat(case.counts, factor, axis=0), factor, axis=1))
