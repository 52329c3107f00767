"""CTs in DICOM: a folder of slices, or one file of frames. Each says where it is (PS3.3, C.7.6.2 and C.7.6.16)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.files.deflated import check_deflated
from navnode.files.placing import Placed, ReadAs, check_size, tell, unit_mm
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Array, Matrix

__all__ = ["read_file", "read_folder"]

_MAX_FOLDERS = 1_000
_STEP_TOLERANCE = 0.01
_PLANE_TOLERANCE_MM = 0.1
_LEAST_SLICES = 8
_TILT_DEG = 0.5
_ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_HEADS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "InstanceNumber",
    "FrameOfReferenceUID",
    "GantryDetectorTilt",
]


@dataclass
class _Slice:
    """One plane, and how to read it."""

    name: str
    position: Array
    rows_and_columns: Array
    """Direction of growing columns, then of growing rows, (6,)."""
    spacing: Array
    """Between rows, between columns."""
    size: tuple[int, int]
    """Rows, columns."""
    values: Callable[[], Array]
    """HU, (rows, columns)."""
    phase: str = ""
    stack: str = ""


def read_folder(path: Path, choice: ReadAs) -> Placed:
    """Read the series in a folder or below it, as on a CD.

    Raises:
        ConfigError: there is no CT, several that could be meant, or one that is incomplete or not a grid.
    """
    series: dict[str, list[tuple[Path, Any]]] = {}
    others, blank = [], {}
    for file in _files(path):
        if not dicom_read.is_dicom(file):
            others += [] if file.name.startswith(".") else [file.name]
            continue
        head = dicom_read.open_dataset(file, _HEADS)
        uid = dicom_read.text(head, "SeriesInstanceUID")
        if "Rows" in head:
            series.setdefault(uid, []).append((file, head))
        else:
            blank[uid] = file.name
    if not series:
        raise ConfigError(f"{path}: the folder contains no DICOM series")
    files = _chosen(series, path, choice)
    if incomplete := blank.get(dicom_read.text(files[0][1], "SeriesInstanceUID")):
        raise ConfigError(f"{path}: {incomplete} is of its series, and holds no pixels: damaged")
    if others:
        tell(path, f"{len(others)} files are not DICOM, and left out ({', '.join(others[:3])})")
    if len(files) == 1:
        return read_file(files[0][0], choice, path)
    check_deflated(file for file, _ in files)  # together
    slices, seen = [], set()
    for file, head in files:
        uid = dicom_read.text(head, "SOPInstanceUID")
        if uid and uid in seen:
            tell(path, f"{file.name} is a copy of another slice, and not taken twice")
            continue
        seen.add(uid)
        if int(dicom_read.number(head, "NumberOfFrames", file) or 1) > 1:
            raise ConfigError(f"{path}: {file.name} holds several frames beside other files of its series")
        slices.append(_of_file(file, head))
    _check_tilt(files[0][1], slices[0].rows_and_columns, path)
    frames = {dicom_read.text(head, "FrameOfReferenceUID") for _, head in files} - {""}
    if len(frames) > 1:
        tell(path, f"its slices state {len(frames)} frames of reference; they are even, and taken for one")
    return _stacked(slices, path, choice)


def read_file(path: Path, choice: ReadAs, named: Path | None = None) -> Placed:
    """Read a CT of many frames.

    Args:
        named: what errors name.

    Raises:
        ConfigError: it is not one CT, or its frames do not form a grid.
    """
    named = path if named is None else named
    dataset = dicom_read.open_dataset(path)
    modality = dicom_read.text(dataset, "Modality")
    if modality not in ("CT", ""):
        raise ConfigError(f"{named}: not a CT (its modality is {modality})")
    frames = int(dicom_read.number(dataset, "NumberOfFrames", named) or 1)
    if frames < _LEAST_SLICES:
        many = "1 slice" if frames == 1 else f"{frames} frames"
        raise ConfigError(f"{named}: not a 3-D volume ({many}); name the folder of a series")
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if dicom_read.text(dataset, "SOPClassUID") not in _ENHANCED and not len(groups):
        raise ConfigError(f"{named}: its {frames} frames do not say where they are")
    if len(groups) != frames:
        raise ConfigError(f"{named}: states {frames} frames, and describes {len(groups)}")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    values = dicom_read.stored(dataset, named)
    slices = [_of_frame(dataset, own, shared, values[n], n, named) for n, own in enumerate(groups)]
    _check_tilt(_group(groups[0], shared, "CTGeometrySequence") or dataset, slices[0].rows_and_columns, named)
    _check_tilt(_group(groups[0], shared, "CTAcquisitionDetailsSequence"), slices[0].rows_and_columns, named)
    return _stacked(slices, named, choice)


# --- which files -----------------------------------------------------------------------------------------------------


def _files(path: Path) -> list[Path]:
    """The files of a folder and its subfolders."""
    found, folders = [], 0
    for folder, _, names in os.walk(path):
        folders += bool(names)
        if folders > _MAX_FOLDERS:
            raise ConfigError(f"{path}: more than {_MAX_FOLDERS} folders; name the one with the series")
        found += [Path(folder) / name for name in sorted(names) if name != "DICOMDIR"]
    return sorted(file for file in found if file.is_file())


def _count(files: Sequence[tuple[Path, Any]]) -> int:
    return sum(int(dicom_read.number(head, "NumberOfFrames", file) or 1) for file, head in files)


def _chosen(series: dict[str, list[tuple[Path, Any]]], path: Path, choice: ReadAs) -> list[tuple[Path, Any]]:
    """The files of the series to read."""

    def described(uid: str) -> str:
        about = dicom_read.text(series[uid][0][1], "SeriesDescription")
        return f"{uid} ({about + ', ' if about else ''}{_count(series[uid])} slices)"

    for uid, files in series.items():
        kept = [each for each in files if "LOCALIZER" not in dicom_read.text(each[1], "ImageType").upper()]
        series[uid] = kept or files
    if choice.series:
        wanted = [
            uid
            for uid, files in series.items()
            if uid == choice.series
            or uid.endswith(choice.series)
            or choice.series.lower() in dicom_read.text(files[0][1], "SeriesDescription").lower()
            or choice.series == dicom_read.text(files[0][1], "SeriesNumber")
        ]
        exact = [uid for uid in wanted if uid == choice.series]
        wanted = exact or wanted
        if len(wanted) != 1:
            what = "no series is" if not wanted else f"{len(wanted)} series are"
            raise ConfigError(
                f"{path}: --series {choice.series}: {what} that; there are {'; '.join(map(described, sorted(series)))}"
            )
        return series[wanted[0]]
    modalities = {uid: dicom_read.text(files[0][1], "Modality") for uid, files in series.items()}
    cts = [uid for uid in series if modalities[uid] in ("CT", "")]
    if not cts:
        raise ConfigError(f"{path}: not a CT (modality {', '.join(sorted(set(modalities.values())))})")
    usable = [uid for uid in cts if _count(series[uid]) >= _LEAST_SLICES] or cts
    usable.sort(key=lambda uid: -_count(series[uid]))
    if len(usable) > 1:
        if _count(series[usable[0]]) == _count(series[usable[1]]):
            raise ConfigError(
                f"{path}: holds {len(usable)} series, none longer than the others; choose with --series: "
                f"{'; '.join(map(described, usable[:6]))}"
            )
        tell(path, f"holds {len(usable)} series; the longest is taken: {described(usable[0])} (--series chooses)")
    return series[usable[0]]


# --- slices and frames -----------------------------------------------------------------------------------------------


def _of_file(file: Path, head: Any) -> _Slice:
    def values() -> Array:
        dataset = dicom_read.open_dataset(file)
        return _hu(dicom_read.stored(dataset, file)[0], dataset, dataset, file)

    return _slice(file.name, file, head, head, head, values)


def _of_frame(dataset: Any, own: Any, shared: Any, stored: Array, n: int, path: Path) -> _Slice:
    place, plane, measures, scaling, content = (
        _group(own, shared, f"{name}Sequence")
        for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation", "FrameContent")
    )
    name = f"frame {n + 1}"
    found = _slice(name, path, place, plane, measures, lambda: _hu(stored, scaling, dataset, path), stored.shape)
    found.stack = "" if content is None else dicom_read.text(content, "StackID")
    indices = ("TemporalPositionIndex", "FrameAcquisitionNumber", "NominalPercentageOfCardiacPhase")
    cardiac = _group(own, shared, "CardiacSynchronizationSequence")
    phases = ["" if each is None else dicom_read.text(each, key) for each in (content, cardiac) for key in indices[::2]]
    found.phase = "/".join(phases)
    return found


def _group(own: Any, shared: Any, name: str) -> Any:
    """A functional group: the frame's own, or that of all."""
    for each in (own, shared):
        if each is not None and each.get(name) is not None and len(each[name].value):
            return each[name].value[0]
    return None


