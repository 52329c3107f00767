"""The C-arm's own geometry, found together with its poses: focal length and principal point, from X-rays of a CT.

A CT has millimetres, so that perspective alone tells how far the source is from the detector, in pixels: what is nearer
to the source is enlarged more. All views share one focal length and one principal point, and each has its pose; or all
share one motion, if the views' poses relative to each other are known. The image is explained as for a known geometry
(:mod:`appearance`).

Derivatives need no other renderings: a changed focal length or principal point turns each pixel's ray about the source,
and the projector knows how its integral changes when all rays turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import ComputeError, ConfigError
from navnode.projector import Projector
from navnode.registration.appearance import (
    NOTHING,
    POSE_SCALE,
    Appearance,
    Observed,
    XrayImage,
    fitted,
    residuals,
)
from navnode.registration.fit import Fit
from navnode.registration.quality import RUNNER_UP, assess, inspect
from navnode.registration.search import FAR, NEAR, Reach, candidates, rank
from navnode.registration.tracking import ImageRegistration, Level, refine
from navnode.types import Array, CArm, FloatArray, Matrix, Registration, Status, Validity
from navnode.xray.counts import blank_reason

__all__ = [
    "Calibrated",
    "LEAST_APART_DEG",
    "MAX_CENTER_PX",
    "MAX_FOCAL",
    "MAX_LOCATED_MM",
    "Readout",
    "Shot",
    "calibrate",
    "focal_px",
    "ray_derivatives",
]

LEAST_APART_DEG = 30.0
"""Views from directions closer than this count as one."""
MAX_LOCATED_MM = 0.3
"""Largest 1-sigma of a point that the views locate."""
MAX_FOCAL, MAX_CENTER_PX = 0.003, 2.0
"""Largest 1-sigma of the focal length, a share, and of the principal point: what docs/frames.md asks for."""

_FOCAL_SIGMA, _CENTER_SIGMA = 0.1, 0.1
"""How well the start is known: a share of the focal length, and of the image's width."""
_FARTHEST_SIGMAS = 2.5
"""A result farther from the start is not what was stated."""

_SCALE = np.concatenate([POSE_SCALE, [60.0, 0.7, 0.7]])
"""By how many mm the image's content at the patient moves with each of (rotation rad, translation mm, logarithm of the
focal length, principal point mm on the detector)."""

_MODEL_ERROR = 5.0
"""As in ``fit.MODEL_ERROR``, for the whole image instead of chosen pixels: neighbours are less independent."""
_NOISE_FLOOR = 0.004
"""Line-integral units."""
_SMOOTH = 0.18
"""Structures wider than this share of the image say nothing of the geometry."""
_SCALE_ERROR = 1e-3
"""Outlines in a CT are softer than in pictures, by its voxels; common to all views, that is a wrong focal length."""
_DAMPING = 1e-6
_LONGEST_STEP_MM = 40.0
_ITERATIONS, _STILL_MM, _SETTLED_MM = 30, 0.02, 0.3

_RELATIVE_SIGMA = np.array([0.0012] * 3 + [0.35] * 3)
"""How right poses from a tracker are relative to each other, at the patient (rad, mm): noise and hand-eye error."""

_ACROSS_MM, _DEPTH_MM = 20.0, 70.0
"""A start seems off by so much more across and along the ray, if the geometry is."""
_TRIED_COARSE, _TRIED_MIDDLE, _TRIED_READOUTS = 8, 3, 3
_CONTRADICTION = 2.0
"""Largest weighted squared disagreement of the views per degree of freedom."""


def focal_px(carm: CArm) -> tuple[float, float]:
    """Focal length along u and v, px: all that images tell of distance and pixel spacing."""
    su, sv = carm.pixel_spacing_mm
    return carm.source_to_detector_mm / su, carm.source_to_detector_mm / sv


