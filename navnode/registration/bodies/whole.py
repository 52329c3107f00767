"""Registers bodies of a CT: the whole image is explained, each body at its own pose, soft tissue where the CT has it.

Where there is a CT of everything, grey values say more than edges: the X-ray chain's effects are fitted along, as for
one rigid volume (:mod:`~navnode.registration.appearance`), and every body in turn descends on what the others leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import (
    POSE_SCALE,
    Appearance,
    Observed,
    XrayImage,
    between_neighbours,
    fitted,
    residuals,
)
from navnode.registration.bodies.anywhere import apart
from navnode.registration.bodies.body import Body, Shadow
from navnode.registration.bodies.detail import LIKELY, added, likenesses
from navnode.registration.bodies.equations import Momentum, marginal, steps_of
from navnode.registration.bodies.joints import Joints
from navnode.registration.bodies.registered import BodyFit, Shot, depth_opened, nowhere
from navnode.registration.bodies.scene import Scene
from navnode.registration.carm.stated import Evidence, doubted, of_carms
from navnode.registration.fit import NOISE_FLOOR
from navnode.types import Array, FloatArray, Matrix, Status, Validity, Volume, invalid

__all__ = ["WholeRegistration"]

_LEVELS = ((32, 8.0, 20), (64, 5.0, 25), (128, 2.5, 40), (256, 1.2, 15))
"""Pixels across, voxels (mm) of soft tissue, most iterations."""
_SCATTER_PX = 128
"""From how many pixels across scatter is fitted along."""
_NEAR = _LEVELS[2:]
"""For poses that were found."""
_LONGEST_STEP_MM, _STILL_MM = 6.0, 0.03
_RESTARTS = 2
_SEARCHES, _SEARCHED = 4, np.array([0.25] * 3 + [10.0] * 3)
"""How often a body that is not found is searched again, and how far from its start, (rad, mm)."""
_RESTART_MM, _RESTART_RAD = 4.0, 0.1
_POSSIBLE = 0.5
"""Least likeness (:mod:`detail`) of all views below which a body is not believed."""
_SAME_MM, _SAME_RAD = 0.7, 0.05
"""Starts that end farther apart found two places."""
_MARGIN = 0.1
"""A place is as likely as another unless its likeness is lower by this."""
_APART_MM = (0.8, 1.5)
_LEAST_APART_RAD = 0.17
"""Views from directions closer than this, or from opposite ones, count as one: what they err they err alike."""
_SIGMA_MM = 0.75
"""Expected error above which a body is DEGRADED."""
_OWN_ERRORS, _SHARED_ERRORS = 3.1, 15.0
"""Ratios of actual errors to the statistical sigma of independent pixels, for noise that pixels have by themselves and
for what neighbours share: more than for one rigid volume, since soft tissue does not follow."""
_ERRORS = 7.0
"""One ratio for all noise, while bodies descend."""
_DEPTH_TIMES, _DEPTH_MM = 3.0, 2.0
"""Error of depth in X-rays of one direction, beside the stated sigma: so many times it, and at least. How much of what
is around a bone moves with it decides on depth there."""


_Level = tuple[int, float, int]


@dataclass(frozen=True)
class _Descended:
    poses: list[Matrix]
    hessian: list[Matrix]
    """By view; (6 bodies, 6 bodies), scaled, over the square of the noise."""
    gradient: list[Matrix]
    appearances: list[Appearance]

    def covariance(self, row: int, variances: Sequence[float]) -> Matrix:
        """6x6 of ``world_from_body @ exp(xi, center_mm)`` of a body, wherever the others are.

        Args:
            variances: of the actual errors in each view, in units of its noise.
        """
        return marginal(np.sum([each / v for each, v in zip(self.hessian, variances, strict=True)], axis=0), row)


@dataclass
class WholeRegistration:
    """X-rays of one moment, and the CT of the bodies in them.

    Args:
        ct: HU.
        labels: bool, (k, j, i), of every body.
        bodies: of that CT.
        shots: whose cameras are calibrated in one frame.
        joints: at which bodies meet.
    """

    ct: Volume
    labels: Sequence[Array]
    bodies: Sequence[Body]
    shots: Sequence[Shot]
    threads: int = 2
    joints: Joints | None = None
    _views: dict[int, list[tuple[Observed, FloatArray]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the bodies out of the CT."""
        self._images = [XrayImage(shot.counts, shot.carm) for shot in self.shots]
        self._scene = Scene(self.ct, self.labels, self.bodies, self.threads)

    def register(
        self, starts: Sequence[Matrix], progress: Callable[[float], None] = lambda share: None
    ) -> list[BodyFit]:
        """Find all bodies, each within about 15 mm and 15 degrees of its start.

        Args:
            starts: ``world_from_body``.
            progress: called with the share that is done.
        """
        best = self._descend(starts)
        ends, rng = [best], np.random.default_rng(0)
        for _ in range(_RESTARTS):
            spread = np.array([_RESTART_RAD] * 3 + [_RESTART_MM] * 3)
            again = [
                start @ g.exp(rng.uniform(-1, 1, 6) * spread, body.center_mm)
                for body, start in zip(self.bodies, starts, strict=True)
            ]
            progress(len(ends) / (_RESTARTS + 1))
            ends.append(self._descend(again, found=ends))
        seen = {id(end): self._details(end) for end in ends}
        details = [seen[id(end)] for end in ends]
        likeliest = [int(np.argmax([_mean(its[row]) for its in details])) for row in range(len(self.bodies))]
        if set(likeliest) == {0}:
            best, detail = ends[0], details[0]
        else:  # bodies hardly depend on each other: the best end of each, once more together
            best = self._descend([ends[n].poses[row] for row, n in enumerate(likeliest)], _NEAR)
            detail = self._details(best)
        best, detail = self._searched(starts, best, detail, rng)
        fits, variances = [], self._variances(best)
        for row, body in enumerate(self.bodies):
            elsewhere = 0
            for end, its in zip(ends, details, strict=True):
                mm, rad = apart(body, best.poses[row], end.poses[row])
                as_likely = _mean(its[row]) > _mean(detail[row]) - _MARGIN
                elsewhere += as_likely and (mm > _SAME_MM or rad > _SAME_RAD)
            fits.append(self._judged(row, best, variances, elsewhere, detail[row]))
        if not any(fit.validity.usable for fit in fits):
            return fits
        other = self._geometry_contradicted(best)
        return [replace(fit, validity=doubted(fit.validity, other)) for fit in fits]

    def _searched(
        self, starts: Sequence[Matrix], best: _Descended, detail: Array, rng: np.random.Generator
    ) -> tuple[_Descended, Array]:
        """Try what is not found again, from farther off its start, beside what is; keep what is likelier."""
        for _ in range(_SEARCHES):
            doubtful = [row for row in range(len(self.bodies)) if not _least(detail[row]) >= LIKELY]
            if not doubtful:
                break
            poses = list(best.poses)
            for row in doubtful:
                poses[row] = starts[row] @ g.exp(rng.uniform(-1, 1, 6) * _SEARCHED, self.bodies[row].center_mm)
            tried = self._descend(poses, found=[best])
            if tried is best:
                continue
            its = self._details(tried)
            better = [row for row in doubtful if _mean(its[row]) > _mean(detail[row])]
            if better:
                best = self._descend(
                    [(tried if row in better else best).poses[row] for row in range(len(poses))], _NEAR
                )
                detail = self._details(best)
        return best, detail

    def _geometry_contradicted(self, end: _Descended) -> tuple[Status, str] | None:
        """The verdict where the X-rays contradict the stated geometry of their C-arm; None: they do not."""
        said: list[Evidence] = []
        for image, shot in zip(self._images, self.shots, strict=True):
            world_from_carm = shot.world_from_carm
            parts = [world_from_carm, *(g.inverse(pose) @ world_from_carm for pose in end.poses)]
            seen_mm = g.transform(g.inverse(parts[1]), self.bodies[0].center_mm)
            said.append(self._scene.evidence(image, parts, float(np.linalg.norm(seen_mm))))
        return of_carms(said)

    def _at(self, pixels: int, voxel_mm: float) -> list[tuple[Observed, FloatArray]]:
        """The images at a level, and the line integrals (H, W) of soft tissue in them."""
        if pixels not in self._views:
            projector = self._scene.rest(voxel_mm)
            self._views[pixels] = []
            for image, shot in zip(self._images, self.shots, strict=True):
                observed = image.observed(pixels, scatter=pixels >= _SCATTER_PX)
                self._views[pixels].append((observed, projector.render(observed.carm, shot.world_from_carm)))
        return self._views[pixels]

    def _descend(
        self, starts: Sequence[Matrix], levels: Sequence[_Level] = _LEVELS, found: Sequence[_Descended] = ()
    ) -> _Descended:
        """Move all bodies to where they explain the images best.

        Args:
            found: where earlier descents ended; one is the answer if this one has come to it before the finest level.
        """
        poses = list(starts)
        for pixels, voxel_mm, most in levels:
            finest = pixels == levels[-1][0]
            if finest and (same := next((end for end in found if self._alike(poses, end.poses)), None)):
                return same
            views, made = self._at(pixels, voxel_mm), None
            momentum = Momentum(len(poses))
            for left in reversed(range(most)):
                made = self._linearised(views, poses, made)
                steps = steps_of(*self._joined(made, finest=finest), _LONGEST_STEP_MM)
                ends = (finest and not left) or np.linalg.norm(steps, axis=1).max() < _STILL_MM
                movements = steps if ends else momentum.carried(steps, _LONGEST_STEP_MM)
                poses = [
                    g.orthonormal(pose @ g.exp(movement / POSE_SCALE, body.center_mm))
                    for pose, movement, body in zip(poses, movements, self.bodies, strict=True)
                ]
                if ends:
                    break
        return self._linearised(views, poses, made)

    def _alike(self, poses: Sequence[Matrix], others: Sequence[Matrix]) -> bool:
        """Whether all bodies are in one place, within what counts as one."""
        for body, pose, other in zip(self.bodies, poses, others, strict=True):
            mm, rad = apart(body, pose, other)
            if mm > _SAME_MM or rad > _SAME_RAD:
                return False
        return True

    def _joined(self, made: _Descended, *, finest: bool) -> tuple[Matrix, Matrix]:
        """Normal equations of all views, and at the finest level what joints say beforehand: of bones that are still
        far off they would say which way to turn."""
        hessian, gradient = np.sum(made.hessian, axis=0), np.sum(made.gradient, axis=0)
        if self.joints is None or not finest:
            return hessian, gradient

        def rows_of(number: int, points_mm: Matrix, along: Matrix) -> Matrix:
            pose = made.poses[number]
            lever_mm = g.transform(g.inverse(pose), points_mm) - self.bodies[number].center_mm
            turned = along @ pose[:3, :3]
            return np.concatenate([np.cross(lever_mm, turned), turned], axis=1)

        known, pull = self.joints.equations(made.poses, rows_of)
        return hessian + _ERRORS**2 * known, gradient + _ERRORS**2 * pull

    def _linearised(
        self, views: list[tuple[Observed, FloatArray]], poses: list[Matrix], before: _Descended | None
    ) -> _Descended:
        """Normal equations of all bodies in every view.

        Args:
            before: at poses nearby, to start from.
        """
        made = _Descended(poses, [], [], [])
        for n, ((observed, soft), shot) in enumerate(zip(views, self.shots, strict=True)):
            shadows = self._shadows(observed, shot, poses, jacobian=True)
            jacobian = np.zeros((6 * len(self.bodies), *soft.shape), np.float32)
            for row, shadow in enumerate(shadows):
                if shadow is not None and shadow.jacobian is not None:
                    jacobian[6 * row : 6 * row + 6, shadow.rows, shadow.columns] = shadow.jacobian
            last = None if before is None else before.appearances[n]
            jacobian = jacobian.reshape(len(jacobian), -1)
            appearance = fitted(observed, added(soft, shadows).ravel(), jacobian, last)
            noise2 = max(appearance.noise, NOISE_FLOOR) ** 2
            seen = appearance.hessian.shape == (len(jacobian),) * 2  # otherwise the image shows too little
            made.hessian.append(appearance.hessian / noise2 if seen else np.zeros((len(jacobian),) * 2))
            made.gradient.append(appearance.gradient / noise2 if seen else np.zeros(len(jacobian)))
            made.appearances.append(appearance)
        return made

    def _shadows(self, observed: Observed, shot: Shot, poses: list[Matrix], *, jacobian: bool) -> list[Shadow | None]:
        return [
            body.shadow(observed.carm, shot.world_from_carm, pose, jacobian=jacobian)
            for body, pose in zip(self.bodies, poses, strict=True)
        ]

    def _details(self, end: _Descended) -> Array:
        """Correlation of each body's detail with what the image has beyond all else, (bodies, views); NaN: unseen."""
        found = np.full((len(self.bodies), len(self.shots)), np.nan)
        views = self._at(*_LEVELS[-1][:2])
        for n, ((observed, soft), shot) in enumerate(zip(views, self.shots, strict=True)):
            shadows = self._shadows(observed, shot, end.poses, jacobian=False)
            found[:, n] = likenesses(observed, soft, shadows, end.appearances[n])
        return found

    def _variances(self, end: _Descended) -> list[float]:
        """Of the actual errors in each view, in units of its noise."""
        found = []
        for (observed, soft), shot, appearance in zip(
            self._at(*_LEVELS[-1][:2]), self.shots, end.appearances, strict=True
        ):
            share = 0.0
            if np.isfinite(appearance.noise):
                shadows = self._shadows(observed, shot, end.poses, jacobian=False)
                left = residuals(observed, added(soft, shadows).ravel(), appearance)
                all_of_it = float((left.weight * np.square(left.residual)).sum(dtype=np.float64)) + 1e-12
                own = between_neighbours(left.residual.reshape(soft.shape), left.weight.reshape(soft.shape))
                share = min(own / all_of_it, 1.0) * min(1.0, appearance.noise / NOISE_FLOOR) ** 2  # the floor is shared
            found.append(share * _OWN_ERRORS**2 + (1 - share) * _SHARED_ERRORS**2)
        return found

    def _judged(self, row: int, best: _Descended, variances: Sequence[float], elsewhere: int, detail: Array) -> BodyFit:
        body, pose = self.bodies[row], best.poses[row]
        known = detail[np.isfinite(detail)]
        if not known.size:
            return nowhere(body, len(self.shots))
        covariance = best.covariance(row, variances)
        if not self._several_directions:
            covariance = depth_opened(covariance, body, pose, self.shots[0], _DEPTH_MM, _DEPTH_TIMES)
        views_apart_mm = self._views_apart_mm(row, best)
        sigma_mm = float(np.sqrt(np.trace(covariance[3:, 3:])))
        verdict = _verdict(detail, elsewhere, views_apart_mm, sigma_mm, one_direction=not self._several_directions)
        return BodyFit(
            name=body.name,
            world_from_body=pose,
            validity=verdict,
            likeness=tuple(detail.tolist()),
            runner_up=-1.0,
            mirrored=float("nan"),
            apart_mm=views_apart_mm,
            gain=float("nan"),
            contradicts=False,
            covariance=covariance,
        )

    @property
    def _several_directions(self) -> bool:
        rays = np.stack([shot.world_from_carm[:3, 2] for shot in self.shots])
        return bool(np.abs(rays @ rays.T).min() < np.cos(_LEAST_APART_RAD))

    def _views_apart_mm(self, row: int, end: _Descended) -> float:
        """How far one step of any single view would move a body across its rays; NaN: there is one view."""
        if len(self.shots) < 2:
            return float("nan")
        turned = end.poses[row][:3, :3]
        most_mm = 0.0
        at = slice(6 * row, 6 * row + 6)
        for hessian, gradient, shot in zip(end.hessian, end.gradient, self.shots, strict=True):
            moved_mm = turned @ (steps_of(hessian[at, at], gradient[at], _LONGEST_STEP_MM)[0] / POSE_SCALE)[3:]
            most_mm = max(most_mm, float(np.linalg.norm(moved_mm @ shot.world_from_carm[:3, :2])))
        return most_mm


