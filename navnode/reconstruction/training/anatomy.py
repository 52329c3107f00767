"""Procedural bodies to train on: bones with cortical shells and trabecular cores inside soft tissue.

They are not realistic. They teach how bone, soft tissue, air and metal look in a few X-rays, in more shapes than the
few real CTs offer. Solids are signed distances in mm; one smooth random warp bends a whole body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from navnode.geometry import rotation_exp
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.types import FloatArray, Matrix, Volume

__all__ = [
    "BODIES",
    "Body",
    "Point",
    "SIZE",
    "SPACING_MM",
    "Solid",
    "ball",
    "beyond",
    "broken",
    "common",
    "limb",
    "pelvis",
    "placed",
    "procedural",
    "shell",
    "shifted",
    "skull",
    "spine",
    "thigh",
    "tube",
    "union",
    "with_metal",
]

SIZE, SPACING_MM = 144, 1.75
_METAL_HU = 3000.0

Solid = Callable[[FloatArray], FloatArray]
"""Signed distance, mm, of points (..., 3)."""
Point = Matrix | tuple[float, float, float]


@dataclass
class Body:
    """A volume to draw solids into, each over the earlier ones."""

    rng: np.random.Generator
    hu: FloatArray = field(init=False)
    """(k, j, i)"""
    points: FloatArray = field(init=False)
    """(k, j, i, 3), warped RAS position of every voxel, mm."""

    def __post_init__(self) -> None:
        self.hu = np.full((SIZE,) * 3, AIR_HU, np.float32)
        axis = ((np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM).astype(np.float32)
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        self.points = np.stack([x, y, z], axis=-1)
        self.bent_mm = 2.0
        for component in range(3):
            bend = self.noise(knots=5) * self.rng.uniform(0, 5)
            self.points[..., component] += bend
            self.bent_mm = max(self.bent_mm, float(np.abs(bend).max()) + 2.0)

    def noise(self, knots: int) -> FloatArray:
        """A smooth random field of about unit size, (k, j, i)."""
        coarse = self.rng.standard_normal((knots,) * 3).astype(np.float32)
        field: FloatArray = zoom(coarse, SIZE / knots, order=1, grid_mode=True, mode="nearest")
        smooth: FloatArray = gaussian_filter(field, SIZE / knots / 4)
        return smooth

    def fill(self, distance: Solid, around: Point, reach_mm: float, hu: float) -> None:
        """Fill a solid, blended over a voxel at its border.

        Args:
            distance: the solid.
            around: RAS position near its center, mm.
            reach_mm: the solid lies within this distance of it.
            hu: HU inside.
        """
        box, points = self._box(around, reach_mm)
        if points.size:
            share = np.clip(0.5 - distance(points) / SPACING_MM, 0, 1)
            self.hu[box] += share * (hu - self.hu[box])

    def bone(
        self,
        distance: Solid,
        around: Point,
        reach_mm: float,
        shell_mm: float,
        *,
        cortical: float | None = None,
        trabecular: float | None = None,
    ) -> None:
        """Draw a shell around a textured core; inside cores drawn earlier there is no shell.

        Args:
            distance, around, reach_mm: as for :meth:`fill`.
            shell_mm: thickness of the shell.
            cortical: HU of the shell; default: this body's.
            trabecular: mean HU of the core; default: this body's.
        """
        box, points = self._box(around, reach_mm)
        if not points.size:
            return
        d = distance(points)
        outside = np.clip(0.5 - d / SPACING_MM, 0, 1)
        core = np.clip(0.5 - (d + shell_mm) / SPACING_MM, 0, 1)
        hard = self.cortical if cortical is None else cortical
        soft = self.trabecular if trabecular is None else trabecular
        hu = self.hu[box]
        textured = soft + self.texture[box] * 0.35 * soft
        new = hu + outside * (hard - hu)
        new += core * (textured - new)
        inside_another = (self.is_core[box] > 0.5) & (core < 0.5)
        self.hu[box] = np.where(inside_another, hu, new)
        np.maximum(self.is_core[box], core, out=self.is_core[box])

    def _box(self, around: Point, reach_mm: float) -> tuple[tuple[slice, ...], FloatArray]:
        middle = np.asarray(around, np.float64)[::-1] / SPACING_MM + (SIZE - 1) / 2
        low = np.clip(np.floor(middle - (reach_mm + self.bent_mm) / SPACING_MM), 0, SIZE).astype(int)
        high = np.clip(np.ceil(middle + (reach_mm + self.bent_mm) / SPACING_MM) + 1, 0, SIZE).astype(int)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return box, self.points[box]

    def prepare_bone(self) -> None:
        """Choose at random what all bones of this body share."""
        self.cortical = float(self.rng.uniform(700, 1500))
        self.trabecular = float(self.rng.uniform(120, 420))
        fine = gaussian_filter(self.rng.standard_normal((SIZE,) * 3).astype(np.float32), 0.9)
        self.texture = fine / fine.std()
        self.is_core = np.zeros_like(self.hu)


def ball(center: Point, radii: Point, power: float = 2.0, turn: Point = (0, 0, 0)) -> Solid:
    """Distance to a superellipsoid.

    Args:
        center: mm.
        radii: mm, along its axes.
        power: unitless; 2: an ellipsoid, more: closer to a box.
        turn: rotation vector, rad.
    """
    rotation, middle, size = rotation_exp(np.array(turn, float)), np.asarray(center, float), np.asarray(radii, float)

    def distance(points: FloatArray) -> FloatArray:
        local = np.abs((points - middle.astype(np.float32)) @ rotation.astype(np.float32)) / size.astype(np.float32)
        norm = (local**power).sum(axis=-1) ** (1 / power)
        steep = float(size.min()) * 0.5 + 0.5 * float(np.median(size))
        return np.asarray((norm - 1) * steep, np.float32)

    return distance


def tube(path: Matrix, radii: Matrix, blend_mm: float = 3.0) -> Solid:
    """Distance to a chain of round cones along ``path`` (M, 3) with ``radii`` (M,), both mm."""

    def distance(points: FloatArray) -> FloatArray:
        result = np.full(points.shape[:-1], 1e3, np.float32)
        for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
            along = (b - a).astype(np.float32)
            t = np.clip((points - a.astype(np.float32)) @ along / max(float(along @ along), 1e-6), 0, 1)
            d = np.linalg.norm(points - (a.astype(np.float32) + t[..., None] * along), axis=-1) - (ra + t * (rb - ra))
            result = _blended(result, d, blend_mm)
        return result.astype(np.float32)

    return distance


def union(*parts: Solid, blend_mm: float = 5.0) -> Solid:
    """Several solids as one, with fillets between them."""

    def distance(points: FloatArray) -> FloatArray:
        result = parts[0](points)
        for part in parts[1:]:
            result = _blended(result, part(points), blend_mm)
        return result

    return distance


def _blended(one: FloatArray, other: FloatArray, blend_mm: float) -> FloatArray:
    """The smaller of two distances, with a fillet (polynomial smooth minimum)."""
    h = np.maximum(blend_mm - np.abs(one - other), 0) / blend_mm
    result: FloatArray = np.minimum(one, other) - h * h * blend_mm / 4
    return result


def shifted(solid: Solid, offset: Matrix) -> Solid:
    """A solid moved by an offset (3,), mm."""
    return lambda points: solid(points - offset.astype(np.float32))


def common(one: Solid, other: Solid) -> Solid:
    """The intersection of two solids."""
    return lambda points: np.maximum(one(points), other(points))


def beyond(x_mm: float, side: float) -> Solid:
    """The half space medial to a sagittal plane, for a plane on the right (``side`` 1) or on the left (``side`` -1)."""
    return lambda points: np.asarray(side * (points[..., 0] - np.float32(x_mm)), np.float32)


def placed(origin: Matrix, rotation: Matrix, size: float) -> Callable[[Point], Matrix]:
    """Map a bone's own millimetres to the body's.

    Args:
        origin: (3,), mm.
        rotation: (3, 3)
        size: scale, unitless; 1 keeps the bone's size.
    """
    return lambda point: np.asarray(origin + rotation @ (np.asarray(point, float) * size))


def shell(solid: Solid, thickness_mm: float) -> Solid:
    """The wall inside a solid's surface."""
    return lambda points: np.abs(solid(points) + thickness_mm / 2) - thickness_mm / 2


