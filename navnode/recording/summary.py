"""What is in a session: topics, rates, gaps, latencies, and how long what was VALID; as figures and as a page."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from navnode.clock import NS_PER_S
from navnode.errors import DamagedError, RecordingError
from navnode.files.report import (
    BAD,
    GOOD,
    LINE,
    SECOND,
    STYLE,
    WIDTH,
    Axes,
    Percentiles,
    dot,
    figure,
    percentiles,
    table,
)
from navnode.files.whole import refuse_existing, write_text
from navnode.recording.integrity import Integrity, Verdict
from navnode.recording.recording import Recording
from navnode.recording.requests import InspectRequest
from navnode.recording.spans import Way, chrome_trace
from navnode.types import Matrix, Status

_COLOURS = {Status.VALID.value: GOOD, Status.DEGRADED.value: SECOND, Status.INVALID.value: BAD}
_GAP_SHARE, _GAP_S = 5.0, 0.25
"""A silence counts as a gap when it is so many times the usual interval, and so long."""
_MOST_GAPS = 50
_MOST_DRAWN = 3_000


class TopicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One topic's messages."""

    messages: int
    bytes: int
    hz: float | None
    """None where there are too few."""
    longest_gap_s: float


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A silence of what came in."""

    topic: str
    at_s: float
    """Into the session."""
    seconds: float


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a session."""

    path: str
    whole: bool
    damage: str
    """Why it could not be read to the end; '' if it could."""
    start_ns: int
    start: str
    """UTC, ISO 8601."""
    seconds: float
    metadata: dict[str, str]
    versions: Mapping[str, object]
    messages: int
    lost: int
    clock_jumps: int
    topics: dict[str, TopicFigures]
    gaps: list[Gap]
    """The longest first."""
    latency_ms: dict[str, Percentiles]
    """By path or stage."""
    validity: dict[str, dict[str, float]]
    """Registration or tool -> status -> share of the time."""
    timeline: dict[str, list[tuple[float, str, str]]]
    """Registration or tool -> (since when in s, status, reason)."""
    commands: list[tuple[float, str]]
    """(when in s, what)."""
    dose: dict[str, float | None]
    dropped: dict[str, int]


@dataclass
class TopicStatistics:
    """One topic's messages, counted."""

    messages: int = 0
    bytes: int = 0
    times_ns: list[int] = field(default_factory=list)

    def figures(self) -> TopicFigures:
        """For people and programs."""
        several = len(self.times_ns) > 1
        span_s = (self.times_ns[-1] - self.times_ns[0]) / NS_PER_S if several else 0.0
        longest_s = float(np.diff(self.times_ns).max()) / NS_PER_S if several else 0.0
        return TopicFigures(
            messages=self.messages,
            bytes=self.bytes,
            hz=round((self.messages - 1) / span_s, 2) if span_s > 0 else None,
            longest_gap_s=round(longest_s, 3),
        )


