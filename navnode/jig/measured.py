"""Measures a built jig from X-rays of it: beads and geometries together, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.errors import ComputeError, ConfigError
from navnode.files.whole import refuse_existing
from navnode.files.xrays import read_counts
from navnode.jig.layout import Jig, read_jig, strains, write_jig
from navnode.jig.located import Located, locate, why_unfound
from navnode.jig.requests import JigCheckRequest
from navnode.types import Matrix

__all__ = ["JigReport", "LEAST_PICTURES", "check", "measured"]

LEAST_PICTURES = 4
LEAST_APART_DEG = 60.0
"""Of the pictures' directions; those from opposite sides count as one."""
BUILT_MM = 0.5
"""1-sigma of a hand-built jig's beads."""
MAX_SIGMA_MM = 0.1
"""Of a bead in a jig that is written."""
_MOST_OFF_SCALE, _MOST_NAMED = 0.02, 2
"""Share by which no printed or drilled jig differs from its layout; pictures whose reasons are told."""
_LIKE_A_BALL = 0.3
"""How near a difference is to a ball's diameter, as a share of it, where edges were measured instead of middles."""
_CENTER_SIGMA = 0.12
_SPOT_PX = 0.1
_LEAST_SEEN = 3
_STEPS = 30
_ROBUST = 3.0
"""Sigmas from which a bead counts less, until the last steps."""
_MOST_OFF = 4.0
"""A bead farther from its place than so many times the median is left out of a picture."""


class JigReport(msgspec.Struct, frozen=True):
    """What a built jig is."""

    name: str
    pictures: int
    used: int
    refused: tuple[str, ...]
    """Of each picture that was not located, why."""
    beads: int
    left_out: tuple[str, ...]
    """Beads that were seen in too few pictures, and are not in the jig as measured."""
    residual_px: float
    sigma_mm: float
    """rms over the beads of the 1-sigma of a coordinate; without a known distance, apart from the scale."""
    off_mm: float
    """rms distance from where the beads were laid out."""
    worst: str
    worst_mm: float
    scale: str
    """What it rests on."""


@dataclass(frozen=True)
class Measured:
    """A built jig."""

    jig: Jig
    residual_px: float
    sigma_mm: float
    off_mm: Matrix
    """(beads,) distances from the layout."""
    left_out: tuple[str, ...]


def check(request: JigCheckRequest, progress: Callable[[float], None] = lambda share: None) -> JigReport:
    """Measure a built jig from files.

    Raises:
        ConfigError: a file cannot be read, a bead of the distance is unknown, or the output exists.
        ComputeError: too few pictures show the jig, or its beads are not known well enough.
    """
    jig = read_jig(request.jig)
    if request.out is not None:
        refuse_existing(request.out)
    distance = request.known_distance()
    for name in distance[:2] if distance else ():
        if name not in jig.ids:
            raise ConfigError(f"--distance {request.distance}: {request.jig} has no bead {name!r}")
    rough = replace(jig, sigma_mm=max(jig.sigma_mm, BUILT_MM), measured=False)
    found, refused = [], []
    for number, path in enumerate(request.pictures):
        counts = read_counts(path)
        one = locate(counts, rough)
        if one.beads:
            found.append(one)
        else:
            refused.append(f"{path.name}: {why_unfound(counts, rough, one)}")
        progress((number + 1) / (len(request.pictures) + 1))
    if len(found) < LEAST_PICTURES:
        raise ComputeError("; ".join([_too_few(len(found)), *refused[:_MOST_NAMED]]))
    result = measured(found, jig, distance)
    if request.out is not None:
        write_jig(request.out, result.jig)
    worst = int(result.off_mm.argmax())
    return JigReport(
        name=jig.name,
        pictures=len(request.pictures),
        used=len(found),
        refused=tuple(refused),
        beads=len(result.jig.ids),
        left_out=result.left_out,
        residual_px=result.residual_px,
        sigma_mm=result.sigma_mm,
        off_mm=float(np.sqrt(np.mean(result.off_mm**2))),
        worst=result.jig.ids[worst],
        worst_mm=float(result.off_mm[worst]),
        scale=f"the distance {request.distance}" if distance else "the layout: measure one distance for --distance",
    )


