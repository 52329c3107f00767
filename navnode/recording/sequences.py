"""Image sequences of PLUS and Slicer: images, and the tracker's poses at their times.

MetaImage (``.mha``, PLUS' ``.igs.mha``) and NRRD (``.nrrd``): pixels, and for every frame fields such as
``Seq_Frame0000_ProbeToTrackerTransform`` (row by row), ``...TransformStatus`` and ``Seq_Frame0000_Timestamp`` (s).
Facts: PLUS user manual, "File formats: sequence metafile"; NRRD0004.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from navnode.errors import RecordingError
from navnode.expansion import TooLargeError, inflated
from navnode.igtl.conventions import STATUS_KEY, is_ok, status_of
from navnode.types import Array, Matrix

__all__ = ["Sequence", "read", "write"]

_TYPES: dict[str, type[np.generic]] = {
    "MET_UCHAR": np.uint8,
    "MET_CHAR": np.int8,
    "MET_USHORT": np.uint16,
    "MET_SHORT": np.int16,
    "MET_UINT": np.uint32,
    "MET_INT": np.int32,
    "MET_FLOAT": np.float32,
    "MET_DOUBLE": np.float64,
}
_NRRD_TYPES = {
    "uchar": np.uint8,
    "unsigned char": np.uint8,
    "uint8": np.uint8,
    "uint8_t": np.uint8,
    "short": np.int16,
    "int16": np.int16,
    "ushort": np.uint16,
    "unsigned short": np.uint16,
    "uint16": np.uint16,
    "uint16_t": np.uint16,
    "float": np.float32,
    "double": np.float64,
}
_MAX_HEADER_BYTES = 1 << 28
_MAX_BYTES = 1 << 35
_FIELD = re.compile(r"Seq_Frame(\d+)_(\w+)")


@dataclass
class Sequence:
    """Images and poses.

    Args:
        frames: (N, H, W).
        times_s: (N,), increasing.
        spacing_mm: pixel spacing along u and v.
        transforms: name such as ``ProbeToTracker`` -> a pose for every frame; None: its status is not OK.
    """

    frames: Array
    times_s: Matrix
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    transforms: dict[str, list[Matrix | None]] = field(default_factory=dict)


def write(path: Path, sequence: Sequence, pixels: Iterable[Array] | None = None) -> None:
    """Write a sequence, frames (N, H, W), in the format that the file extension selects.

    Args:
        pixels: the frames one by one, if they do not fit into memory; then only the shape and type of
            ``sequence.frames`` are used.

    Raises:
        RecordingError: the extension is unknown, or the file cannot be written.
    """
    frames = sequence.frames
    fields = _fields(sequence)
    count, height, width = frames.shape
    name = path.name.lower()
    if name.endswith(".nrrd"):
        kind = {np.dtype(v): k for k, v in reversed(_NRRD_TYPES.items())}.get(frames.dtype)
        head = [
            "NRRD0004",
            f"type: {kind}",
            "dimension: 3",
            f"sizes: {width} {height} {count}",
            "endian: little",
            "encoding: raw",
            "kinds: domain domain list",
            f"spacings: {sequence.spacing_mm[0]:.9g} {sequence.spacing_mm[1]:.9g} NaN",
            *(f"{key}:={value}" for key, value in fields.items()),
            "",
            "",
        ]
    elif name.endswith(".mha"):
        kind = {np.dtype(v): k for k, v in _TYPES.items()}.get(frames.dtype)
        head = [
            "ObjectType = Image",
            "NDims = 3",
            "BinaryData = True",
            "BinaryDataByteOrderMSB = False",
            "CompressedData = False",
            f"DimSize = {width} {height} {count}",
            f"ElementSpacing = {sequence.spacing_mm[0]:.9g} {sequence.spacing_mm[1]:.9g} 1",
            "Offset = 0 0 0",
            "TransformMatrix = 1 0 0 0 1 0 0 0 1",
            f"ElementType = {kind}",
            "UltrasoundImageOrientation = MF",
            "UltrasoundImageType = BRIGHTNESS",
            *(f"{key} = {value}" for key, value in fields.items()),
            "ElementDataFile = LOCAL",
            "",
        ]
    else:
        raise RecordingError(f"{path}: unknown extension; use .mha, .igs.mha or .nrrd")
    if kind is None:
        raise RecordingError(f"{path}: the format cannot store pixels of type {frames.dtype}")
    try:
        with path.open("wb") as file:
            file.write("\n".join(head).encode())
            little = frames.dtype.newbyteorder("<")
            for each in frames if pixels is None else pixels:
                file.write(np.ascontiguousarray(each, little).data)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written ({error.strerror})") from error


def _fields(sequence: Sequence) -> dict[str, str]:
    fields: dict[str, str] = {}
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
            f"{prefix}ImageStatus": "OK",
        }
    return fields


def read(path: Path) -> Sequence:
    """Read a sequence written by PLUS, Slicer or :func:`write`.

    Raises:
        RecordingError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise RecordingError(f"{path}: larger than {_MAX_BYTES >> 30} GiB")
        with path.open("rb") as file:
            nrrd = file.read(4) == b"NRRD"
            file.seek(0)
            header, fields = _header(path, file.read(min(size, _MAX_HEADER_BYTES)), nrrd)
            file.seek(header)
            frames = _pixels(path, file.read(), fields, nrrd)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    return _sequence(path, frames, fields, nrrd)


