"""Pictures and arrays as files, written completely or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode.errors import ConfigError
from navnode.files.whole import write_whole
from navnode.types import Array

__all__ = ["write_array", "write_picture"]


def write_picture(path: Path, picture: Array) -> None:
    """Write a picture, (H, W) or (H, W, 3) BGR, uint8 or uint16, in the format of the file's extension.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        done, content = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        raise ConfigError(f"{path}: cannot be written ({error.err})") from error
    if not done:
        raise ConfigError(f"{path}: cannot be written")
    write_whole(path, content.tobytes())


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write an array of any shape as ``.npy``.

    Raises:
        ConfigError: it cannot be written.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_whole(path, content.getvalue())
