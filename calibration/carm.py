"""A C-arm's intrinsics and distortion from shots of a bead phantom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from calibration.beads import Shot
from calibration.distortion import MODELS, Distortion, terms, unknowns
from calibration.fitting import rms
from calibration.identify import identify
from calibration.verdict import TOO_FEW, TOO_MANY_REJECTED, Calibration, Gate, Gates, judged
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.geometry import carm_document
from navnode.types import Array, CArm, Matrix
from navnode.xray.correction import GRID_STEP_PX

_OTHERS = "take shots from other directions and distances; tilt the phantom"
GATES = (
    Gate("n_used", 3, TOO_FEW, "the number of shots that can be used", "take more", at_least=True),
    Gate(
        "beads",
        8,
        TOO_FEW,
        "the smallest number of beads in a shot",
        "bring the whole phantom into the picture",
        at_least=True,
    ),
    Gate("sigma_sdd_mm", 10.0, "sigma", "the standard error of the source's distance", _OTHERS, "mm"),
    Gate("sigma_pp_px", 10, "sigma", "the standard error of the principal point", _OTHERS, "px"),
    Gate(
        "rms_px",
        0.8,
        "residual",
        "the rms distance of beads from where they must be",
        "see that nothing moved; is it this phantom?",
        "px",
    ),
    Gate(
        "loo_px",
        1.5,
        "residual",
        "the rms of beads in a shot left out",
        "take more shots; does the C-arm bend? see flex",
        "px",
    ),
)
_VIEWS_FOR_DISTORTION = 6
_SIGMA_SHARE = 0.01
"""Of the distance, that its standard error may be."""
_NEAREST, _FARTHEST = 0.40, 0.97
"""Of the source's distance to the detector, where beads are looked for."""
_LEAST_BEADS = 8
_OVERLAP_RADII = 2.2
_OUTLIER_SIGMAS = 4.0
_OUTLIER_PX = 0.6
"""Beads that overlap are found less exactly; nearer than this they do no harm."""
_ROUNDS = 4
_BETTER = 0.85
"""A richer model of distortion must have so much of the simpler one's error in shots left out, or less."""
_LARGEST_OFF = 0.03
"""Of the image: how far from where the first fit has it a bead is still looked for."""


@dataclass(frozen=True)
class PhantomShot:
    """One image of the phantom."""

    counts: Array
    carm: CArm
    """Nominal."""
    start: Matrix | None = None
    """phantom_from_carm, if it is known roughly."""
    i0: float | None = None
    timestamp_ns: int = 0
    angles_rad: tuple[float, float] | None = None
    """Orbital, angulation; kept for ``flex``."""


@dataclass(frozen=True)
class _Seen:
    """Named beads of a shot."""

    pose: Matrix
    """phantom_from_carm"""
    beads: Matrix
    """(K,) which they are"""
    at_px: Matrix
    """(K, 2) raw"""


@dataclass(frozen=True)
class _Fit:
    carm: CArm
    distortion: Distortion
    seen: list[_Seen]
    sigma_sdd_mm: float
    sigma_pp_px: Matrix
    covariance: Matrix
    """3x3 of distance (mm) and principal point (px)."""


