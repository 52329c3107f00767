"""Which bone is which: labels of the kinds of bone that :mod:`reader` tells apart.

Grey values do not name bones. In CTs of limbs, one point or more was marked by hand in every bone of a known kind
(``limb_bones.json``, mm from the center of the first voxel). Bones that touch are told apart as in finished
reconstructions (:mod:`separate`), or between marks of different kinds.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.separate import separated
from navnode.reconstruction.training.labels import share_inside
from navnode.types import Array, Volume

__all__ = ["bone_kinds"]

_SPACING_MM = 1.5
"""Voxels in which bones are told apart; those of CTs are up to four times as high as wide."""
_OTHER = BONE_KINDS.index("other")


def bone_kinds(name: str, bone: npt.NDArray[np.int8], ct: Volume) -> npt.NDArray[np.uint8] | None:
    """The kind of the nearest bone, everywhere in a CT: (k, j, i), indices into ``reader.BONE_KINDS``; None if nobody
    marked the patient's bones.

    Args:
        name: the patient.
        bone: signed distances of bone, (k, j, i), 0.1 mm, negative inside; ``hollow`` of :class:`labels.Labels`.
        ct: gives the grid.
    """
    marks = _marks().get(name)
    if marks is None:
        return None
    zoom = np.array(ct.spacing_mm[::-1]) / _SPACING_MM
    shape = np.maximum(np.round(zoom * bone.shape), 1).astype(int)
    fine = ndimage.zoom(bone.astype(np.float32), shape / bone.shape, order=1, mode="nearest", grid_mode=True)
    step_mm = np.array(ct.spacing_mm[::-1]) * bone.shape / fine.shape
    inside = share_inside(fine, _SPACING_MM)
    parts, count = separated(Volume(inside, np.diag([*step_mm[::-1], 1.0])), 0.5)
    if not count:
        return np.full(bone.shape, _OTHER, np.uint8)
    # The nearest part's number everywhere, so that marks need not be exact, nor the edges of bones.
    first_mm = (step_mm - ct.spacing_mm[::-1]) / 2
    at = {
        kind: [
            tuple(np.clip(np.round((np.array(mm[::-1]) - first_mm) / step_mm).astype(int), 0, shape - 1)) for mm in each
        ]
        for kind, each in marks.items()
    }
    nearest = ndimage.distance_transform_edt(parts == 0, step_mm, return_distances=False, return_indices=True)
    everywhere = parts[tuple(nearest)]
    kinds = np.full(parts.shape, _OTHER, np.uint8)
    for part in range(1, count + 1):
        named = [
            (BONE_KINDS.index(kind), mark) for kind, each in at.items() for mark in each if everywhere[mark] == part
        ]
        if len({kind for kind, _ in named}) > 1:
            kinds[parts == part] = _between(parts == part, named, step_mm)[parts == part]
        elif named:
            kinds[parts == part] = named[0][0]
    kinds = kinds[tuple(nearest)]
    back = [
        np.clip(np.round(((np.arange(n) + 0.5) * m / n) - 0.5).astype(int), 0, m - 1)
        for n, m in zip(bone.shape, shape, strict=True)
    ]
    return np.asarray(kinds[np.ix_(*back)])


def _between(part: Array, named: list[tuple[int, tuple[int, ...]]], step_mm: Array) -> npt.NDArray[np.uint8]:
    """The kinds in a part that holds marks of several: its narrowest places divide them."""
    deep = ndimage.gaussian_filter(ndimage.distance_transform_edt(part, step_mm), 1.0)
    markers = np.zeros(part.shape, np.int32)
    for kind, mark in named:
        markers[mark] = kind + 1
    return np.asarray(watershed(-deep, markers, mask=part) - 1).astype(np.uint8)


@cache
def _marks() -> dict[str, dict[str, list[list[float]]]]:
    """Points in mm (x, y, z) by patient and kind."""
    marks: dict[str, dict[str, list[list[float]]]] = json.loads(Path(__file__).with_name("limb_bones.json").read_text())
    return marks
