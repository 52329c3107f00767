"""A CT whose bones move by themselves, in one X-ray after the other: all poses are fitted at once.

The whole image is explained, as for one rigid volume (:mod:`~navnode.registration.tracking`): the rest of the CT, with
bones taken out of it, and every bone, each at its own pose. What is known of a bone hardly depends on what is known of
the tracker, for all are seen in the same image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.clock import elapsed_ms
from navnode.errors import ComputeError
from navnode.registration.appearance import (
    MOST_BODIES,
    NOTHING,
    POSE_SCALE,
    Appearance,
    Observed,
    XrayImage,
    fitted,
)
from navnode.registration.bodies.body import Body, Shadow
from navnode.registration.bodies.detail import LIKELY, added, likenesses
from navnode.registration.bodies.equations import marginal, steps_of
from navnode.registration.bodies.joints import Joints
from navnode.registration.bodies.scene import Scene
from navnode.registration.carm.stated import Evidence, contradicted, doubted
from navnode.registration.fit import NOISE_FLOOR, Fit
from navnode.registration.gradations import as_read, best_gradation
from navnode.registration.misreading import unless_misread
from navnode.registration.quality import assess, compared
from navnode.registration.search import FAR, NEAR, Reach, find_pose
from navnode.registration.smear import MAX_SMEAR_MM, NO_SMEAR, SEEN_SMEAR_MM, Smear, smeared
from navnode.registration.tracking import ImageRegistration, Level, apart_mm, chosen_pixels
from navnode.types import Array, CArm, Effort, FloatArray, Matrix, Registration, Status, Validity, Volume, invalid
from navnode.xray.counts import blank_reason
from navnode.xray.fields import one_moment
from navnode.xray.gradation import Gradation, is_picture

__all__ = ["Articulated"]


@dataclass(frozen=True)
class _Scale:
    """One level of the pyramid."""

    image_px: int
    voxel_mm: float
    iterations: int
    still_mm: float
    scatter: bool = True


_COARSE, _MIDDLE, _FINE = _Scale(64, 5.0, 25, 0.1, scatter=False), _Scale(128, 2.5, 15, 0.1), _Scale(170, 1.4, 8, 0.05)
_TRACKING = replace(_FINE, iterations=4, still_mm=0.1)
_CHOSEN_REST, _CHOSEN_BODY = 1600, 896
"""Pixels that are looked at for the rest of the CT, and for every bone."""
_KEYFRAME_MM = 4.0
"""Pixels are chosen again once a pose has moved by this much."""
_NEXT, _FAR_OFF = np.array([0.03] * 3 + [2.0] * 3), np.array([0.2] * 3 + [15.0] * 3)
"""How far bodies may have moved (rad, mm) since the last X-ray, and since CT."""
_ELSEWHERE = np.array([0.2] * 3 + [8.0] * 3)
"""How far from their starts lost bodies are searched, (rad, mm)."""
_WIDELY = (0.0, 0.5, 1.0)
"""Shares of that, one after the other."""
_SEARCHED_EVERY = 3
"""While the CT itself is tracked, one in so many X-rays is searched for what is lost: the others wait for that."""
_LONGEST_STEP_MM = 20.0
_CLOSE_SIMILARITY = 0.9
"""Below this a fit from a close start is rejected, and the pyramid is used."""
_POSSIBLE = 0.65
"""Likeness (:mod:`detail`) below which a body is not believed: in one view, wrong ones reach 0.64."""
_ERRORS = 5.0
"""Ratio of actual errors to the statistical sigma of independent pixels: more than for one rigid volume, since soft
tissue does not follow; less than for whole images, since pixels lie farther apart."""
_SIGMA_MM = 1.5
"""Expected error across the beam above which a body is DEGRADED."""
_UNSETTLED_MM = (0.5, 3.0)
"""Last steps that make a body DEGRADED, and INVALID; much of them may be along the beam."""
_FARTHEST_MM = 30.0
"""How far across the beam a body may be found from where it is searched."""
_LEAST_SHOWN = 0.3
_REACHES: dict[Effort, tuple[Reach, ...]] = {Effort.FIND: (NEAR,), Effort.SEARCH: (NEAR, FAR)}


_Verdict = tuple[Validity, float]
"""With the likeness; NaN: the X-ray does not show it."""


@dataclass(frozen=True)
class _Keyframe:
    """The most informative pixels of one part, near a pose."""

    part_from_carm: Matrix
    carm: CArm
    pixels: FloatArray


@dataclass(frozen=True)
class _Fitted:
    poses: list[Matrix]
    """``part_from_carm``, 4x4: of the rest of the CT, then of every body."""
    appearance: Appearance
    iterations: int
    steps_mm: Matrix
    """(parts,), the last."""

    @property
    def rest(self) -> Fit:
        """The fit of the rest of the CT, with the covariance that the other poses leave."""
        return Fit(self.poses[0], self.appearance, self.iterations, float(self.steps_mm[0]), self.covariance(0))

    def covariance(self, part: int) -> Matrix:
        """6x6 of ``part_from_carm @ exp(xi, pivot)``, whatever the other poses are."""
        if not np.isfinite(self.appearance.noise):
            return np.eye(6) * 1e6
        noise = _ERRORS * max(self.appearance.noise, NOISE_FLOOR)
        return noise**2 * marginal(self.appearance.hessian, part)


@dataclass(frozen=True)
class _Judged:
    """A fit of an image, and what it is worth."""

    image: XrayImage
    fit: _Fitted
    verdicts: list[_Verdict]
    render: Callable[[CArm], FloatArray]

    @property
    def status(self) -> Status:
        """Of the CT."""
        return self.verdicts[0][0].status

    @property
    def similarity(self) -> float:
        return self.fit.appearance.similarity

    @property
    def contrast(self) -> float:
        return self.fit.appearance.contrast

    @property
    def bend(self) -> float:
        return self.fit.appearance.bend

    def rendered(self, carm: CArm) -> FloatArray:
        """Line integrals (H, W) of CT and bodies."""
        return self.render(carm)


class Articulated:
    """Registers X-rays to a CT and to bones of it.

    Args:
        ct: HU.
        labels: bool, (k, j, i), of every body; at most 11.
        names: of them.
        threads: of the projectors; default: all.
        pairs: numbers of bodies that meet at joints (:mod:`joints`).

    Raises:
        ConfigError: there is no bone in a body, or bodies do not meet.
    """

    def __init__(
        self,
        ct: Volume,
        labels: Sequence[Array],
        names: Sequence[str],
        threads: int | None = None,
        pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        if len(labels) >= MOST_BODIES:
            raise ValueError(f"{len(labels)} bodies, at most {MOST_BODIES - 1}")
        self.bodies = [Body.of(ct, label, name, threads) for label, name in zip(labels, names, strict=True)]
        self._rigid = ImageRegistration(ct, threads)
        self._scene = Scene(ct, labels, self.bodies, threads)
        self._joints = Joints(ct, labels, names, pairs) if pairs else None
        for scale in (_COARSE, _MIDDLE, _FINE):
            self._scene.rest(scale.voxel_mm)  # before the first X-ray
        self._keyframes: dict[int, _Keyframe] = {}
        self._before: Appearance | None = None
        self._images = 0

    def register(
        self,
        counts: Array,
        carm: CArm,
        starts: Sequence[Matrix],
        pivot_mm: float,
        effort: Effort,
        lost: Sequence[bool] = (),
        timestamp_ns: int = 0,
    ) -> list[Registration]:
        """Register one X-ray.

        Args:
            counts: (H, W), of the detector, or the grey values of a display.
            starts: ``part_from_carm``, 4x4: of the CT, then of every body.
            pivot_mm: distance from the source to the point on the principal ray that rotations turn about.
            effort: how far off the starts may be.
            lost: whether every body is to be searched around its start.

        Returns:
            Of the CT, which is what its rest is, then of every body; ``volume_from_carm`` is ``part_from_carm``.
        """
        started = time.perf_counter()
        if reason := blank_reason(counts):
            verdict, unknown = invalid(reason, timestamp_ns), np.eye(6) * 1e6
            return [
                Registration(start, verdict, np.inf, 0.0, unknown, pivot_mm, 0, 0.0, informative=False)
                for start in starts
            ]
        counts = one_moment(counts)
        if is_picture(counts):

            def read_as(gradation: Gradation, before: _Judged | None, effort: Effort) -> _Judged:
                seen = XrayImage(gradation.counts(counts), carm, gradation.dark_share(counts))
                return self._judged(seen, starts if before is None else before.fit.poses, starts, pivot_mm, effort)

            judged, gradation = best_gradation((counts, carm), self._rigid.gradation, effort, read_as)
            self._rigid.gradation = gradation or self._rigid.gradation
        else:
            judged = self._judged(XrayImage(counts, carm), starts, starts, pivot_mm, effort)
        self._images += 1
        if any(lost) and (effort is not Effort.TRACK or self._images % _SEARCHED_EVERY == 0):
            judged = self._searched(judged, starts, pivot_mm, lost, timestamp_ns)
        fit, verdicts = judged.fit, judged.verdicts
        if effort is not Effort.TRACK and any(verdict.usable for verdict, _ in verdicts):  # others were judged before
            other = contradicted([self.evidence(judged.image, fit.poses, pivot_mm)])
            verdicts = [(doubted(verdict, other), like) for verdict, like in verdicts]
        smear = self._smear(judged, pivot_mm)
        if smear.mm > MAX_SMEAR_MM:
            verdicts = [(invalid(smear.reason), float("nan")) for _ in verdicts]
        smear_covariance = np.zeros((6, 6))
        if smear.mm > SEEN_SMEAR_MM:
            smear_covariance[3:5, 3:5] = smear.covariance_mm2
        spent_ms = elapsed_ms(started)
        return [
            Registration(
                volume_from_carm=g.orthonormal(pose),
                validity=replace(verdict, source_time_ns=timestamp_ns),
                residual=fit.appearance.noise,
                similarity=likeness,
                covariance=fit.covariance(part) + smear_covariance,
                pivot_mm=pivot_mm,
                iterations=fit.iterations,
                elapsed_ms=spent_ms,
                informative=bool(np.isfinite(likeness)),
                center_mm=self.bodies[part - 1].center_mm if part else None,
            )
            for part, (pose, (verdict, likeness)) in enumerate(zip(fit.poses, verdicts, strict=True))
        ]

    def evidence(self, image: XrayImage, poses: Sequence[Matrix], pivot_mm: float) -> Evidence:
        """What an image says of its C-arm's geometry, at ``part_from_carm`` of the CT and of every body."""
        return self._scene.evidence(image, poses, pivot_mm)

    def as_read(self, counts: Array, carm: CArm) -> XrayImage:
        """An image (H, W) as :meth:`register` reads it."""
        return as_read(self._rigid.gradation, counts, carm)

    def _judged(
        self, image: XrayImage, starts: Sequence[Matrix], expected: Sequence[Matrix], pivot_mm: float, effort: Effort
    ) -> _Judged:
        """An image's fit, and what it is worth where bodies were expected at other poses than the starts."""
        fit = self._fit(image, list(starts), pivot_mm, effort)
        searched_from = starts[0] if effort in _REACHES else None
        verdicts = self._verdicts(image, fit, expected, pivot_mm, searched_from)
        return _Judged(image, fit, verdicts, self._rendering(fit.poses))

    def _smear(self, judged: _Judged, pivot_mm: float) -> Smear:
        """Of an image in which the CT was found."""
        if not judged.verdicts[0][0].usable:
            return NO_SMEAR
        carm_from_volume = g.inverse(judged.fit.poses[0])
        parts_from_volume = [pose @ carm_from_volume for pose in judged.fit.poses]

        def moved(carm: CArm, volume_from_carm: Matrix) -> FloatArray:
            return added(*self._shadows(carm, [part @ volume_from_carm for part in parts_from_volume], _FINE))

        return smeared(self._rigid, judged.image, judged.fit.rest, pivot_mm, moved)

    # --- the fit ---------------------------------------------------------------------------------

    def _fit(self, image: XrayImage, starts: list[Matrix], pivot_mm: float, effort: Effort) -> _Fitted:
        if effort is Effort.TRACK:
            observed = self._chosen(image, starts, pivot_mm)
            tracked = self._descend(_TRACKING, observed, starts, pivot_mm, _NEXT, self._before)
            if tracked.appearance.similarity >= _CLOSE_SIMILARITY and tracked.rest.converged:
                self._before = tracked.appearance
                return tracked
        best = self._through(image, starts, pivot_mm)
        for reach in _REACHES.get(effort, ()):
            if best.appearance.similarity >= _CLOSE_SIMILARITY:
                break
            found = find_pose(self._rigid, image, starts[0], pivot_mm, reach)
            for fit in (found.fit, found.runner_up):
                if fit is None:
                    continue
                moved = g.inverse(starts[0]) @ fit.volume_from_carm  # all bodies at first move along
                other = self._through(image, [start @ moved for start in starts], pivot_mm)
                best = max(best, other, key=lambda each: each.appearance.similarity)
        self._before = best.appearance
        return best

    def _searched(
        self, judged: _Judged, starts: Sequence[Matrix], pivot_mm: float, lost: Sequence[bool], seed: int
    ) -> _Judged:
        """Try once more from elsewhere for bodies that are not found; what comes is kept where it is likelier."""
        image, fit, verdicts = judged.image, judged.fit, judged.verdicts
        doubtful = [
            part
            for part, (which, (_, like)) in enumerate(zip(lost, verdicts[1:], strict=True), start=1)
            if which and like < LIKELY
        ]
        if not doubtful:
            return judged
        widely = (self._images // _SEARCHED_EVERY) % len(_WIDELY)
        rng, rest_moved = np.random.default_rng(seed), g.inverse(starts[0]) @ fit.poses[0]
        again = list(fit.poses)
        for part in doubtful:
            start = starts[part] @ rest_moved
            center_mm = g.transform(g.inverse(start), self.bodies[part - 1].center_mm)
            again[part] = start @ g.exp(rng.uniform(-1, 1, 6) * _WIDELY[widely] * _ELSEWHERE, center_mm)
        other = self._through(image, again, pivot_mm)
        likeness = [
            like if verdict.usable else -1.0 for verdict, like in self._verdicts(image, other, starts, pivot_mm)
        ]
        better = [part for part in doubtful if likeness[part] > verdicts[part][1]]
        if not better:
            return judged
        mixed = [other.poses[part] if part in better else pose for part, pose in enumerate(fit.poses)]
        fit = self._descend(_FINE, self._chosen(image, mixed, pivot_mm), mixed, pivot_mm, _NEXT)
        return _Judged(image, fit, self._verdicts(image, fit, starts, pivot_mm), self._rendering(fit.poses))

    def _through(self, image: XrayImage, starts: list[Matrix], pivot_mm: float) -> _Fitted:
        """Fit through the whole pyramid, from within about 15 mm and 15 degrees."""
        poses = starts
        for scale in (_COARSE, _MIDDLE):
            observed = image.observed(scale.image_px, scatter=scale.scatter)
            poses = self._descend(scale, observed, poses, pivot_mm, _FAR_OFF).poses
        return self._descend(_FINE, self._chosen(image, poses, pivot_mm), poses, pivot_mm, _FAR_OFF)

    def _descend(
        self,
        scale: _Scale,
        observed: Observed,
        starts: list[Matrix],
        pivot_mm: float,
        spread: Matrix,
        before: Appearance | None = None,
    ) -> _Fitted:
        poses, steps_mm, steps = list(starts), np.full(len(starts), np.inf), 0
        while True:
            before = self._linearised(scale, observed, poses, pivot_mm, before)
            if steps == scale.iterations or not np.isfinite(before.noise):
                break
            equations = _held(before, starts, poses, pivot_mm, spread)
            if scale.voxel_mm == _FINE.voxel_mm:  # of bones that are still far off, joints would say which way to turn
                equations = self._joined(equations, before, poses, pivot_mm)
            step = steps_of(*equations, _LONGEST_STEP_MM)
            poses = [
                pose @ g.exp(each / POSE_SCALE, (0.0, 0.0, pivot_mm)) for pose, each in zip(poses, step, strict=True)
            ]
            steps_mm, steps = np.linalg.norm(step, axis=1), steps + 1
            if steps_mm.max() < scale.still_mm:
                break
        return _Fitted(poses, before, steps, steps_mm)

    def _joined(
        self, equations: tuple[Matrix, Matrix], appearance: Appearance, poses: Sequence[Matrix], pivot_mm: float
    ) -> tuple[Matrix, Matrix]:
        """Normal equations with what joints say beforehand, in the frame of the C-arm."""
        if self._joints is None:
            return equations
        pivot = np.array([0.0, 0.0, pivot_mm])

        def rows_of(_: int, points_mm: Matrix, along: Matrix) -> Matrix:
            # A body's pose is that of the C-arm in it: where that goes one way, the body goes the other.
            return -np.concatenate([np.cross(points_mm - pivot, along), along], axis=1)

        known, pull = self._joints.equations([g.inverse(pose) for pose in poses[1:]], rows_of)
        weight = (_ERRORS * max(appearance.noise, NOISE_FLOOR)) ** 2
        hessian, gradient = equations
        hessian[6:, 6:] += weight * known
        gradient[6:] += weight * pull
        return hessian, gradient

    def _linearised(
        self, scale: _Scale, observed: Observed, poses: Sequence[Matrix], pivot_mm: float, before: Appearance | None
    ) -> Appearance:
        try:
            predicted, jacobian = self._scene.linearised(observed, poses, pivot_mm, scale.voxel_mm)
        except ComputeError:  # a pose diverged
            parameters = 6 * len(poses)
            return replace(NOTHING, hessian=np.zeros((parameters, parameters)), gradient=np.zeros(parameters))
        return fitted(observed, predicted, jacobian, before, rounds=4 if before is None else 2)

    def _chosen(self, image: XrayImage, poses: Sequence[Matrix], pivot_mm: float) -> Observed:
        """The most informative pixels of all parts at the finest level."""
        _, carm = image.binned(_FINE.image_px)
        cells = []
        for part, pose in enumerate(poses):
            keyframe = self._keyframes.get(part)
            if (
                keyframe is None
                or keyframe.carm != carm
                or apart_mm(keyframe.part_from_carm, pose, pivot_mm) > _KEYFRAME_MM
            ):
                projector = self.bodies[part - 1].at(_MIDDLE.voxel_mm) if part else self._scene.rest(_MIDDLE.voxel_mm)
                pixels = chosen_pixels(Level(projector, _FINE.image_px, 0, 0.0), carm, pose, pivot_mm)
                keyframe = self._keyframes[part] = _Keyframe(pose, carm, pixels)
            count = _CHOSEN_BODY if part else _CHOSEN_REST
            cells.append(keyframe.pixels[:count].reshape(-1, 8, 2))
        # Cells of 4 x 2 pixels: every one once, and neighbours together.
        corners, first = np.unique(np.concatenate(cells)[:, 0, ::-1], axis=0, return_index=True)
        order = np.lexsort((corners[:, 1], corners[:, 0] // 8))
        chosen = np.concatenate(cells)[first[order]].reshape(-1, 2)
        return image.observed(_FINE.image_px, np.ascontiguousarray(chosen))

    # --- the verdicts ----------------------------------------------------------------------------

    def _verdicts(
        self,
        image: XrayImage,
        fit: _Fitted,
        starts: Sequence[Matrix],
        pivot_mm: float,
        searched_from: Matrix | None = None,
    ) -> list[_Verdict]:
        """Of the CT, then of every body.

        Args:
            starts: where the parts were expected.
            searched_from: where the search for the CT began; None: it was not searched.
        """
        observed = image.observed(_FINE.image_px)
        rest, shadows = self._shadows(observed.carm, fit.poses, _FINE)
        inspection = compared(image, self._rendering(fit.poses))
        of_ct = assess(fit.rest, inspection, image.covered_share)
        if searched_from is not None:
            of_ct = unless_misread(of_ct, self._rigid, image, searched_from, pivot_mm, fit.rest, inspection)
        verdicts: list[_Verdict] = [(Validity(*of_ct), fit.rest.similarity)]
        appearance = fitted(observed, added(rest, shadows).ravel(), rounds=4)
        likeness = likenesses(observed, rest, shadows, appearance)
        for part, (shadow, like) in enumerate(zip(shadows, likeness, strict=True), start=1):
            if shadow is None or not np.isfinite(like) or shadow.hit.sum() < _LEAST_SHOWN * shadow.whole_px:
                verdicts.append((invalid("the X-ray does not show it"), float("nan")))
                continue
            moved = g.inverse(starts[part] @ g.inverse(starts[0]) @ fit.poses[0]) @ fit.poses[part]
            there_mm = g.transform(g.inverse(fit.poses[part]), self.bodies[part - 1].center_mm)
            moved_mm = float(np.linalg.norm(g.transform(moved, there_mm)[:2] - there_mm[:2]))
            through = g.perturbation_through(np.eye(4), np.array([0.0, 0.0, pivot_mm]), there_mm)
            across_mm = float(np.sqrt(np.trace((through @ fit.covariance(part) @ through.T)[3:5, 3:5])))
            verdicts.append((_verdict(like, across_mm, float(fit.steps_mm[part]), moved_mm), like))
        return verdicts

    def _rendering(self, poses: Sequence[Matrix]) -> Callable[[CArm], FloatArray]:
        """Makes line integrals (H, W) of CT and bodies at their poses."""
        return lambda carm: added(*self._shadows(carm, poses, _MIDDLE))

    def _shadows(self, carm: CArm, poses: Sequence[Matrix], scale: _Scale) -> tuple[FloatArray, list[Shadow | None]]:
        """Line integrals (H, W) of the rest of the CT, and the shadows of bodies."""
        return self._scene.shown(carm, poses[0], poses[1:], scale.voxel_mm)


def _verdict(likeness: float, across_mm: float, step_mm: float, moved_mm: float) -> Validity:
    if moved_mm > _FARTHEST_MM:
        return invalid(f"it is not where it was, or near ({moved_mm:.0f} mm off)")
    if step_mm > _UNSETTLED_MM[1]:
        return invalid("the registration has not settled")
    if likeness < _POSSIBLE:
        return invalid(f"the X-ray does not look like it ({likeness:.2f})")
    if step_mm > _UNSETTLED_MM[0]:
        figure = f"last step {step_mm:.1f} mm, VALID up to {_UNSETTLED_MM[0]:g} mm"
        return Validity(Status.DEGRADED, f"the registration has not settled ({figure})")
    if likeness < LIKELY:
        return Validity(Status.DEGRADED, f"the X-ray looks little like it ({likeness:.2f}, VALID from {LIKELY:g})")
    if across_mm > _SIGMA_MM:
        return Validity(Status.DEGRADED, f"expected error {across_mm:.1f} mm (VALID up to {_SIGMA_MM:g} mm)")
    return Validity(Status.VALID)


def _held(
    appearance: Appearance, starts: Sequence[Matrix], poses: Sequence[Matrix], pivot_mm: float, spread: Matrix
) -> tuple[Matrix, Matrix]:
    """The normal equations with what is known beforehand: bodies are near their starts, as seen from the CT.

    What an image leaves open (the depth of a bone, its turn about a shaft) would drift otherwise. A pose's covariance
    does without it: whoever puts poses of several images together would count it as often as there are images.
    """
    hessian, gradient = appearance.hessian.copy(), appearance.gradient.copy()
    pivot, rest_moved = (0.0, 0.0, pivot_mm), g.inverse(starts[0]) @ poses[0]
    precision = (_ERRORS * max(appearance.noise, NOISE_FLOOR) / (spread * POSE_SCALE)) ** 2
    rest = slice(0, 6)
    for part in range(1, len(poses)):
        mine = slice(6 * part, 6 * part + 6)
        off = g.log(g.inverse(starts[part] @ rest_moved) @ poses[part], pivot) * POSE_SCALE
        for one, other, sign in ((mine, mine, 1), (rest, rest, 1), (mine, rest, -1), (rest, mine, -1)):
            hessian[one, other] += sign * np.diag(precision)
        gradient[mine] -= precision * off
        gradient[rest] += precision * off
    return hessian, gradient
