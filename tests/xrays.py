"""X-rays as DICOM files that tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian


def dicom(path: Path, number: int, angle_deg: float, **stated: object) -> None:
    """Write a picture that states how it was taken."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.12.1", f"1.2.3.{number}"
    dataset.Modality, dataset.Rows, dataset.Columns = "XA", 40, 50
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.ImagerPixelSpacing, dataset.PositionerPrimaryAngle = [0.3, 0.4], angle_deg
    dataset.DistanceSourceToDetector, dataset.DistanceSourceToPatient = 1100, 800
    for keyword, value in stated.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = np.full((40, 50), 900, np.uint16).tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
