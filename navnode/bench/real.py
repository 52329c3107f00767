"""Bones in real X-rays, whose true poses nobody knows: judged by the pictures themselves, and by reference poses.

A folder holds ``views_INSTANT.json``, two pictures each; ``BONE.nii.gz``; ``reference_poses.json``, which is no truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.bench.registration import Rate, Spread, rate, spread
from navnode.errors import ConfigError
from navnode.files.bodies import read_bone
from navnode.files.views import read_views
from navnode.registration.bodies import Body, BodyFit, BodyRegistration, Shot
from navnode.types import CArm, FloatArray, Matrix, Progress, Status, Volume

__all__ = ["BONES", "RealReport", "outline_px", "run"]

BONES = ("radius", "ulna")

_NEAR_MM, _NEAR_DEG = 15.0, 15.0
_SAME_DEG = 1.0
_SAME_MM, _WRONG_MM, _NEAR_REFERENCE = 0.3, 2.0, (0.5, 2.5)
"""Ends that are one; farther from the reference is wrong; within (mm, degrees) of it is right."""
_SIGMAS = 1.96
_BLUR_PX, _REACH_PX, _STRONG = 2.0, 20, 0.5
"""Edges: smoothing, how far they are looked for, and least strength by that usual along outlines."""
_LEAST_RISE = 1e-3
"""Of the logarithm, a pixel: less is no edge anywhere."""
_CUT_PX = 12
"""Outlines so near to where a shaft was cut are not in the pictures."""
_SAID_AS_SHADOW = 0.1
"""Line integral at a bone's outline."""
_BONE = re.compile(r"[a-z]{1,32}[0-9]{0,2}")


class BoneFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One bone at one instant."""

    bone: str
    instant: str
    status: str
    reason: str
    """Without a start, in two views."""
    reference_mm: float
    reference_deg: float
    """From the reference pose."""
    outline_px: list[float]
    """Median distance of its outline from edges of each picture."""
    chance_px: list[float]
    """The same of outlines that are shifted by 30 px: what edges anywhere give."""
    ends_together: Rate
    """Ends of starts nearby within 0.3 mm of their median, in two views."""
    ends_near_reference: Rate
    """Within 0.5 mm and 2.5 degrees of the reference."""
    valid: Rate
    wrong_valid: Rate
    """VALID and over 2 mm from the reference, of all that is VALID."""
    one_view_across_mm: Spread
    """One view alone, across its own rays, from the two views' pose."""
    one_view_other_px: Spread
    """The bone's center in the other picture, predicted by one view alone, from where the two views have it."""
    one_view_holds: Rate
    """Of these predictions, how many lie within the stated 95 % interval along both axes of the picture."""
    one_view_status: dict[str, int]


class RealReport(msgspec.Struct, frozen=True, kw_only=True):
    """All bones of a folder."""

    bones: list[BoneFigures]
    starts: int


@dataclass
class _Ends:
    """Where starts of one bone ended."""

    fits: list[BodyFit] = field(default_factory=list)
    across_mm: list[float] = field(default_factory=list)
    other_px: list[float] = field(default_factory=list)
    holds: list[bool] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)


def run(folder: Path, bones: Sequence[str], starts: int, threads: int, seed: int, progress: Progress) -> RealReport:
    """Register the bones of a folder, from nowhere and from starts nearby, in two views and in one.

    Args:
        bones: names of files, without their ending.
        starts: of every bone and instant; a quarter of them in one view.

    Raises:
        ConfigError: a file is missing, or cannot be used.
    """
    volumes = {name: _bone(folder, name) for name in bones}
    reference = _references(folder / "reference_poses.json")
    views = sorted(folder.glob("views_*.json"))
    if not views:
        raise ConfigError(f"{folder}: no views_INSTANT.json")
    rows: list[BoneFigures] = []
    for number, path in enumerate(views):
        instant = path.stem.removeprefix("views_")
        shots = [Shot(view.counts(), view.carm, view.pose()) for view in read_views(path)]
        known = {name: pose for name, pose in reference.get(instant, {}).items() if name in volumes}
        if len(shots) != 2 or not known:
            raise ConfigError(f"{path}: two views, and reference poses of {', '.join(bones)} are needed")
        part = _instant(instant, shots, {name: volumes[name] for name in known}, known, starts, threads, seed)
        for share, done in part:
            progress((number + share) / len(views))
            rows += done
    progress(1.0)
    return RealReport(bones=rows, starts=starts)


