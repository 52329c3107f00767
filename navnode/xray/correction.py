"""From a detector's raw counts to those of one ideal C-arm: flat field, distortion and flex.

Corrected images have the geometry in the configuration at every angle, so all later code deals with one pinhole camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from navnode.errors import CalibrationError
from navnode.expansion import ARRAY_ERRORS, load_arrays
from navnode.types import Array, CArm, FloatArray, Matrix
from navnode.xray.counts import SATURATION_COUNTS
from navnode.xray.flex import FlexModel

__all__ = ["GRID_STEP_PX", "ImageCorrection", "decode_flat_field", "read_flat_field"]

GRID_STEP_PX = 64
_UNKNOWN_COUNTS = 65_535
"""Pixels without information get the value of saturated ones."""
_INVERTING_STEPS = 20
_SAME_RAD = 5e-4
"""Angles that differ by less share one geometry."""
_LARGEST_SHIFT = 0.15
"""Largest distortion, as a share of the image's longer side; no image intensifier bends more."""


@dataclass(frozen=True)
class FlatField:
    """corrected = (raw - dark) * gain; bad pixels take the mean of their good neighbours."""

    dark: FloatArray
    gain: FloatArray
    bad: Array
    """(H, W) bool"""

    def corrected(self, counts: Array) -> FloatArray:
        """Corrected counts (H, W), float32; saturated pixels stay saturated."""
        raw = counts.astype(np.float32)
        corrected = np.maximum((raw - self.dark) * self.gain, 0.0)
        if self.bad.any():
            good = (~self.bad).astype(np.float32)
            share = cv2.blur(good, (5, 5), borderType=cv2.BORDER_REFLECT)
            around = cv2.blur(corrected * good, (5, 5), borderType=cv2.BORDER_REFLECT) / np.maximum(share, 1e-3)
            corrected = np.where(self.bad, np.where(share > 0, around, _UNKNOWN_COUNTS), corrected)
        corrected[counts >= SATURATION_COUNTS] = _UNKNOWN_COUNTS
        return np.asarray(corrected, np.float32)


def read_flat_field(path: str | Path) -> FlatField:
    """Read a flat field that `calibrate flatfield` wrote.

    Raises:
        CalibrationError: the file is missing or not a flat field; names it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CalibrationError(f"{path}: not a flat field ({error})") from error
    return decode_flat_field(content, path)


def decode_flat_field(content: bytes, path: str | Path) -> FlatField:
    """Decode the content of a flat-field file; see :func:`read_flat_field`.

    Args:
        path: of the file, for error messages.

    Raises:
        CalibrationError: the content is not a flat field.
    """
    try:
        with load_arrays(content) as kept:
            dark, gain, bad = (kept[name] for name in ("dark", "gain", "bad"))
    except ARRAY_ERRORS as error:
        raise CalibrationError(f"{path}: not a flat field ({error})") from error
    if not dark.shape == gain.shape == bad.shape or dark.ndim != 2 or bad.dtype != np.bool_:
        raise CalibrationError(f"{path}: not a flat field (dark, gain and bad must be images of one size)")
    if not (np.isfinite(dark).all() and np.isfinite(gain).all() and (gain[~bad] > 0).all()):
        raise CalibrationError(f"{path}: not a flat field (the gain of good pixels must be positive)")
    return FlatField(dark.astype(np.float32), gain.astype(np.float32), bad)


class ImageCorrection:
    """Turns raw images into those of an ideal C-arm.

    Args:
        carm: geometry of the corrected images.
        flat_field: None: the detector corrects itself.
        undistorted_px: (rows, columns, 2), where an ideal detector would have raw pixels 0, 64, ...; None: undistorted.
        flex: geometry by angle; None: always that of ``carm``.

    Raises:
        CalibrationError: a calibration is for another image size, or the distortion is implausible.
    """

    def __init__(
        self,
        carm: CArm,
        flat_field: FlatField | None = None,
        undistorted_px: Matrix | None = None,
        flex: FlexModel | None = None,
    ) -> None:
        self._carm, self._flat_field, self.flex = carm, flat_field, flex
        size = (carm.height_px, carm.width_px)
        if flat_field is not None and flat_field.dark.shape != size:
            height, width = flat_field.dark.shape
            raise CalibrationError(
                f"the flat field is for {width} x {height} pixels, the C-arm for {carm.width_px} x {carm.height_px}"
            )
        if flex is not None and (flex.carm.height_px, flex.carm.width_px) != size:
            raise CalibrationError("the flex model is for another detector mode than the C-arm's")
        self._raw_from_ideal = None if undistorted_px is None else _inverted(undistorted_px, carm)
        self._at_rest: tuple[tuple[float, float] | None, _Warp] | None = None
        if flex is None and self._raw_from_ideal is not None:
            self._at_rest = None, _Warp(self._raw_from_ideal)

    @property
    def ideal(self) -> bool:
        """Whether there is nothing to correct."""
        return self._flat_field is None and self._raw_from_ideal is None and self.flex is None

    def corrected(self, counts: Array, angles_rad: tuple[float, float] | None = None) -> Array:
        """Counts (H, W) uint16 as the ideal C-arm would see them. Takes milliseconds: not for the loop's thread.

        Args:
            angles_rad: orbital and angulation; required with a flex model.
        """
        flat = counts
        if self._flat_field is not None:
            flat = np.minimum(self._flat_field.corrected(counts) + 0.5, _UNKNOWN_COUNTS).astype(np.uint16)
        warp = self._warp(angles_rad)
        return flat if warp is None else warp(flat)

    def _warp(self, angles_rad: tuple[float, float] | None) -> _Warp | None:
        """Warp for the geometry at these angles; the last one is kept, as a C-arm stands still most of the time."""
        if self.flex is None:
            return self._at_rest[1] if self._at_rest is not None else None
        assert angles_rad is not None
        if self._at_rest is None or self._at_rest[0] is None or _apart_rad(self._at_rest[0], angles_rad) > _SAME_RAD:
            self._at_rest = angles_rad, _Warp(self._through(self.flex.carm_at(*angles_rad)))
        return self._at_rest[1]

    def _through(self, bent: CArm) -> FloatArray:
        """Raw pixels (H, W, 2) on the rays of the ideal C-arm's pixels, for the bent geometry."""
        scale = bent.source_to_detector_mm / self._carm.source_to_detector_mm
        u, v = np.meshgrid(
            np.arange(self._carm.width_px, dtype=np.float32), np.arange(self._carm.height_px, dtype=np.float32)
        )
        (cu, cv_), (bu, bv) = self._carm.principal_point_px, bent.principal_point_px
        at = np.stack([(u - cu) * scale + bu, (v - cv_) * scale + bv], axis=-1).astype(np.float32)
        if self._raw_from_ideal is None:
            return at
        return np.stack(
            [
                cv2.remap(self._raw_from_ideal[..., axis], at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderValue=-1e4)
                for axis in range(2)
            ],
            axis=-1,
        )


