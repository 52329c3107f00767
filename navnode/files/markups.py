"""Markups of 3D Slicer (``.mrk.json``): points, lines and others, RAS mm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.ordinary import refuse_special
from navnode.files.placing import tell, unit_mm
from navnode.files.strict import json_of
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Matrix

__all__ = ["Markup", "position_mm", "ras_from", "read"]

_RAS_FROM = {"LPS": RAS_FROM_LPS, "1": RAS_FROM_LPS, "RAS": np.eye(4), "0": np.eye(4)}
_PLACED = "defined"
_UNPLACED = ("undefined", "preview", "missing")
_MOST_BYTES, _MOST_POINTS = 1 << 24, 100_000
_FARTHEST_MM = 10_000.0
"""Of a coordinate: no scanner's bed is so long."""


@dataclass(frozen=True)
class Markup:
    """One markup of a file."""

    kind: str
    """As the file calls it: Fiducial, Line, Curve, Plane ..."""
    points_mm: list[tuple[str, Matrix]]
    """Labels and positions (3,) of its placed points, in their order."""
    left_out: int
    """Number of points that are not placed."""


def read(path: Path) -> list[Markup]:
    """Read the markups of a file.

    Raises:
        ConfigError: the file is not one of markups, a point has no position, or its coordinate system or unit says
            nothing.
    """
    refuse_special(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: too large for markups")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    document = json_of(content, path)
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list) or not all(isinstance(each, dict) for each in markups):
        raise ConfigError(f"{path}: not markups of 3D Slicer (no list 'markups')")
    return [_markup(markup, path) for markup in markups]


def _markup(markup: dict[str, Any], path: Path) -> Markup:
    ras_from_file = ras_from(path, str(markup.get("coordinateSystem", "LPS")))  # the default of its schema
    unit = markup.get("coordinateUnits", "mm")
    if isinstance(unit, list):  # ["mm", "UCUM", "millimeter"], in some versions
        unit = unit[0] if unit else ""
    factor = unit_mm(str(unit).strip("[]"), f"{path}: coordinateUnits")
    if factor != 1:
        tell(path, f"its points are in {unit}; converted to mm")
    control_points = markup.get("controlPoints", [])
    if not isinstance(control_points, list) or not all(isinstance(each, dict) for each in control_points):
        raise ConfigError(f"{path}: controlPoints is not a list of points")
    if len(control_points) > _MOST_POINTS:
        raise ConfigError(f"{path}: {len(control_points)} points; at most {_MOST_POINTS} are read")
    points_mm = []
    for n, point in enumerate(control_points):
        status = point.get("positionStatus", _PLACED)
        if status not in _UNPLACED:
            label = str(point.get("label") or point.get("id") or n + 1)
            if status != _PLACED:
                raise ConfigError(f"{path}: positionStatus of {label!r} is {str(status)[:40]!r}")
            at = point.get("position")
            if not isinstance(at, list) or any(isinstance(x, bool) or not isinstance(x, int | float) for x in at):
                at = str(at)  # numbers as text, and true for 1, are no position
            points_mm.append((label, position_mm(path, label, ras_from_file, at, factor)))
    return Markup(str(markup.get("type", "")), points_mm, len(control_points) - len(points_mm))


def ras_from(path: Path, system: str) -> Matrix:
    """4x4, RAS from a file's coordinate system.

    Raises:
        ConfigError: it is neither LPS nor RAS.
    """
    found = _RAS_FROM.get(system.strip().upper())
    if found is None:
        raise ConfigError(f"{path}: its coordinate system is {system!r}; only LPS and RAS say where points are")
    return found


def position_mm(path: Path, label: str, ras_from_file: Matrix, at: object, factor: float) -> Matrix:
    """A point's position (3,), RAS.

    Raises:
        ConfigError: it is not three finite numbers, or farther away than any patient is.
    """
    try:
        found = np.array([float(x) for x in at] if isinstance(at, Iterable) and not isinstance(at, str) else [])
    except (TypeError, ValueError, OverflowError):
        found = np.zeros(0)
    if found.shape != (3,) or not np.isfinite(found).all():
        raise ConfigError(f"{path}: the position of {label!r} is not three finite numbers ({str(at)[:60]})")
    if np.abs(found * factor).max() > _FARTHEST_MM:
        raise ConfigError(f"{path}: {label!r} lies {np.abs(found * factor).max() / 1e3:.3g} m away; its unit is wrong")
    return g.transform(ras_from_file, found * factor)
