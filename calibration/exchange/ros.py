"""``camera_info`` of ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from calibration.exchange import opencv
from calibration.exchange.contents import Exchanged
from calibration.exchange.opencv import camera_matrix, carm_of_matrix, need_carm
from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.types import Matrix

__all__ = ["read", "write"]


def read(path: Path) -> Exchanged:
    """Read a camera.

    Raises:
        ConfigError: the file has aliases, with which a few lines state more values than fit anywhere.
    """
    text = path.read_text()
    if text.startswith("%YAML:1.0"):
        return opencv.read(path)
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ConfigError(f"{path}: repeats parts of itself (YAML's aliases), which a camera does not")
    info = yaml.safe_load(text)
    camera = np.array(info["camera_matrix"]["data"], np.float64).reshape(3, 3)
    spacing = info.get("pixel_spacing_mm")
    pair = None if spacing is None else (float(spacing[0]), float(spacing[1]))
    return Exchanged(carm=carm_of_matrix(camera, int(info["image_width"]), int(info["image_height"]), pair))


def write(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write the C-arm of a calibration as a camera.

    Raises:
        ConfigError: as :func:`need_carm`, or the file cannot be written.
    """
    carm = need_carm(ours, artifact, path)
    camera = camera_matrix(carm)

    def spelled(matrix: Matrix) -> dict[str, Any]:
        return {"rows": matrix.shape[0], "cols": matrix.shape[1], "data": [float(x) for x in matrix.ravel()]}

    content = {
        "image_width": carm.width_px,
        "image_height": carm.height_px,
        "camera_name": artifact.device or "carm",
        "camera_matrix": spelled(camera),
        "distortion_model": "plumb_bob",
        "distortion_coefficients": spelled(np.zeros((1, 5))),
        "rectification_matrix": spelled(np.eye(3)),
        "projection_matrix": spelled(np.concatenate([camera, np.zeros((3, 1))], axis=1)),
        "pixel_spacing_mm": list(carm.pixel_spacing_mm),
    }
    whole.write_whole(path, yaml.safe_dump(content, sort_keys=False).encode())
