"""X-rays of a C-arm that is known roughly, and how they may have to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import (
    XrayImage,
)
from navnode.types import Array, CArm, Matrix

__all__ = ["READOUTS", "Readout", "Shot", "as_stated", "focal_px", "image_of", "turned_start"]


def focal_px(carm: CArm) -> tuple[float, float]:
    """Focal length along u and v, px: all that images tell of distance and pixel spacing."""
    su, sv = carm.pixel_spacing_mm
    return carm.source_to_detector_mm / su, carm.source_to_detector_mm / sv


@dataclass(frozen=True)
class Shot:
    """One X-ray, and where to look for its pose."""

    counts: Array
    """(H, W)"""
    starts: Sequence[Matrix]
    """volume_from_carm, 4x4 each."""
    timestamp_ns: int = 0


@dataclass(frozen=True)
class Readout:
    """How the pictures must be read before they are those of a C-arm."""

    mirrored: bool
    """Left and right exchanged; upside down is this and half a turn."""
    turned_deg: int
    """By how much the picture is turned against the start. A C-arm that is turned makes the same picture."""

    def __str__(self) -> str:
        """In words."""
        if self.mirrored and self.turned_deg == 180:
            return "mirrored top to bottom"
        mirrored = "mirrored left to right" if self.mirrored else ""
        turned = f"turned by {self.turned_deg} degrees" if self.turned_deg else ""
        return " and ".join(part for part in (mirrored, turned) if part) or "as they are"


READOUTS = [Readout(mirrored, turned) for mirrored in (False, True) for turned in (0, 90, 180, 270)]


def image_of(shot: Shot, carm: CArm, mirrored: bool) -> XrayImage:
    """A picture as the C-arm saw it, mirrored back if it is mirrored."""
    counts = np.ascontiguousarray(shot.counts[:, ::-1]) if mirrored else shot.counts
    return XrayImage(counts, as_stated(carm, mirrored))


def as_stated(carm: CArm, mirrored: bool) -> CArm:
    """The stated geometry, of pictures that are mirrored back if they are mirrored."""
    u, v = carm.principal_point_px
    return replace(carm, principal_point_px=(carm.width_px - 1 - u, v)) if mirrored else carm


def turned_start(start: Matrix, readout: Readout) -> Matrix:
    """volume_from_carm, 4x4, for a picture read in one of these ways.

    Args:
        start: volume_from_carm, 4x4, for pictures as they are.
    """
    return start @ g.rigid(g.rotation_exp(np.array([0.0, 0.0, np.deg2rad(readout.turned_deg)])))
