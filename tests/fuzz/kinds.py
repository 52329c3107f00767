"""Kinds of files: how each is made and changed, what navnode reads in it, and what another reader does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import PIL.Image
import pydicom
import SimpleITK as sitk
import tifffile

from navnode.files.bodies import read_labels
from navnode.files.volumes import read_volume
from navnode.files.xrays import read_counts
from tests.files import made
from tests.fuzz.mutations import (
    Change,
    end_of_lines,
    of_dicom,
    of_fields,
    of_png,
    of_text,
    of_tiff,
    unpacked,
)

Read = dict[str, Any]
"""Name -> numbers, text, or None."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        name: of the file or folder.
        write: makes it, and what lies beside it.
        read: what navnode reads.
        truth: what another reader does; raises where it cannot.
        changes: of its content, by meaning.
        share: of the usual number of cases.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], Read]
    truth: Callable[[Path], Read]
    changes: tuple[Change, ...] = ()
    share: float = 1.0


# --- volumes ---------------------------------------------------------------------------------------------------------

HU, GRID = made.body(), made.grid(turn_deg=20)


def _volume(path: Path) -> Read:
    volume = read_volume(path)
    return {"voxels": volume.voxels, "grid": volume.volume_from_index}


def _nifti(path: Path) -> None:
    image = nib.Nifti2Image if path.name.startswith("two") else nib.Nifti1Image
    image = nib.Nifti1Pair if path.suffix == ".hdr" else image
    stored = image(np.ascontiguousarray(HU.transpose(2, 1, 0)), GRID)
    stored.set_sform(GRID, 1)
    stored.set_qform(GRID, 1)
    stored.header.set_xyzt_units("mm")
    stored.header.set_slope_inter(1, 0)
    nib.save(stored, path)


def _nibabel(path: Path) -> Read:
    image = nib.load(path)
    unit = {"meter": 1e3, "micron": 1e-3}.get(image.header.get_xyzt_units()[0], 1.0)
    grid = image.affine.copy()
    grid[:3] *= unit
    voxels = np.asanyarray(image.dataobj).astype(np.float64)
    return {"voxels": voxels.reshape(voxels.shape[:3]).transpose(2, 1, 0), "grid": grid}


def _itk_image() -> Any:
    image = sitk.GetImageFromArray(HU)
    lps = made.RAS_FROM_LPS @ GRID
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _itk(path: Path) -> None:
    sitk.WriteImage(_itk_image(), str(path), "raw" not in path.name and path.suffix != ".nhdr")


def _by_itk(path: Path) -> Read:
    head = path.read_bytes()[:2000]
    if b"CompressedData = True" in head and not re.search(rb"CompressedDataSize = [1-9]", head):
        raise ValueError("without CompressedDataSize ITK unpacks nothing")
    image = sitk.ReadImage(str(path), sitk.sitkFloat64)
    while image.GetDimension() > 3:
        image = image[..., 0]
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return {"voxels": sitk.GetArrayFromImage(image), "grid": made.RAS_FROM_LPS @ lps}


def _labels(path: Path) -> None:
    map_of = np.zeros(HU.shape, np.uint8)
    map_of[3:9, 4:10, 4:10], map_of[3:9, 4:10, 11:13] = 1, 5
    stored = nib.Nifti1Image(np.ascontiguousarray(map_of.transpose(2, 1, 0)), GRID)
    stored.set_sform(GRID, 1)
    stored.set_qform(GRID, 1)
    stored.header.set_xyzt_units("mm")
    nib.save(stored, path)


def _read_labels(path: Path) -> Read:
    from navnode.types import Volume

    return {"voxels": read_labels([(path, 1)], Volume(HU.astype(np.float32), GRID))[0]}


def _nibabel_label(path: Path) -> Read:
    return {"voxels": np.round(_nibabel(path)["voxels"]) == 1}


