"""Image sequences of PLUS and Slicer: images, and the tracker's poses at their times.

MetaImage (``.mha``, PLUS' ``.igs.mha``; ``.mhd`` with its pixels beside it) and NRRD (``.nrrd``): pixels, and for every
frame fields such as ``Seq_Frame0000_ProbeToTrackerTransform`` (row by row), ``...TransformStatus`` and
``Seq_Frame0000_Timestamp`` (s). Pictures are brought to the orientation in which PLUS shows them.
Facts: PLUS user manual, "File formats: sequence metafile"; NRRD0004; rules of reading: IGSIO.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from navnode.errors import ConfigError, RecordingError
from navnode.files import metaimage, nrrd
from navnode.files.placing import tell, unit_mm
from navnode.files.textheaders import TextImage, numbers
from navnode.files.whole import whole
from navnode.igtl.conventions import STATUS_KEY, is_ok, status_of
from navnode.types import Array, Matrix

__all__ = ["Sequence", "read", "write"]

_OF_FRAME = "Seq_Frame"
_FIELD = re.compile(_OF_FRAME + r"(\d{1,9})_(\w+)")
_MOST_FRAMES = 1 << 22
_RATE_HZ = 30.0
"""Of frames without times."""
_MOST_S = 2.0**32 - 1
"""What a time stamp of OpenIGTLink holds."""
_INDICES = re.compile(r"axis \d index values")
_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6}
_SLICER = ".seq.nrrd"
"""Ending of sequences that 3D Slicer reads without an extension."""
_ORIENTATION, _TYPE = "UltrasoundImageOrientation", "UltrasoundImageType"
_COMPONENTS = ("vector", "rgb-color", "rgba-color", "3-color", "4-color", "3-vector", "covariant-vector", "point")
_FRAMES = ("list", "time")
_LINES = ("RF_REAL", "RF_IQ_LINE", "RF_I_LINE_Q_LINE")
"""Types of pictures whose rows are lines of echoes: PLUS brings them to FM, others to MF."""


@dataclass
class Sequence:
    """Images and poses.

    Args:
        frames: (N, H, W), or (N, H, W, components); H and W are 0 where there are poses alone.
        times_s: (N,), increasing.
        spacing_mm: pixel spacing along u and v.
        transforms: name such as ``ProbeToTracker`` -> a pose for every frame; None: its status is not OK.
        statuses: the same names -> the status in every frame; '': the frame says nothing of this transform.
        has_picture: (N,); None: every frame has one, or none where H and W are 0.
        ras_from_index: 4x4 of every picture as a volume of one slice, as Slicer's sequences have it; None: unknown.
    """

    frames: Array
    times_s: Matrix
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    transforms: dict[str, list[Matrix | None]] = field(default_factory=dict)
    statuses: dict[str, list[str]] = field(default_factory=dict)
    has_picture: Array | None = None
    ras_from_index: Matrix | None = None

    @property
    def pictured(self) -> Array:
        """Which frames have a picture, (N,)."""
        if self.has_picture is not None:
            return self.has_picture
        return np.full(len(self.frames), self.frames.shape[1] > 0 and self.frames.shape[2] > 0)


def write(path: Path, sequence: Sequence, pixels: Iterable[Array] | None = None) -> None:
    """Write a sequence, frames (N, H, W[, components]), in the format that the file extension selects.

    Args:
        pixels: the frames one by one, if they do not fit into memory; then only the shape and type of
            ``sequence.frames`` are used.

    Raises:
        RecordingError: the extension is unknown, or the file cannot be written.
    """
    frames = sequence.frames
    count, height, width, *more = frames.shape
    components = more[0] if more else 1
    colour = components == 3
    name = path.name.lower()
    if name.endswith(".nrrd"):
        if 0 in (width, height):
            raise RecordingError(f"{path}: poses without pictures need .mha or .igs.mha")
        kind = nrrd.type_name(frames.dtype)
        head = _slicer_head(sequence, kind) if name.endswith(_SLICER) else _nrrd_head(sequence, kind)
    elif name.endswith(".mha"):
        kind = metaimage.type_name(frames.dtype)
        head = [
            "ObjectType = Image",
            "NDims = 3",
            "AnatomicalOrientation = RAI",
            "BinaryData = True",
            "BinaryDataByteOrderMSB = False",
            "CenterOfRotation = 0 0 0",
            "CompressedData = False",
            f"DimSize = {width} {height} {count}",
            f"ElementNumberOfChannels = {components}",
            f"ElementSpacing = {sequence.spacing_mm[0]:.9g} {sequence.spacing_mm[1]:.9g} 1",
            "Kinds = domain domain list",
            "Offset = 0 0 0",
            "TransformMatrix = 1 0 0 0 1 0 0 0 1",
            f"ElementType = {kind}",
            f"{_ORIENTATION} = MF",
            f"{_TYPE} = {'RGB_COLOR' if colour else 'BRIGHTNESS'}",
            *(f"{key} = {value}" for key, value in _fields(sequence, "ImageStatus").items()),
            "ElementDataFile = LOCAL",
            "",
        ]
    else:
        raise RecordingError(f"{path}: unknown extension; use .mha, .igs.mha or .nrrd")
    if kind is None:
        raise RecordingError(f"{path}: the format cannot store pixels of type {frames.dtype}")
    try:
        with whole(path) as part, part.open("xb") as file:
            file.write("\n".join(head).encode())
            little, written = frames.dtype.newbyteorder("<"), 0
            for each in frames if pixels is None else pixels:
                file.write(np.ascontiguousarray(each, little).tobytes())
                written += 1
            if written != count and 0 not in (width, height):
                raise RecordingError(f"{path}: {written} pictures instead of {count}")
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written ({error.strerror})") from error


def _nrrd_head(sequence: Sequence, kind: str | None) -> list[str]:
    count, height, width, components = _shape(sequence.frames)
    vector = (f"{components} ", "vector ", "none ") if components > 1 else ("",) * 3
    u, v = (f"{length:.9g}" for length in sequence.spacing_mm)
    return [
        "NRRD0004",
        f"type: {kind}",
        f"dimension: {3 + (components > 1)}",
        "space dimension: 2",
        f"sizes: {vector[0]}{width} {height} {count}",
        f"space directions: {vector[2]}({u},0) (0,{v}) none",
        f"kinds: {vector[1]}domain domain list",
        "endian: little",
        "encoding: raw",
        "space origin: (0,0)",
        "ultrasound image orientation:=MF",
        f"ultrasound image type:={'RGB_COLOR' if components == 3 else 'BRIGHTNESS'}",
        *(f"{key}:={value}" for key, value in _fields(sequence, "Status").items()),
        "",
        "",
    ]


def _slicer_head(sequence: Sequence, kind: str | None) -> list[str]:
    """A volume sequence of 3D Slicer: pictures are volumes of one slice, and have times, but no poses.

    Facts: Slicer's developer guide, "Volume sequence file format".
    """
    count, height, width, components = _shape(sequence.frames)
    vector = (f"{components} ", "vector ", "none ", '"" ') if components > 1 else ("",) * 4
    axis = 3 + (components > 1)
    u, v = sequence.spacing_mm
    space, placed = "left-posterior-superior", np.diag([u, v, 1.0, 1.0])
    if sequence.ras_from_index is not None:
        space, placed = "right-anterior-superior", sequence.ras_from_index
    *directions, origin = (f"({','.join(f'{value:.9g}' for value in column)})" for column in placed[:3].T)
    return [
        "NRRD0005",
        f"type: {kind}",
        f"dimension: {axis + 1}",
        f"space: {space}",
        f"sizes: {vector[0]}{width} {height} 1 {count}",
        f"space directions: {vector[2]}{' '.join(directions)} none",
        f"kinds: {vector[1]}domain domain domain list",
        f'labels: {vector[3]}"" "" "" "time"',
        f'units: {vector[3]}"" "" "" "s"',
        "endian: little",
        "encoding: raw",
        f"space origin: {origin}",
        f"DataNodeClassName:=vtkMRML{'Vector' if components > 1 else 'Scalar'}VolumeNode",
        f"axis {axis} index type:=numeric",
        f"axis {axis} index values:={' '.join(f'{at:.9g}' for at in sequence.times_s)}",
        "",
        "",
    ]


def _shape(frames: Array) -> tuple[int, int, int, int]:
    """Frames, height, width, components."""
    count, height, width, *more = frames.shape
    return count, height, width, more[0] if more else 1


def _fields(sequence: Sequence, status_key: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    pictured = sequence.pictured
    for n, at in enumerate(sequence.times_s):
        prefix = f"Seq_Frame{n:04d}_"
        for name, poses in sequence.transforms.items():
            pose = poses[n]
            rows = np.eye(4) if pose is None else pose
            fields[f"{prefix}{name}Transform"] = " ".join(f"{value:.9g}" for value in rows.ravel())
            fields[f"{prefix}{name}{STATUS_KEY}"] = status_of(pose, seen=True)  # PLUS calls a hidden marker INVALID
        fields |= {
            f"{prefix}FrameNumber": str(n),
            f"{prefix}UnfilteredTimestamp": f"{at:.9f}",
            f"{prefix}Timestamp": f"{at:.9f}",
            f"{prefix}{status_key}": "OK" if pictured[n] else "INVALID",
        }
    return fields


def read(path: Path) -> Sequence:
    """Read a sequence written by PLUS, Slicer or :func:`write`.

    Raises:
        RecordingError: it cannot be read, is damaged, contradicts itself, or states what is not read.
    """
    try:
        with path.open("rb") as file:
            is_nrrd = nrrd.is_nrrd(file.read(8))
        image = nrrd.open_image(path) if is_nrrd else metaimage.open_image(path)
        frames, spacing = _frames(image, is_nrrd)
        return _sequence(image, frames, spacing, is_nrrd)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    except (ConfigError, MemoryError) as error:
        raise RecordingError(str(error) or f"{path}: too large") from error


# --- pictures --------------------------------------------------------------------------------------------------------


def _frames(image: TextImage, is_nrrd: bool) -> tuple[Array, tuple[float, float]]:
    """Pictures (N, H, W[, components]) as PLUS shows them, and the pixel spacing."""
    path, sizes = image.path, list(image.sizes)
    if is_nrrd:
        kinds = [kind.lower() for kind in nrrd.kinds(image)]
    else:
        kinds = image.fields.get("Kinds", "").lower().split()
        components = metaimage.components(path, image.fields, image.sizes)
        if components > 1 and len(kinds) == len(sizes):
            kinds = ["vector", *kinds]
        sizes = [components, *sizes] if components > 1 else sizes
    if not kinds:
        if is_nrrd and len(sizes) != 3:
            raise ConfigError(f"{path}: states no kinds, what its axes are")
        vector = ["vector"] if not is_nrrd and len(sizes) > len(image.sizes) else []
        kinds = [*vector, *["domain"] * (len(sizes) - len(vector) - 1), "list"]
    if len(kinds) != len(sizes):
        raise ConfigError(f"{path}: Kinds has {len(kinds)} entries, the pixels have {len(sizes)} axes")
    roles = ["v" if kind in _COMPONENTS else "f" if kind in _FRAMES else "d" for kind in kinds]
    if roles.count("v") > 1 or roles.count("f") > 1 or not 2 <= roles.count("d") <= 3:
        raise ConfigError(f"{path}: axes {' '.join(kinds)} are not a sequence of images")
    u, v, *slices = [axis for axis, role in enumerate(roles) if role == "d"]
    if any(sizes[axis] > 1 for axis in slices):
        raise ConfigError(f"{path}: {sizes} is a sequence of volumes, not of images")
    if 0 in [n for axis, n in enumerate(sizes) if axis not in (u, v)] and 0 not in (sizes[u], sizes[v]):
        raise ConfigError(f"{path}: {sizes} is not a sequence of images")
    if (sizes[u] == 0) != (sizes[v] == 0):
        raise ConfigError(f"{path}: pictures of {sizes[u]} x {sizes[v]} pixels cannot be")
    spacing = _spacing(image, (u, v), is_nrrd, len(sizes) - len(image.sizes))
    if 0 in (sizes[u], sizes[v]):
        return np.zeros((sizes[roles.index("f")] if "f" in roles else 0, 0, 0), np.uint8), spacing
    flat = image.read()
    array = flat.reshape(sizes[::-1])  # (slowest, ..., fastest)
    last = len(sizes) - 1
    order = [last - axis for axis in ([roles.index("f")] if "f" in roles else []) + [*slices, v, u]]
    order += [last - roles.index("v")] if "v" in roles else []
    array = array.transpose(order)
    if "f" not in roles:
        array = array[None]
    if slices:
        array = array[:, 0]
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    return _oriented(image, array, is_nrrd), spacing


def _spacing(image: TextImage, axes: tuple[int, int], is_nrrd: bool, added: int) -> tuple[float, float]:
    """Pixel spacing along u and v; 1 where it is not stated, as in pictures of ultrasound."""
    path, fields = image.path, image.fields
    u, v = (axis - added for axis in axes)
    found: list[float] = []
    try:
        if not is_nrrd:
            texts = fields.get("ElementSpacing", "").split()
            found = [float(texts[axis]) for axis in (u, v)] if texts else []
            factor = unit_mm(fields["DistanceUnits"], f"{path}: DistanceUnits") if "DistanceUnits" in fields else 1.0
        else:
            directions = re.findall(r"none|\([^()]*\)", fields.get("space directions", ""))
            spacings = fields.get("spacings", "").lower().split()
            if directions:
                vectors = [[float(x) for x in directions[axis].strip("()").split(",")] for axis in (u, v)]
                found = [float(np.linalg.norm(vector)) for vector in vectors]
                if abs(float(np.array(vectors[0]) @ np.array(vectors[1]))) > 1e-3 * found[0] * found[1]:
                    raise ConfigError(f"{path}: space directions of its pictures are not perpendicular")
            elif spacings and "nan" not in (spacings[u], spacings[v]):
                found = [float(spacings[axis]) for axis in (u, v)]
            names = re.findall(r'"([^"]*)"', fields.get("space units", ""))[:2]
            each = re.findall(r'"([^"]*)"', fields.get("units", ""))
            names = names or ([each[u], each[v]] if each else [])
            lengths = [name for name in names if name.strip()]
            factor = unit_mm(lengths[0], f"{path}: space units") if lengths else 1.0
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{path}: the spacing of its pixels is not numbers for every axis") from error
    if not found:
        return (1.0, 1.0)
    if not all(np.isfinite(length) and length > 0 for length in found):
        raise ConfigError(f"{path}: the spacing of its pixels is {found[0]:g} and {found[1]:g}, not positive")
    return found[0] * factor, found[1] * factor


def _about(fields: Mapping[str, str], key: str) -> str:
    """A field of PLUS, which NRRD spells in small words."""
    return fields.get(key, fields.get(re.sub(r"(?<!^)(?=[A-Z])", " ", key).lower(), "")).strip()


def _oriented(image: TextImage, array: Array, is_nrrd: bool) -> Array:
    """Mirrored to MF, or FM for lines of echoes. Rows and columns never change places."""
    path = image.path
    stated, kind = _about(image.fields, _ORIENTATION).upper(), _about(image.fields, _TYPE).upper()
    if stated in ("", "XX") and array.shape[1:3] == (1, 1):
        return array  # a tracker's buffer
    if not stated:
        if not is_nrrd:
            tell(path, f"states no {_ORIENTATION}; its pictures are taken as they are stored")
        return array
    target = "FM" if kind in _LINES else "MF"
    mirrored = {"M": "U", "U": "M", "F": "N", "N": "F"}
    wanted = [{each, mirrored[each]} for each in target]
    if len(stated) not in (2, 3) or any(letter not in pair for letter, pair in zip(stated, wanted, strict=False)):
        raise ConfigError(f"{path}: {_ORIENTATION} {stated} cannot be brought to {target} by mirroring")
    flip_u, flip_v = (stated[n] != target[n] for n in (0, 1))
    if not (flip_u or flip_v):
        return array
    shape = array.shape
    if kind == "RF_I_LINE_Q_LINE" and shape[1] % 2 == 0:
        array = array.reshape(shape[0], shape[1] // 2, shape[2] * 2)  # a pair is one row
    if flip_u:
        array = array[:, :, ::-1]
    if flip_v:
        array = array[:, ::-1]
    return array.reshape(shape)


# --- fields of frames ------------------------------------------------------------------------------------------------


def _sequence(image: TextImage, frames: Array, spacing: tuple[float, float], is_nrrd: bool) -> Sequence:
    path = image.path
    pictures = frames.shape[1] > 0
    found: dict[int, dict[str, str]] = {}
    for key, value in image.fields.items():
        if match := _FIELD.fullmatch(key):
            if found.setdefault(int(match[1]), {}).setdefault(match[2], value) != value:
                raise ConfigError(f"{path}: frame {int(match[1])} has {match[2]} twice")
        elif key.startswith(_OF_FRAME):
            raise ConfigError(f"{path}: damaged ({key[:60]!r} is no field of a frame)")
    count = len(frames) if pictures else max(found, default=-1) + 1
    if count < 1:
        raise ConfigError(f"{path}: not a sequence (neither pictures nor fields of frames)")
    if count > _MOST_FRAMES or (max(found, default=0) >= count):
        raise ConfigError(f"{path}: has fields of frame {max(found)}, and {count} frames")
    if not pictures:
        frames = np.zeros((count, 0, 0), np.uint8)
    by_frame = [found.get(n, {}) for n in range(count)]
    for n, each in enumerate(by_frame):
        if lost := next((k for k in each if k.endswith(STATUS_KEY) and k.removesuffix("Status") not in each), ""):
            raise ConfigError(f"{path}: frame {n} has {lost} without its transform")
    times_s = _indices_s(image, count) if not found else None
    times_s = _times(path, by_frame) if times_s is None else times_s
    names = sorted({key.removesuffix("Transform") for each in by_frame for key in each if key.endswith("Transform")})
    transforms = {name: [_pose(path, n, each, name) for n, each in enumerate(by_frame)] for name in names}
    statuses = {name: [_status(each, name) for each in by_frame] for name in names}
    _leave_out_none(path, transforms, statuses)
    silent = [name for name in names if not any(f"{name}{STATUS_KEY}" in each for each in by_frame)]
    if silent:
        tell(path, f"states no status of {', '.join(silent)}; taken for OK")
    status_key = "Status" if is_nrrd and not any("ImageStatus" in each for each in by_frame) else "ImageStatus"
    has_picture = np.array([pictures and is_ok(each.get(status_key, "")) for each in by_frame])
    odd = {each[status_key] for each in by_frame if each.get(status_key, "OK") not in ("OK", "INVALID", "")}
    if pictures and odd:
        tell(path, f"pictures whose {status_key} is {', '.join(sorted(odd))[:80]} are left out, as not OK")
    sequence = Sequence(frames, times_s, spacing, transforms, statuses, has_picture)
    return _in_order(path, sequence)


def _indices_s(image: TextImage, count: int) -> Matrix | None:
    """Times of frames as 3D Slicer's volume sequences state them; None: it is none."""
    stated = {key: value for key, value in image.fields.items() if _INDICES.fullmatch(key)}
    if not stated:
        return None
    if len(stated) > 1 or image.fields.get(f"{next(iter(stated)).removesuffix('values')}type", "numeric") != "numeric":
        raise ConfigError(f"{image.path}: the indices of its frames are not numbers along one axis")
    ((key, text),) = stated.items()
    units, axis = re.findall(r'"([^"]*)"', image.fields.get("units", "")), int(key.split()[1])
    unit = units[axis].strip() if axis < len(units) else ""
    if unit not in _SECONDS:
        raise ConfigError(f"{image.path}: the indices of its frames are in {unit[:20]!r}, not in s or ms")
    return numbers(image.path, key, text, count) * _SECONDS[unit]


