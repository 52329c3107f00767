"""Where a volume's voxels are: what its file states, what was chosen for it, and what is told of either."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from navnode.errors import ConfigError
from navnode.types import Array, Matrix

__all__ = [
    "AS_STATED",
    "Placed",
    "ReadAs",
    "axes_of",
    "check_size",
    "checked_matrix",
    "place_by_letters",
    "tell",
    "unit_mm",
]

log = logging.getLogger(__name__)

MAX_VOXELS = 1024**3
_UNITS_MM = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3}
_SAME_UNIT = {
    "metre": "m",
    "meter": "m",
    "metres": "m",
    "meters": "m",
    "centimetre": "cm",
    "centimeter": "cm",
    "millimetre": "mm",
    "millimeter": "mm",
    "millimetres": "mm",
    "millimeters": "mm",
    "micron": "um",
    "microns": "um",
    "µm": "um",
    "μm": "um",
    "micrometer": "um",
    "micrometre": "um",
}
_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_MOST_SHEAR = 2e-3
"""Cosine between axes that rounding in a header explains."""
_VOXEL_MM = (0.01, 25.0)
_EXTENT_MM = (8.0, 4_000.0)
"""Of the longest side of a CT: less is a wrong unit, and so is more."""


@dataclass(frozen=True)
class ReadAs:
    """How to read a volume whose file leaves a choice, or is wrong; '' is as the file states.

    Args:
        series: UID, or the beginning or end of one, or a part of the description of a DICOM series.
        orientation: ``sform`` or ``qform`` of a NIfTI file; or where columns, rows and slices grow to, such as ``LPS``
            (then the volume is centred on the origin).
        units: unit of the file's distances: m, cm, mm or um.

    Raises:
        ConfigError: a value is not one of these.
    """

    series: str = ""
    orientation: str = ""
    units: str = ""

    def __post_init__(self) -> None:
        if self.orientation not in ("", "sform", "qform"):
            axes_of(self.orientation)
        if self.units:
            unit_mm(self.units, "--units")


AS_STATED = ReadAs()


@dataclass(frozen=True)
class Placed:
    """Voxels (k, j, i) and where they are."""

    voxels: Array
    ras_from_index: Matrix
    """mm"""


def tell(path: Path | str, what: str) -> None:
    """Say in one line what was taken by rule, where a file leaves a choice."""
    log.warning("%s: %s", path, what)


def unit_mm(name: str, what: str) -> float:
    """Length of a unit.

    Raises:
        ConfigError: it is not a unit of length that is read; names ``what``.
    """
    name = name.strip().strip('"').strip()
    known = _UNITS_MM.get(_SAME_UNIT.get(name.lower(), name.lower()))
    if known is None:
        raise ConfigError(f"{what}: {name!r} is not one of {', '.join(_UNITS_MM)}")
    return known


def axes_of(letters: str) -> Matrix:
    """RAS directions of three axes that grow to these sides, ``LPS`` say: the columns of a 3x3.

    Raises:
        ConfigError: the letters are not three different axes.
    """
    found = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        if letter in _DIRECTIONS and column < 3:
            axis, sign = _DIRECTIONS[letter]
            found[axis, column] = sign
    if len(letters) != 3 or not (np.abs(found).sum(axis=0) == 1).all() or not (np.abs(found).sum(axis=1) == 1).all():
        raise ConfigError(
            f"--orientation {letters}: sform, qform, or where columns, rows and slices grow to, such as LPS or RAS"
        )
    return found


def place_by_letters(letters: str, spacing_mm: Matrix, size: tuple[int, ...], path: Path) -> Matrix:
    """ras_from_index of a volume whose axes grow to these sides; its middle is the origin.

    Args:
        size: voxels along (i, j, k).
    """
    ras_from_index = np.eye(4)
    ras_from_index[:3, :3] = axes_of(letters) * np.asarray(spacing_mm, np.float64)
    ras_from_index[:3, 3] = -ras_from_index[:3, :3] @ (np.array(size[:3]) - 1) / 2
    tell(path, f"orientation {letters} as chosen; the middle of the volume is the origin")
    return ras_from_index


def check_size(size: tuple[int, ...], path: Path) -> None:
    """Check the number of voxels along each axis, (i, j, k), before they are read.

    Raises:
        ConfigError: it is not one 3-D volume, or too large.
    """
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) != 3 or min(size) < 8:
        raise ConfigError(f"{path}: not a 3-D volume (size {' x '.join(map(str, size))})")
    if np.prod(size, dtype=np.float64) > MAX_VOXELS:
        raise ConfigError(f"{path}: {' x '.join(map(str, size))} voxels exceed what navnode loads")


def checked_matrix(ras_from_index: Matrix, size: tuple[int, ...], path: Path) -> Matrix:
    """Check that a grid can be that of a CT: finite, not sheared, with voxels and sides of possible length.

    Args:
        ras_from_index: 4x4, mm.
        size: voxels along (i, j, k).

    Raises:
        ConfigError: it is none.
    """
    columns = ras_from_index[:3, :3]
    if not np.isfinite(ras_from_index).all():
        raise ConfigError(f"{path}: its position or orientation is not finite")
    spacing = np.linalg.norm(columns, axis=0)
    if not spacing.min() > 0:
        raise ConfigError(f"{path}: its voxels have no size along one axis")
    axes = columns / spacing
    shear = np.abs(np.triu(axes.T @ axes, 1)).max()
    if shear > _MOST_SHEAR:
        angle = np.degrees(np.arccos(min(float(shear), 1.0)))
        raise ConfigError(
            f"{path}: the axes are sheared ({angle:.1f} degrees between two of them), which navnode does not resample"
        )
    extent = float((spacing * np.array(size[:3])).max())
    sizes = " x ".join(f"{length:.3g}" for length in spacing)
    if not _EXTENT_MM[0] <= extent <= _EXTENT_MM[1]:
        raise ConfigError(
            f"{path}: {extent:.3g} mm along its longest side cannot be a CT; --units says in what its distances are"
        )
    if not (_VOXEL_MM[0] <= spacing.min() and spacing.max() <= _VOXEL_MM[1]):
        raise ConfigError(f"{path}: voxels of {sizes} mm cannot be a CT's; --units says in what its distances are")
    return ras_from_index
