"""NRRD: ``.nrrd``, and ``.nhdr`` with its pixels in another file. Facts: teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from navnode.errors import ConfigError
from navnode.files.placing import Placed, ReadAs, check_size, place_by_letters, tell, unit_mm
from navnode.files.textheaders import (
    MAX_BYTES,
    TextImage,
    beside,
    exactly,
    head_of,
    inflated,
    line_fields,
    lines_of,
    numbers,
    of_text,
    whole_numbers,
)
from navnode.geometry import RAS_FROM_LPS
from navnode.types import Array, Matrix

__all__ = ["is_nrrd", "kinds", "open_image", "read", "type_name"]

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_RAW, _GZIP, _BZIP2, _TEXT, _HEX = "raw", ("gzip", "gz"), ("bzip2", "bz2"), ("ascii", "text", "txt"), "hex"
_FIELDS = frozenset(
    {
        "axismaxs",
        "axismins",
        "blocksize",
        "byteskip",
        "centerings",
        "centers",
        "content",
        "datafile",
        "dimension",
        "encoding",
        "endian",
        "kinds",
        "labels",
        "lineskip",
        "max",
        "measurementframe",
        "min",
        "number",
        "oldmax",
        "oldmin",
        "sampleunits",
        "sizes",
        "space",
        "spacedimension",
        "spacedirections",
        "spaceorigin",
        "spaceunits",
        "spacings",
        "thicknesses",
        "type",
        "units",
    }
)
"""Without the spaces that most may have or not; other words stand before ``:=``."""
_RAS_FROM_SPACE: dict[str, Matrix] = {
    "right-anterior-superior": np.eye(3),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0]),
    "left-posterior-superior": RAS_FROM_LPS[:3, :3],
}
_ABBREVIATED = {
    "ras": "right-anterior-superior",
    "las": "left-anterior-superior",
    "lps": "left-posterior-superior",
}
_VECTOR = re.compile(r"none|\([^()]*\)")
_SLICE_BY_SLICE = "its pixels are in a file for every slice, which is not read"


def is_nrrd(head: bytes) -> bool:
    """Whether a file's first bytes are those of an NRRD."""
    return head.startswith(b"NRRD000")


def type_name(dtype: np.dtype[np.generic]) -> str | None:
    """``type`` of an array; None: there is none."""
    return next(
        (
            name
            for name in ("uint8", "uint16", "int8", "int16", "uint32", "int32", "float", "double")
            if np.dtype(_TYPES[name]) == dtype.newbyteorder("=")
        ),
        None,
    )


_ENDS = re.compile(rb"\r?\n\r?\n")


def open_image(path: Path) -> TextImage:
    """Read the header.

    Raises:
        ConfigError: it is damaged or contradicts itself.
    """
    head, ends = head_of(path, _ENDS)
    if not is_nrrd(head):
        raise ConfigError(f"{path}: not an NRRD")
    if ends is None and b"data" not in head:
        raise ConfigError(f"{path}: not an NRRD (its header has no end)")
    text = head[: ends.start() if ends else len(head)].decode("utf-8", "replace")
    lines = lines_of(text)[1:]
    if any(re.match(r"data ?file *: *LIST\b", line, re.I) for line in lines):  # names of files follow
        raise ConfigError(f"{path}: {_SLICE_BY_SLICE}")
    plain = [line for line in lines if ":=" not in line]
    fields = {
        **line_fields(path, "\n".join(line for line in lines if ":=" in line), (":=",)),
        **{key.lower(): value for key, value in line_fields(path, "\n".join(plain), (": ", ":")).items()},
    }
    stated = [line.partition(":")[0].strip().lower() for line in plain if line.strip() and not line.startswith("#")]
    if unknown := next((key for key in stated if key.replace(" ", "") not in _FIELDS), None):
        raise ConfigError(f"{path}: damaged ({unknown[:60]!r} is not a field of NRRD)")
    if twice := next((key for key in stated if stated.count(key) > 1), None):
        raise ConfigError(f"{path}: {twice} occurs twice")
    if "sizes" not in fields or "type" not in fields:
        raise ConfigError(f"{path}: the header lacks the size or the type of the pixels")
    sizes = whole_numbers(path, "sizes", fields["sizes"])
    if fields.get("dimension") != str(len(sizes)):
        raise ConfigError(f"{path}: dimension is {fields.get('dimension')}, sizes has {len(sizes)} numbers")
    if "encoding" not in fields:
        raise ConfigError(f"{path}: states no encoding of its pixels")
    kind = _TYPES.get(fields["type"].lower())
    if kind is None:
        raise ConfigError(f"{path}: type {fields['type'][:40]!r} is not one that is read")
    encoding = fields["encoding"].lower()
    endian = fields.get("endian", "").lower()
    if endian not in ("", "little", "big"):
        raise ConfigError(f"{path}: endian is {endian[:40]!r}")
    if not endian and kind[1] != "1" and encoding not in _TEXT:
        raise ConfigError(f"{path}: states no endian, the order of the bytes of a {fields['type']}")
    dtype = np.dtype(kind).newbyteorder(">" if endian == "big" else "<")
    count = int(np.prod([float(n) for n in sizes]))
    if count * dtype.itemsize > MAX_BYTES:
        raise ConfigError(f"{path}: {count * dtype.itemsize} bytes of pixels; the limit is {MAX_BYTES}")
    offset = ends.end() if ends else -1
    return TextImage(path, fields, sizes, dtype, lambda: _pixels(path, fields, offset, count, dtype, encoding))


