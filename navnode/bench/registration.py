"""Accuracy, speed and trustworthiness of registration, on X-rays with known poses that RTK renders from CTs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import binomtest

from navnode import geometry as g
from navnode.bench import rtk
from navnode.bench.cases import Case, Errors, Patient
from navnode.bench.unknown import Located, located
from navnode.errors import ConfigError
from navnode.files.report import percentiles
from navnode.files.volumes import read_volume
from navnode.registration import FilmRegistration, ImageRegistration, register_counts, register_jointly
from navnode.types import Array, Effort, Matrix, Progress, Registration, Status, Volume

__all__ = [
    "GROUPS",
    "Measured",
    "Outcome",
    "RIGHT_MM",
    "Rate",
    "RegistrationReport",
    "Spread",
    "TrustFigures",
    "figures",
    "rate",
    "run",
    "spread",
    "summary",
]

RIGHT_MM = 1.0
"""Largest lateral error of a correct registration; a VALID one with a larger error is a false accept."""
RIGHT_DEPTH_MM = 5.0
_DOSES = (60_000.0, 6_000.0)
_SEQUENCE_FRAMES = 60
_UNKNOWN_EVERY = 4
"""Every so many cases the C-arm's geometry is found as well: that takes seconds."""
_COVERS = 1.96
"""Errors of 95 % are within so many sigma."""


@dataclass(frozen=True)
class Group:
    """Cases of one difficulty."""

    name: str
    across_mm: float
    depth_mm: float
    turn_deg: float
    effort: Effort


GROUPS = (
    Group("within 10/20 mm, 6°", 10, 20, 6, Effort.FIND),
    Group("within 25/50 mm, 15°", 25, 50, 15, Effort.FIND),
    Group("station's name: 100 mm, 30°", 100, 100, 30, Effort.SEARCH),
)


@dataclass(frozen=True)
class Outcome:
    """One registration and its errors."""

    group: str
    ct: str
    case: Case
    registration: Registration
    errors: Errors | None
    """None if no result could be right."""

    @property
    def right(self) -> bool:
        """Whether the errors are small enough."""
        return self.errors is not None and self.errors.lateral < RIGHT_MM and self.errors.depth < RIGHT_DEPTH_MM

    @property
    def valid(self) -> bool:
        """Whether the registration was VALID."""
        return self.registration.validity.status is Status.VALID

    @property
    def sigmas(self) -> Matrix:
        """(6,), the pose's error at its pivot in units of the stated sigma."""
        found = self.registration
        off = g.log(g.inverse(self.case.volume_from_carm) @ found.volume_from_carm, (0.0, 0.0, found.pivot_mm))
        return np.asarray(off / found.sigma)


@dataclass
class Measured:
    """All outcomes of a run."""

    singles: list[Outcome] = field(default_factory=list)
    joint: list[Outcome] = field(default_factory=list)
    sequences: list[Outcome] = field(default_factory=list)
    wrong: list[Outcome] = field(default_factory=list)
    unknown: list[Located] = field(default_factory=list)
    sequence_s: dict[str, float] = field(default_factory=dict)
    """CT -> total time of its sequence frames."""
    volumes: dict[str, Volume] = field(default_factory=dict)


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A share with its 95 % confidence interval."""

    hits: int
    of: int
    rate: float
    low: float
    high: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of values."""

    median: float
    p95: float


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy and speed of one group of registrations."""

    under_1_mm_lateral: Rate
    lateral_mm: Spread
    depth_mm: Spread
    full_mm: Spread
    ms: Spread
    sigma_holds: Rate
    """Components of the pose's error (three turns, three shifts at the pivot) within 1.96 sigma, of what is VALID."""


class JointFigures(GroupFigures, frozen=True, kw_only=True):
    """Figures of two views registered jointly."""

    under_1_mm_full: Rate


class FilmFigures(GroupFigures, frozen=True, kw_only=True):
    """Figures of tracked sequences."""

    frames_per_s: float


class UnknownFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Two views from a C-arm that is known only roughly."""

    found: Rate
    """Targets located within 1 mm, and pictures read rightly."""
    located_mm: Spread
    """Error of targets that both views locate."""
    located_known_mm: Spread
    """The same with the geometry known."""
    sigma_holds: Rate
    """Distance and principal point within their 95 % intervals."""
    false_valid: Rate
    """VALID, but not found."""
    ms: Spread


class TrustFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement between VALID and right."""

    false_reject: Rate
    """Right, but not VALID."""
    false_accept: Rate
    """Wrong, but VALID."""
    wrong_image_valid: dict[str, Rate]
    """Kind of wrong image -> share that was VALID."""


class RegistrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a run."""

    cts: list[str]
    singles: dict[str, GroupFigures]
    """Name of the group -> figures."""
    by_ct: dict[str, dict[str, GroupFigures]]
    joint: JointFigures
    unknown: UnknownFigures
    sequences: FilmFigures
    quality: TrustFigures


def run(cts: Sequence[Path], cases: int, threads: int | None, seed: int, progress: Progress) -> Measured:
    """Render cases from every CT and register them.

    Args:
        cases: number per group and CT.

    Raises:
        ConfigError: RTK is not installed, or a CT cannot be used.
    """
    if not rtk.available():
        raise ConfigError("cases need RTK: pip install 'navnode[bench]'")
    measured = Measured(volumes={path.name.split(".")[0]: read_volume(path) for path in cts})
    patients = {
        name: Patient(volume, rtk.RtkProjector(volume, threads).render) for name, volume in measured.volumes.items()
    }
    for position, (name, patient) in enumerate(patients.items()):
        registration = ImageRegistration(patient.volume, threads)
        others = [other for other in patients.values() if other is not patient]

        def report(share: float, position: int = position) -> None:
            progress((position + share) / len(patients))

        _measure(measured, name, registration, patient, others, cases, seed, report)
    return measured


def _measure(
    measured: Measured,
    name: str,
    registration: ImageRegistration,
    patient: Patient,
    others: Sequence[Patient],
    cases: int,
    seed: int,
    progress: Progress,
) -> None:
    drawn = [patient.case(np.random.default_rng((seed, index)), _DOSES[index % 2]) for index in range(cases)]
    # The first registration in a process includes one-time costs.
    register_counts(registration, drawn[0].counts, drawn[0].carm, drawn[0].volume_from_carm, 700.0, Effort.FIND)
    for index, case in enumerate(drawn):
        rng = np.random.default_rng((seed, index, 1))
        for group in GROUPS:
            start = case.start(rng, group.across_mm, group.depth_mm, group.turn_deg)
            result = register_counts(registration, case.counts, case.carm, start, case.pivot_mm, group.effort)
            measured.singles.append(Outcome(group.name, name, case, result, case.errors_mm(result.volume_from_carm)))
        second = _from_another_side(patient, case, rng)
        motion = case.start(rng, 25, 50, 15) @ g.inverse(case.volume_from_carm)
        pair = [(each.counts, each.carm, motion @ each.volume_from_carm, each.pivot_mm, 0) for each in (case, second)]
        result = register_jointly(registration, pair, Effort.FIND)[0]
        measured.joint.append(Outcome("two views", name, case, result, case.errors_mm(result.volume_from_carm)))
        if index % _UNKNOWN_EVERY == 0:
            other = patient.exposed(second.volume_from_carm, case.carm, second.pivot_mm, case.chain, rng)
            measured.unknown.append(located(registration, patient.volume.center_mm, (case, other), rng))
        for kind, counts, shown in _wrong_images(case, others, rng):
            start = case.start(rng, 10, 20, 6)
            result = register_counts(registration, counts, shown.carm, start, case.pivot_mm, Effort.FIND)
            measured.wrong.append(Outcome(kind, name, shown, result, None))
        progress(0.8 * (index + 1) / cases)
    for index in range(2):
        rng = np.random.default_rng((seed, index, 2))
        frames = list(patient.sequence(rng, _SEQUENCE_FRAMES, _DOSES[index]))
        elapsed_s = _track(measured, name, registration, patient.volume.center_mm, frames, rng)
        measured.sequence_s[name] = measured.sequence_s.get(name, 0.0) + elapsed_s
        progress(0.8 + 0.1 * (index + 1))


def _track(
    measured: Measured,
    name: str,
    registration: ImageRegistration,
    center_mm: Matrix,
    frames: Sequence[Case],
    rng: np.random.Generator,
) -> float:
    sequence = FilmRegistration(registration, center_mm)
    elapsed_s = 0.0
    for index, frame in enumerate(frames):
        started = time.perf_counter()
        if index:
            result = sequence.follow(frame.counts, frame.carm)
        else:
            start = frame.start(rng, 5, 10, 3)
            result = sequence.begin(
                register_counts(registration, frame.counts, frame.carm, start, frame.pivot_mm, Effort.FIND)
            )
        elapsed_s += time.perf_counter() - started
        measured.sequences.append(Outcome("sequence", name, frame, result, frame.errors_mm(result.volume_from_carm)))
    return elapsed_s


def _from_another_side(patient: Patient, case: Case, rng: np.random.Generator) -> Case:
    """A second view whose direction differs by at least 40 degrees."""
    while True:
        other = patient.case(rng, case.chain.i0)
        if abs(float(other.volume_from_carm[:3, 2] @ case.volume_from_carm[:3, 2])) < np.cos(np.deg2rad(40)):
            return other


def _wrong_images(case: Case, others: Sequence[Patient], rng: np.random.Generator) -> Iterator[tuple[str, Array, Case]]:
    """Images that must never be VALID with this patient's volume."""
    counts = case.counts
    yield "mirrored", np.ascontiguousarray(counts[:, ::-1]), case
    yield "upside down", np.ascontiguousarray(counts[::-1]), case
    yield "rotated by 90°", np.ascontiguousarray(np.rot90(counts)), case
    brightest = float(np.percentile(counts, 99.5))
    yield "inverted", np.clip(brightest - counts.astype(np.float64), 1, None).astype(np.uint16), case
    level = float(rng.uniform(200, 30_000))
    yield "blank", rng.poisson(level, counts.shape).astype(np.uint16), case
    lead = counts.copy()
    covered = int(rng.uniform(0.55, 0.95) * counts.shape[1])
    lead[:, :covered] = rng.poisson(case.chain.i0 * 2e-4, (counts.shape[0], covered))
    yield "lead in the beam", lead, case
    for other in others[:2] if len(others) > 2 else others:
        shown = other.case(rng, case.chain.i0, station=case.station)
        yield "another patient", shown.counts, shown


