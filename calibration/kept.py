"""Checks stored calibrations: verdict, age, device, and whether their input files have changed."""

from __future__ import annotations

from pathlib import Path

from navnode.errors import CalibrationError
from navnode.files import artifacts
from navnode.xray.correction import read_flat_field

__all__ = ["why_not_usable"]


def why_not_usable(path: Path, now_ns: int, *, device: str = "", mode: str = "", case: str = "") -> str:
    """Why a calibration must no longer be used, or ''.

    Raises:
        CalibrationError: the file cannot be read or is not a calibration.
    """
    if path.suffix == ".npz":
        return _flat_field_problem(path)
    artifact = artifacts.read(path)
    if problem := artifacts.wrong(artifact, now_ns, device=device, mode=mode, case=case):
        return problem
    for name, digest in artifact.inputs.items():
        file = Path(name)
        if file.is_file() and artifacts.hashed(file) != digest:
            return f"{name} has changed since the calibration was made"
    return ""


def _flat_field_problem(path: Path) -> str:
    try:
        read_flat_field(path)
    except CalibrationError as error:
        return str(error)
    return ""
