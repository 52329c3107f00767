"""What a file of another program holds of ours."""

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


@dataclass(frozen=True)
class Exchanged:
    """What a file of another program holds of ours."""

    transforms: Mapping[tuple[str, str], Matrix] = field(default_factory=dict)
    """(from, to) -> to_from_from, 4x4."""
    points_mm: Mapping[str, Matrix] = field(default_factory=dict)
    """label -> (3,) RAS"""
    carm: CArm | None = None
    angles_deg: tuple[float, float] | None = None
    """Orbital, angulation, where a DICOM image states them."""
    lags_s: Mapping[str, float] = field(default_factory=dict)
    """PLUS device -> how much later than the others it is stamped."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "transforms": [
                {"from": a, "to": b, "matrix": matrix.tolist()} for (a, b), matrix in self.transforms.items()
            ],
            "points_mm": {label: at.tolist() for label, at in self.points_mm.items()},
            "carm": carm_document(self.carm) if self.carm is not None else None,
            "angles_deg": self.angles_deg,
            "lags_s": dict(self.lags_s),
        }


def write_imported(found: Exchanged, out: Path, a: str = "", b: str = "") -> None:
    """What another program's file holds, as our own commands read it.

    Args:
        out: ``.npy`` for a transform, ``.csv`` for points, ``.json`` for a C-arm.
        a, b: which transform, if there are several: from, to.

    Raises:
        ConfigError: it does not hold that, or cannot be written.
    """
    if out.suffix == ".npy":
        some = {pair: matrix for pair, matrix in found.transforms.items() if a in ("", pair[0]) and b in ("", pair[1])}
        if len(some) != 1:
            there = ", ".join(f"{source} to {target}" for source, target in found.transforms) or "none"
            raise ConfigError(f"{out}: one transform is written; name it with --from and --to; there are: {there}")
        packed = io.BytesIO()
        np.save(packed, next(iter(some.values())))
        whole.write_whole(out, packed.getvalue())
    elif out.suffix == ".csv":
        lines = ["label,x_mm,y_mm,z_mm", *(f"{k},{v[0]:.9g},{v[1]:.9g},{v[2]:.9g}" for k, v in found.points_mm.items())]
        whole.write_whole(out, ("\n".join(lines) + "\n").encode())
    elif out.suffix == ".json" and found.carm is not None:
        document = msgspec.json.format(msgspec.json.encode(carm_document(found.carm)), indent=1)
        whole.write_whole(out, document + b"\n")
    else:
        raise ConfigError(f"{out}: .json for a C-arm, .csv for points, .npy for a transform, and the file must have it")
