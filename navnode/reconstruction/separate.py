"""Bones that touch, told apart by their kinds, and otherwise where they are joined by little.

Bone found from a few X-rays often bridges a joint. Inside it, the distance to the surface has a peak in every bone and
a pass between two; where the pass is low beside the lower peak, the bridge is thin, and bones are cut there: a
watershed of distances, merged by the height of its passes (Beucher and Meyer, in Mathematical Morphology in Image
Processing, 1993). Slim bones survive, as their waists are compared with themselves.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter, label
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from navnode.reconstruction.reader import BONE_KINDS
from navnode.types import Array, FloatArray, Volume

__all__ = ["separated", "single_bones"]

_JOINED = 0.6
"""Two parts are one bone if the pass between them is at least this high beside the lower peak."""
_LEAST_MM3 = 3_000.0
"""A smaller part is never a bone of its own if it touches another."""
_PEAKS_APART_MM = 6.0
_MARGIN = 3
"""Voxels around a bone in its volume."""


def single_bones(likely: Volume, threshold: float, kinds: Array | None = None) -> list[Volume]:
    """The probability of each bone by itself, in a volume cut to it and named by its kind, largest first.

    Args:
        likely, threshold: as for :func:`separated`.
        kinds: (k, j, i), likewise.
    """
    numbers, count = separated(likely, threshold, kinds)
    found = []
    for number, box in enumerate(find_objects(numbers, count), 1):
        if box is None:
            continue
        wide = tuple(
            slice(max(side.start - _MARGIN, 0), min(side.stop + _MARGIN, size))
            for side, size in zip(box, numbers.shape, strict=True)
        )
        mine = numbers[wide]
        # Beside the bone its own slope goes on; another bone's voxels are none of it.
        voxels = np.where((mine == number) | (mine == 0), likely.voxels[wide], np.float32(0))
        volume_from_index = likely.volume_from_index.copy()
        volume_from_index[:3, 3] += volume_from_index[:3, :3] @ [side.start for side in reversed(wide)]
        name = likely.name if kinds is None else BONE_KINDS[np.bincount(kinds[wide][mine == number]).argmax()]
        found.append((int((mine == number).sum()), Volume(voxels, volume_from_index, name)))
    return [volume for _, volume in sorted(found, key=lambda each: -each[0])]


def separated(likely: Volume, threshold: float, kinds: Array | None = None) -> tuple[Array, int]:
    """Number the bones of a volume.

    Args:
        likely: probability of bone, 0..1.
        threshold: what is bone, 0..1.
        kinds: kind of bone in every voxel, (k, j, i), indices into ``reader.BONE_KINDS``; connected bone of a known
            kind is one bone.

    Returns:
        The number of each voxel's bone, (k, j, i), 0 outside, and how many bones there are.
    """
    inside = likely.voxels > threshold
    if not inside.any():
        return np.zeros(inside.shape, np.int32), 0
    spacing_mm = likely.spacing_mm[::-1]
    deep_mm = gaussian_filter(distance_transform_edt(inside, spacing_mm).astype(np.float32), 1.0) * inside
    apart = max(1, round(_PEAKS_APART_MM / min(spacing_mm)))
    connected, _ = label(inside)
    peaks = peak_local_max(deep_mm, min_distance=apart, labels=connected, exclude_border=False)
    markers = np.zeros(inside.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parts = watershed(-deep_mm, markers, mask=inside)
    bones = _merged(parts, deep_mm, float(np.prod(spacing_mm)))
    numbers = np.unique(bones)
    whole = np.zeros(len(bones), np.int32)
    whole[1:] = np.searchsorted(numbers[1:], bones[1:]) + 1
    apart = whole[parts]
    return (apart, len(numbers) - 1) if kinds is None else _by_kind(apart, kinds, spacing_mm)


def _by_kind(apart: Array, kinds: Array, spacing_mm: tuple[float, ...]) -> tuple[Array, int]:
    """Bones of known kinds, whole; what is of none stays divided; scraps go to the nearest bone."""
    inside = apart > 0
    found, count = np.zeros_like(apart), 0
    for kind, name in enumerate(BONE_KINDS):
        mine = inside & (kinds == kind)
        pieces, pieces_count = (np.where(mine, apart, 0), int(apart.max())) if name == "other" else label(mine)
        found[mine] = pieces[mine] + count
        count += pieces_count
    sizes_mm3 = np.bincount(found.ravel(), minlength=count + 1) * float(np.prod(spacing_mm))
    kept = sizes_mm3 >= _LEAST_MM3
    kept[0] = False
    # A small bone that touches no other is one all the same.
    lonely, _ = label(inside)
    with_kept = np.bincount(lonely.ravel(), weights=kept[found].ravel()) > 0
    kept[np.unique(found[inside & ~with_kept[lonely]])] = True
    nearest = distance_transform_edt(~kept[found], spacing_mm, return_distances=False, return_indices=True)
    found = np.where(inside, found[tuple(nearest)], 0)
    numbers, found = np.unique(found, return_inverse=True)
    return found.reshape(apart.shape).astype(np.int32), len(numbers) - 1


def _merged(parts: Array, deep_mm: FloatArray, voxel_mm3: float) -> Array:
    """The bone of each part, by the part's number; passes are taken from the highest down."""
    count = int(parts.max()) + 1
    bone = np.arange(count)
    peak_mm = np.zeros(count)
    np.maximum.at(peak_mm, parts.ravel(), deep_mm.ravel())
    size_mm3 = np.bincount(parts.ravel(), minlength=count) * voxel_mm3

    def root(part: int) -> int:
        while bone[part] != part:
            bone[part] = bone[bone[part]]
            part = int(bone[part])
        return part

    for pass_mm, one, other in _passes(parts, deep_mm):
        a, b = root(one), root(other)
        if a == b:
            continue
        small = min(size_mm3[a], size_mm3[b]) < _LEAST_MM3
        if small or pass_mm >= _JOINED * min(peak_mm[a], peak_mm[b]):
            keep, gone = (a, b) if peak_mm[a] >= peak_mm[b] else (b, a)
            bone[gone] = keep
            size_mm3[keep] += size_mm3[gone]
    return np.array([root(part) for part in range(count)])


def _passes(parts: Array, deep_mm: FloatArray) -> list[tuple[float, int, int]]:
    """The highest pass between every two parts that touch: its height in mm and the parts, highest first."""
    heights: dict[tuple[int, int], float] = {}
    for axis in range(3):
        before, after = (
            tuple(cut if n == axis else slice(None) for n in range(3)) for cut in (slice(-1), slice(1, None))
        )
        a, b = parts[before], parts[after]
        touch = (a != b) & (a > 0) & (b > 0)
        height = np.minimum(deep_mm[before], deep_mm[after])[touch]
        pairs = np.sort(np.stack([a[touch], b[touch]], axis=1), axis=1)
        order = np.lexsort((-height, pairs[:, 1], pairs[:, 0]))
        first = np.unique(pairs[order], axis=0, return_index=True)[1]
        for (one, other), mm in zip(pairs[order][first].tolist(), height[order][first].tolist(), strict=True):
            heights[one, other] = max(mm, heights.get((one, other), 0.0))
    return sorted(((mm, one, other) for (one, other), mm in heights.items()), reverse=True)