@dataclass(frozen=True)
class Shot:
    """One X-ray, and where to look for its pose."""

    counts: Array
    """(H, W)"""
    starts: Sequence[Matrix]
    """volume_from_carm, 4x4 each."""
    timestamp_ns: int = 0


@dataclass(frozen=True)
class Readout:
    """How the pictures must be read before they are those of a C-arm."""

    mirrored: bool
    """Left and right exchanged; upside down is this and half a turn."""
    turned_deg: int
    """By how much the picture is turned against the start. A C-arm that is turned makes the same picture."""

    def __str__(self) -> str:
        """In words."""
        if self.mirrored and self.turned_deg == 180:
            return "mirrored top to bottom"
        mirrored = "mirrored left to right" if self.mirrored else ""
        turned = f"turned by {self.turned_deg} degrees" if self.turned_deg else ""
        return " and ".join(part for part in (mirrored, turned) if part) or "as they are"


_READOUTS = [Readout(mirrored, turned) for mirrored in (False, True) for turned in (0, 90, 180, 270)]


@dataclass(frozen=True)
class Calibrated:
    """A C-arm's geometry and the poses found with it."""

    carm: CArm
    """Of the pictures after mirroring, if they are mirrored."""
    readout: Readout
    registrations: list[Registration]
    """Of each view, in the order of the shots; their covariances include the geometry's error."""
    covariance: Matrix
    """3x3: source to detector (mm), principal point (u, v px)."""
    patient_mm: float
    """1-sigma by which the geometry's error moves the patient as the C-arm sees him, the poses adapted to it."""
    located_mm: float | None
    """1-sigma of a point of the patient that the pictures themselves locate, each by its ray; None: one view."""
    lateral_mm: float
    """The same across the ray, in the worst of the views."""
    apart_deg: float
    """Largest angle between two views; those from opposite sides count as one."""
    contradiction: float
    """Squared disagreement of the views per degree of freedom, in units of sigma; 0: one view."""
    runner_up: float
    """What the next best readout leaves unexplained, relative to this one."""
    validity: Validity
    elapsed_ms: float

    @property
    def sigma(self) -> Matrix:
        """1-sigma of source to detector (mm) and principal point (u, v px), (3,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def calibrate(
    registration: ImageRegistration,
    center_mm: Matrix,
    carm: CArm,
    shots: Sequence[Shot],
    *,
    joint: bool = False,
    search: bool = False,
) -> Calibrated:
    """Find one C-arm's focal length and principal point, how its pictures are read, and every view's pose.

    Args:
        center_mm: middle of the volume, (3,).
        carm: known roughly: focal length within 10 %, principal point within a tenth of the width.
        joint: the starts (one per shot) are correct relative to each other, as far as a tracker's are.
        search: the starts are far off.

    Raises:
        ConfigError: an image has another size than the C-arm.
    """
    started = time.perf_counter()
    if any(shot.counts.shape != (carm.height_px, carm.width_px) for shot in shots):
        raise ConfigError("the views have different sizes: one C-arm's geometry is found from pictures of one mode")
    blank = [blank_reason(shot.counts) for shot in shots]
    if any(blank):
        return _nothing(carm, shots, center_mm, blank, started)
    images = {mirrored: [_image(shot, carm, mirrored) for shot in shots] for mirrored in (False, True)}
    reach = _widened(FAR if search else NEAR)
    searched = []
    for readout in _READOUTS:
        found = [
            _found(registration, image, shot, readout, center_mm, reach)
            for image, shot in zip(images[readout.mirrored], shots, strict=True)
        ]
        searched.append((sum(1 - fit.similarity for fit in found), readout, found))
    searched.sort(key=lambda each: each[0])
    settled = []
    for _, readout, found in searched[:_TRIED_READOUTS]:
        views = _Views(images[readout.mirrored], _stated(carm, readout.mirrored), center_mm)
        poses = [fit.volume_from_carm for fit in found]
        if joint and len(shots) > 1:
            starts = [_turned(shot.starts[0], readout) for shot in shots]
            views, poses, at = _together(views, poses, starts)
        else:
            at = views.carm
        deviation = None
        if views.joint:
            state = views.descended(registration.coarse, poses, at)
            poses, at, deviation = state.poses, state.carm, state.deviation
        state = views.descended(registration.middle, poses, at, deviation)
        settled.append((state.unexplained, readout, views, state))
    settled.sort(key=lambda each: each[0])
    (best, readout, views, state), (second, other, *_) = settled[:2]
    state = views.descended(registration.fine, state.poses, state.carm, state.deviation)
    return _judged(registration, shots, readout, views, state, (second / max(best, 1e-9), other), started)


# --- starts ------------------------------------------------------------------------------------------


def _image(shot: Shot, carm: CArm, mirrored: bool) -> XrayImage:
    counts = np.ascontiguousarray(shot.counts[:, ::-1]) if mirrored else shot.counts
    return XrayImage(counts, _stated(carm, mirrored))


def _stated(carm: CArm, mirrored: bool) -> CArm:
    u, v = carm.principal_point_px
    return replace(carm, principal_point_px=(carm.width_px - 1 - u, v)) if mirrored else carm


def _widened(reach: Reach) -> Reach:
    return Reach(reach.across_mm + _ACROSS_MM, reach.depth_mm + _DEPTH_MM, reach.turn_rad)


def _turned(start: Matrix, readout: Readout) -> Matrix:
    return start @ g.rigid(g.rotation_exp(np.array([0.0, 0.0, np.deg2rad(readout.turned_deg)])))


def _found(
    registration: ImageRegistration, image: XrayImage, shot: Shot, readout: Readout, center_mm: Matrix, reach: Reach
) -> Fit:
    """The best pose of one view with the stated geometry, on small images."""
    best: list[Fit] = []
    for start in (_turned(start, readout) for start in shot.starts):
        pivot_mm = float(np.linalg.norm(center_mm - start[:3, 3]))
        level = registration.coarse
        poses = candidates(level, image, start, pivot_mm, reach)[:_TRIED_COARSE]
        fits = sorted((refine(level, level.observed(image), pose, pivot_mm) for pose in poses), key=rank)
        level = registration.middle
        best += [refine(level, level.observed(image), fit.volume_from_carm, pivot_mm) for fit in fits[:_TRIED_MIDDLE]]
    return min(best, key=rank)


def _together(views: _Views, found: Sequence[Matrix], starts: Sequence[Matrix]) -> tuple[_Views, list[Matrix], CArm]:
    """Poses that differ from their starts by one motion, and a focal length, from poses found one by one.

    A wrong focal length moves each found pose along its own ray: where the rays meet is the patient, and how far that
    is from the sources tells the focal length.
    """
    seen = [g.transform(g.inverse(pose), views.center_mm) for pose in found]
    rays = [start[:3, :3] @ (at / np.linalg.norm(at)) for start, at in zip(starts, seen, strict=True)]
    across = [np.eye(3) - np.outer(ray, ray) for ray in rays]
    offsets = [part @ start[:3, 3] for part, start in zip(across, starts, strict=True)]
    met = np.linalg.lstsq(np.sum(across, axis=0), np.sum(offsets, axis=0), rcond=None)[0]
    turns = np.sum([pose[:3, :3] @ start[:3, :3].T for pose, start in zip(found, starts, strict=True)], axis=0)
    left, _, right = np.linalg.svd(turns)
    turn = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    motion = g.rigid(turn, views.center_mm - turn @ met)
    nearer = [g.transform(g.inverse(start), met)[2] / at[2] for start, at in zip(starts, seen, strict=True)]
    distance_mm = views.carm.source_to_detector_mm * float(np.clip(np.mean(nearer), 0.8, 1.25))
    return (
        replace(views, joint=True),
        [motion @ start for start in starts],
        replace(views.carm, source_to_detector_mm=distance_mm),
    )


# --- descent -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """Normal equations of one view's pose and geometry, in units of ``_SCALE``."""

    appearance: Appearance
    hessian: Matrix
    """9x9."""
    gradient: Matrix
    """(9,)"""
    noise: float
    """Standard deviation of image minus model in detail, line-integral units."""

    @property
    def weight(self) -> float:
        """Inverse variance of a pixel."""
        return (_MODEL_ERROR * max(self.noise, _NOISE_FLOOR)) ** -2 if self.seen else 0.0

    @property
    def pose_covariance(self) -> Matrix:
        """6x6 (rad, mm), were the geometry known."""
        information = self.weight * self.hessian[:6, :6] + 1e-6 * np.eye(6)
        covariance: Matrix = np.linalg.inv(information) / np.outer(POSE_SCALE, POSE_SCALE)
        return covariance

    @property
    def seen(self) -> bool:
        """Whether the image shows the volume."""
        return bool(np.isfinite(self.appearance.noise))