def broken(solid: Solid, at: Point, normal: Matrix, shift: Matrix, gap_mm: float) -> Solid:
    """A solid cut by a plane, with one side displaced.

    Args:
        at: a point on the plane, mm.
        normal: (3,), of any length.
        shift: displacement (3,), mm.
    """
    moved = shifted(solid, shift)
    middle, across = np.asarray(at, np.float32), (normal / np.linalg.norm(normal)).astype(np.float32)

    def distance(points: FloatArray) -> FloatArray:
        side = (points - middle) @ across
        return np.minimum(
            np.maximum(solid(points), side + gap_mm / 2),
            np.maximum(moved(points), gap_mm / 2 - side),
        )

    return distance


def _soft(body: Body, radii: tuple[float, float], power: float = 2.2) -> None:
    """A trunk or limb along z: fat under the skin, and muscle with planes of fat."""
    rng = body.rng
    fat_mm = rng.uniform(3, 25)
    outer = ball((0, 0, 0), (*radii, 1e3), power)
    inner = ball((0, 0, 0), (max(radii[0] - fat_mm, 5), max(radii[1] - fat_mm, 5), 1e3), power)
    body.fill(outer, (0, 0, 0), 300, rng.uniform(-115, -80))
    body.fill(inner, (0, 0, 0), 300, rng.uniform(35, 70))
    planes = np.abs(body.noise(9)) < 0.05 * rng.uniform(0, 1.5)
    body.hu[planes & (body.hu > 0)] = -90
    body.hu += (body.hu > -500) * gaussian_filter(rng.standard_normal((SIZE,) * 3).astype(np.float32), 1.0) * 40


