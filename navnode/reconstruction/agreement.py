"""Whether two views can show the same bone, by the amount of it in each plane through both sources.

A plane that contains both X-ray sources meets each detector in a line, and what lies in the plane is seen on both lines
and nowhere else in either view. So both must show the same amount (the idea of epipolar consistency; Aichert et al.,
IEEE Trans. Med. Imaging 34, 2015, who compare derivatives of whole line integrals). Amounts need no reconstruction, and
see what a lift explains away: two wrong shadows mostly still have a common solid.

A view that was mirrored about the patient's long axis cannot be found like this: it shows the same amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from navnode.types import Array, FloatArray, Matrix, View

__all__ = ["Difference", "largest_difference"]

_PLANE_MM = 4.0
"""Distance between planes at the patient."""
_PLANES = 200
_BINNING = 2
_PARTNERS = 3
"""Views that each one is compared with."""
_LEAST_PLANES = 12
_LEAST_MM3 = 2_000.0
"""Fewer planes, or less bone in them, say nothing."""
_LEAST_ACROSS_MM = 100.0
"""The patient must be farther from the line through the sources: planes close to it lie side by side."""
_LEAST_APART_MM = 1.0
"""Sources that are nearer are one."""
_CUT_MM, _CUT_PIXELS = 2.0, 2
"""A plane in which more pixels at the border of a view show more bone goes on outside the view."""


@dataclass(frozen=True)
class Difference:
    """How much two views differ in the bone that they show; shares, 0 at best."""

    amount: float
    """Difference of the amounts in a plane, summed over planes, over the mean of both sums, 0..2."""
    shape: float
    """The same after both were scaled to the same sum, 0..2: it does not depend on the views' grey values."""


def largest_difference(thicknesses: Sequence[View], center_mm: Matrix) -> Difference | None:
    """The largest difference of a view from those most nearly perpendicular to it; None if too little can be compared.

    Args:
        thicknesses: millimetres of bone along each ray (H, W), NaN where unknown, with poses.
        center_mm: where the bone is, (3,).
    """
    found = [_binned(view) for view in thicknesses]
    toward = [_direction(view, center_mm) for view in found]
    pairs = set()
    for n, one in enumerate(toward):
        across = [abs(float(one @ other)) if k != n else np.inf for k, other in enumerate(toward)]
        pairs |= {(min(n, k), max(n, k)) for k in map(int, np.argsort(across)[:_PARTNERS]) if k != n}
    differences = [_difference(found[n], found[k], center_mm) for n, k in pairs]
    known = [difference for difference in differences if difference is not None]
    if not known:
        return None
    return Difference(max(each.amount for each in known), max(each.shape for each in known))


def _difference(one: View, other: View, center_mm: Matrix) -> Difference | None:
    assert one.volume_from_carm is not None and other.volume_from_carm is not None
    first, second = one.volume_from_carm[:3, 3], other.volume_from_carm[:3, 3]
    if np.linalg.norm(second - first) < _LEAST_APART_MM:
        return None  # of one place: no plane goes through both sources alone
    along = (second - first) / np.linalg.norm(second - first)
    out = center_mm - first
    out = out - along * (out @ along)
    across_mm = float(np.linalg.norm(out))
    if across_mm < _LEAST_ACROSS_MM:
        return None
    out /= across_mm
    amounts, whole = zip(
        *(_amounts(view, out, np.cross(along, out), across_mm, center_mm) for view in (one, other)), strict=True
    )
    both = whole[0] & whole[1]
    a, b = amounts[0][both], amounts[1][both]
    if both.sum() < _LEAST_PLANES or min(a.sum(), b.sum()) < _LEAST_MM3:
        return None
    return Difference(
        float(np.abs(a - b).sum() / ((a.sum() + b.sum()) / 2)), float(np.abs(a / a.sum() - b / b.sum()).sum())
    )


def _amounts(view: View, out: Matrix, up: Matrix, across_mm: float, center_mm: Matrix) -> tuple[Array, Array]:
    """Bone in each plane, mm³ (P,), and whether the view shows all of it there.

    Args:
        out, up: axes (3,) perpendicular to the line through the sources, ``out`` towards the center.
        across_mm: distance of the center from that line.
    """
    mm, carm, pose = view.line_integrals, view.carm, view.volume_from_carm
    assert pose is not None
    v, u = np.mgrid[: carm.height_px, : carm.width_px].astype(np.float64)
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    ends = np.stack([(u - cu) * su, (v - cv) * sv, np.full(u.shape, carm.source_to_detector_mm)], axis=-1)
    length_mm = np.linalg.norm(ends, axis=-1)
    rays = (ends / length_mm[..., None]) @ pose[:3, :3].T
    solid_angle = su * sv * carm.source_to_detector_mm / length_mm**3
    far_mm = rays @ (center_mm - pose[:3, 3])
    plane = np.rint(np.arctan2(rays @ up, rays @ out) * across_mm / _PLANE_MM).astype(int) + _PLANES // 2
    inside = (plane >= 0) & (plane < _PLANES)
    known = np.isfinite(mm)
    used = inside & known
    amounts = np.bincount(plane[used], (mm * solid_angle * far_mm**2)[used], _PLANES)
    inner = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    border = used & (inner == 0) & (np.nan_to_num(mm) > _CUT_MM)
    cut = np.bincount(plane[border], minlength=_PLANES) > _CUT_PIXELS
    seen = np.bincount(plane[used], minlength=_PLANES) >= carm.width_px / 16
    return amounts, seen & ~cut


def _direction(view: View, center_mm: Matrix) -> Matrix:
    assert view.volume_from_carm is not None
    toward = center_mm - view.volume_from_carm[:3, 3]
    return np.asarray(toward / np.linalg.norm(toward))


def _binned(view: View) -> View:
    """The view with pixels averaged; NaN where one of them is."""
    height, width = (n // _BINNING * _BINNING for n in view.line_integrals.shape)
    blocks = view.line_integrals[:height, :width].reshape(height // _BINNING, _BINNING, width // _BINNING, _BINNING)
    mean: FloatArray = blocks.mean(axis=(1, 3))
    return View(mean, view.carm.binned(_BINNING), view.volume_from_carm, view.timestamp_ns)