def _header(path: Path, data: bytes, nrrd: bool) -> tuple[int, dict[str, str]]:
    """Offset of the pixels, and the header's fields."""
    if nrrd:
        end = data.find(b"\n\n")
        length = end + 2
    else:
        last = re.search(rb"^ElementDataFile *= *(\S+) *\r?\n", data, re.M)
        end = last.end() if last else -1
        length = end
        if last and last.group(1) != b"LOCAL":
            raise RecordingError(f"{path}: the pixels are in another file; only files with the pixels inside are read")
    if end < 0:
        raise RecordingError(f"{path}: not a sequence (its header has no end)")
    fields = {}
    for line in data[:end].decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition(":=" if ":=" in line else ": " if nrrd else "=")
        if equals:
            fields[key.strip()] = value.strip()
    return length, fields


def _pixels(path: Path, data: bytes, fields: Mapping[str, str], nrrd: bool) -> Array:
    try:
        sizes = [int(text) for text in fields["sizes" if nrrd else "DimSize"].split()]
        kind = (_NRRD_TYPES if nrrd else _TYPES)[fields["type" if nrrd else "ElementType"]]
    except (KeyError, ValueError) as error:
        raise RecordingError(f"{path}: the header lacks the size or the type of the pixels ({error})") from error
    if nrrd and fields.get("kinds", "").split()[:1] == ["list"]:
        sizes = [*sizes[1:], sizes[0]]
        listed_first = True
    else:
        listed_first = False
    if len(sizes) == 4 and sizes[2] == 1:
        sizes = [sizes[0], sizes[1], sizes[3]]
    if len(sizes) != 3 or min(sizes) < 1:
        raise RecordingError(f"{path}: {sizes} is not a sequence of images")
    big = fields.get("endian", "little") == "big" or fields.get("BinaryDataByteOrderMSB", "False") == "True"
    dtype = np.dtype(kind).newbyteorder(">" if big else "<")
    wanted = int(np.prod(sizes)) * dtype.itemsize
    if wanted > _MAX_BYTES:
        raise RecordingError(f"{path}: {wanted} bytes of pixels; the limit is {_MAX_BYTES}")
    if fields.get("CompressedData", "False") == "True" or fields.get("encoding", "raw") in ("gzip", "gz"):
        try:
            data = inflated(data, wanted)
        except (TooLargeError, zlib.error) as error:
            raise RecordingError(f"{path}: the pixels cannot be decompressed ({error})") from error
    elif fields.get("encoding", "raw") != "raw":
        raise RecordingError(f"{path}: encoding {fields['encoding']!r} is not supported")
    if len(data) < wanted:
        raise RecordingError(f"{path}: truncated: {len(data)} bytes of pixels, the header states {wanted}")
    flat = np.frombuffer(data, dtype, int(np.prod(sizes))).astype(kind, copy=False)
    width, height, count = sizes
    return flat.reshape(height, width, count).transpose(2, 0, 1) if listed_first else flat.reshape(count, height, width)


def _sequence(path: Path, frames: Array, fields: Mapping[str, str], nrrd: bool) -> Sequence:
    by_frame: list[dict[str, str]] = [{} for _ in frames]
    for key, value in fields.items():
        match = _FIELD.fullmatch(key)
        if match and int(match.group(1)) < len(by_frame):
            by_frame[int(match.group(1))][match.group(2)] = value
    try:
        times = np.array([float(each.get("Timestamp", n / 30)) for n, each in enumerate(by_frame)])
        names = sorted(
            {key.removesuffix("Transform") for each in by_frame for key in each if key.endswith("Transform")}
        )
        transforms: dict[str, list[Matrix | None]] = {name: [_pose(each, name) for each in by_frame] for name in names}
        texts = fields.get("spacings" if nrrd else "ElementSpacing", "1 1").split()
        numbers = [float(text) for text in texts if text.lower() != "nan"][:2]
    except ValueError as error:
        raise RecordingError(f"{path}: a field of a frame is not a number ({error})") from error
    u, v = numbers if len(numbers) == 2 and all(np.isfinite(n) and n > 0 for n in numbers) else (1.0, 1.0)
    if (np.diff(times) <= 0).any():
        raise RecordingError(f"{path}: the time stamps of the frames do not increase")
    return Sequence(frames, times, (u, v), transforms)


def _pose(fields: Mapping[str, str], name: str) -> Matrix | None:
    if not is_ok(fields.get(f"{name}{STATUS_KEY}", "")) or f"{name}Transform" not in fields:
        return None
    numbers = [float(text) for text in fields[f"{name}Transform"].split()]
    if len(numbers) != 16:
        raise ValueError(f"{name}Transform has {len(numbers)} numbers, not 16")
    return np.array(numbers).reshape(4, 4)