def _slice(
    name: str,
    path: Path,
    place: Any,
    plane: Any,
    measures: Any,
    values: Callable[[], Array],
    size: tuple[int, ...] | None = None,
) -> _Slice:
    def needed(dataset: Any, keyword: str, count: int) -> Array:
        found = None if dataset is None else dicom_read.numbers(dataset, keyword, count, path)
        if found is None:
            raise ConfigError(f"{path}: {name} states no {keyword}: where it is is unknown")
        return found

    directions = needed(plane, "ImageOrientationPatient", 6)
    row, column = directions[:3], directions[3:]
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(float(row @ column)) > 1e-2:
        raise ConfigError(f"{path}: {name}: ImageOrientationPatient is not two perpendicular directions")
    spacing = needed(measures, "PixelSpacing", 2)
    if not (spacing > 0).all():
        raise ConfigError(f"{path}: {name}: PixelSpacing is {spacing[0]:g} and {spacing[1]:g}")
    if size is None:
        size = tuple(int(needed(place, keyword, 1)[0]) for keyword in ("Rows", "Columns"))
    directions = np.concatenate([row / lengths[0], column / lengths[1]])
    return _Slice(name, needed(place, "ImagePositionPatient", 3), directions, spacing, (size[0], size[1]), values)


def _hu(stored: Array, scaling: Any, dataset: Any, path: Path) -> Array:
    """HU of stored values; how a display shows them (MONOCHROME1, windows) does not matter."""
    if dataset.get("ModalityLUTSequence"):
        raise ConfigError(f"{path}: its values are in a table (Modality LUT), not HU")
    slope = None if scaling is None else dicom_read.number(scaling, "RescaleSlope", path)
    intercept = None if scaling is None else dicom_read.number(scaling, "RescaleIntercept", path)
    unit = "" if scaling is None else dicom_read.text(scaling, "RescaleType").upper()
    if unit not in ("", "HU", "US"):
        raise ConfigError(f"{path}: its values are {unit}, not HU")
    if (slope is None) != (intercept is None) or slope == 0:
        raise ConfigError(f"{path}: RescaleSlope is {slope}, RescaleIntercept {intercept}")
    if slope is None:
        tell(path.parent if path.parent.name else path, "states no RescaleSlope; stored values are taken for HU")
    found: Array = (stored.astype(np.float64) * (1 if slope is None else slope) + (intercept or 0)).astype(np.float32)
    outside = dicom_read.padded(stored, dataset, path)
    if outside is not None and outside.any() and float(found[outside].max()) > -1000:
        tell(path, "PixelPaddingValue marks what is outside; taken for air")
        found[outside] = -1000
    return found


