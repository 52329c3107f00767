"""A procedural torso of irregular bones, written as NIfTI by hand."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from tests.drills.sockets.rigid import Matrix, rigid, rotation

Voxels = npt.NDArray[np.float32]

SPACING_MM = 2.0
SHAPE = (150, 110, 150)
"""(k, j, i): 300 mm from feet to head, 220 mm from back to front, 300 mm from left to right."""
SPINE_MM = np.array([0.0, -38.0, 0.0])
"""RAS: where drills happen."""


def volume_from_index() -> Matrix:
    """RAS: the middle of the grid lies at the origin."""
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    return rigid(None, -SPACING_MM * middle) @ np.diag([SPACING_MM] * 3 + [1.0])


def torso(seed: int = 0) -> Voxels:
    """HU, (k, j, i)."""
    rng = np.random.default_rng(seed)
    hu = np.full(SHAPE, -1000.0, np.float32)
    _put(hu, np.zeros(3), (114.0, 84.0, 1e4), -95.0)
    _put(hu, np.zeros(3), (104.0, 73.0, 1e4), 35.0)
    for at, size in (((48, 28, 55), (36, 30, 34)), ((-52, 20, -60), (24, 30, 40)), ((10, 50, -20), (30, 18, 22))):
        _put(hu, np.array(at, float), size, float(rng.uniform(-20, 75)), (0.3, 0.2, 0.4))
    for _ in range(7):  # gas
        at = np.array([rng.uniform(-80, 80), rng.uniform(20, 65), rng.uniform(-120, 40)])
        _put(hu, at, tuple(rng.uniform(6, 15, 3)), -850.0, tuple(rng.normal(0, 1, 3)))
    bone = np.zeros(SHAPE, np.float32)
    for level in range(-5, 6):
        _vertebra(bone, level, rng)
    for level in range(6):
        for side in (-1, 1):
            _rib(bone, level, side, rng)
    for side in (-1, 1):
        at = np.array([side * 72.0, -8.0, -118.0])
        _put(bone, at, (10, 52, 40), 520.0, (0.25, side * 0.5 + rng.normal(0, 0.1), side * 0.35))
    for _ in range(10):  # stones and osteophytes
        at = SPINE_MM + rng.uniform(-60, 60, 3) * (1, 0.5, 1.4)
        _put(bone, at, tuple(rng.uniform(2.5, 4.5, 3)), 900.0)
    texture = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), 1.2)
    texture *= 1.0 / texture.std()
    spongy = np.where(bone > 0, bone * (1 + 0.18 * texture), 0)
    hu = np.where(bone > 0, spongy, hu + np.where(hu > -500, 12 * texture, 0))
    return np.clip(gaussian_filter(hu, 0.6), -1000, 2500).astype(np.float32)


def write_nifti(path: Path, hu: Voxels, ras_from_index: Matrix) -> Path:
    """NIfTI-1, gzipped, int16, its axes in the sform (scanner coordinates)."""
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *hu.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)  # int16
    struct.pack_into("<8f", header, 76, 1.0, *np.linalg.norm(ras_from_index[:3, :3], axis=0), 0, 0, 0, 0)
    struct.pack_into("<fff", header, 108, 352.0, 1.0, 0.0)
    struct.pack_into("<B", header, 123, 2)  # mm
    struct.pack_into("<hh", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, *ras_from_index[:3].ravel())
    header[344:348] = b"n+1\0"
    voxels = np.round(hu).astype("<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(header) + b"\0" * 4 + voxels, 1))
    return path


def _vertebra(bone: Voxels, level: int, rng: np.random.Generator) -> None:
    """None looks like its neighbours."""
    bent = np.array([7 * np.sin(level / 3.1), 6 * np.cos(level / 2.3) - 6, 28.5 * level]) + rng.normal(0, 1.5, 3)
    at, turned = SPINE_MM + bent, rng.normal(0, 0.07, 3)
    size = np.array([21.0, 15.5, 11.0]) * rng.uniform(0.88, 1.15, 3)
    _put(bone, at, size, 560.0, turned, power=4)
    _put(bone, at, size - 2.5, float(rng.uniform(170, 290)), turned, power=4)
    frame = rotation(*turned)

    def beside(offset: tuple[float, ...], extent: tuple[float, ...], tilt: tuple[float, ...], hu: float) -> None:
        _put(bone, at + frame @ np.array(offset), extent, hu, tuple(turned + np.array(tilt)))

    for side in (-1, 1):
        beside((side * 11, -18, 3), (4.5, 9, 5.5), (0, 0, side * 0.2), 480.0)  # pedicle
        length = float(rng.uniform(14, 23))
        beside((side * (18 + length / 2), -24, 2), (length, 5, 5.5), (0, side * rng.normal(0.1, 0.2), 0), 430.0)
        beside((side * 15, -30, rng.uniform(-9, 9)), (6, 7, 10), (0.2, 0, 0), 620.0)  # facets
    reach = float(rng.uniform(13, 20))
    beside((rng.normal(0, 2), -28 - reach, -6), (4, reach, 8.5), (rng.uniform(0.1, 0.6), 0, 0), 520.0)


def _rib(bone: Voxels, level: int, side: int, rng: np.random.Generator) -> None:
    wide, deep, drop = rng.uniform(86, 97), rng.uniform(58, 67), rng.uniform(25, 50)
    for angle in np.linspace(-1.35, 0.9, 60):
        at = np.array([side * wide * np.cos(angle), deep * np.sin(angle), 0.0])
        at[2] = 28.5 * level + 8 - drop * (angle + 1.35) / 2.2
        _put(bone, at, (5.0, 5.0, 6.5), 480.0)


def _put(
    hu: Voxels,
    at_mm: Matrix,
    size_mm: tuple[float, ...] | Matrix,
    value: float,
    turn_rad: tuple[float, ...] | Matrix = (0.0, 0.0, 0.0),
    power: int = 2,
) -> None:
    """Fill a superellipsoid of these half axes."""
    size = np.asarray(size_mm, float)
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    reach = min(float(np.linalg.norm(size)), 1e3)
    low = np.clip(np.floor((at_mm - reach) / SPACING_MM + middle), 0, np.array(SHAPE[::-1]) - 1).astype(int)
    high = np.clip(np.ceil((at_mm + reach) / SPACING_MM + middle) + 1, 1, SHAPE[::-1]).astype(int)
    if (high <= low).any():
        return
    axes = [SPACING_MM * (np.arange(a, b) - m) for a, b, m in zip(low, high, middle, strict=True)]
    k, j, i = np.meshgrid(*axes[::-1], indexing="ij")
    points = np.stack([i, j, k], -1) - at_mm
    inside = (np.abs((points @ rotation(*turn_rad)) / size) ** power).sum(-1) <= 1
    hu[low[2] : high[2], low[1] : high[1], low[0] : high[0]][inside] = value
