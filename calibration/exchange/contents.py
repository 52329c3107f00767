"""Contents of other programs' files that calibration uses."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files import whole
from navnode.geometry import carm_document
from navnode.types import CArm, Matrix

__all__ = ["Exchanged", "write_imported"]


@dataclass(frozen=True)
class Exchanged:
    """Useful contents of another program's file."""

    transforms: Mapping[tuple[str, str], Matrix] = field(default_factory=dict)
    """(from, to) -> to_from_from, 4x4."""
    points_mm: Mapping[str, Matrix] = field(default_factory=dict)
    """label -> (3,) RAS"""
    carm: CArm | None = None
    angles_deg: tuple[float, float] | None = None
    """Orbital and angulation, if a DICOM image carries them."""
    lags_s: Mapping[str, float] = field(default_factory=dict)
    """PLUS device -> how much later than the others it is stamped."""

    def document(self) -> dict[str, Any]:
        """JSON document of the contents."""
        return {
            "transforms": [
                {"from": a, "to": b, "matrix": matrix.tolist()} for (a, b), matrix in self.transforms.items()
            ],
            "points_mm": {label: at.tolist() for label, at in self.points_mm.items()},
            "carm": carm_document(self.carm) if self.carm is not None else None,
            "angles_deg": self.angles_deg,
            "lags_s": dict(self.lags_s),
        }


def write_imported(contents: Exchanged, out: Path, a: str = "", b: str = "") -> None:
    """Write the contents of another program's file in the form that navnode's commands read.

    Args:
        out: ``.npy`` for a transform, ``.csv`` for points, ``.json`` for a C-arm.
        a, b: names of the transform's frames (from, to), if there are several.

    Raises:
        ConfigError: the contents lack the wanted part, or the file cannot be written.
    """
    if out.suffix == ".npy":
        some = {
            pair: matrix for pair, matrix in contents.transforms.items() if a in ("", pair[0]) and b in ("", pair[1])
        }
        if len(some) != 1:
            names = ", ".join(f"{source} to {target}" for source, target in contents.transforms) or "none"
            raise ConfigError(f"{out}: choose one transform with --from and --to; there are: {names}")
        packed = io.BytesIO()
        np.save(packed, next(iter(some.values())))
        whole.write_whole(out, packed.getvalue())
    elif out.suffix == ".csv":
        lines = [
            "label,x_mm,y_mm,z_mm",
            *(f"{k},{v[0]:.9g},{v[1]:.9g},{v[2]:.9g}" for k, v in contents.points_mm.items()),
        ]
        whole.write_whole(out, ("\n".join(lines) + "\n").encode())
    elif out.suffix == ".json" and contents.carm is not None:
        document = msgspec.json.format(msgspec.json.encode(carm_document(contents.carm)), indent=1)
        whole.write_whole(out, document + b"\n")
    else:
        raise ConfigError(f"{out}: use .json for a C-arm, .csv for points, .npy for a transform that the file contains")
