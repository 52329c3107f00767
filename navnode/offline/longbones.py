"""Landmarks of femur, tibia and fibula, proposed on their surfaces.

Where a surface does not show what a landmark needs, there is none: nothing is filled in from what bones are like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from navnode.offline.landmarks import LANDMARKS, Landmarks
from navnode.offline.measures import normals, principal_axis, share_of_area
from navnode.types import Array, Matrix, Mesh

__all__ = ["LongBone", "proposed"]

_SLICE_MM = 3.0
_SHAFT_AREA = 1.45
"""A shaft's sections are at most so much larger than its thinnest ones."""
_LEAST_SHAFT_MM = 40.0
_HEAD_RADII_MM = np.arange(16.0, 33.0, 1.0)
_HEAD_OFF_MM, _VOTES_MM = 1.5, 3.0
_HEAD_POINTS = 3_000
_LEAST_HEAD = 0.4
"""Least share of a sphere that is the surface of a head."""
_HEAD_END_MM = 110.0
_NECK = np.arange(0.8, 2.0, 0.1)
_NECK_REACH, _NECK_ROUNDS = 2.6, 5
"""Where a neck's sections are, and how far they may reach, from the head's centre, in radii."""
_CONDYLES_MM, _PLATEAU_MM, _ANKLE_MM = 40.0, 25.0, 25.0
"""How far from the end a joint reaches."""
_TIP_MM = 5.0
_FACING = 0.85
"""Cosine to the axis, from which on a joint's surface faces it."""
_PLATEAU_FROM, _PLATEAU_TO = 0.25, 0.85
"""Where a plateau is between the bone's middle and its border: beside the eminence, within the rim."""
_WIDER = 1.15
"""A joint is by so much wider from side to side than from front to back, or its direction is not known."""
_LEAST_ASIDE_MM, _LEAST_BEHIND_MM = 8.0, 3.0
"""What is to tell a side must lie so far on it."""
_UPRIGHT = 0.7
_ROUNDS = 8


@dataclass(frozen=True)
class LongBone:
    """A bone whose landmarks are looked for."""

    kind: str
    mesh: Mesh
    ends: tuple[bool, bool]
    """Whether its lower and its upper end are shown whole, along :func:`measures.principal_axis`."""


def proposed(bones: Mapping[str, LongBone]) -> dict[str, Landmarks]:
    """Landmarks of bones by their names; of kinds that have none, nothing.

    The proximal end is where the joint with the next bone says, else the upper one of a bone that stands upright. Which
    side is lateral, a fibula tells if it is the only one, or the femoral head and the medial malleolus.
    """
    turned = _upright({name: bone for name, bone in bones.items() if bone.kind in LANDMARKS})
    shapes = {name: _Shape.of(bones[name], up) for name, up in turned.items()}
    count = {kind: sum(bone.kind == kind for bone in bones.values()) for kind in LANDMARKS}
    lateral_mm = None
    if count["fibula"] == 1 and count["femur"] <= 1 and count["tibia"] <= 1:
        lateral_mm = next((shape.middle_mm for name, shape in shapes.items() if bones[name].kind == "fibula"), None)
    return {name: _PROPOSERS[bones[name].kind](shape, lateral_mm) for name, shape in shapes.items()}


def _upright(bones: Mapping[str, LongBone]) -> dict[str, Matrix]:
    """Towards the proximal end of each bone, (3,), along its principal axis; without those where it is not known."""
    axes = {name: principal_axis(bone.mesh) for name, bone in bones.items()}
    middles = {name: share_of_area(bone.mesh) @ bone.mesh.vertices_mm for name, bone in bones.items()}
    found = {name: axis for name, axis in axes.items() if axis[2] > _UPRIGHT}
    femora, tibiae = ([name for name, bone in bones.items() if bone.kind == kind] for kind in ("femur", "tibia"))
    if len(femora) == 1 and len(tibiae) == 1:
        across = middles[femora[0]] - middles[tibiae[0]]
        for name in (femora[0], tibiae[0]):
            found[name] = axes[name] * (1.0 if axes[name] @ across > 0 else -1.0)
        for name, bone in bones.items():
            if bone.kind == "fibula":
                found[name] = axes[name] * (1.0 if axes[name] @ found[tibiae[0]] > 0 else -1.0)
    return found