_UNSEEN = _Linear(NOTHING, np.zeros((9, 9)), np.zeros(9), np.inf)


@dataclass(frozen=True)
class _State:
    """Geometry and poses, with the normal equations there."""

    carm: CArm
    poses: list[Matrix]
    pivots_mm: list[float]
    views: list[_Linear]
    maps: list[Matrix]
    """Of each view: (9, P) from all parameters to the view's pose and geometry, in units of ``_SCALE``."""
    covariance: Matrix
    """PxP of all parameters, in units of ``_SCALE``."""
    iterations: int
    step_mm: float
    deviation: Matrix
    """(6 per view,) from the common motion, in units of ``_SCALE``; empty: there is none."""

    @property
    def unexplained(self) -> float:
        """Sum over the views of what they leave unexplained."""
        return sum(1 - view.appearance.similarity for view in self.views)

    def covariance_of(self, view: int) -> Matrix:
        """9x9 of one view's pose (rad, mm) and the geometry (logarithm of the focal length; mm on the detector)."""
        through = self.maps[view] / _SCALE[:, None]
        covariance: Matrix = through @ self.covariance @ through.T
        return covariance


@dataclass(frozen=True)
class _Views:
    """Images of one C-arm."""

    images: Sequence[XrayImage]
    carm: CArm
    """As stated."""
    center_mm: Matrix
    """Middle of the volume, (3,)."""
    joint: bool = False

    def descended(self, level: Level, poses: list[Matrix], carm: CArm, deviation: Matrix | None = None) -> _State:
        """Gauss-Newton at one level, from poses and a geometry nearby.

        Args:
            deviation: of the poses from one common motion, as the level before left it.
        """
        pivots_mm = [float(np.linalg.norm(self.center_mm - pose[:3, 3])) for pose in poses]
        maps = self._maps(poses, pivots_mm)
        seen = [level.observed(image) for image in self.images]
        before: list[Appearance | None] = [None] * len(seen)
        geometry = maps[0].shape[1] - 3
        precision = np.zeros(geometry + 3)
        width_mm = self.carm.width_px * self.carm.pixel_spacing_mm[0]
        apart = slice(6, geometry) if self.joint else slice(0, 0)
        precision[apart] = np.tile((POSE_SCALE * _RELATIVE_SIGMA) ** -2.0, len(poses) if self.joint else 0)
        deviation = np.zeros(len(precision[apart])) if deviation is None else deviation
        precision[geometry:] = (_SCALE[6:] * (_FOCAL_SIGMA, _CENTER_SIGMA * width_mm, _CENTER_SIGMA * width_mm)) ** -2.0
        moved_mm, steps = np.inf, 0
        while True:
            views = [
                _linearised(level.projector, _through(carm, self.carm, at), pose, pivot_mm, last)
                for at, pose, pivot_mm, last in zip(seen, poses, pivots_mm, before, strict=True)
            ]
            before = [view.appearance if view.seen else None for view in views]
            information = np.diag(precision)
            gradient = np.zeros(len(precision))
            gradient[apart] = -precision[apart] * deviation
            gradient[geometry:] = -precision[geometry:] * _SCALE[6:] * _apart(carm, self.carm)
            for view, through in zip(views, maps, strict=True):
                information += view.weight * through.T @ view.hessian @ through
                gradient += view.weight * through.T @ view.gradient
            information += 1e-9 * np.trace(information) / len(information) * np.eye(len(information))
            if moved_mm < _STILL_MM or steps == _ITERATIONS:
                break
            step = np.linalg.solve(information + _DAMPING * np.diag(np.diag(information)), gradient)
            step *= min(1.0, _LONGEST_STEP_MM / max(float(np.linalg.norm(step)), 1e-9))
            for k, through in enumerate(maps):
                xi = (through @ step)[:6] / POSE_SCALE
                poses = [*poses[:k], poses[k] @ g.exp(xi, (0.0, 0.0, pivots_mm[k])), *poses[k + 1 :]]
            carm, deviation = _moved(carm, step[geometry:] / _SCALE[6:]), deviation + step[apart]
            moved_mm, steps = float(np.linalg.norm(step)), steps + 1
        return _State(carm, poses, pivots_mm, views, maps, np.linalg.inv(information), steps, moved_mm, deviation)

    def _maps(self, poses: Sequence[Matrix], pivots_mm: Sequence[float]) -> list[Matrix]:
        """From one common motion if there is one, every view's own, and the geometry."""
        maps = []
        first = 6 if self.joint else 0
        count = first + 6 * len(poses)
        pivots = [np.array([0.0, 0.0, pivot_mm]) for pivot_mm in pivots_mm]
        middle_mm = np.mean([g.transform(*pair) for pair in zip(poses, pivots, strict=True)], axis=0)
        for k, (pose, pivot) in enumerate(zip(poses, pivots, strict=True)):
            through = np.zeros((9, count + 3))
            through[6:, count:] = np.eye(3)
            if self.joint:
                carried = g.perturbation_through(pose, middle_mm, pivot)
                through[:6, :6] = POSE_SCALE[:, None] * carried / POSE_SCALE
            through[:6, first + 6 * k : first + 6 * k + 6] = np.eye(6)
            maps.append(through)
        return maps


