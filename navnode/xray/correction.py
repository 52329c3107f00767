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
from navnode.types import Array, CArm, FloatArray
from navnode.xray.counts import SATURATION_COUNTS
from navnode.xray.distortion import DistortionField
from navnode.xray.flex import FlexModel

__all__ = ["ImageCorrection", "decode_flat_field", "read_flat_field"]

_UNKNOWN_COUNTS = 65_535
"""Pixels without information get the value of saturated ones."""
_SAME_RAD = 5e-4
"""Angles that differ by less share one geometry."""


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
        distortion: None: images are undistorted.
        flex: geometry by angle; None: always that of ``carm``.

    Raises:
        CalibrationError: a calibration is for another image size.
    """

    def __init__(
        self,
        carm: CArm,
        flat_field: FlatField | None = None,
        distortion: DistortionField | None = None,
        flex: FlexModel | None = None,
    ) -> None:
        self._carm, self._flat_field, self._distortion, self.flex = carm, flat_field, distortion, flex
        self._check_sizes()
        self._last: tuple[tuple[float, float] | None, _Warp] | None = None
        self._undistorting: FloatArray | None = None
        if distortion is not None and not distortion.turns:
            self._undistorting = distortion.raw_from_ideal()

    def _check_sizes(self) -> None:
        carm, flat_field, distortion, flex = self._carm, self._flat_field, self._distortion, self.flex
        if flat_field is not None and flat_field.dark.shape != (carm.height_px, carm.width_px):
            height, width = flat_field.dark.shape
            raise CalibrationError(
                f"the flat field is for {width} x {height} pixels, the C-arm for {carm.width_px} x {carm.height_px}"
            )
        if distortion is not None and distortion.size_px != (carm.width_px, carm.height_px):
            width, height = distortion.size_px
            raise CalibrationError(
                f"the distortion is for {width} x {height} pixels, the C-arm for {carm.width_px} x {carm.height_px}"
            )
        if flex is not None and (flex.carm.width_px, flex.carm.height_px) != (carm.width_px, carm.height_px):
            raise CalibrationError("the flex model is for another detector mode than the C-arm's")

    @property
    def ideal(self) -> bool:
        """Whether there is nothing to correct."""
        return self._flat_field is None and self._distortion is None and self.flex is None

    def refusal(self, angles_rad: tuple[float, float] | None) -> str:
        """Why an X-ray at these angles (orbital, angulation) cannot be corrected, or ''."""
        distortion = self._distortion if self._distortion is not None and self._distortion.turns else None
        needing = [name for name, part in (("flex", self.flex), ("distortion", distortion)) if part is not None]
        if angles_rad is None:
            return f"the X-ray carries no C-arm angles; {needing[0]} needs them" if needing else ""
        if self.flex is not None and not self.flex.covers(*angles_rad):
            return "the C-arm's angles lie outside the calibrated flex"
        if distortion is not None and not distortion.covers(angles_rad):
            return "the C-arm's angles lie outside the calibrated distortion"
        return ""

    def corrected(self, counts: Array, angles_rad: tuple[float, float] | None = None) -> Array:
        """Counts (H, W) uint16 as the ideal C-arm would see them. Takes milliseconds: not for the loop's thread.

        Args:
            angles_rad: orbital and angulation, for which there is no :meth:`refusal`.
        """
        flat = counts
        if self._flat_field is not None:
            flat = np.minimum(self._flat_field.corrected(counts) + 0.5, _UNKNOWN_COUNTS).astype(np.uint16)
        if self._distortion is None and self.flex is None:
            return flat
        return self._warp(angles_rad)(flat)

    def _warp(self, angles_rad: tuple[float, float] | None) -> _Warp:
        """Warp for the geometry at these angles; the last one is kept, as a C-arm stands still most of the time."""
        turns = self.flex is not None or self._undistorting is None
        at = angles_rad if turns else None
        if self._last is None or (at is not None and _apart_rad(self._last[0], at) > _SAME_RAD):
            self._last = at, _Warp(self._raw_from_ideal(at))
        return self._last[1]

    def _raw_from_ideal(self, angles_rad: tuple[float, float] | None) -> FloatArray:
        """Raw pixels (H, W, 2) of the ideal C-arm's pixels at these angles."""
        undistorting = self._undistorting
        if undistorting is None and self._distortion is not None:
            assert angles_rad is not None
            undistorting = self._distortion.raw_from_ideal(angles_rad)
        if self.flex is None:
            assert undistorting is not None
            return undistorting
        assert angles_rad is not None
        return self._through(self.flex.carm_at(*angles_rad), undistorting)

    def _through(self, bent: CArm, undistorting: FloatArray | None) -> FloatArray:
        """Raw pixels (H, W, 2) on the rays of the ideal C-arm's pixels, for the bent geometry.

        Args:
            undistorting: (H, W, 2), raw pixels of those of an undistorted detector; None: they are the same.
        """
        scale = bent.source_to_detector_mm / self._carm.source_to_detector_mm
        u, v = np.meshgrid(
            np.arange(self._carm.width_px, dtype=np.float32), np.arange(self._carm.height_px, dtype=np.float32)
        )
        (cu, cv_), (bu, bv) = self._carm.principal_point_px, bent.principal_point_px
        at = np.stack([(u - cu) * scale + bu, (v - cv_) * scale + bv], axis=-1).astype(np.float32)
        if undistorting is None:
            return at
        return np.stack(
            [
                cv2.remap(undistorting[..., axis], at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderValue=np.nan)
                for axis in range(2)
            ],
            axis=-1,
        )


class _Warp:
    """Samples raw images at fixed places.

    Args:
        raw_from_ideal: (H, W, 2) raw pixel u, v of every pixel of the result; NaN: unknown.
    """

    def __init__(self, raw_from_ideal: FloatArray) -> None:
        height, width = raw_from_ideal.shape[:2]
        u, v = (np.ascontiguousarray(raw_from_ideal[..., axis]) for axis in range(2))
        self._outside = ~((u >= 0) & (v >= 0) & (u <= width - 1) & (v <= height - 1))
        u, v = (np.where(self._outside, np.float32(-1), each) for each in (u, v))
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


def _apart_rad(a: tuple[float, float] | None, b: tuple[float, float]) -> float:
    return float("inf") if a is None else max(abs(a[0] - b[0]), abs(a[1] - b[1]))
