"""C-arm calibration: intrinsics and distortion from shots of a bead phantom."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from msgspec import UNSET

from navnode import geometry as g
from navnode.errors import CalibrationError, ConfigError
from navnode.files.artifacts import (
    CARM,
    Angles,
    CArmGeometry,
    CArmResult,
    DistortionResult,
    FieldParameters,
    SeenBead,
    ShotResult,
    rows,
)
from navnode.types import Array, CArm, Matrix
from navnode.xray.beads import Shot
from navnode.xray.correction import ImageCorrection
from navnode.xray.distortion import GRID_STEP_PX, DistortionField

from .bundle import Fit, Own, Seen, distances_apart_mm, each_by_itself, inside, left_out_px, off_px, places, settled
from .distortion import MODELS
from .fitting import rms
from .identify import identify
from .verdict import TOO_FEW, TOO_MANY_REJECTED, Calibration, Gate, Gates, judged

__all__ = ["PhantomShot", "carm", "corrected", "glance"]

_OTHERS = "take shots from other directions and distances; tilt the phantom"
GATES = (
    Gate("n_used", 3, TOO_FEW, "the number of usable shots", "take more", at_least=True),
    Gate(
        "beads",
        8,
        TOO_FEW,
        "the smallest number of beads in a shot",
        "bring the whole phantom into the image",
        at_least=True,
    ),
    Gate("sigma_sdd_mm", 10.0, "sigma", "the standard error of the source's distance", _OTHERS, "mm"),
    Gate("sigma_pp_px", 10, "sigma", "the standard error of the principal point", _OTHERS, "px"),
    Gate(
        "rms_px",
        0.8,
        "residual",
        "the rms distance of beads from their expected positions",
        "check that nothing moved; is it this phantom?",
        "px",
    ),
    Gate(
        "loo_px",
        1.5,
        "residual",
        "the rms error of beads in a shot left out",
        "take more shots; does the C-arm bend? see flex",
        "px",
    ),
    Gate(
        "sdd_apart_mm",
        10.0,
        "mixed",
        "the spread of the source's distance from shot to shot",
        "take all shots with one setting of zoom and of the C-arm's source and detector",
        "mm",
    ),
)
_VIEWS_FOR_DISTORTION = 6
_SIGMA_SHARE = 0.01
"""Largest standard error of the source's distance, and its largest spread between shots, relative to it."""
_NEAREST, _FARTHEST = 0.40, 0.97
"""Range of depths in which beads are expected, relative to the source-to-detector distance."""
_LEAST_BEADS = 8
_BETTER = 0.85
"""A richer distortion model must reduce the error in shots left out to this share of the simpler model's."""


@dataclass(frozen=True)
class PhantomShot:
    """One image of the phantom."""

    counts: Array
    """(H, W)"""
    carm: CArm
    """Nominal."""
    start: Matrix | None = None
    """phantom_from_carm, if roughly known."""
    i0: float | None = None
    """Open-beam counts, if known."""
    timestamp_ns: int = 0
    angles_rad: tuple[float, float] | None = None
    """Orbital, angulation; kept for ``flex``."""


