"""Procedural anatomy: a torso drawn from simple solids, for use without a CT.

Adult proportions; cortical shells of 1-2 mm around trabecular texture; HU of the textbook tissues.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from navnode.geometry import rotation_exp
from navnode.projector.grids import centered_grid
from navnode.types import Array, FloatArray, Matrix, Volume

__all__ = ["VERSION", "torso"]

VERSION = 1
"""Part of the cached file's name; increment it when the torso changes."""

_SPACING_MM = 1.5
_SIZE = (240, 168, 260)
_AIR, _LUNG, _FAT, _MUSCLE, _LIVER, _BLOOD = -1000.0, -840.0, -100.0, 55.0, 70.0, 45.0
_TRABECULAR, _CORTICAL = 240.0, 1050.0


class _Canvas:
    """Draws solids into a volume; positions and sizes in mm, RAS, origin at the center."""

    def __init__(self) -> None:
        self.volume_from_index = centered_grid(_SIZE, _SPACING_MM, np.zeros(3))
        self.hu: FloatArray = np.full(_SIZE[::-1], _AIR, np.float32)

    def ellipsoid(
        self,
        center: Array | tuple[float, float, float],
        radii: tuple[float, float, float],
        hu: float,
        *,
        turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
        power: float = 2.0,
        where: float | None = None,
    ) -> None:
        """Fill |x/a|^p + |y/b|^p + |z/c|^p < 1; ``where``: only voxels above this HU."""
        region, (x, y, z) = self._around(np.asarray(center, np.float64), max(radii) * 1.5)
        if any(turn):
            offsets = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
            x, y, z = np.moveaxis(offsets @ rotation_exp(np.array(turn)), -1, 0)
        terms = [np.abs(along / radius) ** power for along, radius in zip((x, y, z), radii, strict=True)]
        inside = terms[0] + terms[1] + terms[2] < 1.0
        if where is not None:
            inside &= self.hu[region] > where
        self.hu[region][inside] = hu

    def bone(
        self,
        center: Array | tuple[float, float, float],
        radii: tuple[float, float, float],
        *,
        shell_mm: float = 1.5,
        turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
        power: float = 2.0,
    ) -> None:
        """A cortical shell around trabecular bone; marrow does not overwrite another bone's shell."""
        core = (max(radii[0] - shell_mm, 0.5), max(radii[1] - shell_mm, 0.5), max(radii[2] - shell_mm, 0.5))
        self.ellipsoid(center, radii, _CORTICAL, turn=turn, power=power)
        self.ellipsoid(center, core, _TRABECULAR, turn=turn, power=power)

    def _around(self, center: Matrix, reach_mm: float) -> tuple[tuple[slice, ...], tuple[Matrix, Matrix, Matrix]]:
        """The voxels around a place, and how far they are from it in x, y and z, each along an axis of its own."""
        middle = (center - self.volume_from_index[:3, 3]) / _SPACING_MM
        low = np.clip(np.floor(middle - reach_mm / _SPACING_MM), 0, np.array(_SIZE) - 1).astype(int)
        high = np.clip(np.ceil(middle + reach_mm / _SPACING_MM), 0, np.array(_SIZE) - 1).astype(int)
        i, j, k = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
        first_mm = self.volume_from_index[:3, 3]
        x, y, z = (n * _SPACING_MM + first_mm[axis] - center[axis] for axis, n in enumerate((i, j, k)))
        region = tuple(slice(int(a), int(b) + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
        return region, (x[None, None, :], y[None, :, None], z[:, None, None])


def torso(seed: int = 0) -> Volume:
    """Chest to pelvis of a supine adult, 1.5 mm voxels, HU."""
    rng = np.random.default_rng(seed)
    canvas = _Canvas()
    canvas.ellipsoid((0, 0, 0), (168, 112, 320), _FAT, power=2.6)
    canvas.ellipsoid((0, 0, 0), (152, 98, 310), _MUSCLE, power=2.6)
    for side in (-1, 1):
        canvas.ellipsoid((68 * side, 8, 95), (58, 76, 110), _LUNG, power=2.4)
    canvas.ellipsoid((-22, 32, 60), (46, 40, 55), _BLOOD)
    canvas.ellipsoid((62, 12, -18), (70, 66, 48), _LIVER)
    canvas.ellipsoid((-70, -20, -20), (28, 26, 42), _LIVER - 15)
    for side in (-1, 1):
        canvas.ellipsoid((52 * side, -42, -62), (22, 20, 44), 35)
    _ribs(canvas)
    _spine(canvas, rng)
    _pelvis(canvas)
    canvas.ellipsoid((0, 92, 70), (16, 6, 70), _CORTICAL)
    canvas.ellipsoid((0, 92, 70), (14, 4, 68), _TRABECULAR)
    texture = gaussian_filter(rng.standard_normal(canvas.hu.shape).astype(np.float32), 0.8)
    texture /= texture.std()
    marrow = np.abs(canvas.hu - _TRABECULAR) < 1
    canvas.hu[marrow] += 70 * texture[marrow]
    soft = (canvas.hu > -200) & ~marrow
    canvas.hu[soft] += 6 * texture[soft]
    lung = canvas.hu < -800
    lung &= canvas.hu > -900
    canvas.hu[lung] += 60 * np.abs(texture[lung])
    return Volume(gaussian_filter(canvas.hu, 0.5), canvas.volume_from_index, "procedural torso")


def _spine(canvas: _Canvas, rng: np.random.Generator) -> None:
    for level in range(12):
        z = -112 + 27.0 * level
        y = -52 + 10 * np.sin((z + 60) / 60)  # lordosis and kyphosis
        size = 1.0 - 0.025 * level
        jitter = rng.uniform(-0.6, 0.6, 3)
        body = np.array([0, y, z]) + jitter
        canvas.bone(body, (24 * size, 17 * size, 11.5 * size), power=4)
        canvas.ellipsoid(body + (0, -24 * size, 0), (9, 8, 14), 20)  # canal
        for side in (-1, 1):
            canvas.bone(body + (13 * side * size, -20 * size, 3), (4.5, 9, 6), shell_mm=1.2)
            canvas.bone(body + (27 * side * size, -30 * size, 2), (17, 4, 5), shell_mm=1.2, turn=(0, 0, -0.3 * side))
            canvas.bone(body + (15 * side * size, -34 * size, -9), (6, 5, 10), shell_mm=1.2)
        canvas.bone(body + (0, -42 * size, -6), (3.5, 15, 8), shell_mm=1.2, turn=(0.35, 0, 0))


def _ribs(canvas: _Canvas) -> None:
    for rib in range(8):
        z_back = 182 - 26.0 * rib
        for side in (-1, 1):
            for angle in np.linspace(-1.35, 1.25 if rib < 6 else 0.5, 64):
                x = side * (20 + 114 * np.cos(angle))
                y = 2 + 88 * np.sin(angle)
                z = z_back - 30 * (angle + 1.35) / 2.6
                canvas.ellipsoid((x, y, z), (5.5, 5.5, 7.0), _CORTICAL)
            for angle in np.linspace(-1.35, 1.25 if rib < 6 else 0.5, 64):
                x = side * (20 + 114 * np.cos(angle))
                y = 2 + 88 * np.sin(angle)
                z = z_back - 30 * (angle + 1.35) / 2.6
                canvas.ellipsoid((x, y, z), (4.2, 4.2, 5.6), _TRABECULAR, where=500)


def _pelvis(canvas: _Canvas) -> None:
    canvas.bone((0, -62, -158), (42, 18, 30), shell_mm=2.0, power=3)
    for side in (-1, 1):
        canvas.bone((88 * side, -18, -150), (11, 52, 44), shell_mm=2.0, turn=(0.0, 0.25 * side, 0.45 * side))
        canvas.bone((92 * side, 12, -188), (24, 24, 24), shell_mm=2.0)