def _verdict(detail: Array, elsewhere: int, apart_mm: float, sigma_mm: float, *, one_direction: bool) -> Validity:
    known = detail[np.isfinite(detail)]
    least = float(known.min())
    if least < _POSSIBLE:
        return invalid(f"a picture does not look like it ({least:.2f})")
    if elsewhere > 1:
        return invalid("other places look like it, too")
    if apart_mm > _APART_MM[1]:
        return invalid(f"the views contradict each other ({apart_mm:.1f} mm): were they taken at one time?")
    if len(detail) < 2:
        return Validity(Status.DEGRADED, "one view leaves its depth open")
    if one_direction:
        return Validity(Status.DEGRADED, "views of one direction leave its depth open")
    if len(known) < len(detail):
        return Validity(Status.DEGRADED, "one view does not show it")
    if least < LIKELY:
        return Validity(Status.DEGRADED, f"the pictures look little like it ({least:.2f}, VALID from {LIKELY:g})")
    if elsewhere:
        return Validity(Status.DEGRADED, "another place looks like it, too")
    if sigma_mm > _SIGMA_MM:
        return Validity(Status.DEGRADED, f"expected error {sigma_mm:.1f} mm (VALID up to {_SIGMA_MM:g} mm)")
    if apart_mm > _APART_MM[0]:
        figure = f"{apart_mm:.1f} mm, VALID up to {_APART_MM[0]:g} mm"
        return Validity(Status.DEGRADED, f"the views contradict each other a little ({figure})")
    return Validity(Status.VALID)


def _least(detail: Array) -> float:
    known = detail[np.isfinite(detail)]
    return float(known.min()) if known.size else -1.0


def _mean(detail: Array) -> float:
    known = detail[np.isfinite(detail)]
    return float(known.mean()) if known.size else -1.0