def carm(
    shots: Sequence[PhantomShot],
    ids: Sequence[str | int],
    beads_mm: Matrix,
    diameters_mm: Matrix,
    *,
    distortion: str = "auto",
    per_shot: bool = False,
    plate: DistortionField | None = None,
    gates: Gates | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> Calibration[CArmResult]:
    """Find SDD, principal point and distortion by least squares over all beads of all shots.

    This is the method of Zhang (IEEE PAMI 22, 2000) with a phantom that is not planar. Beads are found and identified
    without a start.

    Args:
        shots: all in one detector mode.
        ids, beads_mm, diameters_mm: the phantom's N beads; (N, 3) and (N,).
        distortion: ``none``, ``poly3`` or ``poly5``; ``auto``: the simplest that explains shots left out.
        per_shot: for a C-arm that bends: fit every shot's own C-arm and pose, with the common distortion.
        plate: distortion by angle, from ``calibrate plate``, by which shots are corrected first; none is fitted then.
        threads: that look for beads; 0: all cores.

    Raises:
        ConfigError: there are no shots, their modes differ, or the model is unknown; or the plate's distortion is for
            another mode, or for other angles.
    """
    if not shots:
        raise ConfigError("there are no shots")
    if distortion != "auto" and distortion not in MODELS:
        raise ConfigError(f"--distortion {distortion}: unknown model; known: auto, {', '.join(MODELS)}")
    nominal = shots[0].carm
    modes = {(s.carm.width_px, s.carm.height_px, s.carm.pixel_spacing_mm) for s in shots}
    if len(modes) > 1 or any(s.counts.shape != (nominal.height_px, nominal.width_px) for s in shots):
        raise ConfigError("the shots have different detector modes: size or pixel spacing differ")
    if plate is not None:
        if distortion in MODELS[1:]:
            raise ConfigError(f"--distortion {distortion}: with --plate the plate's distortion is used, and no other")
        shots, distortion = corrected(shots, plate), "none"
    identified, most_spots = _named(shots, beads_mm, diameters_mm, seed, threads, lambda share: progress(0.7 * share))
    used = [n for n, (_, seen) in enumerate(identified) if seen is not None]
    quality: dict[str, object] = {
        "n_input": len(shots),
        "n_used": len(used),
        "rejected": sorted(set(range(len(shots))) - set(used)),
        **dict.fromkeys(
            (
                *("rms_px", "max_px", "beads_used", "beads_expected", "sigma_sdd_mm", "sigma_pp_px", "loo_px"),
                *("raw_rms_px", "sdd_apart_mm"),
            )
        ),
    }
    least_views = int(
        (gates or {}).get("n_used", _VIEWS_FOR_DISTORTION if distortion in MODELS[1:] else GATES[0].limit)
    )
    figures: dict[str, float | None] = {"beads": None, "sigma_sdd_mm": None, "sigma_pp_px": None}
    in_force = {**(gates or {}), "n_used": float(least_views)}
    if reason := _unusable(len(shots), len(used), most_spots, least_views):
        return judged(CARM, GATES, in_force, figures, result=None, quality=quality, reason=reason)
    if len(used) < 2:
        return judged(CARM, GATES, in_force, figures, result=None, quality=quality)
    seen = [s for _, s in identified if s is not None]
    searched = [shot for shot, s in identified if s is not None]
    models = (
        [distortion]
        if distortion != "auto"
        else [m for m in MODELS if m == "none" or len(used) >= _VIEWS_FOR_DISTORTION]
    )
    plain = settled(searched, seen, beads_mm, diameters_mm, nominal, "none")
    quality["n_used"] = distinct = len(set(places(plain.seen)))
    models = [model for model in models if model == "none" or distinct >= _VIEWS_FOR_DISTORTION] or models[:1]
    fits = {"none": plain}
    for model in models:
        if model not in fits:
            fits[model] = settled(searched, seen, beads_mm, diameters_mm, nominal, model)
    progress(0.9)
    left_out = {model: left_out_px(fits[model], beads_mm, nominal) for model in models}
    best = models[0]
    for model in models[1:]:
        if left_out[model] < _BETTER * left_out[best]:
            best = model
    fit = fits[best]
    progress(1.0)
    own = each_by_itself(fit, beads_mm)
    quality["sdd_apart_mm"] = distances_apart_mm(own)
    bends = own if per_shot else None
    return _verdict(
        shots, used, fit, fits["none"], bends, left_out[best], ids, beads_mm, plate, quality, figures, gates or {}
    )


def corrected(shots: Sequence[PhantomShot], plate: DistortionField) -> list[PhantomShot]:
    """Shots without the distortion that a plate showed.

    Raises:
        ConfigError: it is for another mode, or not known at a shot's angles.
    """
    try:
        correction = ImageCorrection(shots[0].carm, distortion=plate)
    except CalibrationError as error:
        raise ConfigError(f"--plate: {error}") from error
    for n, shot in enumerate(shots):
        if refusal := correction.refusal(shot.angles_rad):
            raise ConfigError(f"--plate: views[{n}]: {refusal}")
    return [replace(shot, counts=correction.corrected(shot.counts, shot.angles_rad)) for shot in shots]


def _verdict(
    shots: Sequence[PhantomShot],
    used: list[int],
    fit: Fit,
    plain: Fit,
    own: list[Own] | None,
    left_out: float,
    ids: Sequence[str | int],
    beads_mm: Matrix,
    plate: DistortionField | None,
    quality: dict[str, object],
    figures: dict[str, float | None],
    overrides: Gates,
) -> Calibration[CArmResult]:
    most_mm = _SIGMA_SHARE * fit.carm.source_to_detector_mm
    limits = {"sigma_sdd_mm": most_mm, "sdd_apart_mm": most_mm}
    if fit.distortion.model != "none":
        limits["n_used"] = float(_VIEWS_FOR_DISTORTION)
    gates = {**limits, **overrides}
    off = [np.linalg.norm(off_px(fit, s, beads_mm), axis=1) for s in fit.seen]
    every = np.concatenate(off)
    expected = [int(inside(fit, s.pose, beads_mm).sum()) for s in fit.seen]
    quality |= {
        "rms_px": rms(every),
        "max_px": float(every.max()),
        "beads_used": len(every),
        "beads_expected": sum(expected),
        "sigma_sdd_mm": fit.sigma_sdd_mm,
        "sigma_pp_px": fit.sigma_pp_px,
        "covariance": fit.covariance,
        "loo_px": left_out,
        "raw_rms_px": rms(np.concatenate([np.linalg.norm(off_px(plain, s, beads_mm), axis=1) for s in plain.seen])),
    }
    figures |= {
        "beads": float(min(len(s.beads) for s in fit.seen)),
        "sigma_sdd_mm": fit.sigma_sdd_mm,
        "sigma_pp_px": float(fit.sigma_pp_px.max()),
    }
    own_at = dict(zip(used, own or [], strict=own is not None))
    seen_at = dict(zip(used, fit.seen, strict=True))
    rms_at = {place: rms(length) for place, length in zip(used, off, strict=True)}
    result = CArmResult(
        CArmGeometry.of(fit.carm),
        tuple(_shot(shot, seen_at.get(n), own_at.get(n), rms_at.get(n), ids) for n, shot in enumerate(shots)),
        _distortion(fit, plate),
    )
    pictures = [
        (
            "beads",
            {
                "counts": shots[n].counts,
                "found_px": seen.at_px,
                "off_px": off_px(fit, seen, beads_mm),
                "expected_px": fit.distortion.distorted(g.project(fit.carm, g.inverse(seen.pose), beads_mm)),
            },
        )
        for n, seen in zip(used, fit.seen, strict=True)
    ]
    return judged(CARM, GATES, gates, figures, result=result, quality=quality, pictures=pictures)


def _distortion(fit: Fit, plate: DistortionField | None) -> DistortionResult:
    if plate is not None:
        return DistortionResult("plate", field=msgspec.convert(plate.parameters(), FieldParameters))
    return DistortionResult(
        fit.distortion.model,
        tuple(fit.distortion.coefficients.tolist()),
        GRID_STEP_PX,
        tuple(tuple((u, v) for u, v in row) for row in fit.distortion.grid().tolist()),
    )


def _shot(
    shot: PhantomShot,
    seen: Seen | None,
    own: Own | None,
    rms_px: float | None,
    ids: Sequence[str | int],
) -> ShotResult:
    """Result of one shot.

    Args:
        own: its own C-arm and pose, for a C-arm that bends.
    """
    pose = own.phantom_from_carm if own is not None else seen.pose if seen is not None else None
    named = [] if seen is None else zip(seen.beads, seen.at_px.tolist(), strict=True)
    return ShotResult(
        None if pose is None else rows(pose),
        tuple(SeenBead(ids[bead], (u, v)) for bead, (u, v) in named),
        rms_px,
        shot.timestamp_ns,
        UNSET if own is None else CArmGeometry.of(own.carm),
        UNSET if shot.angles_rad is None else Angles(*shot.angles_rad),
    )


def _unusable(views: int, used: int, spots: int, least: int) -> str:
    if used == 0 and spots < _LEAST_BEADS:
        return (
            f"no_beads: at most {spots} spots in a shot look like beads, at least {_LEAST_BEADS} are needed; is the "
            "phantom in the image, are beads dark, are the pixel spacing and the beads' diameters right?"
        )
    if used == 0:
        return (
            f"no_match: up to {spots} spots look like beads, but no pose of this phantom explains {_LEAST_BEADS} of "
            "them; is it this phantom, and this pixel spacing?"
        )
    if used >= least and views - used > views / 3:
        return (
            f"{TOO_MANY_REJECTED}: in {views - used} of {views} shots the phantom was not recognised, at most a third "
            "may; bring the whole phantom into the image"
        )
    return ""


def _named(
    shots: Sequence[PhantomShot],
    beads_mm: Matrix,
    diameters_mm: Matrix,
    seed: int,
    threads: int,
    progress: Callable[[float], None],
) -> tuple[list[tuple[Shot, Seen | None]], int]:
    """Every shot with its identified beads, if any, and the largest number of spots in a shot."""

    def one(shot: PhantomShot) -> tuple[Shot, Seen | None, int]:
        return _identified(shot, beads_mm, diameters_mm, seed)

    done: list[tuple[Shot, Seen | None, int]] = []
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for each in pool.map(one, shots):
            done.append(each)
            progress(len(done) / len(shots))
    return [(shot, seen) for shot, seen, _ in done], max(count for *_, count in done)


def _identified(shot: PhantomShot, beads_mm: Matrix, diameters_mm: Matrix, seed: int) -> tuple[Shot, Seen | None, int]:
    """One shot with its identified beads, if any, and its number of spots."""
    radius = diameters_mm / 2 * shot.carm.source_to_detector_mm / min(shot.carm.pixel_spacing_mm)
    depth = np.array([_FARTHEST, _NEAREST]) * shot.carm.source_to_detector_mm
    searched = Shot(shot.counts, (float(radius.min() / depth[0]), float(radius.max() / depth[1])), shot.i0)
    spots = searched.spots()
    order = np.argsort(-spots.alike)
    match = identify(
        spots.at_px[order], spots.radius_px[order], beads_mm, diameters_mm, shot.carm, shot.start, seed=seed
    )
    if match is None:
        return searched, None, len(order)
    return searched, Seen(match.phantom_from_carm, match.beads, spots.at_px[order][match.spots]), len(order)


def glance(shot: PhantomShot, beads_mm: Matrix, diameters_mm: Matrix) -> tuple[int, float] | None:
    """How one shot looks by itself, with the C-arm as its maker says: fast, and larger than what the fit will leave.

    Args:
        beads_mm, diameters_mm: the phantom's N beads; (N, 3) and (N,).

    Returns:
        The number of beads that are identified, and their rms distance from where they are expected, px; None: the
        phantom is not recognised.
    """
    _, seen, _ = _identified(shot, beads_mm, diameters_mm, 0)
    if seen is None:
        return None
    expected_px = g.project(shot.carm, g.inverse(seen.pose), beads_mm[seen.beads])
    return len(seen.beads), rms(np.linalg.norm(expected_px - seen.at_px, axis=1))
