"""CTs, volumes and meshes on disk. LPS becomes RAS here and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from navnode.errors import ConfigError
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Matrix, Volume

MAX_VOXELS = 1024**3
AIR_HU = -1000.0


def read_volume(path: str | Path) -> Volume:
    """A CT from anything SimpleITK reads, or from a DICOM folder (its largest series), in HU.

    Raises:
        ConfigError: not there, not readable, not one scalar 3-D volume, too large, or not a CT.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file or folder")
    try:
        image = _read_dicom_folder(path) if path.is_dir() else _read_file(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{path}: cannot be read as a volume ({reason})") from error
    return _from_sitk(image, path)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write HU to NIfTI, NRRD or MHA, by the file's ending."""
    sitk.WriteImage(_to_sitk(volume), str(path))


def resample(volume: Volume, spacing_mm: float, size: tuple[int, int, int] | None = None) -> Volume:
    """The volume on an RAS-aligned cubic grid around the same centre, smoothed first where it gets coarser.

    ``size`` is (i, j, k); by default it covers the volume.
    """
    image = _to_sitk(volume)
    own_spacing = np.array(image.GetSpacing())
    sigma_mm = 0.5 * np.sqrt(np.maximum(spacing_mm**2 - own_spacing**2, 0.0))
    if sigma_mm.any():
        image = sitk.SmoothingRecursiveGaussian(image, np.maximum(sigma_mm, 1e-3 * own_spacing).tolist())
    if size is None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.voxels.shape[::-1]])).reshape(3, -1)
        ras = volume.volume_from_index[:3, :3] @ corners
        counts = np.ceil(np.ptp(ras, axis=1) / spacing_mm - 1e-6).astype(int) + 1
        size = (int(counts[0]), int(counts[1]), int(counts[2]))
    volume_from_index = centered_grid(size, spacing_mm, volume.center_mm)
    # In LPS the RAS grid runs backwards along its first two axes, which ITK expresses as a direction.
    lps_from_index = RAS_FROM_LPS @ volume_from_index
    resampled = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        lps_from_index[:3, 3].tolist(),
        [spacing_mm] * 3,
        (lps_from_index[:3, :3] / spacing_mm).ravel().tolist(),
        AIR_HU,
        sitk.sitkFloat32,
    )
    return Volume(sitk.GetArrayFromImage(resampled), volume_from_index, volume.name)


def centered_grid(size: tuple[int, int, int], spacing_mm: float, center_mm: Matrix) -> Matrix:
    """volume_from_index of an RAS-aligned cubic grid whose middle is at ``center_mm``."""
    volume_from_index = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    volume_from_index[:3, 3] = np.asarray(center_mm) - spacing_mm * (np.array(size) - 1) / 2
    return volume_from_index


def _read_file(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_size(reader.GetSize(), path)
    return reader.Execute()


def _read_dicom_folder(path: Path) -> sitk.Image:
    series = {
        uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), uid)
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path)) or ()
    }
    if not series:
        raise ConfigError(f"{path}: this folder holds no DICOM series")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(max(series.values(), key=len))
    return reader.Execute()


def _check_size(size: tuple[int, ...], path: Path) -> None:
    if len(size) == 4 and size[3] == 1:
        size = size[:3]
    if len(size) != 3 or min(size) < 8:
        raise ConfigError(f"{path}: not a 3-D volume (its size is {' x '.join(map(str, size))})")
    if np.prod(size, dtype=np.float64) > MAX_VOXELS:
        raise ConfigError(f"{path}: {' x '.join(map(str, size))} voxels are more than navnode loads")


def _from_sitk(image: sitk.Image, path: Path) -> Volume:
    _check_size(image.GetSize(), path)
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ConfigError(f"{path}: not a CT (its voxels have {image.GetNumberOfComponentsPerPixel()} components)")
    voxels = sitk.GetArrayFromImage(image).astype(np.float32, copy=False)
    if not np.isfinite(voxels).all():
        raise ConfigError(f"{path}: not a CT (it holds voxels that are no numbers)")
    low, high = (float(x) for x in np.percentile(voxels[:: max(1, len(voxels) // 32)], (1, 99.5)))
    if low > -150 or high < 0 or high > 10_000:
        # A CT in HU holds air or fat (below -150) and soft tissue; masks, MR and ultrasound do not.
        raise ConfigError(f"{path}: not a CT in HU (its values run from {low:.0f} to {high:.0f})")
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    lps_from_index[:3, 3] = image.GetOrigin()
    return Volume(voxels, RAS_FROM_LPS @ lps_from_index, path.name)


def _to_sitk(volume: Volume) -> sitk.Image:
    lps_from_index = RAS_FROM_LPS @ volume.volume_from_index
    spacing = np.linalg.norm(lps_from_index[:3, :3], axis=0)
    image = sitk.GetImageFromArray(volume.voxels)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps_from_index[:3, 3].tolist())
    image.SetDirection((lps_from_index[:3, :3] / spacing).ravel().tolist())
    return image
