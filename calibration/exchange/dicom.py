"""C-arm geometry in DICOM X-ray images; read only."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from calibration.exchange.contents import Exchanged
from navnode.errors import ConfigError
from navnode.files.deflated import check_deflated
from navnode.geometry import CArmDocument

__all__ = ["read"]


def read(path: Path) -> Exchanged:
    """Read distance, pixel spacing, size and angles from an X-ray image (PS3.3, C.8.7.5).

    Raises:
        ConfigError: distance or pixel spacing is missing.
    """
    check_deflated([path])
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    reader.ReadImageInformation()

    def number(tag: str) -> list[float]:
        text = reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""
        return [float(part) for part in text.split("\\")] if text else []

    distance, spacing, size = number("0018|1110"), number("0018|1164"), reader.GetSize()
    if not distance or len(spacing) != 2:
        raise ConfigError(f"{path}: source-to-detector distance or imager pixel spacing is missing")
    width, height = int(size[0]), int(size[1])
    middle = (width - 1) / 2, (height - 1) / 2
    carm = CArmDocument(width, height, (spacing[1], spacing[0]), distance[0], middle).geometry
    angles = [number(tag) for tag in ("0018|1510", "0018|1511")]
    return Exchanged(carm=carm, angles_deg=(angles[0][0], angles[1][0]) if all(angles) else None)
