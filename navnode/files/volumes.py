"""CTs, volumes and meshes on disk. LPS becomes RAS here and nowhere else."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from navnode.errors import ConfigError
from navnode.expansion import MOST_BYTES, Budget, TooLargeError, deflated_bytes
from navnode.files.deflated import check_deflated
from navnode.files.ordinary import refuse_special
from navnode.geometry import RAS_FROM_LPS, itk_image
from navnode.types import Mesh, Volume

__all__ = ["read_mesh", "read_volume", "write_mesh", "write_volume"]

sitk.ProcessObject_SetGlobalWarningDisplay(False)  # checks here turn the warnings that matter into one-line errors

MESH_ENDINGS = (".stl", ".ply", ".obj")
MAX_VOXELS = 1024**3
_MAX_FOLDERS = 1_000
_MAX_MESH_BYTES = 1 << 30
_STEP_TOLERANCE = 0.01
_PLANE_TOLERANCE_MM = 0.1


def read_volume(path: str | Path) -> Volume:
    """Read a CT in HU from any format of SimpleITK, or from a DICOM folder (the largest series in or below it).

    Raises:
        ConfigError: the file is missing, unreadable, incomplete, too large, not one scalar 3-D volume, or not a CT.
    """
    refuse_special(path)
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
    """Write HU to NIfTI, NRRD or MHA, by the file's extension.

    Raises:
        ConfigError: the extension is unknown, or the file cannot be written.
    """
    try:
        sitk.WriteImage(itk_image(volume), str(path))
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1].strip()})") from error


def read_mesh(path: str | Path) -> Mesh:
    """Read a triangle surface in RAS mm from STL, PLY or OBJ.

    Raises:
        ConfigError: the file is missing, too large or not a surface; names it.
    """
    path = Path(path)
    refuse_special(path)
    try:
        if path.suffix.lower() not in MESH_ENDINGS:
            raise ConfigError(f"{path}: surfaces are {', '.join(MESH_ENDINGS)} files")
        if path.stat().st_size > _MAX_MESH_BYTES:
            raise ConfigError(f"{path}: too large for a surface")
        import trimesh  # here and below: a large package that few processes need

        loaded = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices, triangles = np.asarray(loaded.vertices, np.float32), np.asarray(loaded.faces, np.uint32)
        if not len(triangles) or not np.isfinite(vertices).all() or triangles.max() >= len(vertices):
            raise ConfigError(f"{path}: not a surface (no triangles, or invalid vertices)")
        return Mesh(vertices, triangles)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ConfigError:
        raise
    except Exception as error:  # trimesh's readers have no common error
        raise ConfigError(f"{path}: not a surface (STL, PLY or OBJ)") from error


def write_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a surface in RAS mm as STL, PLY or OBJ, by the file's extension.

    Raises:
        ConfigError: the extension is unknown, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_ENDINGS:
        raise ConfigError(f"{path}: surfaces are written as {', '.join(MESH_ENDINGS)}, by the file extension")
    import trimesh

    try:
        trimesh.Trimesh(mesh.vertices_mm, mesh.triangles, process=False).export(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _read_file(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    check_deflated([path])
    reader.ReadImageInformation()
    _check_size(reader.GetSize(), path)
    _check_bytes(reader, 1, path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _check_complete(reader, path)
    return reader.Execute()


def _check_complete(reader: sitk.ImageFileReader, path: Path) -> None:
    """Refuse truncated NIfTI files, which ITK silently fills with zeros, that is, with water."""
    count = np.prod([int(reader.GetMetaData(f"dim[{n}]")) for n in range(1, int(reader.GetMetaData("dim[0]")) + 1)])
    expected = int(float(reader.GetMetaData("vox_offset"))) + int(count) * int(reader.GetMetaData("bitpix")) // 8
    if path.suffix.lower() == ".gz":
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            if int.from_bytes(file.read(), "little") == expected % 2**32:  # gzip's record of the size
                return
        try:
            with path.open("rb") as file:
                size = deflated_bytes(file, 47, expected)
        except TooLargeError:  # more than is read
            return
        except zlib.error as error:
            raise ConfigError(f"{path}: damaged ({error})") from error
    else:
        size = path.stat().st_size
    if size < expected:
        raise ConfigError(f"{path}: incomplete ({size} of {expected} bytes)")


def _read_dicom_folder(path: Path) -> sitk.Image:
    folders = _folders(path)
    check_deflated(file for folder in folders for file in sorted(Path(folder).iterdir()) if file.is_file())
    series = [names for folder in folders for names in _series(folder)]
    if not series:
        raise ConfigError(f"{path}: the folder contains no DICOM series")
    names = max(series, key=len)
    if len(names) > 1:
        _check_planes(names, path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    return reader.Execute()


def _folders(path: Path) -> list[str]:
    """A folder and its subfolders, as on a CD."""
    folders = []
    for folder, _, files in os.walk(path):
        folders += [folder] if files else []
        if len(folders) > _MAX_FOLDERS:
            raise ConfigError(f"{path}: more than {_MAX_FOLDERS} folders; name the one with the series")
    return folders


def _series(folder: str) -> list[tuple[str, ...]]:
    uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(folder) or ()
    return [tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder, uid)) for uid in uids]


def _check_planes(names: Sequence[str], path: Path) -> None:
    """Slices must have one size and be parallel, evenly spaced and not sheared; ITK reads others with wrong spacing."""
    reader = sitk.ImageFileReader()
    positions, sizes, turns = [], [], []
    for name in names:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        positions.append(reader.GetOrigin()[:3])
        turns.append(reader.GetDirection())
        sizes.append(reader.GetSize()[:2])
    if len(set(sizes)) > 1:
        raise ConfigError(f"{path}: the slices have different sizes")
    _check_size((*sizes[0], len(names)), path)
    _check_bytes(reader, len(names), path)
    if np.ptp(turns, axis=0).max() > 1e-3:
        raise ConfigError(f"{path}: the slices are not parallel")
    normal = np.reshape(turns[0], (3, 3))[:, 2]
    steps = np.diff(np.array(positions), axis=0)
    along = steps @ normal
    typical = float(np.median(along))
    uneven = np.abs(along - typical) > max(_PLANE_TOLERANCE_MM, _STEP_TOLERANCE * abs(typical))
    if uneven.any():
        first = int(np.argmax(uneven))
        raise ConfigError(
            f"{path}: the slices are not evenly spaced ({along[first]:.2f} mm after slice {first + 1}, "
            f"{typical:.2f} mm elsewhere): slices are missing, or several series are mixed"
        )
    if np.abs(steps - along[:, None] * normal).max() > _PLANE_TOLERANCE_MM:
        raise ConfigError(f"{path}: the slices are sheared (a tilted gantry), which navnode does not resample")


def _check_bytes(reader: sitk.ImageFileReader, files: int, path: Path) -> None:
    """Files of the same head together; ITK allocates what heads state before it unpacks."""
    value = 8 if "float64" in sitk.GetPixelIDValueAsString(reader.GetPixelID()) else 4
    count = np.prod(reader.GetSize(), dtype=np.float64) * reader.GetNumberOfComponents() * files
    try:
        Budget(2 * MOST_BYTES).take(float(count) * value)
    except TooLargeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_size(size: tuple[int, ...], path: Path) -> None:
    if len(size) == 4 and size[3] == 1:
        size = size[:3]
    if len(size) != 3 or min(size) < 8:
        raise ConfigError(f"{path}: not a 3-D volume (size {' x '.join(map(str, size))})")
    if np.prod(size, dtype=np.float64) > MAX_VOXELS:
        raise ConfigError(f"{path}: {' x '.join(map(str, size))} voxels exceed what navnode loads")


def _from_sitk(image: sitk.Image, path: Path) -> Volume:
    _check_size(image.GetSize(), path)
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ConfigError(f"{path}: not a CT (voxels have {image.GetNumberOfComponentsPerPixel()} components)")
    voxels = sitk.GetArrayFromImage(image).astype(np.float32, copy=False)
    if not np.isfinite(voxels).all():
        raise ConfigError(f"{path}: not a CT (some voxels are NaN or infinite)")
    low, high = (float(x) for x in np.percentile(voxels[:: max(1, len(voxels) // 32)], (1, 99.5)))
    if low > -150 or high < 0 or high > 10_000:
        # A CT in HU contains air or fat (below -150) and soft tissue; masks, MR and ultrasound do not.
        raise ConfigError(f"{path}: not a CT in HU (values range from {low:.0f} to {high:.0f})")
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    lps_from_index[:3, 3] = image.GetOrigin()
    return Volume(voxels, RAS_FROM_LPS @ lps_from_index, path.name)
