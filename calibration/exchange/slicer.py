"""Points of 3D Slicer: markups and the older tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files import markups, whole
from navnode.files.artifacts import Artifact
from navnode.files.placing import tell
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Matrix

from .contents import Exchanged

__all__ = ["read_fcsv", "read_markups", "write_fcsv", "write_markups"]

_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_UNPLACED_NUMBERS = ("0", "1", "3")
"""The same in tables: the first of two columns after those that the header names."""


def _take(path: Path, points_mm: dict[str, Matrix], label: str, at_mm: Matrix) -> None:
    """Add a point.

    Raises:
        ConfigError: its label occurs twice.
    """
    if label in points_mm:
        raise ConfigError(f"{path}: the label {label!r} occurs twice; points are told apart by their labels")
    points_mm[label] = at_mm


def _usable(path: Path, points_mm: dict[str, Matrix], left_out: int) -> Exchanged:
    if left_out:
        tell(path, f"{left_out} points are not placed, and left out")
    if not points_mm:
        raise ConfigError(f"{path}: holds no points")
    return Exchanged(points_mm=points_mm)


def read_markups(path: Path) -> Exchanged:
    """Read points from markups.

    Raises:
        ConfigError: the file is not one of markups, a point has no position or no label of its own, or its coordinate
            system or unit says nothing.
    """
    points_mm: dict[str, Matrix] = {}
    found = markups.read(path)
    for markup in found:
        for label, at_mm in markup.points_mm:
            _take(path, points_mm, label, at_mm)
    return _usable(path, points_mm, sum(markup.left_out for markup in found))


def write_markups(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write points as markups.

    Raises:
        ConfigError: the calibration has no points, or the file cannot be written.
    """
    control_points = [
        {
            "id": str(n + 1),
            "label": label,
            "position": g.transform(RAS_FROM_LPS, at).tolist(),
            "positionStatus": "defined",
        }
        for n, (label, at) in enumerate(_need_points(ours, artifact, path).items())
    ]
    fiducials = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": control_points,
    }
    content = {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#",
        "markups": [fiducials],
    }
    whole.write_whole(path, msgspec.json.format(msgspec.json.encode(content), indent=1))


def read_fcsv(path: Path) -> Exchanged:
    """Read points from a table, by the columns that its header names.

    Raises:
        ConfigError: the file lacks its coordinate system or a column, is cut short, or as for markups.
    """
    text = path.read_bytes().decode("utf-8-sig")
    about: dict[str, str] = {}
    rows: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            key, equals, value = line[1:].partition("=")
            if equals and about.setdefault(key.strip().lower(), value.strip()) != value.strip():
                raise ConfigError(f"{path}: {key.strip()} is stated twice")
        elif line.strip():
            rows.append(line)
    if "coordinatesystem" not in about:
        raise ConfigError(f"{path}: states no CoordinateSystem, which was RAS in old files and is LPS in new ones")
    ras_from_file = markups.ras_from(path, about["coordinatesystem"])
    columns = [name.strip() for name in about.get("columns", _COLUMNS).split(",")]
    if twice := next((name for name in columns if name and columns.count(name) > 1), ""):
        raise ConfigError(f"{path}: the column {twice} occurs twice")
    if missing := [name for name in ("x", "y", "z") if columns.count(name) != 1]:
        raise ConfigError(
            f"{path}: has no column {missing[0]} ({about.get('columns', '')[:80]}); columns end with commas"
        )
    if rows and not text.endswith("\n"):
        raise ConfigError(f"{path}: cut short (its last line does not end)")
    named = next((columns.index(name) for name in ("label", "id") if name in columns), None)
    ids = columns.index("id") if "id" in columns else named
    points_mm: dict[str, Matrix] = {}
    left_out = 0
    try:
        table = list(csv.reader(rows, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{path}: damaged ({error})") from error
    for n, cells in enumerate(table):
        if len(cells) < len(columns):
            raise ConfigError(f"{path}: point {n + 1} has {len(cells)} columns, the header names {len(columns)}")
        more = cells[len(columns) :]
        if more and (len(more) != 2 or not all(each.strip().isdigit() for each in more)):
            raise ConfigError(
                f"{path}: point {n + 1} has {len(cells)} columns, the header names {len(columns)}; a text with a comma "
                "stands in quotes"
            )
        if more and cells[len(columns)] in _UNPLACED_NUMBERS:
            left_out += 1
            continue
        label = str(n + 1) if named is None or ids is None else cells[named] or cells[ids] or str(n + 1)
        at = [cells[columns.index(name)] for name in "xyz"]
        _take(path, points_mm, label, markups.position_mm(path, label, ras_from_file, at, 1.0))
    return _usable(path, points_mm, left_out)


def write_fcsv(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write points as a table.

    Raises:
        ConfigError: the calibration has no points, a label contains a line's end, or the file cannot be written.
    """
    lines = io.StringIO()
    lines.write(f"# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = {_COLUMNS}\n")
    rows = csv.writer(lines, lineterminator="\n")
    for n, (label, at) in enumerate(_need_points(ours, artifact, path).items()):
        if "\n" in label or "\r" in label:
            raise ConfigError(f"{path}: the label {label!r} contains a line's end, which this format cannot express")
        x, y, z = g.transform(RAS_FROM_LPS, at)
        rows.writerow([n + 1, f"{x:.9g}", f"{y:.9g}", f"{z:.9g}", 0, 0, 0, 1, 1, 1, 0, label, "", ""])
    whole.write_whole(path, lines.getvalue().encode())


def _need_points(ours: Exchanged, artifact: Artifact[Any], path: Path) -> Mapping[str, Matrix]:
    if not ours.points_mm:
        raise ConfigError(f"{path}: this format stores points, not a {artifact.kind} calibration")
    return ours.points_mm
