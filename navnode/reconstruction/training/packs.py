"""Packs: training data small enough to carry to a GPU machine that has none, in one file.

A pack holds files of bodies and X-rays, as many as fit. X-rays and thicknesses are compressed by JPEG 2000, with losses
far below the noise that training adds (on average 0.005 line integrals and 0.03 mm); shares of bone have steps of 1/15.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.expansion import Budget, load_arrays
from navnode.files.whole import whole
from navnode.reconstruction.training.patients import TRAINS, VALIDATES
from navnode.types import Array

__all__ = ["PackReport", "pack", "unpack"]

FOLDERS = ("bodies3d", "xrays")
_INDEX, _SCHEMA = "index.json", "navnode/pack/1"
_STEPS = 65_535
_SHARE_STEPS = 15
_RATIO = {"bodies3d": 40, "xrays": 20}
"""Size of a compressed image, in thousandths of the original's."""
_MOST_BYTES = 1 << 28
"""An array that claims to be larger is refused: no file of X-rays or bodies is."""
_MOST_FILES = 100_000


class PackReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a pack holds."""

    bodies: int
    """Number of files of bodies, for the refiner."""
    xrays: int
    """Number of files of X-rays, for the reader."""


def pack(
    folder: Path,
    out: Path,
    *,
    most_bytes: int,
    bodies_share: float = 0.7,
    part: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> PackReport:
    """Pack a training's folder: first the files of validation patients, then others in a random order.

    Args:
        folder: ``--out`` of ``navnode train-reader`` and ``train-refiner``.
        out: the pack.
        most_bytes: the size that it may have.
        bodies_share: fraction of it for bodies, 0..1; the rest is for X-rays.
        part: begin after as many files as this many packs of the same size hold; for data that fit no single pack.
        progress: called with the share done, 0..1.

    Raises:
        ConfigError: there is nothing to pack, or a file of it is damaged.
    """
    if not any(_files(folder / name) for name in FOLDERS):
        raise ConfigError(f"{folder}: holds no rendered X-rays or bodies")
    counts, written = dict.fromkeys(FOLDERS, 0), 0
    with whole(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, share in zip(FOLDERS, (bodies_share, 1 - bodies_share), strict=True):
            left, at = share * most_bytes, 0.0  # for training files in each part, and where the next one comes
            for path in _files(folder / name):
                blob = _packed(path, _RATIO[name])
                if path.name.endswith(VALIDATES):
                    left -= len(blob)
                elif left < len(blob):
                    break
                else:
                    if at % left + len(blob) > left:
                        at = (at // left + 1) * left
                    number, at = at // left, at + len(blob)
                    if number < part:
                        continue
                    if number > part:
                        break
                archive.writestr(f"{name}/{path.name}", blob)
                written += len(blob)
                counts[name] += 1
                progress(min(written / most_bytes, 1.0))
        archive.writestr(_INDEX, json.dumps({"schema": _SCHEMA}))
    return _report(counts)


_DAMAGES = (
    *(OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, lzma.LZMAError, cv2.error),
    *(TypeError, AttributeError, RecursionError),  # values that are not what the names say
)
"""What reading a damaged pack ends with."""


def unpack(file: Path, folder: Path, progress: Callable[[float], None] = lambda share: None) -> PackReport:
    """Write a pack's files below ``folder``, where training finds them; files that are there are left alone.

    Raises:
        ConfigError: it is not a pack, or it is damaged.
    """
    counts = dict.fromkeys(FOLDERS, 0)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name != _INDEX]
            Budget(_MOST_BYTES).take(archive.getinfo(_INDEX).file_size)
            if len(names) > _MOST_FILES or json.loads(archive.read(_INDEX)).get("schema") != _SCHEMA:
                raise ConfigError(f"{file}: not a pack of training data")
            for done, name in enumerate(names):
                inside, _, plain = name.partition("/")
                if inside not in FOLDERS or plain != Path(plain).name or not plain.endswith((TRAINS, VALIDATES)):
                    raise ConfigError(f"{file}: a pack does not hold {name!r}")
                if archive.getinfo(name).file_size > _MOST_BYTES:
                    raise ConfigError(f"{file}: {name} is too large")
                path = folder / inside / plain
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    arrays: dict[str, Any] = dict(_unpacked(archive.read(name)))
                    with whole(path) as partial, partial.open("wb") as stream:
                        np.savez(stream, **arrays)
                counts[inside] += 1
                progress((done + 1) / len(names))
    except _DAMAGES as error:
        raise ConfigError(f"{file}: not a pack of training data, or damaged ({error})") from error
    return _report(counts)


def _report(counts: dict[str, int]) -> PackReport:
    return PackReport(bodies=counts["bodies3d"], xrays=counts["xrays"])


def _files(folder: Path) -> list[Path]:
    """Files of validation patients by name, then the others in the same random order every time."""
    validating, others = (sorted(folder.glob(f"*{ending}")) for ending in (VALIDATES, TRAINS))
    np.random.default_rng(0).shuffle(others)
    return [*validating, *others]


def _packed(path: Path, ratio: int) -> bytes:
    """A file of X-rays or bodies, compressed; raises ConfigError for others."""
    try:
        return _compressed(path, ratio)
    except _DAMAGES as error:
        raise ConfigError(f"{path}: not rendered X-rays or a body, or damaged ({error})") from error


def _compressed(path: Path, ratio: int) -> bytes:
    index: dict[str, Any] = {}
    blobs: list[bytes] = []
    with load_arrays(path) as arrays:
        for name in arrays.files:
            array = arrays[name]
            if array.dtype == np.float16 and array.ndim == 3:
                top = max(float(array.max()), 1e-6)
                steps = np.round(array.astype(np.float32) * (_STEPS / top)).clip(0, _STEPS).astype(np.uint16)
                images = [_jpeg_2000(image, ratio) for image in steps]
                index[name] = {"images": [len(image) for image in images], "top": top, "shape": array.shape}
                blobs += images
            elif array.dtype == np.uint8:
                halves = ((array.astype(np.uint16) * _SHARE_STEPS + 127) // 255).astype(np.uint8).reshape(-1, 2)
                blobs.append(lzma.compress((halves[:, 0] << 4 | halves[:, 1]).tobytes()))
                index[name] = {"shares": len(blobs[-1]), "shape": array.shape}
            else:
                stream = io.BytesIO()
                np.save(stream, array, allow_pickle=False)
                blobs.append(stream.getvalue())
                index[name] = {"array": len(blobs[-1])}
    head = json.dumps(index).encode()
    return len(head).to_bytes(4, "little") + head + b"".join(blobs)


def _unpacked(blob: bytes) -> Iterator[tuple[str, Array]]:
    """The arrays of a packed file by name; raises ValueError if it is damaged."""
    at = 4 + int.from_bytes(blob[:4], "little")
    index, budget = json.loads(blob[4:at]), Budget(_MOST_BYTES)

    def taken(count: int) -> bytes:
        nonlocal at
        at += int(count)
        return blob[at - int(count) : at]

    for name, entry in index.items():
        if not name.isidentifier() or name == "file":
            raise ValueError(f"no array is called {name!r}")
        if "images" in entry:
            shape = _checked(entry["shape"], 2, budget)
            if len(entry["images"]) != shape[0]:
                raise ValueError(f"images of {name!r} are damaged")
            decoded = [cv2.imdecode(np.frombuffer(taken(n), np.uint8), cv2.IMREAD_UNCHANGED) for n in entry["images"]]
            images = [image for image in decoded if image is not None and image.shape == shape[1:]]
            if len(images) != shape[0]:
                raise ValueError(f"images of {name!r} are damaged")
            yield name, (np.stack(images).astype(np.float32) * (float(entry["top"]) / _STEPS)).astype(np.float16)
        elif "shares" in entry:
            shape = _checked(entry["shape"], 1, budget)
            size = int(np.prod(shape)) // 2
            pairs = np.frombuffer(lzma.LZMADecompressor().decompress(taken(entry["shares"]), size), np.uint8)
            steps = np.stack([pairs >> 4, pairs & 15], axis=1)
            yield name, (steps * np.uint8(255 // _SHARE_STEPS)).reshape(shape)
        else:
            array = load_arrays(taken(entry["array"]), budget.left_bytes)
            budget.take(array.nbytes)
            yield name, array


def _checked(shape: list[int], item_bytes: int, budget: Budget) -> tuple[int, ...]:
    """A shape that may be allocated beside what was; raises ValueError for others."""
    if not 1 <= len(shape) <= 4 or min(shape) < 1:
        raise ValueError(f"the shape {shape} is not one of X-rays or bodies")
    budget.take(float(np.prod([float(n) for n in shape])) * item_bytes)
    return tuple(int(n) for n in shape)


def _jpeg_2000(image: Array, ratio: int) -> bytes:
    _, encoded = cv2.imencode(".jp2", image, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, ratio])
    return bytes(encoded)
