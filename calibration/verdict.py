"""What a routine found, how good it is, and whether it may be used: gates, verdict, document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from navnode.errors import ConfigError

Gates = Mapping[str, float]
"""Limits by key, in place of a routine's own."""

MOST_REJECTED = 1 / 3
"""Share of the rows that may be set aside; data of which more is wrong are not understood."""
TOO_FEW, TOO_MANY_REJECTED = "too_few", "too_many_rejected"


@dataclass(frozen=True)
class Gate:
    """A limit that a figure of quality must keep."""

    key: str
    limit: float
    code: str
    """Of the failure; stable."""
    what: str
    """The figure, in words: ``the largest tilt between two poses``."""
    advice: str
    """What to do when it is not kept."""
    unit: str = ""
    at_least: bool = False

    def keeps(self, value: float | None, limit: float) -> bool:
        """Whether a value is within the limit; one that is not known is not."""
        if value is None or math.isnan(value):
            return False
        return value >= limit if self.at_least else value <= limit

    def broken(self, value: float | None, limit: float) -> str:
        """``code: sentence``"""
        unit = f" {self.unit}" if self.unit else ""
        known = value is not None and not math.isnan(value)
        measured = f"is {_shown(value)}{unit}" if known and value is not None else "cannot be told"
        bound = "at least" if self.at_least else "at most"
        return f"{self.code}: {self.what} {measured}, {bound} {_shown(limit)}{unit} is needed; {self.advice}"


@dataclass(frozen=True)
class Calibration:
    """What a routine found, and whether it may be used."""

    kind: str
    result: Mapping[str, Any]
    quality: Mapping[str, Any]
    reason: str = ""
    """Empty when it passed; otherwise ``code: sentence``."""
    arrays: Mapping[str, Any] = field(default_factory=dict)
    """What is kept beside the document: a flat field's pictures."""
    pictures: Sequence[Any] = ()
    """What a report draws; see :mod:`calibration.report`."""

    @property
    def passed(self) -> bool:
        return not self.reason

    @property
    def code(self) -> str:
        """Of the failure; empty when it passed."""
        return self.reason.partition(":")[0]

    def document(self) -> dict[str, Any]:
        """JSON: ``kind``, ``status``, ``reason``, ``result`` and ``quality``, without NaN."""
        return {
            "kind": self.kind,
            "status": "PASS" if self.passed else "FAIL",
            "reason": self.reason,
            "result": plain(self.result),
            "quality": plain(self.quality),
        }


def limits(gates: Sequence[Gate], given: Gates | None) -> dict[str, float]:
    """The limits in force.

    Raises:
        ConfigError: a key that no gate has, or a limit that is no number.
    """
    own = {gate.key: gate.limit for gate in gates}
    for key, limit in (given or {}).items():
        if key not in own:
            raise ConfigError(f"--gate {key}: there is no such gate; there are: {', '.join(own)}")
        if not math.isfinite(limit):
            raise ConfigError(f"--gate {key}: the limit must be a finite number")
    return {**own, **(given or {})}


def judged(
    kind: str,
    gates: Sequence[Gate],
    given: Gates | None,
    figures: Mapping[str, float | None],
    *,
    result: Mapping[str, Any],
    quality: Mapping[str, Any],
    reason: str = "",
    arrays: Mapping[str, Any] | None = None,
    pictures: Sequence[Any] = (),
) -> Calibration:
    """The verdict: the first gate, in their order, that its figure does not keep.

    Args:
        figures: by the gates' keys; one that is missing is taken from ``quality``.
        reason: what is wrong already, before any gate.
    """
    in_force = limits(gates, given)
    for gate in gates:
        if reason:
            break
        value = figures[gate.key] if gate.key in figures else quality[gate.key]
        if not gate.keeps(value, in_force[gate.key]):
            reason = gate.broken(value, in_force[gate.key])
    return Calibration(kind, result, {**quality, "gates": in_force}, reason, arrays or {}, pictures)


def rejection(n_input: int, rejected: int) -> str:
    """Why this many rows set aside are too many; empty when they are not."""
    if n_input and rejected > MOST_REJECTED * n_input:
        return (
            f"{TOO_MANY_REJECTED}: {rejected} of {n_input} rows do not fit the others, at most a third may; "
            "repeat the measurement and watch for occlusions and slips"
        )
    return ""


def plain(value: Any) -> Any:
    """Arrays, NumPy's numbers and tuples as JSON has them; what is not finite as None."""
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
