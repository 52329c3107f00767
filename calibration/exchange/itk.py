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


def read(path: Path) -> Exchanged:
    """ITK's transforms resample: they go from where the result is to where it comes from, in LPS."""
    read = sitk.ReadTransform(str(path))
    while read.GetName() == "CompositeTransform" and sitk.CompositeTransform(read).GetNumberOfTransforms() == 1:
        read = sitk.CompositeTransform(read).GetNthTransform(0)
    if not read.IsLinear():
        raise ConfigError(f"{path}: no linear transform")
    origin = np.array(read.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(read.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = np.stack(axes, axis=1), origin
    return Exchanged({("A", "B"): RAS_FROM_LPS @ np.linalg.inv(lps) @ RAS_FROM_LPS})


def write(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    if len(ours.transforms) != 1:
        raise ConfigError(f"{path}: this format holds one transform, not a {artifact.kind} calibration")
    (matrix,) = ours.transforms.values()
    lps = RAS_FROM_LPS @ np.linalg.inv(matrix) @ RAS_FROM_LPS
    made = sitk.AffineTransform(3)
    made.SetMatrix(lps[:3, :3].ravel().tolist())
    made.SetTranslation(lps[:3, 3].tolist())
    try:
        with whole(path) as part:
            sitk.WriteTransform(made, str(part))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1]})") from error
