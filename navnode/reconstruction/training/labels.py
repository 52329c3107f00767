"""Labels of CTs to train on: solid bone (marrow included), lungs, and the body.

They are derived once from the grey values, with no knowledge of anatomy beyond what each step states. Labels are stored
as signed distances, which interpolate between slices of 3 mm without stairs (shape-based interpolation: Raya and Udupa,
IEEE Trans. Med. Imaging 9, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from navnode.reconstruction.training.enclosure import enclosure
from navnode.types import FloatArray, Volume

__all__ = [
    "BONE_HU",
    "Labels",
    "Mask",
    "REACH_MM",
    "body_mask",
    "labels",
    "lung_mask",
    "share_inside",
    "signed_distance",
    "solid_bone",
]

Mask = npt.NDArray[np.bool_]

BONE_HU = 220.0
_SMOOTHED_MM = 0.7
_CLOSED_MM = 2.0
_LEAST_BONE_CM3 = 3.0
_CORTICAL_HU = 400.0
"""The densest 2 % of a bone reach this; contrast medium in vessels and organs rarely does."""
_CANAL_HU, _CANAL_CM2 = (5.0, 60.0), 9.0
"""Mean HU inside a spinal canal, and its largest cross-section: bone surrounds it, but it is not bone."""
_LARGEST_MARROW_CM2 = 40.0
"""In one slice; a ring of bone that encloses more is a cranium or a pelvis."""
_LEAST_MARROW_CM2 = 4.0
"""In a sagittal or coronal slice; gaps of joints are smaller."""
_BORDER_GAP_MM = 70.0
_THIN_CORTEX_HU, _THIN_CORTEX_GAP_MM, _GROWN_PX = 140.0, 3.0, 3
"""Muscle, and vessels without contrast, stay below this."""

_ENCLOSED = 0.85
"""Share of rays out of marrow that meet cortex: 0.81 to 0.94 in all but a hundredth of the marrow of held-out limbs,
0.53 to 0.73 in all but a tenth of what lies within 8 mm of their bones."""
_AROUND_BONE_PX = 6
_JOINT_MM = 3.5
"""Half the least width of marrow; gaps of joints are narrower."""
_SEALED_PX = 2
_MARROW_HU = (-250.0, BONE_HU)

_BODY_HU = -350.0
_LUNG_HU = (-970.0, -550.0)
"""Mean HU of a lung; airways and bowel gas are darker."""
_AIR_HU = -400.0
_LEAST_LUNG_CM3 = 60.0

REACH_MM = 12.7
"""Signed distances are clipped to this."""
_STEPS_PER_MM = 10.0


@dataclass(frozen=True)
class Labels:
    """Signed distances in 0.1 mm, negative inside, (k, j, i) on the CT's grid."""

    bone: npt.NDArray[np.int8]
    lungs: npt.NDArray[np.int8]
    body: npt.NDArray[np.int8]
    hollow: npt.NDArray[np.int8]
    """Bone whose ends may be hollow: bones that meet at a joint are told apart better in it."""


def labels(ct: Volume, *, limb: bool) -> Labels:
    """All labels of a CT.

    Args:
        ct: HU, axial slices (k from feet to head or from head to feet).
        limb: expect no canal, cranium or lungs.
    """
    body = body_mask(ct)
    bone = solid_bone(ct, limb=limb) & body
    lungs = np.zeros_like(bone) if limb else lung_mask(ct, body) & ~bone
    hollow = solid_bone(ct, limb=limb, in_space=False) & body if limb else bone
    return Labels(*(signed_distance(mask, ct) for mask in (bone, lungs, body, hollow)))


def solid_bone(ct: Volume, *, limb: bool, in_space: bool = True) -> Mask:
    """Bone as a solid, (k, j, i): dense voxels, closed, with holes filled in every slice, without scraps and contrast
    medium.

    Args:
        ct: HU, axial slices.
        limb: as for :func:`labels`.
        in_space: fill limbs also where no slice is closed.
    """
    spacing_mm = ct.spacing_mm
    in_plane = [0.0, *(_SMOOTHED_MM / mm if mm < 2.5 * _SMOOTHED_MM else 0.0 for mm in spacing_mm[1::-1])]
    smooth = ndimage.gaussian_filter(ct.voxels, in_plane)
    mask = smooth > BONE_HU
    for slice_mask, hu, grey in zip(mask, ct.voxels, smooth, strict=True):
        slice_mask |= _closed(slice_mask, (_CLOSED_MM / spacing_mm[1], _CLOSED_MM / spacing_mm[0]))
        slice_mask |= _marrow(slice_mask, hu, spacing_mm, limb)
        if limb:
            # The thin cortex of flat bones, and of the ends of long ones, has gaps at 220 HU.
            shell = _closed(
                grey > _THIN_CORTEX_HU, (_THIN_CORTEX_GAP_MM / spacing_mm[1], _THIN_CORTEX_GAP_MM / spacing_mm[0])
            )
            marrow = _marrow(shell, hu, spacing_mm, limb)
            # Closing thickened the cortex inwards: grow back, but not out through the gaps.
            slice_mask |= marrow | (ndimage.binary_dilation(marrow, iterations=_GROWN_PX) & shell)
    if limb:
        for axis in (1, 2):  # sagittal, coronal: at bones' ends, gaps are long in axial slices
            _fill_along(mask, smooth, ct, axis)
        if in_space:
            _fill_enclosed(mask, smooth, ct)
    return _without_scraps(mask, ct)