def _through(carm: CArm, stated: CArm, observed: Observed) -> Observed:
    """The same pixels, seen through another geometry."""
    return replace(observed, carm=carm.binned(round(observed.carm.pixel_spacing_mm[0] / stated.pixel_spacing_mm[0])))


def _apart(carm: CArm, stated: CArm) -> Matrix:
    """(3,): logarithm of the focal lengths' ratio, and distance of the principal points, mm on the detector."""
    off_px = np.subtract(carm.principal_point_px, stated.principal_point_px)
    ratio = carm.source_to_detector_mm / stated.source_to_detector_mm
    return np.array([np.log(ratio), *(off_px * carm.pixel_spacing_mm)])


def _moved(carm: CArm, step: Matrix) -> CArm:
    (u, v), (su, sv) = carm.principal_point_px, carm.pixel_spacing_mm
    distance_mm = carm.source_to_detector_mm * float(np.exp(np.clip(step[0], -0.2, 0.2)))
    return replace(
        carm,
        source_to_detector_mm=distance_mm,
        principal_point_px=(float(u + step[1] / su), float(v + step[2] / sv)),
    )


def _linearised(
    projector: Projector, observed: Observed, volume_from_carm: Matrix, pivot_mm: float, before: Appearance | None
) -> _Linear:
    try:
        predicted, jacobian = projector.render(observed.carm, volume_from_carm, jacobian=True, pivot_mm=pivot_mm)
    except ComputeError:  # the pose diverged
        return _UNSEEN
    predicted, jacobian = predicted.ravel(), jacobian.reshape(6, -1)
    rows = np.concatenate([jacobian, ray_derivatives(observed.carm, jacobian, pivot_mm)])
    appearance = fitted(observed, predicted, None, before, rounds=4 if before is None else 2)
    if not np.isfinite(appearance.noise):
        return _UNSEEN
    return _Linear(appearance, *_in_detail(observed, predicted, rows / _SCALE[:, None], appearance))


