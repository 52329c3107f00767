"""Calibrations that are kept, looked at again: verdict, age, device, and the data that they were made of."""

from __future__ import annotations

from pathlib import Path

from navnode.errors import CalibrationError
from navnode.files import artifacts
from navnode.xray.correction import read_flat_field


def why_not_usable(path: Path, now_ns: int, *, device: str = "", mode: str = "") -> str:
    """Why a calibration may not be used any more; empty when it may.

    Raises:
        CalibrationError: it cannot be read, or is none.
    """
    if path.suffix == ".npz":
        return _why_no_flat_field(path)
    found = artifacts.read(path)
    if problem := artifacts.wrong(found, now_ns, device=device, mode=mode):
        return problem
    for name, digest in found.inputs.items():
        given = Path(name)
        if given.is_file() and artifacts.hashed(given) != digest:
            return f"{name} has changed since the calibration was made"
    return ""


def _why_no_flat_field(path: Path) -> str:
    try:
        read_flat_field(path)
    except CalibrationError as error:
        return str(error)
    return ""
