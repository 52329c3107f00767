"""X-ray images on disk, as counts of a detector: what displays do with them is ignored, what is missing not guessed."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode.errors import ConfigError
from navnode.files import dicom_read
from navnode.files.ordinary import refuse_special
from navnode.files.placing import tell
from navnode.types import Array

__all__ = ["counts_of", "highest_count", "read_array", "read_counts"]

_MAX_PIXELS = 1 << 26
_PNG, _NPY = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"
_TIFF = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_LINE_INTEGRALS = 30.0
"""No detector counts so few quanta where its beam is open, and no body has so long a line integral."""
_ORIENTATION, _SAMPLES, _PHOTOMETRIC, _BITS, _COMPRESSION, _STRIPS, _STRIP_BYTES = 274, 277, 262, 258, 259, 273, 279
_TILES, _TILE_BYTES = 324, 325
_DESCRIPTION = 270
_FORMAT, _UNSIGNED, _FLOATING = 339, 1, 3
_MOST_VALUES = 1 << 20
"""Of a tag: a strip has at least a row."""
_OTHERS = ("CT", "DOC", "KO", "MG", "MR", "NM", "PR", "PT", "REG", "SC", "SEG", "SM", "SR", "US")
_RELATIONS = ("LOG", "OTHER")
_XRAYS = ("XA", "RF", "CR", "DX", "PX", "IO", "OT", "RG", "XC", "")


def read_counts(path: Path, i0: float | None = None) -> Array:
    """Read detector counts (H, W): 16-bit PNG or TIFF, ``.npy``, or DICOM (XA, RF, CR, DX; one frame), by content.

    Args:
        i0: counts of the open beam, if stated.

    Raises:
        ConfigError: the file is missing, unreadable, or does not contain counts as they were measured; names it.
    """
    refuse_special(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such image")
    try:
        counts = _read(path)
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError, MemoryError, OverflowError, struct.error, cv2.error) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot be read as an image ({reason})") from error
    if counts.ndim != 2 or counts.size == 0:
        raise ConfigError(f"{path}: not one plane with one value per pixel, but {counts.shape}")
    if counts.dtype.kind not in "uif":
        raise ConfigError(f"{path}: the pixels are not counts ({counts.dtype})")
    if counts.dtype.kind == "f" and not np.isfinite(counts).all():
        raise ConfigError(f"{path}: the pixels are not counts (some are NaN or infinite)")
    if counts.min() < 0:
        raise ConfigError(f"{path}: the pixels are not counts (some are negative)")
    if counts.dtype.kind == "f" and counts.max() < _LINE_INTEGRALS and not (i0 is not None and i0 < _LINE_INTEGRALS):
        raise ConfigError(
            f"{path}: the pixels are not counts (none exceeds {counts.max():.3g}: line integrals, or shares of i0?)"
        )
    return counts


def _read(path: Path) -> Array:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_NPY):
        return read_array(path, _MAX_PIXELS)
    if head.startswith(_PNG):
        _check_png(path)
    elif head[:4] in _TIFF:
        _check_tiff(path, *_TIFF[head[:4]])
    elif dicom_read.is_dicom(path):
        return _dicom(path)
    else:  # OpenCV reads more: pictures that are lossy, cut short, turned, or of colours
        raise ConfigError(f"{path}: not PNG, TIFF, .npy or DICOM")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("damaged, or compressed in a way that is not read")
    return np.asarray(image)


def read_array(path: Path, most: int) -> Array:
    """Read an ``.npy`` file, of any shape, whose size is what its header states.

    Args:
        most: elements that are accepted.

    Raises:
        ConfigError: it is not one, or another size.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
                version
            )
            if reader is None:
                raise ConfigError(f"{path}: .npy of version {version[0]}.{version[1]}, which is not read")
            shape, fortran, dtype = reader(file)
            count = 1
            for side in shape:
                count *= int(side)
            if count > most or min(shape, default=1) < 0:
                raise ConfigError(f"{path}: {' x '.join(map(str, shape))} elements are too many")
            if dtype.hasobject or dtype.itemsize == 0:
                raise ConfigError(f"{path}: cannot be read (objects, not numbers)")
            size = path.stat().st_size - file.tell()
            if size != count * dtype.itemsize:
                raise ConfigError(f"{path}: {size} bytes of data, its header states {count * dtype.itemsize}")
            flat = np.frombuffer(file.read(), dtype, count)
    except ConfigError:
        raise
    except Exception as error:  # what NumPy's parser of headers raises has no common class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read as .npy ({reason[:120]})") from error
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def _check_png(path: Path) -> None:
    """Refuse what is not one grey channel as stored: colours, palettes, orientation; and wrong checksums."""
    import zlib

    content = path.read_bytes()
    at, ended = len(_PNG), False
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + length]
        end = at + 12 + length
        if end > len(content):
            break
        if zlib.crc32(kind + body) != struct.unpack_from(">I", content, end - 4)[0]:
            raise ConfigError(f"{path}: damaged (the checksum of {kind.decode('latin-1')} is wrong)")
        if kind == b"IHDR" and length == 13:
            width, height, bits, colours = struct.unpack_from(">IIBB", body)
            if width * height > _MAX_PIXELS:
                raise ConfigError(f"{path}: {width} x {height} pixels are too many")
            if colours != 0:
                raise ConfigError(f"{path}: not one plane with one value per pixel (colours or transparency)")
            if bits not in (8, 16):
                raise ConfigError(f"{path}: {bits} bits a pixel, not 8 or 16")
        if kind == b"eXIf":
            _check_orientation(path, _exif(body))
        if kind == b"acTL":
            raise ConfigError(f"{path}: several pictures in one file")
        if kind == b"IEND":
            ended = True
            break
        at = end
    if not ended:
        raise ConfigError(f"{path}: incomplete (it has no end)")


