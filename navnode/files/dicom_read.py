"""DICOM files as they are stored: headers by pydicom, pixels without anything that is meant for displays."""

from __future__ import annotations

import contextlib
import io
import locale
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from navnode.errors import ConfigError
from navnode.files.deflated import check_deflated
from navnode.files.placing import tell
from navnode.types import Array

__all__ = [
    "is_dicom",
    "kept_locale",
    "known",
    "number",
    "numbers",
    "open_dataset",
    "padded",
    "read_dataset",
    "stored",
    "text",
]

_MAX_BYTES = 1 << 33
_LONG, _WORD_FRAMES = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.3"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_COLOURS = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_PARTIAL_420", "YBR_RCT")
_BYTES = ("OB", "OD", "OF", "OL", "OV", "OW", "UN", "SQ")
"""Kinds of values that stay bytes; others become objects of a hundred times their size."""
_MOST_TEXT_BYTES = 4 << 20
_DEEPEST = 16
_RLE = "1.2.840.10008.1.2.5"


@contextlib.contextmanager
def kept_locale() -> Iterator[None]:
    """Restore the locale afterwards: GDCM sets the process's to C, which breaks UTF-8, when it writes a position."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, also without its preamble."""
    try:
        with path.open("rb") as file:
            head = file.read(136)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return True
    # Group 2 or 8, a small element, and an explicit type or a short length: files of old systems.
    small = len(head) > 8 and head[:4] != b"\0\0\0\0" and head[0] in (2, 8) and head[1] == 0 and head[3] == 0
    return small and (head[4:6].isalpha() or int.from_bytes(head[4:8], "little") < 256)


