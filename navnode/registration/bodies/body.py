"""A body: one bone, or another part that moves by itself, as X-rays show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU, coarsened
from navnode.types import Array, CArm, FloatArray, Matrix, Volume

__all__ = ["Body", "Shadow", "soft_tissue"]

_SOFT_TISSUE_HU = 60.0
"""A body is what absorbs more than this: soft tissue around it is smooth in X-rays, and it moves otherwise."""
_LEAST_EXCESS = 100.0
"""Voxels of a body have at least so many HU more, somewhere."""
_FEWEST_VOXELS = 60
_LEAST_STEP_HU = 40.0
"""A bone's rim is denser than what is around it by at least so much (median; in CTs of 1 to 3.3 mm 160 and more). At
labels that lie elsewhere in the CT nothing changes there."""
_RIM_PX = 3
_LEAST_SHADOW = 0.02
"""Line integral from which on a ray hits the body."""
_VOXEL_BY_PIXEL = 0.8
"""Size of a level's voxels in its pixels at the body."""


@dataclass(frozen=True)
class Shadow:
    """A body's own line integrals in its part of an image."""

    rows: slice
    columns: slice
    line: FloatArray
    """(h, w)"""
    hit: npt.NDArray[np.bool_]
    """(h, w), where rays hit the body, and a rim around."""
    whole_px: float
    """About how many pixels it would hit in a larger picture."""
    jacobian: FloatArray | None
    """(6, h, w), with respect to ``world_from_body @ exp(xi, center_mm)``."""

    @property
    def part(self) -> tuple[slice, slice]:
        """Of the image."""
        return self.rows, self.columns