def carm(
    shots: Sequence[PhantomShot],
    ids: Sequence[str | int],
    beads_mm: Matrix,
    diameters_mm: Matrix,
    *,
    distortion: str = "auto",
    per_shot: bool = False,
    gates: Gates | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibration:
    """SDD, principal point and distortion, by least squares over all beads of all shots (Zhang, IEEE PAMI 22, 2000,
    with a phantom that is no plane). Beads are found and named without a start.

    Args:
        shots: of one detector mode.
        ids, beads_mm, diameters_mm: the phantom's N beads; (N, 3) and (N,).
        distortion: one of ``none``, ``poly3``, ``poly5``; ``auto``: the simplest that explains shots left out.
        per_shot: of a C-arm that bends: with the distortion that all share, every shot's own C-arm and pose.

    Raises:
        ConfigError: no shots, of several modes, or no such model.
    """
    if not shots:
        raise ConfigError("there are no shots")
    if distortion != "auto" and distortion not in MODELS:
        raise ConfigError(f"--distortion {distortion}: there is no such model; there are: auto, {', '.join(MODELS)}")
    nominal = shots[0].carm
    modes = {(s.carm.width_px, s.carm.height_px, s.carm.pixel_spacing_mm) for s in shots}
    if len(modes) > 1 or any(s.counts.shape != (nominal.height_px, nominal.width_px) for s in shots):
        raise ConfigError("the shots are not of one detector mode: size or pixel spacing differ")
    prepared, spots_found = _named(shots, beads_mm, diameters_mm, seed, threads, lambda share: progress(0.7 * share))
    used = [n for n, (_, seen) in enumerate(prepared) if seen is not None]
    quality: dict[str, object] = {
        "n_input": len(shots), "n_used": len(used), "rejected": sorted(set(range(len(shots))) - set(used)),
        **dict.fromkeys(
            ("rms_px", "max_px", "beads_used", "beads_expected", "sigma_sdd_mm", "sigma_pp_px", "loo_px", "raw_rms_px")
        ),
    }  # fmt: skip
    least_views = int(
        (gates or {}).get("n_used", _VIEWS_FOR_DISTORTION if distortion in MODELS[1:] else GATES[0].limit)
    )
    figures: dict[str, float | None] = {"beads": None, "sigma_sdd_mm": None, "sigma_pp_px": None}
    in_force = {**(gates or {}), "n_used": float(least_views)}
    if reason := _unusable(len(shots), len(used), spots_found, least_views):
        return judged("carm", GATES, in_force, figures, result={}, quality=quality, reason=reason)
    if len(used) < 2:
        return judged("carm", GATES, in_force, figures, result={}, quality=quality)
    seen = [s for _, s in prepared if s is not None]
    searched = [shot for shot, s in prepared if s is not None]
    models = (
        [distortion]
        if distortion != "auto"
        else [m for m in MODELS if m == "none" or len(used) >= _VIEWS_FOR_DISTORTION]
    )
    plain = _settled(searched, seen, beads_mm, diameters_mm, nominal, "none")
    fits = {"none": plain}
    for model in models:
        if model not in fits:
            fits[model] = _settled(searched, seen, beads_mm, diameters_mm, nominal, model)
    progress(0.9)
    left_out = {model: _left_out_px(fits[model], beads_mm, nominal) for model in models}
    best = models[0]
    for model in models[1:]:
        if left_out[model] < _BETTER * left_out[best]:
            best = model
    fit = fits[best]
    progress(1.0)
    own = _each_by_itself(fit, beads_mm) if per_shot else None
    return _told(shots, used, fit, fits["none"], own, left_out[best], ids, beads_mm, quality, figures, gates or {})


def _told(
    shots: Sequence[PhantomShot], used: list[int], fit: _Fit, plain: _Fit, own: list[tuple[CArm, Matrix]] | None,
    left_out: float, ids: Sequence[str | int], beads_mm: Matrix, quality: dict[str, object],
    figures: dict[str, float | None], given: Gates,
) -> Calibration:  # fmt: skip
    limits = {"sigma_sdd_mm": _SIGMA_SHARE * fit.carm.source_to_detector_mm}
    if fit.distortion.model != "none":
        limits["n_used"] = float(_VIEWS_FOR_DISTORTION)
    gates = {**limits, **given}
    off = [np.linalg.norm(_off(fit, s, beads_mm), axis=1) for s in fit.seen]
    every = np.concatenate(off)
    expected = [int(_inside(fit, s.pose, beads_mm).sum()) for s in fit.seen]
    quality |= {
        "rms_px": rms(every), "max_px": float(every.max()), "beads_used": len(every), "beads_expected": sum(expected),
        "sigma_sdd_mm": fit.sigma_sdd_mm, "sigma_pp_px": fit.sigma_pp_px,
        "covariance": fit.covariance, "loo_px": left_out,
        "raw_rms_px": rms(np.concatenate([np.linalg.norm(_off(plain, s, beads_mm), axis=1) for s in plain.seen])),
    }  # fmt: skip
    figures |= {
        "beads": float(min(len(s.beads) for s in fit.seen)),
        "sigma_sdd_mm": fit.sigma_sdd_mm,
        "sigma_pp_px": float(fit.sigma_pp_px.max()),
    }  # fmt: skip
    views: list[dict[str, object]] = [
        {"phantom_from_carm": None, "beads": [], "rms_px": None, "timestamp_ns": shot.timestamp_ns} for shot in shots
    ]
    for place, seen, length in zip(used, fit.seen, off, strict=True):
        views[place] |= {
            "phantom_from_carm": seen.pose, "rms_px": rms(length),
            "beads": [
                {"id": ids[bead], "image_px": at.tolist()} for bead, at in zip(seen.beads, seen.at_px, strict=True)
            ],
        }  # fmt: skip
    for place, (carm, pose) in zip(used, own or [], strict=own is not None):
        views[place] |= {"phantom_from_carm": pose, "carm": carm_document(carm)}
    for view, shot in zip(views, shots, strict=True):
        if shot.angles_rad is not None:
            view["angles_rad"] = dict(zip(("orbital", "angulation"), shot.angles_rad, strict=True))
    result = {
        "carm": carm_document(fit.carm), "views": views,
        "distortion": {
            "model": fit.distortion.model, "params": fit.distortion.coefficients, "grid_step_px": GRID_STEP_PX,
            "undistorted_px": fit.distortion.grid(),
        },
    }  # fmt: skip
    pictures = [
        ("beads", {"counts": shots[n].counts, "found_px": seen.at_px, "off_px": _off(fit, seen, beads_mm),
                   "expected_px": fit.distortion.distorted(g.project(fit.carm, g.inverse(seen.pose), beads_mm))})
        for n, seen in zip(used, fit.seen, strict=True)
    ]  # fmt: skip
    return judged("carm", GATES, gates, figures, result=result, quality=quality, pictures=pictures)


def _unusable(views: int, used: int, spots: int, least: int) -> str:
    if used == 0 and spots < _LEAST_BEADS:
        return (
            f"no_beads: {spots} spots in any shot look like a bead, at least {_LEAST_BEADS} are needed; is the phantom "
            "in the picture, are beads dark, are the pixel spacing and the beads' diameters right?"
        )
    if used == 0:
        return (
            f"no_match: up to {spots} spots look like beads, but from no side does this phantom show {_LEAST_BEADS} of "
            "them; is it this phantom, and this pixel spacing?"
        )
    if used >= least and views - used > views / 3:
        return (
            f"{TOO_MANY_REJECTED}: in {views - used} of {views} shots the phantom was not recognised, at most a third "
            "may; bring the whole phantom into the picture"
        )
    return ""


def _named(
    shots: Sequence[PhantomShot], beads_mm: Matrix, diameters_mm: Matrix, seed: int, threads: int,
    progress: Callable[[float], None],
) -> tuple[list[tuple[Shot, _Seen | None]], int]:  # fmt: skip
    """Every shot with its beads' names, where they are known; and the largest number of spots in one."""

    def one(shot: PhantomShot) -> tuple[Shot, _Seen | None, int]:
        radius = diameters_mm / 2 * shot.carm.source_to_detector_mm / min(shot.carm.pixel_spacing_mm)
        depth = np.array([_FARTHEST, _NEAREST]) * shot.carm.source_to_detector_mm
        searched = Shot(shot.counts, (float(radius.min() / depth[0]), float(radius.max() / depth[1])), shot.i0)
        spots = searched.spots()
        order = np.argsort(-spots.alike)
        found = identify(
            spots.at_px[order], spots.radius_px[order], beads_mm, diameters_mm, shot.carm, shot.start, seed=seed
        )
        if found is None:
            return searched, None, len(order)
        return searched, _Seen(found.phantom_from_carm, found.beads, spots.at_px[order][found.spots]), len(order)

    done: list[tuple[Shot, _Seen | None, int]] = []
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for each in pool.map(one, shots):
            done.append(each)
            progress(len(done) / len(shots))
    return [(shot, seen) for shot, seen, _ in done], max(count for *_, count in done)


def _settled(
    shots: list[Shot], seen: list[_Seen], beads_mm: Matrix, diameters_mm: Matrix, nominal: CArm, model: str
) -> _Fit:
    """The geometry, with every bead that is in a picture looked for again where it must be, and outliers left out."""
    fit = _solved(seen, beads_mm, nominal, model)
    for _ in range(_ROUNDS):
        off = np.concatenate([np.linalg.norm(_off(fit, s, beads_mm), axis=1) for s in fit.seen])
        sigma = 1.4826 * float(np.median(off)) / 1.1774
        within = float(np.clip(8 * sigma, 2.0, _LARGEST_OFF * nominal.width_px))
        again = [
            _looked_for(shot, s, fit, beads_mm, diameters_mm, within) for shot, s in zip(shots, fit.seen, strict=True)
        ]
        fit = _solved(again, beads_mm, nominal, model, fit)
        fit = _without_outliers(fit, beads_mm, nominal, model)
        if [s.beads.tolist() for s in again] == [s.beads.tolist() for s in seen]:
            break
        seen = again
    return fit


def _looked_for(shot: Shot, seen: _Seen, fit: _Fit, beads_mm: Matrix, diameters_mm: Matrix, within_px: float) -> _Seen:
    """All beads of a shot, fitted where they must be; those that overlap, together."""
    carm_from_phantom = g.inverse(seen.pose)
    expected = fit.distortion.distorted(g.project(fit.carm, carm_from_phantom, beads_mm))
    depth = g.transform(carm_from_phantom, beads_mm)[:, 2]
    radius = diameters_mm / 2 * fit.carm.source_to_detector_mm / depth / min(fit.carm.pixel_spacing_mm)
    inside = np.flatnonzero(_inside(fit, seen.pose, beads_mm))
    beads, places = [], []
    left = set(inside.tolist())
    while left:
        group = [left.pop()]
        for bead in group:  # grows meanwhile
            near = [
                n
                for n in left
                if np.hypot(*(expected[n] - expected[bead])) < _OVERLAP_RADII * max(radius[n], radius[bead])
            ]
            group += near
            left -= set(near)
        group.sort()
        found = shot.at(expected[group], radius[group], within_px)
        for bead, spot in zip(group, found, strict=True):
            if np.isfinite(spot).all():
                beads.append(bead)
                places.append(spot[:2])
    order = np.argsort(beads)
    return replace(seen, beads=np.array(beads, int)[order], at_px=np.array(places).reshape(-1, 2)[order])


def _without_outliers(fit: _Fit, beads_mm: Matrix, nominal: CArm, model: str) -> _Fit:
    for _ in range(3):
        off = [np.linalg.norm(_off(fit, s, beads_mm), axis=1) for s in fit.seen]
        sigma = 1.4826 * float(np.median(np.concatenate(off))) / 1.1774
        limit = max(_OUTLIER_SIGMAS * sigma, _OUTLIER_PX)
        if all((length <= limit).all() for length in off):
            break
        kept = [
            replace(s, beads=s.beads[length <= limit], at_px=s.at_px[length <= limit])
            for s, length in zip(fit.seen, off, strict=True)
        ]
        if min(len(s.beads) for s in kept) < 4:
            break
        fit = _solved(kept, beads_mm, nominal, model, fit)
    return fit


def _inside(fit: _Fit, pose: Matrix, beads_mm: Matrix) -> Matrix:
    """Which beads are in the picture."""
    at = fit.distortion.distorted(g.project(fit.carm, g.inverse(pose), beads_mm))
    return np.asarray(((at >= 0) & (at <= (fit.carm.width_px - 1, fit.carm.height_px - 1))).all(axis=1))


def _off(fit: _Fit, seen: _Seen, beads_mm: Matrix) -> Matrix:
    """(K, 2): undistorted places less those where the beads must be."""
    return fit.distortion.undistorted(seen.at_px) - g.project(fit.carm, g.inverse(seen.pose), beads_mm[seen.beads])


def _solved(seen: list[_Seen], beads_mm: Matrix, nominal: CArm, model: str, start: _Fit | None = None) -> _Fit:
    """All unknowns by least squares: log SDD, principal point, distortion, and the pose of every shot."""
    size = (nominal.width_px, nominal.height_px)
    count = unknowns(model)
    shared = 3 + count
    first = start.carm if start is not None else nominal
    state = np.zeros(shared + 6 * len(seen))
    if start is not None and start.distortion.model == model:
        state[3:shared] = start.distortion.coefficients
    abouts = [g.transform(g.inverse(s.pose), beads_mm).mean(axis=0) for s in seen]
    bent = [terms(model, s.at_px, size) for s in seen]

    def carm_at(state: Matrix) -> CArm:
        u, v = np.asarray(first.principal_point_px) + state[1:3]
        distance_mm = first.source_to_detector_mm * float(np.exp(state[0]))
        return replace(nominal, source_to_detector_mm=distance_mm, principal_point_px=(float(u), float(v)))

    def built(state: Matrix) -> _Fit:
        poses = [
            s.pose @ g.inverse(g.exp(state[at : at + 6] * _UNIT, about))
            for s, about, at in zip(seen, abouts, range(shared, len(state), 6), strict=True)
        ]
        return _Fit(
            carm_at(state), Distortion(model, state[3:shared], size),
            [replace(s, pose=pose) for s, pose in zip(seen, poses, strict=True)], np.inf, np.full(2, np.inf),
            np.full((3, 3), np.inf),
        )  # fmt: skip

    def off_of(n: int, state: Matrix) -> Matrix:
        at = shared + 6 * n
        pose = g.exp(state[at : at + 6] * _UNIT, abouts[n]) @ g.inverse(seen[n].pose)
        moved = seen[n].at_px + bent[n] @ state[3:shared]
        return np.asarray((moved - g.project(carm_at(state), pose, beads_mm[seen[n].beads])).ravel())

    def off(state: Matrix) -> Matrix:
        return np.concatenate([off_of(n, state) for n in range(len(seen))])

    rows = np.cumsum([0, *(2 * len(s.beads) for s in seen)])

    def slope(state: Matrix) -> Matrix:
        jacobian = np.zeros((rows[-1], len(state)))
        for n in range(len(seen)):
            part = slice(rows[n], rows[n + 1])
            for column in [0, 1, 2, *range(shared + 6 * n, shared + 6 * n + 6)]:
                ahead, behind = state.copy(), state.copy()
                width = 1e-4 if column == 0 else 1e-3
                ahead[column] += width
                behind[column] -= width
                jacobian[part, column] = (off_of(n, ahead) - off_of(n, behind)) / (2 * width)
            jacobian[part, 3:shared] = bent[n].reshape(2 * len(seen[n].beads), count)
        return jacobian

    state = _gauss_newton(off, slope, state)
    fit = built(state)
    residual, jacobian = off(state), slope(state)
    freedom = max(len(residual) - len(state), 1)
    scaled = jacobian * (norm := 1 / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12))
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    if len(residual) <= len(state) or values[0] < 1e-13 * values[-1]:
        return fit
    covariance = (vectors / values) @ vectors.T * np.outer(norm, norm) * float(residual @ residual) / freedom
    unit = np.array([fit.carm.source_to_detector_mm, 1.0, 1.0])  # the first unknown is the distance's logarithm
    shared_covariance = covariance[:3, :3] * np.outer(unit, unit)
    sigma = np.sqrt(np.maximum(np.diag(shared_covariance), 0.0))
    return replace(fit, sigma_sdd_mm=float(sigma[0]), sigma_pp_px=sigma[1:], covariance=shared_covariance)