def open_dataset(path: Path, tags: list[str] | None = None) -> Any:
    """A file's dataset.

    Args:
        tags: only these, and no pixels; None: everything.

    Raises:
        ConfigError: it is not DICOM, or damaged; names it.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES >> 30} GiB")
        check_deflated([path])
        raw = io.FileIO(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _dataset(raw, path, tags)


def read_dataset(content: bytes, name: Path) -> Any:
    """A dataset as it came over a network: preamble, file meta information, and elements that are not deflated.

    Args:
        name: what errors call it.

    Raises:
        ConfigError: it is not DICOM, or damaged; names it.
    """
    return _dataset(_Content(content), name, None)


class _Content(io.BytesIO):
    """Bytes in memory, which pydicom asks for a name."""

    name = ""


def _dataset(raw: io.FileIO | io.BytesIO, path: Path, tags: list[str] | None) -> Any:
    import pydicom  # here: slow to import, and few processes read DICOM
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _Bounded(raw) as file:
                dataset = pydicom.dcmread(file, force=True, stop_before_pixels=tags is not None, specific_tags=tags)
                if not len(dataset):
                    raise ConfigError(f"{path}: not DICOM")
                _convert(dataset, path, _DEEPEST, check_only=tags is not None)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # pydicom's readers have no common error
        # Its text may hold what the object says of the patient.
        raise ConfigError(f"{path}: damaged DICOM ({type(error).__name__})") from error
    return dataset


class _Bounded(io.BufferedReader):
    """A file from which no more is asked for than it holds: room for what is asked is made before anything is read, and
    a damaged element states 4 GiB."""

    def __init__(self, raw: io.FileIO | io.BytesIO) -> None:
        super().__init__(raw)
        self._size = raw.seek(0, io.SEEK_END)
        raw.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _convert(dataset: Any, path: Path, deepest: int, *, check_only: bool = False) -> None:
    """Convert the elements of a dataset, if they are no longer than values are.

    Args:
        check_only: convert none, and look into no sequence.

    Raises:
        ConfigError: one is longer, or lies deeper in sequences than any does.
    """
    if not deepest:
        raise ConfigError(f"{path}: damaged DICOM (sequences in sequences, too deep)")
    for tag, raw in list(dataset.items()):
        value = getattr(raw, "value", None)
        if raw.VR not in _BYTES and isinstance(value, bytes) and len(value) > _MOST_TEXT_BYTES:
            raise ConfigError(f"{path}: damaged DICOM (element {tag} holds {len(value) >> 20} MiB of values)")
        element = raw if check_only else dataset[tag]
        for item in element.value if element.VR == "SQ" and not check_only else ():
            _convert(item, path, deepest - 1)


def text(dataset: Any, keyword: str) -> str:
    """A text of the dataset; '': it has none."""
    value = dataset.get(keyword, "")
    return "" if value is None else str(value).strip()


def known(value: str, words: Collection[str]) -> str:
    """A value as errors may repeat it: only a word that the standard has, as a damaged element may hold a name."""
    return value if value in words else "unknown"


def numbers(dataset: Any, keyword: str, count: int, path: Path) -> Array | None:
    """Numbers of the dataset, (count,); None: it has none.

    Raises:
        ConfigError: they are not so many finite numbers.
    """
    value = dataset.get(keyword)
    if value is None or value == "" or (hasattr(value, "__len__") and not len(value)):
        return None
    try:
        found = np.array([float(each) for each in ([value] if count == 1 else value)])
    except (TypeError, ValueError):
        found = np.zeros(0)
    if len(found) != count or not np.isfinite(found).all():
        raise ConfigError(f"{path}: {keyword} is not {count} finite number{'s' * (count > 1)}")
    return found


def number(dataset: Any, keyword: str, path: Path) -> float | None:
    """A number of the dataset; None: it has none.

    Raises:
        ConfigError: it is not a finite number.
    """
    found = numbers(dataset, keyword, 1, path)
    return None if found is None else float(found[0])


def stored(dataset: Any, path: Path) -> Array:
    """Stored values (frames, rows, columns): sign and high bit applied, nothing else.

    Raises:
        ConfigError: there are no pixels with one value each, they are damaged, or fewer or more than stated.
    """
    if text(dataset, "SamplesPerPixel") not in ("", "1"):
        raise ConfigError(
            f"{path}: {known(text(dataset, 'SamplesPerPixel'), ('2', '3', '4'))} samples a pixel, not one"
        )
    if (shown := text(dataset, "PhotometricInterpretation")) not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise ConfigError(f"{path}: its pixels are not grey (PhotometricInterpretation {known(shown, _COLOURS)})")
    whole = {}
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored"):
        value = number(dataset, keyword, path)
        if value is None or value != int(value) or value < 1:
            raise ConfigError(f"{path}: {keyword} is missing or 0")
        whole[keyword] = int(value)
    frames = int(number(dataset, "NumberOfFrames", path) or 1)
    rows, columns, bits, kept = whole.values()
    high = number(dataset, "HighBit", path)
    above = 0 if high is None else int(high) + 1 - kept
    if bits not in (8, 16, 32) or kept > bits or not 0 <= above <= bits - kept or frames < 1:
        raise ConfigError(f"{path}: BitsAllocated {bits}, BitsStored {kept}, HighBit {high} cannot be")
    if "PixelData" not in dataset:
        raise ConfigError(f"{path}: holds no pixels of whole numbers")
    wanted = frames * rows * columns * bits // 8
    if wanted > _MAX_BYTES:
        raise ConfigError(f"{path}: {wanted} bytes of pixels are too many")
    about = getattr(dataset, "file_meta", None)
    syntax = str(getattr(about, "TransferSyntaxUID", "") or "")
    if about and not syntax:  # files of old systems have no such information at all
        raise ConfigError(f"{path}: TransferSyntaxUID is missing: how its pixels are stored is unknown")
    if not syntax or syntax in _NATIVE:
        data = dataset.PixelData
        if not wanted <= len(data) <= wanted + 1:
            raise ConfigError(f"{path}: {len(data)} bytes of pixels, the header states {wanted} ({frames} frames)")
        order = "<" if getattr(dataset, "is_little_endian", True) is not False else ">"
        values = np.frombuffer(data, f"{order}u{bits // 8}", frames * rows * columns)
        if order == ">" and bits == 8:
            values = np.frombuffer(np.frombuffer(data, ">u2").astype("<u2").tobytes(), "u1", frames * rows * columns)
        values = values.astype(f"u{bits // 8}", copy=False)
    else:
        values = _unpacked(dataset, path, syntax, frames).astype(f"i{bits // 8}").view(f"u{bits // 8}").ravel()
        if len(values) != frames * rows * columns:
            raise ConfigError(f"{path}: {len(values)} pixels, the header states {frames} frames of {rows} x {columns}")
    signed = {"0": False, "1": True}.get(text(dataset, "PixelRepresentation"))
    if signed is None:
        raise ConfigError(f"{path}: PixelRepresentation is missing or wrong: whether values are signed is unknown")
    if above:
        tell(path, f"its values begin {above} bits up (HighBit {high:g}, BitsStored {kept}), and are read so")
    left = bits - kept - above
    beyond = values >> (bits - left) if left else values[:0]
    if ((beyond != 0) & ~(signed & (beyond == (1 << left) - 1))).any():  # but for a sign that was extended
        tell(path, f"some of its values need more than the {kept} bits that its header states, and are cut to them")
    values = values.reshape(frames, rows, columns)
    if signed:
        signed_values = values.view(f"i{bits // 8}")
        return signed_values if kept == bits else (signed_values << left) >> (left + above)
    return values if kept == bits else (values << left) >> (left + above)


@kept_locale()
def _unpacked(dataset: Any, path: Path, syntax: str, frames: int) -> Array:
    """Compressed pixels by GDCM, from a copy that says nothing of what values mean."""
    import pydicom
    import SimpleITK as sitk
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    try:
        if syntax == _RLE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.asarray(dataset.pixel_array)
        bare = Dataset()
        bare.file_meta = FileMetaDataset()
        bare.file_meta.TransferSyntaxUID = syntax
        kind = _LONG if frames == 1 else _WORD_FRAMES
        bare.SOPClassUID = bare.file_meta.MediaStorageSOPClassUID = kind
        bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            setattr(bare, keyword, dataset.get(keyword, 0))
        if "HighBit" not in dataset:
            bare.HighBit = bare.BitsStored - 1
        bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
        if frames > 1:
            bare.NumberOfFrames = frames
        bare["PixelData"] = dataset["PixelData"]
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "bare.dcm"
            bare.save_as(copy, enforce_file_format=True)
            reader = sitk.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(copy))
            found = sitk.GetArrayFromImage(reader.Execute())
    except Exception as error:  # GDCM and pydicom have no common error, and name this copy and their own files
        name = pydicom.uid.UID(syntax).name
        name = name if name != syntax else "an unknown transfer syntax"
        raise ConfigError(f"{path}: its pixels cannot be unpacked, damaged or unknown ({name})") from error
    if found.dtype.kind == "f":
        raise ConfigError(f"{path}: its pixels cannot be unpacked as whole numbers")
    return np.asarray(found)


def padded(values: Array, dataset: Any, path: Path) -> Array | None:
    """Which stored values are ``PixelPaddingValue``, or in the range up to its limit; like ``values``; None: the file
    states none.

    Args:
        values: of any shape.
    """
    first, last = (number(dataset, f"PixelPadding{name}", path) for name in ("Value", "RangeLimit"))
    if first is None:
        return None
    if last is None:
        last = first
    bits = int(number(dataset, "BitsAllocated", path) or 16)

    def as_stored(value: float) -> int:
        whole = int(value) & ((1 << bits) - 1)  # its type in the header may be of the other sign
        return whole - (1 << bits) if values.dtype.kind == "i" and whole >> (bits - 1) else whole

    low, high = sorted((as_stored(first), as_stored(last)))
    found: Array = (values >= low) & (values <= high)
    return found
