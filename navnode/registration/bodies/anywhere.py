"""Finds a body in views without a start, or far from it: all shifts at once, for one rotation after another.

For every rotation the body's edges are correlated with every view's by Fourier transforms, normalised, and peaks of one
view are carried along their rays into the others. What is found is then refined (:mod:`joint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from navnode import geometry as g
from navnode.registration.bodies.body import Body
from navnode.registration.bodies.picture import Picture, compressed, edges, soft_limit
from navnode.types import Array, CArm, FloatArray, Matrix

__all__ = ["Found", "apart", "distinct", "rotations_everywhere", "rotations_near", "search"]

_PEAKS = 24
_LEAST_LIKENESS = 0.2
_LEAST_SEEN = 0.6
"""Share of a body that a view must show."""
_DEPTH_STEP_MM = 2.5
_KEPT_PER_ROTATION = 2


@dataclass(frozen=True)
class Found:
    """A pose, and how much the views look like it."""

    world_from_body: Matrix
    """4x4."""
    likeness: float
    """-1..1."""


def rotations_near(rotation: Matrix, within_rad: float, step_rad: float) -> list[Matrix]:
    """Rotations around one (3, 3), on a grid."""
    count = int(np.ceil(within_rad / step_rad))
    axis = step_rad * np.arange(-count, count + 1)
    turns = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return [rotation @ g.rotation_exp(turn) for turn in turns[np.linalg.norm(turns, axis=1) <= within_rad + 1e-9]]


def rotations_everywhere(count: int, attempt: int = 0) -> list[Matrix]:
    """Rotations (3, 3) spread evenly over all (super-Fibonacci spirals: Alexa, CVPR 2022).

    Args:
        attempt: every one has rotations between those of the others.
    """
    s = np.arange(count) + 0.5
    t, root, psi = s / count, np.sqrt(2.0), 1.533751168755204288118041
    r, big = np.sqrt(t), np.sqrt(1 - t)
    a, b = 2 * np.pi * s / root, 2 * np.pi * s / psi
    quaternions = np.stack([r * np.sin(a), r * np.cos(a), big * np.sin(b), big * np.cos(b)], axis=1)
    turned = Rotation.random(random_state=attempt) if attempt else Rotation.identity()
    return list((turned * Rotation.from_quat(quaternions)).as_matrix())


def search(
    body: Body,
    pictures: Sequence[Picture],
    rotations: Sequence[Matrix],
    center_mm: Matrix,
    reach_mm: float,
    threads: int = 2,
) -> list[Found]:
    """Poses of a body that the views look like, best first.

    Args:
        rotations: of ``world_from_body``, (3, 3) each.
        center_mm: (3,), in the world, near the body's center.
        reach_mm: how far from there its center may be.
    """
    windows = [window for picture in pictures if (window := _Window.around(picture, body, center_mm, reach_mm))]
    if not windows:
        return []

    def tried(rotation: Matrix) -> list[Found]:
        return _placed(body, windows, rotation, center_mm, reach_mm)

    with ThreadPoolExecutor(threads) as pool:
        found = [each for some in pool.map(tried, rotations) for each in some]
    return sorted(found, key=lambda each: -each.likeness)


def apart(body: Body, one: Matrix, other: Matrix, ray: Matrix | None = None) -> tuple[float, float]:
    """How far two poses of a body are apart: mm at its center, across a ray (3,) if given; rad."""
    moved = g.transform(one, body.center_mm) - g.transform(other, body.center_mm)
    if ray is not None:
        moved = moved - ray * (ray @ moved)
    turned = g.rotation_log(one[:3, :3].T @ other[:3, :3])
    return float(np.linalg.norm(moved)), float(np.linalg.norm(turned))


def distinct(
    body: Body, found: Sequence[Found], most: int, ray: Matrix | None = None, mm: float = 2.5, rad: float = 0.12
) -> list[Found]:
    """The best ones, those left out that are nearly the same as a better one.

    Args:
        ray: (3,), a direction along which places count as the same: one view tells them apart poorly.
    """
    kept: list[Found] = []
    for each in sorted(found, key=lambda each: -each.likeness):
        away = (apart(body, each.world_from_body, other.world_from_body, ray) for other in kept)
        if all(moved_mm > mm or turned_rad > rad for moved_mm, turned_rad in away):
            kept.append(each)
            if len(kept) == most:
                break
    return kept


class _Window:
    """A part of a picture, transformed, to correlate shadows with."""

    def __init__(self, picture: Picture, rows: slice, columns: slice, size_px: int) -> None:
        self.picture, self._first = picture, np.array([columns.start, rows.start])
        part = picture.edges[:, rows, columns]
        seen = picture.seen[rows, columns].astype(np.float32)
        self.shape = seen.shape
        self._padded = [fft.next_fast_len(n + size_px, real=True) for n in self.shape]
        self._edges = [fft.rfft2(each, self._padded) for each in part]
        self._energy = fft.rfft2((part**2).sum(axis=0), self._padded)
        self._seen = fft.rfft2(seen, self._padded)

    @classmethod
    def around(cls, picture: Picture, body: Body, center_mm: Matrix, reach_mm: float) -> _Window | None:
        """Where a body can be seen whose center is within reach; None outside of the picture."""
        carm = picture.carm
        at_mm = g.transform(g.inverse(picture.world_from_carm), center_mm)
        if at_mm[2] < 1.0:
            return None
        per_mm = carm.source_to_detector_mm / at_mm[2] / carm.pixel_spacing_mm[0]
        u, v = g.project(carm, g.inverse(picture.world_from_carm), center_mm)
        reach_px = (reach_mm + body.size_mm / 2) * per_mm
        columns = slice(max(int(u - reach_px), 0), min(int(u + reach_px) + 1, carm.width_px))
        rows = slice(max(int(v - reach_px), 0), min(int(v + reach_px) + 1, carm.height_px))
        if columns.stop - columns.start < 4 or rows.stop - rows.start < 4:
            return None
        return cls(picture, rows, columns, int(body.size_mm * per_mm * 1.1) + 8)

    def scores(self, body: Body, world_from_body: Matrix) -> tuple[FloatArray, Matrix] | None:
        """Likeness (h, w) with the body's center at every pixel of the window, and the pixel (u, v) of the first."""
        carm_from_body = g.inverse(self.picture.world_from_carm) @ world_from_body
        carm = self.picture.carm
        center = g.transform(carm_from_body, body.center_mm)
        # The body as it looks on the principal ray's side where it is: its picture is shifted, not rendered anew.
        corners = g.project(carm, carm_from_body, body.corners_mm)
        if not np.isfinite(corners).all():
            return None
        first = np.floor(corners.min(axis=0)).astype(int) - 2
        size = np.ceil(corners.max(axis=0)).astype(int) + 3 - first
        if max(size) >= max(self._padded):
            return None
        u, v = np.asarray(carm.principal_point_px) - first
        own = replace(carm, width_px=int(size[0]), height_px=int(size[1]), principal_point_px=(float(u), float(v)))
        pixel_mm = carm.pixel_spacing_mm[0] * center[2] / carm.source_to_detector_mm
        line = body.projector(pixel_mm).render(own, g.inverse(carm_from_body))
        hit = cv2.dilate((line > 0.02).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        made = edges(line)
        predicted = compressed(made, soft_limit(made, hit))[0] * hit
        mask = hit.astype(np.float32)
        along_u, along_v = (fft.rfft2(each, self._padded) for each in predicted)
        hit_by = fft.rfft2(mask, self._padded).conj()
        matched = fft.irfft2(self._edges[0] * along_u.conj() + self._edges[1] * along_v.conj(), self._padded)
        energy = fft.irfft2(self._energy * hit_by, self._padded)
        seen = fft.irfft2(self._seen * hit_by, self._padded)
        total = float(mask.sum())
        least = 0.2 * total  # a plain part of the picture is like nothing
        likeness = matched / np.sqrt(max(float((predicted**2).sum()), 1e-9) * np.maximum(energy, least))
        likeness *= np.sqrt(np.clip(seen / total, 0, 1))
        likeness[seen < _LEAST_SEEN * total] = -1
        at = g.project(carm, carm_from_body, body.center_mm) - first
        whole = np.floor(at).astype(int)
        shifted = np.roll(likeness, (int(whole[1]), int(whole[0])), (0, 1))[: self.shape[0], : self.shape[1]]
        return np.asarray(shifted, np.float32), self._first + (at - whole)


def _placed(
    body: Body, windows: Sequence[_Window], rotation: Matrix, center_mm: Matrix, reach_mm: float
) -> list[Found]:
    """The likeliest places for one rotation."""
    pose = g.rigid(rotation, center_mm - rotation @ body.center_mm)
    maps = [window.scores(body, pose) for window in windows]
    if any(each is None for each in maps):
        return []
    known = [each for each in maps if each is not None]
    (likeness, first), picture = known[0], windows[0].picture
    peaks = np.argwhere((likeness == cv2.dilate(likeness, np.ones((3, 3)))) & (likeness > _LEAST_LIKENESS))
    if not len(peaks):
        return []
    values = likeness[peaks[:, 0], peaks[:, 1]]
    best = np.argsort(-values)[:_PEAKS]
    pixels, values = peaks[best][:, ::-1] + first, values[best]
    rays = _rays(picture.carm, pixels)
    depth_mm = float(g.transform(g.inverse(picture.world_from_carm), center_mm)[2])
    if len(windows) == 1:
        points = g.transform(picture.world_from_carm, rays * depth_mm)
        return _found(body, rotation, points, values)
    depths = depth_mm + np.arange(-reach_mm, reach_mm + 1e-9, _DEPTH_STEP_MM)
    points = g.transform(picture.world_from_carm, rays[:, None] * depths[:, None])
    total = np.repeat(values[:, None], len(depths), axis=1)
    for window, (other, start) in zip(windows[1:], known[1:], strict=True):
        at = g.project(window.picture.carm, g.inverse(window.picture.world_from_carm), points) - start
        u, v = np.nan_to_num(at, nan=-9.0).astype(np.float32).transpose(2, 0, 1)
        total = total + cv2.remap(other, u, v, cv2.INTER_LINEAR, borderValue=-1)
    deepest = total.argmax(axis=1)
    rows = np.arange(len(values))
    return _found(body, rotation, points[rows, deepest], total[rows, deepest] / len(windows))


def _found(body: Body, rotation: Matrix, points: Matrix, values: Array) -> list[Found]:
    best = np.argsort(-values)[:_KEPT_PER_ROTATION]
    return [Found(g.rigid(rotation, points[n] - rotation @ body.center_mm), float(values[n])) for n in best]


def _rays(carm: CArm, pixels: Array) -> Matrix:
    """(N, 3) in carm, 1 mm deep."""
    offset = (pixels - np.asarray(carm.principal_point_px)) * np.asarray(carm.pixel_spacing_mm)
    return np.concatenate([offset / carm.source_to_detector_mm, np.ones((len(pixels), 1))], axis=1)