def _exif(content: bytes) -> int:
    order, big = _TIFF.get(content[:4], ("<", False))
    pages = _tiff_tags(content, order, big) if content[:4] in _TIFF else []
    return pages[0].get(_ORIENTATION, (1,))[0] if pages else 1


def _check_orientation(path: Path, orientation: int) -> None:
    if orientation != 1:
        raise ConfigError(
            f"{path}: its orientation tag ({orientation}) says that it is shown turned or mirrored; store it so"
        )


def _check_tiff(path: Path, order: str, big: bool) -> None:
    """Refuse what is not one grey picture as stored, or lacks what readers then assume."""
    content = path.read_bytes()
    pages = _tiff_tags(content, order, big)
    if not pages:
        raise ConfigError(f"{path}: damaged (no picture)")
    if len(pages) > 1:
        raise ConfigError(f"{path}: {len(pages)} pages; an X-ray is one")
    tags = {tag: values[0] for tag, values in pages[0].items() if values}
    if (pictures := _pictures_of_a_page(pages[0].get(_DESCRIPTION, ()))) > 1:
        raise ConfigError(f"{path}: {pictures} pictures in one page, as ImageJ stores large stacks; an X-ray is one")
    _check_orientation(path, tags.get(_ORIENTATION, 1))
    if tags.get(_SAMPLES, 1) != 1:
        raise ConfigError(f"{path}: {tags[_SAMPLES]} samples a pixel, not one")
    bits = tags.get(_BITS, 0)
    if bits not in (8, 16, 32):
        raise ConfigError(f"{path}: {bits} bits a pixel, not 8, 16 or 32")
    form = tags.get(_FORMAT, _UNSIGNED)
    if (form, bits) in ((_FLOATING, 8), (_FLOATING, 16), (_UNSIGNED, 32)) or form not in (_UNSIGNED, 2, _FLOATING):
        what = {_UNSIGNED: "unsigned whole", _FLOATING: "floating-point"}.get(form, "unknown")
        raise ConfigError(f"{path}: {what} numbers of {bits} bits, which are not read")
    if tags.get(_PHOTOMETRIC, 1) == 0 and bits <= 8:
        raise ConfigError(f"{path}: white is zero, which readers invert or not; store counts with black as zero")
    if tags.get(_PHOTOMETRIC, 1) not in (0, 1):
        raise ConfigError(f"{path}: not grey (photometric interpretation {tags[_PHOTOMETRIC]})")
    width, height = tags.get(256, 0), tags.get(257, 0)
    if width * height > _MAX_PIXELS:
        raise ConfigError(f"{path}: {width} x {height} pixels are too many")
    places, sizes = (pages[0].get(tag, ()) for tag in (_STRIPS, _STRIP_BYTES))
    if not places and _TILES in tags:
        places, sizes = (pages[0].get(tag, ()) for tag in (_TILES, _TILE_BYTES))
    elif places and tags.get(_COMPRESSION, 1) == 1 and sum(sizes) != width * height * bits // 8:
        raise ConfigError(f"{path}: damaged ({sum(sizes)} bytes of pixels for {width} x {height})")
    if (
        not places
        or len(places) != len(sizes)
        or any(at < 8 or at + size > len(content) for at, size in zip(places, sizes, strict=True))
    ):
        raise ConfigError(f"{path}: damaged or cut short (its pixels are not within it)")