@dataclass(frozen=True)
class _Shape:
    """A surface, its axis, and its shaft's ends."""

    points: Matrix
    normals: Matrix
    share: Matrix
    area_mm2: float
    up: Matrix
    """(3,), along the shaft where there is one, else the principal axis; towards the proximal end."""
    shaft: tuple[Matrix, Matrix] | None
    """Upper and lower end of the line through its sections' middles."""
    middle_mm: Matrix
    distal: bool
    proximal: bool
    """Whether these ends are shown whole."""
    body: Any

    @classmethod
    def of(cls, bone: LongBone, up: Matrix) -> _Shape:
        import trimesh  # here: a large package

        points = bone.mesh.vertices_mm.astype(np.float64)
        share = share_of_area(bone.mesh)
        body = trimesh.Trimesh(points, bone.mesh.triangles, process=False)
        lower, upper = bone.ends if up @ principal_axis(bone.mesh) > 0 else bone.ends[::-1]
        shaft = None
        for _ in range(3):  # sections across the shaft, not across the whole bone's axis
            found = _shaft(body, up)
            if found is None:
                break
            shaft = found
            up = (shaft[0] - shaft[1]) / np.linalg.norm(shaft[0] - shaft[1])
        return cls(points, normals(bone.mesh), share, float(body.area), up, shaft, share @ points, lower, upper, body)

    def heights(self) -> Matrix:
        """(V,) along the axis, from the lowest vertex."""
        along = self.points @ self.up
        return np.asarray(along - along.min())

    def shaft_ends(self) -> Landmarks:
        return {} if self.shaft is None else {"shaft upper": self.shaft[0], "shaft lower": self.shaft[1]}

    def across(self, there: Array) -> Matrix | None:
        """The direction (3,) across the axis in which a part is widest; None if it is not clearly wider."""
        flat = self.points[there] - self.share[there] @ self.points[there] / self.share[there].sum()
        flat = flat - np.outer(flat @ self.up, self.up)
        values, axes = np.linalg.eigh((flat * self.share[there][:, None]).T @ flat)
        return axes[:, 2] if values[2] > _WIDER**2 * values[1] else None

    def facing(self, direction: Matrix, there: Array) -> Matrix | None:
        """Middle (3,) of the part of the surface that faces a direction; None if there is none."""
        faces = there & (self.normals @ direction > _FACING)
        if faces.sum() < 5:
            return None
        return np.asarray(self.share[faces] @ self.points[faces] / self.share[faces].sum())


def _sections(body: Any, up: Matrix, heights: Matrix) -> tuple[Matrix, Matrix]:
    """Areas (S,) and centroids (S, 3) of a body's sections across ``up`` at heights (S,)."""
    areas, middles = np.zeros(len(heights)), np.zeros((len(heights), 3))
    corners, outwards = np.asarray(body.triangles), np.asarray(body.face_normals)
    along = corners @ up
    low, high = along.min(axis=1), along.max(axis=1)
    for n, height in enumerate(heights):
        cut = np.flatnonzero((low < height) & (high >= height))
        areas[n], middles[n] = _section(corners[cut], along[cut] - height, outwards[cut], up)
    return areas, middles


