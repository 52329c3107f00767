"""Flex calibration: a C-arm's geometry at any angle, from shots of a fixed phantom at some angles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
from scipy.optimize import least_squares

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.artifacts import FLEX, CArmGeometry, FlexModelResult, FlexParameters, FlexResult, GeometryAt, rows
from navnode.types import CArm, Matrix
from navnode.xray.flex import BEYOND_RAD, FARTHEST_RAD, MODEL, FlexModel, kernel, turned

from .fitting import exact, rms, valid_poses
from .verdict import TOO_FEW, Calibration, Gate, Gates, judged, rejection

__all__ = ["flex"]

_MORE = "take shots closer to each other, over the whole range"
GATES = (
    Gate("n_used", 12, TOO_FEW, "the number of shots", "take more", at_least=True),
    Gate("range_rad", 1.0, "coverage", "the range of angles", "take shots over the whole range", "rad", at_least=True),
    Gate("gap_rad", 0.35, "coverage", "the largest gap between angles", _MORE, "rad"),
    Gate(
        "repeat_mm",
        1.0,
        "not_repeatable",
        "the distance between the source's positions at the same angle",
        "have the C-arm's bearings and brakes serviced",
        "mm",
    ),
    Gate("loo_mm", 1.0, "residual", "the error of the source at angles left out", _MORE, "mm"),
    Gate(
        "arm_mm",
        100.0,
        "implausible",
        "the distance from the axes that the C-arm turns about to its source",
        "are the poses in metres?",
        "mm",
        at_least=True,
    ),
)
_SAME_RAD = 0.02
_LENGTHS_RAD = (0.3, 0.6, 1.2, 2.4)
_NOISES = (0.03, 0.1, 0.3, 1.0)
"""Relative to a channel's scatter; the pair of length and noise with the smallest leave-one-out error is used."""
_SCALE = np.array([1e-3] * 3 + [1.0] * 6)


def flex(
    carms: Sequence[CArm],
    volume_from_carm: Matrix,
    angles_rad: Matrix,
    at_rad: Matrix | None = None,
    *,
    gates: Gates | None = None,
) -> Calibration[FlexResult]:
    """Model a C-arm's geometry as a function of its angles.

    Args:
        carms, volume_from_carm: geometries and poses (N, 4, 4) of N shots of one fixed phantom.
        angles_rad: (N, 2) orbital, angulation.
        at_rad: (M, 2) angles at which the geometry is wanted.

    Raises:
        ConfigError: the shots have different detector modes, or their numbers differ.
    """
    count = len(carms)
    if len(volume_from_carm) != count or np.shape(angles_rad) != (count, 2):
        raise ConfigError("every view needs volume_from_carm and angles_rad (orbital, angulation)")
    if len({(c.width_px, c.height_px, c.pixel_spacing_mm) for c in carms}) > 1:
        raise ConfigError("the views have different detector modes: size or pixel spacing differ")
    kept = np.flatnonzero(valid_poses(np.asarray(volume_from_carm, np.float64)))
    rejected = sorted(set(range(count)) - set(kept.tolist()))
    carms, volume_from_carm = [carms[int(n)] for n in kept], np.asarray(volume_from_carm, np.float64)[kept]
    angles = np.asarray(angles_rad, np.float64)[kept]
    n_input, count = count, len(kept)
    wanted = np.zeros((0, 2)) if at_rad is None else np.asarray(at_rad, np.float64).reshape(-1, 2)
    range_rad, gap_rad = _coverage(angles)
    quality: dict[str, object] = {
        "n_input": n_input,
        "n_used": count,
        "rejected": rejected,
        "range_rad": range_rad,
        "gap_rad": gap_rad,
        **dict.fromkeys(("rms_mm", "rms_rad", "rms_pp_px", "loo_mm", "rigid_rms_mm", "repeat_mm", "arm_mm")),
    }
    figures: dict[str, float | None] = {}
    result: FlexResult | None = None
    reason = ""
    pictures = []
    if count >= 4:
        poses = exact(volume_from_carm)
        repeat = _repeat_mm(poses, angles)
        base, arm = _arc(poses, angles)
        mean_carm = _mean_carm(carms)
        bends = np.array(
            [
                _bend(pose, carm, base, arm, angle, mean_carm)
                for pose, carm, angle in zip(poses, carms, angles, strict=True)
            ]
        )
        length, noise = _chosen(angles, bends)
        mean = bends.mean(axis=0)
        weights = _weights(angles, bends - mean, length, noise)
        model = FlexModel(base, arm, mean_carm, angles, weights, mean, length)
        off = bends - mean - kernel(angles, angles, length) @ weights
        left = _left_out(angles, bends, length, noise)
        quality |= {
            "rms_mm": rms(np.linalg.norm(off[:, 3:6], axis=1)),
            "rms_rad": rms(np.linalg.norm(off[:, :3], axis=1)),
            "rms_pp_px": rms(np.linalg.norm(off[:, 7:], axis=1)),
            "loo_mm": rms(np.linalg.norm(left[:, 3:6], axis=1)),
            "rigid_rms_mm": rms(np.linalg.norm(bends[:, 3:6], axis=1)),
            "repeat_mm": repeat,
            "arm_mm": float(np.linalg.norm(arm[:3, 3])),
        }
        figures["repeat_mm"] = repeat or 0.0  # without a repeated angle, repeatability cannot fail
        reason = _extrapolated(model, wanted)
        at = [] if reason else [model.at(*angle) for angle in wanted]
        result = FlexResult(
            FlexModelResult(MODEL, _parameters(model)),
            tuple(GeometryAt(CArmGeometry.of(carm), rows(pose)) for carm, pose in at),
        )
        pictures = [
            ("flex", {"angles_rad": angles, "bend": bends, "left_out_mm": np.linalg.norm(left[:, 3:6], axis=1)})
        ]
    enough = count >= (gates or {}).get("n_used", 12) and range_rad >= (gates or {}).get("range_rad", 1.0)
    reason = (rejection(n_input, len(rejected)) or reason) if enough else ""
    return judged(FLEX, GATES, gates, figures, result=result, quality=quality, reason=reason, pictures=pictures)