def _pictures_of_a_page(description: tuple[int, ...]) -> int:
    """How many pictures follow each other behind one page, as its description says: readers take the first alone."""
    text = bytes(letter for letter in description if letter < 128)
    said = re.search(rb"^images=(\d{1,9})\s*$", text, re.MULTILINE)
    return int(said[1]) if said and text.startswith(b"ImageJ=") else 1


def _tiff_tags(content: bytes, order: str, big: bool) -> list[dict[int, tuple[int, ...]]]:
    """Of every page: tag -> its values, where those are whole numbers."""
    pages: list[dict[int, tuple[int, ...]]] = []
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", content, 8 if big else 4)
        while at and at not in seen and len(pages) < 1000:
            seen.add(at)
            (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", content, at)
            entry, place = (20, at + 8) if big else (12, at + 2)
            tags: dict[int, tuple[int, ...]] = {}
            for n in range(min(count, 1000)):
                start = place + n * entry
                tag, kind, many = struct.unpack_from(f"{order}HHQ" if big else f"{order}HHI", content, start)
                form = {1: "B", 2: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
                if form is None or many > _MOST_VALUES:
                    continue
                value = start + (12 if big else 8)
                if many * struct.calcsize(form) > (8 if big else 4):
                    (value,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", content, value)
                tags[tag] = struct.unpack_from(f"{order}{many}{form}", content, value)
            pages.append(tags)
            (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", content, place + count * entry)
    except struct.error:
        return pages
    return pages


def _dicom(path: Path) -> Array:
    counts = counts_of(dicom_read.open_dataset(path), path)
    if len(counts) != 1:
        raise ConfigError(f"{path}: {len(counts)} frames; an X-ray is one")
    return np.asarray(counts[0])


def counts_of(dataset: Any, path: Path) -> Array:
    """Counts of X-rays, (frames, rows, columns): linear in intensity, more counts where more arrived (PS3.3,
    C.8.7.1.1.2, C.8.11.3.1.2).

    Args:
        dataset: a DICOM dataset, see :mod:`navnode.files.dicom_read`.
        path: what errors call it.

    Raises:
        ConfigError: it is no X-ray, damaged, or does not hold counts.
    """
    modality = dicom_read.text(dataset, "Modality")
    if modality not in _XRAYS:
        raise ConfigError(f"{path}: not an X-ray (its modality is {dicom_read.known(modality, _OTHERS)})")
    rows, columns = (dicom_read.number(dataset, keyword, path) or 0 for keyword in ("Rows", "Columns"))
    if rows * columns > _MAX_PIXELS:
        raise ConfigError(f"{path}: {columns:g} x {rows:g} pixels are too many")
    stored = dicom_read.stored(dataset, path)
    counts = _linear(stored, dataset, path)
    outside = dicom_read.padded(stored, dataset, path)
    if outside is not None and outside.any():
        tell(path, "PixelPaddingValue marks what was not measured; taken for no counts")
        counts = np.where(outside, np.zeros((), counts.dtype), counts)
    return _as_taken(counts, dataset, path)


def _as_taken(counts: Array, dataset: Any, path: Path) -> Array:
    """X-rays (frames, rows, columns) as the detector took them: turned or flipped back, where they say that they were
    turned or flipped since (PS3.3, C.8.11.6: FieldOfViewRotation, FieldOfViewHorizontalFlip)."""
    flipped = dicom_read.text(dataset, "FieldOfViewHorizontalFlip") == "YES"
    clockwise_deg = dicom_read.number(dataset, "FieldOfViewRotation", path) or 0.0
    turns = round(clockwise_deg / 90)
    if abs(clockwise_deg - 90 * turns) > 0.5 or (flipped and turns % 4):
        raise ConfigError(
            f"{path}: turned by {clockwise_deg:g} degrees since it was taken, or turned and flipped: not read"
        )
    if not flipped and not turns % 4:
        return counts
    spacing_mm = dicom_read.numbers(dataset, "ImagerPixelSpacing", 2, path)
    if turns % 2 and spacing_mm is not None and spacing_mm[0] != spacing_mm[1]:
        raise ConfigError(
            f"{path}: turned by {clockwise_deg:g} degrees since it was taken, with oblong pixels: not read"
        )
    back = "flipped back (FieldOfViewHorizontalFlip)" if flipped else "turned back (FieldOfViewRotation)"
    tell(path, f"its pixels are {back}")
    return np.ascontiguousarray(counts[..., ::-1] if flipped else np.rot90(counts, turns, axes=(1, 2)))


def highest_count(dataset: Any, path: Path) -> float:
    """The highest count that a detector of so many bits can say, by the rules of :func:`counts_of`.

    Raises:
        ConfigError: as :func:`counts_of`.
    """
    kept = int(dicom_read.number(dataset, "BitsStored", path) or 16) - (
        dicom_read.text(dataset, "PixelRepresentation") == "1"
    )
    return float(_linear(np.array([(1 << kept) - 1]), dataset, path).max())


def _linear(stored: Array, dataset: Any, path: Path) -> Array:
    relation = dicom_read.text(dataset, "PixelIntensityRelationship").upper()
    sign = dicom_read.number(dataset, "PixelIntensityRelationshipSign", path)
    table = dataset.get("ModalityLUTSequence")
    values = stored
    if table:
        values = _through(stored, table[0], path)
        tell(path, "a table (Modality LUT) gives its counts")
    slope, intercept = (dicom_read.number(dataset, f"Rescale{name}", path) for name in ("Slope", "Intercept"))
    if slope is not None or intercept is not None:
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
        if table or not slope > 0:
            raise ConfigError(f"{path}: RescaleSlope {slope:g} beside a table, or not positive")
        if (slope, intercept) != (1, 0):
            values = values.astype(np.float64) * slope + intercept
            tell(path, f"counts are {slope:g} times what is stored, plus {intercept:g} (RescaleSlope)")
    if sign is not None and sign < 0 and not table:
        raise ConfigError(f"{path}: higher values are less radiation (PixelIntensityRelationshipSign -1): not counts")
    if relation in ("", "LIN") or (table and relation in ("LOG", "DISP")):
        return values
    if relation == "SQRT":
        tell(path, "its values are square roots of counts (PixelIntensityRelationship SQRT); squared")
        return values.astype(np.float64) ** 2
    if relation == "DISP":
        raise ConfigError(f"{path}: processed for displays (PixelIntensityRelationship DISP): not counts")
    raise ConfigError(f"{path}: PixelIntensityRelationship is {dicom_read.known(relation, _RELATIONS)}: not counts")


def _through(stored: Array, table: Any, path: Path) -> Array:
    """Stored values through a table (PS3.3, C.11.1)."""
    described = table.get("LUTDescriptor")
    data = table.get("LUTData")
    if described is None or data is None or len(described) != 3:
        raise ConfigError(f"{path}: its Modality LUT is incomplete")
    count, first, bits = (int(value) for value in described)
    count = count or 1 << 16
    values = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data, np.int64).astype(np.uint16)
    if len(values) * (2 if bits <= 8 and len(values) * 2 == count else 1) != count:
        raise ConfigError(f"{path}: its Modality LUT has {len(values)} values, not {count}")
    if len(values) != count:
        values = np.frombuffer(values.tobytes(), np.uint8)
    return values[np.clip(stored.astype(np.int64) - first, 0, count - 1)]
