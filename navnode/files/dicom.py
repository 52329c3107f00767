"""Volumes as DICOM series for planning systems: CT slices marked as derived and not for diagnosis."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from navnode import __version__
from navnode.errors import ConfigError
from navnode.files.dicom_read import kept_locale
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Volume

__all__ = ["refuse_filled", "write_series"]

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_LOWEST_HU, _HIGHEST_HU = -1024, 3071
_SUPINE = "HFS"


@kept_locale()
def write_series(
    volume: Volume,
    folder: Path,
    *,
    how: str,
    study: str = "",
    frame_of_reference: str = "",
    now: datetime | None = None,
) -> int:
    """Write axial slices into a new folder (PS3.3, CT Image IOD); returns their number.

    The files name no patient; that is assigned on import.

    Args:
        volume: HU on an RAS-aligned grid.
        how: how the volume was made, for people; becomes the derivation description.
        study, frame_of_reference: UIDs of what other files belong to, too; '': new ones.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_filled(folder)
        now = now or datetime.now().astimezone()
        common = _common(how, study or _uid(), _uid(), frame_of_reference or _uid(), now)
        lps_from_index = RAS_FROM_LPS @ volume.volume_from_index
        spacing = np.linalg.norm(lps_from_index[:3, :3], axis=0)
        axes = lps_from_index[:3, :3] / spacing
        hu = np.clip(np.round(volume.voxels), _LOWEST_HU, _HIGHEST_HU).astype(np.int16)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index, pixels in enumerate(hu):
            position = lps_from_index[:3, 3] + lps_from_index[:3, 2] * index
            image = sitk.GetImageFromArray(pixels[None])
            image.SetSpacing(spacing.tolist())
            image.SetOrigin(position.tolist())
            image.SetDirection(axes.ravel().tolist())
            own = {
                "0008|0018": _uid(),
                "0020|0013": str(index + 1),
                "0020|0032": _numbers(position),
                "0020|0037": _numbers(np.concatenate([axes[:, 0], axes[:, 1]])),
                "0020|1041": f"{position[2]:.4f}",
            }
            for tag, value in {**common, **own, "0018|0050": f"{spacing[2]:.4f}"}.items():
                image.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{index + 1:04d}.dcm"))
            writer.Execute(image)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{folder}: cannot be written ({error})") from error
    return len(hu)


def refuse_filled(folder: Path) -> None:
    """Refuse a folder for a series that holds something, or is none.

    Raises:
        ConfigError: it is so.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "contains files already" if folder.is_dir() else "is a file"
        raise ConfigError(f"{folder}: {what}; a series needs an empty folder")


def _common(how: str, study: str, series: str, frame_of_reference: str, now: datetime) -> dict[str, str]:
    dates = dict.fromkeys(("0008|0020", "0008|0021", "0008|0023"), now.strftime("%Y%m%d"))
    times = dict.fromkeys(("0008|0030", "0008|0031", "0008|0033"), now.strftime("%H%M%S"))
    patient = dict.fromkeys(("0010|0010", "0010|0020", "0010|0030", "0010|0040"), "")
    hu_from_stored = {"0028|1052": "0", "0028|1053": "1", "0028|1054": "HU"}
    return {
        "0008|0008": "DERIVED\\SECONDARY\\AXIAL",
        "0008|0016": _CT_IMAGE_STORAGE,
        "0008|0050": "",
        "0008|0060": "CT",
        "0008|0070": "navnode",
        "0008|103e": "From a few X-rays - NOT FOR DIAGNOSIS",
        "0008|2111": f"{how} NOT FOR DIAGNOSIS."[:1024],
        "0018|1020": __version__,
        "0018|5100": _SUPINE,
        "0020|000d": study,
        "0020|000e": series,
        "0020|0010": "",
        "0020|0011": "1",
        "0020|0052": frame_of_reference,
        **dates,
        **times,
        **patient,
        **hu_from_stored,
    }


def _uid() -> str:
    """A new, globally unique identifier (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def _numbers(values: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """Decimal strings of at most 16 characters each."""
    return "\\".join(f"{value:.6f}" for value in values)
