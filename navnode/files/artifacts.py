"""Calibration artifacts on disk, ``navnode/calibration/1``: what calibration writes and the node loads.

An artifact is the document that a routine printed, with whose it is and until when it holds. Only what passed is ever
written, and nothing that failed, expired, or belongs to another device or mode is given out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from navnode.errors import CalibrationError
from navnode.files.whole import write_whole
from navnode.geometry import is_rigid
from navnode.types import Matrix

KINDS = ("pivot", "spin", "carm", "flex", "handeye", "patient", "temporal", "flatfield", "phantom", "tool")
SCHEMA: Final = "navnode/calibration/1"
_MAX_BYTES = 1 << 26
_NS_PER_DAY = 86_400_000_000_000


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One calibration."""

    schema: Literal["navnode/calibration/1"] = SCHEMA
    kind: str
    status: str
    reason: str = ""
    result: dict[str, Any] = {}
    quality: dict[str, Any] = {}
    device: str = ""
    """Which tool, C-arm or detector it is of; empty: not said."""
    mode: str = ""
    """Of the detector: field of view, binning; empty: not said."""
    created_ns: int = 0
    expires_ns: int = 0
    """0: never."""
    inputs: dict[str, str] = {}
    """File -> SHA-256."""
    frames: dict[str, str] = {}
    """Result -> in which frame, or from which to which."""
    units: dict[str, str] = {}


def read(path: str | Path) -> Artifact:
    """An artifact, whatever its verdict.

    Raises:
        CalibrationError: it cannot be read, or is none.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CalibrationError(f"{path}: too large for a calibration")
        found = msgspec.json.decode(path.read_bytes(), type=Artifact)
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: no calibration ({error})") from error
    if found.kind not in KINDS:
        raise CalibrationError(f"{path}: {found.kind!r} is no kind of calibration; there are: {', '.join(KINDS)}")
    return found


def usable(path: str | Path, kind: str, now_ns: int, *, device: str = "", mode: str = "") -> Artifact:
    """An artifact that may be used.

    Args:
        device, mode: that it must be of; empty, here or there: not compared.

    Raises:
        CalibrationError: it is not; names it and says why.
    """
    found = read(path)
    if problem := wrong(found, kind, now_ns, device=device, mode=mode):
        raise CalibrationError(f"{path}: {problem}")
    return found


def wrong(artifact: Artifact, kind: str, now_ns: int, *, device: str = "", mode: str = "") -> str:
    """Why an artifact may not be used; empty when it may."""
    if artifact.kind != kind:
        return f"a {artifact.kind} calibration, not {kind}"
    if artifact.status != "PASS" or artifact.reason:
        return f"it failed ({artifact.reason or artifact.status})"
    if artifact.expires_ns and now_ns > artifact.expires_ns:
        return f"expired {(now_ns - artifact.expires_ns) / _NS_PER_DAY:.1f} days ago; calibrate again"
    for what, wanted, own in (("device", device, artifact.device), ("detector mode", mode, artifact.mode)):
        if wanted and own and wanted != own:
            return f"it is for {what} {own!r}, not {wanted!r}"
    for name, value in artifact.result.items():
        if "_from_" in name and not is_rigid(_array(value)):
            return f"{name} is no rigid transform"
    return ""


def matrix_of(artifact: Artifact, name: str) -> Matrix:
    """A rigid transform of a result that was checked."""
    return _array(artifact.result[name])


def write(path: Path, artifact: Artifact) -> None:
    """Write an artifact that passed, all at once: what was there before stays until the new one is whole.

    Raises:
        ConfigError: it cannot be written there.
    """
    assert artifact.status == "PASS", "what failed is not written"
    write_whole(path, msgspec.json.format(msgspec.json.encode(artifact), indent=1) + b"\n")


def hashed(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _array(value: Any) -> Matrix:
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError):
        return np.zeros(0)