def _too_few(pictures: int) -> str:
    return f"{pictures} pictures show the jig; {LEAST_PICTURES} are needed"


def measured(pictures: Sequence[Located], jig: Jig, distance: tuple[str, str, float] | None = None) -> Measured:
    """The jig as it was built.

    Every picture has its own focal length, principal point and pose. The frame is the layout's, where it fits best.

    Args:
        pictures: located with ``jig``.
        distance: two beads and how far their middles are apart, mm; None: the scale is the layout's.

    Raises:
        ComputeError: too few pictures, from too few directions, or the beads are not known well enough.
    """
    if len(pictures) < LEAST_PICTURES:
        raise ComputeError(_too_few(len(pictures)))
    rays = np.stack([each.jig_from_carm[:3, 2] for each in pictures])
    apart_deg = float(np.rad2deg(np.arccos(np.clip(np.abs(rays @ rays.T).min(), 0.0, 1.0))))
    if apart_deg < LEAST_APART_DEG:
        raise ComputeError(f"directions differ by {apart_deg:.0f} degrees only; {LEAST_APART_DEG:.0f} are needed")
    fit = _Adjusted(pictures, jig)
    points, covariance, rms_px = fit.solved()
    named = [n for n, seen in enumerate(fit.seen) if seen >= _LEAST_SEEN]
    left_out = tuple(jig.ids[n] for n in range(len(jig.ids)) if n not in named)
    scale = 1.0
    if distance is not None:
        first, second = (jig.ids.index(name) for name in distance[:2])
        if first not in named or second not in named:
            raise ComputeError(f"the beads {distance[0]} and {distance[1]} are not both seen in {_LEAST_SEEN} pictures")
        seen_mm = float(np.linalg.norm(points[first] - points[second]))
        _check_stated(distance, float(np.linalg.norm(jig.positions_mm[first] - jig.positions_mm[second])))
        _check_middles(distance, seen_mm, jig.diameter_mm)
        scale = distance[2] / seen_mm
    layout = jig.positions_mm[named]
    points = _onto(points[named] * scale, layout, scaled=distance is None)
    sigma_mm, own_mm, strain = _uncertain(covariance, fit.points[named], named)
    fixed = _scaled_strain(layout if distance is None else points[[named.index(first), named.index(second)]], distance)
    if not sigma_mm <= MAX_SIGMA_MM:
        raise ComputeError(f"beads are known to {sigma_mm:.2f} mm, {MAX_SIGMA_MM:g} are needed: take more pictures")
    built = replace(
        jig,
        ids=tuple(jig.ids[n] for n in named),
        positions_mm=points,
        sigma_mm=round(max(own_mm, 0.005), 4),
        measured=True,
        strain_covariance=fixed @ strain @ fixed.T,
    )
    return Measured(built, rms_px, sigma_mm, np.linalg.norm(points - layout, axis=1), left_out)


def _check_stated(distance: tuple[str, str, float], layout_mm: float) -> None:
    """Raises ComputeError where a stated distance cannot be one of this jig: all models would be wrong by as much."""
    if abs(distance[2] / layout_mm - 1) > _MOST_OFF_SCALE:
        first, second, stated_mm = distance
        apart = f"{first} and {second} are {stated_mm:g} mm apart, {layout_mm:.1f} mm in the layout"
        raise ComputeError(f"--distance: {apart}: is it this jig, in mm, from middle to middle?")


def _check_middles(distance: tuple[str, str, float], seen_mm: float, diameter_mm: float) -> None:
    """Raises ComputeError where a stated distance differs by a ball from that in the pictures (layout's scale)."""
    off_mm = distance[2] - seen_mm
    if abs(abs(off_mm) / diameter_mm - 1) < _LIKE_A_BALL:
        first, second, stated_mm = distance
        apart = f"{first} and {second} are {stated_mm:g} mm apart, {seen_mm:.1f} mm in the pictures"
        raise ComputeError(f"--distance: {apart}: the difference is a ball's diameter; middle to middle is meant")


