"""How far bone encloses a place in a CT: where thin cortex has gaps, no slice alone can tell inside from outside.

Marrow sees cortex in nearly every direction, even through gaps; muscle beside a bone sees it in about half of them. So
rays are cast in 26 directions from every voxel, and those that meet cortex are counted.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from navnode.types import FloatArray

__all__ = ["enclosure"]

_REACH_MM = 40.0
"""Half the width of a proximal tibia; further cortex is that of another bone."""
_LEAST_KNOWN = 14
"""Rays of a voxel that must not leave the CT; with fewer, nothing is known of it."""


def enclosure(shell: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> FloatArray:
    """The share of rays from every voxel that meet the shell within 40 mm, (k, j, i), 0..1; 0 where too many leave the
    grid before.

    Args:
        shell: (k, j, i), cortex.
        spacing_mm: (x, y, z); oblique rays rise by 45 degrees in voxels of any height.
    """
    met, known = np.zeros(shell.shape, np.uint8), np.zeros(shell.shape, np.uint8)
    across = max(1, round(spacing_mm[2] / spacing_mm[0]))
    for down, back, left in product((-1, 0, 1), repeat=3):
        if down or back or left:
            ray = (down, back, left) if not down else (down, back * across, left * across)
            _cast(shell, ray, spacing_mm, met, known)
    return np.where(known >= _LEAST_KNOWN, met / np.maximum(known, 1), 0).astype(np.float32)


def _cast(
    shell: npt.NDArray[np.bool_],
    ray: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    met: npt.NDArray[np.uint8],
    known: npt.NDArray[np.uint8],
) -> None:
    """Count, in place, the voxels whose ray against the steps (k, j, i) of ``ray`` meets the shell, and those for which
    that is known."""
    step_mm = np.float32(np.linalg.norm(np.array(ray) * spacing_mm[::-1]))
    axis = next(n for n in range(3) if abs(ray[n]) == 1)
    planes, planes_met, planes_known = (np.moveaxis(part, axis, 0) for part in (shell, met, known))
    aside = [(ray[n], shell.shape[n]) for n in range(3) if n != axis]
    to = tuple(slice(max(steps, 0), size + min(steps, 0)) for steps, size in aside)
    of = tuple(slice(max(-steps, 0), size + min(-steps, 0)) for steps, size in aside)
    shell_mm = np.full(planes.shape[1:], np.inf, np.float32)
    border_mm = np.zeros(planes.shape[1:], np.float32)
    for plane in range(len(planes))[:: ray[axis]]:
        # Distances along the ray, from plane to plane; beyond the grid nothing is met.
        moved_mm, left_mm = np.full_like(shell_mm, np.inf), np.zeros_like(border_mm)
        moved_mm[to], left_mm[to] = shell_mm[of], border_mm[of]
        shell_mm = np.where(planes[plane], np.float32(0), moved_mm + step_mm)
        border_mm = left_mm + step_mm
        meets = shell_mm <= _REACH_MM
        planes_met[plane] += meets
        planes_known[plane] += meets | (border_mm > _REACH_MM)
