"""Summarises a session: topics, rates, gaps, latencies, and shares of time by status; as figures and as a page."""

from __future__ import annotations

import html
import itertools
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
from navnode.files.plots import COLOURS, Plot
from navnode.files.report import BAD, GOOD, SECOND, STYLE, WIDTH, Percentiles, figure, percentiles, table
from navnode.files.whole import refuse_existing, write_text
from navnode.recording.format import GAP
from navnode.recording.integrity import Integrity, Verdict
from navnode.recording.recording import Recording
from navnode.recording.requests import InspectRequest
from navnode.recording.spans import Span, chrome_trace
from navnode.types import Operation, Status

__all__ = ["Gap", "SessionReport", "Summary", "TopicFigures", "TopicStatistics", "inspect", "page", "summarize"]

_COLOURS = {Status.VALID.value: GOOD, Status.DEGRADED.value: SECOND, Status.INVALID.value: BAD}
_GAP_SHARE, _GAP_S = 5.0, 0.25
"""A silence is a gap if it is this many times the median interval, and at least this long."""
_MOST_GAPS = 50
_MOST_REASONS = 12


class TopicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One topic's messages."""

    messages: int
    bytes: int
    hz: float | None
    """None: too few messages."""
    longest_gap_s: float


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A silence of a source."""

    topic: str
    at_s: float
    """Seconds since the start of the session."""
    seconds: float


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a session."""

    path: str
    whole: bool
    damage: str
    """Why the session could not be read to the end; '': it could."""
    lost_before: str
    """What was lost when it was repaired; '': nothing, or it never was."""
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
    """Path or stage -> percentiles."""
    validity: dict[str, dict[str, float]]
    """``registration`` or tool -> status -> share of the time."""
    timeline: dict[str, list[tuple[float, str, str]]]
    """``registration`` or tool -> changes: (seconds since the start, status, reason)."""
    commands: list[tuple[float, str]]
    """(seconds since the start, command)."""
    dose: dict[str, float | None]
    dropped: dict[str, int]


