"""Bones that moved since CT, in X-rays by RTK: found from two views, and followed in one view after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.bench import rtk
from navnode.bench.cases import Chain
from navnode.bench.registration import Rate, Spread, rate, spread
from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.files.bodies import BodyFile, labelled
from navnode.files.volumes import read_volume
from navnode.registration.bodies import Articulated, Body, Shot, WholeRegistration
from navnode.registration.bodies.body import soft_tissue
from navnode.simulation.scenario import carm_of_size
from navnode.types import Array, CArm, Effort, FloatArray, Matrix, Progress, Status, Volume

__all__ = ["BodiesReport", "RIGHT_DEG", "RIGHT_MM", "run"]

RIGHT_MM, RIGHT_DEG = 1.0, 1.0
"""Largest errors of what counts as right."""
_WRONG_MM = 2.0
_MOVED_MM, _MOVED_DEG = 15.0, 15.0
_FOLLOWED_MM, _FOLLOWED_DEG = 3.0, 3.0
"""How far bones are off the CT at most: for two views, and when they begin to be followed."""
_SPEED_MM_S, _RATE_HZ = 3.0, 15.0
_FRAMES, _SWEEP_DEG_S = 45, 8.0
_DISTANCE_MM = 700.0
_DOSES = (60_000.0, 6_000.0)
_SIGMAS = 1.96


class FoundFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Bones in two views, from where the CT has them."""

    right: Rate
    """Within 1 mm at the center and 1 degree."""
    near: Rate
    """Within 1 mm, however turned."""
    valid: Rate
    wrong_valid: Rate
    """VALID and more than 2 mm off, of all that is VALID."""
    sigma_holds: Rate
    """Components of the error within 1.96 sigma, of what is VALID."""
    mm: Spread
    deg: Spread
    ms: Spread
    """For all bones of a case."""


class FollowedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Bones in one view after another, as the C-arm sweeps and they move."""

    across_mm: Spread
    valid: Rate
    wrong_valid: Rate
    """VALID and more than 2 mm off across the beam, of all that is VALID."""
    frames_per_s: float
    """By the median time of an X-ray."""


class BodiesReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results of the benchmark."""

    ct: str
    bodies: list[str]
    cases: int
    found: FoundFigures
    followed: FollowedFigures


@dataclass(frozen=True)
class _Found:
    mm: float
    deg: float
    valid: bool
    sigmas: list[float]


class _Patient:
    """A CT whose bones can be moved, and X-rays of it by RTK."""

    def __init__(self, ct: Volume, labels: Sequence[Array], bodies: Sequence[Body], threads: int | None) -> None:
        self.bodies, self.carm = bodies, carm_of_size(512)
        self.middle_mm = np.asarray(np.mean([body.center_mm for body in bodies], axis=0))
        self._rest = rtk.RtkProjector(soft_tissue(ct, labels), threads)
        self._bones = [rtk.RtkProjector(body.volume, threads) for body in bodies]

    def camera(self, rng: np.random.Generator, degrees: float) -> Matrix:
        """volume_from_carm."""
        middle = self.middle_mm + rng.uniform(-8, 8, 3)
        return g.pose_at(middle, _DISTANCE_MM, orbital_deg=degrees, angulation_deg=float(rng.uniform(-8, 8)))

    def expose(
        self, carm: CArm, volume_from_carm: Matrix, moved: Sequence[Matrix], chain: Chain, rng: np.random.Generator
    ) -> Array:
        """Counts (H, W) with every bone at its ``volume_from_body``."""
        line: FloatArray = self._rest.render(carm, volume_from_carm)
        for bone, volume_from_body in zip(self._bones, moved, strict=True):
            line = line + bone.render(carm, g.inverse(volume_from_body) @ volume_from_carm)
        return chain.expose(line, carm, rng)


def run(
    ct: Path, labels: Path, wanted: Sequence[int], cases: int, threads: int | None, seed: int, progress: Progress
) -> BodiesReport:
    """Render cases of a CT whose bones have moved, and register them.

    Args:
        labels: label map of the CT.
        wanted: numbers of the labels to move; none: all that X-rays can show, at most 11.
        cases: in two views.

    Raises:
        ConfigError: RTK is not installed, a file cannot be used, or there is no bone.
    """
    if not rtk.available():
        raise ConfigError("cases need RTK: pip install 'navnode[bench]'")
    volume = read_volume(ct)
    files, bodies = _bones(labelled(labels, volume), wanted, threads)
    masks = [file.label for file in files if file.label is not None]
    patient = _Patient(volume, masks, bodies, threads)
    found, found_ms = [], []
    for index in range(cases):
        rng = np.random.default_rng((seed, index))
        rows, ms = _found(volume, masks, patient, rng, _DOSES[index % 2], threads)
        found += rows
        found_ms.append(ms)
        progress(0.7 * (index + 1) / cases)
    followed: list[tuple[float, bool]] = []
    times_ms: list[float] = []
    for index in range(2):
        rng = np.random.default_rng((seed, index, 1))
        rows_, ms_ = _followed(volume, masks, patient, rng, _DOSES[index], threads)
        followed += rows_
        times_ms += ms_
        progress(0.7 + 0.15 * (index + 1))
    valid = [row for row in found if row.valid]
    sigmas = [value for row in valid for value in row.sigmas]
    return BodiesReport(
        ct=ct.name,
        bodies=[body.name for body in bodies],
        cases=cases,
        found=FoundFigures(
            right=rate(sum(row.mm <= RIGHT_MM and row.deg <= RIGHT_DEG for row in found), len(found)),
            near=rate(sum(row.mm <= RIGHT_MM for row in found), len(found)),
            valid=rate(len(valid), len(found)),
            wrong_valid=rate(sum(row.mm > _WRONG_MM for row in valid), len(valid)),
            sigma_holds=rate(sum(abs(value) <= _SIGMAS for value in sigmas), len(sigmas)),
            mm=spread([row.mm for row in found]),
            deg=spread([row.deg for row in found]),
            ms=spread(found_ms),
        ),
        followed=FollowedFigures(
            across_mm=spread([mm for mm, _ in followed]),
            valid=rate(sum(good for _, good in followed), len(followed)),
            wrong_valid=rate(sum(good and mm > _WRONG_MM for mm, good in followed), sum(good for _, good in followed)),
            frames_per_s=round(1e3 / float(np.median(times_ms)), 1),
        ),
    )


