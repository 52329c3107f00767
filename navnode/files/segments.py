"""Segmentations and models of bones as DICOM objects, for planning systems and archives; segmentations are also read.

A segmentation is PS3.3, A.51 (binary); a model is a binary STL within PS3.3, A.85.1. Both say DERIVED and not for
diagnosis, and name nobody unless an :class:`Identity` is passed.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from navnode import __version__
from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.files.whole import write_whole
from navnode.geometry import RAS_FROM_LPS, transform
from navnode.types import Array, Matrix, Mesh, Volume

__all__ = [
    "Identity",
    "identity_of",
    "is_segmentation",
    "read_segmentation",
    "of_one_run",
    "write_model",
    "write_segmentation",
]

_SEGMENTATION, _STL = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.104.3"
_EXPLICIT = "1.2.840.10008.1.2.1"
_NOTICE = "NOT FOR DIAGNOSIS"
_ANATOMY, _BONE = ("123037004", "SCT", "Anatomical Structure"), ("272673000", "SCT", "Bone")
_SAME = 0.1
"""Voxels of the CT by which a pixel may be beside one, or longer or shorter: files round."""
_MOST_SEGMENTS = 65_535
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("none", "<u2")])


@dataclass(frozen=True)
class Identity:
    """Whose segmentation or model it is.

    Args:
        elements: DICOM keywords of patient and study -> values.
        frame_of_reference: UID of the coordinates that positions are in; '': of a new one.
    """

    elements: Mapping[str, str]
    frame_of_reference: str = ""


def of_one_run(identity: Identity | None) -> Identity:
    """An identity for all that one run writes: in coordinates of its own, which all share, and in a study of its own
    unless it is a patient's."""
    elements = {"StudyInstanceUID": _uid()} if identity is None else identity.elements
    return Identity(elements, _uid())


