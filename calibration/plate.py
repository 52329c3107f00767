"""Distortion of an image intensifier at any angle, from pictures of a plate of holes that is fixed to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import cv2
import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.spatial import ConvexHull

from navnode.errors import CalibrationError, ConfigError
from navnode.files.artifacts import PLATE, FieldParameters, PlateResult
from navnode.types import CArm, Matrix
from navnode.xray.distortion import FUNCTIONS, GRID_STEP_PX, DistortionField, functions, nodes

from .carm import PhantomShot
from .fitting import rms
from .lattice import Holes, Lattice, UnclearError, holes, polynomials
from .verdict import TOO_FEW, Calibration, Gate, Gates, Picture, judged, rejection

__all__ = ["plate"]

_NOISY = "use a longer exposure, and check that the plate lies flat and is fixed to the intensifier"
GATES = (
    Gate("n_used", 3, TOO_FEW, "the number of pictures in which the holes are named", "take more", at_least=True),
    Gate(
        "holes",
        60,
        TOO_FEW,
        "the smallest number of holes named in a picture",
        "open the shutters; is the spacing right?",
        at_least=True,
    ),
    Gate(
        "coverage",
        0.4,
        "coverage",
        "the share of the picture in which holes are named",
        "open the shutters, and bring the plate to the middle",
        at_least=True,
    ),
    Gate(
        "range_rad",
        0.5,
        "coverage",
        "the range of the C-arm's angles",
        "take pictures at angles farther apart, or say --fixed of a detector whose distortion no angle changes",
        "rad",
        at_least=True,
    ),
    Gate(
        "scale_off",
        0.15,
        "spacing",
        "the difference between the measured size of a pixel and the stated one",
        "check the spacing of the holes and the pixel spacing",
    ),
    Gate("damaged", 0.05, "residual", "the share of holes that lie off", "does the plate lie still, and flat?"),
    Gate("cv_px", 0.15, "residual", "the rms error at holes left out", _NOISY, "px"),
    Gate(
        "loo_px",
        0.3,
        "residual",
        "the rms error in a picture left out",
        "take more pictures, closer to each other in angle; check that nothing moved on the intensifier",
        "px",
    ),
)
_FEWEST_PX, _FEWEST_ACROSS = 6, 8
"""Pixels between holes, and holes across the picture, at least."""
_SCALES, _TRIED = (1.4, 1 / 1.4, 2.0, 0.5), 3
"""How far off the expected spacing may be, and in how many pictures another one is looked for."""
_DEGREES = (3, 5, 7)
_FOLDS = 5
_BETTER = 0.85
"""A richer model must reduce the error at what is left out to this share of the simpler model's."""
_VARIES = 0.03
"""Functions of the angles that vary less over the pictures, relative to the one that varies most, are left out."""
_DIRECTIONS = 80
"""Directions of the magnetic field that are tried first."""
_OUTLYING, _LEAST_OUTLYING_PX = 6.0, 0.3
"""Holes farther off than so many times the usual, and than so much, count as damaged."""