def _instant(
    instant: str,
    shots: Sequence[Shot],
    volumes: dict[str, Volume],
    reference: dict[str, Matrix],
    starts: int,
    threads: int,
    seed: int,
) -> Any:
    """Yields the share that is done, and what is finished."""
    bodies = [Body.of(volume, None, name, 1) for name, volume in volumes.items()]
    registration = BodyRegistration(shots, threads)
    fits = registration.register(bodies, [None] * len(bodies))
    yield 0.1, []
    rng = np.random.default_rng(seed)
    ends = {body.name: _Ends() for body in bodies}
    for number in range(starts):
        near = [reference[body.name] @ _off(body, rng) for body in bodies]
        _end(registration, bodies, near, ends)
        if number % 4 == 0:
            for view in range(2):
                _in_one(shots, view, bodies, near, [reference[body.name] for body in bodies], ends, threads)
        yield 0.1 + 0.9 * (number + 1) / starts, []
    done = []
    for body, fit in zip(bodies, fits, strict=True):
        best = fit.world_from_body
        outlines = [_outline(volumes[body.name], body, shot, best) for shot in shots]
        done.append(_figures(instant, body, fit, reference[body.name], ends[body.name], outlines))
    yield 1.0, done


def _off(body: Body, rng: np.random.Generator) -> Matrix:
    """A motion about a body's center, uniform in the balls of what starts may be off."""
    turn, shift = rng.normal(size=(2, 3))
    turn *= np.deg2rad(_NEAR_DEG) * rng.random() ** (1 / 3) / np.linalg.norm(turn)
    shift *= _NEAR_MM * rng.random() ** (1 / 3) / np.linalg.norm(shift)
    return g.exp(np.concatenate([turn, shift]), body.center_mm)


def _end(
    registration: BodyRegistration, bodies: Sequence[Body], near: Sequence[Matrix], ends: dict[str, _Ends]
) -> None:
    """Where starts end; a place is judged once, since that takes longest."""
    found = [registration.find(body, start) for body, start in zip(bodies, near, strict=True)]
    poses = registration.together(bodies, [places[0].world_from_body for places in found]).poses
    fits = [_judged(ends[body.name].fits, body, pose) for body, pose in zip(bodies, poses, strict=True)]
    if any(fit is None for fit in fits):
        fits = list(registration.register(bodies, near))
    for fit in fits:
        if fit is not None:
            ends[fit.name].fits.append(fit)


def _judged(before: Sequence[BodyFit], body: Body, pose: Matrix) -> BodyFit | None:
    """A pose with the verdict on the same place; None: it is another place."""
    for fit in before:
        mm, deg = _apart(body, fit.world_from_body, pose)
        if mm <= _SAME_MM and deg <= _SAME_DEG:
            return replace(fit, world_from_body=pose)
    return None


def _in_one(
    shots: Sequence[Shot],
    view: int,
    bodies: Sequence[Body],
    near: Sequence[Matrix],
    reference: Sequence[Matrix],
    ends: dict[str, _Ends],
    threads: int,
) -> None:
    """What one view alone says of the other's picture."""
    own, other = shots[view], shots[1 - view]
    for body, true, fit in zip(bodies, reference, BodyRegistration([own], threads).register(bodies, near), strict=True):
        found = ends[body.name]
        found.status[fit.validity.status.value] = found.status.get(fit.validity.status.value, 0) + 1
        if not fit.validity.usable:
            continue
        off_mm = g.transform(fit.world_from_body, body.center_mm) - g.transform(true, body.center_mm)
        found.across_mm.append(float(np.linalg.norm(off_mm @ own.world_from_carm[:3, :2])))
        carm_from_world = g.inverse(other.world_from_carm)
        here_px, there_px = (
            g.project(other.carm, carm_from_world @ pose, body.center_mm[None])[0]
            for pose in (fit.world_from_body, true)
        )
        shift = carm_from_world[:3, :3] @ fit.world_from_body[:3, :3]
        depth_mm = float(g.transform(carm_from_world @ fit.world_from_body, body.center_mm)[2])
        per_mm = other.carm.source_to_detector_mm / depth_mm / np.array(other.carm.pixel_spacing_mm)
        sigma_px = per_mm * np.sqrt(np.diag(shift @ fit.covariance[3:, 3:] @ shift.T))[:2]
        found.other_px.append(float(np.linalg.norm(here_px - there_px)))
        found.holds.append(bool((np.abs(here_px - there_px) <= _SIGMAS * sigma_px).all()))


def _figures(
    instant: str,
    body: Body,
    fit: BodyFit,
    reference: Matrix,
    ends: _Ends,
    outlines: Sequence[tuple[float, float]],
) -> BoneFigures:
    centers_mm = np.array([g.transform(each.world_from_body, body.center_mm) for each in ends.fits])
    together = np.linalg.norm(centers_mm - np.median(centers_mm, axis=0), axis=1) <= _SAME_MM
    off = [_apart(body, reference, each.world_from_body) for each in ends.fits]
    near = sum(mm <= _NEAR_REFERENCE[0] and deg <= _NEAR_REFERENCE[1] for mm, deg in off)
    valid = [mm for (mm, _), each in zip(off, ends.fits, strict=True) if each.validity.status is Status.VALID]
    mm, deg = _apart(body, reference, fit.world_from_body)
    return BoneFigures(
        bone=body.name,
        instant=instant,
        status=fit.validity.status.value,
        reason=fit.validity.reason,
        reference_mm=round(mm, 3),
        reference_deg=round(deg, 2),
        outline_px=[round(px, 2) for px, _ in outlines],
        chance_px=[round(px, 2) for _, px in outlines],
        ends_together=rate(int(together.sum()), len(together)),
        ends_near_reference=rate(near, len(off)),
        valid=rate(len(valid), len(off)),
        wrong_valid=rate(sum(each > _WRONG_MM for each in valid), len(valid)),
        one_view_across_mm=spread(ends.across_mm or [np.nan]),
        one_view_other_px=spread(ends.other_px or [np.nan]),
        one_view_holds=rate(sum(ends.holds), len(ends.holds)),
        one_view_status=ends.status,
    )


