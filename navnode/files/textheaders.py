"""What MetaImage and NRRD share: a header of text lines, and pixels behind it or in another file.

A key that occurs twice with different values, pixels that are fewer or more than the header states, and checksums that
are wrong are refused, for volumes and sequences alike.
"""

from __future__ import annotations

import bz2
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from navnode.errors import ConfigError
from navnode.types import Array

__all__ = [
    "MAX_BYTES",
    "TextImage",
    "beside",
    "head_of",
    "inflated",
    "line_fields",
    "lines_of",
    "numbers",
    "of_text",
    "whole_numbers",
]

MAX_BYTES = 1 << 35
_MOST_HEADER_BYTES = 1 << 28
_AT_ONCE_BYTES, _LONGEST_LINE = 1 << 20, 1 << 16
_TRAILING = b"\r\n \t\0"


@dataclass(frozen=True)
class TextImage:
    """An image behind a header of text."""

    path: Path
    fields: dict[str, str]
    sizes: tuple[int, ...]
    """Along each axis, the fastest first, as the header states them."""
    dtype: np.dtype[np.generic]
    """As stored."""
    read: Callable[[], Array]
    """The values, (N,), in the order of the file.

    Raises:
        ConfigError: they are fewer or more than stated, or damaged.
    """


def head_of(path: Path, ends: re.Pattern[bytes]) -> tuple[bytes, re.Match[bytes] | None]:
    """A file's first bytes, as far as its header may go, and where that ends; None: not within them.

    Text holds no zeros: what comes behind the first one is no header.

    Args:
        ends: what ends it, on one line or on two.

    Raises:
        ConfigError: the file is too large, or cannot be read.
    """
    head, found = bytearray(), None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
        with path.open("rb") as file:
            while not found and len(head) < _MOST_HEADER_BYTES and (more := file.read(_AT_ONCE_BYTES)):
                known = max(0, len(head) - 4)
                head += more
                found = ends.search(head, max(head.rfind(b"\n", 0, known) + 1, known - _LONGEST_LINE))
                if b"\0" in more:
                    break
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    whole = bytes(head)
    return whole, ends.search(whole, found.start()) if found else None


def line_fields(path: Path, text: str, separators: tuple[str, ...]) -> dict[str, str]:
    """Key -> value of a header's lines.

    Args:
        separators: tried in this order.

    Raises:
        ConfigError: a line is no field, or a key occurs twice with different values.
    """
    fields: dict[str, str] = {}
    for line in lines_of(text):
        if line.startswith("#") or not line.strip():
            continue
        separator = next((each for each in separators if each in line), None)
        if separator is None:
            raise ConfigError(f"{path}: damaged (a line of its header is no field: {line[:60]!r})")
        key, _, value = line.partition(separator)
        key, value = key.strip(), value.strip()
        if fields.setdefault(key, value) != value:
            raise ConfigError(f"{path}: {key} occurs twice ({fields[key][:60]!r} and {value[:60]!r})")
    return fields


def lines_of(text: str) -> list[str]:
    """The lines of a header; only line feeds and carriage returns end one."""
    return re.split(r"\r\n|\n|\r", text)


def numbers(path: Path, key: str, text: str, count: int) -> Array:
    """The numbers of a field, (count,).

    Raises:
        ConfigError: they are not so many, or not finite.
    """
    try:
        found = np.array([float(part) for part in text.split()])
    except ValueError:
        found = np.zeros(0)
    if len(found) != count or not np.isfinite(found).all():
        raise ConfigError(f"{path}: {key} is {text[:80]!r}, not {count} finite numbers")
    return found


def whole_numbers(path: Path, key: str, text: str) -> tuple[int, ...]:
    """The whole numbers of a field, none of them negative.

    Raises:
        ConfigError: they are none.
    """
    parts = text.split()
    if not parts or not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
        raise ConfigError(f"{path}: {key} is {text[:80]!r}, not whole numbers")
    return tuple(int(part) for part in parts)


def beside(path: Path, name: str) -> Path:
    """The file with the pixels that a header names: in its folder or below.

    Raises:
        ConfigError: it is elsewhere, or not there.
    """
    found = path.parent / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ConfigError(f"{path}: its pixels are in {name[:80]!r}; only files in its folder are read")
    if not found.is_file():
        raise ConfigError(f"{path}: its pixels are in {name[:80]!r}, which is not there")
    if found.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{found}: larger than {MAX_BYTES >> 30} GiB")
    return found


def inflated(path: Path, data: bytes, wanted: int, encoding: str = "zlib") -> bytes:
    """Unpack exactly ``wanted`` bytes, and check the checksum at the end.

    Args:
        encoding: zlib (or gzip, which zlib tells apart) or bz2.

    Raises:
        ConfigError: they are fewer or more, or the checksum is wrong.
    """
    try:
        if encoding == "bz2":
            unpacker = bz2.BZ2Decompressor()
            found = unpacker.decompress(data, wanted)
            more = b"" if unpacker.eof else unpacker.decompress(b"", 1)
            ended, unused = unpacker.eof, unpacker.unused_data
        else:
            stream = zlib.decompressobj(47)  # headers of gzip and zlib
            found = stream.decompress(data, wanted) if wanted else b""
            more = b"" if stream.eof else stream.decompress(stream.unconsumed_tail or data[:0], 1)
            ended, unused = stream.eof, stream.unused_data
    except (zlib.error, OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: its pixels cannot be unpacked, damaged ({error})") from error
    if len(found) < wanted:
        raise ConfigError(f"{path}: incomplete ({len(found)} bytes of pixels, the header states {wanted})")
    if more:
        raise ConfigError(f"{path}: more pixels than its header states ({wanted} bytes)")
    if not ended:
        raise ConfigError(f"{path}: incomplete (its packed pixels end before their checksum)")
    if unused.strip(_TRAILING):
        raise ConfigError(f"{path}: {len(unused)} bytes follow its pixels; header or pixels are damaged")
    return found


def exactly(path: Path, data: bytes, wanted: int) -> bytes:
    """Pixels as they are stored: neither fewer nor more.

    Raises:
        ConfigError: there are.
    """
    if len(data) < wanted:
        raise ConfigError(f"{path}: truncated: {len(data)} bytes of pixels, the header states {wanted}")
    if data[wanted:].strip(_TRAILING):
        raise ConfigError(f"{path}: {len(data) - wanted} bytes more than its header states ({wanted})")
    return data[:wanted]


def of_text(path: Path, data: bytes, count: int, dtype: np.dtype[np.generic]) -> Array:
    """Pixels that are written as numbers, (count,).

    Raises:
        ConfigError: they are not so many numbers.
    """
    try:
        found = np.array(data.split(), np.float64).astype(dtype.newbyteorder("="))
    except ValueError:
        found = np.zeros(0)
    if len(found) != count:
        raise ConfigError(f"{path}: its text does not hold {count} numbers")
    return found
