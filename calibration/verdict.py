"""A routine's result, its quality and whether it may be used: gates, verdict, document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files.artifacts import UNITS, Artifact, Kind
from navnode.types import Array

__all__ = [
    "Calibration",
    "Figure",
    "Gate",
    "Gates",
    "Picture",
    "TOO_FEW",
    "TOO_MANY_REJECTED",
    "judged",
    "limits",
    "plain",
    "rejection",
]

R = TypeVar("R")

Gates = Mapping[str, float]
"""Limits by key that replace a routine's own."""

Picture = tuple[str, Mapping[str, Any]]
"""Name of a drawing in :mod:`calibration.report`, and its data."""

MOST_REJECTED = 1 / 3
"""Largest share of rows that may be excluded as outliers."""
TOO_FEW, TOO_MANY_REJECTED = "too_few", "too_many_rejected"


@dataclass(frozen=True)
class Gate:
    """A limit for a quality figure."""

    key: str
    limit: float
    code: str
    """Stable code of the failure."""
    what: str
    """The figure in words: ``the largest tilt between two poses``."""
    advice: str
    """What to do if the limit is exceeded."""
    unit: str = ""
    at_least: bool = False
    """Whether the limit is a minimum."""

    def keeps(self, value: float | None, limit: float) -> bool:
        """Whether a value is within the limit; an unknown one is not."""
        if value is None or math.isnan(value):
            return False
        return value >= limit if self.at_least else value <= limit

    def broken(self, value: float | None, limit: float) -> str:
        """The reason for a failure, ``code: sentence``; ``value`` and ``limit`` in the gate's unit."""
        unit = f" {self.unit}" if self.unit else ""
        known = value is not None and not math.isnan(value)
        measured = f"is {_shown(value)}{unit}" if known and value is not None else "is unknown"
        bound = "at least" if self.at_least else "at most"
        return f"{self.code}: {self.what} {measured}, {bound} {_shown(limit)}{unit} is needed; {self.advice}"


@dataclass(frozen=True)
class Figure:
    """A figure beside its gate."""

    gate: Gate
    value: float | None
    """In the gate's unit; the worst, if there are several; None: unknown."""
    limit: float
    """The limit in force."""

    @property
    def kept(self) -> bool:
        """Whether the figure is within its limit."""
        return self.gate.keeps(self.value, self.limit)


@dataclass(frozen=True)
class Calibration(Generic[R]):
    """A routine's result, and whether it may be used."""

    kind: Kind[R]
    result: R | None
    """None if the data were insufficient; must not be used if the calibration failed."""
    quality: Mapping[str, object]
    """Figures by name, and ``gates``."""
    gates: Mapping[str, float]
    """The limits in force."""
    reason: str = ""
    """Empty when it passed; otherwise ``code: sentence``."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """Arrays stored beside the document: a flat field's images (H, W)."""
    pictures: Sequence[Picture] = ()
    figures: Sequence[Figure] = ()
    """Every gate with its figure, in the order in which they are judged."""

    @property
    def passed(self) -> bool:
        """Whether all gates were kept."""
        return not self.reason

    @property
    def code(self) -> str:
        """Code of the failure; empty if it passed."""
        return self.reason.partition(":")[0]

    def document(self) -> dict[str, Any]:
        """JSON document with ``kind``, ``status``, ``reason``, ``result`` and ``quality``; NaN becomes None."""
        return {
            "kind": self.kind.name,
            "status": "PASS" if self.passed else "FAIL",
            "reason": self.reason,
            "result": {} if self.result is None else plain(msgspec.to_builtins(self.result)),
            "quality": plain(self.quality),
        }

    def artifact(
        self,
        now_ns: int,
        *,
        device: str = "",
        mode: str = "",
        case: str = "",
        days_valid: float | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Artifact[R]:
        """The artifact of a calibration that passed.

        Args:
            device, mode: names of the calibrated device and its mode.
            case: to which it belongs.
            days_valid: None: the default, 0: unlimited.
            inputs: file -> SHA-256.
        """
        assert self.passed and self.result is not None, "failed calibrations are never written"
        return Artifact(
            kind=self.kind.name,
            status="PASS",
            result=self.result,
            quality=plain(self.quality),
            device=device,
            mode=mode,
            case=case,
            created_ns=now_ns,
            expires_ns=self.kind.expires_ns(now_ns, days_valid),
            inputs=dict(inputs or {}),
            frames=dict(self.kind.frames),
            units=UNITS,
        )


def limits(gates: Sequence[Gate], overrides: Gates | None) -> dict[str, float]:
    """The limits in force.

    Raises:
        ConfigError: a key is unknown, or a limit is not finite.
    """
    own = {gate.key: gate.limit for gate in gates}
    for key, limit in (overrides or {}).items():
        if key not in own:
            raise ConfigError(f"--gate {key}: unknown gate; known: {', '.join(own)}")
        if not math.isfinite(limit):
            raise ConfigError(f"--gate {key}: the limit must be a finite number")
    return {**own, **(overrides or {})}


def judged(
    kind: Kind[R],
    gates: Sequence[Gate],
    overrides: Gates | None,
    figures: Mapping[str, float | None],
    *,
    result: R | None,
    quality: Mapping[str, object],
    reason: str = "",
    arrays: Mapping[str, Array] | None = None,
    pictures: Sequence[Picture] = (),
) -> Calibration[R]:
    """Judge a result; the reason for failure is the first gate, in order, whose figure is out of limits.

    Args:
        overrides: limits that replace those of ``gates``.
        arrays: of any shape, stored beside the document.
        figures: by the gates' keys; missing ones are taken from ``quality``.
        reason: a failure that precedes all gates.

    Raises:
        ConfigError: as :func:`limits`.
    """
    in_force = limits(gates, overrides)
    beside = tuple(
        Figure(gate, figures[gate.key] if gate.key in figures else _number(quality.get(gate.key)), in_force[gate.key])
        for gate in gates
    )
    for each in beside:
        if reason:
            break
        if not each.kept:
            reason = each.gate.broken(each.value, each.limit)
    return Calibration(kind, result, {**quality, "gates": in_force}, in_force, reason, arrays or {}, pictures, beside)


def _number(figure: object) -> float | None:
    """A quality figure as a finite number."""
    if figure is None:
        return None
    assert isinstance(figure, int | float | np.number)
    return float(figure) if math.isfinite(figure) else None


def rejection(n_input: int, rejected: int) -> str:
    """The reason for failure if too many rows were rejected, or ''."""
    if n_input and rejected > MOST_REJECTED * n_input:
        return (
            f"{TOO_MANY_REJECTED}: {rejected} of {n_input} rows do not fit the others, at most a third may; "
            "repeat the measurement and watch for occlusions and slips"
        )
    return ""


def plain(value: Any) -> Any:
    """Convert arrays, NumPy numbers and tuples for JSON; non-finite numbers become None."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _shown(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.3g}"
