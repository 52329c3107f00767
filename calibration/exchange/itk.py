"""ITK's transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from calibration.exchange.contents import Exchanged
from navnode.errors import ConfigError
from navnode.files.artifacts import Artifact
from navnode.files.whole import whole
from navnode.geometry import RAS_FROM_LPS

__all__ = ["read", "write"]

_MAX_BYTES = 1 << 20
"""A linear transform has some kilobytes; so compressed numbers in HDF5 become a gigabyte at most."""


def read(path: Path) -> Exchanged:
    """Read a linear transform; ITK's map points of the resampled image to those of the original, in LPS.

    Raises:
        ConfigError: the transform is not linear.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: too large for a linear transform")
    transform = sitk.ReadTransform(str(path))
    while (
        transform.GetName() == "CompositeTransform" and sitk.CompositeTransform(transform).GetNumberOfTransforms() == 1
    ):
        transform = sitk.CompositeTransform(transform).GetNthTransform(0)
    if not transform.IsLinear():
        raise ConfigError(f"{path}: not a linear transform")
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = np.stack(axes, axis=1), origin
    return Exchanged({("A", "B"): RAS_FROM_LPS @ np.linalg.inv(lps) @ RAS_FROM_LPS})


def write(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write the only transform of a calibration.

    Raises:
        ConfigError: the calibration is not one transform, or the file cannot be written.
    """
    if len(ours.transforms) != 1:
        raise ConfigError(f"{path}: this format stores one transform, not a {artifact.kind} calibration")
    (matrix,) = ours.transforms.values()
    lps = RAS_FROM_LPS @ np.linalg.inv(matrix) @ RAS_FROM_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    try:
        with whole(path) as part:
            sitk.WriteTransform(transform, str(part))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1]})") from error
