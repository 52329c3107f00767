"""Device sets of PLUS: transforms and time offsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import defusedxml
import defusedxml.ElementTree
import numpy as np

from calibration.exchange.contents import Exchanged
from navnode.errors import ConfigError
from navnode.files import whole
from navnode.files.artifacts import Artifact

__all__ = ["read", "write"]


def _root(path: Path) -> ElementTree.Element:
    try:
        root: ElementTree.Element = defusedxml.ElementTree.fromstring(path.read_text(), forbid_dtd=True)
    except defusedxml.DefusedXmlException as error:
        raise ConfigError(f"{path}: declares entities, which are not allowed in a device set") from error
    return root


def read(path: Path) -> Exchanged:
    """Read transforms and time offsets from a device set.

    Raises:
        ConfigError: the file declares entities, or a Transform is incomplete.
    """
    root = _root(path)
    transforms = {}
    for element in root.iter("Transform"):
        if element.get("Matrix") is None:
            continue
        numbers = [float(part) for part in element.get("Matrix", "").split()]
        if len(numbers) != 16 or not element.get("From") or not element.get("To"):
            raise ConfigError(f"{path}: a Transform needs From, To and a Matrix of 16 numbers")
        transforms[element.get("From", ""), element.get("To", "")] = np.array(numbers).reshape(4, 4)
    # A device's stamps plus its offset are the common time, so a late device has a negative offset.
    lags = {
        device.get("Id", ""): -float(device.get("LocalTimeOffsetSec", "0"))
        for device in root.iter("Device")
        if device.get("LocalTimeOffsetSec") is not None
    }
    return Exchanged(transforms=transforms, lags_s=lags)


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