@dataclass
class TopicStatistics:
    """Counts one topic's messages."""

    messages: int = 0
    bytes: int = 0
    times_ns: list[int] = field(default_factory=list)

    def figures(self) -> TopicFigures:
        """The figures for the report."""
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
    """Summary of a session, with all samples."""

    path: str
    start_ns: int
    seconds: float
    metadata: dict[str, str]
    versions: Mapping[str, object]
    verdict: Verdict
    lost_before: str = ""
    """What was lost when it was repaired."""
    topics: dict[str, TopicStatistics] = field(default_factory=dict)
    lost: int = 0
    clock_jumps: int = 0
    latency_ms: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Path or stage -> (seconds since the start, ms)."""
    timeline: dict[str, list[tuple[float, str, str]]] = field(default_factory=dict)
    """``registration`` or tool -> changes: (seconds since the start, status, reason)."""
    spans: list[Span] = field(default_factory=list)
    commands: list[tuple[float, str]] = field(default_factory=list)
    dose: dict[str, float | None] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def damage(self) -> str:
        """Why the session could not be read to the end; '': it could."""
        return self.verdict.text if self.verdict.integrity is Integrity.DAMAGED else ""

    def report(self) -> SessionReport:
        """The summary as a report."""
        return SessionReport(
            path=self.path,
            whole=self.verdict.integrity is Integrity.WHOLE,
            damage=self.damage,
            lost_before=self.lost_before,
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
            latency_ms={name: percentiles([ms for _, ms in samples]) for name, samples in self.latency_ms.items()},
            validity={name: self.shares(name) for name in self.timeline},
            timeline=self.timeline,
            commands=self.commands,
            dose=self.dose,
            dropped=self.dropped,
        )

    def gaps(self) -> list[Gap]:
        """Unusually long silences of sources, the longest first."""
        gaps: list[Gap] = []
        for name, topic in self.topics.items():
            if not name.startswith("in/") or len(topic.times_ns) < 10:
                continue
            steps_s = np.diff(topic.times_ns) / NS_PER_S
            limit_s = max(_GAP_SHARE * float(np.median(steps_s)), _GAP_S)
            for n in np.flatnonzero(steps_s > limit_s):
                at_s = (topic.times_ns[n] - self.start_ns) / NS_PER_S
                gaps.append(Gap(topic=name, at_s=round(at_s, 3), seconds=round(float(steps_s[n]), 3)))
        return sorted(gaps, key=lambda gap: -gap.seconds)[:_MOST_GAPS]

    def shares(self, name: str) -> dict[str, float]:
        """Status -> share of the time.

        Args:
            name: ``registration`` or a tool.
        """
        changes = self.timeline[name]
        ends = [at for at, _, _ in changes[1:]] + [max(self.seconds, changes[-1][0])]
        total = max(ends[-1] - changes[0][0], 1e-9)
        shares = dict.fromkeys(_COLOURS, 0.0)
        for (begin, status, _), end in zip(changes, ends, strict=True):
            shares[status] = shares.get(status, 0.0) + (end - begin) / total
        return {status: round(share, 4) for status, share in shares.items()}


def inspect(request: InspectRequest, progress: Callable[[float], None]) -> Summary:
    """Summarise a session, and write a page and a trace of it if requested.

    Raises:
        ConfigError: an output file exists already, or cannot be written.
        RecordingError: the session cannot be read, or holds no spans for a trace.
    """
    for path in (request.report, request.trace):
        if path is not None:
            refuse_existing(path)
    summary = summarize(Recording(request.session), progress)
    if request.trace is not None and not summary.spans:
        raise RecordingError(f"{request.session}: holds no spans; only nodes record them")
    if request.report is not None:
        write_text(request.report, page(summary))
    if request.trace is not None:
        write_text(request.trace, json.dumps(chrome_trace(summary.spans)))
    return summary


def summarize(recording: Recording, progress: Callable[[float], None] = lambda share: None) -> Summary:
    """Summarise a session to its end, or to where it is damaged.

    Raises:
        RecordingError: nothing of it can be read.
    """
    start_ns, end_ns = recording.start_ns, recording.end_ns
    about = (recording.metadata, recording.versions(), recording.judged())
    summary = Summary(str(recording.path), start_ns, recording.seconds, *about, recording.lost_before)
    last_ns, until_ns = 0, start_ns
    try:
        for n, entry in enumerate(recording.raw()):
            topic, now = entry.channel.topic, entry.log_time_ns
            until_ns = now
            each = summary.topics.setdefault(topic, TopicStatistics())
            each.messages += 1
            each.bytes += len(entry.data)
            each.times_ns.append(now)
            if topic.startswith("in/"):
                summary.clock_jumps += bool(last_ns) and abs(now - last_ns) > 30 * NS_PER_S
                last_ns = now
            elif topic.startswith(("out/", "node/")) or topic == "step":
                try:
                    _count(summary, topic, now, entry.data)
                except (AttributeError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
                    raise DamagedError(f"{recording.path}: an entry of {topic} cannot be read") from error
            if n % 2048 == 0:
                progress((now - start_ns) / max(end_ns - start_ns, 1))
    except DamagedError as error:
        if not summary.topics:
            raise
        summary.verdict, summary.seconds = recording.judged(error), (until_ns - start_ns) / NS_PER_S
    return summary


def _count(summary: Summary, topic: str, now_ns: int, data: memoryview) -> None:
    at_s = (now_ns - summary.start_ns) / NS_PER_S
    if topic.startswith("out/tool/"):
        pose = msgspec.json.decode(data)
        _changed(summary, topic.removeprefix("out/tool/"), at_s, pose["validity"])
        if pose["received_ns"] and pose["volume_from_tool"] is not None:
            _late(summary, "tool", at_s, now_ns - pose["received_ns"])
    elif topic == "out/frame":
        frame = msgspec.json.decode(data)
        if frame["volume_from_carm"] is not None:
            _late(summary, "frame", at_s, now_ns - frame["frame"]["received_ns"])
    elif topic == "out/state":
        state = msgspec.json.decode(data)
        _changed(summary, "registration", at_s, state["registration"])
        summary.dose, summary.dropped = state.get("dose", {}), state.get("dropped", {})
    elif topic == "node/spans":
        span = msgspec.json.decode(data, type=Span)
        summary.spans.append(span)
        for stage, begin, end in zip(span.stages, span.at_ns, span.at_ns[1:], strict=False):
            name = f"frame: {stage}" if span.volume is UNSET else f"volume: {stage}"
            _late(summary, name, at_s, end - begin)
    elif topic == GAP:
        summary.lost += int(msgspec.json.decode(data).get("lost", 0))
    elif topic == "out/result":
        result = msgspec.json.decode(data)
        if result["operation"] == Operation.CHECK_TIP:
            summary.commands.append((round(at_s, 3), result["text"]))
    elif topic == "step":
        step = msgspec.json.decode(data)
        if step.get("kind") == "OperatorCommand" and step.get("operation") != Operation.CHECK_TIP:  # its result is told
            summary.commands.append((round(at_s, 3), f"{step.get('operation')} {step.get('tool', '')}".strip()))


def _changed(summary: Summary, name: str, at_s: float, validity: Mapping[str, Any]) -> None:
    changes = summary.timeline.setdefault(name, [])
    if not changes or changes[-1][1] != validity["status"]:
        changes.append((round(at_s, 3), validity["status"], validity["reason"]))


def _late(summary: Summary, name: str, at_s: float, late_ns: int) -> None:
    summary.latency_ms.setdefault(name, []).append((at_s, late_ns / 1e6))


# --- the page --------------------------------------------------------------------------------------------------------


def page(summary: Summary) -> str:
    """A summary as one HTML file."""
    report = summary.report()
    warnings = [
        *([f"damaged: {summary.damage}"] if summary.damage else []),
        *([f"repaired; lost: {summary.lost_before}"] if summary.lost_before else []),
        *(["the session was not finished"] if summary.verdict.integrity is Integrity.UNFINISHED else []),
        *([f"{summary.lost} entries were lost because the disk was too slow"] if summary.lost else []),
        *([f"the clock jumped {summary.clock_jumps} times"] if summary.clock_jumps else []),
    ]
    replayed = summary.metadata.get("replay")
    parts = [
        "<!doctype html><meta charset=utf-8><title>Session</title>",
        f"<style>{STYLE}</style><h1>Session {html.escape(summary.path.rsplit('/', 1)[-1])}</h1>",
        f"<p class=result>{html.escape(_result(summary, report))}</p>",
        f"<p class=quiet>{report.start} UTC, {summary.seconds:.1f} s, {report.messages} messages, navnode "
        f"{html.escape(str(summary.versions.get('navnode', '?')))}; research use only, not a medical device</p>",
        f'<p class=verdict style="background:{SECOND}">REPLAY ({html.escape(replayed)})</p>' if replayed else "",
        *(f'<p class=verdict style="background:{BAD}">{html.escape(text)}</p>' for text in warnings),
        *(["<h2>Validity</h2>"] if summary.timeline else []),
        *(_timeline(summary, name) for name in summary.timeline),
        *(_latencies(summary, report) if report.latency_ms else []),
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
                for name, row in report.topics.items()
            ],
        ),
        _rates(summary),
    ]
    if report.gaps:
        gaps = [(gap.topic, f"{gap.at_s:.2f}", f"{gap.seconds:.2f}") for gap in report.gaps[:20]]
        parts += ["<h2>Gaps</h2>", table(("topic", "at s", "length s"), gaps)]
    if summary.commands:
        rows = [(f"{at:.1f}", what) for at, what in summary.commands]
        parts += ["<h2>Operator commands</h2>", table(("at s", "command"), rows)]
    if summary.dose:
        gy, msv = summary.dose.get("gy_cm2") or 0.0, summary.dose.get("msv")
        share = summary.dose.get("ct_share")
        parts.append(
            f"<h2>Dose</h2><p>{summary.dose.get('frames', 0)} X-rays, {gy:.3g} Gy cm²"
            + (f", about {msv:.2g} mSv, {share:.1%} of a CT" if msv is not None and share is not None else "")
            + "</p>"
        )
    return "\n".join(parts)


def _result(summary: Summary, report: SessionReport) -> str:
    """The session in one line."""
    parts = []
    if "registration" in summary.timeline:
        shares = summary.shares("registration")
        parts.append("registration " + ", ".join(f"{status} {share:.1%}" for status, share in shares.items() if share))
    for name, what in (("frame", "X-ray to pose"), ("tool", "tracker to overlay")):
        if name in report.latency_ms:
            parts.append(f"{what} {report.latency_ms[name].p95:.3g} ms (95 %)")
    return "; ".join(parts) or "no outputs of a node: only what was received"


def _timeline(summary: Summary, name: str) -> str:
    """A bar over time, coloured by status."""
    changes, width = summary.timeline[name], 2 * WIDTH
    scale = width / max(summary.seconds, 1e-9)
    ends = [at for at, _, _ in changes[1:]] + [summary.seconds]
    bars = "".join(
        f'<rect x="{begin * scale:.1f}" y="0" width="{max((end - begin) * scale, 0.5):.1f}" height="22" '
        f'fill="{_COLOURS.get(status, BAD)}"><title>{begin:.1f} s: {status} {html.escape(reason)}</title></rect>'
        for (begin, status, reason), end in zip(changes, ends, strict=True)
    )
    shares = ", ".join(f"{status} {share:.1%}" for status, share in summary.shares(name).items() if share)
    return figure(f'<svg width="{width}" height="22">{bars}</svg>', f"{name}: {shares}") + _reasons(changes, ends)


def _reasons(changes: list[tuple[float, str, str]], ends: list[float]) -> str:
    """The longest stretches that were not VALID, with their reasons, in order of time."""
    stretches = [
        (at, end, status, reason) for (at, status, reason), end in zip(changes, ends, strict=True) if status != "VALID"
    ]
    longest = sorted(sorted(stretches, key=lambda each: each[0] - each[1])[:_MOST_REASONS])
    if not longest:
        return ""
    rows = [(f"{at:.1f} to {end:.1f} s", status, reason or "no reason given") for at, end, status, reason in longest]
    left = len(stretches) - len(longest)
    return table(("when", "", "why"), rows) + (f"<p class=quiet>and {left} shorter ones</p>" if left else "")


def _latencies(summary: Summary, report: SessionReport) -> list[str]:
    """Plots and a table of latencies."""
    rows = [(name, *(f"{v:g}" for v in msgspec.structs.astuple(row))) for name, row in report.latency_ms.items()]
    return [
        "<h2>Latency</h2>",
        *(_latency(name, summary.latency_ms[name]) for name in ("frame", "tool") if name in summary.latency_ms),
        table(("path or stage", "p50 ms", "p95 ms", "p99 ms", "max ms", "count"), rows),
    ]


def _latency(name: str, samples: list[tuple[float, float]]) -> str:
    drawn = np.array(samples)
    what = {"frame": "an X-ray's last byte to its pose", "tool": "a tracker pose to its overlay"}[name]
    plot = Plot("time, s", "latency, ms", zero=True).dots(drawn[:, 0], drawn[:, 1])
    return plot.limit(float(np.percentile(drawn[:, 1], 95)), "95 % below").svg(f"From {what}.")


def _rates(summary: Summary) -> str:
    """A plot of the messages received every second."""
    names = [name for name in summary.topics if name.startswith("in/") and summary.topics[name].messages > 10]
    if not names or summary.seconds < 2:
        return ""
    edges = np.arange(0, np.floor(summary.seconds) + 1)
    plot = Plot("time, s", "messages per second", zero=True)
    for name, colour in zip(names, itertools.cycle(COLOURS), strict=False):
        at = (np.array(summary.topics[name].times_ns) - summary.start_ns) / NS_PER_S
        plot.line(edges[:-1] + 0.5, np.histogram(at, edges)[0].astype(np.float64), name[3:], colour=colour)
    return plot.svg("Received in every second.")
