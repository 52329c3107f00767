"""The report of ``navnode bench registration``: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode.bench.registration import GROUPS, RIGHT_MM, Measured, Outcome
from navnode.errors import ConfigError
from navnode.projector import Projector
from navnode.types import FloatArray, Status, Volume

_SHOWN = 4
_TILES = 8
_STATUS_COLOURS = {Status.VALID: "#2a9d5c", Status.DEGRADED: "#d9a21b", Status.INVALID: "#c8423b"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1d2430}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #d8dde5;text-align:right}
th:first-child,td:first-child{text-align:left}figure{display:inline-block;margin:.5rem}img{max-width:100%}
figcaption{font-size:13px;color:#56606e;max-width:34rem}
"""


def write(path: Path, measured: Measured, summary: dict[str, Any]) -> None:
    """Tables, error plots, and pictures of the worst and of ordinary cases.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    by_error = sorted(measured.singles, key=_lateral)
    ordinary, worst = by_error[:-_SHOWN], by_error[: -_SHOWN - 1 : -1]
    chosen = ordinary[:: max(1, len(ordinary) // _SHOWN)][:_SHOWN]
    page = [
        "<!doctype html><meta charset=utf-8><title>navnode bench registration</title>",
        f"<style>{_STYLE}</style><h1>2D/3D registration</h1>",
        f"<p>{len(measured.singles)} single registrations, {len(measured.joint)} of two views, "
        f"{len(measured.sequences)} tracked frames; CTs: {html.escape(', '.join(summary['cts']))}. "
        "X-rays rendered by RTK with noise, scatter, beam hardening and, in a third of them, a metal tool.</p>",
        _table(summary),
        _quality(summary),
        _plots(measured),
        "<h2>The worst</h2>",
        *_pictures(worst, measured.volumes),
        "<h2>Ordinary ones</h2>",
        *_pictures(chosen, measured.volumes),
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(page), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _lateral(outcome: Outcome) -> float:
    assert outcome.errors is not None
    return outcome.errors.lateral


def _table(summary: dict[str, Any]) -> str:
    rows = [
        (name, figures["under_1_mm_lateral"], figures)
        for name, figures in (
            *summary["singles"].items(), ("two views together", summary["joint"]),
            ("tracked sequences", summary["sequences"]),
        )
    ]  # fmt: skip
    cells = [
        f"<tr><td>{html.escape(name)}<td>{rate['rate']:.1%} ({rate['low']:.1%}–{rate['high']:.1%})"
        f"<td>{figures['lateral_mm']['median']:.3f}<td>{figures['depth_mm']['median']:.3f}"
        f"<td>{figures['full_mm']['median']:.3f}<td>{figures['ms']['median']:.0f}<td>{figures['ms']['p95']:.0f}"
        for name, rate, figures in rows
    ]
    return (
        "<table><tr><th>start<th>under 1 mm lateral (95 % CI)<th>lateral mm<th>depth mm<th>full mm<th>ms<th>ms p95"
        + "".join(cells)
        + f"</table><p>Medians. Tracking: {summary['sequences']['frames_per_s']} frames/s.</p>"
    )


def _quality(summary: dict[str, Any]) -> str:
    quality = summary["quality"]
    rows = {
        "right, but not VALID": quality["false_reject"],
        "wrong, but VALID": quality["false_accept"],
        **{f"{kind}: VALID": rate for kind, rate in quality["wrong_image_valid"].items()},
    }
    cells = "".join(
        f"<tr><td>{html.escape(name)}<td>{rate['hits']} of {rate['of']}<td>{rate['rate']:.1%}"
        f"<td>{rate['low']:.1%}–{rate['high']:.1%}"
        for name, rate in rows.items()
    )
    return f"<h2>Trust</h2><table><tr><th><th><th>rate<th>95 % CI{cells}</table>"


def _plots(measured: Measured) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"the report is drawn by matplotlib: pip install 'navnode[bench]' ({error})") from error
    figure = Figure(figsize=(11, 4), layout="constrained")
    shares, signs = figure.subplots(1, 2)
    for group in GROUPS:
        errors = sorted(_lateral(o) for o in measured.singles if o.group == group.name)
        shares.plot(errors, np.arange(1, len(errors) + 1) / len(errors), label=group.name)
    shares.axvline(RIGHT_MM, color="#888", linewidth=0.8)
    shares.set(xscale="log", xlabel="lateral error, mm", ylabel="share of cases below", ylim=(0, 1.02))
    shares.legend(loc="lower right", fontsize=8)
    for status, colour in _STATUS_COLOURS.items():
        these = [o for o in measured.singles if o.found.validity.status is status]
        signs.scatter(
            [1 - o.found.similarity for o in these], [_lateral(o) for o in these], s=12, color=colour, label=status
        )
    signs.axhline(RIGHT_MM, color="#888", linewidth=0.8)
    signs.set(xscale="log", yscale="log", xlabel="1 - similarity", ylabel="lateral error, mm")
    signs.legend(fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return f"<h2>Errors</h2><img alt='error plots' src='data:image/png;base64,{_base64(image.getvalue())}'>"


def _pictures(outcomes: Sequence[Outcome], volumes: dict[str, Volume]) -> list[str]:
    figures = []
    for outcome in outcomes:
        projector = Projector(volumes[outcome.ct])
        carm = outcome.case.carm.binned(2)
        predicted = projector.render(carm, outcome.found.volume_from_carm)
        counts = cv2.resize(outcome.case.counts.astype(np.float32), predicted.shape[::-1], interpolation=cv2.INTER_AREA)
        seen = _grey(np.log(counts + 1))
        model = _grey(-predicted)
        edges = cv2.Canny(model, 40, 110)
        overlay = cv2.cvtColor(seen, cv2.COLOR_GRAY2BGR)
        overlay[edges > 0] = (60, 220, 255)
        v, u = np.indices(seen.shape)
        tile = max(seen.shape) // _TILES
        board = cv2.cvtColor(np.where((u // tile + v // tile) % 2 == 0, seen, model), cv2.COLOR_GRAY2BGR)
        done, png = cv2.imencode(".png", np.hstack([overlay, board]))
        assert done and outcome.errors is not None
        about = (
            f"{outcome.ct}, {outcome.case.station}, {outcome.group}: {outcome.errors.lateral:.2f} mm lateral, "
            f"{outcome.errors.depth:.2f} mm depth, {outcome.found.validity.status} {outcome.found.validity.reason}"
        )
        figures.append(
            f"<figure><img alt='overlay and checkerboard' src='data:image/png;base64,{_base64(png.tobytes())}'>"
            f"<figcaption>{html.escape(about)}</figcaption></figure>"
        )
    return figures


def _grey(image: FloatArray) -> Any:
    low, high = np.percentile(image, [1, 99])
    return np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