def _section(triangles: Matrix, heights: Matrix, outwards: Matrix, up: Matrix) -> tuple[float, Matrix]:
    """Area and centroid (3,) of the section by a plane, from the triangles (T, 3, 3) that it cuts.

    Args:
        heights: of the corners above the plane (T, 3).
        outwards: normals (T, 3).
    """
    if len(triangles) < 3:
        return 0.0, np.zeros(3)
    below = heights < 0
    odd = np.where(below.sum(axis=1) == 1, below.argmax(axis=1), (~below).argmax(axis=1))  # alone on its side
    row = np.arange(len(triangles))
    tip, tip_height = triangles[row, odd], heights[row, odd]
    a, b = (
        tip + (triangles[row, k] - tip) * (tip_height / (tip_height - heights[row, k]))[:, None]
        for k in ((odd + 1) % 3, (odd + 2) % 3)
    )
    origin = (a + b).mean(axis=0) / 2
    a, b = a - origin, b - origin
    backwards = np.einsum("ij,ij->i", b - a, np.cross(up, outwards)) < 0
    a[backwards], b[backwards] = b[backwards], a[backwards].copy()
    double = np.cross(a, b) @ up
    total = float(double.sum())
    if total < 1e-6:
        return 0.0, np.asarray(origin)
    return total / 2, np.asarray(origin + ((a + b) * double[:, None]).sum(axis=0) / (3 * total))


def _shaft(body: Any, up: Matrix) -> tuple[Matrix, Matrix] | None:
    """Ends of the line through the middles of a shaft's sections, the upper one first; None if too little is shown."""
    along = body.vertices @ up
    heights = np.arange(along.min() + _SLICE_MM, along.max() - _SLICE_MM / 2, _SLICE_MM)
    area, middle = _sections(body, up, heights)
    inner = area[2:-2] if len(area) > 8 else area
    if not len(inner):
        return None
    thin = (area <= _SHAFT_AREA * np.percentile(inner, 10)) & (area > 0)
    runs = np.flatnonzero(np.diff(np.r_[0, thin.astype(int), 0])).reshape(-1, 2)
    if not len(runs):
        return None
    first, last = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    width_mm = 2 * float(np.sqrt(np.median(area[first:last]) / np.pi))
    if (last - first) * _SLICE_MM < max(_LEAST_SHAFT_MM, 1.5 * width_mm):
        return None
    line = middle[first:last]
    center = line.mean(axis=0)
    direction = np.linalg.svd(line - center)[2][0]
    direction *= 1.0 if direction @ up > 0 else -1.0
    reach = (line - center) @ direction
    return center + reach.max() * direction, center + reach.min() * direction


