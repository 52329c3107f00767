"""What a DICOM object shows: frames with times of their own, as counts, and what its header says of the C-arm.

Values become counts by the rules for files (:mod:`navnode.files.xrays`). Of the header nothing is handed on but what
stands in :data:`STARTS`: no name, number or date of a patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.files.xrays import counts_of, highest_count
from navnode.igtl.conventions import ANGLE_KEYS, DOSE_KEY, EXPOSURE_KEY
from navnode.types import Array, Matrix

__all__ = ["STARTS", "XrayFrame", "exposed_ns", "frames_of"]

STARTS = ("ImagerPixelSpacing", "DistanceSourceToDetector", "DistanceSourceToPatient")
"""What a header says of the geometry, in mm: nominal values, to start a calibration from, never one."""
_HIGHEST = 65_535
_DT = re.compile(r"(\d{14})\.(\d{1,6})([+-]\d{4})?")
_TM = re.compile(r"(\d{6})\.(\d{1,6})")
_DAY = timedelta(days=1)


class XrayFrame(NamedTuple):
    """One frame."""

    counts: Array
    """(H, W), uint8 or uint16."""
    timestamp_ns: int
    """When it was exposed, ns since 1970."""
    metadata: dict[str, str]
    ras_from_index: Matrix
    """4x4: pixels as large as the header states, or 1 mm; not where the detector stood."""


def frames_of(dataset: Any, name: Path, arrived_ns: int | None) -> Iterator[XrayFrame]:
    """The frames of an object, in order of their times.

    Args:
        name: what errors call it.
        arrived_ns: when the object arrived, if that is to be the time of its last frame; None: times are its own.

    Raises:
        ConfigError: it is no X-ray, damaged, not counts, or does not say when a frame was exposed; names it.
    """
    count = int(dicom_read.number(dataset, "NumberOfFrames", name) or 1)
    times_ns = exposed_ns(dataset, name, count) if arrived_ns is None else _ending(dataset, name, count, arrived_ns)
    counts = _in_16_bits(counts_of(dataset, name), dataset, name)
    if len(counts) != len(times_ns):
        raise ConfigError(f"{name}: {len(counts)} frames, {len(times_ns)} times")
    spacing = _numbers(dataset, 0, "ImagerPixelSpacing", 2)
    ras_from_index = np.diag([*(spacing[::-1] if spacing is not None and min(spacing) > 0 else (1, 1)), 1, 1])
    ras_from_index = ras_from_index.astype(np.float64)
    for at in np.argsort(times_ns, kind="stable").tolist():
        yield XrayFrame(np.ascontiguousarray(counts[at]), times_ns[at], _metadata(dataset, at, count), ras_from_index)


def exposed_ns(dataset: Any, name: Path, count: int) -> list[int]:
    """When each frame was exposed, as the object says: ns since 1970, (count,).

    Local times without a zone are of this machine's.

    Raises:
        ConfigError: it does not say so to a fraction of a second.
    """
    own = [_frame_time_ns(dataset, at) for at in range(count)] if "PerFrameFunctionalGroupsSequence" in dataset else []
    if own and None not in own:
        return [time_ns for time_ns in own if time_ns is not None]
    first_ns = _first_ns(dataset)
    if first_ns is None:
        raise ConfigError(
            f"{name}: does not say when it was exposed, to a fraction of a second (AcquisitionTime, ContentTime); "
            'stamps = "arrival" takes the time of arrival'
        )
    return [first_ns + offset for offset in _offsets_ns(dataset, name, count)]


def _ending(dataset: Any, name: Path, count: int, last_ns: int) -> list[int]:
    offsets = _offsets_ns(dataset, name, count)
    return [last_ns - offsets[-1] + offset for offset in offsets]


def _offsets_ns(dataset: Any, name: Path, count: int) -> list[int]:
    """Time of each frame after the first."""
    if count == 1:
        return [0]
    steps = _numbers(dataset, 0, "FrameTimeVector", count)
    if steps is None and (each := _numbers(dataset, 0, "FrameTime", 1)) is not None:
        steps = [0.0, *(each * (count - 1))]
    if steps is None or min(steps) < 0 or sum(steps) <= 0:
        raise ConfigError(f"{name}: does not say how far its {count} frames are apart (FrameTimeVector, FrameTime)")
    return [round(offset_ms * 1e6) for offset_ms in np.cumsum([0.0, *steps[1:]])]


def _first_ns(dataset: Any) -> int | None:
    """Time of the first frame, of the dataset's first element that says it."""
    zone = _zone(dicom_read.text(dataset, "TimezoneOffsetFromUTC"))
    if (found := _moment(dicom_read.text(dataset, "AcquisitionDateTime"), zone)) is not None:
        return found
    for kind in ("Acquisition", "Content"):
        day, time = (dicom_read.text(dataset, f"{kind}{part}") for part in ("Date", "Time"))
        if re.fullmatch(r"\d{8}", day) and (at := _TM.fullmatch(time)):
            return _moment(f"{day}{at[1]}.{at[2]}", zone)
    return None


