"""Compares two runs of a session, topic by topic: the main regression test."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cv2
import msgspec
import numpy as np

from navnode.errors import ConfigError, RecordingError
from navnode.files.pictures import write_picture
from navnode.igtl import Image
from navnode.recording import migration
from navnode.recording.format import FORMAT
from navnode.recording.recording import Recording
from navnode.types import Array, Output

__all__ = [
    "Comparison",
    "ComparisonReport",
    "Difference",
    "IGNORED",
    "NOT_BETWEEN_MODES",
    "RecordedOutput",
    "TOLERANCES",
    "compare",
    "outputs_of",
    "picture",
    "refuse_unknown",
    "write_captioned",
]

TOLERANCES: dict[str, float] = {
    "rotation": 2e-4,
    "translation": 0.05,
    "sigma": 0.05,
    "residual": 1e-3,
    "similarity": 1e-3,
    "target_sigma_mm": 0.02,
    "spacing_mm": 1e-6,
}
"""Field -> largest allowed difference (rad, mm): what rounding on another processor changes in a registration, as the
projector's kernels sum in another order there. Fields without a tolerance must be equal."""

IGNORED = frozenset({"sha256", "request", "worker", "dropped", "epoch"})
"""Fields that differ between runs: volumes differ in the last digits on another processor; numbers of requests and
epochs derive from times; the loop's figures of itself are those of the run."""

NOT_BETWEEN_MODES = frozenset({"age_ns", "now_ns", "received_ns", "sequence", "station", "reason", "similarity"})
"""Fields that depend on when something was done, and so on the mode."""

_BETWEEN_MODES = ("out/frame", "out/carm", "out/patient", "out/tool/")
"""Topics that can be compared between modes, by the time of the measurement."""


def refuse_unknown(names: Iterable[str], what: str) -> None:
    """Make sure that fields to compare otherwise are ones of a node's outputs.

    Args:
        what: the option that names them.

    Raises:
        ConfigError: one is none; names it, and the most similar one.
    """
    known = _fields(Output, {"rotation", "translation", *IGNORED})
    for name in names:
        if name not in known:
            alike = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {alike[0]!r}?)" if alike else ""
            raise ConfigError(f"{what} {name}: no output has such a field{hint}")


def _fields(kind: Any, found: set[str]) -> set[str]:
    for part in get_args(kind):
        _fields(part, found)
    if is_dataclass(kind):
        for name, of in get_type_hints(kind).items():
            found.add(name)
            _fields(of, found)
    return found


@dataclass(frozen=True)
class RecordedOutput:
    """One output of a run."""

    topic: str
    cause: int
    """Number of the step that led to it."""
    time_ns: int
    data: bytes
    """JSON."""


class Difference(msgspec.Struct, frozen=True):
    """The first output at which two runs differ."""

    topic: str
    cause: int = msgspec.field(name="step")
    time_ns: int
    what: str
    """The field, its value in the reference, and its value now."""


class ComparisonReport(msgspec.Struct, frozen=True, kw_only=True):
    """How two runs differ; numbers of outputs by topic."""

    same: bool
    compared: dict[str, int]
    different: dict[str, int]
    missing: dict[str, int]
    """In the reference, but not in the replay."""
    extra: dict[str, int]
    """In the replay, but not in the reference."""
    first: Difference | None


@dataclass
class Comparison:
    """Counts differences by topic."""

    compared: dict[str, int] = field(default_factory=dict)
    different: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    """In the reference, but not in the replay."""
    extra: dict[str, int] = field(default_factory=dict)
    """In the replay, but not in the reference."""
    first: Difference | None = None

    @property
    def same(self) -> bool:
        """Whether the runs do not differ."""
        return not (self.different or self.missing or self.extra)

    def report(self) -> ComparisonReport:
        """The comparison as a report."""
        return ComparisonReport(
            same=self.same,
            compared=self.compared,
            different=self.different,
            missing=self.missing,
            extra=self.extra,
            first=self.first,
        )


def outputs_of(recording: Recording) -> Iterator[RecordedOutput]:
    """The recorded outputs of a session, converted to the present format."""
    migrate = migration.outputs(recording.format)
    for entry in recording.raw():
        if entry.channel.topic.startswith("out/"):
            data = migrate(entry.channel.topic, bytes(entry.data))
            yield RecordedOutput(entry.channel.topic, entry.sequence, entry.log_time_ns, data)


def compare(
    reference: Iterable[RecordedOutput],
    replayed: Iterable[RecordedOutput],
    *,
    by_cause: bool,
    tolerances: Mapping[str, float] = TOLERANCES,
    ignored: Iterable[str] = IGNORED,
    format: int = FORMAT,
) -> Comparison:
    """Compare a replay with a reference.

    Args:
        by_cause: both ran in the same mode: compare outputs of the same step; otherwise compare outputs that belong to
            measurements, by the time of the measurement.
        tolerances: field -> largest allowed difference; ``rotation`` and ``translation`` for transforms.
        ignored: fields that are not compared.
        format: format of the reference; outputs that did not exist in that format are not missing.

    Raises:
        RecordingError: the reference holds no outputs.
    """
    key: Callable[[RecordedOutput], tuple[str, int] | None] = _cause if by_cause else _measured
    waiting: dict[tuple[str, int, int], RecordedOutput] = {}
    for (name, place), number, each in _numbered(reference, key):
        waiting[(name, place, number)] = each
    comparison, ignored = Comparison(), frozenset(ignored)
    if not waiting:
        raise RecordingError("the reference holds no outputs of a node")
    for (name, place), number, each in _numbered(replayed, key):
        other = waiting.pop((name, place, number), None)
        if other is None and migration.unknown_to(format, each.topic, each.data):
            continue
        if other is None:
            _count(comparison.extra, each.topic)
            _first(comparison, each, "is not in the reference")
            continue
        _count(comparison.compared, each.topic)
        if other.data == each.data:
            continue
        what = _parts(msgspec.json.decode(other.data), msgspec.json.decode(each.data), tolerances, ignored)
        if what:
            _count(comparison.different, each.topic)
            _first(comparison, each, what)
    for left in waiting.values():
        _count(comparison.missing, left.topic)
        _first(comparison, left, "is in the reference only")
    return comparison