def _head(shape: _Shape) -> tuple[Matrix, float] | None:
    """Centre and radius of a femoral head's sphere: where the normals of most surface meet. None: too little of it."""
    heights = shape.heights()
    there = np.flatnonzero(heights > heights.max() - _HEAD_END_MM)
    points, inwards, share = shape.points[there], -shape.normals[there], shape.share[there]
    some = slice(None, None, max(1, len(there) // _HEAD_POINTS))
    best, center, radius = 0.0, np.zeros(3), 0.0
    for radius_mm in _HEAD_RADII_MM:
        candidates = points[some] + radius_mm * inwards[some]
        near = KDTree(candidates).query_ball_point(candidates, _VOTES_MM)
        votes = np.array([share[some][each].sum() for each in near]) / radius_mm**2
        if votes.max() > best:
            best, radius = float(votes.max()), float(radius_mm)
            center = candidates[near[int(votes.argmax())]].mean(axis=0)
    on = np.zeros(len(points), bool)
    for _ in range(_ROUNDS):
        away = points - center
        distance = np.linalg.norm(away, axis=1)
        on = (np.abs(distance - radius) < _HEAD_OFF_MM) & (-(away * inwards).sum(axis=1) > 0.9 * distance)
        if on.sum() < 30:
            return None
        solved, *_ = np.linalg.lstsq(np.c_[2 * points[on], np.ones(on.sum())], (points[on] ** 2).sum(axis=1), None)
        center = solved[:3]
        radius = float(np.sqrt(max(solved[3] + center @ center, 0.0)))
    covered = float(share[on].sum()) * shape.area_mm2 / (4 * np.pi * radius**2)
    if not _HEAD_RADII_MM[0] <= radius <= _HEAD_RADII_MM[-1] or covered < _LEAST_HEAD:
        return None
    return np.asarray(center), radius


def _neck(shape: _Shape, head: Matrix, radius_mm: float) -> Matrix | None:
    """Middle of the thinnest section between head and shaft, (3,)."""
    if shape.shaft is None:
        return None
    beside = shape.shaft[0] - head
    beside -= (beside @ shape.up) * shape.up
    if np.linalg.norm(beside) < _LEAST_ASIDE_MM:
        return None
    direction = beside / np.linalg.norm(beside) - shape.up
    # Only what is near: a section's plane may also cut trochanter and shaft.
    corners, outwards = np.asarray(shape.body.triangles), np.asarray(shape.body.face_normals)
    near = np.linalg.norm(corners.mean(axis=1) - head, axis=1) < _NECK_REACH * radius_mm
    surface = _Piece.of(corners[near], outwards[near])
    neck = head
    for _ in range(_NECK_ROUNDS):
        direction /= np.linalg.norm(direction)
        pieces = [surface.around(direction, head + far * direction) for far in _NECK * radius_mm]
        found = [piece for piece in pieces if piece is not None]
        if not found:
            return None
        neck = min(found, key=lambda piece: piece[0])[1]
        direction = neck - head
    return np.asarray(neck)


@dataclass(frozen=True)
class _Piece:
    """A part of a surface."""

    corners: Matrix
    """(T, 3, 3)"""
    outwards: Matrix
    """Normals (T, 3)."""
    vertices: Array
    """Numbers of the corners (T, 3); those of one place are one."""

    @classmethod
    def of(cls, corners: Matrix, outwards: Matrix) -> _Piece:
        _, number = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
        return cls(corners, outwards, number.reshape(-1, 3))

    def around(self, direction: Matrix, place: Matrix) -> tuple[float, Matrix] | None:
        """Area and centroid of the closed line in which a plane at a place cuts the surface around it; None if there
        is none, or it leaves this part."""
        heights = (self.corners - place) @ direction
        cut = np.flatnonzero((heights.min(axis=1) < 0) & (heights.max(axis=1) >= 0))
        if len(cut) < 3:
            return None
        # The two edges of a triangle that cross the plane; triangles that share one are of one line.
        a, b = self.vertices[cut], np.roll(self.vertices[cut], -1, axis=1)
        crossing = (heights[cut] < 0) != (np.roll(heights[cut], -1, axis=1) < 0)
        edges = np.sort(np.stack([a[crossing], b[crossing]], axis=1), axis=1)
        _, edge, times = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
        pairs = edge.reshape(-1, 2)
        joined = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(times), len(times)))
        _, line_of_edge = connected_components(joined, directed=False)
        found = None
        for line in np.unique(line_of_edge[pairs[:, 0]]):
            mine = line_of_edge[pairs[:, 0]] == line
            if (times[pairs[mine]] != 2).any():
                continue
            area, middle = _section(self.corners[cut[mine]], heights[cut[mine]], self.outwards[cut[mine]], direction)
            if np.linalg.norm(middle - place) < np.sqrt(area / np.pi) and (found is None or area < found[0]):
                found = area, middle
        return found


def _femur(shape: _Shape, lateral_mm: Matrix | None) -> Landmarks:
    found = shape.shaft_ends()
    head = _head(shape) if shape.proximal else None
    if head is not None:
        found["head centre"] = head[0]
        neck = _neck(shape, *head)
        if neck is not None:
            found["neck centre"] = neck
    if shape.distal:
        condyles = _condyles(shape)
        medial_mm = None if head is None else head[0]
        for names, landmarks in zip(_sides(condyles, shape.up, medial_mm, lateral_mm), condyles, strict=True):
            found[f"{names} distal"], found[f"{names} posterior"] = landmarks
    return found


