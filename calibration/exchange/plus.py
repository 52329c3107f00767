"""Device sets of PLUS: transforms and time offsets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import defusedxml
import defusedxml.ElementTree
import numpy as np

from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact
from navnode.types import Matrix

from .contents import Exchanged

__all__ = ["read", "write"]

_SAME = 1e-3
_SAME_AROUND = 1e-2
"""Share of the largest number: several transforms round several times."""
_LEAST_VOLUME = 1e-15
"""Of a pixel's step along three axes, in mm: a picture of micrometres has more."""
_LONGEST_LAG_S = 60.0


def _root(path: Path) -> ElementTree.Element:
    content = path.read_bytes()  # the XML declaration names the encoding
    try:
        root: ElementTree.Element = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except defusedxml.DefusedXmlException as error:
        raise ConfigError(f"{path}: declares a document type, which is not allowed in a device set") from error
    except ElementTree.ParseError:
        raise
    except (LookupError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as XML ({error})") from error
    return root


def read(path: Path) -> Exchanged:
    """Read transforms and time offsets from a device set.

    Raises:
        ConfigError: the file declares entities, holds neither, or one of them is incomplete, not finite or contradicted
            by another.
    """
    root = _root(path)
    transforms: dict[tuple[str, str], Matrix] = {}
    for element in root.iter("Transform"):
        if element.get("Matrix") is None:
            continue
        pair = element.get("From", ""), element.get("To", "")
        try:
            numbers = np.array([float(part) for part in element.get("Matrix", "").split()])
        except ValueError:
            numbers = np.zeros(0)
        if len(numbers) != 16 or not all(pair):
            raise ConfigError(f"{path}: a Transform needs From, To and a Matrix of 16 numbers")
        if pair[0] == pair[1]:
            raise ConfigError(f"{path}: a Transform from {pair[0]} to itself")
        if not np.isfinite(numbers).all() or np.abs(numbers[12:] - [0, 0, 0, 1]).max() > 1e-6:
            raise ConfigError(f"{path}: the Matrix from {pair[0]} to {pair[1]} is not a finite transform")
        if abs(np.linalg.det(numbers.reshape(4, 4))) < _LEAST_VOLUME:
            raise ConfigError(f"{path}: the Matrix from {pair[0]} to {pair[1]} cannot be inverted")
        _take(path, transforms, pair, numbers.reshape(4, 4))
    # A device's stamps plus its offset are the common time, so a late device has a negative offset.
    lags: dict[str, float] = {}
    for device in root.iter("Device"):
        text, name = device.get("LocalTimeOffsetSec"), device.get("Id", "")
        if text is None:
            continue
        if not name:
            raise ConfigError(f"{path}: a Device has LocalTimeOffsetSec and no Id")
        try:
            lag = -float(text)
        except ValueError:
            lag = math.nan
        if not abs(lag) < _LONGEST_LAG_S:
            raise ConfigError(f"{path}: LocalTimeOffsetSec of {name} is {text!r}, not some seconds")
        if lags.setdefault(name, lag) != lag:
            raise ConfigError(f"{path}: the device {name} occurs twice, with offsets of {-lags[name]:g} and {text} s")
    if not transforms and not lags and root.tag != "PlusConfiguration":
        raise ConfigError(f"{path}: not a device set of PLUS (neither transforms nor time offsets)")
    return Exchanged(transforms=transforms, lags_s=lags)


def _take(path: Path, transforms: dict[tuple[str, str], Matrix], pair: tuple[str, str], matrix: Matrix) -> None:
    """Add a transform that no other contradicts, in either direction, nor several that lead the same way."""
    same = transforms.get(pair)
    other = transforms.get((pair[1], pair[0]))
    if (same is not None and np.abs(same - matrix).max() > _SAME) or (
        other is not None and np.abs(other @ matrix - np.eye(4)).max() > _SAME
    ):
        raise ConfigError(f"{path}: two transforms between {pair[0]} and {pair[1]} contradict each other")
    around = None if same is not None or other is not None else _around(transforms, pair)
    if around is not None and np.abs(around - matrix).max() > _SAME_AROUND * max(1.0, float(np.abs(matrix).max())):
        raise ConfigError(
            f"{path}: the transform from {pair[0]} to {pair[1]} contradicts those that lead there by other frames"
        )
    transforms[pair] = matrix


def _around(transforms: dict[tuple[str, str], Matrix], pair: tuple[str, str]) -> Matrix | None:
    """to_from_from by way of other frames; None: no way leads there."""
    found = {pair[0]: np.eye(4)}
    frames = [pair[0]]
    for frame in frames:  # grows
        for (source, target), matrix in transforms.items():
            if source == frame and target not in found:
                found[target] = matrix @ found[frame]
                frames.append(target)
            elif target == frame and source not in found:
                found[source] = np.linalg.inv(matrix) @ found[frame]
                frames.append(source)
    return found.get(pair[1])


def write(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write transforms and time offsets into an existing device set, or a new one.

    Raises:
        ConfigError: the calibration has neither, or the file is not a device set or cannot be written.
    """
    if not ours.transforms and not ours.lags_s:
        raise ConfigError(
            f"{path}: a PLUS device set stores transforms and time offsets, not a {artifact.kind} calibration"
        )
    if path.exists():
        read(path)  # never write to another kind of file
        root = _root(path)
    else:
        root = ElementTree.Element("PlusConfiguration", version="2.9")
    place = root.find("CoordinateDefinitions")
    place = ElementTree.SubElement(root, "CoordinateDefinitions") if place is None else place
    for (a, b), matrix in ours.transforms.items():
        existing = next((e for e in place if e.get("From") == a and e.get("To") == b), None)
        element = ElementTree.SubElement(place, "Transform", From=a, To=b) if existing is None else existing
        element.set("Matrix", " ".join(f"{x:.12g}" for x in matrix.ravel()))
    for name, lag in ours.lags_s.items():
        collection = root.find("DataCollection")
        collection = ElementTree.SubElement(root, "DataCollection") if collection is None else collection
        existing = next((e for e in collection.iter("Device") if e.get("Id") == name), None)
        device = ElementTree.SubElement(collection, "Device", Id=name) if existing is None else existing
        device.set("LocalTimeOffsetSec", f"{-lag:.9g}")
    ElementTree.indent(root)
    whole.write_whole(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
