"""MetaImage: ``.mha``, and ``.mhd`` with its pixels in another file. Facts: MetaIO's documentation, ITK's reader."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from navnode.errors import ConfigError
from navnode.files.placing import Placed, ReadAs, axes_of, check_size, place_by_letters, tell, unit_mm
from navnode.files.textheaders import (
    MAX_BYTES,
    TextImage,
    beside,
    exactly,
    head_of,
    inflated,
    line_fields,
    numbers,
    of_text,
    whole_numbers,
)
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Array, Matrix

__all__ = ["components", "is_metaimage", "open_image", "read", "type_name"]

_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_USHORT": "u2",
    "MET_SHORT": "i2",
    "MET_UINT": "u4",
    "MET_INT": "i4",
    "MET_ULONG": "u4",
    "MET_LONG": "i4",
    "MET_ULONG_LONG": "u8",
    "MET_LONG_LONG": "i8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_ENDS = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n", re.M)


def is_metaimage(head: bytes) -> bool:
    """Whether a file's first bytes are those of a MetaImage."""
    return (
        re.match(rb"\s*(ObjectType|Comment|NDims|ObjectSubType|\w+)[ \t]*=", head) is not None
        and b"\0" not in head[:16]
    )


def type_name(dtype: np.dtype[np.generic]) -> str | None:
    """``ElementType`` of an array; None: there is none."""
    return next((name for name, kind in _TYPES.items() if np.dtype(kind) == dtype.newbyteorder("=")), None)


def open_image(path: Path) -> TextImage:
    """Read the header.

    Raises:
        ConfigError: it is damaged or contradicts itself.
    """
    head, last = head_of(path, _ENDS)
    last = last or re.search(_ENDS.pattern.removesuffix(rb"\r?\n") + rb"\Z", head, re.M)
    if last is None:
        raise ConfigError(f"{path}: not a MetaImage (its header has no end)")
    fields = line_fields(path, head[: last.end()].decode("utf-8", "replace"), ("=",))
    if "DimSize" not in fields or "ElementType" not in fields:
        raise ConfigError(f"{path}: the header lacks the size or the type of the pixels")
    sizes = whole_numbers(path, "DimSize", fields["DimSize"])
    if "NDims" in fields and fields["NDims"] != str(len(sizes)):
        raise ConfigError(f"{path}: NDims is {fields['NDims']}, DimSize has {len(sizes)} numbers")
    kind = _TYPES.get(fields["ElementType"])
    if kind is None and 0 in sizes:
        kind = "u1"  # where there are no pixels, their type says nothing
    if kind is None:
        raise ConfigError(f"{path}: ElementType {fields['ElementType'][:40]!r} is not one that is read")
    directions = fields.get("TransformMatrix", "").split()
    if math.isqrt(len(numbers(path, "TransformMatrix", " ".join(directions), len(directions)))) ** 2 != len(directions):
        raise ConfigError(f"{path}: TransformMatrix has {len(directions)} numbers, which is no matrix")
    orders = [_flag(path, fields, key, False) for key in _ORDERS if key in fields]
    if len(set(orders)) > 1:
        raise ConfigError(f"{path}: {' and '.join(_ORDERS)} contradict each other")
    big = bool(orders) and orders[0]
    dtype = np.dtype(kind).newbyteorder(">" if big else "<")
    count = int(np.prod([float(n) for n in (*sizes, components(path, fields, sizes))]))
    if count * dtype.itemsize > MAX_BYTES:
        raise ConfigError(f"{path}: {count * dtype.itemsize} bytes of pixels; the limit is {MAX_BYTES}")
    offset = last.end()
    return TextImage(path, fields, sizes, dtype, lambda: _pixels(path, fields, offset, count, dtype))


def components(path: Path, fields: dict[str, str], sizes: tuple[int, ...]) -> int:
    """Values of a pixel that ``DimSize`` does not count; it may begin with them, then ``Kinds`` begins with vector.

    Raises:
        ConfigError: their number is not one.
    """
    (stated,) = whole_numbers(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))[:1]
    kinds = fields.get("Kinds", "").split()
    if stated < 1:
        raise ConfigError(f"{path}: ElementNumberOfChannels is {stated}")
    counted = bool(kinds) and kinds[0] == "vector" and len(kinds) == len(sizes) and stated in (1, sizes[0])
    return 1 if counted else stated


def _flag(path: Path, fields: dict[str, str], key: str, usual: bool) -> bool:
    text = fields.get(key, "")
    if not text:
        return usual
    if text[0].lower() in "t1y":
        return True
    if text[0].lower() in "f0n":
        return False
    raise ConfigError(f"{path}: {key} is {text[:40]!r}, neither True nor False")