def _parameters(model: FlexModel) -> FlexParameters:
    return FlexParameters(
        rows(model.volume_from_base),
        rows(model.arm_from_carm),
        CArmGeometry.of(model.carm),
        tuple((float(orbital), float(angulation)) for orbital, angulation in model.angles_rad),
        tuple(tuple(each) for each in model.weights.tolist()),
        tuple(model.mean.tolist()),
        model.length_rad,
    )


def _bend(pose: Matrix, carm: CArm, base: Matrix, arm: Matrix, angle: Matrix, mean: CArm) -> Matrix:
    """Deviation of a shot from the ideal arc, (9,)."""
    off = g.log(g.inverse(base @ turned(angle) @ arm) @ pose)
    shift = np.subtract(carm.principal_point_px, mean.principal_point_px)
    return np.concatenate([off, [carm.source_to_detector_mm - mean.source_to_detector_mm], shift])


def _mean_carm(carms: Sequence[CArm]) -> CArm:
    u, v = np.mean([carm.principal_point_px for carm in carms], axis=0)
    distance_mm = float(np.mean([carm.source_to_detector_mm for carm in carms]))
    return replace(carms[0], source_to_detector_mm=distance_mm, principal_point_px=(float(u), float(v)))


def _arc(poses: Matrix, angles: Matrix) -> tuple[Matrix, Matrix]:
    """volume_from_base and arm_from_carm of the ideal arc that fits the shots best."""

    def off(parameters: Matrix, base: Matrix, arm: Matrix) -> Matrix:
        base, arm = base @ g.exp(parameters[:6]), arm @ g.exp(parameters[6:])
        left = [g.inverse(base @ turned(angle) @ arm) @ pose for pose, angle in zip(poses, angles, strict=True)]
        return np.concatenate([np.append(1000 * g.rotation_log(m[:3, :3]), m[:3, 3]) for m in left])

    best: tuple[float, Matrix, Matrix] | None = None
    for start in _starts(poses, angles):
        solution = least_squares(
            off,
            np.zeros(12),
            args=start,
            x_scale=np.tile([1e-3] * 3 + [1.0] * 3, 2),
            max_nfev=200,
            loss="soft_l1",
            xtol=1e-13,
            ftol=1e-13,
            gtol=1e-13,
        )
        if best is None or solution.cost < best[0]:
            best = solution.cost, start[0] @ g.exp(solution.x[:6]), start[1] @ g.exp(solution.x[6:])
    assert best is not None
    return best[1], best[2]


