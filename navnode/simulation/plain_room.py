"""A plain X-ray room: a limb beside a jig of beads, exposed from the front and the side; nobody states a geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.simulation.beads import Beads, rendered
from navnode.types import CArm, FloatArray, Matrix, Volume

__all__ = ["Exposure", "drawn_limb", "exposures", "placed_in"]

_PX = 1024
_FIELD_MM, _DISTANCE_MM, _TO_DETECTOR_MM = (350.0, 430.0), (1000.0, 1500.0), (120.0, 250.0)
_OFF_CENTER_PX, _TURNED_DEG, _TILTED_DEG, _SHIFT_MM = 25.0, 8.0, 6.0, 12.0
_LAID_DEG = 5.0
"""How exactly a limb is laid into the jig."""
_CORTEX_HU, _MARROW_HU, _SOFT_HU = 1300.0, 220.0, 40.0


@dataclass(frozen=True)
class Exposure:
    """One picture's truth, and its line integrals (H, W) with the jig."""

    carm: CArm
    jig_from_carm: Matrix
    line_integrals: FloatArray


def placed_in(limb: Volume, rng: np.random.Generator) -> Volume:
    """A CT of a limb, RAS, laid into a jig's frame: its front towards the source of the first picture."""
    about = np.diag([-1.0, -1.0, 1.0]) @ g.rotation_exp(np.deg2rad(rng.normal(0, _LAID_DEG / 2, 3)))
    shift = rng.uniform(-_SHIFT_MM, _SHIFT_MM, 3) - about @ np.asarray(limb.center_mm)
    return Volume(limb.voxels, g.rigid(about, shift) @ limb.volume_from_index, limb.name)


def exposures(
    render: Callable[[CArm, Matrix], FloatArray], beads: Beads, rng: np.random.Generator, angles_deg: tuple[float, ...]
) -> list[Exposure]:
    """Pictures of a limb and its jig.

    Args:
        render: line integrals (H, W) of the limb, in the jig's frame.
        beads: of the jig, as it was built.
        angles_deg: directions, 0 from the front and 90 from the side; they are met within some degrees.
    """
    found = []
    for angle_deg in angles_deg:
        spacing_mm, distance_mm = float(rng.uniform(*_FIELD_MM)) / _PX, float(rng.uniform(*_DISTANCE_MM))
        u, v = ((_PX - 1) / 2 + rng.uniform(-_OFF_CENTER_PX, _OFF_CENTER_PX, 2)).tolist()
        carm = CArm(_PX, _PX, (spacing_mm, spacing_mm), distance_mm, (u, v))
        angle, tilt = np.deg2rad(
            [angle_deg + rng.uniform(-_TURNED_DEG, _TURNED_DEG), rng.uniform(-_TILTED_DEG, _TILTED_DEG)]
        )
        ray = np.array([np.sin(angle) * np.cos(tilt), np.cos(angle) * np.cos(tilt), np.sin(tilt)])
        across = np.cross([0.0, 0.0, -1.0], ray)
        across /= np.linalg.norm(across)
        rotation = np.stack([across, np.cross(ray, across), ray], axis=1)
        middle = np.array([20.0, 20.0, 0.0]) + rng.uniform(-10, 10, 3)
        pose = g.rigid(rotation, middle - (distance_mm - rng.uniform(*_TO_DETECTOR_MM)) * ray)
        found.append(Exposure(carm, pose, render(carm, pose) + rendered(beads, carm, pose, wall_mm=10.0)))
    return found


def drawn_limb(length_mm: float = 190.0) -> Volume:
    """A drawn knee, HU, RAS: two long bones that meet, a thin one beside them, and soft tissue."""
    step_mm = 1.5
    size = (94, 94, round(length_mm / step_mm))
    grid = centered_grid(size, step_mm, np.zeros(3))
    x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * step_mm for n in size), indexing="ij", sparse=True)
    x, y, z = (axis.transpose(2, 1, 0) for axis in (x, y, z))
    flare = np.exp(-np.abs(z) / 22.0)
    wide, deep = 13 + 24 * flare, 13 + 15 * flare  # half axes
    gap = 3.0 + 1.5 * np.cos(x / 14.0)
    from_middle = np.hypot(x / wide, (y + 3) / deep)
    inside = np.minimum((1 - from_middle) * np.minimum(wide, deep), np.abs(z) - gap)
    thin = np.minimum(7.0 - np.hypot(x + 30, y + 14), -18.0 - z)
    depth = np.maximum(inside, thin)
    hu = np.where(np.hypot(x / 60, (y + 2) / 56) < 1, _SOFT_HU, AIR_HU) + 0 * z
    hu = np.where(depth > 0, _CORTEX_HU, hu)
    hu = np.where(depth > 3.5 - 2.5 * flare, _MARROW_HU, hu)
    return Volume(hu.astype(np.float32), grid, "drawn limb")