class _Adjusted:
    """Beads and geometries of all pictures; the layout, to within building, fixes frame and scale."""

    def __init__(self, pictures: Sequence[Located], jig: Jig) -> None:
        self.points = jig.positions_mm.copy()
        self.poses = [g.inverse(each.jig_from_carm) for each in pictures]
        self.focal = np.array([each.focal_px for each in pictures])
        self.center = np.array([each.carm.principal_point_px for each in pictures])
        sizes = np.array([(each.carm.width_px, each.carm.height_px) for each in pictures], float)
        self.middle, self.side = (sizes - 1) / 2, sizes.max(axis=1)
        views, beads, spots = [], [], []
        for n, each in enumerate(pictures):
            assert each.spots_px is not None
            at = each.spots_px.copy()
            if each.mirrored:
                at[:, 0] = each.carm.width_px - 1 - at[:, 0]
            views += [n] * len(at)
            beads += [jig.ids.index(name) for name in each.ids]
            spots.append(at)
        self.view, self.bead, self.spot_px = np.array(views), np.array(beads), np.concatenate(spots)
        self.layout = jig.positions_mm
        self.used = np.ones(len(self.view), bool)
        self.robust = True

    @property
    def seen(self) -> Matrix:
        """(N,) in how many pictures each bead is used."""
        return np.bincount(self.bead[self.used], minlength=len(self.points)).astype(float)

    def _seen(self) -> tuple[Matrix, Matrix]:
        """Where the beads are by now: px (observations, 2), and in each C-arm's frame, mm (observations, 3)."""
        poses = np.stack(self.poses)[self.view]
        at = np.einsum("nij,nj->ni", poses[:, :3, :3], self.points[self.bead]) + poses[:, :3, 3]
        return self.center[self.view] + self.focal[self.view, None] * at[:, :2] / at[:, 2:], at

    def _normal(self) -> tuple[Matrix, Matrix]:
        """Normal equations of a step: beads outlying by sigmas count less (Cauchy)."""
        seen_px, at = self._seen()
        off = (self.spot_px - seen_px) / _SPOT_PX
        views, count = len(self.poses), len(off)
        scale = self.focal[self.view] / at[:, 2]
        by_at = np.zeros((count, 2, 3))
        by_at[:, 0, 0] = by_at[:, 1, 1] = scale
        by_at[:, :, 2] = -scale[:, None] * at[:, :2] / at[:, 2:]
        poses = np.stack(self.poses)[self.view]
        arm = at - poses[:, :3, 3]
        by_own = np.zeros((count, 2, 9))
        for axis in range(3):
            by_own[:, :, axis] = np.einsum("nij,nj->ni", by_at, np.cross(np.eye(3)[axis], arm)) * 0.01
        by_own[:, :, 3:6] = 5.0 * by_at
        by_own[:, :, 6] = 0.05 * (seen_px - self.center[self.view])
        by_own[:, [0, 1], [7, 8]] = 20.0
        by_point = by_at @ poses[:, :3, :3]
        size = 9 * views + self.points.size
        jacobian = np.zeros((count, 2, size))
        rows = np.arange(count)
        for n in range(9):
            jacobian[rows, :, 9 * self.view + n] = by_own[:, :, n]
        for n in range(3):
            jacobian[rows, :, 9 * views + 3 * self.bead + n] = by_point[:, :, n]
        squared = (off**2).sum(axis=1)
        weight = np.where(self.used, 1 / (1 + squared / _ROBUST**2), 0.0) if self.robust else self.used * 1.0
        flat = (jacobian / _SPOT_PX).reshape(-1, size)
        twice = np.repeat(weight, 2)
        information = (flat * twice[:, None]).T @ flat
        gradient = flat.T @ (twice * off.ravel())
        prior, pull = np.zeros(size), np.zeros(size)
        for n in (0, 1):
            own = 9 * np.arange(views) + 7 + n
            sigma = _CENTER_SIGMA * self.side
            prior[own] = (20.0 / sigma) ** 2
            pull[own] = 20.0 * (self.middle - self.center)[:, n] / sigma**2
        prior[9 * views :] = 1 / BUILT_MM**2
        pull[9 * views :] = (self.layout - self.points).ravel() / BUILT_MM**2
        return information + np.diag(prior), gradient + pull

    def solved(self) -> tuple[Matrix, Matrix, float]:
        """Beads (N, 3), covariance of them (3N, 3N), and the rms distance in px."""
        count = 9 * len(self.poses)
        for step in range(_STEPS):
            self.robust = step < _STEPS - 8
            if step == _STEPS - 8:
                off = np.linalg.norm(self.spot_px - self._seen()[0], axis=1)
                self.used = off <= max(_MOST_OFF * float(np.median(off)), 0.2)
            information, gradient = self._normal()
            # Less, once it is near: what focal lengths and a shear of the jig share is a millionth of the rest.
            damped = information + (1e-6 if self.robust else 1e-13) * np.diag(np.diag(information))
            x = np.linalg.solve(damped, gradient)
            own = np.clip(x[:count].reshape(-1, 9), -5, 5)
            self.poses = [_stepped(pose, each) for pose, each in zip(self.poses, own, strict=True)]
            self.focal, self.center = self.focal * np.exp(0.05 * own[:, 6]), self.center + 20.0 * own[:, 7:]
            self.points = self.points + np.clip(x[count:].reshape(-1, 3), -5, 5)
        off = np.linalg.norm(self.spot_px - self._seen()[0], axis=1)[self.used]
        rms_px = float(np.sqrt(np.mean(off**2)))
        free = 2 * len(off) - count - 3 * int((self.seen > 0).sum())
        sigma_px = float(np.sqrt((off**2).sum() / max(free, 1)))
        covariance = np.linalg.inv(self._normal()[0]) * max(1.0, (sigma_px / _SPOT_PX) ** 2)
        return self.points, np.asarray(covariance[count:, count:], np.float64), rms_px


