"""``camera_info`` of ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.types import Matrix

from . import opencv
from .contents import Exchanged
from .opencv import camera_matrix, carm_of_matrix, need_carm

__all__ = ["read", "write"]


_MAX_BYTES = 1 << 20
_STRAIGHT = ("", "plumb_bob", "rational_polynomial", "none", "radtan")
"""Models of distortion whose zeros bend nothing; a fisheye's do."""


def read(path: Path) -> Exchanged:
    """Read a camera.

    Raises:
        ConfigError: the file holds none, one that bends rays, one of a part of the picture, or aliases, with which
            a few lines state more values than fit anywhere.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: too large for a camera")
    text = path.read_bytes().decode("utf-8-sig")
    if opencv.is_storage(text):
        return opencv.read(path)
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{path}: repeats parts of itself (YAML's aliases), which a camera does not")
        loader = yaml.SafeLoader(text)
        document = loader.get_single_node()
        if document is not None:
            _refuse_twice(document, path)
        info = None if document is None else loader.construct_document(document)
    except RecursionError as error:
        raise ConfigError(f"{path}: not a camera (nested too deeply)") from error
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", "") or error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read as YAML ({problem})") from error
    if not isinstance(info, dict):
        raise ConfigError(f"{path}: not a camera_info of ROS")
    camera = _matrix(path, info, ("camera_matrix", "K", "k"), (3, 3))
    if camera is None:
        raise ConfigError(f"{path}: needs camera_matrix, image_width and image_height")
    width, height = (_whole(path, info, keys) for keys in (("image_width", "width"), ("image_height", "height")))
    model = str(info.get("distortion_model", "")).lower()
    if model not in _STRAIGHT:
        raise ConfigError(f"{path}: the distortion model {model!r} bends rays, which is not taken over")
    for key in ("distortion_coefficients", "D", "d"):
        if key in info:
            opencv.refuse_bent(path, key, _numbers(path, key, info[key]))
    _check_whole_picture(path, info, camera)
    spacing = info.get("pixel_spacing_mm")
    pair = None
    if spacing is not None:
        numbers = _numbers(path, "pixel_spacing_mm", spacing)
        if len(numbers) != 2:
            raise ConfigError(f"{path}: pixel_spacing_mm is not two numbers")
        pair = float(numbers[0]), float(numbers[1])
    return Exchanged(carm=carm_of_matrix(camera, width, height, pair, path))


def _refuse_twice(node: Any, path: Path) -> None:
    """Refuse keys that occur twice below a node; of their values YAML takes the last."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value if isinstance(key, yaml.ScalarNode) else None for key, _ in node.value]
        twice = next((key for key in keys if key is not None and keys.count(key) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise ConfigError(f"{path}: cannot be read as YAML (the key {twice!r} occurs twice, from line {line})")
        for _, value in node.value:
            _refuse_twice(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, path)


def _check_whole_picture(path: Path, info: dict[str, Any], camera: Matrix) -> None:
    """Rectified, binned and cropped pictures have another camera matrix than the one stated first."""
    turned = _matrix(path, info, ("rectification_matrix", "R", "r"), (3, 3))
    if turned is not None and turned.any() and np.abs(turned - np.eye(3)).max() > 1e-6:
        raise ConfigError(f"{path}: rectification_matrix turns the picture, which is not taken over")
    projection = _matrix(path, info, ("projection_matrix", "P", "p"), (3, 4))
    if projection is not None and projection.any():
        apart = np.abs(projection - np.concatenate([camera, np.zeros((3, 1))], axis=1)).max()
        if apart > 1e-3 * np.abs(camera).max():
            raise ConfigError(f"{path}: projection_matrix contradicts camera_matrix")
    binned = [info.get(key, 0) not in (0, 1) for key in ("binning_x", "binning_y")]
    roi = info.get("roi")
    if any(binned) or (
        isinstance(roi, dict) and any(roi.get(key) for key in ("x_offset", "y_offset", "width", "height"))
    ):
        raise ConfigError(
            f"{path}: binning or roi say that pictures are a part of the camera's, which is not taken over"
        )


def _numbers(path: Path, key: str, value: Any) -> Matrix:
    """The numbers of a value, (N,); ROS writes a matrix as rows, cols and data, or as a list."""
    data = value.get("data") if isinstance(value, dict) else value
    if data is None or data == []:
        return np.zeros(0)
    if not isinstance(data, list) or any(isinstance(x, (str, bool, dict)) for x in data):
        raise ConfigError(f"{path}: {key} is not a list of numbers")
    found = np.array(data, np.float64).ravel()
    if not np.isfinite(found).all():
        raise ConfigError(f"{path}: {key} is not finite")
    if isinstance(value, dict) and "rows" in value and value["rows"] * value.get("cols", 1) != len(found):
        raise ConfigError(f"{path}: {key} has {len(found)} numbers, not {value['rows']} x {value.get('cols')}")
    return found


def _matrix(path: Path, info: dict[str, Any], keys: tuple[str, ...], shape: tuple[int, int]) -> Matrix | None:
    found = [key for key in keys if info.get(key) is not None]
    if not found:
        return None
    numbers = _numbers(path, found[0], info[found[0]])
    if other := next((key for key in found if not np.array_equal(_numbers(path, key, info[key]), numbers)), ""):
        raise ConfigError(f"{path}: {found[0]} and {other} contradict each other")
    if len(numbers) != shape[0] * shape[1]:
        raise ConfigError(f"{path}: {found[0]} has {len(numbers)} numbers, not {shape[0]} x {shape[1]}")
    return numbers.reshape(shape)


def _whole(path: Path, info: dict[str, Any], keys: tuple[str, ...]) -> int:
    stated = {key: info[key] for key in keys if key in info}
    value = next(iter(stated.values()), None)
    if any(each != value for each in stated.values()):
        raise ConfigError(f"{path}: {' and '.join(stated)} contradict each other")
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{path}: {keys[0]} is {value!r}, not a whole number")
    return value


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