def _times(path: Path, by_frame: list[dict[str, str]]) -> Matrix:
    stated = [each.get("Timestamp", each.get("UnfilteredTimestamp")) for each in by_frame]
    if all(text is None for text in stated):
        if len(by_frame) > 1:
            tell(path, f"states no times; its frames are taken to be 1/{_RATE_HZ:g} s apart")
        return np.arange(len(by_frame)) / _RATE_HZ
    for n, text in enumerate(stated):
        if text is None:
            raise ConfigError(f"{path}: frame {n} states no Timestamp, others do")
    try:
        times_s = np.array([float(text) for text in stated if text is not None])
    except ValueError as error:
        raise ConfigError(f"{path}: a Timestamp is not a number ({error})") from error
    if not np.isfinite(times_s).all():
        raise ConfigError(f"{path}: a Timestamp is not finite")
    if np.abs(times_s).max() > _MOST_S:
        raise ConfigError(f"{path}: a Timestamp is {np.abs(times_s).max():g}, after the year 2105: not in s?")
    return times_s


def _in_order(path: Path, sequence: Sequence) -> Sequence:
    """The frames in the order of their times."""
    order = np.argsort(sequence.times_s, kind="stable")
    times_s = sequence.times_s[order]
    if (np.diff(times_s) <= 0).any():
        raise ConfigError(f"{path}: two frames have the same time stamp")
    if (np.diff(order) == 1).all():
        return sequence
    tell(path, "its frames are not in the order of their times; sorted")
    return Sequence(
        sequence.frames[order],
        times_s,
        sequence.spacing_mm,
        {name: [poses[n] for n in order] for name, poses in sequence.transforms.items()},
        {name: [statuses[n] for n in order] for name, statuses in sequence.statuses.items()},
        sequence.pictured[order],
    )


