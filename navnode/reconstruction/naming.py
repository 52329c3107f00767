"""Names bones in space by the kinds that the views show: femur, tibia, and so on.

What is in a voxel of bone is seen by every view, but behind it and in front of it may be other bones. It is of the kind
that the views agree on: the product of the shares that they give to each kind at its projection.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from navnode import geometry as g
from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.reading import Reading, tells_kinds_apart
from navnode.types import Array, Matrix, Volume

__all__ = ["seen_kinds"]

_LEAST_SHARE = 0.02
"""A view never excludes a kind."""


def seen_kinds(inside: Array, grid: Volume, readings: Sequence[Reading], poses: Sequence[Matrix]) -> Array:
    """The kind of every voxel of bone: (k, j, i) uint8, indices into ``reader.BONE_KINDS``; ``other`` where no view
    sees it, and everywhere if a view does not tell kinds apart.

    Args:
        inside: bool, (k, j, i), bone.
        grid: a volume on the voxels' grid.
        poses: volume_from_carm of every reading.
    """
    kinds = np.full(inside.shape, BONE_KINDS.index("other"), np.uint8)
    if not tells_kinds_apart(readings):
        return kinds
    voxels = np.argwhere(inside)
    votes = np.zeros((len(voxels), len(BONE_KINDS)), np.float32)
    votes[:, BONE_KINDS.index("other")] = 1e-3
    at_mm = g.transform(grid.volume_from_index, voxels[:, ::-1].astype(float))
    for reading, pose in zip(readings, poses, strict=True):
        u, v = np.round(g.project(reading.carm, g.inverse(pose), at_mm)).T  # NaN behind the source
        height, width = reading.bone.shape
        within = (u >= 0) & (v >= 0) & (u < width) & (v < height)
        shares = reading.kinds[:, v[within].astype(int), u[within].astype(int)].T
        votes[within] += np.log(np.maximum(np.nan_to_num(shares, nan=1.0), _LEAST_SHARE))
    kinds[inside] = votes.argmax(axis=1)
    return kinds