def _fill_along(mask: Mask, smooth: FloatArray, ct: Volume, axis: int) -> None:
    """Fill, in place, what thin cortex encloses in sagittal (axis 1) or coronal (axis 2) slices."""
    across_mm, down_mm = ct.spacing_mm[2 - axis], ct.spacing_mm[2]
    least_px = _LEAST_MARROW_CM2 * 100 / (across_mm * down_mm)
    most_px = _LARGEST_MARROW_CM2 * 100 / (across_mm * down_mm)
    for n in range(mask.shape[3 - axis]):
        at = (slice(None), slice(None), n) if axis == 1 else (slice(None), n)
        shell = _closed(smooth[at] > _THIN_CORTEX_HU, (0.0, _THIN_CORTEX_GAP_MM / across_mm)) | mask[at]
        holes, count = ndimage.label(ndimage.binary_fill_holes(shell) & ~shell)
        if count:
            sizes = np.bincount(holes.ravel())
            sizes[0] = 0
            mask[at] |= ((sizes > least_px) & (sizes < most_px))[holes] & (ct.voxels[at] > -250)


def _fill_enclosed(mask: Mask, smooth: FloatArray, ct: Volume) -> None:
    """Fill, in place, what cortex with gaps encloses in space: osteoporotic ends of bones are open in every slice.

    Gaps of joints are enclosed, too, but narrow, and cortex divides them from marrow.
    """
    near = ndimage.binary_dilation(mask, iterations=_AROUND_BONE_PX)
    enclosed = enclosure((smooth > _THIN_CORTEX_HU) & near, ct.spacing_mm) >= _ENCLOSED
    enclosed &= (ct.voxels > _MARROW_HU[0]) & near
    soft = enclosed & (smooth < _MARROW_HU[1])
    inner = ndimage.binary_opening(np.pad(soft, 1, mode="edge"), _ball(_JOINT_MM, ct.spacing_mm))[1:-1, 1:-1, 1:-1]
    # Only through what is not bone yet: cortex, though thin, divides marrow from the gap of a joint.
    in_plane = np.ones((1, 3, 3), bool)
    mask |= ndimage.binary_dilation(inner & ~mask, in_plane, iterations=_SEALED_PX, mask=enclosed & ~mask)
    mask |= ndimage.binary_fill_holes(mask)


def _ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> Mask:
    """The voxels whose centers lie in a ball, (k, j, i); at least one step along every axis."""
    reach = [max(1, int(radius_mm / mm)) for mm in spacing_mm[::-1]]
    k, j, i = np.mgrid[tuple(slice(-n, n + 1) for n in reach)]
    return np.asarray((k / reach[0]) ** 2 + (j / reach[1]) ** 2 + (i / reach[2]) ** 2 <= 1)


def _closed(mask: Mask, radii_px: tuple[float, float]) -> Mask:
    """Morphological closing of a slice with an ellipse of radii (down, across)."""
    down, across = (round(radius) for radius in radii_px)
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * across + 1, 2 * down + 1))
    framed = np.pad(mask.astype(np.uint8), ((down, down), (across, across)))
    height, width = mask.shape
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, ellipse)[down:, across:][:height, :width]
    return np.asarray(closed > 0)