def summary(measured: Measured) -> RegistrationReport:
    """Figures from all outcomes."""
    frames = len(measured.sequences)
    outcomes = [*measured.singles, *measured.joint, *measured.sequences]
    true, missed = [o for o in outcomes if o.right], [o for o in outcomes if not o.right]
    cts = sorted({o.ct for o in measured.singles})
    return RegistrationReport(
        cts=cts,
        singles=_groups(measured.singles),
        by_ct={ct: _groups([o for o in measured.singles if o.ct == ct]) for ct in cts},
        joint=JointFigures(
            **msgspec.structs.asdict(figures(measured.joint)),
            under_1_mm_full=rate(sum(_errors(o).full < RIGHT_MM for o in measured.joint), len(measured.joint)),
        ),
        unknown=_unknown(measured.unknown),
        sequences=FilmFigures(
            **msgspec.structs.asdict(figures(measured.sequences)),
            frames_per_s=round(frames / max(sum(measured.sequence_s.values()), 1e-9), 1),
        ),
        quality=TrustFigures(
            false_reject=rate(sum(not o.valid for o in true), len(true)),
            false_accept=rate(sum(o.valid for o in missed), len(missed)),
            wrong_image_valid={
                kind: _valid([o for o in measured.wrong if o.group == kind])
                for kind in sorted({o.group for o in measured.wrong})
            },
        ),
    )


def _unknown(cases: Sequence[Located]) -> UnknownFigures:
    found = [case.read_rightly and case.unknown_mm < RIGHT_MM for case in cases]
    within = [abs(sigma) < _COVERS for case in cases for sigma in case.sigmas]
    missed = [case for case, right in zip(cases, found, strict=True) if not right]
    return UnknownFigures(
        found=rate(sum(found), len(cases)),
        located_mm=spread([case.unknown_mm for case in cases]),
        located_known_mm=spread([case.known_mm for case in cases]),
        sigma_holds=rate(sum(within), len(within)),
        false_valid=rate(sum(case.valid for case in missed), len(missed)),
        ms=spread([case.ms for case in cases]),
    )


def _groups(outcomes: Sequence[Outcome]) -> dict[str, GroupFigures]:
    return {group.name: figures([o for o in outcomes if o.group == group.name]) for group in GROUPS}


def _valid(outcomes: Sequence[Outcome]) -> Rate:
    return rate(sum(o.valid for o in outcomes), len(outcomes))


def _errors(outcome: Outcome) -> Errors:
    assert outcome.errors is not None
    return outcome.errors


def figures(outcomes: Sequence[Outcome]) -> GroupFigures:
    """Figures of one group."""
    within = [bool(held) for o in outcomes if o.valid for held in np.abs(o.sigmas) < _COVERS]
    return GroupFigures(
        under_1_mm_lateral=rate(sum(_errors(o).lateral < RIGHT_MM for o in outcomes), len(outcomes)),
        lateral_mm=spread([_errors(o).lateral for o in outcomes]),
        depth_mm=spread([_errors(o).depth for o in outcomes]),
        full_mm=spread([_errors(o).full for o in outcomes]),
        ms=spread([o.registration.elapsed_ms for o in outcomes]),
        sigma_holds=rate(sum(within), len(within)),
    )


def spread(values: Sequence[float]) -> Spread:
    """Median and 95th percentile."""
    found = percentiles(values)
    return Spread(median=found.p50, p95=found.p95)


def rate(hits: int, count: int) -> Rate:
    """A share with its 95 % confidence interval (Wilson 1927)."""
    if not count:
        return Rate(hits=0, of=0, rate=0.0, low=0.0, high=1.0)
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    low, high = round(float(interval.low), 4), round(float(interval.high), 4)
    return Rate(hits=hits, of=count, rate=round(hits / count, 4), low=low, high=high)
