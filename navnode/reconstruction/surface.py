"""The bone surface of a volume."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, label
from skimage.measure import marching_cubes

from navnode import geometry as g
from navnode.types import Mesh, Volume
from navnode.volumes import resample

BONE_HU = 300.0
_GRID_MM = 2.5
_MIN_PIECE_MM3 = 800.0
_MAX_TRIANGLES = 250_000


def bone_surface(volume: Volume, *, relative: bool = False) -> Mesh | None:
    """A closed surface around bone, None where there is none.

    Args:
        relative: take the densest hundredth of the body instead of a fixed HU, for volumes from a few
            X-rays, whose HU are biased low.
    """
    coarse = resample(volume, max(_GRID_MM, min(volume.spacing_mm)))
    hu = gaussian_filter(coarse.voxels, 0.6)
    body = hu > -400.0
    if relative and not body.any():
        return None
    level = float(np.percentile(hu[body], 98.0)) if relative else BONE_HU
    for border in (np.s_[:1], np.s_[-1:]):  # bone cut by the edge of the volume is closed there
        hu[border] = hu[:, border] = hu[:, :, border] = -1000.0
    pieces, _ = label(hu > level)
    volume_mm3 = np.bincount(pieces.ravel()) * float(np.prod(coarse.spacing_mm))
    keep = volume_mm3 >= _MIN_PIECE_MM3
    keep[0] = True
    hu[~keep[pieces]] = level - 100.0
    if not (hu > level).any():
        return None
    step = 1
    while True:
        vertices, faces, _, _ = marching_cubes(hu, level, step_size=step, allow_degenerate=False)
        if len(faces) <= _MAX_TRIANGLES:
            break
        step += 1
    points = g.transform(coarse.volume_from_index, vertices[:, ::-1])
    return Mesh(points.astype(np.float32), faces.astype(np.uint32))