_NIFTI_1 = of_fields(
    (40, "h", 8, (3, 4, 8)),
    (70, "h", 1, (2, 4, 8, 16, 64, 128, 256, 512, 768)),
    (72, "h", 1, (8, 16, 32, 64)),
    (76, "f", 5, (1, -1)),
    (108, "f", 1, (352, 348, 368)),
    (112, "f", 2, (0, 2, -1)),
    (123, "B", 1, (0, 1, 2, 3, 10)),
    (252, "h", 2, (0, 1, 2, 3, 4)),
    (256, "f", 6, ()),
    (280, "f", 12, ()),
    (344, "B", 4, ()),
)
_NIFTI_2 = of_fields(
    (12, "h", 2, (4, 16, 512)),
    (16, "q", 8, (3, 4)),
    (104, "d", 5, (1, -1)),
    (168, "q", 1, (544, 548)),
    (176, "d", 2, (0, 2)),
    (344, "i", 2, (0, 1, 2)),
    (352, "d", 6, ()),
    (400, "d", 12, ()),
    (500, "i", 1, (0, 1, 2, 3)),
)
_NRRD = of_text(
    "left-posterior-superior",
    "right-anterior-superior",
    "left-anterior-superior",
    "scanner-xyz",
    "short",
    "ushort",
    "int",
    "float",
    "little",
    "big",
    "raw",
    "gzip",
    "text",
    "domain",
    "vector",
    "none",
    "space",
    head=end_of_lines(b"\n\n"),
)
_META = of_text(
    "True",
    "False",
    "MET_SHORT",
    "MET_USHORT",
    "MET_INT",
    "MET_FLOAT",
    "RAI",
    "LPS",
    "RAS",
    "LPI",
    "Offset",
    "Position",
    "Origin",
    "TransformMatrix",
    "Rotation",
    "ElementSpacing",
    "ElementSize",
    "CenterOfRotation",
    "DistanceUnits",
    head=end_of_lines(b"LOCAL\n"),
)
VOLUMES = (
    Kind("a.nii", _nifti, _volume, _nibabel, (_NIFTI_1,)),
    Kind("a.nii.gz", _nifti, _volume, _nibabel, (unpacked(_NIFTI_1),)),
    Kind("two.nii", _nifti, _volume, _nibabel, (_NIFTI_2,)),
    Kind("a.hdr", _nifti, _volume, _nibabel, (_NIFTI_1,)),
    Kind("a.nrrd", _itk, _volume, _by_itk, (_NRRD,)),
    Kind("raw.nrrd", _itk, _volume, _by_itk, (_NRRD,)),
    Kind("a.nhdr", _itk, _volume, _by_itk, (_NRRD,)),
    Kind("a.mha", _itk, _volume, _by_itk, (_META,)),
    Kind("raw.mha", _itk, _volume, _by_itk, (_META,)),
    Kind("a.mhd", _itk, _volume, _by_itk, (_META,)),
    Kind("labels.nii.gz", _labels, _read_labels, _nibabel_label, (unpacked(_NIFTI_1),)),
)


# --- DICOM -----------------------------------------------------------------------------------------------------------


def _by_place(places: list[np.ndarray], planes: list[np.ndarray], like: Any, spacing: Any) -> Read:
    """Planes in the order of their positions (PS3.3, C.7.6.2.1.1)."""
    row, column = (np.array([float(x) for x in like[n : n + 3]]) for n in (0, 3))
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    order = np.argsort([place @ normal for place in places], kind="stable")
    first, last = places[order[0]], places[order[-1]]
    lps = np.eye(4)
    lps[:3, :3] = np.stack(
        [row * float(spacing[1]), column * float(spacing[0]), (last - first) / (len(order) - 1)], axis=1
    )
    lps[:3, 3] = first
    return {"voxels": np.stack([planes[n] for n in order]), "grid": made.RAS_FROM_LPS @ lps}


def _rescaled(stored: np.ndarray, scaling: Any) -> np.ndarray:
    return stored * float(scaling.get("RescaleSlope", 1)) + float(scaling.get("RescaleIntercept", 0))


def _pydicom_folder(path: Path) -> Read:
    datasets = [_dataset(each) for each in sorted(path.iterdir())]
    uids = [ds.get("SeriesInstanceUID") for ds in datasets]
    datasets = [ds for ds in datasets if ds.get("SeriesInstanceUID") == max(uids, key=uids.count)]
    return _by_place(
        [np.array(ds.ImagePositionPatient, float) for ds in datasets],
        [_rescaled(ds.pixel_array, ds) for ds in datasets],
        datasets[0].ImageOrientationPatient,
        datasets[0].PixelSpacing,
    )


