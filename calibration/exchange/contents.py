"""What a file of another program holds of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
