"""Cameras of OpenCV's FileStorage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import UNSET

from calibration.exchange.contents import Exchanged
from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.files.ordinary import refuse_special
from navnode.geometry import CArmDocument
from navnode.types import CArm, Matrix

__all__ = ["camera_matrix", "carm_of_matrix", "need_carm", "read", "write"]

_MAX_BYTES, _MAX_DEPTH, _MAX_INDENT = 1 << 20, 8, 64
"""Of a file; a camera has some hundred bytes and is nested twice."""


def camera_matrix(carm: CArm) -> Matrix:
    """The 3x3 camera matrix of OpenCV and ROS."""
    (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
    distance = carm.source_to_detector_mm
    return np.array([[distance / su, 0, cu], [0, distance / sv, cv], [0, 0, 1]])


def carm_of_matrix(camera: Matrix, width: int, height: int, spacing_mm: tuple[float, float] | None) -> CArm:
    """The C-arm of a 3x3 camera matrix, which gives only the ratio of distance to pixel size; default pixels: 1 mm.

    Raises:
        ValueError: the values are not those of a C-arm.
    """
    su, sv = spacing_mm or (1.0, float(camera[0, 0] / camera[1, 1]))
    middle = float(camera[0, 2]), float(camera[1, 2])
    return CArmDocument(width, height, (su, sv), float(camera[0, 0]) * su, middle).geometry


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
        ConfigError: the file is not an OpenCV FileStorage, or contains no camera.
    """
    _check_text(path)
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    if not storage.isOpened():
        raise ConfigError(f"{path}: not an OpenCV FileStorage")
    try:
        camera = storage.getNode("camera_matrix").mat()
        width, height = (int(storage.getNode(f"image_{name}").real()) for name in ("width", "height"))
        spacing = storage.getNode("pixel_spacing_mm").mat()
    finally:
        storage.release()
    if camera is None or camera.shape != (3, 3) or width <= 0 or height <= 0:
        raise ConfigError(f"{path}: needs camera_matrix, image_width and image_height")
    pair = None if spacing is None else (float(spacing.ravel()[0]), float(spacing.ravel()[1]))
    return Exchanged(carm=carm_of_matrix(camera, width, height, pair))


def _check_text(path: Path) -> None:
    """Refuse what OpenCV's parser ends the process with: other files, and nesting that overflows its stack."""
    refuse_special(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: too large for a camera")
    text = path.read_text()
    if not text.startswith("%YAML:1.0"):
        raise ConfigError(f"{path}: not an OpenCV FileStorage")
    depth = deepest = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    indented = max((len(line) - len(line.lstrip(" -")) for line in text.splitlines()), default=0)
    if deepest > _MAX_DEPTH or indented > _MAX_INDENT:
        raise ConfigError(f"{path}: not a camera (nested too deeply)")


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
