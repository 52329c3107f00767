"""Bones without a CT around them, in one X-ray after the other: found in two directions, then followed by their edges.

One X-ray shows where a bone is across the beam; its depth, and which bone it is, show two from different directions. So
a bone is searched in the newest X-ray and the last one from another side, and followed from there in every single one.
A search takes seconds. While other bones are followed it goes on beside them, some tenths of a second in every X-ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from navnode import geometry as g
from navnode.clock import elapsed_ms
from navnode.registration.bodies.body import Body
from navnode.registration.bodies.joint import Seen
from navnode.registration.bodies.registered import (
    LEAST_LIKELY,
    POSSIBLE,
    BodyFit,
    BodyRegistration,
    Shot,
    Steps,
    depth_opened,
)
from navnode.types import Array, CArm, Matrix, Registration, Status, Validity, invalid
from navnode.xray.counts import blank_reason

__all__ = ["Alone"]

_APART_RAD = np.deg2rad(30.0)
"""Directions at least so far apart, or from opposite sides, show what one of them leaves open."""
_SAME_RAD = np.deg2rad(10.0)
"""Directions nearer than this are one: its newest X-ray is kept."""
_MOST_VIEWS = 6
_NS = 1e9
_SPARSE_S = 1.0
"""X-rays that come less often wait for a whole search."""
_STEPS = 2
"""Of a search, in every X-ray, while other bodies are followed."""
_AGAIN_S, _DOUBLINGS = 2.0, 4
"""After this a search that failed is tried again; twice as long after every failure, at most so many times."""
_LEAST_SHOWN = 0.3
_MISSED = 3
"""X-rays in a row that do not look like a body, after which it is searched again."""
_SAME_MM = 1.0
"""How far off, across the beam, an X-ray may show a body for what two directions showed to hold."""
_FARTHEST_MM = 10.0
"""How far across the beam a body may move from one X-ray to the next."""
_TRACKED, _ALL_SIDES = np.array([1e-4] * 3 + [0.1] * 3), 2
"""Of the C-arm's own pose in the world, (rad, mm): whoever uses it adds the tracker's noise, and no depth is open."""
_OTHER_SIDE = "an X-ray from another side, 30 degrees away or more, is needed to find it"


@dataclass
class _Known:
    """What is known of one body."""

    start: Matrix | None
    """``world_from_body`` nearby, as configured."""
    pose: Matrix | None = None
    """``world_from_body`` as last seen; None: it is searched."""
    last: Matrix | None = None
    """The same, when it was last seen."""
    doubt: str = ""
    """Why it is not VALID, however well it is followed."""
    why_not: str = ""
    """Why it is not found."""
    missed: int = 0
    located: bool = False
    """Whether two directions have shown it: otherwise the depth of its pose is a guess."""
    found: tuple[Matrix, Matrix] | None = None
    """Where two directions showed it, and the covariance of that; None: more is known by now."""


@dataclass
class _Quest:
    """A search that goes on."""

    rows: list[int]
    steps: Steps
    shot: Shot
    """The newer X-ray."""
    both: bool
    """Whether in two directions."""


@dataclass
class Alone:
    """Registers X-rays from tracked C-arms to bones.

    Args:
        bodies: at most as many as one image can be fitted with.
        starts: ``world_from_body``, 4x4, within 15 mm and 15 degrees; None: unknown.
        keep_s: how long an X-ray shows where bodies are, at most.
        threads: to work with.
    """

    bodies: Sequence[Body]
    starts: Sequence[Matrix | None]
    keep_s: float = 120.0
    threads: int = 2
    _views: list[tuple[Shot, int]] = field(default_factory=list)
    """Of different directions, oldest first, with their times."""
    _epoch: int = -1
    _last_ns: int = 0
    _quest: _Quest | None = None
    _not_before_ns: int = 0
    _failures: int = 0

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self._known = [_Known(start) for start in self.starts]

    def register(
        self,
        counts: Array,
        carm: CArm,
        world_from_carm: Matrix,
        pivot_mm: float,
        at_rest: Sequence[Matrix | None],
        epoch: int = 0,
        timestamp_ns: int = 0,
    ) -> list[Registration]:
        """Register one X-ray.

        Args:
            counts: (H, W), of the detector, or the grey values of a display.
            world_from_carm: 4x4, as tracked; the world is the frame of the patient's marker.
            pivot_mm: distance from the source to the point that the rotations of covariances turn about.
            at_rest: ``world_from_body``, 4x4, as many X-rays together show it; None: where the last one showed it.
            epoch: changes when earlier poses do not hold any more.

        Returns:
            Of the world: the C-arm's pose as it was given, with the verdict on the body that is known best. Then of
            every body; ``volume_from_carm`` is ``body_from_carm``.
        """
        began = time.perf_counter()
        if epoch != self._epoch or timestamp_ns < self._last_ns:
            self._forget(epoch)
        for known, pose in zip(self._known, at_rest, strict=True):
            if known.pose is not None and pose is not None:
                known.pose = pose  # the last X-ray's depth drifts where all come from one side
                known.found = None
        sparse = timestamp_ns - self._last_ns > _SPARSE_S * _NS
        self._last_ns = timestamp_ns
        if reason := blank_reason(counts):
            each = [_unseen(reason, None, pivot_mm)] * len(self.bodies)
        else:
            shot = Shot(counts, carm, world_from_carm)
            each = self._seen(shot, pivot_mm)
            self._keep(shot, timestamp_ns)
            followed = any(known.located and known.pose is not None for known in self._known)
            found = self._searched(shot, pivot_mm, whole=sparse or not followed)
            each = [found.get(row, one) for row, one in enumerate(each)]
        spent_ms = elapsed_ms(began)
        each = [
            replace(one, validity=replace(one.validity, source_time_ns=timestamp_ns), elapsed_ms=spent_ms)
            for one in each
        ]
        return [_world(each, world_from_carm), *each]

    # --- following -------------------------------------------------------------------------------

    def _seen(self, shot: Shot, pivot_mm: float) -> list[Registration]:
        """Every body in a single X-ray, from where it was."""
        there = [row for row, known in enumerate(self._known) if known.pose is not None]
        answers = [
            replace(_unseen(known.why_not or "it is searched", None, pivot_mm), informative=known.located)
            for known in self._known
        ]
        if not there:
            return answers
        starts = [pose for known in self._known if (pose := known.pose) is not None]
        bodies = [self.bodies[row] for row in there]
        middle_mm = np.mean([g.transform(pose, body.center_mm) for body, pose in zip(bodies, starts, strict=True)], 0)
        seen = BodyRegistration([shot], self.threads, np.asarray(middle_mm)).followed(bodies, starts)
        for n, (row, start) in enumerate(zip(there, starts, strict=True)):
            answers[row] = self._followed(row, seen, n, start, shot, pivot_mm)
        return answers

    def _followed(self, row: int, seen: Seen, n: int, start: Matrix, shot: Shot, pivot_mm: float) -> Registration:
        body, known, pose = self.bodies[row], self._known[row], seen.poses[n]
        like, shown = float(seen.likeness[n, 0]), float(seen.shown[n, 0])
        if not np.isfinite(like) or shown < _LEAST_SHOWN:
            return _unseen("the X-ray does not show it", body, pivot_mm)
        moved_mm = g.transform(pose, body.center_mm) - g.transform(start, body.center_mm)
        across_mm = float(np.linalg.norm(moved_mm @ shot.world_from_carm[:3, :2]))
        if like < POSSIBLE or across_mm > _FARTHEST_MM:
            known.missed += 1
            reason = f"the X-ray does not look like it ({like:.2f})"
            if across_mm > _FARTHEST_MM:
                reason = f"it is not where it was, or near ({across_mm:.0f} mm off)"
            if known.missed >= _MISSED:
                known.pose, known.why_not = None, reason
            return replace(_unseen(reason, body, pivot_mm), informative=True)
        known.missed, known.pose, known.last = 0, pose, pose
        validity = Validity(Status.VALID)
        if known.doubt:
            validity = Validity(Status.DEGRADED, known.doubt)
        elif like < LEAST_LIKELY:
            figure = f"{like:.2f}, VALID from {LEAST_LIKELY:g}"
            validity = Validity(Status.DEGRADED, f"the X-ray looks little like it ({figure})")
        if known.found is not None:
            there, covariance = known.found
            off_mm = (g.transform(pose, body.center_mm) - g.transform(there, body.center_mm)) @ shot.world_from_carm[
                :3, :3
            ]
            if np.hypot(*off_mm[:2]) < _SAME_MM:  # this X-ray agrees, and knows less
                known.pose = there
                return _placed(body, there, covariance, validity, like, shot, pivot_mm, views=2)
            known.found = None
        covariance = depth_opened(seen.covariance(n), body, pose, shot)
        return _placed(body, pose, covariance, validity, like, shot, pivot_mm, views=1)

    # --- searching -------------------------------------------------------------------------------

    def _searched(self, shot: Shot, pivot_mm: float, *, whole: bool) -> dict[int, Registration]:
        """Bodies that a search has found, by their rows, in this X-ray."""
        if self._quest is None:
            self._quest = self._begun(shot)
        quest = self._quest
        if quest is None:
            return {}
        try:
            for _ in range(_STEPS) if not whole else iter(int, 1):
                next(quest.steps)
        except StopIteration as stopped:
            self._quest = None
            return self._found(quest, stopped.value, shot, pivot_mm)
        return {}

    def _begun(self, shot: Shot) -> _Quest | None:
        """A search for what is lost or doubted, if the X-rays are enough for it."""
        doubtful = [row for row, known in enumerate(self._known) if known.pose is None or known.doubt]
        other = self._from_another_side(shot)
        guessed = [row for row in doubtful if self._known[row].pose is not None and not self._known[row].located]
        new_side = other is not None and bool(guessed)
        if self._last_ns < self._not_before_ns and not new_side:
            return None
        if other is None:
            rows = [row for row in doubtful if self._known[row].pose is None and self._known[row].start is not None]
            for row in doubtful:
                if self._known[row].pose is None:
                    self._known[row].why_not = _OTHER_SIDE
        else:
            rows = doubtful
        if not rows:
            return None
        beside = [row for row, known in enumerate(self._known) if row not in rows and known.pose is not None]
        steps = BodyRegistration([shot] if other is None else [other, shot], self.threads).steps(
            [self.bodies[row] for row in rows],
            [self._near(row) for row in rows],
            (
                [self.bodies[row] for row in beside],
                [pose for row in beside if (pose := self._known[row].pose) is not None],
            ),
            attempt=self._failures,
        )
        return _Quest(rows, steps, shot, other is not None)

    def _near(self, row: int) -> Matrix | None:
        """Where to search a body: where it is, or was, or is expected; every third time anywhere."""
        known = self._known[row]
        if self._failures % 3 == 2:
            return None
        likeliest = (known.pose, known.last, known.start) if known.located else (known.start, known.pose, known.last)
        return next((pose for pose in likeliest if pose is not None), None)

    def _found(self, quest: _Quest, fits: list[BodyFit], shot: Shot, pivot_mm: float) -> dict[int, Registration]:
        """What a search has found, as this X-ray shows it."""
        answers = {}
        failed = False
        for row, fit in zip(quest.rows, fits, strict=True):
            known, body = self._known[row], self.bodies[row]
            failed = failed or (quest.both and fit.validity.status is not Status.VALID)
            if not fit.validity.usable:
                if known.pose is None or quest.both:
                    known.pose, known.why_not = None, fit.validity.reason
                    answers[row] = _unseen(fit.validity.reason, body, pivot_mm)
                continue
            known.pose = known.last = fit.world_from_body
            known.doubt, known.missed = fit.validity.reason, 0
            known.located = quest.both
            known.found = (fit.world_from_body, fit.covariance) if quest.both else None
            if shot is not quest.shot:
                continue  # it may have moved since: the next X-ray shows whether it did
            like = float(np.nanmin(fit.likeness))
            answers[row] = _placed(
                body, fit.world_from_body, fit.covariance, fit.validity, like, shot, pivot_mm, views=len(fit.likeness)
            )
        self._failures = self._failures + 1 if failed else 0
        wait_s = _AGAIN_S * 2 ** min(self._failures - 1, _DOUBLINGS) if failed else 0.0
        self._not_before_ns = self._last_ns + round(wait_s * _NS)
        return answers

    # --- views -----------------------------------------------------------------------------------

    def _keep(self, shot: Shot, timestamp_ns: int) -> None:
        """Keep an X-ray, instead of the last one from its side."""
        self._views = [
            (kept, at_ns)
            for kept, at_ns in self._views
            if timestamp_ns - at_ns < self.keep_s * _NS and _apart_rad(kept, shot) > _SAME_RAD
        ][-_MOST_VIEWS + 1 :]
        self._views.append((shot, timestamp_ns))

    def _from_another_side(self, shot: Shot) -> Shot | None:
        """The newest X-ray from a direction that differs."""
        return next((kept for kept, _ in reversed(self._views) if _apart_rad(kept, shot) >= _APART_RAD), None)

    def _forget(self, epoch: int) -> None:
        self._epoch, self._quest, self._views, self._failures, self._not_before_ns = epoch, None, [], 0, 0
        self._known = [_Known(start) for start in self.starts]


def _apart_rad(one: Shot, other: Shot) -> float:
    """Angle between directions; opposite ones are the same."""
    return float(np.arccos(np.clip(abs(one.world_from_carm[:3, 2] @ other.world_from_carm[:3, 2]), 0, 1)))


def _placed(
    body: Body,
    world_from_body: Matrix,
    covariance: Matrix,
    validity: Validity,
    likeness: float,
    shot: Shot,
    pivot_mm: float,
    views: int,
) -> Registration:
    """A body's pose relative to the C-arm; ``covariance`` is that of the body."""
    body_from_carm = g.orthonormal(g.inverse(world_from_body) @ shot.world_from_carm)
    through = g.perturbation_through(body_from_carm, body.center_mm, np.array([0.0, 0.0, pivot_mm]))
    return Registration(
        volume_from_carm=body_from_carm,
        validity=validity,
        residual=0.0,
        similarity=likeness,
        covariance=through @ covariance @ through.T,
        pivot_mm=pivot_mm,
        iterations=0,
        elapsed_ms=0.0,
        center_mm=body.center_mm,
        views=views,
    )


def _unseen(reason: str, body: Body | None, pivot_mm: float) -> Registration:
    """Of a body that is not found, which is no evidence that it is elsewhere."""
    center_mm = None if body is None else body.center_mm
    unknown = np.eye(6) * 1e6
    return Registration(
        np.eye(4), invalid(reason), np.inf, 0.0, unknown, pivot_mm, 0, 0.0, informative=False, center_mm=center_mm
    )


def _world(bodies: Sequence[Registration], world_from_carm: Matrix) -> Registration:
    """The C-arm's pose as given, as far as the body that is known best shows it to be right.

    Bones that are elsewhere do not speak against it: the marker's frame is where the marker is.
    """
    rank = [Status.VALID, Status.DEGRADED, Status.INVALID]
    best = min(bodies, key=lambda each: rank.index(each.validity.status))
    validity = best.validity
    if not validity.usable:
        validity = replace(validity, reason="no bone is found in it" if len(bodies) > 1 else validity.reason)
    return replace(
        best,
        volume_from_carm=world_from_carm,
        validity=validity,
        covariance=np.diag(_TRACKED**2),
        informative=validity.usable,
        center_mm=None,
        views=_ALL_SIDES,
    )
