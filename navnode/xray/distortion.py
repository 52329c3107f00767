"""Where an ideal detector would have a raw pixel, at any angle of the C-arm.

An image intensifier bends the picture, and how depends on how it is turned in the earth's magnetic field (Gronenschild,
Med. Phys. 26, 1999; Fahrig et al., Med. Phys. 24, 1997).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from navnode.errors import CalibrationError
from navnode.types import Array, FloatArray, Matrix

__all__ = [
    "DistortionField",
    "FUNCTIONS",
    "GRID_STEP_PX",
    "distortion_of",
    "field_of",
    "functions",
    "grid_shape",
    "nodes",
]

GRID_STEP_PX = 64
FUNCTIONS = 9
_BEYOND_RAD = 0.05
"""How far beyond its angles a calibration may be used."""
_FINE_STEP_PX = 8
"""Between raw pixels that are looked up; linear interpolation is within 0.01 px of smooth distortion."""
_INVERTING_STEPS = 20
_LARGEST_SHIFT = 0.15
"""Largest distortion, as a share of the image's longer side; no image intensifier bends more."""


@dataclass(frozen=True)
class DistortionField:
    """Ideal minus raw pixels: one field, or the sum of nine that :func:`functions` of the angles scale.

    The earth's field, seen from the C-arm, turns as its rotation Rz(orbital) Rx(angulation) does, and pixels move by
    amounts that are linear in it.
    """

    size_px: tuple[int, int]
    """The picture's width and height."""
    shifts_px: Matrix
    """(1 or 9, rows, columns, 2) at raw pixels 0, 64, ... up to the first at or beyond the last."""
    angles_rad: Matrix | None = None
    """(2, 2): smallest and largest orbital and angulation that were measured; None: at none in particular."""
    outline_px: Matrix | None = None
    """(N, 2) convex outline, raw pixels, within which it was measured; None: the whole picture."""

    @classmethod
    def fixed(cls, size_px: tuple[int, int], undistorted_px: Matrix) -> DistortionField:
        """One that is the same at all angles.

        Args:
            size_px: the picture's width and height.
            undistorted_px: (rows, columns, 2), where an ideal detector would have raw pixels 0, 64, ...

        Raises:
            CalibrationError: as :meth:`checked`.
        """
        grid = np.asarray(undistorted_px, np.float64)
        _check_shape(grid.shape, size_px)
        return cls(size_px, (grid - nodes(size_px))[None]).checked()

    @property
    def turns(self) -> bool:
        """Whether it differs by angle."""
        return len(self.shifts_px) > 1

    def covers(self, angles_rad: tuple[float, float]) -> bool:
        """Whether it is known at an angle."""
        if self.angles_rad is None or not self.turns:
            return True
        low, high = self.angles_rad
        return bool(((angles_rad >= low - _BEYOND_RAD) & (angles_rad <= high + _BEYOND_RAD)).all())

    def checked(self) -> DistortionField:
        """Itself.

        Raises:
            CalibrationError: its grids are of another size, or what they say is implausible.
        """
        if self.shifts_px.ndim != 4 or len(self.shifts_px) not in (1, FUNCTIONS):
            raise CalibrationError(f"the distortion has {len(self.shifts_px)} fields; one or {FUNCTIONS} are expected")
        _check_shape(self.shifts_px.shape[1:], self.size_px)
        if not np.isfinite(self.shifts_px).all():
            raise CalibrationError("the distortion contains NaN or infinity")
        for angles in self.bounds():
            shift = self.shift_px(angles)
            if float(np.abs(shift - shift.mean(axis=(0, 1))).max()) > _LARGEST_SHIFT * max(self.size_px):
                raise CalibrationError("the distortion moves pixels farther than any real detector does")
        return self

    def parameters(self) -> dict[str, Any]:
        """The field as an artifact stores it; read by :func:`field_of`."""
        return {
            "size_px": self.size_px,
            "angles_rad": None if self.angles_rad is None else self.angles_rad.tolist(),
            "outline_px": [] if self.outline_px is None else self.outline_px.tolist(),
            "grid_step_px": GRID_STEP_PX,
            "shifts_px": self.shifts_px.tolist(),
        }

    def bounds(self) -> list[tuple[float, float]]:
        """The corners of the range of angles that was measured."""
        if self.angles_rad is None:
            return [(0.0, 0.0)]
        return [(float(o), float(a)) for o in self.angles_rad[:, 0] for a in self.angles_rad[:, 1]]

    def shift_px(self, angles_rad: tuple[float, float] = (0.0, 0.0)) -> Matrix:
        """(rows, columns, 2): ideal minus raw pixels at the grid's nodes, at an angle."""
        scales = functions(np.array(angles_rad))[: len(self.shifts_px)]
        return np.asarray(np.tensordot(scales, self.shifts_px, axes=1))

    def measured_nodes(self) -> Array:
        """(rows, columns): which of the grid's nodes lie where it was measured."""
        at = nodes(self.size_px).astype(np.float32)
        if self.outline_px is None:
            return np.ones(at.shape[:2], bool)
        contour = self.outline_px.astype(np.float32)
        inside = [cv2.pointPolygonTest(contour, (float(u), float(v)), False) >= 0 for u, v in at.reshape(-1, 2)]
        return np.array(inside).reshape(at.shape[:2])

    def raw_from_ideal(self, angles_rad: tuple[float, float] = (0.0, 0.0)) -> FloatArray:
        """(H, W, 2): the raw pixel that each pixel of an ideal detector is read from, at an angle.

        NaN where the distortion was not measured.
        """
        # Splines through the nodes reproduce cubic polynomials, and image intensifiers distort much like those.
        # Imported here: most images need no undistortion, most processes no SciPy.
        from scipy.interpolate import RectBivariateSpline

        width, height = self.size_px
        shift = _continued(self.shift_px(angles_rad))
        rows, columns = ((np.arange(n) - 1) * float(GRID_STEP_PX) for n in shift.shape[:2])
        degree = min(3, len(rows) - 3), min(3, len(columns) - 3)
        splines = [RectBivariateSpline(rows, columns, shift[..., axis], kx=degree[0], ky=degree[1]) for axis in (0, 1)]
        # The middles of squares of pixels, one beyond each end: where cv2.resize has the pixels of a coarse picture.
        u, v = (_FINE_STEP_PX * (np.arange(-(-n // _FINE_STEP_PX) + 2) - 0.5) - 0.5 for n in (width, height))
        ideal = np.stack(np.meshgrid(u, v), axis=-1)
        raw = ideal.copy()
        for _ in range(_INVERTING_STEPS):  # fixed-point iteration: distortion changes slowly from pixel to pixel
            moved = ideal - np.stack([spline.ev(raw[..., 1], raw[..., 0]) for spline in splines], axis=-1)
            settled = float(np.abs(moved - raw).max()) < 1e-3
            raw = moved
            if settled:
                break
        large = cv2.resize(raw.astype(np.float32), None, fx=_FINE_STEP_PX, fy=_FINE_STEP_PX)
        full = large[_FINE_STEP_PX : _FINE_STEP_PX + height, _FINE_STEP_PX : _FINE_STEP_PX + width].copy()
        if self.outline_px is not None:
            known = np.zeros((height, width), np.uint8)
            cv2.fillConvexPoly(known, np.rint(self.outline_px).astype(np.int32), 1)
            inside = cv2.remap(known, full[..., 0], full[..., 1], cv2.INTER_NEAREST)
            full[inside == 0] = np.nan
        return np.asarray(full)


def field_of(parameters: Mapping[str, Any]) -> DistortionField:
    """The field in an artifact's result.

    Raises:
        CalibrationError: it is incomplete, implausible, or on another grid.
    """
    try:
        width, height = map(int, parameters["size_px"])
        outline = np.array(parameters["outline_px"], np.float64)
        angles = parameters["angles_rad"]
        field = DistortionField(
            (width, height),
            np.array(parameters["shifts_px"], np.float64),
            None if angles is None else np.array(angles, np.float64),
            outline if len(outline) else None,
        )
        step = int(parameters["grid_step_px"])
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"the distortion is incomplete ({error})") from error
    if step != GRID_STEP_PX:
        raise CalibrationError(f"the distortion is on a grid of {step} px; this version reads {GRID_STEP_PX}")
    bounds = [part for part in (field.angles_rad, field.outline_px) if part is not None]
    if (field.turns and field.angles_rad is None) or not all(np.isfinite(part).all() for part in bounds):
        raise CalibrationError("the distortion's angles or its outline are missing, NaN or infinite")
    if any(part.ndim != 2 or part.shape[1] != 2 for part in bounds):
        raise CalibrationError("the distortion's angles and outline must be pairs")
    return field.checked()


def distortion_of(distortion: Mapping[str, Any], size_px: tuple[int, int]) -> DistortionField | None:
    """The distortion in the calibration of a C-arm; None: there is none.

    Args:
        size_px: width and height of its picture.

    Raises:
        CalibrationError: it is incomplete, implausible, or of another size.
    """
    if distortion.get("model") == "none":
        return None
    if "field" in distortion:
        field = field_of(distortion["field"])
        _check_shape(field.shifts_px.shape[1:], size_px)
        return field
    grid = distortion.get("undistorted_px", ())
    if not grid or len({len(row) for row in grid}) != 1:
        raise CalibrationError("the distortion has no grid")
    return DistortionField.fixed(size_px, np.array(grid, np.float64))


def functions(angles_rad: Matrix) -> Matrix:
    """(..., 9) of angles (..., 2): 1, cos and sin of the orbital angle, each times 1, cos and sin of the angulation."""
    orbital, angulation = (
        np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=-1)
        for angle in np.moveaxis(np.asarray(angles_rad, np.float64), -1, 0)
    )
    both = orbital[..., :, None] * angulation[..., None, :]
    return np.asarray(both.reshape(*both.shape[:-2], FUNCTIONS), np.float64)


def grid_shape(size_px: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid of a picture of a width and height."""
    width, height = size_px
    return -(-(height - 1) // GRID_STEP_PX) + 1, -(-(width - 1) // GRID_STEP_PX) + 1


def nodes(size_px: tuple[int, int]) -> Matrix:
    """(rows, columns, 2): raw pixels 0, 64, ... of a picture of a width and height, u and v."""
    rows, columns = grid_shape(size_px)
    return np.asarray(np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) * GRID_STEP_PX, np.float64)


def _continued(shift_px: Matrix) -> Matrix:
    """A grid with another row and column at each end, by the cubic through the nearest four; beyond the picture."""
    for axis in (0, 1):
        along = np.moveaxis(shift_px, axis, 0)
        weights = {2: [2, -1], 3: [3, -3, 1]}.get(len(along), [4, -6, 4, -1])
        ends = [np.tensordot(weights, part[: len(weights)], axes=1)[None] for part in (along, along[::-1])]
        shift_px = np.moveaxis(np.concatenate([ends[0], along, ends[1]]), 0, axis)
    return np.asarray(shift_px)


def _check_shape(shape: tuple[int, ...], size_px: tuple[int, int]) -> None:
    expected = (*grid_shape(size_px), 2)
    if shape != expected:
        width, height = size_px
        raise CalibrationError(f"the distortion grid is {shape}; an image of {width} x {height} needs {expected}")