def identity_of(path: Path) -> Identity:
    """Patient, study and coordinates of a DICOM file, or of the first file of a folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    files = sorted(each for each in path.rglob("*") if dicom_read.is_dicom(each)) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: the folder contains no DICOM file")
    head = dicom_read.open_dataset(files[0], [*_PATIENT, *_STUDY, "FrameOfReferenceUID"])
    if not dicom_read.text(head, "StudyInstanceUID"):
        raise ConfigError(f"{files[0]}: not a DICOM file of a patient (it states no study)")
    elements = {keyword: dicom_read.text(head, keyword) for keyword in (*_PATIENT, *_STUDY)}
    return Identity(elements, dicom_read.text(head, "FrameOfReferenceUID"))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_segmentation(
    path: Path,
    labels: Array,
    names: Mapping[int, str],
    volume_from_index: Matrix,
    *,
    how: str,
    identity: Identity | None = None,
    now: datetime | None = None,
) -> int:
    """Write a label map as a DICOM segmentation; returns the number of its segments.

    Args:
        labels: whole numbers (k, j, i); 0 is nothing.
        names: label -> name; others are called ``label-N``.
        volume_from_index: 4x4, RAS mm from (i, j, k).
        how: how the labels were made, for people.

    Raises:
        ConfigError: there is no label, or the file cannot be written.
    """
    found = [int(label) for label in np.unique(labels) if label > 0]
    if not 0 < len(found) <= _MOST_SEGMENTS:
        raise ConfigError(f"{path}: {len(found)} labels cannot be written as a segmentation")
    dataset = _common(_SEGMENTATION, "SEG", identity, now)
    lps_from_index = RAS_FROM_LPS @ volume_from_index
    spacing = np.linalg.norm(lps_from_index[:3, :3], axis=0)
    axes = lps_from_index[:3, :3] / spacing
    organization = _uid()
    frames = [
        (number, k)
        for number, label in enumerate(found, 1)
        for k in np.flatnonzero((labels == label).any(axis=(1, 2))).tolist()
    ]
    _put(
        dataset,
        {
            "ImageType": ["DERIVED", "PRIMARY"],
            "ContentLabel": "SEGMENTATION",
            "ContentDescription": _NOTICE,
            "DerivationDescription": f"{how} {_NOTICE}."[:1024],
            "ContentCreatorName": "",
            "SegmentationType": "BINARY",
            "LossyImageCompression": "00",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": labels.shape[1],
            "Columns": labels.shape[2],
            "BitsAllocated": 1,
            "BitsStored": 1,
            "HighBit": 0,
            "PixelRepresentation": 0,
            "NumberOfFrames": len(frames),
            "DimensionOrganizationSequence": [_item(DimensionOrganizationUID=organization)],
            "DimensionIndexSequence": [
                _item(
                    DimensionOrganizationUID=organization,
                    DimensionIndexPointer=pointer,
                    FunctionalGroupPointer=group,
                    DimensionDescriptionLabel=what,
                )
                for pointer, group, what in (
                    (0x0062000B, 0x0062000A, "Segment"),
                    (0x00200032, 0x00209113, "Position"),
                )
            ],
            "SegmentSequence": [
                _item(
                    SegmentNumber=number,
                    SegmentLabel=names.get(label, f"label-{label}")[:64],
                    SegmentAlgorithmType="SEMIAUTOMATIC",
                    SegmentAlgorithmName="navnode",
                    SegmentedPropertyCategoryCodeSequence=[_code(*_ANATOMY)],
                    SegmentedPropertyTypeCodeSequence=[_code(*_BONE)],
                )
                for number, label in enumerate(found, 1)
            ],
            "SharedFunctionalGroupsSequence": [
                _item(
                    PixelMeasuresSequence=[
                        _item(
                            PixelSpacing=_decimals([spacing[1], spacing[0]]),
                            SliceThickness=_decimals([spacing[2]])[0],
                            SpacingBetweenSlices=_decimals([spacing[2]])[0],
                        )
                    ],
                    PlaneOrientationSequence=[_item(ImageOrientationPatient=_decimals([*axes[:, 0], *axes[:, 1]]))],
                )
            ],
            "PerFrameFunctionalGroupsSequence": [
                _item(
                    FrameContentSequence=[_item(DimensionIndexValues=[number, k + 1])],
                    PlanePositionSequence=[
                        _item(ImagePositionPatient=_decimals(lps_from_index[:3, 3] + k * lps_from_index[:3, 2]))
                    ],
                    SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
                )
                for number, k in frames
            ],
        },
    )
    bits = np.concatenate([(labels[k] == found[number - 1]).ravel() for number, k in frames])
    _add_bytes(dataset, "PixelData", np.packbits(bits, bitorder="little").tobytes(), "OB")
    _save(dataset, path)
    return len(found)


def write_model(
    path: Path, mesh: Mesh, name: str, *, how: str, identity: Identity | None = None, now: datetime | None = None
) -> None:
    """Write a surface as DICOM: an STL within a file, in LPS mm.

    Args:
        mesh: RAS mm.
        name: of what it surrounds.
        how: how it was made, for people.

    Raises:
        ConfigError: the file cannot be written.
    """
    now = now or datetime.now().astimezone()
    dataset = _common(_STL, "M3D", identity, now)
    _put(
        dataset,
        {
            "DocumentTitle": f"{name or 'bone'} ({how} {_NOTICE})"[:1024],
            "BurnedInAnnotation": "NO",
            "AcquisitionDateTime": now.strftime("%Y%m%d%H%M%S"),
            "ImageLaterality": "U",
            "MIMETypeOfEncapsulatedDocument": "model/stl",
            "ConceptNameCodeSequence": [_code("85040-4", "LN", "3D Model")],
            "MeasurementUnitsCodeSequence": [_code("mm", "UCUM", "mm")],
        },
    )
    content = _stl(mesh, name)
    dataset.EncapsulatedDocumentLength = len(content)
    _add_bytes(dataset, "EncapsulatedDocument", content, "OB")
    _save(dataset, path)


def _stl(mesh: Mesh, name: str) -> bytes:
    """Binary STL in LPS, which its header says as Slicer does."""
    corners = transform(RAS_FROM_LPS, mesh.vertices_mm.astype(np.float64))[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    rows = np.zeros(len(corners), _TRIANGLE)
    rows["corners"] = corners
    rows["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    head = f"navnode {name} SPACE=LPS".encode("ascii", "replace")[:80].ljust(80)
    return head + struct.pack("<I", len(rows)) + rows.tobytes()


def _common(sop_class: str, modality: str, identity: Identity | None, now: datetime | None) -> Any:
    """A dataset with what all objects state: patient and study, series, equipment, coordinates."""
    from pydicom.dataset import Dataset, FileMetaDataset

    now = now or datetime.now().astimezone()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = _EXPLICIT
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = _uid()
    known = {**dict.fromkeys((*_PATIENT, *_STUDY), ""), "StudyInstanceUID": _uid()}
    values = {
        **known,
        **({} if identity is None else identity.elements),
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": sop_class,
        "SOPInstanceUID": dataset.file_meta.MediaStorageSOPInstanceUID,
        "Modality": modality,
        "SeriesInstanceUID": _uid(),
        "SeriesNumber": 1,
        "SeriesDescription": f"navnode - {_NOTICE}",
        "InstanceNumber": 1,
        "FrameOfReferenceUID": (identity.frame_of_reference if identity is not None else "") or _uid(),
        "PositionReferenceIndicator": "",
        "Manufacturer": "navnode",
        "ManufacturerModelName": "navnode",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": __version__,
        "SeriesDate": date,
        "SeriesTime": time,
        "ContentDate": date,
        "ContentTime": time,
    }
    return _put(dataset, values)


def _put(dataset: Any, elements: Mapping[str, Any]) -> Any:
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _item(**elements: Any) -> Any:
    from pydicom.dataset import Dataset

    return _put(Dataset(), elements)


def _code(value: str, scheme: str, meaning: str) -> Any:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _add_bytes(dataset: Any, keyword: str, content: bytes, kind: str) -> None:
    setattr(dataset, keyword, content + b"\0" * (len(content) % 2))
    dataset[keyword].VR = kind


def _save(dataset: Any, path: Path) -> None:
    import io

    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    write_whole(path, content.getvalue())


def _uid() -> str:
    """A new, globally unique identifier (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def _decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 characters each."""
    return [f"{value:.10g}"[:16] for value in values]


# --- reading ---------------------------------------------------------------------------------------------------------


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    if not path.is_file() or not dicom_read.is_dicom(path):
        return False
    return dicom_read.text(dicom_read.open_dataset(path, ["Modality"]), "Modality") == "SEG"


def read_segmentation(path: Path, ct: Volume) -> tuple[Array, dict[int, str]]:
    """A segmentation as a label map of a CT: labels (k, j, i), and their names.

    Raises:
        ConfigError: it is damaged, not binary, of another grid, or its segments overlap.
    """
    dataset = dicom_read.open_dataset(path)
    kind = dicom_read.text(dataset, "SegmentationType")
    if kind != "BINARY":
        raise ConfigError(f"{path}: a segmentation of type {kind or '?'}; binary ones are read")
    names = _names(dataset, path)
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    masks = _masks(dataset, path)
    if len(frames) != len(masks):
        raise ConfigError(f"{path}: states {len(masks)} frames, and describes {len(frames)}")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    labels = np.zeros(ct.voxels.shape, np.int32)
    index_from_ras = np.linalg.inv(ct.volume_from_index)
    v, u = np.indices(masks.shape[1:])
    pixels = np.stack([u.ravel(), v.ravel(), np.zeros(u.size), np.ones(u.size)])
    for n, (own, mask) in enumerate(zip(frames, masks, strict=True)):
        number = _number_of(own, shared, path, n)
        if number not in names:
            raise ConfigError(f"{path}: frame {n + 1} is of segment {number}, which is not described")
        at = index_from_ras @ _ras_from_pixel(own, shared, path, n) @ pixels
        i, j, k = (np.rint(axis).astype(np.int64) for axis in at[:3])
        off = float(np.abs(at[:3] - np.rint(at[:3])).max())
        height, width = mask.shape
        steps = [at[:3, n] - at[:3, 0] for n, there in ((1, width > 1), (width, height > 1)) if there]
        another = any(abs(float(np.abs(step).sum()) - 1) > _SAME for step in steps)
        size = ct.voxels.shape
        inside = (i >= 0) & (i < size[2]) & (j >= 0) & (j < size[1]) & (k >= 0) & (k < size[0])
        if off > _SAME or another or not inside[mask.ravel()].all():
            raise ConfigError(f"{path}: not a segmentation of {ct.name or 'the CT'} (frame {n + 1} lies elsewhere)")
        mine = (k[mask.ravel()], j[mask.ravel()], i[mask.ravel()])
        if (labels[mine] > 0).any():
            raise ConfigError(f"{path}: its segments overlap, which label maps cannot say")
        labels[mine] = number
    return labels, names


def _names(dataset: Any, path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for segment in dataset.get("SegmentSequence") or []:
        number = int(dicom_read.number(segment, "SegmentNumber", path) or 0)
        if number < 1 or number in names:
            raise ConfigError(f"{path}: segment {number} cannot be, or occurs twice")
        names[number] = dicom_read.text(segment, "SegmentLabel")
    if not names:
        raise ConfigError(f"{path}: describes no segments")
    return names


def _masks(dataset: Any, path: Path) -> Array:
    """Frames, (frames, rows, columns), bool."""
    size = tuple(
        int(dicom_read.number(dataset, keyword, path) or 0) for keyword in ("NumberOfFrames", "Rows", "Columns")
    )
    count = int(np.prod([float(side) for side in size]))
    if dicom_read.text(dataset, "BitsAllocated") != "1" or min(size) < 1 or "PixelData" not in dataset:
        raise ConfigError(f"{path}: holds no pixels of one bit")
    syntax = str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ""))
    if syntax not in (_EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"):
        raise ConfigError(f"{path}: a segmentation whose pixels are compressed, which is not read")
    data = dataset.PixelData
    if not (count + 7) // 8 <= len(data) <= (count + 7) // 8 + 1:
        raise ConfigError(f"{path}: {len(data)} bytes of pixels, the header states {count} bits")
    bits: Array = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
    return bits.reshape(size).astype(bool)


def _group(own: Any, shared: Any, name: str) -> Any:
    for each in (own, shared):
        if each is not None and each.get(name) is not None and len(each[name].value):
            return each[name].value[0]
    return None


def _number_of(own: Any, shared: Any, path: Path, n: int) -> int:
    identified = _group(own, shared, "SegmentIdentificationSequence")
    number = None if identified is None else dicom_read.number(identified, "ReferencedSegmentNumber", path)
    if number is None:
        raise ConfigError(f"{path}: frame {n + 1} does not say of which segment it is")
    return int(number)


def _ras_from_pixel(own: Any, shared: Any, path: Path, n: int) -> Matrix:
    """4x4, from (u, v, 0, 1)."""
    parts = []
    for group, keyword, count in (
        ("PlanePositionSequence", "ImagePositionPatient", 3),
        ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        ("PixelMeasuresSequence", "PixelSpacing", 2),
    ):
        holder = _group(own, shared, group)
        found = None if holder is None else dicom_read.numbers(holder, keyword, count, path)
        if found is None:
            raise ConfigError(f"{path}: frame {n + 1} states no {keyword}: where it is is unknown")
        parts.append(found)
    position, directions, spacing = parts
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 3] = directions[:3] * spacing[1], directions[3:] * spacing[0], position
    return RAS_FROM_LPS @ lps