def plate(
    shots: Sequence[PhantomShot],
    lattice: Lattice,
    *,
    fixed: bool = False,
    gates: Gates | None = None,
    threads: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibration[PlateResult]:
    """Fit a smooth field, by angle, that makes the holes of all pictures those of the plate.

    Every picture's lattice is named by itself, and then tied to that of the picture nearest in angle: the plate is
    fixed, so a hole hardly moves. Position on the plate is a polynomial of the raw pixel, with coefficients that are
    constant, or linear in a magnetic field that turns against the C-arm, or in all products of 1, cos and sin of both
    angles: the simplest that explains pictures left out. Corrected pixels are chosen as near as possible to raw ones:
    only shift, rotation and scale are free.

    Args:
        shots: all in one detector mode, with angles.
        fixed: the distortion is the same at all angles, which need not be known.
        threads: that look for holes; 0: all cores.

    Raises:
        ConfigError: there are no shots, their modes differ, or they carry no angles.
    """
    nominal = _nominal(shots)
    angles = np.array([(0.0, 0.0) if fixed else shot.angles_rad or (np.nan, np.nan) for shot in shots])
    if np.isnan(angles).any():
        missing = int(np.flatnonzero(np.isnan(angles).any(axis=1))[0])
        raise ConfigError(
            f"views[{missing}]: the picture carries no angles (orbital, angulation), and distortion turns with them; "
            "for a detector whose distortion no angle changes, say --fixed"
        )
    spacing_px = lattice.spacing_mm / float(np.mean(nominal.pixel_spacing_mm))
    most_px = min(nominal.width_px, nominal.height_px) / _FEWEST_ACROSS
    if not _FEWEST_PX / max(_SCALES) <= spacing_px <= most_px / min(_SCALES):
        raise ConfigError(
            f"--spacing-mm {lattice.spacing_mm:g}: holes {spacing_px:.3g} px apart; 6 px to an eighth of the picture "
            "can be told apart"
        )
    named = _named(shots, lattice, spacing_px, threads, lambda share: progress(0.8 * share))
    if not any(isinstance(each, Holes) for each in named):
        spacing_px *= _scale(shots, lattice, spacing_px)
        named = _named(shots, lattice, spacing_px, threads, lambda share: progress(0.8 * share))
    tied = _tied(named, angles)
    seen = [n for n, each in enumerate(tied) if isinstance(each, Holes)]
    reasons = {n: str(each) for n, each in enumerate(tied) if not isinstance(each, Holes)}
    quality: dict[str, object] = {
        "n_input": len(shots),
        "n_used": len(seen),
        "rejected": sorted(reasons),
        "reasons": {str(n): reason for n, reason in reasons.items()},
        **dict.fromkeys(
            ("holes", "coverage", "scale_off", "damaged", "cv_px", "loo_px", "raw_rms_px", "max_px", "degree")
        ),
        "range_rad": float(np.ptp(angles[seen], axis=0).max()) if seen else 0.0,
    }
    in_force = tuple(gate for gate in GATES if not (fixed and gate.key == "range_rad"))
    if not seen:
        reason = f"no_holes: no picture shows the plate; views[0] {reasons[0]}"
        return judged(PLATE, in_force, gates, {}, result=None, quality=quality, reason=reason)
    try:
        fit = _fitted([each for each in tied if isinstance(each, Holes)], angles[seen], nominal, fixed)
    except CalibrationError as error:
        reason = f"implausible: {error}; are these pictures of such a plate, and the spacing right?"
        return judged(PLATE, in_force, gates, {}, result=None, quality=quality, reason=reason)
    progress(1.0)
    quality |= fit.figures
    pictures: list[Picture] = [
        ("holes", {"counts": shots[n].counts, "found_px": each.at_px, "off_px": off, "shift_px": shift})
        for n, each, off, shift in zip(seen, fit.seen, fit.off_px, fit.shift_px, strict=True)
    ]
    reason = rejection(len(shots), len(reasons)) if len(seen) >= (gates or {}).get("n_used", GATES[0].limit) else ""
    if reason:
        n, why = next(iter(reasons.items()))
        reason += f" (views[{n}] {why})"
    found = judged(PLATE, in_force, gates, {}, result=fit.result, quality=quality, reason=reason, pictures=pictures)
    if found.code == "spacing":
        found = replace(found, reason=f"{found.reason}: by the plate a pixel covers {fit.result.pixel_mm:.4g} mm")
    return found


def _scale(shots: Sequence[PhantomShot], lattice: Lattice, spacing_px: float) -> float:
    """By how much holes are farther apart than expected, roughly, where none is seen as expected: the size of a pixel
    may be a guess, and is measured then."""
    most_px = min(shots[0].carm.width_px, shots[0].carm.height_px) / _FEWEST_ACROSS

    def named(factor: float) -> int:
        """Number of holes, in a few pictures."""
        if not _FEWEST_PX <= factor * spacing_px <= most_px:
            return 0
        seen = _named(shots[:_TRIED], lattice, factor * spacing_px, 1, lambda share: None)
        return sum(len(each.index) for each in seen if isinstance(each, Holes))

    return max((1.0, *_SCALES), key=named)


def _nominal(shots: Sequence[PhantomShot]) -> CArm:
    if not shots:
        raise ConfigError("there are no pictures")
    nominal = shots[0].carm
    modes = {(s.carm.width_px, s.carm.height_px, s.carm.pixel_spacing_mm) for s in shots}
    if len(modes) > 1 or any(s.counts.shape != (nominal.height_px, nominal.width_px) for s in shots):
        raise ConfigError("the pictures have different detector modes: size or pixel spacing differ")
    return nominal


def _named(
    shots: Sequence[PhantomShot],
    lattice: Lattice,
    spacing_px: float,
    threads: int,
    progress: Callable[[float], None],
) -> list[Holes | UnclearError]:
    """Every picture's holes, or why they have no names."""

    def one(shot: PhantomShot) -> Holes | UnclearError:
        try:
            return holes(shot.counts, lattice, spacing_px)
        except UnclearError as unclear:
            return unclear

    done: list[Holes | UnclearError] = []
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for each in pool.map(one, shots):
            done.append(each)
            progress(len(done) / len(shots))
    return done


def _tied(named: Sequence[Holes | UnclearError], angles: Matrix) -> list[Holes | UnclearError]:
    """The same with the same names in all pictures: each is tied to the one nearest in angle that is tied already."""
    tied = list(named)
    sizes = {n: len(each.index) for n, each in enumerate(named) if isinstance(each, Holes)}
    if not sizes:
        return tied
    first = max(sizes, key=lambda n: (sizes[n], -n))
    done, left = [first], set(sizes) - {first}
    while left:
        apart = {(n, m): float(np.linalg.norm(angles[n] - angles[m])) for n in left for m in done}
        n, m = min(apart, key=lambda pair: (apart[pair], pair))
        left.discard(n)
        one, other = tied[n], tied[m]
        assert isinstance(one, Holes) and isinstance(other, Holes)
        try:
            tied[n] = one.tied(other)
            done.append(n)
        except UnclearError as unclear:
            tied[n] = unclear
    return tied


# --- sums over the holes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    seen: list[Holes]
    """Without damaged holes."""
    off_px: list[Matrix]
    """(N, 2) of every picture: how far each hole is from its place."""
    shift_px: list[Matrix]
    """(N, 2): how far the correction moves it."""
    result: PlateResult
    figures: dict[str, object]


class _Sums:
    """Normal equations of one model for any part of the holes, as sums by picture and fold."""

    def __init__(self, seen: Sequence[Holes], angles: Matrix, degree: int) -> None:
        self.angles, self._functions = angles, functions(angles)
        self._rows = [polynomials(each.at_px, each.size_px, degree) for each in seen]
        self._aims = [each.plate_mm for each in seen]
        self._folds = [(each.index @ [1, 2]) % _FOLDS for each in seen]
        self._shape = len(seen), _FOLDS
        terms = self._rows[0].shape[1]
        self._gram, self._moment = np.zeros((*self._shape, terms, terms)), np.zeros((*self._shape, terms, 2))
        for n, fold in product(*map(range, self._shape)):
            rows, aims = (part[n][self._folds[n] == fold] for part in (self._rows, self._aims))
            self._gram[n, fold], self._moment[n, fold] = rows.T @ rows, rows.T @ aims

    def all(self) -> Matrix:
        """Mask (P, folds) of all holes."""
        return np.ones(self._shape)

    def coefficients(self, mix: Matrix, used: Matrix) -> Matrix:
        """(9, T, 2) of the fields, mm, from the pictures and folds of a mask (P, folds)."""
        return np.asarray(np.einsum("kj,ktc->jtc", mix, self._solved(mix, used)[0]))

    def misfit(self, mix: Matrix, used: Matrix) -> float:
        """What a fit leaves of the squares of all coordinates, mm², up to a constant."""
        solved, moments = self._solved(mix, used)
        return -float((solved * moments).sum())

    def _solved(self, mix: Matrix, used: Matrix) -> tuple[Matrix, Matrix]:
        """Least squares (K, T, 2), and the right-hand sides."""
        gram, moment = np.einsum("nf,nfab->nab", used, self._gram), np.einsum("nf,nfac->nac", used, self._moment)
        scales = self._functions @ mix.T
        count, terms = scales.shape[1], gram.shape[1]
        pairs = (scales[:, :, None] * scales[:, None, :]).reshape(len(scales), -1)
        full = (pairs.T @ gram.reshape(len(gram), -1)).reshape(count, count, terms, terms)
        full = full.transpose(0, 2, 1, 3).reshape(count * terms, count * terms)
        right = np.einsum("nk,nac->kac", scales, moment).reshape(count * terms, 2)
        ridge = 1e-10 * float(np.trace(full)) / len(full)
        solved = np.linalg.solve(full + ridge * np.eye(len(full)), right)
        return solved.reshape(count, terms, 2), right.reshape(count, terms, 2)

    def at_holes(self, coefficients: Matrix, n: int) -> Matrix:
        """(N, 2): the value of fields (9, T, 2) at the holes of a picture."""
        return np.asarray(self._rows[n] @ np.tensordot(self._functions[n], coefficients, axes=1))

    def off_mm(self, coefficients: Matrix, n: int) -> Matrix:
        """(N, 2): how far a picture's holes are from theirs on the plate."""
        return np.asarray(self.at_holes(coefficients, n) - self._aims[n])

    def held_out(self, mix: Matrix) -> Matrix:
        """(N, 2), all pictures: how far each hole is if its fold is left out everywhere, mm."""
        off = [np.empty_like(aims) for aims in self._aims]
        for fold in range(_FOLDS):
            used = self.all()
            used[:, fold] = 0
            coefficients = self.coefficients(mix, used)
            for n, folds in enumerate(self._folds):
                off[n][folds == fold] = self.off_mm(coefficients, n)[folds == fold]
        return np.concatenate(off)

    def left_out(self, kind: _Kind) -> Matrix | None:
        """(N, 2), all pictures: how far the holes of each are if it is left out, also in the choice of the functions.

        None: the others would not tell the functions.
        """
        off = []
        for n in range(len(self._rows)):
            used = self.all()
            used[n] = 0
            mix = kind(self, used)
            if len(mix) >= len(self._rows):
                return None
            off.append(self.off_mm(self.coefficients(mix, used), n))
        return np.concatenate(off)


# --- what it depends on ----------------------------------------------------------------------------------------------

_Kind = Callable[[_Sums, Matrix], Matrix]
"""Functions (K, 9) that the distortion depends on, from the pictures and folds of a mask (P, folds)."""


def _constant(sums: _Sums, used: Matrix) -> Matrix:
    """The same at all angles."""
    return _known(np.eye(FUNCTIONS)[:1], sums, used)


def _in_a_field(sums: _Sums, used: Matrix) -> Matrix:
    """Linear in a magnetic field that is the same everywhere in the room, in the direction that explains most."""

    def misfit(direction: Matrix) -> float:
        return sums.misfit(_known(_seen_from_the_arm(direction), sums, used), used)

    steps = (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS  # half of a sphere: fields of both signs are one
    around, up = np.pi * (1 + np.sqrt(5)) * np.arange(_DIRECTIONS), steps
    level = np.sqrt(1 - up**2)
    tried = np.stack([level * np.cos(around), level * np.sin(around), up], axis=1)
    best = min(tried, key=misfit)
    found = minimize(misfit, best, method="Nelder-Mead", options={"maxiter": 120, "xatol": 1e-3, "fatol": 1e-9})
    return _known(_seen_from_the_arm(found.x), sums, used)


def _free(sums: _Sums, used: Matrix) -> Matrix:
    """Any combination of the functions."""
    return _known(np.eye(FUNCTIONS), sums, used)


def _seen_from_the_arm(direction: Matrix) -> Matrix:
    """(4, 9): 1, and the components of a field (3,) in the frame that Rz(orbital) Rx(angulation) turns."""
    x, y, z = direction / max(float(np.linalg.norm(direction)), 1e-9)
    mix = np.zeros((4, 3, 3))  # of 1, cos and sin of both angles
    mix[0, 0, 0] = 1
    mix[1, 1, 0], mix[1, 2, 0] = x, y
    mix[2, 2, 1], mix[2, 1, 1], mix[2, 0, 2] = -x, y, z
    mix[3, 2, 2], mix[3, 1, 2], mix[3, 0, 1] = x, -y, z
    return mix.reshape(4, FUNCTIONS)


def _known(mix: Matrix, sums: _Sums, used: Matrix) -> Matrix:
    """Functions, orthogonal over the pictures used, without combinations that hardly vary and so cannot be known."""
    scales = functions(sums.angles[used.any(axis=1)]) @ mix.T
    _, values, turn = np.linalg.svd(scales, full_matrices=False)
    known = values > _VARIES * values[0]
    return np.asarray(turn[known] @ mix / values[known, None])


# --- the fit ---------------------------------------------------------------------------------------------------------


def _fitted(seen: list[Holes], angles: Matrix, nominal: CArm, fixed: bool) -> _Fit:
    kind, degree = _chosen(seen, angles, fixed)
    named = sum(len(each.index) for each in seen)
    seen = _undamaged(_Sums(seen, angles, degree), kind, seen, nominal)
    used = sum(len(each.index) for each in seen)
    kind, degree = _chosen(seen, angles, fixed)
    sums = _Sums(seen, angles, degree)
    mix = kind(sums, sums.all())
    coefficients = sums.coefficients(mix, sums.all())
    ideal_from_plate, origin_px, pixel_mm = _nearest_to_raw(sums, coefficients, seen, nominal)
    to_ideal = coefficients @ ideal_from_plate
    to_ideal[0, 0] += origin_px
    outline = _outline(seen, nominal)
    field = _field(to_ideal if len(mix) > 1 else to_ideal[:1], degree, None if fixed else angles, outline, nominal)
    shift_px = [sums.at_holes(to_ideal, n) - each.at_px for n, each in enumerate(seen)]
    off_px = [sums.off_mm(coefficients, n) @ ideal_from_plate for n in range(len(seen))]
    left_out = sums.left_out(kind)
    figures: dict[str, object] = {
        "holes": min(len(each.index) for each in seen),
        "holes_used": used,
        "damaged": 1 - used / named,
        "coverage": cv2.contourArea(outline.astype(np.float32)) / (nominal.width_px * nominal.height_px),
        "scale_off": abs(pixel_mm / float(np.mean(nominal.pixel_spacing_mm)) - 1),
        "cv_px": _rms_px(sums.held_out(mix) @ ideal_from_plate),
        "loo_px": None if left_out is None else _rms_px(left_out @ ideal_from_plate),
        "max_px": float(np.linalg.norm(np.concatenate(off_px), axis=1).max()),
        "raw_rms_px": _rms_px(np.concatenate(shift_px)),
        "degree": degree,
        "fields": len(mix),
    }
    largest = float(np.linalg.norm(np.concatenate(shift_px), axis=1).max())
    result = PlateResult(msgspec.convert(field.parameters(), FieldParameters), pixel_mm, largest)
    return _Fit(seen, off_px, shift_px, result, figures)


def _rms_px(off_px: Matrix) -> float:
    return rms(np.linalg.norm(off_px, axis=1))


def _chosen(seen: Sequence[Holes], angles: Matrix, fixed: bool) -> tuple[_Kind, int]:
    """The simplest functions that explain pictures left out, and the lowest degree that explains holes left out."""
    sums, kind = _Sums(seen, angles, _DEGREES[1]), _constant
    errors = {each: sums.left_out(each) for each in ((kind,) if fixed else (kind, _in_a_field, _free))}
    left_out = {each: _rms_px(off) for each, off in errors.items() if off is not None}
    for each, error in left_out.items():
        if error < _BETTER * left_out[kind]:
            kind = each
    degree, mix = _DEGREES[0], kind(sums, sums.all())
    held_out = {each: _rms_px(_Sums(seen, angles, each).held_out(mix)) for each in _DEGREES}
    for richer in _DEGREES[1:]:
        if held_out[richer] < _BETTER * held_out[degree]:
            degree = richer
    return kind, degree


def _undamaged(sums: _Sums, kind: _Kind, seen: Sequence[Holes], nominal: CArm) -> list[Holes]:
    """The holes without those far from where the others say."""
    coefficients = sums.coefficients(kind(sums, sums.all()), sums.all())
    away = [np.linalg.norm(sums.off_mm(coefficients, n), axis=1) for n in range(len(seen))]
    least_mm = _LEAST_OUTLYING_PX * float(np.mean(nominal.pixel_spacing_mm))
    limit_mm = max(_OUTLYING * float(np.median(np.concatenate(away))), least_mm)
    return [
        replace(each, at_px=each.at_px[off <= limit_mm], index=each.index[off <= limit_mm])
        for each, off in zip(seen, away, strict=True)
    ]


def _nearest_to_raw(
    sums: _Sums, coefficients: Matrix, seen: Sequence[Holes], nominal: CArm
) -> tuple[Matrix, Matrix, float]:
    """Shift, rotation and scale with which ideal pixels are nearest to raw ones (Umeyama, IEEE PAMI 13, 1991).

    Returns:
        (2, 2) px per mm, for rows on the plate; (2,) px of its origin; and the size on the plate of a pixel, mm.
    """
    pixel_mm = np.array(nominal.pixel_spacing_mm)
    plate_mm = np.concatenate([sums.at_holes(coefficients, n) for n in range(len(seen))])
    raw_mm = np.concatenate([each.at_px for each in seen]) * pixel_mm
    middle, raw_middle = plate_mm.mean(axis=0), raw_mm.mean(axis=0)
    u, values, v = np.linalg.svd((plate_mm - middle).T @ (raw_mm - raw_middle))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ v))])
    scale = float((values * sign).sum() / ((plate_mm - middle) ** 2).sum())
    turn = scale * (u * sign) @ v / pixel_mm
    return turn, raw_middle / pixel_mm - middle @ turn, float(pixel_mm.mean()) / scale