def thigh(rng: np.random.Generator) -> Body:
    """Femur, either end or the shaft; often with the tibia."""
    body = Body(rng)
    _soft(body, (rng.uniform(65, 105), rng.uniform(65, 105)))
    body.prepare_bone()
    size, z = rng.uniform(0.85, 1.2), rng.uniform(-60, 60)
    side = rng.choice([-1.0, 1.0])
    shaft = np.array([[0, 0, -170], [4, 8, -60], [5, 10, 60], [0, 2, 150]], float) * size
    wide = np.array([19, 14, 13, 15]) * size
    knee, hip = -170 * size, 150 * size
    parts = [tube(shaft, wide, 6)]
    parts += [ball((s * 24 * size, -6 * size, knee - 8), (21 * size, 27 * size, 21 * size)) for s in (-1, 1)]
    head = np.array([side * 46 * size, 4, hip + 38 * size])
    parts += [
        tube(np.array([[0, 2, hip], head * 0.85 + (0, 0, 0.15 * hip)]), np.array([17, 13]) * size),
        ball(head, (23 * size,) * 3),
        ball((-side * 14 * size, -3, hip + 12 * size), (15 * size, 17 * size, 24 * size)),
    ]
    offset = np.array([0, 0, rng.choice([z, -knee + z / 2, -hip + z / 2])])
    femur = union(*parts, blend_mm=10)
    solid = shifted(femur, offset)
    if rng.random() < 0.3:
        at = offset + np.array([0, 5, rng.uniform(-120, 120)])
        solid = broken(solid, at, rng.normal(0, 0.5, 3) + (0, 0, 1), rng.normal(0, 5, 3), rng.uniform(1, 5))
    body.bone(solid, (0, 0, 0), 260, rng.uniform(2, 5))
    marrow = tube(shaft * 0.86, wide * 0.5)
    body.fill(shifted(marrow, offset), (0, 0, 0), 260, rng.uniform(-60, 40))
    tibia = np.array([[0, -3, knee - 60], [0, 0, knee - 180], [0, 0, knee - 380]])
    plateau = union(
        tube(tibia, np.array([28, 14, 13]) * size),
        ball((0, -3, knee - 46), (40 * size, 26 * size, 14 * size), 3),
        tube(np.array([[30, -20, knee - 66], [26, -18, knee - 380]]), np.array([9, 6]) * size),
        blend_mm=2,
    )
    body.bone(shifted(plateau, offset), (0, 0, 0), 260, rng.uniform(1.5, 4))
    patella = ball((0, 36 * size, knee + 6), (19 * size, 9 * size, 20 * size))
    body.bone(shifted(patella, offset), (0, 0, 0), 260, 1.5)
    return body


