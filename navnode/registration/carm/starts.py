"""Poses of views, and a focal length, to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import (
    XrayImage,
)
from navnode.registration.carm.descent import Views
from navnode.registration.carm.readout import Readout, Shot, turned_start
from navnode.registration.fit import Fit
from navnode.registration.search import Reach, candidates, rank
from navnode.registration.tracking import ImageRegistration, refine
from navnode.types import CArm, Matrix

__all__ = ["first_fit", "together", "widened"]

_ACROSS_MM, _DEPTH_MM = 20.0, 70.0
"""A start seems off by so much more across and along the ray, if the geometry is."""
_TRIED_COARSE, _TRIED_MIDDLE = 8, 3


def widened(reach: Reach) -> Reach:
    """A reach for starts that seem farther off, since the geometry is."""
    return Reach(reach.across_mm + _ACROSS_MM, reach.depth_mm + _DEPTH_MM, reach.turn_rad)


def first_fit(
    registration: ImageRegistration, image: XrayImage, shot: Shot, readout: Readout, center_mm: Matrix, reach: Reach
) -> Fit:
    """The best pose of one view with the stated geometry, on small images.

    Args:
        center_mm: (3,), middle of the volume.
    """
    best: list[Fit] = []
    for start in (turned_start(start, readout) for start in shot.starts):
        pivot_mm = float(np.linalg.norm(center_mm - start[:3, 3]))
        level = registration.coarse
        poses = candidates(level, image, start, pivot_mm, reach)[:_TRIED_COARSE]
        fits = sorted((refine(level, level.observed(image), pose, pivot_mm) for pose in poses), key=rank)
        level = registration.middle
        best += [refine(level, level.observed(image), fit.volume_from_carm, pivot_mm) for fit in fits[:_TRIED_MIDDLE]]
    return min(best, key=rank)


def together(views: Views, found: Sequence[Matrix], starts: Sequence[Matrix]) -> tuple[Views, list[Matrix], CArm]:
    """Poses that differ from their starts by one motion, and a focal length, from poses found one by one.

    A wrong focal length moves each found pose along its own ray: where the rays meet is the patient, and how far that
    is from the sources tells the focal length.

    Args:
        found: volume_from_carm, 4x4, of every view.
        starts: the same, right relative to each other.

    Returns:
        The views, of one motion; volume_from_carm, 4x4, of every view; and the geometry.
    """
    seen = [g.transform(g.inverse(pose), views.center_mm) for pose in found]
    rays = [start[:3, :3] @ (at / np.linalg.norm(at)) for start, at in zip(starts, seen, strict=True)]
    across = [np.eye(3) - np.outer(ray, ray) for ray in rays]
    offsets = [part @ start[:3, 3] for part, start in zip(across, starts, strict=True)]
    met = np.linalg.lstsq(np.sum(across, axis=0), np.sum(offsets, axis=0), rcond=None)[0]
    turns = np.sum([pose[:3, :3] @ start[:3, :3].T for pose, start in zip(found, starts, strict=True)], axis=0)
    left, _, right = np.linalg.svd(turns)
    turn = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    motion = g.rigid(turn, views.center_mm - turn @ met)
    nearer = [g.transform(g.inverse(start), met)[2] / at[2] for start, at in zip(starts, seen, strict=True)]
    distance_mm = views.carm.source_to_detector_mm * float(np.clip(np.mean(nearer), 0.8, 1.25))
    return (
        replace(views, joint=True),
        [motion @ start for start in starts],
        replace(views.carm, source_to_detector_mm=distance_mm),
    )
