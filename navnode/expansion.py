"""What files may become when they are read: one limit for everything that is compressed or states its own size.

A few kilobytes may claim, or unpack to, more than any machine holds. Every reader asks here before it allocates; what
consists of several parts counts together.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["ARRAY_ERRORS", "MOST_BYTES", "Budget", "TooLargeError", "deflated_bytes", "inflated", "load_arrays"]

MOST_BYTES = 4 << 30
"""Of one file, or of files that are read together: 1024³ voxels of float32."""
ARRAY_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # a compression that zipfile lacks
    RuntimeError,  # it is encrypted
    SyntaxError,
    tokenize.TokenError,
)
"""What reading damaged arrays raises, also an archive's when they are taken from it."""
_BLOCK_BYTES = 1 << 20
_MOST_MEMBERS = 1 << 12
"""Of one archive of arrays."""


class TooLargeError(ValueError):
    """What a file becomes is larger than what is read."""


class Budget:
    """What several parts may take together.

    Args:
        most_bytes: the limit.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.left_bytes = self._most_bytes = most_bytes

    def take(self, count_bytes: float) -> None:
        """Count a part, before it is allocated.

        Raises:
            TooLargeError: all parts together are over the limit.
        """
        if not 0 <= count_bytes <= self.left_bytes:
            raise TooLargeError(f"it expands to more than {_spelled(self._most_bytes)}")
        self.left_bytes -= int(count_bytes)


def inflated(data: bytes, wanted_bytes: int, budget: Budget | None = None) -> bytes:
    """Unpack data of zlib or gzip, at most ``wanted_bytes``; fewer if there are fewer.

    Raises:
        TooLargeError: so much is over the limit.
        zlib.error: it is damaged.
    """
    (budget or Budget()).take(wanted_bytes)
    return zlib.decompressobj(47).decompress(data, wanted_bytes) if wanted_bytes else b""  # 0 would be no limit


def deflated_bytes(packed: IO[bytes], window_bits: int, most_bytes: int = MOST_BYTES) -> int:
    """How many bytes a compressed stream, or several on end, becomes; nothing is kept.

    Args:
        window_bits: as zlib's: 47 for gzip or zlib, -15 for neither's header.

    Raises:
        TooLargeError: more than ``most_bytes``.
        zlib.error: it is damaged.
    """
    budget, unpacker, block = Budget(most_bytes), zlib.decompressobj(window_bits), b""
    while block := block or packed.read(_BLOCK_BYTES):
        if unpacker.eof:
            if window_bits < 0:
                break
            unpacker = zlib.decompressobj(window_bits)
        budget.take(len(unpacker.decompress(block, _BLOCK_BYTES)))
        block = unpacker.unused_data or unpacker.unconsumed_tail
    return most_bytes - budget.left_bytes


def load_arrays(source: str | Path | bytes, most_bytes: int = MOST_BYTES, *, mapped: bool = False) -> Any:
    """``numpy.load`` of an ``.npy`` or ``.npz`` file, or of its content, of which nothing is executed.

    Args:
        most_bytes: of all arrays together.
        mapped: map an ``.npy`` file rather than read it.

    Raises:
        TooLargeError: the arrays take more, or state more than the file holds.
        ARRAY_ERRORS: it is not such a file.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            _check_archive(file, most_bytes)
        else:
            size_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            _check_array(file, size_bytes, Budget(most_bytes))
    if isinstance(source, bytes):
        return np.load(io.BytesIO(source), allow_pickle=False)
    return np.load(source, mmap_mode="r" if mapped else None, allow_pickle=False)


def _check_archive(file: IO[bytes], most_bytes: int) -> None:
    """The sizes that an archive's directory states bound what its members unpack to."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise TooLargeError(f"{len(members)} arrays are too many")
        check_members(members, Budget(most_bytes))
        for member in members:
            with archive.open(member) as array:
                _check_array(array, member.file_size, Budget(most_bytes))


def check_members(members: Iterable[zipfile.ZipInfo], budget: Budget) -> None:
    """Count all members of an archive, before one is unpacked.

    Raises:
        TooLargeError: together they are over the limit.
    """
    for member in members:
        budget.take(member.file_size)


def _check_array(file: IO[bytes], size_bytes: int, budget: Budget) -> None:
    """numpy allocates what the head states before it reads."""
    version = np.lib.format.read_magic(file)
    heads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = heads.get(version, np.lib.format.read_array_header_2_0)(file)
    stated_bytes = float(np.prod([float(n) for n in shape])) * dtype.itemsize
    budget.take(stated_bytes)
    if stated_bytes > size_bytes and not dtype.hasobject:
        raise TooLargeError(f"it states {stated_bytes:.0f} bytes of values and holds {size_bytes}")


def _spelled(count_bytes: int) -> str:
    return f"{count_bytes / (1 << 30):g} GiB" if count_bytes >= 1 << 30 else f"{count_bytes / (1 << 20):g} MiB"
