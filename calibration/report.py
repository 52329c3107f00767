"""The report of a calibration, to be kept with the case: figures, gates, plots, images, verdict and what to do next.

One self-contained HTML file; plots are SVG, so that no optional package is needed.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calibration.fitting import from_middle_deg
from calibration.verdict import Calibration, plain
from navnode.files.artifacts import Artifact
from navnode.files.report import BAD, GOOD, LINE, SECOND, STYLE, Axes, curve, dot, embedded, figure
from navnode.types import Array, FloatArray

__all__ = ["page"]

_MOST_IMAGES = 12
_IMAGE_PX = 640
_LONGER = 40.0
"""Magnification of residuals in images."""


def page(
    calibration: Calibration[Any],
    files: Sequence[Path] = (),
    *,
    device: str = "",
    before: Artifact[Any] | None = None,
) -> str:
    """The report as HTML.

    Args:
        files: input files.
        device: name of the tool, C-arm or detector.
        before: the calibration that this one follows.
    """
    quality = plain(calibration.quality)
    verdict = (
        f'<p class=verdict style="background:{GOOD}">PASS</p>'
        if calibration.passed
        else f'<p class=verdict style="background:{BAD}">FAIL</p><p>{html.escape(calibration.reason)}</p>'
    )
    title = f"{calibration.kind.name}{' of ' + device if device else ''}"
    drawn = [_DRAWN[name](data) for name, data in calibration.pictures[:_MOST_IMAGES] if name in _DRAWN]
    more = len(calibration.pictures) - len(drawn)
    return "\n".join(
        [
            f"<!doctype html><meta charset=utf-8><title>Calibration: {html.escape(title)}</title>",
            f"<style>{STYLE}</style><h1>Calibration: {html.escape(title)}</h1>",
            f"<p>{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; research use only, not a medical device</p>",
            verdict,
            _figures(quality, calibration.gates),
            *drawn,
            f"<p>{more} more are not shown.</p>" if more > 0 else "",
            "<h2>Input files</h2><ul>",
            *(f"<li>{html.escape(path.name)}</li>" for path in files),
            "</ul>",
        ]
    )


def _figures(quality: Mapping[str, object], gates: Mapping[str, float]) -> str:
    rows = []
    for name, value in quality.items():
        if name == "gates" or isinstance(value, dict):
            continue
        limit = f"{gates[name]:g}" if name in gates else ""
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{html.escape(_brief(value))}</td><td>{limit}</td></tr>")
    return f"<table><tr><th>figure</th><th>measured</th><th>gate</th></tr>{''.join(rows)}</table>"


def _brief(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        shown = ", ".join(_brief(part) for part in value[:12])
        return f"{shown} ..." if len(value) > 12 else shown or "none"
    return str(value)


# --- plots -----------------------------------------------------------------------------------------------------------


def _residuals(data: Mapping[str, Array]) -> str:
    rows, length, used = (np.asarray(data[name]) for name in ("rows", "length_mm", "used"))
    axes = Axes(rows.astype(np.float64), length, zero=True)
    dots = [dot(axes.at(x, y), GOOD if ok else BAD) for x, y, ok in zip(rows, length, used, strict=True)]
    first = axes.svg(dots, "row", "mm", "Residual of every row; red ones were excluded.")
    counts, edges = np.histogram(length[used] if used.any() else length, bins=min(24, max(len(length) // 3, 4)))
    bars = Axes(edges, counts.astype(np.float64), zero=True)
    boxes = []
    for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
        (x1, y1), (x2, y2) = bars.at(a, float(count)), bars.at(b, 0.0)
        boxes.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1 - 1:.1f}" height="{y2 - y1:.1f}" fill="{LINE}"/>'
        )
    return first + bars.svg(boxes, "mm", "rows", "Residuals of the rows used.")


def _directions(data: Mapping[str, Array]) -> str:
    """Coverage: directions of the tool about their mean."""
    flat, used = from_middle_deg(np.asarray(data["directions"])), np.asarray(data["used"])
    side, scale = 240, 110 / max(float(np.linalg.norm(flat, axis=1).max()), 20.0)
    rings = [
        f'<circle cx="120" cy="120" r="{ring * scale:.1f}" fill="none" stroke="#d8dde5"/>'
        f'<text x="122" y="{118 - ring * scale:.1f}">{ring}°</text>'
        for ring in (10, 20, 30, 45, 60, 90)
        if ring * scale <= 112
    ]
    dots = [dot((120 + u * scale, 120 - v * scale), GOOD if ok else BAD) for (u, v), ok in zip(flat, used, strict=True)]
    return figure(
        f'<svg width="{side}" height="{side}">{"".join(rings + dots)}</svg>',
        "Coverage: amount and direction of tilt. Fill the disc evenly.",
    )


def _by_label(data: Mapping[str, Any]) -> str:
    errors_mm = plain(data["mm"]) or {}
    if not errors_mm:
        return ""
    most = max([*errors_mm.values(), 1e-6])
    rows = [
        f"<tr><td>{html.escape(str(label))}</td><td>{value:.2f} mm</td>"
        f'<td style="text-align:left"><svg width="220" height="12"><rect width="{220 * value / most:.0f}" height="12" '
        f'fill="{LINE}"/></svg></td></tr>'
        for label, value in errors_mm.items()
    ]
    expected = plain(data.get("tre_mm")) or {}
    targets = "; ".join(f"{name} {value:.2f} mm" for name, value in expected.items() if value is not None)
    return f"<table><tr><th>point</th><th>error</th><th></th></tr>{''.join(rows)}</table><p>Target error: {targets}</p>"


def _correlation(data: Mapping[str, Array]) -> str:
    lag, value = np.asarray(data["lag_s"]), np.asarray(data["correlation"])
    axes = Axes(lag, value)
    caption = "One peak must be higher than all others."
    return axes.svg([curve(axes, lag, value, LINE)], "lag, s", "correlation", caption)


def _motions(data: Mapping[str, Array]) -> str:
    parts = []
    axes = Axes(np.asarray(data["tracker_s"]), np.array([-2.5, 2.5]))
    for name, colour in (("tracker", LINE), ("image", SECOND)):
        value = np.asarray(data[name], np.float64)
        value = (value - value.mean()) / max(float(value.std()), 1e-9)
        parts.append(curve(axes, np.asarray(data[f"{name}_s"]), np.clip(value, -2.5, 2.5), colour))
    return axes.svg(parts, "s", "", "Both motions, the image's shifted by the lag: they must coincide.")


def _bends(data: Mapping[str, Array]) -> str:
    angles, bend, left = (np.asarray(data[name]) for name in ("angles_rad", "bend", "left_out_mm"))
    main = int(np.ptp(angles, axis=0).argmax())
    order = np.argsort(angles[:, main])
    x = angles[order, main]
    axes = Axes(x, bend[:, 3:6].ravel())
    curves = [curve(axes, x, bend[order, 3 + axis], colour) for axis, colour in enumerate((LINE, SECOND, GOOD))]
    errors = Axes(x, left, zero=True)
    dots = [dot(errors.at(a, b), BAD) for a, b in zip(x, left[order], strict=True) if np.isfinite(b)]
    deviation = axes.svg(curves, "rad", "mm", "Deviation of the source from an ideal arc, along x, y and z of carm.")
    return deviation + errors.svg(dots, "rad", "mm", "Error of the source at every angle when that angle is left out.")


def _markers(data: Mapping[str, Array]) -> str:
    points = np.asarray(data["markers_mm"])
    scale = 100 / max(float(np.abs(points[:, :2]).max()), 1.0)
    dots = [
        dot((120 + x * scale, 120 - y * scale), LINE, 6)
        + f'<text x="{128 + x * scale:.0f}" y="{124 - y * scale:.0f}">{n}</text>'
        for n, (x, y) in enumerate(points[:, :2])
    ]
    return figure(f'<svg width="240" height="240">{"".join(dots)}</svg>', "The spheres, seen along their third axis.")


def _flat(data: Mapping[str, FloatArray]) -> str:
    captions = {"dark": "Dark counts.", "gain": "Gain.", "bad": "Bad pixels, white."}
    return "".join(figure(_image(np.asarray(data[name])), text) for name, text in captions.items())


def _beads(data: Mapping[str, Array]) -> str:
    """A shot: beads found (green), their expected positions (yellow), and residuals 40 times enlarged (red)."""
    counts = np.asarray(data["counts"], np.float32)
    share = _IMAGE_PX / max(counts.shape)
    low, high = np.percentile(counts, (0.5, 99.5))
    grey = np.clip((counts - low) / max(float(high - low), 1.0) * 255, 0, 255).astype(np.uint8)
    shown = cv2.cvtColor(cv2.resize(grey, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)

    def place(at: Array) -> tuple[int, int]:
        return round(float(at[0]) * share), round(float(at[1]) * share)

    for at in data["expected_px"]:
        if np.isfinite(at).all() and np.abs(at).max() < 1e5:
            cv2.circle(shown, place(at), 9, (40, 190, 220), 1, cv2.LINE_AA)
    for at, off in zip(data["found_px"], data["off_px"], strict=True):
        cv2.drawMarker(shown, place(at), (90, 200, 60), cv2.MARKER_CROSS, 9, 1, cv2.LINE_AA)
        cv2.line(shown, place(at), place(at + off * _LONGER), (60, 60, 230), 1, cv2.LINE_AA)
    caption = "Beads found (green), expected positions (yellow), residuals 40 times enlarged (red)."
    return figure(embedded(shown), caption)


def _image(picture: FloatArray) -> str:
    low, high = np.percentile(picture, (0.5, 99.5)) if picture.dtype != bool else (0, 1)
    if high <= low:
        low, high = float(picture.min()), max(float(picture.max()), float(picture.min()) + 1)
    grey = np.clip((picture - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    share = min(1.0, 320 / max(grey.shape))
    return embedded(cv2.resize(grey, None, fx=share, fy=share, interpolation=cv2.INTER_AREA))


_DRAWN: dict[str, Callable[[Any], str]] = {
    "residuals": _residuals,
    "directions": _directions,
    "fre": _by_label,
    "correlation": _correlation,
    "motions": _motions,
    "flex": _bends,
    "points": _markers,
    "picture": _flat,
    "beads": _beads,
}
