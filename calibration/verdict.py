"""What a routine found, how good it is, and whether it may be used: gates, verdict, document."""

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

R = TypeVar("R")

Gates = Mapping[str, float]
"""Limits by key, in place of a routine's own."""

Picture = tuple[str, Mapping[str, Any]]
"""Which drawing of :mod:`calibration.report`, and the arrays that it needs."""

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
class Calibration(Generic[R]):
    """What a routine found, and whether it may be used."""

    kind: Kind[R]
    result: R | None
    """None where there is not enough to find anything; of what failed, it is not to be used."""
    quality: Mapping[str, object]
    """Figures by their names; every routine's own, and ``gates``."""
    gates: Mapping[str, float]
    """The limits in force."""
    reason: str = ""
    """Empty when it passed; otherwise ``code: sentence``."""
    arrays: Mapping[str, Array] = field(default_factory=dict)
    """What is kept beside the document: a flat field's pictures."""
    pictures: Sequence[Picture] = ()

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
        days_valid: float | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Artifact[R]:
        """What is written of a calibration that passed.

        Args:
            device, mode: of what it is.
            days_valid: None: as usual, 0: for ever.
            inputs: file -> SHA-256.
        """
        assert self.passed and self.result is not None, "what failed is not written"
        return Artifact(
            kind=self.kind.name,
            status="PASS",
            result=self.result,
            quality=plain(self.quality),
            device=device,
            mode=mode,
            created_ns=now_ns,
            expires_ns=self.kind.expires_ns(now_ns, days_valid),
            inputs=dict(inputs or {}),
            frames=dict(self.kind.frames),
            units=UNITS,
        )


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
    kind: Kind[R],
    gates: Sequence[Gate],
    given: Gates | None,
    figures: Mapping[str, float | None],
    *,
    result: R | None,
    quality: Mapping[str, object],
    reason: str = "",
    arrays: Mapping[str, Array] | None = None,
    pictures: Sequence[Picture] = (),
) -> Calibration[R]:
    """The verdict: the first gate, in their order, that its figure does not keep.

    Args:
        figures: by the gates' keys; one that is missing is taken from ``quality``.
        reason: what is wrong already, before any gate.
    """
    in_force = limits(gates, given)
    for gate in gates:
        if reason:
            break
        value = figures[gate.key] if gate.key in figures else _number(quality[gate.key])
        if not gate.keeps(value, in_force[gate.key]):
            reason = gate.broken(value, in_force[gate.key])
    return Calibration(kind, result, {**quality, "gates": in_force}, in_force, reason, arrays or {}, pictures)


def _number(figure: object) -> float | None:
    """A figure that a gate looks at by its name."""
    assert figure is None or isinstance(figure, int | float | np.number)
    return None if figure is None else float(figure)


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