def _in_detail(
    observed: Observed, predicted: FloatArray, rows: FloatArray, appearance: Appearance
) -> tuple[Matrix, Matrix, float]:
    """Normal equations (9x9, 9) from derivatives (9, N) of the integrals, and the noise, all without what is smooth.

    A principal point's error leaves hardly more than a smooth residual, as scatter does that the chain does not know.
    """
    left = residuals(observed, predicted, appearance)
    height, width = observed.carm.height_px, observed.carm.width_px
    stack = np.concatenate([left.slope * rows, left.terms, [left.residual]]).astype(np.float32)
    weight = left.weight.astype(np.float32).reshape(height, width)
    box = (2 * round(_SMOOTH * width / 2) + 1,) * 2
    around = np.maximum(cv2.blur(weight, box), np.float32(1e-6))
    for row in stack.reshape(-1, height, width):
        row -= cv2.blur(row * weight, box) / around
    gram = ((stack * weight.ravel()) @ stack.T).astype(np.float64)
    known, terms, rest = slice(0, 9), slice(9, -1), -1
    inner = gram[terms, terms] + 1e-6 * np.trace(gram[terms, terms]) / len(gram[terms]) * np.eye(len(gram[terms]))
    imitated = np.linalg.solve(inner, gram[terms, :])
    reduced = gram - gram[:, terms] @ imitated
    noise = float(np.sqrt(max(gram[rest, rest], 0.0) / max(np.count_nonzero(weight), 1)))
    return reduced[known, known], reduced[known, rest], noise