def kinds(image: TextImage) -> list[str]:
    """``kinds`` of the axes.

    Raises:
        ConfigError: they are not as many as axes.
    """
    found = image.fields.get("kinds", "").split()
    if found and len(found) != len(image.sizes):
        raise ConfigError(f"{image.path}: kinds has {len(found)} entries, sizes {len(image.sizes)}")
    return found


def _pixels(
    path: Path, fields: dict[str, str], offset: int, count: int, dtype: np.dtype[np.generic], encoding: str
) -> Array:
    name = fields.get("data file", fields.get("datafile", ""))
    wanted = count * dtype.itemsize
    if name.upper().startswith("LIST") or "%" in name:
        raise ConfigError(f"{path}: {_SLICE_BY_SLICE}")
    if not name and offset < 0:
        raise ConfigError(f"{path}: not an NRRD (its header has no end)")
    data = (beside(path, name) if name else path).read_bytes()[0 if name else offset :]
    try:
        lines = int(fields.get("line skip", fields.get("lineskip", "0")))
        skipped = int(fields.get("byte skip", fields.get("byteskip", "0")))
    except ValueError as error:
        raise ConfigError(f"{path}: line skip or byte skip is not a number") from error
    packed = encoding in (*_GZIP, *_BZIP2)
    if lines < 0 or skipped < -1 or (skipped and packed) or lines > 1 << 20:
        raise ConfigError(f"{path}: line skip {lines} and byte skip {skipped} are not read for encoding {encoding}")
    for _ in range(lines):
        data = data.partition(b"\n")[2]
    data = data[max(0, len(data) - wanted) :] if skipped == -1 else data[skipped:]
    path = beside(path, name) if name else path
    if encoding in _TEXT:
        return of_text(path, data.replace(b",", b" "), count, dtype)
    if packed:
        data = inflated(path, data, wanted, "bz2" if encoding in _BZIP2 else "zlib")
    elif encoding == _HEX:
        try:
            data = exactly(path, bytes.fromhex(data.decode("ascii")), wanted)
        except ValueError as error:
            raise ConfigError(f"{path}: its pixels are not hexadecimal") from error
    elif encoding == _RAW:
        data = exactly(path, data, wanted)
    else:
        raise ConfigError(f"{path}: encoding {encoding[:40]!r} is not supported")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def read(path: Path, choice: ReadAs) -> Placed:
    """Read a volume.

    Raises:
        ConfigError: the file is damaged, incomplete, does not say where it is, or is not one volume of numbers.
    """
    image = open_image(path)
    named = kinds(image)
    several = [kind for kind, n in zip(named, image.sizes, strict=False) if kind not in _SPATIAL and n > 1]
    if several:
        raise ConfigError(f"{path}: not a CT (an axis holds {several[0]})")
    check_size(image.sizes, path)
    for key in ("block size", "old min", "old max", "oldmin", "oldmax"):
        if key in image.fields:
            raise ConfigError(f"{path}: {key} is not read")
    ras_from_index = _placed(image, choice)
    return Placed(image.read().reshape(image.sizes[2::-1]).astype(np.float32, copy=False), ras_from_index)


