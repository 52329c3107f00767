"""ITK's transforms."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from navnode.errors import ConfigError
from navnode.files.artifacts import Artifact
from navnode.files.whole import whole
from navnode.geometry import RAS_FROM_LPS

from .contents import Exchanged

__all__ = ["read", "write"]

_MAX_BYTES = 1 << 20
"""A linear transform has some kilobytes."""
_TEXT = b"#Insight Transform File"
_HDF5 = b"\x89HDF"
_SPACES = re.compile(rb"(?s)(?=(?:\x01\x01[\x00-\x03]\x00{5}|\x02\x01[\x00-\x03]\x01)(.{8}))")
"""HDF5's messages, of both versions, that state how many numbers a series holds (its specification, IV.A.2.b), wherever
they are; ITK reads nothing of more dimensions."""
_REWRITE = "import sys, SimpleITK as s; s.WriteTransform(s.ReadTransform(sys.argv[1]), sys.argv[2])"
_REWRITTEN_S = 20.0
_MOST_NUMBERS = 1 << 20
_DEEPEST = 8
_LEAST_SHRINKING, _MOST_STRETCHING = 1e-3, 1e3


def read(path: Path) -> Exchanged:
    """Read a linear transform; ITK's map points of the resampled image to those of the original, in LPS.

    Raises:
        ConfigError: the file is cut short or damaged, holds several transforms, or one that is not linear.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path}: too large for a linear transform")
    content = path.read_bytes()
    if content.startswith(_TEXT):
        _check_text(path, content)
    elif content.startswith(_HDF5):
        _check_stated(path, content)
    else:
        raise ConfigError(f"{path}: not a transform of ITK")
    transform = _of_hdf5(path) if content.startswith(_HDF5) else _of_text(content)
    inner, stored = transform, _nested(transform)
    for _ in range(_DEEPEST):  # what SimpleITK has no class for stays within a composite, however often one looks
        if stored != 1:
            break
        inner = sitk.CompositeTransform(inner).GetNthTransform(0)
        stored = _nested(inner)
    held = content.count(b"TransformType") - (b"CompositeTransform" in content) if content.startswith(_HDF5) else 1
    if stored > 1 or held > 1:
        raise ConfigError(f"{path}: holds {max(stored, held)} transforms; store the one that is meant by itself")
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise ConfigError(f"{path}: not a linear transform of space")
    if not np.isfinite([*transform.GetParameters(), *transform.GetFixedParameters()]).all():
        raise ConfigError(f"{path}: some of its numbers are not finite")
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = np.stack(axes, axis=1), origin
    if not _LEAST_SHRINKING < abs(np.linalg.det(lps[:3, :3])) < _MOST_STRETCHING:
        raise ConfigError(f"{path}: its matrix cannot be inverted")
    return Exchanged({("A", "B"): RAS_FROM_LPS @ np.linalg.inv(lps) @ RAS_FROM_LPS})


def _check_stated(path: Path, content: bytes) -> None:
    """Refuse what HDF5 would make room for, although a small file cannot hold it: compressed, or left out."""
    stated = [struct.unpack("<Q", found[1])[0] for found in _SPACES.finditer(content)]
    if max(stated, default=0) > _MOST_NUMBERS:
        raise ConfigError(f"{path}: states more numbers than a linear transform has")


def _of_text(content: bytes) -> Any:
    """Read text from a copy, whose ending is one that ITK knows."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "transform.tfm"
        copy.write_bytes(content)
        return sitk.ReadTransform(str(copy))


def _of_hdf5(path: Path) -> Any:
    """Read HDF5 by way of another process, which rewrites it as text: damaged files crash the library."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "transform.tfm"
        command = [sys.executable, "-c", _REWRITE, str(path), str(text)]
        try:
            done = subprocess.run(  # noqa: S603 - no shell reads it: our own program, the path is an argument
                command, capture_output=True, timeout=_REWRITTEN_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"{path}: damaged (its HDF5 is not read within {_REWRITTEN_S:.0f} s)") from error
        if done.returncode or not text.is_file():
            raise ConfigError(f"{path}: damaged (its HDF5 cannot be read)")
        content = text.read_bytes()
        _check_finite(path, content.decode("utf-8", "replace").splitlines())
        return _of_text(content)


def _nested(transform: Any) -> int:
    """How many transforms a composite one holds; 0: it is a plain one."""
    if transform.GetName() != "CompositeTransform":
        return 0
    return int(sitk.CompositeTransform(transform).GetNumberOfTransforms())


def _check_text(path: Path, content: bytes) -> None:
    """ITK reads a file that ends too early as what came before, or as the identity."""
    lines = content.decode("utf-8", "replace").splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("Transform:")]
    for key in ("Transform", "Parameters", "FixedParameters"):
        found = sum(line.startswith(f"{key}:") for line in lines)
        if found == 0 or (found < len(named) and not any("Composite" in name for name in named)):
            raise ConfigError(f"{path}: cut short (a transform without {key})")
    if not content.endswith(b"\n"):
        raise ConfigError(f"{path}: cut short (its last line does not end)")
    stated = [sum(line.startswith(f"{key}:") for line in lines) for key in ("Parameters", "FixedParameters")]
    if max(stated) > len(named):
        raise ConfigError(f"{path}: a transform has parameters twice")
    if len(named) > 1 and "Composite" not in named[0]:
        raise ConfigError(f"{path}: holds {len(named)} transforms; store the one that is meant by itself")
    wanted = {
        "AffineTransform": (12, 3),
        "MatrixOffsetTransformBase": (12, 3),
        "Euler3DTransform": (6, None),
        "VersorRigid3DTransform": (6, 3),
        "TranslationTransform": (3, 0),
        "Similarity3DTransform": (7, 3),
        "ScaleVersor3DTransform": (9, 3),
    }
    kind = named[-1].partition("_")[0]
    _check_finite(path, lines)
    for key, place in (("Parameters", 0), ("FixedParameters", 1)):
        text = [line.partition(":")[2].split() for line in lines if line.startswith(f"{key}:")][-1]
        count = wanted.get(kind, (None, None))[place]
        if count is not None and len(text) != count:
            raise ConfigError(f"{path}: cut short ({key} has {len(text)} numbers, {kind} needs {count})")


def _check_finite(path: Path, lines: list[str]) -> None:
    """Refuse parameters that are not finite numbers: ITK's rotations and scales crash on them."""
    for line in lines:
        key, _, text = line.partition(":")
        if key not in ("Parameters", "FixedParameters"):
            continue
        try:
            numbers = [float(part) for part in text.split()]
        except ValueError as error:
            raise ConfigError(f"{path}: {key} holds {error}") from error
        if not np.isfinite(numbers).all():
            raise ConfigError(f"{path}: some of its numbers are not finite ({key})")


def write(ours: Exchanged, artifact: Artifact[Any], path: Path) -> None:
    """Write the only transform of a calibration.

    Raises:
        ConfigError: the calibration is not one transform, or the file cannot be written.
    """
    if len(ours.transforms) != 1:
        raise ConfigError(f"{path}: this format stores one transform, not a {artifact.kind} calibration")
    (matrix,) = ours.transforms.values()
    lps = RAS_FROM_LPS @ np.linalg.inv(matrix) @ RAS_FROM_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    try:
        with whole(path) as part:
            sitk.WriteTransform(transform, str(part))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1]})") from error