def spine(rng: np.random.Generator) -> Body:
    """Vertebrae, often with ribs and lungs, in a trunk."""
    body = Body(rng)
    _soft(body, (rng.uniform(110, 190), rng.uniform(80, 130)), rng.uniform(2, 3))
    chest = rng.random() < 0.5
    back = rng.uniform(-60, -10)
    if chest:
        _lungs(body)
    else:
        for _ in range(rng.integers(2, 7)):  # organs and gas
            where, radii = rng.uniform(-70, 70, 3) + (0, 40, 0), rng.uniform(15, 50, 3)
            body.fill(
                ball(where, radii, 2, rng.normal(0, 0.5, 3)),
                where,
                float(radii.max()),
                rng.choice([30, 50, 80, 140, -900], p=[0.3, 0.3, 0.2, 0.1, 0.1]),
            )
    body.prepare_bone()
    size, bend, twist = rng.uniform(0.7, 1.25), rng.normal(0, 0.0012, 2), rng.normal(0, 0.004)
    step, jitter = 35.0 * size, rng.uniform(0, 35)
    disc = rng.uniform(0.62, 0.82)
    for level in range(-4, 5):
        z = level * step + jitter
        at = np.array([bend[0] * z * z, back + bend[1] * z * z, z])
        turn = np.array([-2 * bend[1] * z, 2 * bend[0] * z, twist * z]) + rng.normal(0, 0.03, 3)
        _vertebra(body, at, turn, size * rng.uniform(0.95, 1.05), step * disc, chest)
    if chest:
        _ribs(body, back, size)
    return body


def _vertebra(body: Body, at: Matrix, turn: Matrix, size: float, height: float, chest: bool) -> None:
    rng, rotation = body.rng, rotation_exp(turn)
    place = placed(at, rotation, size)
    wide, deep = (18, 15) if chest else (23, 17)
    corpus = ball(at, (wide * size, deep * size, height / 2), 4, turn)
    if rng.random() < 0.1:
        corpus = broken(corpus, at, rng.normal(0, 0.4, 3) + (0, 0, 1), rng.normal(0, 2, 3), 2.0)
    body.bone(corpus, at, 30 * size, rng.uniform(0.7, 1.8))
    arch = [
        tube(
            np.stack([place((s * 12, -13, 5)), place((s * 14, -24, 4)), place((s * 5, -34, -2))]),
            np.array([5, 5, 4]) * size,
        )
        for s in (-1, 1)
    ]
    wings = [
        tube(
            np.stack([place((s * 14, -24, 4)), place((s * (34 if not chest else 30), -29 - 8 * chest, 6))]),
            np.array([5, 3.5]) * size,
        )
        for s in (-1, 1)
    ]
    spinous = tube(np.stack([place((0, -33, -3)), place((0, -52, -9 - 14 * chest))]), np.array([4.0, 3.5]) * size)
    facets = [
        tube(np.stack([place((s * 15, -26, -14)), place((s * 14, -26, 16))]), np.array([5, 5]) * size) for s in (-1, 1)
    ]
    body.bone(
        union(*arch, *wings, spinous, *facets, blend_mm=3),
        at + rotation @ np.array([0, -25, 0]),
        45 * size,
        rng.uniform(0.8, 1.8),
    )


def _lungs(body: Body) -> None:
    rng = body.rng
    for s in (-1, 1):
        at, radii = (
            (s * rng.uniform(55, 75), rng.uniform(0, 20), rng.uniform(-20, 40)),
            rng.uniform((45, 60, 90), (65, 85, 140)),
        )
        body.fill(ball(at, radii, 2.4), at, float(radii.max()), rng.uniform(-900, -700))
    vessels = np.abs(body.noise(16)) < 0.08
    body.hu[vessels & (body.hu < -500) & (body.hu > -950)] += 350
    heart = rng.uniform(-25, 15, 3) + (0, 30, 0)
    body.fill(ball(heart, rng.uniform(35, 55, 3)), heart, 55, rng.uniform(30, 220))


def _ribs(body: Body, back: float, size: float) -> None:
    rng = body.rng
    half, deep, slope, step = rng.uniform(95, 135), rng.uniform(65, 95), rng.uniform(15, 60), rng.uniform(20, 32)
    angle = np.linspace(-1.45, rng.uniform(0.6, 1.3), 17)
    for level in range(-6, 8):
        for s in (-1, 1):
            x, y = s * (14 + (half - 14) * np.cos(angle)), back + deep - 12 + deep * np.sin(angle)
            path = np.stack([x, y, level * step - slope * (angle + 1.45) / 2.5], axis=1)
            wall = rng.uniform(0.8, 1.6)
            for first in range(0, 16, 2):  # in pieces, to keep their boxes small
                piece = path[first : first + 3]
                body.bone(tube(piece, np.full(3, 4.6 * size), 1.0), piece[1], 12 + 4.6 * size, wall)
    sternum = np.array([[0, back + 2 * deep - 14, 90], [0, back + 2 * deep - 8, -40]])
    body.bone(tube(sternum, np.array([9.0, 7.0])), (0, back + 2 * deep, 30), 80, 1.2)


