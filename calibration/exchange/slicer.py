"""Points of 3D Slicer: markups and their older tables."""

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


def read_markups(path: Path) -> Exchanged:
    found: dict[str, Matrix] = {}
    for markup in json.loads(path.read_text())["markups"]:
        lps = str(markup.get("coordinateSystem", "LPS")).upper() not in ("RAS", "0")
        for point in markup["controlPoints"]:
            if point.get("positionStatus", "defined") != "defined":
                continue
            at = np.array(point["position"], np.float64)
            found[str(point.get("label") or point["id"])] = g.transform(RAS_FROM_LPS, at) if lps else at
    return Exchanged(points_mm=found)


def write_markups(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    points = _need_points(ours, artifact, path)
    content = {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#",
        "markups": [
            {
                "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm",
                "controlPoints": [
                    {"id": str(n + 1), "label": label, "position": g.transform(RAS_FROM_LPS, at).tolist(),
                     "positionStatus": "defined"}
                    for n, (label, at) in enumerate(points.items())
                ],
            }
        ],
    }  # fmt: skip
    whole.write_whole(path, msgspec.json.format(msgspec.json.encode(content), indent=1))


def read_fcsv(path: Path) -> Exchanged:
    lps, found = True, {}  # Slicer 4.11 and later; older files say RAS
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            if "coordinatesystem" in line.lower():
                lps = line.split("=")[-1].strip().upper() not in ("RAS", "0")
            continue
        cells = line.split(",")
        if len(cells) < 12:
            continue
        at = np.array([float(x) for x in cells[1:4]])
        found[cells[11] or cells[0]] = g.transform(RAS_FROM_LPS, at) if lps else at
    return Exchanged(points_mm=found)


def write_fcsv(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS",
             "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]  # fmt: skip
    for n, (label, at) in enumerate(_need_points(ours, artifact, path).items()):
        if "," in label:
            raise ConfigError(f"{path}: the label {label!r} has a comma, which this format has no words for")
        x, y, z = g.transform(RAS_FROM_LPS, at)
        lines.append(f"{n + 1},{x:.9g},{y:.9g},{z:.9g},0,0,0,1,1,1,0,{label},,")
    whole.write_whole(path, ("\n".join(lines) + "\n").encode())


def _need_points(ours: Exchanged, artifact: Artifact[Any], path: Path) -> Mapping[str, Matrix]:
    if not ours.points_mm:
        raise ConfigError(f"{path}: this format holds points, not a {artifact.kind} calibration")
    return ours.points_mm
