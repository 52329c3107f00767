"""CTs and other volumes on disk. LPS becomes RAS where files are read and written, and nowhere else."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from navnode.errors import ConfigError
from navnode.files import dicom_read, metaimage, nifti, nrrd, scans
from navnode.files.dicom_read import kept_locale
from navnode.files.ordinary import refuse_special
from navnode.files.placing import (
    AS_STATED,
    Placed,
    ReadAs,
    check_size,
    checked_matrix,
    place_by_letters,
    tell,
    unit_mm,
)
from navnode.files.whole import check_output, whole_with_parts
from navnode.itk import RAS_FROM_LPS, itk_image
from navnode.types import Volume

__all__ = ["ReadAs", "VOLUME_ENDINGS", "checked_ct", "read_numbers", "read_volume", "write_volume"]

sitk.ProcessObject_SetGlobalWarningDisplay(False)  # checks here turn the warnings that matter into one-line errors

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Of the formats in which volumes are written."""
_HEAD_BYTES = 4096
_MOST_HEADER_BYTES = 1 << 16
"""Of a NIfTI file that is written here, beside its values."""
_PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_TISSUE_HU, _LEAST_TISSUE = 0.0, 27
"""So many voxels above this are something."""


def read_volume(path: str | Path, choice: ReadAs = AS_STATED) -> Volume:
    """Read a CT in HU: NIfTI, NRRD, MetaImage, DICOM (a folder, the longest series in or below it; or a file of many
    frames), or another format of SimpleITK. Whatever the file leaves open is told in one line, or refused.

    Args:
        choice: what to take where the file leaves a choice.

    Raises:
        ConfigError: the file is missing, unreadable, incomplete, damaged, too large, contradicts itself, does not say
            where it is, or is not one scalar 3-D volume, or not a CT.
    """
    return _read(Path(path), choice, _volume)


def read_numbers(path: str | Path, choice: ReadAs = AS_STATED) -> Volume:
    """Read a volume that need not be a CT, such as labels: the numbers as they are.

    Raises:
        ConfigError: as :func:`read_volume`, but for what a CT is.
    """
    return _read(Path(path), choice, _numbers)