def _apart(body: Body, one: Matrix, other: Matrix) -> tuple[float, float]:
    """How far two poses are apart: mm at the center, degrees."""
    off = g.log(g.inverse(one) @ other, body.center_mm)
    return float(np.linalg.norm(off[3:])), float(np.rad2deg(np.linalg.norm(off[:3])))


# --- outlines ----------------------------------------------------------------------------------------


def _outline(volume: Volume, body: Body, shot: Shot, world_from_body: Matrix) -> tuple[float, float]:
    """Median distance (px) of a bone's outline from edges of a picture: where it is, and shifted by chance."""
    shadow = body.shadow(shot.carm, shot.world_from_carm, world_from_body)
    if shadow is None:
        return float("nan"), float("nan")
    line = np.zeros(shot.counts.shape, np.float32)
    line[shadow.part] = shadow.line
    cut = _cut(volume, shot.carm, g.inverse(shot.world_from_carm) @ world_from_body, line.shape)
    return outline_px(line, shot.counts, cut), outline_px(np.roll(line, (30, 30), (0, 1)), shot.counts, cut)


def outline_px(line: FloatArray, counts: npt.NDArray[np.generic], cut: npt.NDArray[np.bool_]) -> float:
    """Median distance (px) of a shadow's outline from the nearest edge along its normals that is dark inside.

    Edges that are weak, beside what is usual along this outline, count as none; where there is none within 20 px, that
    is the distance.

    Args:
        line: (H, W), line integrals of the shadow.
        counts: (H, W), the picture.
        cut: (H, W), where the outline is none of the bone's.
    """
    shape = cv2.GaussianBlur(line, (0, 0), 1.0)
    inside = (shape > _SAID_AS_SHADOW).astype(np.uint8)
    rim = (inside > 0) & (cv2.erode(inside, np.ones((3, 3), np.uint8)) == 0) & ~cut
    v, u = np.nonzero(rim)
    if not len(v):
        return float("nan")
    inward = np.stack(
        [
            cv2.Sobel(cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 3.0), cv2.CV_32F, *axis)
            for axis in ((1, 0), (0, 1))
        ]
    )[:, v, u]
    inward /= np.maximum(np.linalg.norm(inward, axis=0), 1e-9)
    grey = cv2.GaussianBlur(-np.log(np.asarray(counts, np.float32) + 2.0), (0, 0), _BLUR_PX)
    steps = np.arange(-_REACH_PX, _REACH_PX + 1)
    columns = (u + steps[:, None] * inward[0]).astype(np.float32)
    rows = (v + steps[:, None] * inward[1]).astype(np.float32)
    profile = cv2.remap(grey, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rise = np.gradient(profile, axis=0)
    peak = np.zeros(rise.shape, bool)
    peak[1:-1] = (rise[1:-1] >= rise[:-2]) & (rise[1:-1] >= rise[2:])
    strong = peak & (rise > max(_STRONG * float(np.median(rise.max(axis=0))), _LEAST_RISE))
    distance = np.where(strong, np.abs(steps)[:, None], _REACH_PX).min(axis=0)
    return float(np.median(distance))


def _cut(volume: Volume, carm: CArm, carm_from_body: Matrix, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Where the last slices of a volume are, (H, W): there a shaft was cut."""
    near = np.zeros(shape, np.uint8)
    for slice_ in (0, len(volume.voxels) - 1):
        j, i = np.nonzero(volume.voxels[slice_] > 0)
        if not len(i):
            continue
        points = g.transform(volume.volume_from_index, np.stack([i, j, np.full(len(i), slice_)], axis=1).astype(float))
        for u, v in np.rint(g.project(carm, carm_from_body, points)).astype(int):
            if 0 <= v < shape[0] and 0 <= u < shape[1]:
                near[v, u] = 1
    return np.asarray(cv2.dilate(near, np.ones((2 * _CUT_PX + 1,) * 2, np.uint8)) > 0)


# --- files -------------------------------------------------------------------------------------------


def _bone(folder: Path, name: str) -> Volume:
    if not _BONE.fullmatch(name):
        raise ConfigError(f"--bone {name}: the name of a file in the folder, without .nii.gz")
    path = folder / f"{name}.nii.gz"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    return read_bone(path)


def _references(path: Path) -> dict[str, dict[str, Matrix]]:
    try:
        found = json.loads(path.read_text())["reference"]
        return {
            instant: {name: np.array(each["world_from_body"], float).reshape(4, 4) for name, each in bones.items()}
            for instant, bones in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as reference poses ({error})") from error
