"""NIfTI volumes, and the older Analyze.

Facts: nifti1.h and nifti2.h (NIMH); where both transforms are set, the sform is taken, as its authors and nibabel do.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from navnode.errors import ConfigError
from navnode.files.placing import Placed, ReadAs, axes_of, check_size, place_by_letters, tell
from navnode.types import Array, Matrix

__all__ = ["is_nifti", "read"]

_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_METRE, _MICRON = 1, 3
_UNITS = {0: "", 1: "m", 2: "mm", 3: "um"}
_UNIT_MM = {"": 1.0, "m": 1e3, "mm": 1.0, "um": 1e-3, "cm": 10.0}
_SAME_MM = 0.1
_SAME_SHARE = 0.01
_HEADER_1, _HEADER_2 = 348, 540
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class _Header:
    dim: tuple[int, ...]
    kind: int
    bits: int
    pixdim: tuple[float, ...]
    offset: float
    slope: float
    intercept: float
    units: int
    qform_code: int
    sform_code: int
    quaternion: tuple[float, ...]
    """b, c, d, x, y, z"""
    srow: tuple[float, ...]
    order: str
    size: int
    magic: bytes


def is_nifti(head: bytes) -> bool:
    """Whether a file's first bytes (348 or more, unpacked) are a NIfTI or Analyze header."""
    if len(head) < _HEADER_1:
        return False
    return any(struct.unpack_from(f"{order}i", head)[0] in (_HEADER_1, _HEADER_2) for order in "<>")