def pelvis(rng: np.random.Generator) -> Body:
    """Iliac wings, sacrum, sockets and femoral heads."""
    body = Body(rng)
    _soft(body, (rng.uniform(140, 190), rng.uniform(90, 130)), rng.uniform(2, 3))
    body.prepare_bone()
    size, lean = rng.uniform(0.85, 1.15), rng.normal(0, 0.25)
    shift = rng.uniform(-45, 45, 3)
    tilt = rotation_exp(np.array([lean, 0, 0]))
    place = placed(shift, tilt, size)
    for s in (-1, 1):
        wing = ball(place((s * 78, -10, 50)), np.array([60, 74, 62]) * size, 2.2, (lean, s * 0.35, s * 0.5))
        thick = rng.uniform(5, 10)
        half_space = ball(place((s * 105, -18, 52)), np.array([52, 62, 50]) * size, 2.2, (lean, 0, s * 0.6))
        wall = common(shell(wing, thick), half_space)
        body.bone(wall, place((s * 90, -10, 50)), 90 * size, rng.uniform(1, 2))
        head = place((s * 92, 6, -22))
        socket = common(shell(ball(head, (33 * size,) * 3), 9.0 * size), beyond(place((s * 98, 0, 0))[0], s))
        body.bone(socket, head, 40 * size, 1.5)
        ring = [
            place(p)
            for p in (
                (s * 70, 10, -25),
                (s * 35, 42, -38),
                (s * 4, 46, -42),
                (s * 22, 25, -70),
                (s * 55, -15, -68),
                (s * 75, -10, -35),
            )
        ]
        body.bone(
            tube(np.array(ring), np.array([13, 9, 10, 8, 14, 14]) * size), place((s * 40, 15, -45)), 75 * size, 1.6
        )
        if rng.random() < 0.85:
            body.bone(ball(head, (23 * size,) * 3), head, 26 * size, 1.2)
            neck = np.stack([head, place((s * 130, 0, -50)), place((s * 140, 0, -200))])
            body.bone(
                tube(neck, np.array([16, 18, 14]) * size), place((s * 125, 0, -90)), 140 * size, rng.uniform(2, 4)
            )
    sacrum = [place(p) for p in ((0, -40, 62), (0, -62, 25), (0, -66, -15), (0, -50, -38))]
    body.bone(
        tube(np.array(sacrum), np.array([34, 26, 17, 8]) * size), place((0, -55, 20)), 75 * size, rng.uniform(0.8, 1.8)
    )
    for level in range(2):
        _vertebra(body, place((0, -28, 92 + 36 * level)), np.array([lean, 0, 0]), size, 26 * size, False)
    return body


def skull(rng: np.random.Generator) -> Body:
    """Vault, brain, face with air, jaw and upper neck."""
    body = Body(rng)
    size = rng.uniform(0.85, 1.1)
    middle = np.array([0, 0, rng.uniform(-10, 40)])
    skin = ball(middle, np.array([82, 102, 88]) * size, 2.2)
    body.fill(skin, middle, 110, rng.uniform(-60, 50))
    body.fill(ball((0, -10, -120), (60 * size, 65 * size, 110)), (0, -10, -120), 140, 50)
    face = middle + (0, 45 * size, -80 * size)
    body.fill(ball(face, np.array([62, 55, 60]) * size), face, 75, 40)
    body.prepare_bone()
    vault = ball(middle, np.array([75, 94, 80]) * size, 2.2)
    body.fill(vault, middle, 105, 35)
    thick = rng.uniform(4, 9)
    body.bone(shell(vault, thick), middle, 105, thick / 3)
    base = middle + (0, 5, -62 * size)
    body.bone(ball(base, np.array([58, 60, 7]) * size, 3, (0.25, 0, 0)), base, 65 * size, 1.5)
    for s in (-1, 1):
        petrous = tube(np.stack([base + (s * 55, -18, -6), base + (s * 15, 12, -2)]), np.array([13.0, 7.0]))
        body.bone(petrous, base, 70, 3, trabecular=600)
        eye = face + (s * 32 * size, 20 * size, 34 * size)
        body.bone(shell(ball(eye, (21 * size,) * 3), 3.0), eye, 26, 1.5)
        body.bone(
            tube(np.stack([face + (s * 60, -20, 25), face + (s * 45, 35, 12)]), np.array([5.0, 6.0])), face, 75, 1.2
        )
        jaw = np.stack(
            [face + (s * 52, -30, 5), face + (s * 48, -25, -40), face + (s * 22, 32, -58), face + (0, 44, -56)]
        )
        body.bone(tube(jaw * 1.0, np.array([7, 9, 9, 10]) * size), face, 90, 2)
        sinus = face + (s * 24 * size, 22 * size, 5 * size)
        body.bone(ball(sinus, np.array([20, 22, 22]) * size), sinus, 26, 1.5)
        body.fill(ball(sinus, np.array([17, 19, 19]) * size), sinus, 26, -950)
    body.bone(
        tube(np.stack([face + (-25, 25, -28), face + (0, 45, -30), face + (25, 25, -28)]), np.array([9.0] * 3)),
        face,
        70,
        2,
        trabecular=900,
    )
    body.fill(
        tube(np.stack([face + (0, 40, 5), face + (0, -25, -10), face + (0, -35, -120)]), np.array([9.0, 11, 9])),
        face,
        150,
        -980,
    )
    for level in range(5):
        _vertebra(body, middle + (0, -18, -95 - 19 * level), rng.normal(0, 0.08, 3), 0.62 * size, 13, False)
    return body