def _pydicom_frames(path: Path) -> Read:
    ds = _dataset(path)
    shared = ds.SharedFunctionalGroupsSequence[0]

    def group(frame: Any, name: str) -> Any:
        found = frame.get(f"{name}Sequence") or shared.get(f"{name}Sequence")
        return found[0]

    frames, stored = ds.PerFrameFunctionalGroupsSequence, ds.pixel_array
    return _by_place(
        [np.array(group(frame, "PlanePosition").ImagePositionPatient, float) for frame in frames],
        [_rescaled(stored[n], group(frame, "PixelValueTransformation")) for n, frame in enumerate(frames)],
        group(frames[0], "PlaneOrientation").ImageOrientationPatient,
        group(frames[0], "PixelMeasures").PixelSpacing,
    )


COUNTS = np.random.default_rng(1).integers(100, 60_000, (20, 24)).astype(np.uint16)


def _counts(path: Path) -> Read:
    return {"counts": read_counts(path)}


def _dataset(path: Path) -> Any:
    """A dataset; where it leaves out how many samples a pixel has, the number of its bytes says that."""
    ds = pydicom.dcmread(path, force=True)
    if "SamplesPerPixel" not in ds:
        ds.SamplesPerPixel = 1
    if not ds.get("PhotometricInterpretation"):
        ds.PhotometricInterpretation = "MONOCHROME2"
    return ds


def _pydicom_counts(path: Path) -> Read:
    ds = _dataset(path)
    return {"counts": _rescaled(ds.pixel_array, ds)}


def _dx(path: Path) -> None:
    more = {
        "Modality": "DX",
        "PhotometricInterpretation": "MONOCHROME1",
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        "PixelIntensityRelationship": "LIN",
        "PixelIntensityRelationshipSign": 1,
    }
    made.xray(path, COUNTS >> 4, **more | {"BitsStored": 12, "HighBit": 11})


def _rle(path: Path) -> None:
    made.xray(path, COUNTS)
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)


_WORDS = (
    "CT",
    "MR",
    "XA",
    "DX",
    "MONOCHROME1",
    "MONOCHROME2",
    "RGB",
    "HU",
    "US",
    "LIN",
    "LOG",
    "SQRT",
    "1.2.3",
    "x",
    "",
)
_PIXELS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Modality",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "NumberOfFrames",
)
_PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber", "SeriesInstanceUID")
_FRAMES = ("StackID", "InStackPositionNumber", "SpacingBetweenSlices", "SliceThickness", "SOPClassUID")
_COUNTED = ("PixelIntensityRelationship", "PixelIntensityRelationshipSign")
_CT = of_dicom((*_PIXELS, *_PLACES, *_PLACES, "SOPInstanceUID"), _WORDS)
_ENHANCED = of_dicom((*_PIXELS, *_PLACES, *_FRAMES), _WORDS)
_XA = of_dicom((*_PIXELS, *_COUNTED), _WORDS)
DICOM = (
    Kind("ct", lambda path: made.ct_folder(path, HU, GRID), _volume, _pydicom_folder, (_CT, _CT)),
    Kind("frames.dcm", lambda path: made.enhanced_ct(path, HU, GRID), _volume, _pydicom_frames, (_ENHANCED, _ENHANCED)),
    Kind("xa.dcm", lambda path: made.xray(path, COUNTS), _counts, _pydicom_counts, (_XA,)),
    Kind("dx.dcm", _dx, _counts, _pydicom_counts, (_XA,)),
    Kind("rle.dcm", _rle, _counts, _pydicom_counts, (_XA,)),
)


# --- pictures --------------------------------------------------------------------------------------------------------


def _picture(path: Path) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, COUNTS, photometric="minisblack")
    else:
        cv2.imwrite(str(path), COUNTS)


def _pillow(path: Path) -> Read:
    with PIL.Image.open(path) as image:
        return {"counts": np.asarray(image)}


def _tifffile(path: Path) -> Read:
    with tifffile.TiffFile(path, is_shaped=False) as file:
        return {"counts": file.pages[0].asarray()}


PICTURES = (
    Kind("a.png", _picture, _counts, _pillow, (of_png,)),
    Kind("a.tif", _picture, _counts, _tifffile, (of_tiff,)),
    Kind(
        "b.npy",
        lambda path: np.save(path, COUNTS),
        _counts,
        lambda path: {"counts": np.load(path)},
        (of_text("True", "False", "fortran_order", head=end_of_lines(b"}")),),
    ),
)
