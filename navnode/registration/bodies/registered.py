"""From X-rays to the pose of every body, with a verdict for each by itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from navnode import geometry as g
from navnode.registration.bodies.anywhere import (
    Found,
    apart,
    distinct,
    rotations_everywhere,
    rotations_near,
    search,
)
from navnode.registration.bodies.body import Body
from navnode.registration.bodies.joint import Seen, descend, explained, look
from navnode.registration.bodies.picture import Picture
from navnode.types import Array, CArm, Matrix, Status, Validity, invalid
from navnode.xray.fields import one_moment

__all__ = [
    "LEAST_LIKELY",
    "POSSIBLE",
    "BodyFit",
    "BodyRegistration",
    "Shot",
    "Steps",
    "contradicted",
    "depth_opened",
    "nowhere",
]

_SEARCH_MM = (1.3, 2.6)
"""Pixels at the body on which to search: the 50th part of its size, within these bounds."""
_PER_SIZE = 50.0
_LEVELS = (1.0, 0.7, 0.35, 0.18)
"""Pixels of the pyramid's levels, by those of the search."""
_FINEST_BY_VOXEL = 0.6
"""Smallest pixel by the size of a voxel: smaller ones show noise that the volume does not."""
_EVERYWHERE = 1400
"""Rotations tried without a start: 17 degrees apart."""
_OTHER = 1000
"""Added to the number of an attempt for its second half."""
_NEAR_RAD, _NEAR_STEP_RAD = 0.3, 0.13
_NEAR_MM = 20.0
_FAR_MM = 110.0
_MIDDLE = 0.65
"""Where patients usually are between source and detector."""
_CASCADE = ((0, 4, 120), (1, 4, 24), (1, 6, 8), (2, 8, 3), (3, 8, 2))
_NEAR_CASCADE = ((0, 4, 30), (1, 6, 8), (2, 8, 3), (3, 8, 2))
"""Level, iterations, and number of candidates to begin with; without a start, and near one."""
_STILL_BY_PIXEL = 0.02
_FINE = 3
_TOGETHER, _ALONE, _STILL_MM = 10, 8, 0.02
"""Iterations with all bodies, and with one view."""
_NEXT_LEVEL, _NEXT_STEPS, _NEXT_STILL_MM = 1, 4, 0.05
_NEXT = np.array([0.03] * 3 + [2.0] * 3)
"""How far bodies may have moved (rad, mm) since the last X-ray."""
_TURNS_A_STEP, _CANDIDATES_A_STEP = 48, 12
"""Of a search."""

_LIKELY, LEAST_LIKELY, POSSIBLE = 0.64, 0.6, 0.55
"""Mean likeness, and that of every view, from which on a place is believed; mean below which it is not."""
_MARGIN = 0.1
"""By which the next best place must be less likely."""
_APART_MM, _GAIN = (0.8, 1.5), (0.06, 0.1)
"""Views that contradict each other by more are DEGRADED, INVALID."""
_DEPTH_MM, _ACROSS_MM = 10.0, 0.5
"""Systematic errors of a single view along the ray through a body and across, 1-sigma: on the real wrist poses are
off by up to 18 and 1.5 mm, alike from many starts."""


@dataclass(frozen=True)
class Shot:
    """An X-ray with a calibrated camera."""

    counts: Array
    """(H, W), proportional to the dose, or grey values that grow with it."""
    carm: CArm
    world_from_carm: Matrix


@dataclass(frozen=True)
class BodyFit:
    """Where a body is."""

    name: str
    world_from_body: Matrix
    validity: Validity
    likeness: tuple[float, ...]
    """In every view, -1..1; NaN: not in it."""
    runner_up: float
    """Mean likeness of the best other place, seen by itself; -1: none."""
    mirrored: float
    """Mean likeness of the best mirror image; NaN: not tried."""
    apart_mm: float
    """How far, across their rays, views by themselves would move the body's center; NaN: there is one view."""
    gain: float
    """By how much a view by itself would look more like it; NaN: there is one view."""
    contradicts: bool
    """Whether it is in a view for certain, but not where the others show it."""
    covariance: Matrix
    """6x6 of ``world_from_body @ exp(xi, center_mm)``, rad and mm."""


