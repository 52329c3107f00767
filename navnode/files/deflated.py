"""DICOM files whose data set is compressed as a whole: what they become is counted before a reader holds it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from navnode.errors import ConfigError
from navnode.expansion import MOST_BYTES, Budget, TooLargeError, deflated_bytes

__all__ = ["check_deflated"]

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TRANSFER_SYNTAX, _META_GROUP = 0x0010, 0x0002
_LONG = (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN")
_MOST_META_BYTES = 1 << 16


def check_deflated(paths: Iterable[Path], most_bytes: int = MOST_BYTES) -> None:
    """Make sure that DICOM files, read together, become no more than is read; others are left alone.

    Raises:
        ConfigError: they would; or one is damaged.
    """
    budget = Budget(most_bytes)
    for path in paths:
        try:
            with path.open("rb") as file:
                if (start := _data_set(file.read(_MOST_META_BYTES))) is not None:
                    file.seek(start)
                    budget.take(deflated_bytes(file, -zlib.MAX_WBITS, budget.left_bytes))
        except TooLargeError as error:
            raise ConfigError(f"{path}: {error}") from error
        except zlib.error as error:
            raise ConfigError(f"{path}: damaged ({error})") from error
        except OSError:
            continue  # whoever reads it says what is wrong


def _data_set(head: bytes) -> int | None:
    """Where the compressed data set begins; None: it is not compressed, or this is no DICOM file."""
    if head[128:132] != b"DICM":
        return None
    at, deflated = 132, False
    while at + 12 <= len(head):
        group, element = struct.unpack_from("<HH", head, at)
        if group != _META_GROUP:
            break
        if head[at + 4 : at + 6] in _LONG:
            value, length = at + 12, struct.unpack_from("<I", head, at + 8)[0]
        else:
            value, length = at + 8, struct.unpack_from("<H", head, at + 6)[0]
        if element == _TRANSFER_SYNTAX:
            deflated = head[value : value + length].rstrip(b"\0 ") == _DEFLATED
        at = value + length
    return at if deflated else None