def _numbered(
    outputs: Iterable[RecordedOutput], key: Callable[[RecordedOutput], tuple[str, int] | None]
) -> Iterator[tuple[tuple[str, int], int, RecordedOutput]]:
    """Outputs with their keys, numbered within each key."""
    seen: dict[tuple[str, int], int] = {}
    for each in outputs:
        place = key(each)
        if place is None:
            continue
        number = seen.get(place, 0)
        seen[place] = number + 1
        yield place, number, each


def _cause(output: RecordedOutput) -> tuple[str, int]:
    return output.topic, output.cause


def _measured(output: RecordedOutput) -> tuple[str, int] | None:
    if not output.topic.startswith(_BETWEEN_MODES):
        return None
    document = msgspec.json.decode(output.data)
    stamp = int(document["validity"]["source_time_ns"])
    return (output.topic, stamp) if stamp else None


def _count(counts: dict[str, int], topic: str) -> None:
    counts[topic] = counts.get(topic, 0) + 1


def _first(comparison: Comparison, output: RecordedOutput, what: str) -> None:
    if comparison.first is None or output.time_ns < comparison.first.time_ns:
        comparison.first = Difference(output.topic, output.cause, output.time_ns, what)


def _parts(was: Any, now: Any, tolerances: Mapping[str, float], ignored: frozenset[str], name: str = "") -> str:
    """The first field that differs, or ''."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            if key in ignored:
                continue
            if key not in was or key not in now:
                return f"{name}{key}: is only in {'the reference' if key in was else 'the replay'}"
            if what := _parts(was[key], now[key], tolerances, ignored, f"{name}{key}."):
                return what
        return ""
    if isinstance(was, list) and isinstance(now, list) and was and now:
        return _arrays(was, now, tolerances, name.rstrip("."))
    if _number(was) and _number(now):
        field_name = name.rstrip(".").rsplit(".", 1)[-1]
        return "" if abs(was - now) <= tolerances.get(field_name, 0.0) else f"{name.rstrip('.')}: {was!r} -> {now!r}"
    return "" if was == now else f"{name.rstrip('.')}: {_short(was)} -> {_short(now)}"


def _arrays(was: list[Any], now: list[Any], tolerances: Mapping[str, float], name: str) -> str:
    try:
        a, b = np.array(was, np.float64), np.array(now, np.float64)
    except (TypeError, ValueError):
        return "" if was == now else f"{name}: {_short(was)} -> {_short(now)}"
    if a.shape != b.shape:
        return f"{name}: {a.shape} -> {b.shape}"
    off = np.abs(a - b)
    off[np.isnan(a) & np.isnan(b)] = 0.0
    if a.shape == (4, 4):
        for part, what in ((off[:3, :3], "rotation"), (off[:3, 3], "translation")):
            if not (part <= tolerances.get(what, 0.0)).all():
                unit = " mm" if what == "translation" else ""
                most = f"{tolerances.get(what, 0.0):g}{unit}"
                return f"{name}: {what} off by {np.nanmax(part):.3g}{unit}, at most {most}"
        return ""
    limit = tolerances.get(name.rsplit(".", 1)[-1], 0.0)
    return "" if (off <= limit).all() else f"{name}: off by {np.nanmax(off):.3g}, at most {limit:g}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def picture(recording: Recording, device: str, time_ns: int) -> Array | None:
    """The last X-ray within 5 s before a time, (H, W) uint8; None: there is none."""
    image: Array | None = None
    wanted = f"in/IMAGE/{device}"
    for entry in recording.entries(lambda channel: channel.topic == wanted, max(0, time_ns - 5_000_000_000)):
        if entry.time_ns > time_ns:
            break
        if isinstance(entry.content, Image):
            image = entry.content.voxels[0]
    if image is None:
        return None
    low, high = np.percentile(image, [0.5, 99.5])
    return np.asarray(np.clip((image - low) * (255.0 / max(high - low, 1.0)), 0, 255), np.uint8)


def write_captioned(path: Path, image: Array, text: str) -> None:
    """Write an image, (H, W) uint8, as PNG with a line of text below.

    Raises:
        RecordingError: it cannot be written.
    """
    height, width = image.shape
    canvas = np.zeros((height + 28, width), np.uint8)
    canvas[:height] = image
    cv2.putText(canvas, text[: width // 7], (6, height + 19), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    try:
        write_picture(path, canvas)
    except ConfigError as error:
        raise RecordingError(str(error)) from error
