"""Volumes on other grids: resampled, coarsened or centred."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from navnode.itk import RAS_FROM_LPS, itk_image
from navnode.types import Matrix, Volume

__all__ = ["AIR_HU", "averaged", "body", "centered_grid", "coarsened", "onto", "resample", "thumbnail"]

AIR_HU = -1000.0
_BODY_BLOCK_MM = 8.0
_BODY_HU, _BODY_MOST_HU = -950.0, -500.0
"""Blocks whose mean, or whose densest voxel, is above are body; the noise of air, with what is below air clipped, is
neither. Emphysema at the edge of a CT may be as thin as air."""
_LEAST_SIGMA = 0.25
"""Voxels: interpolating smooths more than that."""


def resample(volume: Volume, spacing_mm: float, size: tuple[int, int, int] | None = None) -> Volume:
    """Resample a volume to an RAS-aligned cubic grid around the same centre, smoothing first where it gets coarser.

    ``size`` is (i, j, k); by default it covers the volume.
    """
    if size is None:
        size = _covering(volume, spacing_mm)
    return onto(volume, centered_grid(size, spacing_mm, volume.center_mm), size)


def thumbnail(volume: Volume, spacing_mm: float) -> Volume:
    """A small copy on the grid of :func:`resample`, sooner: averaged onto voxels of that size, then moved."""
    spacing_mm = max(spacing_mm, min(volume.spacing_mm))
    size = _covering(volume, spacing_mm)
    return onto(averaged(volume, spacing_mm), centered_grid(size, spacing_mm, volume.center_mm), size)


def _covering(volume: Volume, spacing_mm: float) -> tuple[int, int, int]:
    """Size (i, j, k) of an RAS-aligned cubic grid that covers a volume."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.voxels.shape[::-1]])).reshape(3, -1)
    ras = volume.volume_from_index[:3, :3] @ corners
    counts = np.ceil(np.ptp(ras, axis=1) / spacing_mm - 1e-6).astype(int) + 1
    return int(counts[0]), int(counts[1]), int(counts[2])


def onto(volume: Volume, volume_from_index: Matrix, size: tuple[int, int, int]) -> Volume:
    """Resample a volume to a grid of cubic voxels, smoothing first where it gets coarser; air outside the volume.

    Args:
        size: (i, j, k)
    """
    import SimpleITK as sitk  # here: registration, which only coarsens, does not need it

    image = itk_image(volume)
    spacing_mm = float(np.linalg.norm(volume_from_index[:3, 0]))
    own_spacing = np.array(image.GetSpacing())
    sigma_mm = 0.5 * np.sqrt(np.maximum(spacing_mm**2 - own_spacing**2, 0.0))
    if (sigma_mm > _LEAST_SIGMA * own_spacing).any():
        image = sitk.SmoothingRecursiveGaussian(image, np.maximum(sigma_mm, 1e-3 * own_spacing).tolist())
    # In LPS the RAS grid runs backwards along its first two axes, which ITK expresses as a direction.
    lps_from_index = RAS_FROM_LPS @ volume_from_index
    resampled = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        lps_from_index[:3, 3].tolist(),
        [spacing_mm] * 3,
        (lps_from_index[:3, :3] / spacing_mm).ravel().tolist(),
        AIR_HU,
        sitk.sitkFloat32,
    )
    return Volume(sitk.GetArrayFromImage(resampled), volume_from_index, volume.name)


def coarsened(volume: Volume, spacing_mm: float) -> Volume:
    """Average whole voxels along the volume's axes, up to a voxel size of about ``spacing_mm``.

    Nothing is interpolated or moved, and values below air count as air: line integrals stay the same but for the
    detail that is lost.
    """
    factors = [max(1, int(spacing_mm / own + 0.25)) for own in volume.spacing_mm[::-1]]
    if max(factors) == 1:
        return volume
    clipped = np.maximum(volume.voxels, np.float32(AIR_HU))
    missing = [(0, -n % factor) for n, factor in zip(clipped.shape, factors, strict=True)]
    if any(after for _, after in missing):
        clipped = np.pad(clipped, missing, constant_values=AIR_HU)
    k, j, i = (n // factor for n, factor in zip(clipped.shape, factors, strict=True))
    blocks = clipped.reshape(k, factors[0], j, factors[1], i, factors[2])
    grown = np.diag([*factors[::-1], 1.0]).astype(np.float64)
    grown[:3, 3] = (np.array(factors[::-1]) - 1) / 2  # voxel 0 lies at the middle of its block
    return Volume(blocks.mean(axis=(1, 3, 5), dtype=np.float32), volume.volume_from_index @ grown, volume.name)


def averaged(volume: Volume, spacing_mm: float) -> Volume:
    """Average along the volume's axes onto voxels of about ``spacing_mm``, where its own are smaller; of whole and of
    parts of voxels. As in :func:`coarsened`, nothing is moved, and line integrals stay the same."""
    shape = np.array(volume.voxels.shape)
    own_mm = np.array(volume.spacing_mm[::-1])
    counts = np.minimum(np.maximum(np.round(shape * own_mm / spacing_mm), 1), shape).astype(int)
    if (counts == shape).all():
        return volume
    k, j, i = counts.tolist()
    slices = np.empty((len(volume.voxels), j, i), np.float32)
    for each, small in zip(volume.voxels, slices, strict=True):
        cv2.resize(np.maximum(each, np.float32(AIR_HU)), (i, j), small, interpolation=cv2.INTER_AREA)
    voxels = cv2.resize(slices.reshape(len(slices), -1), (j * i, k), interpolation=cv2.INTER_AREA).reshape(k, j, i)
    factors = (shape / counts)[::-1]
    grown = np.diag([*factors, 1.0])
    grown[:3, 3] = (factors - 1) / 2
    return Volume(voxels, volume.volume_from_index @ grown, volume.name)


def body(volume: Volume) -> Volume:
    """The part of a volume around all that is not air, with some millimetres of it, along its axes; the whole of it if
    there is air alone."""
    blocks = averaged(volume, _BODY_BLOCK_MM).voxels
    per_block = np.array(volume.voxels.shape) / blocks.shape
    found = [
        unit * ends
        for inside, unit in ((blocks > _BODY_HU, per_block), (volume.voxels > _BODY_MOST_HU, np.ones(3)))
        if (ends := _ends(inside)) is not None
    ]
    if not found:
        return volume
    first = np.maximum(np.floor(np.min(found, axis=0)[0] - per_block), 0).astype(int)
    last = np.ceil(np.max(found, axis=0)[1] + per_block).astype(int)  # numpy ends slices where the volume does
    moved = np.eye(4)
    moved[:3, 3] = first[::-1]
    within = tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    return Volume(volume.voxels[within], volume.volume_from_index @ moved, volume.name)


def _ends(inside: npt.NDArray[np.bool_]) -> Matrix | None:
    """(2, 3): the first voxel that is inside along each axis (k, j, i), and the one after the last; None if none is."""
    along = [np.flatnonzero(np.any(inside, axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return np.array([[each[0] for each in along], [each[-1] + 1 for each in along]], float) if len(along[0]) else None


def centered_grid(size: tuple[int, int, int], spacing_mm: float, center_mm: Matrix) -> Matrix:
    """volume_from_index of an RAS-aligned cubic grid centred at ``center_mm``."""
    volume_from_index = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    volume_from_index[:3, 3] = np.asarray(center_mm) - spacing_mm * (np.array(size) - 1) / 2
    return volume_from_index