_SPATIAL = ("domain", "space", "???", "none", "stub", "scalar")


def _placed(image: TextImage, choice: ReadAs) -> Matrix:
    path, fields = image.path, image.fields
    if choice.orientation in ("sform", "qform"):
        raise ConfigError(f"{path}: --orientation {choice.orientation} is for NIfTI files")
    directions = _directions(image)
    factor = _unit_mm(path, fields, choice)
    if directions is not None and "spacings" in fields and "nan" not in fields["spacings"].lower():
        stated = numbers(path, "spacings", fields["spacings"], len(image.sizes))[:3]
        if np.abs(stated - np.linalg.norm(directions, axis=0)).max() > 1e-3 * stated.max():
            raise ConfigError(f"{path}: spacings and space directions contradict each other")
    if choice.orientation:
        if directions is not None:
            spacing = np.linalg.norm(directions, axis=0)
        elif "spacings" in fields:
            spacing = numbers(path, "spacings", fields["spacings"], len(image.sizes))[:3]
        else:
            raise ConfigError(f"{path}: states neither spacings nor space directions, the size of its voxels")
        if not (spacing > 0).all():
            raise ConfigError(f"{path}: its voxels have no positive sizes")
        return place_by_letters(choice.orientation, spacing * factor, image.sizes, path)
    space = fields.get("space", "").lower()
    ras_from_space = _RAS_FROM_SPACE.get(_ABBREVIATED.get(space, space))
    if ras_from_space is None:
        says = f"its space is {space!r}, which says nothing of the patient" if space else "states no space"
        raise ConfigError(f"{path}: {says}; --orientation LPS, for example, says where its axes grow to")
    if directions is None:
        raise ConfigError(f"{path}: states no space directions, the size and direction of its voxels")
    if "space origin" not in fields:
        raise ConfigError(f"{path}: states no space origin, the position of its first voxel")
    ras_from_index = np.eye(4)
    ras_from_index[:3, :3] = ras_from_space @ directions * factor
    ras_from_index[:3, 3] = ras_from_space @ _vector(path, "space origin", fields["space origin"]) * factor
    return ras_from_index


def _directions(image: TextImage) -> Matrix | None:
    """Columns: voxels' steps in the space; None: not stated."""
    text = image.fields.get("space directions", "")
    if not text:
        return None
    found = _VECTOR.findall(text)
    if len(found) != len(image.sizes) or _VECTOR.sub("", text).strip():
        raise ConfigError(f"{image.path}: space directions {text[:80]!r} are not one vector for each axis")
    vectors = [each for each, n in zip(found, image.sizes, strict=True) if not (each == "none" and n == 1)]
    if len(vectors) < 3 or "none" in vectors[:3]:
        raise ConfigError(f"{image.path}: space directions {text[:80]!r} are not three vectors")
    return np.stack([_vector(image.path, "space directions", each) for each in vectors[:3]], axis=1)


def _vector(path: Path, key: str, text: str) -> Matrix:
    return numbers(path, key, text.strip().strip("()").replace(",", " "), 3)


def _unit_mm(path: Path, fields: dict[str, str], choice: ReadAs) -> float:
    names = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    lengths = {name for name in names if name.strip() and name not in ("???", "none")}
    if choice.units:
        return unit_mm(choice.units, "--units")
    if not lengths:
        return 1.0
    factors = {unit_mm(name, f"{path}: space units") for name in lengths}
    if len(factors) > 1:
        raise ConfigError(f"{path}: space units differ along its axes ({', '.join(sorted(lengths))})")
    (factor,) = factors
    if factor != 1:
        tell(path, f"its distances are in {', '.join(sorted(lengths))}; converted to mm")
    return factor
