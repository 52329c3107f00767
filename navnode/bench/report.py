"""The report of ``navnode bench registration``: one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from navnode.bench.registration import GROUPS, RIGHT_MM, Measured, Outcome, Rate, RegistrationReport, TrustFigures
from navnode.errors import ConfigError
from navnode.files.report import STYLE, table
from navnode.files.whole import write_text
from navnode.offline.overlays import Overlays
from navnode.types import Status, Volume

__all__ = ["write"]

_SHOWN = 4
_STATUS_COLOURS = {Status.VALID: "#2a9d5c", Status.DEGRADED: "#d9a21b", Status.INVALID: "#c8423b"}


def write(path: Path, measured: Measured, summary: RegistrationReport) -> None:
    """Write tables, error plots, and images of the worst and of ordinary cases.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    by_error = sorted(measured.singles, key=_lateral)
    ordinary, worst = by_error[:-_SHOWN], by_error[: -_SHOWN - 1 : -1]
    chosen = ordinary[:: max(1, len(ordinary) // _SHOWN)][:_SHOWN]
    page = [
        "<!doctype html><meta charset=utf-8><title>navnode bench registration</title>",
        f"<style>{STYLE}</style><h1>2D/3D registration</h1>",
        f"<p>{len(measured.singles)} single registrations, {len(measured.joint)} of two views, "
        f"{len(measured.sequences)} tracked frames; CTs: {html.escape(', '.join(summary.cts))}. "
        "X-rays rendered by RTK with noise, scatter, beam hardening and, in a third of them, a metal tool.</p>",
        _table(summary),
        _quality(summary.quality),
        _plots(measured),
        "<h2>Worst cases</h2>",
        *_overlays(worst, measured.volumes),
        "<h2>Ordinary cases</h2>",
        *_overlays(chosen, measured.volumes),
    ]
    write_text(path, "\n".join(page))


def _lateral(outcome: Outcome) -> float:
    assert outcome.errors is not None
    return outcome.errors.lateral


def _table(summary: RegistrationReport) -> str:
    named = {**summary.singles, "two views together": summary.joint, "tracked sequences": summary.sequences}
    head = ("start", "under 1 mm lateral (95 % CI)", "lateral mm", "depth mm", "full mm", "ms", "ms p95", "sigma holds")
    rows = []
    for name, figures in named.items():
        medians = [f"{part.median:.3f}" for part in (figures.lateral_mm, figures.depth_mm, figures.full_mm)]
        share = f"{figures.under_1_mm_lateral.rate:.1%} ({_interval(figures.under_1_mm_lateral)})"
        times = [f"{value:.0f}" for value in (figures.ms.median, figures.ms.p95)]
        rows.append([name, share, *medians, *times, f"{figures.sigma_holds.rate:.1%}"])
    unknown = summary.unknown
    return table(head, rows) + (
        f"<p>Medians. Tracking: {summary.sequences.frames_per_s} frames/s. C-arm known only roughly, two views: "
        f"{unknown.found.hits} of {unknown.found.of} found; targets that both locate are "
        f"{unknown.located_mm.median:.3f} mm off, {unknown.located_known_mm.median:.3f} mm with the geometry known.</p>"
    )


def _quality(quality: TrustFigures) -> str:
    named = {
        "right, but not VALID": quality.false_reject,
        "wrong, but VALID": quality.false_accept,
        **{f"{kind}: VALID": rate for kind, rate in quality.wrong_image_valid.items()},
    }
    rows = [(name, f"{rate.hits} of {rate.of}", f"{rate.rate:.1%}", _interval(rate)) for name, rate in named.items()]
    return "<h2>Trust</h2>" + table(("", "", "rate", "95 % CI"), rows)


def _interval(rate: Rate) -> str:
    return f"{rate.low:.1%}–{rate.high:.1%}"


def _plots(measured: Measured) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"the report needs matplotlib: pip install 'navnode[bench]' ({error})") from error
    figure = Figure(figsize=(11, 4), layout="constrained")
    shares, signs = figure.subplots(1, 2)
    for group in GROUPS:
        errors = sorted(_lateral(o) for o in measured.singles if o.group == group.name)
        shares.plot(errors, np.arange(1, len(errors) + 1) / len(errors), label=group.name)
    shares.axvline(RIGHT_MM, color="#888", linewidth=0.8)
    shares.set(xscale="log", xlabel="lateral error, mm", ylabel="share of cases below", ylim=(0, 1.02))
    shares.legend(loc="lower right", fontsize=8)
    for status, colour in _STATUS_COLOURS.items():
        these = [o for o in measured.singles if o.registration.validity.status is status]
        signs.scatter(
            [1 - o.registration.similarity for o in these],
            [_lateral(o) for o in these],
            s=12,
            color=colour,
            label=status,
        )
    signs.axhline(RIGHT_MM, color="#888", linewidth=0.8)
    signs.set(xscale="log", yscale="log", xlabel="1 - similarity", ylabel="lateral error, mm")
    signs.legend(fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return f"<h2>Errors</h2><img alt='error plots' src='data:image/png;base64,{_base64(image.getvalue())}'>"


def _overlays(outcomes: Sequence[Outcome], volumes: dict[str, Volume]) -> list[str]:
    figures = []
    for outcome in outcomes:
        carm, volume_from_carm = outcome.case.carm.binned(2), outcome.registration.volume_from_carm
        drawn = Overlays(volumes[outcome.ct]).drawn(outcome.case.counts, carm, volume_from_carm)
        done, png = cv2.imencode(".png", drawn)
        assert done and outcome.errors is not None
        errors, validity = outcome.errors, outcome.registration.validity
        about = (
            f"{outcome.ct}, {outcome.case.station}, {outcome.group}: {errors.lateral:.2f} mm lateral, "
            f"{errors.depth:.2f} mm depth, {validity.status} {validity.reason}"
        )
        figures.append(
            f"<figure><img alt='overlay and checkerboard' src='data:image/png;base64,{_base64(png.tobytes())}'>"
            f"<figcaption>{html.escape(about)}</figcaption></figure>"
        )
    return figures


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
