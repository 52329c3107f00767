"""Cameras of OpenCV's FileStorage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import UNSET

from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.files.ordinary import refuse_special
from navnode.files.placing import tell
from navnode.geometry import CArmDocument
from navnode.types import CArm, Matrix

from .contents import Exchanged

__all__ = ["camera_matrix", "carm_of_matrix", "is_storage", "need_carm", "read", "refuse_bent", "write"]

_MAX_BYTES, _MAX_DEPTH, _MAX_INDENT = 1 << 20, 8, 64
"""Of a file; a camera has some hundred bytes and is nested twice."""
_FIRST_LINE = "%YAML:1.0"
_FARTHEST_PX = 16_384
"""Of the principal point: twice the side of the largest detector."""
_MOST_SKEW = 1e-6
"""Share of the focal length."""
_SAME_DISTANCE, _ROUNDED = 0.01, 1e-6


def camera_matrix(carm: CArm) -> Matrix:
    """The 3x3 camera matrix of OpenCV and ROS."""
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    distance = carm.source_to_detector_mm
    return np.array([[distance / su, 0, cu], [0, distance / sv, cv], [0, 0, 1]])


def carm_of_matrix(camera: Matrix, width: int, height: int, spacing_mm: tuple[float, float] | None, path: Path) -> CArm:
    """The C-arm of a 3x3 camera matrix, which gives only the ratio of distance to pixel size; default pixels: 1 mm.

    Args:
        path: of the file, for errors.

    Raises:
        ConfigError: the matrix is skewed or not a camera's, or contradicts the pixels.
    """
    if camera.shape != (3, 3) or not np.isfinite(camera).all():
        raise ConfigError(f"{path}: the camera matrix is not 3 x 3 finite numbers")
    fx, fy = float(camera[0, 0]), float(camera[1, 1])
    if not (fx > 0 and fy > 0):
        raise ConfigError(f"{path}: the focal lengths, {fx:g} and {fy:g} px, must be positive")
    if abs(camera[0, 1]) > _MOST_SKEW * fx:
        raise ConfigError(f"{path}: the camera is skewed ({camera[0, 1]:g} px), which is not taken over")
    if abs(camera[1, 0]) > 1e-9 or np.abs(camera[2] - [0, 0, 1]).max() > 1e-9:
        raise ConfigError(f"{path}: the camera matrix is not that of a camera (fx s cx; 0 fy cy; 0 0 1)")
    su, sv = spacing_mm or (1.0, fx / fy)
    positive = bool(np.isfinite([su, sv]).all()) and min(su, sv) > 0
    if positive and abs(fx * su / (fy * sv) - 1) > _SAME_DISTANCE:
        raise ConfigError(
            f"{path}: pixel_spacing_mm {su:g} and {sv:g} contradict the focal lengths {fx:g} and {fy:g} px"
        )
    if positive and abs(fx * su / (fy * sv) - 1) > _ROUNDED:
        tell(path, f"pixel_spacing_mm {su:g} and {sv:g} contradict the focal lengths a little, which are taken")
        sv = fx * su / fy
    middle = float(camera[0, 2]), float(camera[1, 2])
    try:
        found = CArmDocument(width, height, (su, sv), fx * su, middle).geometry
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if max(map(abs, middle)) > _FARTHEST_PX:
        raise ConfigError(f"{path}: the principal point ({middle[0]:g}, {middle[1]:g}) lies far outside the picture")
    if spacing_mm is None:
        tell(
            path,
            f"states no pixel_spacing_mm; with pixels of 1 mm the source is {fx:.6g} mm away",
        )
    return found


def need_carm(ours: Exchanged, artifact: Artifact[Any], path: Path) -> CArm:
    """The C-arm of an artifact.

    Raises:
        ConfigError: it is another kind of calibration, or has a distortion.
    """
    if ours.carm is None:
        raise ConfigError(f"{path}: this format stores cameras, not a {artifact.kind} calibration")
    distortion = artifact.result.distortion
    model = "none" if distortion is UNSET else distortion.model
    if model != "none":
        raise ConfigError(
            f"{path}: this format cannot express the distortion ({model}); calibrate with --distortion none"
        )
    return ours.carm


def read(path: Path) -> Exchanged:
    """Read a camera.

    Raises:
        ConfigError: the file is not an OpenCV FileStorage, contains no camera, or one that bends rays.
    """
    text = _checked_text(path)
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    except SystemError as error:  # its constructor raises OpenCV's error in a way that Python does not know
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise ConfigError(f"{path}: cannot be read as YAML ({reason})") from error
    if not storage.isOpened():
        raise ConfigError(f"{path}: not an OpenCV FileStorage")
    try:
        root = storage.root()
        names = list(root.keys())
        camera = _matrix(path, root, _one_of(path, names, _CAMERA))
        width, height = (
            _whole(path, root, _one_of(path, names, (f"image_{side}", f"image_{side.title()}")))
            for side in ("width", "height")
        )
        for name in names:
            if _BENT.fullmatch(name):
                refuse_bent(path, name, _values(root.getNode(name)))
        for name in ("projection_matrix", "P"):
            projection = _matrix(path, root, name) if name in names else camera
            if projection.shape[:1] != (3,) or np.abs(projection[:, :3] - camera).max() > 1e-3 * np.abs(camera).max():
                raise ConfigError(f"{path}: {name} contradicts the camera matrix")
        spacing = _matrix(path, root, "pixel_spacing_mm").ravel() if "pixel_spacing_mm" in names else None
    finally:
        storage.release()
    if spacing is not None and len(spacing) != 2:
        raise ConfigError(f"{path}: pixel_spacing_mm is not two numbers")
    pair = None if spacing is None else (float(spacing[0]), float(spacing[1]))
    return Exchanged(carm=carm_of_matrix(camera, width, height, pair, path))


_CAMERA = ("camera_matrix", "Camera_Matrix", "cameraMatrix", "CameraMatrix", "K", "M", "M1")
_BENT = re.compile(r".*(dist|fisheye|xi|rational).*|D[0-9]?|k[1-6]|p[12]", re.I)
"""Keys under which programs write how rays are bent."""


def _one_of(path: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    found = [name for name in wanted if name in names]
    if len(found) != 1:
        raise ConfigError(
            f"{path}: needs camera_matrix, image_width and image_height ({wanted[0]}: {len(found)} found)"
        )
    return found[0]


def _matrix(path: Path, root: Any, name: str) -> Matrix:
    node = root.getNode(name)
    found = node.mat() if node.isMap() else np.array(_values(node), np.float64)
    if found is None or not np.isfinite(np.asarray(found, np.float64)).all():
        raise ConfigError(f"{path}: {name} is not a matrix of finite numbers")
    return np.asarray(found, np.float64)


def _whole(path: Path, root: Any, name: str) -> int:
    node = root.getNode(name)
    if not node.isInt() and not (node.isReal() and float(node.real()).is_integer()):
        raise ConfigError(f"{path}: {name} is not a whole number")
    return int(node.real())


def _values(node: Any) -> list[float]:
    """The numbers of a node; text counts as 1 unless it is empty."""
    if node.isMap():
        mat = node.mat()
        return [1.0] if mat is None else [float(x) for x in np.asarray(mat).ravel()]
    if node.isSeq():
        return [value for n in range(node.size()) for value in _values(node.at(n))]
    if node.isInt() or node.isReal():
        return [float(node.real())]
    return [1.0] if node.isString() and node.string() not in ("", "none", "plumb_bob") else []


def refuse_bent(path: Path, name: str, values: Any) -> None:
    """Refuse a camera that bends rays, which a C-arm's geometry cannot say.

    Args:
        values: of its distortion, (N,).

    Raises:
        ConfigError: one of them is not 0.
    """
    numbers = np.asarray(values, np.float64).ravel()
    if len(numbers) and not (numbers == 0).all():
        raise ConfigError(
            f"{path}: has a distortion ({name}), which is not taken over; undistort the images, or measure it with "
            "navnode calibrate carm"
        )


def is_storage(text: str) -> bool:
    """Whether a text is YAML that OpenCV wrote: from version 5 on it begins as other YAML does."""
    return text.startswith(_FIRST_LINE) or (text.startswith("%YAML") and "!!opencv-matrix" in text)


def _checked_text(path: Path) -> str:
    """The text as OpenCV 4 reads it; refuse what its parser ends the process with: other files, and nesting that
    overflows its stack."""
    refuse_special(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: too large for a camera")
    text = path.read_bytes().decode("utf-8", "replace")
    if not is_storage(text):
        raise ConfigError(f"{path}: not an OpenCV FileStorage")
    text = re.sub(r"\A[^\r\n]*", _FIRST_LINE, text)
    depth = deepest = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    indented = max((len(line) - len(line.lstrip(" -")) for line in text.splitlines()), default=0)
    _refuse_twice(path, text)
    if deepest > _MAX_DEPTH or indented > _MAX_INDENT:
        raise ConfigError(f"{path}: not a camera (nested too deeply)")
    return text


def _refuse_twice(path: Path, text: str) -> None:
    """Refuse keys that occur twice; of their values OpenCV takes one."""
    keys: dict[int, set[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if number > 1 and line.startswith("%"):
            raise ConfigError(f"{path}: damaged (line {number} begins as a file does)")
        found = re.match(r"( *)([\w.-]+)\s*:", line)
        if found is None:
            continue
        indent, key = len(found[1]), found[2]
        keys = {each: names for each, names in keys.items() if each <= indent}
        if key in keys.setdefault(indent, set()):
            raise ConfigError(f"{path}: cannot be read as YAML (the key {key!r} occurs twice, in line {number})")
        keys[indent].add(key)


def write(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write the C-arm of a calibration as a camera.

    Raises:
        ConfigError: as :func:`need_carm`, or the file cannot be written.
    """
    carm = need_carm(ours, artifact, path)
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE | cv2.FILE_STORAGE_MEMORY)
    storage.write("image_width", carm.width_px)
    storage.write("image_height", carm.height_px)
    storage.write("camera_matrix", camera_matrix(carm))
    storage.write("distortion_coefficients", np.zeros((1, 5)))
    storage.write("pixel_spacing_mm", np.array([carm.pixel_spacing_mm]))
    whole.write_whole(path, storage.releaseAndGetString().encode())
