"""Calibration files of other programs: PLUS, OpenCV, ROS, 3D Slicer, ITK, NDI, DICOM.

Values are RAS, millimetres and ``a_from_b``; other conventions are converted when a file is read or written. A
transform ``b_from_a`` is ``From="A" To="B"`` in PLUS, and Slicer's transform to parent from A to B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import yaml

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.artifacts import (
    Artifact,
    CArmResult,
    HandEyeResult,
    ImageLagResult,
    PatientResult,
    PhantomResult,
    PivotResult,
    ToolResult,
)
from navnode.files.dicom_read import is_dicom

from . import dicom, itk, ndi, opencv, plus, ros, slicer
from .contents import Exchanged, write_imported

__all__ = ["READS", "WRITES", "Exchanged", "read", "write", "write_imported"]

_MAX_BYTES = 1 << 26
_NS = 1e-9
READS = (
    ".xml (PLUS), .yml (OpenCV), .yaml (ROS), .mrk.json and .fcsv (Slicer), .tfm, .txt and .h5 (ITK), .rom (NDI), DICOM"
)
WRITES = ".xml (PLUS), .yml (OpenCV), .yaml (ROS), .mrk.json and .fcsv (Slicer), .tfm and .h5 (ITK)"


def read(path: Path) -> Exchanged:
    """Read a file, by its extension; unknown extensions are read as DICOM.

    Raises:
        ConfigError: the file cannot be read or contains nothing useful; names it.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: too large")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    reader = next((read for ending, read in _READERS.items() if path.name.lower().endswith(ending)), dicom.read)
    if reader is dicom.read and not is_dicom(path):
        raise ConfigError(f"{path}: unknown format, not DICOM; read are {READS}")
    try:
        return reader(path)
    except ConfigError:
        raise
    except _PARSER_ERRORS as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot be read ({reason})") from error


def write(artifact: Artifact[Any], path: Path) -> None:
    """Write an artifact in the format that the file's extension selects.

    Raises:
        ConfigError: the format is unknown or cannot express this calibration, or the file cannot be written.
    """
    writer = next((write for ending, write in _WRITERS.items() if path.name.lower().endswith(ending)), None)
    if writer is None:
        raise ConfigError(f"{path}: unknown format; known: {WRITES}")
    writer(_ours(artifact), artifact, path)


def _ours(artifact: Artifact[Any]) -> Exchanged:
    """An artifact's result in terms that other programs share."""
    result, device = artifact.result, artifact.device
    match result:
        case PivotResult():
            return Exchanged({(f"{device or 'Tool'}Tip", device or "Tool"): g.rigid(None, result.tip_mm)})
        case HandEyeResult():
            return Exchanged({("XraySource", device or "CArm"): np.array(result.marker_from_carm)})
        case PatientResult():
            return Exchanged({("Patient", "Volume"): np.array(result.volume_from_patient)})
        case CArmResult():
            return Exchanged(carm=result.carm.geometry)
        case ImageLagResult():
            return Exchanged(lags_s={device or "Image": result.image_lag_ns * _NS})
        case PhantomResult():
            return Exchanged(points_mm={label: np.array(at) for label, at in result.measured_mm.items()})
        case ToolResult():
            return Exchanged(points_mm={str(n): np.array(at) for n, at in enumerate(result.markers_mm)})
    raise ConfigError(f"a {artifact.kind} calibration has no counterpart in other programs' files")


_FILE_ERRORS = (OSError, RuntimeError, cv2.error)
_CONTENT_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RecursionError,
    MemoryError,
    ElementTree.ParseError,
    yaml.YAMLError,
)
_PARSER_ERRORS = (*_FILE_ERRORS, *_CONTENT_ERRORS)
_READERS = {
    ".xml": plus.read,
    ".yml": opencv.read,
    ".yaml": ros.read,
    ".mrk.json": slicer.read_markups,
    ".fcsv": slicer.read_fcsv,
    ".tfm": itk.read,
    ".txt": itk.read,
    ".h5": itk.read,
    ".rom": ndi.read,
}
_WRITERS = {
    ".xml": plus.write,
    ".yml": opencv.write,
    ".yaml": ros.write,
    ".mrk.json": slicer.write_markups,
    ".fcsv": slicer.write_fcsv,
    ".tfm": itk.write,
    ".h5": itk.write,
}