def _starts(poses: Matrix, angles: Matrix) -> list[tuple[Matrix, Matrix]]:
    """Starting arcs, about the axis of the relative rotation through the point nearest to all principal rays."""
    order = np.argsort(angles[:, 0])
    first, last = poses[order[0]], poses[order[-1]]
    turn = g.rotation_log(last[:3, :3] @ first[:3, :3].T)
    axis = turn / max(float(np.linalg.norm(turn)), 1e-9)
    centre = _nearest_to_axes(poses)
    starts = []
    for sign, spin in product((1.0, -1.0), np.arange(0, 2 * np.pi, np.pi / 2)):
        z = sign * axis
        x = np.linalg.svd(z[None])[2][1]
        base = g.rigid(np.stack([x, np.cross(z, x), z], axis=1) @ g.rotation_exp(np.array([0, 0, spin])), centre)
        middle = order[len(order) // 2]
        starts.append((base, g.inverse(base @ turned(angles[middle])) @ poses[middle]))
    return starts


def _nearest_to_axes(poses: Matrix) -> Matrix:
    """The point nearest to all principal rays."""
    rays = poses[:, :3, 2]
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    aimed = np.einsum("nij,nj->i", across, poses[:, :3, 3])
    return np.asarray(np.linalg.lstsq(across.sum(axis=0), aimed, None)[0])


def _weights(angles: Matrix, centred: Matrix, length: float, noise: float) -> Matrix:
    return np.asarray(np.linalg.solve(kernel(angles, angles, length) + noise**2 * np.eye(len(angles)), centred))


def _left_out(angles: Matrix, bends: Matrix, length: float, noise: float) -> Matrix:
    """Errors (N, 9) of each shot, predicted without those at the same angle."""
    off = np.empty_like(bends)
    for n, angle in enumerate(angles):
        rest = np.linalg.norm(angles - angle, axis=1) > _SAME_RAD
        if not rest.any():
            off[n] = np.nan
            continue
        mean = bends[rest].mean(axis=0)
        weights = _weights(angles[rest], bends[rest] - mean, length, noise)
        off[n] = bends[n] - mean - (kernel(angle[None], angles[rest], length) @ weights)[0]
    return off


def _chosen(angles: Matrix, bends: Matrix) -> tuple[float, float]:
    """Length and noise of the process with the smallest leave-one-out error."""

    def error(pair: tuple[float, float]) -> float:
        return float(np.mean(np.square(_left_out(angles, bends, *pair) / _SCALE)))

    return min(product(_LENGTHS_RAD, _NOISES), key=error)


def _coverage(angles: Matrix) -> tuple[float, float]:
    """Range and largest gap of the angle that varies most."""
    ranges = np.ptp(angles, axis=0) if len(angles) else np.zeros(2)
    main = int(np.argmax(ranges))
    gap = float(np.diff(np.sort(angles[:, main])).max(initial=0.0)) if len(angles) > 1 else 0.0
    return float(ranges[main]), gap


def _repeat_mm(poses: Matrix, angles: Matrix) -> float | None:
    """Largest distance between two positions of the source at the same angle; None if no angle is repeated."""
    pairs = combinations(zip(poses[:, :3, 3], angles, strict=True), 2)
    distances = [float(np.linalg.norm(p - q)) for (p, a), (q, b) in pairs if np.abs(a - b).max() <= _SAME_RAD]
    return max(distances, default=None)


def _extrapolated(model: FlexModel, wanted: Matrix) -> str:
    for angle in wanted:
        if model.covers(*angle):
            continue
        beyond, nearest = model.apart_rad(*angle)
        if beyond > BEYOND_RAD:
            off = f"{beyond:.2g} rad outside the shots' range, at most {BEYOND_RAD:g}"
        else:
            off = f"{nearest:.2g} rad from the nearest shot, at most {FARTHEST_RAD:g}"
        return f"extrapolation: ({angle[0]:.3g}, {angle[1]:.3g}) rad is {off} rad is allowed; take shots there, too"
    return ""