class Body:
    """A body and its projectors.

    Args:
        excess: absorption above that of soft tissue, as HU above air (a volume whose voxels are ``AIR_HU`` outside).
        threads: of the projectors; default: all.

    Raises:
        ConfigError: there is hardly anything in it.
    """

    def __init__(self, excess: Volume, threads: int | None = None) -> None:
        inside = np.argwhere(excess.voxels > AIR_HU + _LEAST_EXCESS)
        if len(inside) < _FEWEST_VOXELS:
            raise ConfigError(f"{excess.name}: there is no bone in it")
        low, high = np.maximum(inside.min(0) - 1, 0), inside.max(0) + 2
        shift = np.eye(4)
        shift[:3, 3] = low[::-1]
        cropped = excess.voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        self.name = excess.name
        self._excess = Volume(np.ascontiguousarray(cropped), excess.volume_from_index @ shift, excess.name)
        corners = np.array(np.meshgrid(*zip(inside.min(0), inside.max(0), strict=True))).reshape(3, -1).T
        self.corners_mm = g.transform(excess.volume_from_index, corners[:, ::-1].astype(float))
        """(8, 3), of its box."""
        self.center_mm = g.transform(excess.volume_from_index, inside.mean(axis=0)[::-1])
        """(3,), of its bone."""
        self.size_mm = float(np.linalg.norm(np.ptp(self.corners_mm, axis=0)))
        self.voxel_mm = float(np.prod(excess.spacing_mm) ** (1 / 3))
        """Edge of a cube of a voxel's size."""
        self._threads = threads
        self._projectors: dict[float, Projector] = {}

    @classmethod
    def of(cls, volume: Volume, label: Array | None = None, name: str = "", threads: int | None = None) -> Body:
        """A body of a CT in HU.

        Args:
            label: bool, (k, j, i), what belongs to it; default: all of the volume.

        Raises:
            ConfigError: there is no bone in it, or the label does not follow it.
        """
        excess = np.maximum(volume.voxels - np.float32(_SOFT_TISSUE_HU), 0)
        if label is not None:
            excess = np.where(label, excess, 0)
        body = cls(Volume((excess + np.float32(AIR_HU)).astype(np.float32), volume.volume_from_index, name), threads)
        if label is not None and _step_hu(volume.voxels, label) < _LEAST_STEP_HU:
            raise ConfigError(f"{name}: the label does not follow a bone: is it of another CT?")
        return body

    @property
    def volume(self) -> Volume:
        """What it absorbs more than soft tissue, as HU above air; cropped."""
        return self._excess

    def mirrored(self) -> list[Body]:
        """Its mirror images, in the planes of its principal axes: what the other side of the patient would have."""
        inside = np.argwhere(self._excess.voxels > AIR_HU + _LEAST_EXCESS)[:, ::-1]
        points_mm = g.transform(self._excess.volume_from_index, inside.astype(float))
        _, axes = np.linalg.eigh(np.cov((points_mm - self.center_mm).T))
        images = []
        for axis in axes.T:
            reflection = np.eye(4)
            reflection[:3, :3] -= 2 * np.outer(axis, axis)
            reflection[:3, 3] = 2 * axis * float(axis @ self.center_mm)
            placed = reflection @ self._excess.volume_from_index
            images.append(Body(Volume(self._excess.voxels, placed, f"{self.name}, mirrored"), self._threads))
        return images

    def projector(self, pixel_mm: float) -> Projector:
        """For images whose pixels are so large at the body."""
        return self.at(_VOXEL_BY_PIXEL * pixel_mm)

    def at(self, voxel_mm: float) -> Projector:
        """With voxels of a size, at least its own."""
        key = round(max(voxel_mm, min(self._excess.spacing_mm)), 1)  # nearly the same is the same
        if key not in self._projectors:
            self._projectors[key] = Projector(coarsened(self._excess, key), threads=self._threads)
        return self._projectors[key]

    def shadow(
        self, carm: CArm, world_from_carm: Matrix, world_from_body: Matrix, *, jacobian: bool = False
    ) -> Shadow | None:
        """Its shadow in an image; None outside of it."""
        body_from_carm = g.inverse(world_from_body) @ world_from_carm
        center_mm = g.transform(g.inverse(body_from_carm), self.center_mm)
        if not 1.0 < center_mm[2] < carm.source_to_detector_mm:
            return None
        found = g.project(carm, g.inverse(body_from_carm), self.corners_mm)
        if not np.isfinite(found).all():
            return None
        (left, top), (right, bottom) = found.min(axis=0) - _RIM_PX, found.max(axis=0) + _RIM_PX + 1
        whole_px2 = max((right - left) * (bottom - top), 1.0)
        columns = slice(max(int(left), 0), min(int(right) + 1, carm.width_px))
        rows = slice(max(int(top), 0), min(int(bottom) + 1, carm.height_px))
        if columns.stop - columns.start < 2 * _RIM_PX or rows.stop - rows.start < 2 * _RIM_PX:
            return None
        u, v = carm.principal_point_px
        part = replace(
            carm,
            width_px=columns.stop - columns.start,
            height_px=rows.stop - rows.start,
            principal_point_px=(u - columns.start, v - rows.start),
        )
        depth_mm = float(center_mm[2])
        projector = self.projector(carm.pixel_spacing_mm[0] * depth_mm / carm.source_to_detector_mm)
        derivatives = None
        if jacobian:
            line, by_carm = projector.render(part, body_from_carm, jacobian=True, pivot_mm=depth_mm)
            through = g.perturbation_through(body_from_carm, self.center_mm, np.array([0.0, 0.0, depth_mm]))
            derivatives = np.tensordot(-through.T.astype(np.float32), by_carm, 1)
        else:
            line = projector.render(part, body_from_carm)
        hit = cv2.dilate((line > _LEAST_SHADOW).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
        share = part.width_px * part.height_px / whole_px2  # its box in the picture, of the whole box
        return Shadow(rows, columns, line, hit, float(hit.sum()) / max(min(1.0, share), 1e-3), derivatives)


def _step_hu(voxels: FloatArray, label: Array) -> float:
    """How much denser a label's rim is than what lies around it, median HU; infinite where it has neither."""
    where = np.argwhere(label)
    if not len(where):
        return float("inf")
    box = tuple(slice(max(a - 2, 0), b + 3) for a, b in zip(where.min(0), where.max(0), strict=True))
    inside, near = np.asarray(label[box], bool), voxels[box]
    rim = inside & ~ndimage.binary_erosion(inside)
    around = ndimage.binary_dilation(inside, iterations=2) & ~ndimage.binary_dilation(inside)
    if not around.any():
        return float("inf")
    return float(np.median(near[rim]) - np.median(near[around]))


def soft_tissue(ct: Volume, labels: Sequence[Array]) -> Volume:
    """A CT (HU) in which bodies are as dense as soft tissue: the rest of what :meth:`Body.of` takes.

    Args:
        labels: bool, (k, j, i), of every body.
    """
    voxels = ct.voxels.copy()
    for label in labels:
        voxels[label] = np.minimum(voxels[label], _SOFT_TISSUE_HU)
    return Volume(voxels, ct.volume_from_index, ct.name)
