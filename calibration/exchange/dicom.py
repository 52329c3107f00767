"""C-arm geometry in DICOM X-ray images; read only."""

from __future__ import annotations

from pathlib import Path

from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.geometry import CArmDocument

from .contents import Exchanged

__all__ = ["read"]

_TAGS = [
    "Rows",
    "Columns",
    "DistanceSourceToDetector",
    "ImagerPixelSpacing",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
    "NumberOfFrames",
]


def read(path: Path) -> Exchanged:
    """Read distance, pixel spacing, size and angles from an X-ray image (PS3.3, C.8.7.5).

    Raises:
        ConfigError: it is not DICOM; distance or pixel spacing is missing, or cannot be a C-arm's.
    """
    if not dicom_read.is_dicom(path):
        raise ConfigError(f"{path}: unknown format, not DICOM")
    dataset = dicom_read.open_dataset(path, _TAGS)
    distance = dicom_read.number(dataset, "DistanceSourceToDetector", path)
    spacing = dicom_read.numbers(dataset, "ImagerPixelSpacing", 2, path)
    size = [dicom_read.number(dataset, keyword, path) for keyword in ("Columns", "Rows")]
    if distance is None or spacing is None or None in size:
        raise ConfigError(f"{path}: source-to-detector distance or imager pixel spacing is missing")
    width, height = (int(side or 0) for side in size)
    middle = (width - 1) / 2, (height - 1) / 2
    try:
        carm = CArmDocument(width, height, (float(spacing[1]), float(spacing[0])), distance, middle).geometry
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    primary = dicom_read.number(dataset, "PositionerPrimaryAngle", path)
    secondary = dicom_read.number(dataset, "PositionerSecondaryAngle", path)
    return Exchanged(carm=carm, angles_deg=None if primary is None or secondary is None else (primary, secondary))