def _read(path: Path, choice: ReadAs, made: Callable[[Placed, Path], Volume]) -> Volume:
    refuse_special(path)
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file or folder")
    try:
        return made(_placed(path, choice), path)
    except ConfigError:
        raise
    except (MemoryError, OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ConfigError(f"{path}: cannot be read as a volume ({reason})") from error


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write HU to NIfTI, NRRD or MHA, by the file's extension, completely or not at all.

    Raises:
        ConfigError: the extension is unknown, or the file cannot be written.
    """
    path = Path(path)
    check_output(path, VOLUME_ENDINGS)
    try:
        with whole_with_parts(path) as part:
            sitk.WriteImage(itk_image(volume), str(part))
            if _cut_off(part, volume.voxels.nbytes):
                raise ConfigError(f"{path}: cannot be written (it is cut off: the disk may be full)")
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1].strip()})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _cut_off(path: Path, least_bytes: int) -> bool:
    """Whether a NIfTI file ends early: what writes it does not say that the disk was full.

    Args:
        least_bytes: that it holds, unpacked.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return False
    size = path.stat().st_size
    if path.name.endswith(".gz"):  # which ends with the size of what it holds
        with path.open("rb") as file:
            file.seek(max(0, size - 4))
            size = int.from_bytes(file.read(4), "little")
        least_bytes %= 1 << 32
    return not least_bytes <= size <= least_bytes + _MOST_HEADER_BYTES


def _placed(path: Path, choice: ReadAs) -> Placed:
    if path.is_dir():
        return scans.read_folder(path, choice)
    header = next((each for each in _headers_of(path) if each.is_file()), None)
    path = path if header is None else header
    head = _head(path)
    if path.name == "DICOMDIR":
        raise ConfigError(f"{path}: an index of files; name the folder with the series")
    if nrrd.is_nrrd(head):
        reader: Callable[[Path, ReadAs], Placed] = nrrd.read
    elif nifti.is_nifti(head):
        reader = nifti.read
    elif dicom_read.is_dicom(path):
        return scans.read_file(path, choice)
    elif path.suffix.lower() in (".mha", ".mhd") or metaimage.is_metaimage(head):
        reader = metaimage.read
    else:
        reader = _read_other
    if choice.series:
        raise ConfigError(f"{path}: --series {choice.series} is for DICOM")
    return reader(path, choice)


def _headers_of(path: Path) -> list[Path]:
    """The headers that an image without one may have."""
    stem, image, packed = path.name.lower().partition(".img")
    if not image or packed not in ("", ".gz"):
        return []
    return [path.with_name(path.name[: len(stem)] + ending) for ending in (".hdr", ".hdr.gz", ".HDR")]


def _head(path: Path) -> bytes:
    """The first bytes, unpacked."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                head = packed.read(_HEAD_BYTES)
    except EOFError as error:
        raise ConfigError(f"{path}: incomplete (the gzip stream ends too early)") from error
    except (OSError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return head


@kept_locale()
def _read_other(path: Path, choice: ReadAs) -> Placed:
    """Formats of ITK that state sizes, but not sides of the patient."""
    if path.suffix.lower() in _PICTURES:
        raise ConfigError(f"{path}: not a 3-D volume (a picture states neither distances nor sides of the patient)")
    if path.name.lower().endswith((".nii", ".nii.gz", ".hdr", ".img", ".nrrd", ".nhdr")):
        raise ConfigError(f"{path}: cannot be read as a volume (its header is damaged)")
    reader = sitk.ImageFileReader()
    if not reader.GetImageIOFromFileName(str(path)):
        raise ConfigError(f"{path}: not a volume that is read (NIfTI, NRRD, MetaImage, DICOM, others of ITK)")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    check_size(reader.GetSize(), path)
    image = reader.Execute()
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ConfigError(f"{path}: not a CT (voxels have {image.GetNumberOfComponentsPerPixel()} components)")
    factor = unit_mm(choice.units or "mm", "--units")
    spacing = np.array(image.GetSpacing()) * factor
    if choice.orientation:
        return Placed(
            sitk.GetArrayFromImage(image), place_by_letters(choice.orientation, spacing, image.GetSize(), path)
        )
    tell(path, "its format states no sides of the patient; axes are taken as ITK reads them (--orientation chooses)")
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * spacing
    lps_from_index[:3, 3] = np.array(image.GetOrigin()) * factor
    return Placed(sitk.GetArrayFromImage(image), RAS_FROM_LPS @ lps_from_index)


def _numbers(placed: Placed, path: Path) -> Volume:
    """A volume of finite numbers."""
    voxels = placed.voxels.astype(np.float32, copy=False)
    checked_matrix(placed.ras_from_index, voxels.shape[::-1], path)
    if not np.isfinite(voxels).all():
        raise ConfigError(f"{path}: not a CT (some voxels are NaN or infinite)")
    return Volume(voxels, placed.ras_from_index, path.name)


def _volume(placed: Placed, path: Path) -> Volume:
    return checked_ct(_numbers(placed, path), path)


def checked_ct(volume: Volume, path: Path) -> Volume:
    """The volume, which can be a CT in HU.

    Raises:
        ConfigError: it cannot.
    """
    voxels = volume.voxels
    low, high = (float(x) for x in np.percentile(voxels[:: max(1, len(voxels) // 32)], (1, 99.5)))
    if high < 0 and np.count_nonzero(voxels > _TISSUE_HU) >= _LEAST_TISSUE:
        high = 0.0  # a finger in a large field
    if low > -150 or high < 0 or high > 10_000:
        # A CT in HU contains air or fat (below -150) and soft tissue; masks, MR and ultrasound do not.
        raise ConfigError(f"{path}: not a CT in HU (values range from {low:.0f} to {high:.0f})")
    return volume
