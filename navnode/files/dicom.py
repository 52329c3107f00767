"""Volumes as DICOM series for planning systems: CT slices marked DERIVED, and not for diagnosis."""

from __future__ import annotations

import contextlib
import locale
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from navnode import __version__
from navnode.errors import ConfigError
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Volume

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_LOWEST_HU, _HIGHEST_HU = -1024, 3071
_SUPINE = "HFS"


@contextlib.contextmanager
def kept_locale() -> Iterator[None]:
    """GDCM sets the process's locale to C the first time it writes where a slice lies, and text stops being UTF-8."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@kept_locale()
def write_series(volume: Volume, folder: Path, *, how: str, now: datetime | None = None) -> int:
    """A series of axial slices in a new folder (PS3.3, CT Image IOD); returns how many.

    The files name no patient. Whoever imports them says whose they are.

    Args:
        volume: HU on an RAS-aligned grid.
        how: how it came about, for people; goes into the series' description and the derivation's.

    Raises:
        ConfigError: the folder holds something already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder}: holds files already; a series gets a folder of its own")
        now = now or datetime.now().astimezone()
        study, series = _uid(), _uid()
        common = _common(how, study, series, now)
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


def _common(how: str, study: str, series: str, now: datetime) -> dict[str, str]:
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    return {
        "0008|0008": "DERIVED\\SECONDARY\\AXIAL",
        "0008|0016": _CT_IMAGE_STORAGE,
        "0008|0020": date, "0008|0021": date, "0008|0023": date,
        "0008|0030": time, "0008|0031": time, "0008|0033": time,
        "0008|0050": "",
        "0008|0060": "CT",
        "0008|0070": "navnode",
        "0008|103e": "From a few X-rays - NOT FOR DIAGNOSIS",
        "0008|2111": f"{how} NOT FOR DIAGNOSIS."[:1024],
        "0010|0010": "", "0010|0020": "", "0010|0030": "", "0010|0040": "",
        "0018|1020": __version__,
        "0018|5100": _SUPINE,
        "0020|000d": study, "0020|000e": series,
        "0020|0010": "", "0020|0011": "1",
        "0020|0052": _uid(),
        "0028|1052": "0", "0028|1053": "1", "0028|1054": "HU",
    }  # fmt: skip


def _uid() -> str:
    """One that nobody else has (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def _numbers(values: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """Decimal strings, at most 16 characters each."""
    return "\\".join(f"{value:.6f}" for value in values)
