"""Points of 3D Slicer: markups and the older tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from calibration.exchange.contents import Exchanged
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Matrix

__all__ = ["read_fcsv", "read_markups", "write_fcsv", "write_markups"]


def read_markups(path: Path) -> Exchanged:
    """Read points from markups."""
    points_mm: dict[str, Matrix] = {}
    for markup in json.loads(path.read_text())["markups"]:
        lps = str(markup.get("coordinateSystem", "LPS")).upper() not in ("RAS", "0")
        for point in markup["controlPoints"]:
            if point.get("positionStatus", "defined") != "defined":
                continue
            at = np.array(point["position"], np.float64)
            points_mm[str(point.get("label") or point["id"])] = g.transform(RAS_FROM_LPS, at) if lps else at
    return Exchanged(points_mm=points_mm)


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
    """Read points from a table."""
    lps, points_mm = True, {}  # Slicer 4.11 and later; older files state RAS
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            if "coordinatesystem" in line.lower():
                lps = line.split("=")[-1].strip().upper() not in ("RAS", "0")
            continue
        cells = line.split(",")
        if len(cells) < 12:
            continue
        at = np.array([float(x) for x in cells[1:4]])
        points_mm[cells[11] or cells[0]] = g.transform(RAS_FROM_LPS, at) if lps else at
    return Exchanged(points_mm=points_mm)


def write_fcsv(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write points as a table.

    Raises:
        ConfigError: the calibration has no points, a label contains a comma, or the file cannot be written.
    """
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS", columns]
    for n, (label, at) in enumerate(_need_points(ours, artifact, path).items()):
        if "," in label:
            raise ConfigError(f"{path}: the label {label!r} contains a comma, which this format cannot express")
        x, y, z = g.transform(RAS_FROM_LPS, at)
        lines.append(f"{n + 1},{x:.9g},{y:.9g},{z:.9g},0,0,0,1,1,1,0,{label},,")
    whole.write_whole(path, ("\n".join(lines) + "\n").encode())


def _need_points(ours: Exchanged, artifact: Artifact[Any], path: Path) -> Mapping[str, Matrix]:
    if not ours.points_mm:
        raise ConfigError(f"{path}: this format stores points, not a {artifact.kind} calibration")
    return ours.points_mm
