"""Pictures of a registration: the X-ray with the outlines of the volume's bones, at the pose that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode.errors import ConfigError
from navnode.files.pictures import write_picture
from navnode.files.views import ViewFile
from navnode.projector import Projector
from navnode.types import Array, CArm, Matrix, Registration, Volume

__all__ = ["Overlays", "write_overlays"]

_TILES = 8
"""Of the chessboard, along each side."""
_LEAST_PX = 640
_BONE_HU = 200.0
_SMOOTH = 320.0
"""Width of the image, by that of what is no outline yet."""
_EDGES = 25.0, 70.0
"""Steps of grey values: what goes on an outline, and what begins one."""
_LINE_BGR = (60, 220, 255)


class Overlays:
    """Draws X-rays beside what a volume shows at their poses.

    Args:
        threads: for projecting; None: all cores.
    """

    def __init__(self, volume: Volume, threads: int | None = None) -> None:
        bone = np.where(volume.voxels > _BONE_HU, volume.voxels, np.float32(-1000.0))
        self._whole = Projector(volume, threads=threads)
        self._bone = Projector(replace(volume, voxels=bone), threads=threads)

    def drawn(self, counts: Array, carm: CArm, volume_from_carm: Matrix | None) -> Any:
        """The X-ray with the outlines of bones, and beside it a chessboard of X-ray and volume.

        Args:
            counts: (H, W), of ``carm`` or with finer pixels.
            volume_from_carm: None: there is no pose that may be used, and the X-ray comes alone.

        Returns:
            (rows, columns, 3), BGR, 8 bits; small images are enlarged.
        """
        times = max(_LEAST_PX // max(carm.height_px, carm.width_px), 1)
        size = (carm.width_px * times, carm.height_px * times)
        xray = cv2.resize(_grey(np.log(counts.astype(np.float32) + 1)), size, interpolation=cv2.INTER_AREA)
        outlined = cv2.cvtColor(_equalised(xray), cv2.COLOR_GRAY2BGR)
        if volume_from_carm is None:
            return outlined
        whole, bone = (
            cv2.resize(_grey(-projector.render(carm, volume_from_carm)), size, interpolation=cv2.INTER_CUBIC)
            for projector in (self._whole, self._bone)
        )
        edges = cv2.Canny(cv2.GaussianBlur(bone, (0, 0), max(size) / _SMOOTH), *_EDGES)
        outlined[edges > 0] = _LINE_BGR
        v, u = np.indices(whole.shape)
        odd = (u * _TILES // size[0] + v * _TILES // size[1]) % 2 == 1
        board = cv2.cvtColor(np.where(odd, _equalised(whole), _equalised(xray)), cv2.COLOR_GRAY2BGR)
        return np.hstack([outlined, board])


def write_overlays(
    folder: Path, views: Sequence[ViewFile], registrations: Sequence[Registration], overlays: Overlays
) -> list[str]:
    """Write a picture for each view, and return their paths; a pose that is INVALID is not drawn.

    Raises:
        ConfigError: one cannot be written, or a view's image cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
    written = []
    for number, (view, found) in enumerate(zip(views, registrations, strict=True)):
        volume_from_carm = found.volume_from_carm if found.validity.usable else None
        path = folder / f"overlay_{number:03}.png"
        write_picture(path, overlays.drawn(view.counts(), view.carm, volume_from_carm))
        written.append(str(path))
    return written


def _grey(image: Array) -> Any:
    low, high = np.nanpercentile(image, [0.5, 99.5])
    return np.clip((np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)


def _equalised(grey: Any) -> Any:
    """Contrast is equalised within parts of the image, so that bones show beside lungs."""
    return cv2.createCLAHE(3.0, (_TILES, _TILES)).apply(grey)