def _leave_out_none(
    path: Path, transforms: Mapping[str, list[Matrix | None]], statuses: Mapping[str, list[str]]
) -> None:
    """A matrix without axes is what some trackers write where they see nothing, whatever its status."""
    for name, poses in transforms.items():
        none = [n for n, pose in enumerate(poses) if pose is not None and not abs(np.linalg.det(pose[:3, :3])) > 0]
        for n in none:
            poses[n], statuses[name][n] = None, "INVALID"
        if none:
            tell(path, f"poses of {name} without axes, {len(none)}: taken as not seen")


def _status(fields: Mapping[str, str], name: str) -> str:
    if f"{name}Transform" not in fields:
        return ""
    return fields.get(f"{name}{STATUS_KEY}", "") or "OK"


def _pose(path: Path, n: int, fields: Mapping[str, str], name: str) -> Matrix | None:
    if f"{name}Transform" not in fields or not is_ok(fields.get(f"{name}{STATUS_KEY}", "")):
        return None
    try:
        numbers = [float(text) for text in fields[f"{name}Transform"].split()]
    except ValueError:
        numbers = []
    pose = np.array(numbers)
    if len(numbers) != 16 or not np.isfinite(pose).all() or np.abs(pose[12:] - [0, 0, 0, 1]).max() > 1e-6:
        raise ConfigError(f"{path}: frame {n}: {name}Transform is not 16 finite numbers, the last four 0 0 0 1")
    return pose.reshape(4, 4)