def limb(rng: np.random.Generator) -> Body:
    """One to five long bones side by side: forearm, lower leg, hand, foot."""
    body = Body(rng)
    count = int(rng.integers(1, 6))
    wide = rng.uniform(25, 50) + 9 * count
    _soft(body, (wide, rng.uniform(0.45, 1.0) * wide), 2.4)
    body.prepare_bone()
    for x in np.linspace(-0.7, 0.7, count) * (wide - 15) if count > 1 else [0.0]:
        radius, length = rng.uniform(5, 14) * (1.0 if count < 3 else 0.7), rng.uniform(40, 220)
        z = float(rng.uniform(-90, 0))
        while z < 130:
            ends = np.array(
                [[x, 0, z], [x, 0, z + 0.12 * length], [x, 0, z + 0.85 * length], [x, 0, z + length]]
            ) + rng.normal(0, 3, (4, 3))
            solid = tube(ends, radius * rng.uniform((1.1, 0.7, 0.7, 1.1), (1.8, 1.0, 1.0, 1.7)))
            if rng.random() < 0.12:
                solid = broken(
                    solid, ends.mean(axis=0), rng.normal(0, 0.5, 3) + (0, 0, 1), rng.normal(0, 3, 3), rng.uniform(1, 4)
                )
            body.bone(solid, ends.mean(axis=0), length * 0.6 + 20, rng.uniform(1, 3.5))
            z += length + 2 * radius + rng.uniform(0, 6)
    return body


BODIES: tuple[Callable[[np.random.Generator], Body], ...] = (thigh, spine, pelvis, skull, limb)


def procedural(rng: np.random.Generator) -> Volume:
    """One of the bodies, turned and moved, sometimes with metal."""
    body = BODIES[int(rng.choice(len(BODIES), p=[0.28, 0.24, 0.2, 0.14, 0.14]))](rng)
    if rng.random() < 0.2:
        with_metal(body.hu, rng)
    turned = rotation_exp(rng.normal(0, 0.15, 3))
    volume_from_index = centered_grid((SIZE,) * 3, SPACING_MM * float(rng.uniform(0.9, 1.1)), rng.uniform(-10, 10, 3))
    volume_from_index[:3] = turned @ volume_from_index[:3]
    return Volume(gaussian_filter(body.hu, rng.uniform(0.2, 0.7)), volume_from_index, "procedural")


def with_metal(hu: FloatArray, rng: np.random.Generator) -> None:
    """Put screws and rods into the bone of a volume, (k, j, i) in HU, in place."""
    bone = np.argwhere(hu > 250)
    if not len(bone):
        return
    k, j, i = (np.arange(n, dtype=np.float32) for n in hu.shape)
    for _ in range(int(rng.integers(1, 5))):
        at = bone[rng.integers(len(bone))].astype(np.float32)
        along = rng.normal(0, 1, 3)
        along = (along / np.linalg.norm(along)).astype(np.float32)
        half, radius = rng.uniform(8, 35), rng.uniform(1.0, 2.5)
        dk, dj, di = (k - at[0])[:, None, None], (j - at[1])[None, :, None], (i - at[2])[None, None, :]
        t = np.clip(dk * along[0] + dj * along[1] + di * along[2], -half, half)
        off = np.sqrt((dk - t * along[0]) ** 2 + (dj - t * along[1]) ** 2 + (di - t * along[2]) ** 2) - np.float32(
            radius
        )
        share = np.clip(0.5 - off, 0, 1)
        hu += share * (_METAL_HU - hu)