class _Warp:
    """Samples raw images at fixed places.

    Args:
        raw_from_ideal: (H, W, 2) raw pixel u, v of every pixel of the result.
    """

    def __init__(self, raw_from_ideal: FloatArray) -> None:
        height, width = raw_from_ideal.shape[:2]
        u, v = (np.ascontiguousarray(raw_from_ideal[..., axis]) for axis in range(2))
        self._outside = (u < 0) | (v < 0) | (u > width - 1) | (v > height - 1)
        # Places to a 32nd of a pixel, as integers, take a third of the time.
        self._places, self._between = cv2.convertMaps(u, v, cv2.CV_16SC2)

    def __call__(self, counts: Array) -> Array:
        warped = cv2.remap(counts, self._places, self._between, cv2.INTER_LINEAR)
        warped[self._outside] = _UNKNOWN_COUNTS
        saturated = counts >= SATURATION_COUNTS
        if saturated.any():  # interpolation with a saturated pixel is unknown, too
            near = cv2.remap(saturated.astype(np.uint8) * 255, self._places, self._between, cv2.INTER_LINEAR)
            warped[near > 0] = _UNKNOWN_COUNTS
        return np.asarray(warped)


def _apart_rad(a: tuple[float, float], b: tuple[float, float]) -> float:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1]))


def _inverted(undistorted_px: Matrix, carm: CArm) -> FloatArray:
    """Raw pixels (H, W, 2) at which ideal pixels appear, by fixed-point iteration on the shifts between grid nodes."""
    grid = np.asarray(undistorted_px, np.float64)
    rows, columns = (-(-(n - 1) // GRID_STEP_PX) + 1 for n in (carm.height_px, carm.width_px))
    if grid.shape != (rows, columns, 2) or not np.isfinite(grid).all():
        raise CalibrationError(
            f"the distortion grid is {grid.shape}; an image of {carm.width_px} x {carm.height_px} needs "
            f"{(rows, columns, 2)}"
        )
    nodes = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) * float(GRID_STEP_PX)
    shift = (grid - nodes).astype(np.float32)
    if float(np.abs(shift - shift.mean(axis=(0, 1))).max()) > _LARGEST_SHIFT * max(carm.width_px, carm.height_px):
        raise CalibrationError("the distortion moves pixels farther than any real detector does")
    u, v = np.meshgrid(np.arange(carm.width_px, dtype=np.float32), np.arange(carm.height_px, dtype=np.float32))
    # Splines through the nodes reproduce cubic polynomials, and image intensifiers distort much like those.
    # Imported here: most images need no undistortion, most processes no SciPy.
    from scipy.interpolate import RectBivariateSpline

    places = [np.arange(n) * float(GRID_STEP_PX) for n in (rows, columns)]
    full = np.stack(
        [
            RectBivariateSpline(*places, shift[..., axis], kx=min(3, rows - 1), ky=min(3, columns - 1))(v[:, 0], u[0])
            for axis in range(2)
        ],
        axis=-1,
    ).astype(np.float32)
    ideal = np.stack([u, v], axis=-1)
    raw = ideal - full
    for _ in range(_INVERTING_STEPS):
        raw = ideal - cv2.remap(full, raw[..., 0], raw[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(raw, np.float32)