def _frame_time_ns(dataset: Any, at: int) -> int | None:
    zone = _zone(dicom_read.text(dataset, "TimezoneOffsetFromUTC"))
    for keyword in ("FrameReferenceDateTime", "FrameAcquisitionDateTime"):
        if (found := _moment(str(_said(dataset, at, keyword) or "").strip(), zone)) is not None:
            return found
    return None


def _moment(text: str, zone: timezone | None) -> int | None:
    """ns since 1970 of a DICOM date and time (PS3.5, 6.2); None: it has no fraction of a second, or only zeros: what
    does not count fractions writes these."""
    match = _DT.fullmatch(text)
    if match is None or not int(match[2]):
        return None
    try:
        moment = datetime.strptime(match[1], "%Y%m%d%H%M%S")
        placed = moment.replace(tzinfo=_zone(match[3] or "") or zone) if match[3] or zone else moment.astimezone()
        whole = round((placed - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1))
    except (ValueError, OverflowError):
        return None
    return whole * 1_000_000_000 + int(match[2].ljust(9, "0")) if whole > 0 else None


def _zone(text: str) -> timezone | None:
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)", text)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3])) * (-1 if match[1] == "-" else 1)
    return timezone(offset) if abs(offset) < _DAY else None


def _in_16_bits(counts: Array, dataset: Any, name: Path) -> Array:
    """Counts as 16-bit whole numbers; what does not fit is scaled by a power of two that the header alone decides, so
    that all pictures of a detector have one scale."""
    if counts.min() < 0:
        raise ConfigError(f"{name}: the pixels are not counts (some are negative)")
    if counts.dtype in (np.uint8, np.uint16, np.int8, np.int16):
        return np.asarray(counts, np.uint8 if counts.dtype.itemsize == 1 else np.uint16)
    highest = max(highest_count(dataset, name), 1e-6)
    scale = 2.0 ** np.floor(np.log2(_HIGHEST / highest))
    if counts.dtype.kind in "ui" and scale > 1:
        scale = 1.0
    return np.asarray(np.clip(np.rint(counts * scale), 0, _HIGHEST), np.uint16)


def _metadata(dataset: Any, at: int, count: int) -> dict[str, str]:
    """What a frame says of the C-arm, under DICOM's names."""
    found = {"Modality": dicom_read.text(dataset, "Modality")[:16]}
    for keyword in STARTS:
        values = _numbers(dataset, at, keyword, 2 if keyword == "ImagerPixelSpacing" else 1)
        if values is not None and min(values) > 0:
            found[keyword] = "\\".join(f"{value:g}" for value in values)
    for keyword in ANGLE_KEYS:
        angle = _numbers(dataset, at, keyword, 1)
        steps = _numbers(dataset, at, f"{keyword}Increment", count) if count > 1 else None
        if angle is not None:
            found[keyword] = f"{angle[0] + (steps[at] if steps is not None else 0.0):g}"
    pulse = _numbers(dataset, at, "AveragePulseWidth", 1) or (
        _numbers(dataset, at, "ExposureTime", 1) if count == 1 else None
    )
    if pulse is not None:
        found[EXPOSURE_KEY] = f"{pulse[0]:g}"
    dose = _numbers(dataset, at, DOSE_KEY, 1)
    if dose is not None:
        found[DOSE_KEY] = f"{dose[0] / count:g}"  # it is that of all frames together
    return found


def _numbers(dataset: Any, at: int, keyword: str, count: int) -> list[float] | None:
    """Finite numbers that a frame says; None: it says none, or others."""
    value = _said(dataset, at, keyword)
    if value is None or value == "":
        return None
    several = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    try:
        values = [float(each) for each in several]
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _said(dataset: Any, at: int, keyword: str) -> Any:
    """An element of the object, or of a frame's groups (PS3.3, C.7.6.16), the frame's own first."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", at), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(sequence)
        if not groups or index >= len(groups):
            continue
        for element in groups[index]:
            if element.VR == "SQ" and element.value and keyword in element.value[0]:
                return element.value[0].get(keyword)
    return dataset.get(keyword)