def _gauss_newton(off: Callable[[Matrix], Matrix], slope: Callable[[Matrix], Matrix], state: Matrix) -> Matrix:
    """The smallest sum of residuals, those of more than a pixel by their length; steps that do not help are
    shortened."""

    def cost(residual: Matrix) -> float:
        return float(2 * (np.sqrt(1 + residual**2) - 1).sum())

    residual, damping = off(state), 1e-9
    for _ in range(_MOST_STEPS):
        weight = 1 / np.sqrt(1 + residual**2)
        jacobian = slope(state)
        norm = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)
        scaled = jacobian / norm
        normal, wanted = scaled.T @ (weight[:, None] * scaled), scaled.T @ (weight * residual)
        while True:
            step = -np.linalg.solve(normal + damping * np.eye(len(norm)), wanted) / norm
            after = off(state + step)
            if np.isfinite(after).all() and cost(after) <= cost(residual) * (1 + 1e-12) + 1e-15:
                break
            damping *= 100
            if damping > 1e3:
                return state
        state, gained, residual = state + step, cost(residual) - cost(after), after
        damping = max(damping / 100, 1e-9)
        if gained <= 1e-7 * cost(residual) + 1e-12:
            break
    return state


_MOST_STEPS = 40
_UNIT = np.array([0.01] * 3 + [5.0] * 3)
"""Of a pose's unknowns: rad, mm."""


