"""What of a video picture is the X-ray: its region, fields, grey values, orientation, counts. No devices, no clocks."""

from __future__ import annotations

import cv2
import numpy as np

from navnode.config import VideoSource
from navnode.errors import ComputeError
from navnode.types import Array

__all__ = ["Converter", "fields_of", "grey_of"]

_WHITE_COUNTS = 65_535
_BLEND = np.array([0.25, 0.5, 0.25])
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_CHANNELS = {"blue": 0, "green": 1, "red": 2}


def grey_of(picture: Array, grey: str) -> Array:
    """Grey values (H, W) of a picture (H, W), (H, W, 1) or (H, W, 3, blue first), uint8 or uint16.

    Args:
        grey: ``luma`` (ITU-R BT.601), ``mean``, ``red``, ``green`` or ``blue``.
    """
    if picture.ndim == 2:
        return picture
    if picture.shape[2] == 1:
        return picture[..., 0]
    if grey == "luma":
        return np.asarray(cv2.cvtColor(picture[..., :3], cv2.COLOR_BGR2GRAY))
    if grey == "mean":
        return np.asarray(cv2.transform(picture[..., :3], np.full((1, 3), 1 / 3)))
    return np.ascontiguousarray(picture[..., _CHANNELS[grey]])


def fields_of(picture: Array, interlace: str, first_field: str) -> list[Array]:
    """The pictures in an interlaced one (H, W), like it, in the order of their exposure.

    Args:
        interlace: ``none``: as it is; ``bob``: each field, its missing lines interpolated; ``blend``: the fields' mean.
        first_field: ``top`` or ``bottom``, which was exposed first.
    """
    if interlace == "none":
        return [picture]
    if interlace == "blend":  # a line of its own field, and the mean of those above and below of the other
        return [np.asarray(cv2.sepFilter2D(picture, -1, np.ones(1), _BLEND, borderType=cv2.BORDER_REPLICATE))]
    full = [_completed(picture, first) for first in (0, 1)]
    return full if first_field == "top" else full[::-1]


def _completed(picture: Array, first: int) -> Array:
    """One field's lines, ``first``, ``first`` + 2 ..., and between them their means; (H, W)."""
    field = np.ascontiguousarray(picture[first::2])
    result = np.empty_like(picture)
    result[first::2] = field
    between = np.asarray(cv2.addWeighted(field[:-1], 0.5, field[1:], 0.5, 0))
    result[first + 1 : first + 2 * len(between) : 2] = between
    result[:first], result[first + 2 * len(field) - 1 :] = field[0], field[-1]
    return result


class Converter:
    """Pictures of one video source -> counts.

    Args:
        source: its settings.
    """

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        self._levels = _levels(source)
        self._outside: Array | None = None

    def greys(self, picture: Array) -> list[Array]:
        """The region's grey values (h, w), one per exposure: of each field, or of the picture.

        Raises:
            ComputeError: the picture has another size than the settings are for, the region lies outside of it, or it
                has no 8 bits a value.
        """
        if picture.dtype != np.uint8:
            raise ComputeError(f"the picture's values are {picture.dtype}, not of 8 bits")
        source = self._source
        height, width = picture.shape[:2]
        if source.picture_px is not None and source.picture_px != (width, height):
            wide, high = source.picture_px
            own = f"the picture is {width} x {height} pixels"
            raise ComputeError(f"{own}, region, field and masks are for {wide} x {high}")
        x, y, w, h = source.region or (0, 0, width, height)
        if x + w > width or y + h > height:
            raise ComputeError(f"region {x}, {y}, {w}, {h} lies outside the picture of {width} x {height} pixels")
        if source.interlace == "none":
            return [grey_of(picture[y : y + h, x : x + w], source.grey)]
        grey = grey_of(picture[:, x : x + w], source.grey)  # whole lines: which field one is of counts from the top
        return [np.ascontiguousarray(f[y : y + h]) for f in fields_of(grey, source.interlace, source.first_field)]

    def bare(self, grey: Array) -> Array:
        """A region's values (h, w) without what is no X-ray in it: 0 outside of the field, and where text is."""
        if not (self._source.masks or self._source.field_px):
            return grey
        if self._outside is None or self._outside.shape != grey.shape:
            self._outside = self._outside_of(grey.shape)
        return np.asarray(cv2.copyTo(grey, self._outside))

    def counts(self, grey: Array) -> Array:
        """Counts of a region's grey values (h, w): turned and mirrored to the detector's, 0 where text is."""
        source = self._source
        counts = self.bare(grey if self._levels is None else np.asarray(cv2.LUT(grey, self._levels)))
        if source.turned_deg:
            counts = cv2.rotate(counts, _TURNS[source.turned_deg])
        if source.mirrored:
            counts = cv2.flip(counts, 1)
        return np.ascontiguousarray(counts)

    def _outside_of(self, shape: tuple[int, ...]) -> Array:
        """255 where the picture is X-ray, 0 elsewhere."""
        inside = np.full(shape, 255, np.uint8)
        if self._source.field_px:
            x, y, radius = self._source.field_px
            v, u = np.ogrid[: shape[0], : shape[1]]
            inside[(u - x) ** 2 + (v - y) ** 2 > radius**2] = 0
        for x0, y0, w, h in self._source.masks:
            inside[y0 : y0 + h, x0 : x0 + w] = 0
        return inside


def _levels(source: VideoSource) -> Array | None:
    """Counts (256,) of grey values; None: they are the same."""
    if (source.black, source.white, source.gamma, source.inverted) == (0, 255, 1.0, False):
        return None
    share = np.clip((np.arange(256.0) - source.black) / (source.white - source.black), 0, 1)
    if source.inverted:
        share = 1 - share
    return np.asarray(np.rint(share**source.gamma * _WHITE_COUNTS), np.uint16)