_T = TypeVar("_T")
_Beside = tuple[Sequence[Body], Sequence[Matrix]]
"""Bodies and their poses, 4x4, which are known."""
Steps = Generator[float, None, list[BodyFit]]
"""Registration in steps of about a tenth of a second; each yields the share that is done."""


@dataclass
class BodyRegistration:
    """X-rays of one moment, at all levels that bodies need.

    Args:
        shots: with cameras in one world.
        threads: to work with.
        near_mm: (3,), where the bodies are about, in the world; None: unknown.
    """

    shots: Sequence[Shot]
    threads: int = 2
    near_mm: Matrix | None = None
    _levels: dict[int, list[Picture]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take one field of each interlaced picture."""
        self.shots = [replace(shot, counts=one_moment(shot.counts)) for shot in self.shots]

    def pictures(self, body: Body, level: int) -> list[Picture]:
        """The X-rays at a level of a body's pyramid."""
        shot = self.shots[0]
        depth_mm = float(g.transform(g.inverse(shot.world_from_carm), self.middle_mm)[2])
        pixel_mm = shot.carm.pixel_spacing_mm[0] * depth_mm / shot.carm.source_to_detector_mm
        binning = max(1, round(self._wanted_mm(body, level) / pixel_mm))
        if binning not in self._levels:
            self._levels[binning] = [Picture.of(s.counts, s.carm, s.world_from_carm, binning) for s in self.shots]
        return self._levels[binning]

    @staticmethod
    def _wanted_mm(body: Body, level: int) -> float:
        """Size of a level's pixels at a body."""
        searched_mm = float(np.clip(body.size_mm / _PER_SIZE, *_SEARCH_MM))
        return max(_LEVELS[level] * searched_mm, _FINEST_BY_VOXEL * body.voxel_mm)

    @property
    def middle_mm(self) -> Matrix:
        """(3,), where the bodies are about: if unknown, where the principal rays come closest, or well before the
        detector of a single one."""
        if self.near_mm is not None:
            return self.near_mm
        if len(self.shots) == 1:
            shot = self.shots[0]
            return np.asarray(
                g.transform(shot.world_from_carm, np.array([0.0, 0.0, _MIDDLE * shot.carm.source_to_detector_mm]))
            )
        normal, right = np.zeros((3, 3)), np.zeros(3)
        for shot in self.shots:
            ray, source = shot.world_from_carm[:3, 2], shot.world_from_carm[:3, 3]
            across = np.eye(3) - np.outer(ray, ray)
            normal, right = normal + across, right + across @ source
        return np.asarray(np.linalg.lstsq(normal, right, rcond=None)[0])

    def register(
        self,
        bodies: Sequence[Body],
        starts: Sequence[Matrix | None],
        progress: Callable[[float], None] = lambda share: None,
    ) -> list[BodyFit]:
        """Find all bodies, then refine them together: all of :meth:`steps`.

        Args:
            starts: ``world_from_body``, 4x4, within 15 mm and 15 degrees; None: anywhere.
            progress: called with the share that is done.
        """
        return _finished(self.steps(bodies, starts), progress)

    def steps(
        self, bodies: Sequence[Body], starts: Sequence[Matrix | None], beside: _Beside = ((), ()), attempt: int = 0
    ) -> Steps:
        """Find all bodies, then refine them together, a tenth of a second at a time.

        What is found for certain is taken off the pictures before the others are searched again, in other rotations.

        Args:
            starts: ``world_from_body``, within 15 mm and 15 degrees; None: anywhere.
            beside: other bodies, which are known.
            attempt: another number tries other rotations.
        """
        found, count = [], len(bodies)
        for n, (body, start) in enumerate(zip(bodies, starts, strict=True)):
            one = self._search(body, start, beside, attempt)
            found.append((yield from _within(one, 0.7 * n / count, 0.7 * (n + 1) / count)))
        certain = [n for n, places in enumerate(found) if _certain(places)]
        doubtful = [n for n in range(count) if n not in certain]
        known = (
            [*(bodies[n] for n in certain), *beside[0]],
            [*(found[n][0].world_from_body for n in certain), *beside[1]],
        )
        for n in doubtful:
            if certain or starts[n] is None:
                again = yield from _within(self._search(bodies[n], starts[n], known, attempt + _OTHER), 0.7, 0.9)
                found[n] = max(found[n], again, key=lambda places: places[0].likeness if places else -1.0)
        there = [n for n, places in enumerate(found) if places]
        if not there:
            return [nowhere(body, len(self.shots)) for body in bodies]
        chosen = [*(bodies[n] for n in there), *beside[0]]
        seen = self.together(chosen, [*(found[n][0].world_from_body for n in there), *beside[1]])
        fits = {}
        for row, n in enumerate(there):
            others = found[n][1:]
            judged = self._judged(chosen, seen, row, others[0].likeness if others else -1.0)
            fits[n] = self._expected((yield from _within(judged, 0.9, 1.0)), chosen[row], starts[n])
        return contradicted([fits.get(n) or nowhere(body, len(self.shots)) for n, body in enumerate(bodies)])

    def find(self, body: Body, start: Matrix | None = None, beside: _Beside = ((), ())) -> list[Found]:
        """Places of one body, likeliest first, searched everywhere or around a start.

        Args:
            start: ``world_from_body``, 4x4; None: anywhere.
            beside: bodies that are known.
        """
        return _finished(self._search(body, start, beside))

    def _search(
        self, body: Body, start: Matrix | None, beside: _Beside, attempt: int = 0
    ) -> Generator[float, None, list[Found]]:
        pictures = self._without(self.pictures(body, 0), beside)
        if start is None:
            rotations, center_mm, reach_mm = rotations_everywhere(_EVERYWHERE, attempt), self.middle_mm, _FAR_MM
        else:
            rotations = rotations_near(start[:3, :3], _NEAR_RAD, _NEAR_STEP_RAD)
            center_mm, reach_mm = g.transform(start, body.center_mm), _NEAR_MM
        found = [] if start is None else [Found(start, 1.0)]
        for first in range(0, len(rotations), _TURNS_A_STEP):
            some = rotations[first : first + _TURNS_A_STEP]
            found += search(body, pictures, some, center_mm, reach_mm, self.threads)
            yield 0.6 * first / len(rotations)
        ray = self.shots[0].world_from_carm[:3, 2] if len(self.shots) == 1 else None
        for level, iterations, most in _CASCADE if start is None else _NEAR_CASCADE:
            candidates, found = distinct(body, found, most, ray), []
            for first in range(0, len(candidates), _CANDIDATES_A_STEP):
                some_of_them = candidates[first : first + _CANDIDATES_A_STEP]
                found += self._refined(body, some_of_them, level, iterations, beside)
                yield 0.8
        return distinct(body, found, 2, ray)

    def together(self, bodies: Sequence[Body], poses: Sequence[Matrix]) -> Seen:
        """All bodies, refined together from poses nearby.

        Args:
            poses: ``world_from_body``, 4x4, of every body.
        """
        smallest = min(bodies, key=lambda body: body.size_mm)
        seen = descend(bodies, self.pictures(smallest, _FINE - 1), poses, _TOGETHER, _STILL_MM)
        return descend(bodies, self.pictures(smallest, _FINE), seen.poses, _TOGETHER, _STILL_MM)

    def followed(self, bodies: Sequence[Body], poses: Sequence[Matrix]) -> Seen:
        """All bodies, from where they were a moment ago; what the pictures leave open stays as it was.

        Args:
            poses: ``world_from_body``, 4x4, of every body, within a few millimetres.
        """
        smallest = min(bodies, key=lambda body: body.size_mm)
        seen = descend(bodies, self.pictures(smallest, _NEXT_LEVEL), poses, _NEXT_STEPS, _NEXT_STILL_MM, _NEXT)
        return descend(bodies, self.pictures(smallest, _FINE - 1), seen.poses, _NEXT_STEPS, _NEXT_STILL_MM, _NEXT)

    def _refined(
        self,
        body: Body,
        candidates: Sequence[Found],
        level: int,
        iterations: int,
        beside: _Beside,
    ) -> list[Found]:
        pictures = self._without(self.pictures(body, level), beside)
        still_mm = _STILL_BY_PIXEL * self._wanted_mm(body, level)

        def refined(each: Found) -> Found:
            seen = descend([body], pictures, [each.world_from_body], iterations, still_mm)
            return Found(seen.poses[0], seen.mean)

        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(refined, candidates))

    @staticmethod
    def _without(pictures: list[Picture], beside: _Beside) -> list[Picture]:
        bodies, poses = beside
        if not bodies:
            return pictures
        return [picture.without(explained(bodies, picture, poses)) for picture in pictures]

    def _judged(
        self, bodies: Sequence[Body], seen: Seen, row: int, runner_up: float
    ) -> Generator[float, None, BodyFit]:
        body, pose = bodies[row], seen.poses[row]
        likeness = seen.likeness[row]
        others = [n for n in range(len(bodies)) if n != row]
        beside = [bodies[n] for n in others], [seen.poses[n] for n in others]
        apart_mm, gain, contradicts = self._contradiction(body, pose, beside)
        verdict, mirrored = _verdict(likeness, runner_up, apart_mm, gain), float("nan")
        if verdict.status is Status.VALID:
            mirrored = yield from self._mirrored(body, pose, beside)
            if float(np.mean(likeness)) - mirrored < _MARGIN / 2:
                verdict = invalid(f"mirrored, it fits as well ({mirrored:.2f}): left for right?")
        fit = tuple(likeness.tolist()), runner_up, mirrored, apart_mm, gain, contradicts
        covariance = seen.covariance(row)
        if len(self.shots) == 1:
            covariance = depth_opened(covariance, body, pose, self.shots[0])
            covariance[3:, 3:] += _ACROSS_MM**2 * np.eye(3)
        return BodyFit(body.name, pose, verdict, *fit, covariance)

    def _expected(self, fit: BodyFit, body: Body, start: Matrix | None) -> BodyFit:
        """The fit; INVALID if a single view moved it farther than starts may be off: it may be anything there."""
        if start is None or len(self.shots) > 1 or not fit.validity.usable:
            return fit
        moved_mm = apart(body, fit.world_from_body, start)[0]
        if moved_mm <= _NEAR_MM:
            return fit
        return replace(fit, validity=invalid(f"one view shows it far from where it was expected ({moved_mm:.0f} mm)"))

    def _contradiction(self, body: Body, pose: Matrix, beside: _Beside) -> tuple[float, float, bool]:
        """How far single views would move a body across their rays, how much more they would look like it then, and
        whether that is for certain."""
        if len(self.shots) < 2:
            return float("nan"), float("nan"), False
        most_mm, most, certain = 0.0, 0.0, False
        for picture in self._without(self.pictures(body, _FINE - 1), beside):
            here = look([body], [picture], [pose], derive=False)
            alone = descend([body], [picture], [pose], _ALONE, _STILL_MM)
            moved_mm = g.transform(alone.poses[0], body.center_mm) - g.transform(pose, body.center_mm)
            most_mm = max(most_mm, float(np.linalg.norm(moved_mm @ picture.world_from_carm[:3, :2])))
            gain = alone.mean - here.mean
            most, certain = max(most, gain), certain or (gain > _GAIN[1] and alone.mean > LEAST_LIKELY)
        return most_mm, most, certain

    def _mirrored(self, body: Body, pose: Matrix, beside: _Beside) -> Generator[float, None, float]:
        """Mean likeness of the best mirror image, found around a pose."""
        likeliest = -1.0
        for image in body.mirrored():
            found = yield from self._search(image, pose, beside)
            if found:
                likeliest = max(
                    likeliest, self.together([image, *beside[0]], [found[0].world_from_body, *beside[1]]).mean_of(0)
                )
        return likeliest