def _each_by_itself(fit: _Fit, beads_mm: Matrix) -> list[tuple[CArm, Matrix]]:
    """Every shot's own C-arm and phantom_from_carm: a phantom that is no plane tells all nine of one picture."""
    found = []
    for seen in fit.seen:
        about = g.transform(g.inverse(seen.pose), beads_mm).mean(axis=0)
        ideal = fit.distortion.undistorted(seen.at_px)

        def built(state: Matrix, pose: Matrix = seen.pose, about: Matrix = about) -> tuple[CArm, Matrix]:
            u, v = np.asarray(fit.carm.principal_point_px) + state[1:3]
            distance = fit.carm.source_to_detector_mm * float(np.exp(state[0]))
            bent = replace(fit.carm, source_to_detector_mm=distance, principal_point_px=(float(u), float(v)))
            return bent, pose @ g.inverse(g.exp(state[3:] * _UNIT, about))

        def off(state: Matrix, seen: _Seen = seen, ideal: Matrix = ideal, built: Any = built) -> Matrix:
            bent, pose = built(state)
            return np.asarray((ideal - g.project(bent, g.inverse(pose), beads_mm[seen.beads])).ravel())

        found.append(built(least_squares(off, np.zeros(9), x_scale="jac", loss="soft_l1").x))
    return found


def _left_out_px(fit: _Fit, beads_mm: Matrix, nominal: CArm) -> float:
    """rms of shots whose beads were not used for what all share; only their poses are fitted."""
    lengths = []
    for n, own in enumerate(fit.seen):
        rest = _solved([s for m, s in enumerate(fit.seen) if m != n], beads_mm, nominal, fit.distortion.model, fit)
        about = g.transform(g.inverse(own.pose), beads_mm).mean(axis=0)
        ideal = rest.distortion.undistorted(own.at_px)

        def off(
            step: Matrix, own: _Seen = own, about: Matrix = about, ideal: Matrix = ideal, rest: _Fit = rest
        ) -> Matrix:
            pose = g.exp(step * _UNIT, about) @ g.inverse(own.pose)
            return np.asarray((ideal - g.project(rest.carm, pose, beads_mm[own.beads])).ravel())

        found = least_squares(off, np.zeros(6))
        lengths.append(np.linalg.norm(found.fun.reshape(-1, 2), axis=1))
    return rms(np.concatenate(lengths))
