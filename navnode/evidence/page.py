"""The evidence as one HTML file that loads nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from navnode.evidence.charts import BASELINE, Chart
from navnode.evidence.contents import Evidence, Outcome
from navnode.evidence.risks import Verified
from navnode.evidence.steps import Ran
from navnode.files.plots import Plot
from navnode.files.report import BAD, GOOD, SECOND, STYLE, Html, table

__all__ = ["drawn"]


def drawn(evidence: Evidence) -> str:
    """The page."""
    made = datetime.fromtimestamp(evidence.made_ns / 1e9, UTC)
    failed, lacking = len(evidence.problems), len(evidence.lacking)
    verdict, colour = {
        Outcome.PASSED: ("Passed", GOOD),
        Outcome.FAILED: (f"{failed} failed" + (f"; {lacking} not verified" if lacking else ""), BAD),
        Outcome.INCOMPLETE: (f"Incomplete: nothing failed, {lacking} not verified", SECOND),
    }[evidence.outcome]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>navnode evidence</title>",
        f"<style>{STYLE}td:nth-child(n+2){{text-align:left}}</style><h1>Evidence of an installation</h1>",
        f'<p class=verdict style="background:{colour}">{html.escape(verdict)}</p>',
        f"<p><b>{html.escape(evidence.use)}</b></p>",
        f"<p>navnode {evidence.navnode}, Python {evidence.python}, {html.escape(evidence.system)}; "
        f"made {made:%Y-%m-%d %H:%M} UTC in {evidence.elapsed_s:.0f} s. SHA-256 of its files: "
        f"<code>{evidence.files_sha256}</code></p>",
        "".join(f"<p class=bad>{html.escape(problem)}</p>" for problem in evidence.problems),
        "".join(f"<p class=quiet>{html.escape(each)}</p>" for each in evidence.lacking),
        "<h2>Verification</h2>",
        table(("what", "outcome", "figures", "s", "run it again"), map(_step, evidence.steps)),
        "<h2>Risks and their controls</h2>",
        table(("risk", "cause", "control", "tests"), map(_risk, evidence.risks)),
        "<h2>Calibrations of past cases</h2>",
        *(_charts(evidence.charts)),
        "<h2>Software of unknown provenance</h2>",
        f"<p>{evidence.packages} packages, with versions and licences, in <code>bom.json</code> (CycloneDX 1.6).</p>",
        "<p class=quiet>All files beside this page are in <code>manifest.json</code> by their SHA-256, signed with "
        "Ed25519. <code>navnode evidence --check DIR --trusted KEY</code> checks them; so does <code>openssl pkeyutl "
        "-verify -pubin -inkey key.pub.pem -rawin -in manifest.json -sigfile manifest.sig</code>.</p></html>",
    ]
    return "\n".join(parts)


def _step(ran: Ran) -> tuple[str, ...]:
    kind = {"passed": "good", "failed": "bad"}.get(ran.outcome, "quiet")
    why = f" ({ran.why})" if ran.why else ""
    outcome = Html(f"<span class={kind}>{html.escape(ran.outcome + why)}</span>")
    command = Html(f"<code>{html.escape(ran.command)}</code>") if len(ran.command) < 160 else Html("<code>…</code>")
    return ran.title, outcome, _figures(ran), f"{ran.seconds:.0f}", command


def _figures(ran: Ran) -> str:
    """The figures of a step that decide."""
    report = ran.report
    if not isinstance(report, dict):
        return ""
    if ran.name == "loop":
        tre, latency = report["tre_mm"], report["latency_ms"]
        return f"{report['frames']} X-rays; TRE median {tre['median']:.2f} mm, latency median {latency['p50']:.0f} ms"
    if ran.name == "golden":
        return f"{report['outputs']} outputs compared, {report['registered']} registered"
    if ran.name == "trust":
        kinds = ", ".join(f"{kind} {rate['hits']}/{rate['of']}" for kind, rate in report["by_kind"].items())
        return f"VALID and wrong: {kinds}"
    if ran.name == "projector":
        times = [view["ms"] for view in report["directions"].values()]
        return "; ".join(f"{name} {value:.0f} ms" for name, value in list(times[0].items())[:2]) if times else ""
    return ""


def _risk(each: Verified) -> tuple[str, ...]:
    if each.failed:
        tests = Html(f"<span class=bad>failed: {html.escape(', '.join(each.failed))}</span>")
    elif each.passed:
        skipped = f", {each.skipped} skipped" if each.skipped else ""
        tests = Html(f"<span class=good>{each.passed} passed{skipped}</span>")
    else:
        tests = Html("<span class=quiet>not run</span>")
    return each.risk.id, each.risk.cause, each.risk.control, tests


def _charts(charts: Sequence[Chart]) -> list[str]:
    if not charts:
        return ["<p>None were given: <code>--calibrations DIR</code>.</p>"]
    return [_plot(each).svg(_caption(each)) for each in charts]


def _caption(chart: Chart) -> str:
    name = f"{chart.kind} {chart.device}".strip()
    words = {
        "too few": f"{len(chart.checks)} calibrations: not judged before there are {BASELINE + 1}",
        "blind": f"noise {chart.noise_mm or 0:.2f} mm: too much to show a drift of 0.3 mm",
        "drift": "DRIFT: look at it, and calibrate again",
        "steady": "no drift",
    }
    return f"{name} ({chart.quantity}): {words[chart.verdict]}. Dots: every calibration."


def _plot(chart: Chart) -> Plot:
    """Distances from the centre, check by check."""
    checks = np.arange(1.0, len(chart.checks) + 1)
    distance_mm = np.array([check.distance_mm for check in chart.checks])
    alarm = np.array([check.alarm for check in chart.checks], bool)
    plot = Plot("check", "from the centre, mm", zero=True)
    plot.line(checks, np.array([check.mean_mm for check in chart.checks]), "weighted mean")
    plot.dots(checks[~alarm], distance_mm[~alarm]).dots(checks[alarm], distance_mm[alarm], "alarm", colour=BAD)
    for limit_mm, name in ((chart.single_limit_mm, "limit of one"), (chart.mean_limit_mm, "limit of the mean")):
        if limit_mm is not None:
            plot.limit(limit_mm, f"{name}: {limit_mm:.2f} mm")
    return plot
