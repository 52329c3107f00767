"""Bones that meet at a joint neither enter each other nor part: what that says of their poses.

The surfaces of a joint are as far apart in an X-ray as in the CT, to two millimetres, wherever they touch now: of the
points of one bone's surface that are nearest to the other bone, the mean distance is kept. This closes what one view
leaves open, above all a bone's depth. It is known beforehand rather than measured: covariances do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.registration.appearance import POSE_SCALE
from navnode.types import Array, FloatArray, Matrix, Volume

__all__ = ["Joints", "RowsOf", "Surface", "pairs_of"]

RowsOf = Callable[[int, Matrix, Matrix], Matrix]
"""Number of a body, points (N, 3) and directions (N, 3) in the frame that is common to all bodies -> how far the points
move along the directions, as they move with the body, per unit of its pose's six parameters, (N, 6)."""

_REACH_MM = 25.0
"""Farther from a bone its distance is not known; points of another one's surface that lie within it belong to the
joint."""
_SPACING_MM = 2.0
"""Of distances; they are interpolated between."""
_POINTS, _NEAREST = 800, 24
"""Of a joint's surface; and those that the distance is judged by."""
_SIGMA_MM = 2.0
"""How well the CT tells the distance: cartilage is pressed, labels end between voxels, and a joint that is no ball
opens a little as it turns (docs/registration.md)."""
_FARTHEST_MM = 12.0
"""Bones that are farther apart in the CT do not meet at a joint."""


class Surface:
    """A body's distances and surface, in its own frame.

    Args:
        label: bool, (k, j, i), of a CT.
    """

    def __init__(self, ct: Volume, label: Array) -> None:
        spacing_mm = np.array(ct.spacing_mm)  # x, y, z
        margin = np.ceil(_REACH_MM / spacing_mm).astype(int)[::-1]
        where = np.argwhere(label)
        low, high = where.min(axis=0) - margin, where.max(axis=0) + margin + 1
        inside = np.zeros(high - low, bool)
        core = tuple(slice(a, len_ - a) for a, len_ in zip(margin, inside.shape, strict=True))
        inside[core] = label[tuple(slice(a, b) for a, b in zip(low + margin, high - margin, strict=True))]
        outer, inner = (ndimage.distance_transform_edt(part, spacing_mm[::-1]) for part in (~inside, inside))
        every = np.maximum(1, np.floor(_SPACING_MM / spacing_mm)).astype(int)
        thinned = tuple(slice(None, None, step) for step in every[::-1])
        self._distance_mm = np.clip(outer - inner, -_REACH_MM, _REACH_MM)[thinned].astype(np.float32)
        self._slope = np.stack(np.gradient(self._distance_mm, *(spacing_mm * every)[::-1])[::-1])
        """(x, y, z; k, j, i), along the axes of the grid."""
        shift, thin = np.eye(4), np.diag([*every.astype(float), 1.0])
        shift[:3, 3] = low[::-1]
        self._index_from_body: Matrix = np.asarray(np.linalg.inv(ct.volume_from_index @ shift @ thin), np.float64)
        self._axes = np.asarray(ct.volume_from_index[:3, :3] / spacing_mm)
        rim = np.argwhere(inside & ~ndimage.binary_erosion(inside)) + low
        self.rim_mm = g.transform(ct.volume_from_index, rim[:, ::-1].astype(float))
        """(N, 3)"""

    def distance_mm(self, points_mm: Matrix) -> FloatArray:
        """Distance of points (N, 3) from the surface, (N,): negative inside, at most ``_REACH_MM``."""
        at = self._at(points_mm)
        return np.asarray(ndimage.map_coordinates(self._distance_mm, at, order=1, cval=_REACH_MM))

    def away(self, points_mm: Matrix) -> Matrix:
        """Directions (N, 3) in which the distance of points (N, 3) grows; 0 far away."""
        at = self._at(points_mm)
        slope = np.stack([ndimage.map_coordinates(part, at, order=1) for part in self._slope], axis=1)
        length = np.linalg.norm(slope, axis=1, keepdims=True)
        return np.asarray((slope / np.maximum(length, 1e-3)) @ self._axes.T)

    def _at(self, points_mm: Matrix) -> Matrix:
        return np.asarray(g.transform(self._index_from_body, points_mm)[:, ::-1].T)


@dataclass(frozen=True)
class _Side:
    """Points of one body's surface, near another body."""

    one: int
    other: int
    points_mm: Matrix
    """(N, 3), in the frame of ``one``."""
    gap_mm: float
    """In the CT."""