def ray_derivatives(carm: CArm, jacobian: FloatArray, pivot_mm: float) -> FloatArray:
    """Derivatives (3, N) of the N pixels' line integrals in the geometry, from those in the pose.

    A ray is (a, b, 1) t from the source. A geometry that changes (a, b) turns it about the source by (a, b, 1) x change
    over its squared length, and no part of an integral along the ray knows of anything else.

    Args:
        jacobian: (6, N) by rotation (rad) and translation (mm) about ``(0, 0, pivot_mm)``, for all pixels, row by row.

    Returns:
        By the logarithm of the focal length, and by the principal point along u and v, mm on the detector.
    """
    v, u = np.mgrid[: carm.height_px, : carm.width_px].astype(np.float32).reshape(2, -1)
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    distance_mm = np.float32(carm.source_to_detector_mm)
    a, b = (u - np.float32(cu)) * np.float32(su) / distance_mm, (v - np.float32(cv)) * np.float32(sv) / distance_mm
    # About the source instead of the pivot: the pivot moves by rotation x pivot.
    about_x, about_y = jacobian[0] - pivot_mm * jacobian[4], jacobian[1] + pivot_mm * jacobian[3]
    about_z = jacobian[2]
    squared = 1 + a * a + b * b
    along_a = (about_y - b * about_z) / squared
    along_b = (a * about_z - about_x) / squared
    return np.stack([-a * along_a - b * along_b, -along_a / distance_mm, -along_b / distance_mm]).astype(np.float32)


# --- verdict -----------------------------------------------------------------------------------------