@dataclass
class Summary:
    """The contents of a session, summarised."""

    path: str
    start_ns: int
    seconds: float
    metadata: dict[str, str]
    versions: Mapping[str, object]
    verdict: Verdict
    topics: dict[str, TopicStatistics] = field(default_factory=dict)
    lost: int = 0
    clock_jumps: int = 0
    latency_ms: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Path or stage -> (seconds into the session, ms)."""
    timeline: dict[str, list[tuple[float, str, str]]] = field(default_factory=dict)
    """Registration or tool -> (since when, status, reason)."""
    spans: list[Way] = field(default_factory=list)
    commands: list[tuple[float, str]] = field(default_factory=list)
    dose: dict[str, float | None] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def damage(self) -> str:
        """Why it could not be read to the end; '' if it could."""
        return self.verdict.text if self.verdict.integrity is Integrity.DAMAGED else ""

    def report(self) -> SessionReport:
        """For people and programs."""
        return SessionReport(
            path=self.path,
            whole=self.verdict.integrity is Integrity.WHOLE,
            damage=self.damage,
            start_ns=self.start_ns,
            start=datetime.fromtimestamp(self.start_ns / NS_PER_S, UTC).isoformat(timespec="seconds"),
            seconds=round(self.seconds, 3),
            metadata=self.metadata,
            versions=self.versions,
            messages=sum(topic.messages for topic in self.topics.values()),
            lost=self.lost,
            clock_jumps=self.clock_jumps,
            topics={name: self.topics[name].figures() for name in sorted(self.topics)},
            gaps=self.gaps(),
            latency_ms={name: percentiles([ms for _, ms in found]) for name, found in self.latency_ms.items()},
            validity={name: self.shares(name) for name in self.timeline},
            timeline=self.timeline,
            commands=self.commands,
            dose=self.dose,
            dropped=self.dropped,
        )

    def gaps(self) -> list[Gap]:
        """Silences of what came in that are longer than usual."""
        found: list[Gap] = []
        for name, topic in self.topics.items():
            if not name.startswith("in/") or len(topic.times_ns) < 10:
                continue
            steps_s = np.diff(topic.times_ns) / NS_PER_S
            limit_s = max(_GAP_SHARE * float(np.median(steps_s)), _GAP_S)
            for n in np.flatnonzero(steps_s > limit_s):
                at_s = (topic.times_ns[n] - self.start_ns) / NS_PER_S
                found.append(Gap(topic=name, at_s=round(at_s, 3), seconds=round(float(steps_s[n]), 3)))
        return sorted(found, key=lambda gap: -gap.seconds)[:_MOST_GAPS]

    def shares(self, name: str) -> dict[str, float]:
        """Of the time, how much something was in each state."""
        changes = self.timeline[name]
        ends = [at for at, _, _ in changes[1:]] + [max(self.seconds, changes[-1][0])]
        total = max(ends[-1] - changes[0][0], 1e-9)
        shares = dict.fromkeys(_COLOURS, 0.0)
        for (begin, status, _), end in zip(changes, ends, strict=True):
            shares[status] = shares.get(status, 0.0) + (end - begin) / total
        return {status: round(share, 4) for status, share in shares.items()}


def inspect(request: InspectRequest, progress: Callable[[float], None]) -> Summary:
    """What is in a session; a page and a trace of it are written where they are asked for.

    Raises:
        ConfigError: a file exists already, or cannot be written.
        RecordingError: it cannot be read, or holds no spans for a trace.
    """
    found = summarized(Recording(request.session), progress)
    if request.report is not None:
        refuse_existing(request.report)
        write_text(request.report, page(found))
    if request.trace is not None:
        if not found.spans:
            raise RecordingError(f"{request.session}: holds no spans; they are of a node's recording")
        refuse_existing(request.trace)
        write_text(request.trace, json.dumps(chrome_trace(found.spans)))
    return found


def summarized(recording: Recording, progress: Callable[[float], None] = lambda share: None) -> Summary:
    """Read a session to its end, or to where it is damaged.

    Raises:
        RecordingError: nothing of it can be read.
    """
    start_ns, end_ns = recording.start_ns, recording.end_ns
    about = (recording.metadata, recording.versions(), recording.judged())
    found = Summary(str(recording.path), start_ns, recording.seconds, *about)
    last_ns = 0
    try:
        for n, entry in enumerate(recording.raw()):
            topic, now = entry.channel.topic, entry.log_time_ns
            each = found.topics.setdefault(topic, TopicStatistics())
            each.messages += 1
            each.bytes += len(entry.data)
            each.times_ns.append(now)
            if topic.startswith("in/"):
                found.clock_jumps += bool(last_ns) and abs(now - last_ns) > 30 * NS_PER_S
                last_ns = now
            elif topic.startswith(("out/", "node/")) or topic == "step":
                _count(found, topic, now, entry.data)
            if n % 2048 == 0:
                progress((now - start_ns) / max(end_ns - start_ns, 1))
    except DamagedError as error:
        if not found.topics:
            raise
        found.verdict = recording.judged(error)
    return found


def _count(found: Summary, topic: str, now_ns: int, data: memoryview) -> None:
    at_s = (now_ns - found.start_ns) / NS_PER_S
    if topic.startswith("out/tool/"):
        pose = msgspec.json.decode(data)
        _changed(found, topic.removeprefix("out/tool/"), at_s, pose["validity"])
        if pose["received_ns"] and pose["volume_from_tool"] is not None:
            _late(found, "tool", at_s, now_ns - pose["received_ns"])
    elif topic == "out/frame":
        frame = msgspec.json.decode(data)
        if frame["volume_from_carm"] is not None:
            _late(found, "frame", at_s, now_ns - frame["frame"]["received_ns"])
    elif topic == "out/state":
        state = msgspec.json.decode(data)
        _changed(found, "registration", at_s, state["registration"])
        found.dose, found.dropped = state.get("dose", {}), state.get("dropped", {})
    elif topic == "node/spans":
        way = msgspec.json.decode(data, type=Way)
        found.spans.append(way)
        for stage, begin, end in zip(way.stages, way.at_ns, way.at_ns[1:], strict=False):
            name = f"frame: {stage}" if way.volume is UNSET else f"volume: {stage}"
            _late(found, name, at_s, end - begin)
    elif topic == "node/gap":
        found.lost += int(msgspec.json.decode(data).get("lost", 0))
    elif topic == "step":
        step = msgspec.json.decode(data)
        if step.get("kind") == "OperatorCommand":
            found.commands.append((round(at_s, 3), f"{step.get('operation')} {step.get('tool', '')}".strip()))


def _changed(found: Summary, name: str, at_s: float, validity: Mapping[str, Any]) -> None:
    changes = found.timeline.setdefault(name, [])
    if not changes or changes[-1][1] != validity["status"]:
        changes.append((round(at_s, 3), validity["status"], validity["reason"]))


def _late(found: Summary, name: str, at_s: float, late_ns: int) -> None:
    found.latency_ms.setdefault(name, []).append((at_s, late_ns / 1e6))


# --- the page --------------------------------------------------------------------------------------------------------


def page(found: Summary) -> str:
    """A report as one HTML file."""
    told = found.report()
    warnings = [
        *([f"damaged: {found.damage}"] if found.damage else []),
        *(["it was not finished"] if found.verdict.integrity is Integrity.UNFINISHED else []),
        *([f"{found.lost} entries were lost because the disk was too slow"] if found.lost else []),
        *([f"the clock jumped {found.clock_jumps} times"] if found.clock_jumps else []),
    ]
    replayed = found.metadata.get("replay")
    parts = [
        "<!doctype html><meta charset=utf-8><title>Session</title>",
        f"<style>{STYLE}</style><h1>Session {html.escape(found.path.rsplit('/', 1)[-1])}</h1>",
        f"<p>{told.start} UTC, {found.seconds:.1f} s, {told.messages} messages, navnode "
        f"{html.escape(str(found.versions.get('navnode', '?')))}; research use only, not a medical device</p>",
        f'<p class=verdict style="background:{SECOND}">REPLAY ({html.escape(replayed)})</p>' if replayed else "",
        *(f'<p class=verdict style="background:{BAD}">{html.escape(text)}</p>' for text in warnings),
        "<h2>What could be trusted</h2>",
        *(_timeline(found, name) for name in found.timeline),
        "<h2>Latency</h2>",
        *(_latency(name, found.latency_ms[name]) for name in ("frame", "tool") if name in found.latency_ms),
        table(
            ("from source to sink, and stage by stage", "p50 ms", "p95 ms", "p99 ms", "max ms", "count"),
            [(name, *(f"{v:g}" for v in msgspec.structs.astuple(row))) for name, row in told.latency_ms.items()],
        ),
        "<h2>Topics</h2>",
        table(
            ("topic", "messages", "Hz", "MB", "longest gap s"),
            [
                (
                    name,
                    str(row.messages),
                    "" if row.hz is None else f"{row.hz:g}",
                    f"{row.bytes / 1e6:.2f}",
                    f"{row.longest_gap_s:g}",
                )
                for name, row in told.topics.items()
            ],
        ),
        _rates(found),
    ]
    if told.gaps:
        gaps = [(gap.topic, f"{gap.at_s:.2f}", f"{gap.seconds:.2f}") for gap in told.gaps[:20]]
        parts += ["<h2>Gaps</h2>", table(("topic", "at s", "long s"), gaps)]
    if found.commands:
        rows = [(f"{at:.1f}", what) for at, what in found.commands]
        parts += ["<h2>Operator's commands</h2>", table(("at s", "command"), rows)]
    if found.dose:
        gy, msv = found.dose.get("gy_cm2") or 0.0, found.dose.get("msv")
        share = found.dose.get("ct_share")
        parts.append(
            f"<h2>Dose</h2><p>{found.dose.get('frames', 0)} X-rays, {gy:.3g} Gy cm²"
            + (f", about {msv:.2g} mSv, {share:.1%} of a CT's" if msv is not None and share is not None else "")
            + "</p>"
        )
    return "\n".join(parts)


def _timeline(found: Summary, name: str) -> str:
    """A bar, coloured by status."""
    changes, width = found.timeline[name], 2 * WIDTH
    scale = width / max(found.seconds, 1e-9)
    ends = [at for at, _, _ in changes[1:]] + [found.seconds]
    bars = "".join(
        f'<rect x="{begin * scale:.1f}" y="0" width="{max((end - begin) * scale, 0.5):.1f}" height="22" '
        f'fill="{_COLOURS.get(status, BAD)}"><title>{begin:.1f} s: {status} {html.escape(reason)}</title></rect>'
        for (begin, status, reason), end in zip(changes, ends, strict=True)
    )
    shares = ", ".join(f"{status} {share:.1%}" for status, share in found.shares(name).items() if share)
    return figure(f'<svg width="{width}" height="22">{bars}</svg>', f"{name}: {shares}")


def _latency(name: str, found: list[tuple[float, float]]) -> str:
    drawn = np.array(found[:: max(1, len(found) // _MOST_DRAWN)])
    axes = Axes(drawn[:, 0], drawn[:, 1], zero=True)
    what = {"frame": "an X-ray's last byte to its pose", "tool": "a tracker pose to its overlay"}[name]
    return axes.svg([dot(axes.at(x, y), LINE, 1.5) for x, y in drawn], "s", "ms", f"From {what}")


def _rates(found: Summary) -> str:
    """How many messages came in every second."""
    names = [name for name in found.topics if name.startswith("in/") and found.topics[name].messages > 10]
    if not names or found.seconds < 2:
        return ""
    counts: dict[str, Matrix] = {}
    edges = np.arange(0, np.floor(found.seconds) + 1)
    for name in names:
        at = (np.array(found.topics[name].times_ns) - found.start_ns) / NS_PER_S
        counts[name] = np.histogram(at, edges)[0].astype(np.float64)
    together = np.concatenate(list(counts.values()))
    axes = Axes(edges, together, zero=True)
    colours = (LINE, SECOND, GOOD, BAD)
    lines = []
    for n, series in enumerate(counts.values()):
        points = " ".join("{:.1f},{:.1f}".format(*axes.at(x + 0.5, y)) for x, y in zip(edges, series, strict=False))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colours[n % 4]}"/>')
    return axes.svg(lines, "s", "messages a second", "What came in: " + ", ".join(name[3:] for name in names))