class Joints:
    """Bodies of a CT that meet at joints.

    Args:
        labels: bool, (k, j, i), of every body.
        names: of them.
        pairs: numbers of bodies that meet.

    Raises:
        ConfigError: two of them do not meet in the CT.
    """

    def __init__(
        self, ct: Volume, labels: Sequence[Array], names: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> None:
        self._count = len(labels)
        self._surfaces = {number: Surface(ct, labels[number]) for number in sorted({n for pair in pairs for n in pair})}
        self._sides = [self._side(one, other, names) for pair in pairs for one, other in (pair, pair[::-1])]

    def _side(self, one: int, other: int, names: Sequence[str]) -> _Side:
        rim_mm, there = self._surfaces[one].rim_mm, self._surfaces[other]
        away_mm = there.distance_mm(rim_mm)
        near = rim_mm[away_mm < _REACH_MM]
        gap_mm = float(np.sort(away_mm)[:_NEAREST].mean())
        if gap_mm > _FARTHEST_MM:
            told = f"over {_REACH_MM:.0f}" if gap_mm >= _REACH_MM else f"{gap_mm:.0f}"
            raise ConfigError(f"{names[one]} does not meet {names[other]}: in the CT they are {told} mm apart")
        points_mm = near[:: -(-len(near) // _POINTS)]
        # With the points that are kept, and the same way as later.
        return _Side(one, other, points_mm, _nearest(there.distance_mm(points_mm))[1])

    def parted_mm(self, common_from_body: Sequence[Matrix]) -> Matrix:
        """How much farther bodies are from each other than in the CT, (2 pairs,): of every pair from either side.

        Args:
            common_from_body: 4x4, of every body.
        """
        return np.array([self._touching(side, common_from_body)[2] - side.gap_mm for side in self._sides])

    def equations(self, common_from_body: Sequence[Matrix], rows_of: RowsOf) -> tuple[Matrix, Matrix]:
        """Normal equations of all bodies' poses in units of ``POSE_SCALE``, weighted by their inverse variance:
        (6 bodies, 6 bodies) and (6 bodies,).

        Args:
            common_from_body: 4x4, of every body.
        """
        hessian, gradient = np.zeros((6 * self._count,) * 2), np.zeros(6 * self._count)
        for side in self._sides:
            points_mm, in_other_mm, gap_mm = self._touching(side, common_from_body)
            away = self._surfaces[side.other].away(in_other_mm) @ common_from_body[side.other][:3, :3].T
            row = np.zeros(6 * self._count)
            for number, sign in ((side.one, 1.0), (side.other, -1.0)):
                moved = rows_of(number, points_mm, away).mean(axis=0) / POSE_SCALE
                row[6 * number : 6 * number + 6] = sign * moved / _SIGMA_MM
            hessian += np.outer(row, row)
            gradient -= row * (gap_mm - side.gap_mm) / _SIGMA_MM
        return hessian, gradient

    def _touching(self, side: _Side, common_from_body: Sequence[Matrix]) -> tuple[Matrix, Matrix, float]:
        """The points of a side that are nearest to the other body, (N, 3), in the common frame and in that body's; and
        their mean distance from it."""
        points_mm = g.transform(common_from_body[side.one], side.points_mm)
        in_other_mm = g.transform(g.inverse(common_from_body[side.other]), points_mm)
        nearest, gap_mm = _nearest(self._surfaces[side.other].distance_mm(in_other_mm))
        return points_mm[nearest], in_other_mm[nearest], gap_mm


def _nearest(distance_mm: FloatArray) -> tuple[Array, float]:
    """The points that are nearest, and their mean distance."""
    nearest = np.argpartition(distance_mm, min(_NEAREST, len(distance_mm) - 1))[:_NEAREST]
    return nearest, float(distance_mm[nearest].mean())


def pairs_of(names: Sequence[str], meets: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Numbers of bodies that meet at a joint, every pair once.

    Args:
        names: of the bodies.
        meets: of every body, the names of those that it meets.

    Raises:
        ConfigError: there is no such body.
    """
    pairs: dict[tuple[int, int], None] = {}
    for one, others in enumerate(meets):
        for name in others:
            if name not in names or name == names[one]:
                raise ConfigError(f"{names[one]}: meets {name!r}, which is no other body")
            other = list(names).index(name)
            pairs[min(one, other), max(one, other)] = None
    return list(pairs)