def _outline(seen: Sequence[Holes], nominal: CArm) -> Matrix:
    """Convex outline (N, 2) of where holes are named, half a step around them, within the picture."""
    places = np.concatenate([each.at_px for each in seen])
    half = 0.5 * seen[0].spacing_px
    around = half * np.array([(np.cos(a), np.sin(a)) for a in np.arange(0, 2 * np.pi, np.pi / 6)])
    corners = places[ConvexHull(places).vertices]
    wide = (corners[:, None] + around).reshape(-1, 2)
    wide = np.clip(wide, 0, [nominal.width_px - 1, nominal.height_px - 1])
    return np.asarray(wide[ConvexHull(wide).vertices])


def _field(to_ideal: Matrix, degree: int, angles: Matrix | None, outline: Matrix, nominal: CArm) -> DistortionField:
    """The field on its grid.

    Beyond the outline the polynomials know nothing and may do anything: nodes there continue the nearest place within
    by a plane, so that splines through all nodes hold up to the outline.
    """
    size_px = nominal.width_px, nominal.height_px
    grid = nodes(size_px)
    known = _nearest_within(grid, outline)
    step = 1.0

    def at(place_px: Matrix) -> Matrix:
        return np.asarray(np.einsum("...t,ktc->k...c", polynomials(place_px, size_px, degree), to_ideal))

    values = at(known)
    for axis in np.eye(2):
        slope = (at(known + step * axis) - at(known - step * axis)) / (2 * step)
        values += slope * ((grid - known) @ axis)[..., None]
    values[0] -= grid
    bounds = None if angles is None else np.stack([angles.min(axis=0), angles.max(axis=0)])
    return DistortionField(size_px, values, bounds, outline).checked()


def _nearest_within(place_px: Matrix, outline: Matrix) -> Matrix:
    """Places (..., 2), those farther than a node's diagonal outside a convex outline moved towards it that near."""
    contour = outline.astype(np.float32)
    middle = outline.mean(axis=0)
    moved = place_px.copy()
    for index in np.ndindex(place_px.shape[:-1]):
        beyond = -cv2.pointPolygonTest(contour, tuple(map(float, place_px[index])), True) - 1.5 * GRID_STEP_PX
        if beyond > 0:
            inwards = middle - place_px[index]
            moved[index] += inwards * min(1.0, beyond / float(np.linalg.norm(inwards)))
    return moved