def _marrow(cortex: Mask, hu: FloatArray, spacing_mm: tuple[float, float, float], limb: bool) -> Mask:
    """What the cortex of a slice encloses, if it can be marrow."""
    framed = np.pad(cortex, 1)
    gap_px = round(_BORDER_GAP_MM / spacing_mm[0])
    for line, inside, grey in (
        (framed[0], cortex[0], hu[0]),
        (framed[-1], cortex[-1], hu[-1]),
        (framed[:, 0], cortex[:, 0], hu[:, 0]),
        (framed[:, -1], cortex[:, -1], hu[:, -1]),
    ):
        # Bone that the CT cuts is open at the border: its marrow lies between two runs of cortex.
        edges = np.flatnonzero(inside)
        for first, last in pairwise(edges):
            if 1 < last - first <= gap_px and grey[first:last].min() > -200:
                line[first + 1 : last + 2] = True
    holes, count = ndimage.label(ndimage.binary_fill_holes(framed)[1:-1, 1:-1] & ~cortex)
    if not count:
        return np.zeros_like(cortex)
    index = np.arange(1, count + 1)
    area_cm2 = ndimage.sum_labels(np.ones_like(hu), holes, index) * spacing_mm[0] * spacing_mm[1] / 100
    mean_hu = ndimage.mean(hu, holes, index)
    keep = (area_cm2 < _LARGEST_MARROW_CM2) & (mean_hu > -250)
    if not limb:
        keep &= ~((mean_hu > _CANAL_HU[0]) & (mean_hu < _CANAL_HU[1]) & (area_cm2 > 0.3) & (area_cm2 < _CANAL_CM2))
        keep &= area_cm2 < _CANAL_CM2 * 2
    return np.asarray(np.concatenate([[False], keep])[holes], bool)


def _without_scraps(mask: Mask, ct: Volume) -> Mask:
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    index = np.arange(1, count + 1)
    cm3 = ndimage.sum_labels(mask, parts, index) * float(np.prod(ct.spacing_mm)) / 1000
    dense = ndimage.sum_labels(ct.voxels > _CORTICAL_HU, parts, index) / np.maximum(
        ndimage.sum_labels(mask, parts, index), 1
    )
    keep = (cm3 >= _LEAST_BONE_CM3) & (dense > 0.02)
    return np.asarray(np.concatenate([[False], keep])[parts], bool)


def body_mask(ct: Volume) -> Mask:
    """The patient, (k, j, i): everything denser than the skin's edge, and what it encloses in a slice."""
    mask = ct.voxels > _BODY_HU
    parts, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        mask = np.concatenate([[False], sizes > 0.02 * sizes.max()])[parts]
    return np.stack([ndimage.binary_fill_holes(part) for part in mask])


def lung_mask(ct: Volume, body: Mask) -> Mask:
    """Lungs and their vessels, (k, j, i): air inside the body, in pieces as large and as light as lungs."""
    air = (ct.voxels < _AIR_HU) & ndimage.binary_erosion(body, iterations=1, border_value=1)
    parts, count = ndimage.label(ndimage.binary_opening(air))
    if not count:
        return np.zeros_like(air)
    index = np.arange(1, count + 1)
    cm3 = ndimage.sum_labels(air, parts, index) * float(np.prod(ct.spacing_mm)) / 1000
    mean_hu = ndimage.mean(ct.voxels, parts, index)
    keep = (cm3 > _LEAST_LUNG_CM3) & (mean_hu > _LUNG_HU[0]) & (mean_hu < _LUNG_HU[1])
    kept = np.concatenate([[False], keep])[parts]
    radius_px = max(1, round(5 / ct.spacing_mm[0]))
    closed = ndimage.binary_closing(np.pad(kept, radius_px), iterations=radius_px)
    inner = closed[(slice(radius_px, -radius_px),) * 3]
    return np.stack([ndimage.binary_fill_holes(part) for part in inner | kept])


def signed_distance(mask: Mask, ct: Volume) -> npt.NDArray[np.int8]:
    """Distance to the border of a mask, (k, j, i) in 0.1 mm, negative inside; the ends of the CT do not count as
    border."""
    sampling = ct.spacing_mm[::-1]
    if not mask.any():
        return np.full(mask.shape, 127, np.int8)
    # The border lies between two voxels, half a voxel from each.
    half = 0.5 * min(ct.spacing_mm[:2])
    outside = ndimage.distance_transform_edt(~mask, sampling) - half
    inside = ndimage.distance_transform_edt(mask, sampling) - half if not mask.all() else np.full(mask.shape, REACH_MM)
    distance = np.where(mask, -inside, outside)
    return np.clip(np.round(distance * _STEPS_PER_MM), -127, 127).astype(np.int8)


def share_inside(distance: FloatArray, width_mm: float) -> FloatArray:
    """Share of a voxel of ``width_mm`` that is inside, 0..1, from signed distances in 0.1 mm, of any shape."""
    share: FloatArray = np.clip(0.5 - distance / np.float32(_STEPS_PER_MM * width_mm), 0, 1)
    return share
