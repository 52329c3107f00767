"""DICOM objects as C-arms make them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from navnode.clock import now_ns
from tests.files.made import _file, pixels

STORAGE = "1.2.840.10008.5.1.4.1.1."
XA, RF, CR, DX, ENHANCED_XA = (STORAGE + part for part in ("12.1", "12.2", "1", "1.1", "12.1.1"))
MODALITY = {XA: "XA", RF: "RF", CR: "CR", DX: "DX", ENHANCED_XA: "XA"}
PATIENT = "Doe^Jane^Secret"


def picture(seed: int = 0, shape=(48, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, shape).astype(np.uint16)


def said(at_ns: int) -> dict[str, str]:
    """Date and time of a moment, as headers say them, in local time to a microsecond."""
    moment = datetime.fromtimestamp(at_ns // 1_000_000_000)
    return {
        "AcquisitionDate": moment.strftime("%Y%m%d"),
        "AcquisitionTime": f"{moment:%H%M%S}.{at_ns // 1000 % 1_000_000:06}",
    }


def xray(counts: np.ndarray, at_ns: int | None = None, kind: str = XA, **more: Any) -> Dataset:
    """An X-ray, of one frame or of several."""
    ds = _file(kind, MODALITY[kind])
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = PATIENT, "SECRET-ID", "19700101"
    ds.SeriesInstanceUID = generate_uid()
    pixels(ds, counts)
    if counts.ndim == 3:
        ds.NumberOfFrames = len(counts)
    for key, value in {**said(at_ns or now_ns() // 1000 * 1000 + 1000), **more}.items():
        setattr(ds, key, value)
    return ds


def enhanced_xa(counts: np.ndarray, times_ns: list[int]) -> Dataset:
    """An enhanced XA, whose frames each say when and from where."""
    ds = xray(counts, kind=ENHANCED_XA)
    del ds.AcquisitionDate, ds.AcquisitionTime
    frames = []
    for n, at_ns in enumerate(times_ns):
        frame, content, position = Dataset(), Dataset(), Dataset()
        moment = said(at_ns)
        content.FrameReferenceDateTime = moment["AcquisitionDate"] + moment["AcquisitionTime"]
        position.PositionerPrimaryAngle = 10.0 + n
        frame.FrameContentSequence, frame.PositionerPositionSequence = Sequence([content]), Sequence([position])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return ds