def _stepped(carm_from_jig: Matrix, step: Matrix) -> Matrix:
    """A pose after a step about the jig's middle, in units of 0.01 rad and 5 mm."""
    motion = g.exp(step[:6] * np.array([0.01] * 3 + [5.0] * 3), carm_from_jig[:3, 3])
    return np.asarray(motion @ carm_from_jig)


def _onto(points: Matrix, layout: Matrix, *, scaled: bool) -> Matrix:
    """The points moved rigidly, or by a similarity, to where they fit the layout best."""
    a, b = points - points.mean(axis=0), layout - layout.mean(axis=0)
    u, s, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(u @ vt)))])
    scale = float((s * np.diag(sign)).sum() / (a**2).sum()) if scaled else 1.0
    return np.asarray(scale * a @ u @ sign @ vt + layout.mean(axis=0))


def _uncertain(covariance: Matrix, points: Matrix, named: list[int]) -> tuple[float, float, Matrix]:
    """How well the named beads are known: rms 1-sigma of their coordinates, mm, apart from the frame and the scale; of
    each by itself, apart from how all are stretched and sheared together; and the covariance (6, 6) of that.

    Pictures tell the stretch and shear of a jig far worse than its beads' places beside each other: focal lengths and
    principal points make up for them."""
    rows = (3 * np.array(named)[:, None] + np.arange(3)).ravel()
    own = covariance[np.ix_(rows, rows)]
    about = points - points.mean(axis=0)
    rigid = np.hstack([np.tile(np.eye(3), (len(named), 1)), np.concatenate([-g.skew(point) for point in about])])
    affine = np.hstack([rigid, strains(points)])
    inverse = np.linalg.pinv(affine)[6:]

    def apart_from(gauge: Matrix) -> float:
        basis = np.linalg.qr(gauge)[0]
        kept = np.eye(len(rows)) - basis @ basis.T
        return float(np.sqrt(np.trace(kept @ own @ kept) / len(rows)))

    return apart_from(np.hstack([rigid, about.reshape(-1, 1)])), apart_from(affine), inverse @ own @ inverse.T


def _scaled_strain(points: Matrix, distance: tuple[str, str, float] | None) -> Matrix:
    """(6, 6): what is left of strains once the scale is fixed: along two points (2, 3), by a distance, or the mean."""
    if distance is None:
        along = np.array([1, 1, 1, 0, 0, 0]) / 3
    else:
        x, y, z = (points[0] - points[1]) / np.linalg.norm(points[0] - points[1])
        along = np.array([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z])
    return np.eye(6) - np.outer([1, 1, 1, 0, 0, 0], along)
