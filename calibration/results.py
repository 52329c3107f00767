"""What a calibration found, in the units that people use, and how it differs from the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.files.artifacts import (
    CARM,
    FLATFIELD,
    FLEX,
    HANDEYE,
    IMAGE_LAG,
    PATIENT,
    PHANTOM,
    PIVOT,
    PLATE,
    SPIN,
    TOOL,
    Artifact,
    Kind,
)
from navnode.xray.distortion import field_of

from .verdict import Calibration, Figure, plain

__all__ = [
    "Change",
    "Found",
    "Measured",
    "brief",
    "change_in_words",
    "changes",
    "found",
    "found_in_words",
    "in_words",
    "measured",
    "part_in_words",
    "rounded",
    "values_in_words",
]

_95 = 1.96
"""Standard errors in half of a 95 % interval."""
_PEOPLE = {"rad": (180 / np.pi, "°"), "ns": (1e-6, "ms")}
"""Unit of a figure -> factor and unit for people."""
_SHARES = (
    "saturated_fraction",
    "bad_fraction",
    "drift",
    "nonuniformity",
    "visible",
    "coverage",
    "scale_off",
    "damaged",
)
"""Figures without a unit that people read in per cent."""

_WORDS = {
    "tip": "tip",
    "axis": "axis",
    "axis_error": "95 % within",
    "distance": "source to detector",
    "principal_point": "principal point",
    "bead_residual": "residual of the beads",
    "distortion": "distortion",
    "largest_shift": "largest distortion",
    "held_out": "error at holes left out",
    "pixel_size": "a pixel covers",
    "angle_range": "range of angles",
    "left_out": "error at an angle left out",
    "source_from_marker": "from marker to source",
    "turned": "rotation",
    "lag": "images are late by",
    "open_beam": "open beam",
    "bad_pixels": "bad pixels",
    "point_residual": "residual of the points",
    "expected_error": "expected error at the worst target",
    "target_median": "median error",
    "target_p95": "95 % of errors below",
    "spheres": "spheres",
    "jitter": "jitter of a sphere",
}
"""Key of a part of a result -> what it is."""


class Found(msgspec.Struct, frozen=True):
    """A part of a result."""

    key: str
    values: list[float]
    unit: str = ""
    within: float | None = None
    """Half of the 95 % interval; None: not known."""


class Change(msgspec.Struct, frozen=True):
    """How far a part of a result lies from the one before; value and limit in ``unit``."""

    key: str
    value: float
    unit: str
    limit: float | None
    """Smaller changes are within what repeated measurements differ by (95 %); None: not known."""

    @property
    def matters(self) -> bool:
        """Whether it is more than what repeated measurements differ by, or may be."""
        return self.limit is None or self.value > self.limit


class Measured(msgspec.Struct, frozen=True):
    """A figure beside its gate; value and limit in ``unit``, one that people use."""

    key: str
    what: str
    value: float | None
    at_least: bool
    limit: float
    unit: str
    kept: bool


def brief(value: float, digits: int = 3) -> str:
    """A value of any unit with some significant digits, and never in powers of ten."""
    if not np.isfinite(value):
        return "–"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    text = f"{float(f'{value:.{digits}g}'):f}" if value else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(part: Found) -> list[str]:
    """The numbers of a part of a result, to the digits that its interval supports."""
    if not part.within:
        return [brief(value) for value in part.values]
    decimals = int(np.clip(1 - np.floor(np.log10(part.within)), 0, 4))
    return [f"{value:.{decimals}f}" for value in part.values]


def measured(figure: Figure) -> Measured:
    """A figure in units that people use."""
    gate = figure.gate
    factor, unit = (100.0, "%") if gate.key in _SHARES else _PEOPLE.get(gate.unit, (1.0, gate.unit))
    value = None if figure.value is None else figure.value * factor
    return Measured(gate.key, gate.what, value, gate.at_least, figure.limit * factor, unit, figure.kept)


def values_in_words(figure: Measured) -> tuple[str, str]:
    """A figure and its pass mark: ``47.1°`` and ``≥ 20.1°``."""
    value = "unknown" if figure.value is None else _with_unit(brief(figure.value), figure.unit)
    return value, f"{'≥' if figure.at_least else '≤'} {_with_unit(brief(figure.limit), figure.unit)}"


def in_words(figure: Measured) -> str:
    """A figure beside its pass mark: ``47.1° (≥ 20.1°)``."""
    return "{} ({})".format(*values_in_words(figure))


def _with_unit(text: str, unit: str) -> str:
    return f"{text}{'' if unit in ('', '°') else ' '}{unit}"


def part_in_words(part: Found) -> str:
    """A part of a result: ``tip 12.01, -4.00, 182.00 ± 0.03 mm``."""
    within = f" ± {brief(part.within, 2)}" if part.within is not None else ""
    return _with_unit(f"{_WORDS[part.key]} {', '.join(rounded(part))}{within}", part.unit)


def found_in_words(parts: Sequence[Found]) -> str:
    """A result in one line."""
    return "; ".join(map(part_in_words, parts))


def change_in_words(change: Change) -> str:
    """How far something lies from the one before, and whether repetition explains it."""
    value = "less than 0.01" if 0 <= change.value < 0.01 else brief(change.value, 2)
    text = f"{_WORDS[change.key]}: {_with_unit(value, change.unit)} from the one before"
    if change.limit is None:
        return text
    limit = _with_unit(brief(change.limit, 2), change.unit)
    if change.matters:
        return f"{text}, more than repetition explains ({limit})"
    return f"{text}, the same within repetition ({limit})"


# --- results ---------------------------------------------------------------------------------------------------------


def found(calibration: Calibration[Any] | Artifact[Any]) -> list[Found]:
    """The parts of a result that people ask for; none of one that has none."""
    kind = calibration.kind.name if isinstance(calibration.kind, Kind) else calibration.kind
    if calibration.result is None or kind not in _FOUND:
        return []
    return _FOUND[kind](calibration.result, _Quality(plain(calibration.quality)))


class _Quality:
    """Figures of a document, in which any may be missing."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures

    def number(self, key: str) -> float | None:
        """A figure; the largest, if there are several."""
        value = self._figures.get(key)
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            value = max((part for part in value if isinstance(part, int | float)), default=None)
        return float(value) if isinstance(value, int | float) else None

    def within(self, key: str, factor: float = 1.0) -> float | None:
        """Half of the 95 % interval, from a standard error."""
        value = self.number(key)
        return None if value is None else _95 * factor * value

    def parts(self, key: str) -> Mapping[str, float]:
        value = self._figures.get(key)
        return (
            {name: float(part) for name, part in value.items() if part is not None} if isinstance(value, dict) else {}
        )