def _finished(steps: Generator[float, None, _T], progress: Callable[[float], None] = lambda share: None) -> _T:
    """All steps at once."""
    while True:
        try:
            progress(next(steps))
        except StopIteration as stopped:
            result: _T = stopped.value
            return result


def _within(steps: Generator[float, None, _T], first: float, last: float) -> Generator[float, None, _T]:
    """Steps that are a part of others, from one share of them to another."""
    while True:
        try:
            share = next(steps)
        except StopIteration as stopped:
            result: _T = stopped.value
            return result
        yield first + (last - first) * share


def _certain(places: Sequence[Found]) -> bool:
    """Whether nothing else is nearly as likely."""
    if not places or places[0].likeness < _LIKELY:
        return False
    return len(places) < 2 or places[0].likeness - places[1].likeness > _MARGIN


def _verdict(likeness: Array, runner_up: float, apart_mm: float, gain: float) -> Validity:
    known = likeness[np.isfinite(likeness)]
    if not known.size:
        return invalid("it is not in the pictures")
    mean, least = float(known.mean()), float(known.min())
    if mean < POSSIBLE:
        return invalid(f"the pictures do not look like it ({mean:.2f})")
    if mean - runner_up < _MARGIN / 2:
        return invalid(f"another place looks like it, too ({runner_up:.2f}, here {mean:.2f})")
    if apart_mm > _APART_MM[1] or gain > _GAIN[1]:
        return invalid(f"the views contradict each other ({apart_mm:.1f} mm): were they taken at one time?")
    if len(known) < len(likeness):
        return Validity(Status.DEGRADED, "one view does not show it")
    if len(likeness) < 2 and mean < LEAST_LIKELY:
        return invalid(f"the picture looks little like it ({mean:.2f}), and there is no other")
    if len(likeness) < 2:
        return Validity(Status.DEGRADED, "one view leaves its depth open")
    if mean < _LIKELY:
        return Validity(Status.DEGRADED, f"the pictures look little like it ({mean:.2f}, VALID from {_LIKELY:g})")
    if least < LEAST_LIKELY:
        return Validity(Status.DEGRADED, f"one picture looks little like it ({least:.2f}, VALID from {LEAST_LIKELY:g})")
    if mean - runner_up < _MARGIN:
        figure = f"{runner_up:.2f}, here {mean:.2f}, VALID from {_MARGIN:g} apart"
        return Validity(Status.DEGRADED, f"another place looks a little like it ({figure})")
    if apart_mm > _APART_MM[0]:
        figure = f"{apart_mm:.1f} mm, VALID up to {_APART_MM[0]:g} mm"
        return Validity(Status.DEGRADED, f"the views contradict each other a little ({figure})")
    if gain > _GAIN[0]:
        figure = f"each alone looks {gain:.2f} more like it, VALID up to {_GAIN[0]:g}"
        return Validity(Status.DEGRADED, f"the views contradict each other a little ({figure})")
    return Validity(Status.VALID)


