"""What a DICOM picture states of how it was taken, and of whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path

from navnode.files import dicom_read

__all__ = ["Stated"]

_NUMBERS = [
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "ImagerPixelSpacing",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
]
_DAYS = ["AcquisitionDate", "ContentDate", "StudyDate"]
"""When a picture was taken; a study may go on for days."""
_WORDS = ["PatientOrientation", "PatientID", "PatientName", "PatientBirthDate", "ImageLaterality", "Laterality", *_DAYS]


@dataclass(frozen=True)
class Stated:
    """What a picture states of how it was taken; None: nothing."""

    pixel_mm: tuple[float, float] | None = None
    distance_mm: float | None = None
    patient_mm: float | None = None
    angle_deg: float | None = None
    """Of the detector, from the patient's front to his left (PS3.3, C.8.7.5.1.2)."""
    tilt_deg: float | None = None
    """Cranial or caudal."""
    shown: str = ""
    """What of the patient is to the right and at the bottom of the picture (PatientOrientation)."""
    patient: tuple[str, str, str] = ("", "", "")
    """Identity, compared and never shown."""
    side: str = ""
    day: date | None = None

    @classmethod
    def of(cls, path: Path) -> Stated:
        """What a file states; nothing unless it is DICOM."""
        if not path.is_file() or not dicom_read.is_dicom(path):
            return cls()
        dataset = dicom_read.open_dataset(path, [*_NUMBERS, *_WORDS])
        spacing = dicom_read.numbers(dataset, "ImagerPixelSpacing", 2, path)
        number = partial(dicom_read.number, dataset, path=path)
        words = {keyword: str(dataset.get(keyword, "") or "").strip() for keyword in _WORDS}
        return cls(
            pixel_mm=None if spacing is None else (float(spacing[1]), float(spacing[0])),
            distance_mm=number("DistanceSourceToDetector"),
            patient_mm=number("DistanceSourceToPatient"),
            angle_deg=number("PositionerPrimaryAngle"),
            tilt_deg=number("PositionerSecondaryAngle"),
            shown="\\".join(map(str, dataset.get("PatientOrientation", None) or ())).upper(),
            patient=(words["PatientID"], words["PatientName"].casefold().rstrip("^ "), words["PatientBirthDate"]),
            side=words["ImageLaterality"] or words["Laterality"],
            day=next(filter(None, (_day(words[keyword]) for keyword in _DAYS)), None),
        )

    def is_of_another_patient(self, other: Stated) -> bool:
        """Whether both state who they are of, and not the same: by number, else by name and date of birth."""
        both = [(one, two) for one, two in zip(self.patient, other.patient, strict=True) if one and two]
        if self.patient[0] and other.patient[0]:
            return self.patient[0] != other.patient[0]
        return any(one != two for one, two in both)

    def is_of_another_side(self, other: Stated) -> bool:
        """Whether both state a side, and not the same."""
        return {self.side_of(), other.side_of()} == {"R", "L"}

    def side_of(self) -> str:
        """R or L; '' unless one of them is stated."""
        return self.side if self.side in ("R", "L") else ""


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