def _only(key: str, value: float | None, unit: str) -> list[Found]:
    return [] if value is None else [Found(key, [value], unit)]


def _carm(result: Any, quality: _Quality) -> list[Found]:
    carm = result.carm.geometry
    rows = [
        Found("distance", [carm.source_to_detector_mm], "mm", quality.within("sigma_sdd_mm")),
        Found("principal_point", list(carm.principal_point_px), "px", quality.within("sigma_pp_px")),
    ]
    return rows + _only("bead_residual", quality.number("rms_px"), "px")


def _plate(result: Any, quality: _Quality) -> list[Found]:
    shift = Found("largest_shift", [result.largest_shift_px], "px")
    return [shift, *_only("held_out", quality.number("cv_px"), "px"), Found("pixel_size", [result.pixel_mm], "mm")]


def _handeye(result: Any, quality: _Quality) -> list[Found]:
    at = np.array(result.marker_from_carm)[:3, 3]
    return [Found("source_from_marker", at.tolist(), "mm", quality.within("sigma_translation_mm"))]


def _patient(_: Any, quality: _Quality) -> list[Found]:
    return _only("point_residual", quality.number("fre_rms_mm"), "mm") + _only(
        "expected_error", quality.number("tre_mm"), "mm"
    )


def _phantom(_: Any, quality: _Quality) -> list[Found]:
    tre_mm = quality.parts("tre_mm")
    return _only("target_median", tre_mm.get("median"), "mm") + _only("target_p95", tre_mm.get("p95"), "mm")


_DEG = 180 / np.pi
_FOUND: dict[str, Callable[[Any, _Quality], list[Found]]] = {
    PIVOT.name: lambda r, q: [Found("tip", list(r.tip_mm), "mm", q.within("sigma_tip_mm"))],
    SPIN.name: lambda r, q: [Found("axis", list(r.axis))] + _only("axis_error", q.within("sigma_axis_rad", _DEG), "°"),
    PLATE.name: _plate,
    CARM.name: _carm,
    FLEX.name: lambda r, q: (
        _only("angle_range", None if (a := q.number("range_rad")) is None else a * _DEG, "°")
        + _only("left_out", q.number("loo_mm"), "mm")
    ),
    HANDEYE.name: _handeye,
    IMAGE_LAG.name: lambda r, q: [Found("lag", [r.image_lag_ns / 1e6], "ms", q.within("sigma_lag_ns", 1e-6))],
    FLATFIELD.name: lambda r, q: [Found("open_beam", [r.i0]), Found("bad_pixels", [float(len(r.bad_pixels))])],
    PATIENT.name: _patient,
    PHANTOM.name: _phantom,
    TOOL.name: lambda r, q: [Found("spheres", [float(len(r.markers_mm))])] + _only("jitter", q.number("rms_mm"), "mm"),
}