def _pixels(path: Path, fields: dict[str, str], offset: int, count: int, dtype: np.dtype[np.generic]) -> Array:
    name = fields["ElementDataFile"]
    wanted = count * dtype.itemsize
    try:
        header_size = int(fields.get("HeaderSize", "0"))
    except ValueError as error:
        raise ConfigError(f"{path}: HeaderSize is {fields['HeaderSize'][:40]!r}") from error
    if not -1 <= header_size < 1 << 40:
        raise ConfigError(f"{path}: HeaderSize is {header_size}")
    if name.upper() in ("LOCAL", "LOCAL_TO_FILE"):
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    elif name.upper().startswith("LIST") or "%" in name:
        raise ConfigError(f"{path}: its pixels are in a file for every slice, which is not read")
    else:
        path = beside(path, name)
        data = path.read_bytes()
    if header_size == -1:
        data = data[max(0, len(data) - wanted) :]
    elif header_size:
        data = data[header_size:]
    if not wanted:
        return np.zeros(0, dtype.newbyteorder("="))
    if not _flag(path, fields, "BinaryData", True):
        return of_text(path, data, count, dtype)
    if _flag(path, fields, "CompressedData", False):
        (stated,) = whole_numbers(path, "CompressedDataSize", fields.get("CompressedDataSize", "0"))[:1]  # 0: unknown
        if stated > len(data):
            raise ConfigError(f"{path}: truncated: {len(data)} bytes of packed pixels, the header states {stated}")
        if stated:
            data = exactly(path, data, stated)
        data = inflated(path, data, wanted)
    else:
        data = exactly(path, data, wanted)
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def read(path: Path, choice: ReadAs) -> Placed:
    """Read a volume.

    Raises:
        ConfigError: the file is damaged, incomplete, does not say where it is, or is not one volume of numbers.
    """
    image = open_image(path)
    size = image.sizes
    check_size(size, path)
    if components(path, image.fields, size) != 1:
        raise ConfigError(f"{path}: not a CT (voxels have {components(path, image.fields, size)} components)")
    ras_from_index = _placed(path, image.fields, len(size), size[:3], choice)
    voxels = image.read().reshape([n for n in size[::-1] if n > 1 or len(size) == 3][-3:])
    return Placed(_scaled(path, voxels, image.fields), ras_from_index)


def _first(fields: dict[str, str], *keys: str) -> tuple[str, str] | None:
    return next(((key, fields[key]) for key in keys if key in fields), None)


def _placed(path: Path, fields: dict[str, str], rank: int, size: tuple[int, ...], choice: ReadAs) -> Matrix:
    spaced = _first(fields, "ElementSpacing")
    if spaced is None:
        raise ConfigError(f"{path}: states no ElementSpacing, the size of its voxels")
    spacing = numbers(path, *spaced, rank)[:3]
    if not (spacing > 0).all():
        raise ConfigError(f"{path}: ElementSpacing is {spaced[1]}; voxels have positive sizes")
    stated = fields.get("DistanceUnits", "").strip()
    unit = choice.units or (stated if stated not in ("", "?", "um?") else "mm")
    factor = unit_mm(unit, f"{path}: DistanceUnits")
    if factor != 1:
        tell(path, f"its distances are in {unit}; converted to mm")
    if choice.orientation in ("sform", "qform"):
        raise ConfigError(f"{path}: --orientation {choice.orientation} is for NIfTI files")
    if choice.orientation:
        return place_by_letters(choice.orientation, spacing * factor, size, path)
    at = _first(fields, "Offset", "Position", "Origin")
    if at is None:
        raise ConfigError(f"{path}: states no Offset, the position of its first voxel")
    for key in ("Offset", "Position", "Origin"):
        if key in fields and (numbers(path, key, fields[key], rank) != numbers(path, *at, rank)).any():
            raise ConfigError(f"{path}: {at[0]} and {key} contradict each other")
    axes = np.eye(3)
    turned = _first(fields, "TransformMatrix", "Rotation", "Orientation")
    if turned is None:
        tell(path, "states no TransformMatrix; its axes are taken to run to left, posterior and superior")
    else:
        whole = numbers(path, *turned, rank * rank).reshape(rank, rank)
        axes = whole[:3, :3].T  # every line is an axis
        if np.abs(np.linalg.norm(axes, axis=0) - 1).max() > 1e-2:
            raise ConfigError(f"{path}: {turned[0]} is not a rotation ({turned[1]})")
        _check_letters(path, fields.get("AnatomicalOrientation", ""), axes)
        centre = numbers(path, "CenterOfRotation", fields.get("CenterOfRotation", " ".join("0" * rank)), rank)
        if centre.any() and np.abs(axes - np.eye(3)).max() > 1e-6:
            raise ConfigError(
                f"{path}: CenterOfRotation is {fields['CenterOfRotation']}, which programs read in two ways"
            )
    lps_from_index = np.eye(4)
    lps_from_index[:3, :3] = axes * spacing * factor
    lps_from_index[:3, 3] = numbers(path, *at, rank)[:3] * factor
    return RAS_FROM_LPS @ lps_from_index


def _check_letters(path: Path, letters: str, axes: Matrix) -> None:
    """``AnatomicalOrientation`` names the sides that the axes come from."""
    opposite = str.maketrans("RLAPSI", "LRPAIS")
    try:
        stated = RAS_FROM_LPS[:3, :3] @ axes_of(letters.strip().upper().translate(opposite))
    except ConfigError:
        return
    if (np.argmax(np.abs(stated), axis=0) != np.argmax(np.abs(axes), axis=0)).any() or (
        (stated * axes).sum(0) < 0
    ).any():
        tell(path, f"AnatomicalOrientation {letters} contradicts TransformMatrix, which is taken")


def _scaled(path: Path, voxels: Array, fields: dict[str, str]) -> Array:
    """``ElementToIntensityFunctionSlope`` and ``Offset`` turn stored values into intensities."""
    slope, offset = (
        float(numbers(path, key, fields.get(key, usual), 1)[0])
        for key, usual in (("ElementToIntensityFunctionSlope", "1"), ("ElementToIntensityFunctionOffset", "0"))
    )
    if (slope, offset) == (1, 0):
        return voxels.astype(np.float32, copy=False)
    if slope == 0:
        raise ConfigError(f"{path}: ElementToIntensityFunctionSlope is 0")
    tell(path, f"values are {slope:g} times what is stored, plus {offset:g} (ElementToIntensityFunction)")
    scaled: Array = (voxels.astype(np.float64) * slope + offset).astype(np.float32)
    return scaled