def _judged(
    registration: ImageRegistration,
    shots: Sequence[Shot],
    readout: Readout,
    views: _Views,
    state: _State,
    runner_up: tuple[float, Readout],
    started: float,
) -> Calibrated:
    count = len(shots)
    covariances = [state.covariance_of(k) for k in range(count)]
    (su, sv), distance_mm = state.carm.pixel_spacing_mm, state.carm.source_to_detector_mm
    units = np.array([distance_mm, 1 / su, 1 / sv])
    apart_deg = _apart_deg(state.poses)
    patient_mm = max(_patient_mm(covariance) for covariance in covariances)
    located_mm, lateral_mm = _located_mm(state)
    contradiction = _contradiction(state) if count > 1 else 0.0
    verdicts, fits = [], []
    for shot, pose, view in zip(shots, state.poses, state.views, strict=True):
        fit = Fit(pose, view.appearance, state.iterations, 0.0, view.pose_covariance)
        image = (
            _image(shot, state.carm, False)
            if not readout.mirrored
            else XrayImage(np.ascontiguousarray(shot.counts[:, ::-1]), state.carm)
        )
        verdicts.append(assess(fit, inspect(registration, image, fit), image.covered_share))
        fits.append(fit)
    ratio, other = runner_up
    focal_off, *center_off = _apart(state.carm, views.carm) / np.array(
        [_FOCAL_SIGMA, *[_CENTER_SIGMA * views.carm.width_px * su] * 2]
    )
    depth_mm = 1.96 * float(np.sqrt(max(covariance[5, 5] for covariance in covariances)))
    geometry = (covariances[0][6:, 6:] + np.diag([_SCALE_ERROR**2, 0.0, 0.0])) * np.outer(units, units)
    sigma = np.sqrt(np.diag(geometry))

    def verdict() -> tuple[Status, str]:
        for k, (status, reason) in enumerate(verdicts):
            if status is Status.INVALID:
                return status, reason if count == 1 else f"view {k}: {reason}"
        if not ratio >= RUNNER_UP:
            return Status.INVALID, f"read {other}, the pictures fit nearly as well as {readout}"
        if not contradiction <= _CONTRADICTION:
            return Status.INVALID, "the views contradict each other: one geometry and one patient do not explain them"
        if not max(map(abs, (focal_off, *center_off))) <= _FARTHEST_SIGMAS:
            return Status.INVALID, "the geometry that fits is far from the stated one"
        if not state.step_mm <= _SETTLED_MM:
            return Status.DEGRADED, "the geometry has not settled"
        if count == 1:
            return Status.DEGRADED, f"one view: depth is open, ± {depth_mm:.0f} mm; across the ray it is right"
        if not apart_deg >= LEAST_APART_DEG:
            return (
                Status.DEGRADED,
                f"the views' directions differ by {apart_deg:.0f} degrees only; {LEAST_APART_DEG:.0f} are needed",
            )
        for k, (status, reason) in enumerate(verdicts):
            if status is Status.DEGRADED:
                return status, f"view {k}: {reason}"
        if readout.mirrored:
            return Status.DEGRADED, f"the pictures are {readout}: read out the detector the other way round"
        known = f"principal point known to {max(sigma[1:]):.1f} px, distance to {sigma[0] / distance_mm:.2%}"
        if not (located_mm is not None and located_mm <= MAX_LOCATED_MM):
            return Status.DEGRADED, f"{known}: points that the views locate are uncertain by {located_mm or 0:.1f} mm"
        if not (sigma[0] <= MAX_FOCAL * distance_mm and max(sigma[1:]) <= MAX_CENTER_PX):
            reason = f"{known}, {MAX_CENTER_PX:.0f} px and {MAX_FOCAL:.1%} are needed; right for what the views locate"
            return Status.DEGRADED, reason
        return Status.VALID, ""

    validity = Validity(*verdict())
    elapsed_ms = 1e3 * (time.perf_counter() - started)
    registrations = [
        Registration(
            volume_from_carm=g.orthonormal(fit.volume_from_carm),
            validity=Validity(validity.status, validity.reason, shot.timestamp_ns),
            residual=fit.residual,
            similarity=fit.similarity,
            covariance=covariance[:6, :6],
            pivot_mm=pivot_mm,
            iterations=state.iterations,
            elapsed_ms=elapsed_ms / count,
        )
        for shot, fit, covariance, pivot_mm in zip(shots, fits, covariances, state.pivots_mm, strict=True)
    ]
    return Calibrated(
        carm=state.carm,
        readout=readout,
        registrations=registrations,
        covariance=geometry,
        patient_mm=patient_mm,
        located_mm=located_mm,
        lateral_mm=lateral_mm,
        apart_deg=apart_deg,
        contradiction=contradiction,
        runner_up=ratio,
        validity=validity,
        elapsed_ms=elapsed_ms,
    )