# --- differences -----------------------------------------------------------------------------------------------------


def changes(new: Calibration[Any], old: Artifact[Any] | None) -> list[Change]:
    """How a result differs from the one before; nothing without one, or where two do not compare."""
    if old is None or new.result is None or old.kind not in new.kind.names or new.kind.name not in _CHANGES:
        return []
    return _CHANGES[new.kind.name](
        new.result, old.result, _Both(_Quality(plain(new.quality)), _Quality(plain(old.quality)))
    )


class _Both:
    """Quality of two results."""

    def __init__(self, new: _Quality, old: _Quality) -> None:
        self._new, self._old = new, old

    def limit(self, key: str, factor: float = 1.0) -> float | None:
        """The largest distance that their standard errors explain, in 95 % of repetitions."""
        new, old = self._new.within(key, factor), self._old.within(key, factor)
        return None if new is None or old is None else float(np.hypot(new, old))


def _apart(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _carm_changes(new: Any, old: Any, both: _Both) -> list[Change]:
    a, b = new.carm.geometry, old.carm.geometry
    apart_mm = abs(a.source_to_detector_mm - b.source_to_detector_mm)
    apart_px = _apart(a.principal_point_px, b.principal_point_px)
    return [
        Change("distance", apart_mm, "mm", both.limit("sigma_sdd_mm")),
        Change("principal_point", apart_px, "px", both.limit("sigma_pp_px")),
    ]


def _plate_changes(new: Any, old: Any, _: _Both) -> list[Change]:
    """The largest difference between two fields, where and at the angles at which both were measured."""
    fields = [field_of(msgspec.to_builtins(each.field)) for each in (new, old)]
    angles = fields[0].bounds()
    if fields[0].size_px != fields[1].size_px or not all(each.covers(at) for each in fields for at in angles):
        return []
    inside = fields[0].measured_nodes() & fields[1].measured_nodes()
    apart = [np.linalg.norm(fields[0].shift_px(at) - fields[1].shift_px(at), axis=2)[inside] for at in angles]
    return [Change("distortion", float(np.concatenate(apart).max(initial=0.0)), "px", None)]


def _handeye_changes(new: Any, old: Any, both: _Both) -> list[Change]:
    off = g.inverse(np.array(old.marker_from_carm)) @ np.array(new.marker_from_carm)
    turned_deg = float(np.rad2deg(np.linalg.norm(g.rotation_log(off[:3, :3]))))
    return [
        Change("source_from_marker", float(np.linalg.norm(off[:3, 3])), "mm", both.limit("sigma_translation_mm")),
        Change("turned", turned_deg, "°", both.limit("sigma_rotation_rad", _DEG)),
    ]


def _flatfield_changes(new: Any, old: Any, _: _Both) -> list[Change]:
    return [Change("open_beam", 100 * abs(new.i0 / old.i0 - 1), "%", 2.0)] if old.i0 else []


def _phantom_changes(new: Any, old: Any, _: _Both) -> list[Change]:
    both = [label for label in new.measured_mm if label in old.measured_mm]
    apart = [_apart(new.measured_mm[label], old.measured_mm[label]) for label in both]
    return [Change("target_median", float(np.median(apart)), "mm", 1.0)] if apart else []


def _axis_changes(new: Any, old: Any, both: _Both) -> list[Change]:
    apart_deg = float(np.rad2deg(g.angle_between_rad(np.array(new.axis), np.array(old.axis))))
    return [Change("axis", apart_deg, "°", both.limit("sigma_axis_rad", _DEG))]


def _tool_changes(new: Any, old: Any, both: _Both) -> list[Change]:
    if len(new.pairs_mm) != len(old.pairs_mm):
        return [Change("spheres", abs(len(new.markers_mm) - len(old.markers_mm)), "", 0.0)]
    return [Change("spheres", float(np.abs(np.subtract(new.pairs_mm, old.pairs_mm)).max()), "mm", 0.3)]


_CHANGES: dict[str, Callable[[Any, Any, _Both], list[Change]]] = {
    PIVOT.name: lambda a, b, q: [Change("tip", _apart(a.tip_mm, b.tip_mm), "mm", q.limit("sigma_tip_mm"))],
    SPIN.name: _axis_changes,
    PLATE.name: _plate_changes,
    CARM.name: _carm_changes,
    HANDEYE.name: _handeye_changes,
    IMAGE_LAG.name: lambda a, b, q: [
        Change("lag", abs(a.image_lag_ns - b.image_lag_ns) / 1e6, "ms", q.limit("sigma_lag_ns", 1e-6))
    ],
    FLATFIELD.name: _flatfield_changes,
    PHANTOM.name: _phantom_changes,
    TOOL.name: _tool_changes,
}