def depth_opened(
    covariance: Matrix, body: Body, world_from_body: Matrix, shot: Shot, least_mm: float = _DEPTH_MM, times: float = 0.0
) -> Matrix:
    """A body's covariance (6x6; rad, mm) by one view, with what it does not know along the ray through the body.

    Args:
        covariance: 6x6 of ``world_from_body @ exp(xi, center_mm)``.
        world_from_body: 4x4.
        least_mm, times: error there beside the stated one: at least this, and so many times the stated one.
    """
    ray = g.transform(world_from_body, body.center_mm) - shot.world_from_carm[:3, 3]
    ray = world_from_body[:3, :3].T @ (ray / np.linalg.norm(ray))
    variance = least_mm**2 + times**2 * float(ray @ covariance[3:, 3:] @ ray)
    opened = covariance.copy()
    opened[3:, 3:] += variance * np.outer(ray, ray)
    return opened


def contradicted(fits: list[BodyFit]) -> list[BodyFit]:
    """The fits; all INVALID if one of them shows that the pictures are of several moments."""
    witness = next((fit for fit in fits if fit.contradicts), None)
    if witness is None:
        return fits
    reason = f"the views contradict each other, as {witness.name} shows: were they taken at one time?"
    return [replace(fit, validity=invalid(reason)) for fit in fits]


def nowhere(body: Body, views: int) -> BodyFit:
    """A body that is not found."""
    unknown = float("nan")
    rest = (unknown,) * views, -1.0, unknown, unknown, unknown, False, np.eye(6) * 1e6
    return BodyFit(body.name, np.eye(4), invalid("it is not found"), *rest)
