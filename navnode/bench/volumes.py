"""Figures of reconstructed volumes, as ``navnode bench reconstruction`` reports them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

__all__ = ["Methods", "PartFigures", "ReconstructionReport", "VolumeFigures"]


class VolumeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of one volume, or medians over bodies; non-finite values are omitted."""

    psnr_db: float | UnsetType = UNSET
    ssim: float | UnsetType = UNSET
    dice_fixed: float | UnsetType = UNSET
    """Dice of bone at a threshold fixed in advance."""
    dice: float | UnsetType = UNSET
    """Dice of bone at the best threshold."""
    threshold: float | UnsetType = UNSET
    """HU or probability."""
    assd_mm: float | UnsetType = UNSET
    elapsed_ms: float | UnsetType = UNSET
    within_95: float | UnsetType = UNSET
    """Share of voxels in the stated interval, if the method states one."""
    within_95_bone: float | UnsetType = UNSET
    """The same of voxels of solid bone."""
    dice_lost_by_pose_error: float | UnsetType = UNSET


Methods = dict[str, VolumeFigures]
"""Name of the method -> figures."""


class PartFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts that find bone do by themselves with one body, or medians over bodies."""

    thickness_error_mm: float | UnsetType = UNSET
    """Of the reader: mean absolute error where there is bone."""
    outline_dice: float | UnsetType = UNSET
    """Of the reader's outline of bone."""
    lift_true_dice: float | UnsetType = UNSET
    """Of the lift, given the true thickness."""
    lift_read_dice: float | UnsetType = UNSET
    """Of the lift, given what was read."""
    lung_dice: float | UnsetType = UNSET
    """Of the lungs found, where there is some lung."""


class ReconstructionReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every method on every body."""

    size: int
    """Voxels along each axis."""
    spacing_mm: float
    threads: int
    bodies: dict[str, dict[str, Methods]]
    """File -> number of views -> method."""
    groups: dict[str, dict[str, Methods]]
    """Group -> number of views -> method, medians over its bodies."""
    parts: dict[str, dict[str, PartFigures]]
    """Group -> number of views -> medians of reader and lift."""
    count: dict[str, int]
    """Group -> bodies."""
