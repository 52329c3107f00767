"""Files made for tests by other libraries, whose word is the truth: a body that looks the same from no two sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (12, 14, 16)
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def body(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """HU (k, j, i) as int16: air around, tissue and bone within, other values everywhere."""
    rng = np.random.default_rng(4)
    hu = rng.integers(-1000, -900, shape).astype(np.int16)
    hu[2:-2, 3:-3, 3:-3] = rng.integers(-80, 900, tuple(n - m for n, m in zip(shape, (4, 6, 6), strict=True)))
    return hu


def grid(spacing: tuple[float, float, float] = (1.5, 2.0, 3.0), turn_deg: float = 0.0) -> np.ndarray:
    """ras_from_index with these steps along (i, j, k), turned about the long axis."""
    c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    ras_from_index = np.eye(4)
    ras_from_index[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    ras_from_index[:3, 3] = 10, -20, 30
    return ras_from_index


def _numbers(values: Any) -> list[str]:
    return [f"{float(value):.8g}"[:16] for value in values]


def _file(sop: str, modality: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Made^Up", "0", modality
    return ds


def pixels(ds: Dataset, values: np.ndarray, **more: Any) -> Dataset:
    """Put pixels (..., rows, columns) in."""
    ds.Rows, ds.Columns = values.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    ds.BitsAllocated = ds.BitsStored = 8 * values.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OW"
    for key, value in more.items():
        setattr(ds, key, value)
    return ds


def saved(ds: Dataset, path: Path) -> Path:
    """Write it."""
    ds.save_as(path, enforce_file_format=True)
    return path


def _axes(ras_from_index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lps = RAS_FROM_LPS @ ras_from_index
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return lps, spacing, lps[:3, :3] / spacing


def ct_folder(folder: Path, hu: np.ndarray, ras_from_index: np.ndarray, change: Any = None, series: str = "") -> Path:
    """A series of slices; ``change(k, dataset)`` alters each, and leaves it out when it answers False."""
    folder.mkdir(parents=True, exist_ok=True)
    lps, spacing, axes = _axes(ras_from_index)
    series = series or generate_uid()
    for k, plane in enumerate(hu):
        ds = _file(CT, "CT")
        ds.SeriesInstanceUID, ds.InstanceNumber, ds.ImageType = series, k + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient = _numbers(lps[:3, :3] @ [0, 0, k] + lps[:3, 3])
        ds.ImageOrientationPatient = _numbers([*axes[:, 0], *axes[:, 1]])
        ds.PixelSpacing = _numbers([spacing[1], spacing[0]])
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
        pixels(ds, (plane.astype(int) + 1024).astype(np.uint16))
        if change is None or change(k, ds) is not False:
            saved(ds, folder / f"{series[-6:]}_{k:03}.dcm")
    return folder


def enhanced_ct(path: Path, hu: np.ndarray, ras_from_index: np.ndarray, order: Any = None, change: Any = None) -> Path:
    """One file of many frames; ``change(n, frame)`` alters what describes each, ``change(-1, dataset)`` the file."""
    lps, spacing, axes = _axes(ras_from_index)
    ds = _file(ENHANCED_CT, "CT")
    ds.SeriesInstanceUID, ds.ImageType = generate_uid(), ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    measures, plane, values, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _numbers([spacing[1], spacing[0]])
    measures.SliceThickness = measures.SpacingBetweenSlices = _numbers([spacing[2]])[0]
    plane.ImageOrientationPatient = _numbers([*axes[:, 0], *axes[:, 1]])
    values.RescaleIntercept, values.RescaleSlope, values.RescaleType = "-1024", "1", "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    shared.PixelValueTransformationSequence = Sequence([values])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    order = list(range(len(hu)) if order is None else order)
    frames = []
    for n, k in enumerate(order):
        frame, content, place = Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = "1", int(k) + 1
        place.ImagePositionPatient = _numbers(lps[:3, :3] @ [0, 0, k] + lps[:3, 3])
        frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([place])
        if change is not None:
            change(n, frame)
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = Sequence(frames), len(frames)
    pixels(ds, (hu[order].astype(int) + 1024).astype(np.uint16))
    if change is not None:
        change(-1, ds)
    return saved(ds, path)


def xray(path: Path, counts: np.ndarray, **more: Any) -> Path:
    """An X-ray image (XA)."""
    ds = _file("1.2.840.10008.5.1.4.1.1.12.1", "XA")
    return saved(pixels(ds, counts, **more), path)