def _bones(files: Sequence[BodyFile], wanted: Sequence[int], threads: int | None) -> tuple[list[BodyFile], list[Body]]:
    """What X-rays can show of a label map."""
    chosen, bodies = [], []
    for file in files:
        if wanted and file.number not in wanted:
            continue
        try:
            bodies.append(Body.of(file.volume, file.label, file.name, threads))
            chosen.append(file)
        except ConfigError:  # soft tissue
            if wanted:
                raise
    if not bodies or len(bodies) > 11:
        raise ConfigError(f"{len(bodies)} bones in these labels; choose 1 to 11 by --label")
    return chosen, bodies


def _found(
    ct: Volume, masks: Sequence[Array], patient: _Patient, rng: np.random.Generator, i0: float, threads: int | None
) -> tuple[list[_Found], float]:
    moved = [_moved(body, rng, _MOVED_MM, _MOVED_DEG) for body in patient.bodies]
    chain, shots = Chain.drawn(rng, i0), []
    for degrees in (rng.uniform(-12, 12), 90 + rng.uniform(-12, 12)):
        pose = patient.camera(rng, float(degrees))
        shots.append(Shot(patient.expose(patient.carm, pose, moved, chain, rng), patient.carm, pose))
    started = time.perf_counter()
    registration = WholeRegistration(ct, masks, patient.bodies, shots, threads or 1)
    fits = registration.register([np.eye(4)] * len(patient.bodies))
    ms = elapsed_ms(started)
    rows = []
    for body, true, fit in zip(patient.bodies, moved, fits, strict=True):
        off = g.log(g.inverse(fit.world_from_body) @ true, body.center_mm)
        sigmas = (off / np.sqrt(np.diag(fit.covariance))).tolist()
        mm, deg = float(np.linalg.norm(off[3:])), float(np.rad2deg(np.linalg.norm(off[:3])))
        rows.append(_Found(mm, deg, fit.validity.status is Status.VALID, sigmas))
    return rows, ms


def _followed(
    ct: Volume, masks: Sequence[Array], patient: _Patient, rng: np.random.Generator, i0: float, threads: int | None
) -> tuple[list[tuple[float, bool]], list[float]]:
    """Errors across the beam, and whether VALID, of every bone in every X-ray; time of each."""
    registration = Articulated(ct, masks, [body.name for body in patient.bodies], threads)
    moved = [_moved(body, rng, _FOLLOWED_MM, _FOLLOWED_DEG) for body in patient.bodies]
    steps = [_moved(body, rng, _SPEED_MM_S / _RATE_HZ, _SPEED_MM_S / _RATE_HZ) for body in patient.bodies]
    chain, first_deg = Chain.drawn(rng, i0), float(rng.uniform(0, 360))
    rows, times_ms = [], []
    last: list[Matrix] | None = None
    for frame in range(_FRAMES):
        pose = g.pose_at(patient.middle_mm, _DISTANCE_MM, orbital_deg=first_deg + frame / _RATE_HZ * _SWEEP_DEG_S)
        counts = patient.expose(patient.carm, pose, moved, chain, rng)
        near = pose @ g.exp(rng.normal(0, 1, 6) * np.array([1e-3] * 3 + [0.3] * 3), (0, 0, _DISTANCE_MM))
        starts = [near] * (1 + len(moved)) if last is None else [near, *(each @ near for each in last)]
        effort, lost = (Effort.REFINE, True) if last is None else (Effort.TRACK, False)
        started = time.perf_counter()
        parts = registration.register(counts, patient.carm, starts, _DISTANCE_MM, effort, [lost] * len(moved), frame)
        times_ms.append(elapsed_ms(started))
        rest = g.inverse(parts[0].volume_from_carm)
        last = [part.volume_from_carm @ rest for part in parts[1:]]
        for body, true, part in zip(patient.bodies, moved, parts[1:], strict=True):
            there = g.transform(g.inverse(part.volume_from_carm), body.center_mm)
            off_mm = there - g.transform(g.inverse(pose) @ true, body.center_mm)
            rows.append((float(np.hypot(*off_mm[:2])), part.validity.status is Status.VALID))
        moved = [each @ step for each, step in zip(moved, steps, strict=True)]
    return rows, times_ms


def _moved(body: Body, rng: np.random.Generator, mm: float, deg: float) -> Matrix:
    """volume_from_body, off by at most so much, uniformly in the ball."""
    turn, shift = rng.normal(size=(2, 3))
    turn *= np.deg2rad(deg) * rng.random() ** (1 / 3) / np.linalg.norm(turn)
    shift *= mm * rng.random() ** (1 / 3) / np.linalg.norm(shift)
    return g.exp(np.concatenate([turn, shift]), body.center_mm)