def _check_tilt(dataset: Any, directions: Array, path: Path) -> None:
    """A tilt of the gantry that the slices' orientation does not show would shear the volume."""
    tilt = None if dataset is None else dicom_read.number(dataset, "GantryDetectorTilt", path)
    original = dataset is not None and dicom_read.text(dataset, "ImageType").upper().find("DERIVED") < 0
    normal = np.cross(directions[:3], directions[3:])
    shown = float(np.degrees(np.arccos(np.clip(np.abs(normal).max(), -1, 1))))
    if tilt is not None and abs(tilt) > _TILT_DEG and original and abs(abs(tilt) - shown) > _TILT_DEG:
        raise ConfigError(
            f"{path}: the gantry was tilted by {tilt:g} degrees, which the orientation of its slices does not show"
        )


# --- the stack -------------------------------------------------------------------------------------------------------


def _stacked(slices: list[_Slice], path: Path, choice: ReadAs) -> Placed:
    """One volume of parallel, evenly spaced slices."""
    if choice.orientation:
        raise ConfigError(f"{path}: --orientation {choice.orientation}: every DICOM slice states its own")
    first = slices[0]
    if len({each.size for each in slices}) > 1:
        raise ConfigError(f"{path}: the slices have different sizes")
    check_size((first.size[1], first.size[0], len(slices)), path)
    if len({each.stack for each in slices}) > 1:
        raise ConfigError(f"{path}: holds {len({each.stack for each in slices})} stacks of frames")
    if len({each.phase for each in slices}) > 1:
        raise ConfigError(f"{path}: holds {len({each.phase for each in slices})} phases of a moving body")
    if np.ptp([each.rows_and_columns for each in slices], axis=0).max() > 1e-3:
        raise ConfigError(f"{path}: the slices are not parallel")
    if np.ptp([each.spacing for each in slices], axis=0).max() > 1e-3 * float(first.spacing.max()):
        raise ConfigError(f"{path}: the slices have pixels of different sizes")
    row, column = first.rows_and_columns[:3], first.rows_and_columns[3:]
    normal = np.cross(row, column)
    slices.sort(key=lambda each: float(each.position @ normal))
    positions = np.array([each.position for each in slices])
    step = _checked_steps(positions, normal, path)
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = np.stack([row * first.spacing[1], column * first.spacing[0], normal * step], axis=1)
    lps_from_index[:3, 3] = positions[0]
    if choice.units:
        lps_from_index[:3] *= unit_mm(choice.units, "--units")
    voxels = np.empty((len(slices), *first.size), np.float32)
    for n, each in enumerate(slices):
        values = each.values()
        if values.shape != first.size:
            raise ConfigError(f"{path}: {each.name} has other pixels than its header states")
        voxels[n] = values
    return Placed(voxels, RAS_FROM_LPS @ lps_from_index)


def _checked_steps(positions: Matrix, normal: Array, path: Path) -> float:
    """Distance between slices, which must be even and along the normal."""
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    typical = float(np.median(along))
    uneven = np.abs(along - typical) > max(_PLANE_TOLERANCE_MM, _STEP_TOLERANCE * abs(typical))
    if typical <= 1e-3 or uneven.any():
        first = int(np.argmax(uneven)) if uneven.any() else 0
        same = " (several slices at one place: several phases or copies?)" if along.min() < 1e-3 else ""
        raise ConfigError(
            f"{path}: the slices are not evenly spaced ({along[first]:.2f} mm after slice {first + 1}, "
            f"{typical:.2f} mm elsewhere): slices are missing, or several series are mixed{same}"
        )
    if np.abs(steps - along[:, None] * normal).max() > _PLANE_TOLERANCE_MM:
        raise ConfigError(f"{path}: the slices are sheared (a tilted gantry), which navnode does not resample")
    return float((positions[-1] - positions[0]) @ normal) / (len(positions) - 1)
