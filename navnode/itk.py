"""Volumes as SimpleITK images, and back: LPS there, RAS here.

SimpleITK is loaded where it is used: most processes never need it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from navnode.types import Matrix, Volume

__all__ = ["RAS_FROM_LPS", "itk_image", "volume_of"]

RAS_FROM_LPS: Matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Its own inverse; used where LPS files and images are read and made, nowhere else."""


def itk_image(volume: Volume) -> Any:
    """A volume as a SimpleITK image, in LPS."""
    import SimpleITK as sitk

    lps_from_index = RAS_FROM_LPS @ volume.volume_from_index
    spacing = np.linalg.norm(lps_from_index[:3, :3], axis=0)
    image = sitk.GetImageFromArray(volume.voxels)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps_from_index[:3, 3].tolist())
    image.SetDirection((lps_from_index[:3, :3] / spacing).ravel().tolist())
    return image


def volume_of(image: Any, name: str = "") -> Volume:
    """A volume from a SimpleITK image of three dimensions and one real number per voxel.

    Raises:
        ValueError: it has others.
    """
    import SimpleITK as sitk

    if image.GetPixelIDTypeAsString().startswith("label"):  # of which SimpleITK makes no array: it aborts
        image = sitk.Cast(image, sitk.sitkUInt32)
    voxels = sitk.GetArrayViewFromImage(image)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or np.iscomplexobj(voxels):
        raise ValueError("the image must have three dimensions, and one real number per voxel")
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    lps_from_index[:3, 3] = image.GetOrigin()
    return Volume(voxels.astype(np.float32), RAS_FROM_LPS @ lps_from_index, name)