def _apart_deg(poses: Sequence[Matrix]) -> float:
    rays = np.stack([pose[:3, 2] for pose in poses])
    return float(np.rad2deg(np.arccos(np.clip(np.abs(rays @ rays.T).min(), 0.0, 1.0))))


def _patient_mm(covariance: Matrix) -> float:
    """How far the geometry's error moves the pivot: the part of the pose's covariance (9x9) that follows from it."""
    follows = covariance[3:6, 6:] @ np.linalg.solve(covariance[6:, 6:], covariance[6:, 3:6])
    return float(np.sqrt(max(np.trace(follows), 0.0)))


def _located_mm(state: _State) -> tuple[float | None, float]:
    """1-sigma of the pivot, found where the views' rays meet (None for one view), and across the worst ray."""
    moves, across, laterals = [], [], []
    for pose, through, pivot_mm in zip(state.poses, state.maps, state.pivots_mm, strict=True):
        of_view = through / _SCALE[:, None]
        ray = of_view[3:6].copy()
        ray[:2] -= pivot_mm / state.carm.source_to_detector_mm * of_view[7:9]  # the same pixel is on another ray
        laterals.append(np.sqrt(np.trace(ray[:2] @ state.covariance @ ray[:2].T)))
        part = np.eye(3) - np.outer(pose[:3, 2], pose[:3, 2])
        across.append(part)
        moves.append(part @ pose[:3, :3] @ ray)
    if len(moves) == 1:
        return None, float(laterals[0])
    met = np.linalg.pinv(np.sum(across, axis=0)) @ np.sum(moves, axis=0)
    return float(np.sqrt(np.trace(met @ state.covariance @ met.T))), float(max(laterals))


def _contradiction(state: _State) -> float:
    """How much better each view would be explained by a pose and a geometry of its own, per degree of freedom."""
    squared = float(((state.deviation / np.tile(POSE_SCALE * _RELATIVE_SIGMA, len(state.deviation) // 6)) ** 2).sum())
    for view in state.views:
        values, vectors = np.linalg.eigh(view.hessian)
        along = vectors.T @ view.gradient
        told = values > 1e-6 * max(values[-1], 1e-12)  # single precision knows no more
        squared += view.weight * float((along[told] ** 2 / values[told]).sum())
    return float(squared / (9 * len(state.views) + len(state.deviation) - state.maps[0].shape[1]))


def _nothing(carm: CArm, shots: Sequence[Shot], center_mm: Matrix, blank: Sequence[str], started: float) -> Calibrated:
    """The result where a picture shows nothing."""
    unknown = np.eye(6) * 1e6
    reason = next(f"view {k}: {reason}" for k, reason in enumerate(blank) if reason)
    validity = Validity(Status.INVALID, reason)
    poses = [shot.starts[0] for shot in shots]
    pivots_mm = [float(np.linalg.norm(center_mm - pose[:3, 3])) for pose in poses]
    registrations = [
        Registration(
            pose, replace(validity, source_time_ns=shot.timestamp_ns), float("inf"), 0.0, unknown, pivot_mm, 0, 0.0
        )
        for shot, pose, pivot_mm in zip(shots, poses, pivots_mm, strict=True)
    ]
    return Calibrated(
        carm=carm,
        readout=_READOUTS[0],
        registrations=registrations,
        covariance=np.eye(3) * 1e6,
        patient_mm=float("inf"),
        located_mm=None,
        lateral_mm=float("inf"),
        apart_deg=0.0,
        contradiction=0.0,
        runner_up=1.0,
        validity=validity,
        elapsed_ms=1e3 * (time.perf_counter() - started),
    )