def _condyles(shape: _Shape) -> list[tuple[Matrix, Matrix]]:
    """Most distal and most posterior point of either condyle; none where the front cannot be told from the back."""
    if shape.shaft is None:
        return []
    there = shape.heights() < _CONDYLES_MM
    right = shape.across(there)
    if right is None:
        return []
    points, up = shape.points[there], shape.up
    behind = np.cross(right, up)
    offset = float((shape.share[there] @ points / shape.share[there].sum() - shape.shaft[1]) @ behind)
    if abs(offset) < _LEAST_BEHIND_MM:
        return []
    behind *= np.sign(offset)
    posterior: list[Matrix] = []
    for _ in range(_ROUNDS):
        halves = _halves(points, right)
        posterior = [half[int((half @ behind).argmax())] for half in halves]
        right = posterior[1] - posterior[0]
        right = right - (right @ up) * up
        right /= np.linalg.norm(right)
        behind = np.cross(right, up) * np.sign(np.cross(right, up) @ behind)
    distal, down = [], -up
    for _ in range(_ROUNDS):  # the common tangent of both in the frontal plane
        distal = [half[int((half @ down).argmax())] for half in _halves(points, right)]
        line = distal[1] - distal[0]
        line = line - (line @ behind) * behind
        down = np.cross(line, behind)
        down *= np.sign(-(down @ up)) / np.linalg.norm(down)
    return list(zip(distal, posterior, strict=True))


def _halves(points: Matrix, right: Matrix) -> tuple[Matrix, Matrix]:
    at = points @ right
    middle = (at.min() + at.max()) / 2
    return points[at < middle], points[at >= middle]


def _sides(
    pairs: list[tuple[Matrix, Matrix]], up: Matrix, medial_mm: Matrix | None, lateral_mm: Matrix | None
) -> list[str]:
    """Names of two condyles: by a place that is medial of the knee, or one that is lateral; else numbers."""
    if not pairs:
        return []
    names = _named(pairs[0][0], pairs[1][0], up, medial_mm, lateral_mm)
    return [f"{name} condyle" for name in names] if names else ["condyle 1", "condyle 2"]


def _named(
    one: Matrix, other: Matrix, up: Matrix, medial_mm: Matrix | None, lateral_mm: Matrix | None
) -> tuple[str, str] | None:
    across = other - one
    across = across - (across @ up) * up
    across /= np.linalg.norm(across)
    votes = [
        sign * float((place - (one + other) / 2) @ across)
        for place, sign in ((medial_mm, -1.0), (lateral_mm, 1.0))
        if place is not None
    ]
    if not votes or min(map(abs, votes)) < _LEAST_ASIDE_MM or len({vote > 0 for vote in votes}) > 1:
        return None
    return ("medial", "lateral") if votes[0] > 0 else ("lateral", "medial")


def _tibia(shape: _Shape, lateral_mm: Matrix | None) -> Landmarks:
    found = shape.shaft_ends()
    heights, up = shape.heights(), shape.up
    medial_mm = None
    if shape.distal:
        ankle = shape.facing(-up, (heights > _TIP_MM) & (heights < _ANKLE_MM))
        tip = shape.points[int(heights.argmin())]
        if ankle is not None:
            aside = tip - ankle
            if np.linalg.norm(aside - (aside @ up) * up) > _LEAST_ASIDE_MM:  # else the tip is not the malleolus's
                found |= {"ankle centre": ankle, "medial malleolus": tip}
                medial_mm = tip
    if shape.proximal:
        there = heights > heights.max() - _PLATEAU_MM
        right = shape.across(there)
        if right is not None:
            at = shape.points @ right
            low, high = at[there].min(), at[there].max()
            share = (at - (low + high) / 2) / ((high - low) / 2)
            halves = [
                shape.facing(up, there & (side * share > _PLATEAU_FROM) & (side * share < _PLATEAU_TO))
                for side in (-1, 1)
            ]
            if halves[0] is not None and halves[1] is not None:
                names = _named(halves[0], halves[1], up, medial_mm, lateral_mm)
                labels = [f"{name} plateau" for name in names] if names else ["plateau 1", "plateau 2"]
                found |= {labels[0]: halves[0], labels[1]: halves[1]}
    return found


def _fibula(shape: _Shape, lateral_mm: Matrix | None) -> Landmarks:
    found = shape.shaft_ends()
    heights = shape.heights()
    if shape.proximal:
        found["head"] = shape.points[int(heights.argmax())]
    if shape.distal:
        found["lateral malleolus"] = shape.points[int(heights.argmin())]
    return found


_PROPOSERS = {"femur": _femur, "tibia": _tibia, "fibula": _fibula}