def read(path: Path, choice: ReadAs) -> Placed:
    """Read a volume: ``.nii``, ``.nii.gz``, or ``.hdr`` with its ``.img``.

    Raises:
        ConfigError: the file is damaged, incomplete, contradictory or not one volume of numbers; names it.
    """
    with _opened(path) as file:
        header = _header(_some(file, _HEADER_2, path), path)
        size = _checked_dim(header, path)
        check_size(size, path)
        dtype = np.dtype(header.order + _kind(header, path))
        wanted = int(np.prod(size)) * dtype.itemsize
        single = header.magic.startswith(b"n+")
        least = header.size + 4 if single else 0
        start = header.offset
        if single and not start:
            start = least
            tell(path, f"states no vox_offset; its voxels are all that follows the header, from byte {least} on")
        if not (np.isfinite(start) and start == int(start) and least <= start <= 1 << 28):
            raise ConfigError(f"{path}: vox_offset is {header.offset:g}, which cannot be")
        if single:
            file.seek(int(start))
            data = _exactly(file, wanted, path)
    if not single:
        image = next((p for p in _images_of(path) if p.is_file()), None)
        if image is None:
            raise ConfigError(f"{path}: its .img file is not there")
        with _opened(image) as file:
            _some(file, int(start), image)
            data = _exactly(file, wanted, image)
    voxels = _scaled(np.frombuffer(data, dtype).reshape(size[::-1]), header, path)
    return Placed(voxels, _placed(header, size, choice, path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file as it was before it was packed, which its first bytes say, whatever its name.

    Raises:
        ConfigError: it cannot be opened, or turns out to be damaged while it is read.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except EOFError as error:
        raise ConfigError(f"{path}: incomplete (the gzip stream ends too early)") from error
    except (OSError, zlib.error) as error:
        # What the system refuses has a name; gzip's own errors are of the content.
        named = error.strerror if isinstance(error, OSError) else None
        reason = f" ({named})" if named else f", damaged ({error})"
        raise ConfigError(f"{path}: cannot be read{reason}") from error


def _images_of(path: Path) -> list[Path]:
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    return [path.with_name(stem + ending) for ending in (".img", ".img.gz", ".IMG")]


def _some(file: IO[bytes], count: int, path: Path) -> bytes:
    found = file.read(count)
    if len(found) < min(count, _HEADER_1):
        raise ConfigError(f"{path}: incomplete ({len(found)} bytes)")
    return found


def _exactly(file: IO[bytes], count: int, path: Path) -> bytes:
    """The voxels; reading to the end lets gzip check its checksum and size."""
    data = file.read(count)
    if len(data) < count:
        raise ConfigError(f"{path}: incomplete ({len(data)} of {count} bytes of voxels)")
    more = 0
    while block := file.read(1 << 20):
        more += len(block)
        if more > 1 << 24:
            break
    if more:
        raise ConfigError(f"{path}: {more} bytes more than its header states; header or voxels are damaged")
    return data


def _header(head: bytes, path: Path) -> _Header:
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", head)
        if size == _HEADER_1:
            return _header_1(head, order)
        if size == _HEADER_2 and len(head) >= _HEADER_2:
            return _header_2(head, order)
    raise ConfigError(f"{path}: cannot be read as NIfTI (no header of 348 or 540 bytes)")


def _header_1(head: bytes, order: str) -> _Header:
    def numbers(kind: str, at: int) -> tuple[float, ...]:
        return struct.unpack_from(order + kind, head, at)

    magic = head[344:348]
    quaternion, srow = numbers("6f", 256), numbers("12f", 280)
    qform_code, sform_code = (int(code) for code in numbers("2h", 252))
    slope, intercept = numbers("2f", 112)
    units = head[123] & 7
    if magic not in (b"n+1\0", b"ni1\0"):  # Analyze 7.5 has other fields there
        magic, qform_code, sform_code, slope, intercept, units = b"", 0, 0, 1.0, 0.0, 0
    return _Header(
        tuple(int(n) for n in numbers("8h", 40)),
        int(numbers("h", 70)[0]),
        int(numbers("h", 72)[0]),
        numbers("8f", 76),
        numbers("f", 108)[0] if magic else 0.0,
        slope,
        intercept,
        units,
        qform_code,
        sform_code,
        quaternion,
        srow,
        order,
        _HEADER_1,
        magic,
    )


def _header_2(head: bytes, order: str) -> _Header:
    def numbers(kind: str, at: int) -> tuple[float, ...]:
        return struct.unpack_from(order + kind, head, at)

    codes, (slope, intercept) = numbers("2i", 344), numbers("2d", 176)
    return _Header(
        tuple(int(n) for n in numbers("8q", 16)),
        int(numbers("h", 12)[0]),
        int(numbers("h", 14)[0]),
        numbers("8d", 104),
        float(numbers("q", 168)[0]),
        slope,
        intercept,
        int(numbers("i", 500)[0]) & 7,
        int(codes[0]),
        int(codes[1]),
        numbers("6d", 352),
        numbers("12d", 400),
        order,
        _HEADER_2,
        head[4:8],
    )


def _checked_dim(header: _Header, path: Path) -> tuple[int, ...]:
    """Voxels along (i, j, k)."""
    rank = header.dim[0]
    size = header.dim[1 : 1 + rank] if 1 <= rank <= 7 else ()
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) != 3 or min(size) < 1:
        raise ConfigError(f"{path}: not a 3-D volume (dim {' '.join(map(str, header.dim))})")
    return size


def _kind(header: _Header, path: Path) -> str:
    kind = _TYPES.get(header.kind)
    if kind is None:
        raise ConfigError(f"{path}: not a CT (datatype {header.kind} is not one number a voxel)")
    if header.bits != 8 * int(kind[1]):
        raise ConfigError(f"{path}: bitpix {header.bits} contradicts datatype {header.kind}")
    return kind


def _scaled(stored: Array, header: _Header, path: Path) -> Array:
    """scl_slope 0, or NaN beside no intercept, means that nothing is scaled: so does NIfTI's own library."""
    slope, intercept = header.slope, header.intercept
    if slope == 0 or (not np.isfinite(slope) and (intercept == 0 or not np.isfinite(intercept))):
        if slope == 0 and intercept not in (0, 0.0) and np.isfinite(intercept):
            tell(path, f"scl_slope is 0, so its scl_inter {intercept:g} does not apply")
        return stored.astype(np.float32)
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise ConfigError(f"{path}: scl_slope {slope} and scl_inter {intercept} are not finite")
    if (slope, intercept) == (1, 0):
        return stored.astype(np.float32)
    scaled: Array = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    return scaled


# --- where it is -----------------------------------------------------------------------------------------------------


def _placed(header: _Header, size: tuple[int, ...], choice: ReadAs, path: Path) -> Matrix:
    unit = choice.units or _UNITS.get(header.units)
    if unit is None:
        raise ConfigError(f"{path}: xyzt_units {header.units} is not a unit of length; --units says which")
    factor = _UNIT_MM[unit]
    if factor != 1:
        tell(path, f"its distances are in {unit}; converted to mm")
    pixdim = np.array(header.pixdim[1:4])
    sform = _sform(header) if header.sform_code > 0 else None
    qform = _qform(header, path) if header.qform_code > 0 else None
    found = _chosen(sform, qform, pixdim, size, choice, path)
    if found is not None and found is sform and header.sform_code > 1 and header.qform_code != 1:
        whose = "a template's" if header.sform_code > 2 else "another file's"
        tell(path, f"its position is in {whose} coordinates, not a scanner's (sform_code {header.sform_code})")
    if found is None:
        if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
            raise ConfigError(f"{path}: pixdim {pixdim} is not a voxel size")
        return place_by_letters(choice.orientation, pixdim * factor, size, path)
    found[:3] *= factor
    return found


def _chosen(
    sform: Matrix | None, qform: Matrix | None, pixdim: Matrix, size: tuple[int, ...], choice: ReadAs, path: Path
) -> Matrix | None:
    """The transform to take; None: that of letters."""
    wanted = choice.orientation
    if wanted not in ("", "sform", "qform"):
        axes_of(wanted)
        return None
    if wanted:
        chosen = sform if wanted == "sform" else qform
        if chosen is None:
            raise ConfigError(f"{path}: --orientation {wanted}: the file has none")
        return chosen
    if sform is None and qform is None:
        raise ConfigError(
            f"{path}: states no orientation (neither sform nor qform); --orientation LPS, for example, says where "
            "columns, rows and slices grow to"
        )
    if sform is None:
        return qform
    if not np.isfinite(sform).all():
        raise ConfigError(f"{path}: its sform is not finite")
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    axes = sform[:3, :3] / np.maximum(spacing, 1e-30)
    sheared = np.abs(np.triu(axes.T @ axes, 1)).max() > 2e-3
    if sheared and qform is not None:
        raise ConfigError(
            f"{path}: its sform is sheared, which navnode does not resample; --orientation qform takes the other one"
        )
    if qform is not None:
        apart = _apart_mm(sform, qform, size)
        if not apart <= max(_SAME_MM, _SAME_SHARE * float(spacing.min())):
            tell(
                path, f"its sform and qform are up to {apart:.3g} mm apart; the sform is taken (--orientation chooses)"
            )
    elif np.abs(pixdim - spacing).max() > _SAME_SHARE * spacing.max():
        stated, taken = (" x ".join(f"{length:.4g}" for length in each) for each in (pixdim, spacing))
        tell(path, f"pixdim states voxels of {stated}, its sform {taken}; the sform is taken")
    return sform


def _apart_mm(a: Matrix, b: Matrix, size: tuple[int, ...]) -> float:
    """Largest distance between the places of a corner."""
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in size], [1], indexing="ij"), axis=-1).reshape(-1, 4)
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def _sform(header: _Header) -> Matrix:
    found = np.eye(4)
    found[:3] = np.reshape(header.srow, (3, 4))
    return found


def _qform(header: _Header, path: Path) -> Matrix:
    b, c, d, *origin = header.quaternion
    pixdim = np.array(header.pixdim[1:4])
    rest = 1.0 - (b * b + c * c + d * d)
    if not (np.isfinite(header.quaternion).all() and np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise ConfigError(f"{path}: its qform or pixdim is not finite, or a voxel has no size")
    if rest < -1e-3:
        raise ConfigError(f"{path}: its qform is not a rotation")
    if rest < 1e-7:  # half a turn: as nifti1_io does
        length = np.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = np.sqrt(rest)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    found = np.eye(4)
    found[:3, :3] = rotation * pixdim * [1, 1, -1.0 if header.pixdim[0] < 0 else 1.0]
    found[:3, 3] = origin
    return found
