"""The report of a calibration, to be kept with the case: figures, gates, plots, images, verdict and what to do next.

One self-contained HTML file. It begins with the result.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from navnode.files.artifacts import Artifact
from navnode.files.plots import Plot, shares
from navnode.files.report import BAD, GOOD, LINE, SECOND, STYLE, Html, embedded, figure, table
from navnode.types import Array, FloatArray

from . import results
from .fitting import from_middle_deg
from .verdict import Calibration, plain

__all__ = ["page"]

_MOST_IMAGES = 8
_RINGS_DEG = (10, 20, 30, 45, 60, 90)
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
    """The report as HTML: the verdict and the result, figures beside their gates, then plots.

    Args:
        files: input files.
        device: name of the tool, C-arm or detector.
        before: the calibration that this one follows.
    """
    title = f"{calibration.kind.name}{' of ' + device if device else ''}"
    drawn = [_DRAWN[name](data) for name, data in calibration.pictures if name in _DRAWN]
    read = ", ".join(path.name for path in files)
    return "\n".join(
        [
            f"<!doctype html><meta charset=utf-8><title>Calibration: {html.escape(title)}</title>",
            f"<style>{STYLE}</style><h1>Calibration: {html.escape(title)}</h1>",
            *_verdict(calibration, before),
            _figures(calibration),
            *drawn,
            *_shots(calibration),
            f"<p class=quiet>{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; research use only, not a medical device"
            + (f"; from {html.escape(read)}" if read else "")
            + "</p>",
        ]
    )


def _verdict(calibration: Calibration[Any], before: Artifact[Any] | None) -> list[str]:
    """PASS and what was found, or FAIL and why."""
    if not calibration.passed:
        return [f'<p class=verdict style="background:{BAD}">FAIL</p><p>{html.escape(calibration.reason)}</p>']
    found = "; ".join(results.part_in_words(part) for part in results.found(calibration))
    changes = [results.change_in_words(each) for each in results.changes(calibration, before)]
    return [
        f'<div class=head><p class=verdict style="background:{GOOD}">PASS</p>',
        f"<p class=result>{html.escape(found)}</p></div>",
        *(f"<p>{html.escape(each)}</p>" for each in changes),
    ]


def _figures(calibration: Calibration[Any]) -> str:
    """Every gate with its figure, then the figures that no gate judges."""
    rows = []
    for each in map(results.measured, calibration.figures):
        word = Html("<span class=good>✓</span>") if each.kept else Html("<span class=bad>✗</span>")
        value, limit = results.values_in_words(each)
        rows.append((each.what, value, limit, word, Html(f"<code>{html.escape(each.key)}</code>")))
    quality = plain(calibration.quality)
    others = [
        f"{name} {_brief(value)}"
        for name, value in quality.items()
        if name not in ("gates", "rejected", "image_rejected", *calibration.gates)
        and not isinstance(value, dict)
        and not (isinstance(value, list) and any(isinstance(part, list) for part in value))
    ]
    return table(("figure", "measured", "pass mark", "", ""), rows) + (
        f"<p class=quiet>{html.escape('; '.join(others))}</p>" if others else ""
    )


def _brief(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return results.brief(value)
    if isinstance(value, list):
        shown = ", ".join(_brief(part) for part in value[:6])
        return f"{shown} ..." if len(value) > 6 else shown or "none"
    return str(value)


def _shots(calibration: Calibration[Any]) -> list[str]:
    """Shots of the phantom, small; the worst ones first."""
    drawn = [(data, *_OF_SHOTS[name]) for name, data in calibration.pictures if name in _OF_SHOTS]
    if not drawn:
        return []

    def worst(shot: tuple[Mapping[str, Any], Any, str]) -> float:
        off_px = shot[0]["off_px"]
        return -float(np.linalg.norm(off_px, axis=1).max(initial=0.0)) if len(off_px) else 0.0

    shown = sorted(drawn, key=worst)[:_MOST_IMAGES]
    what = f"{len(shown)} of {len(drawn)} shots, the worst first: " if len(shown) < len(drawn) else "Shots: "
    text = f"{what}{drawn[0][2]}."
    return ["<div class=shots>", *(draw(data) for data, draw, _ in shown), f"</div><p class=quiet>{text}</p>"]


# --- plots -----------------------------------------------------------------------------------------------------------


def _residuals(data: Mapping[str, Array]) -> str:
    rows, length, used = (np.asarray(data[name]) for name in ("rows", "length_mm", "used"))
    plot = Plot("row", "residual, mm", zero=True).dots(rows[used], length[used], "used", colour=GOOD)
    first = plot.dots(rows[~used], length[~used], "excluded", colour=BAD).svg("Residual of every row.")
    edges, counts = shares(length[used] if used.any() else length)
    return first + Plot("residual, mm", "rows", zero=True).bars(edges, counts).svg("Residuals of the rows used.")


def _directions(data: Mapping[str, Array]) -> str:
    """Coverage: directions of the tool about their mean."""
    flat, used = from_middle_deg(np.asarray(data["directions"])), np.asarray(data["used"])
    widest = max(float(np.linalg.norm(flat, axis=1).max()), 20.0)
    plot = Plot("to the side, °", "up, °", square=True).rings(tuple(r for r in _RINGS_DEG if r <= 1.2 * widest), "°")
    plot.dots(flat[used, 0], flat[used, 1], "used", colour=GOOD)
    plot.dots(flat[~used, 0], flat[~used, 1], "excluded", colour=BAD)
    return plot.svg("Coverage: amount and direction of tilt. Fill the disc evenly.")


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
    caption = "One peak must be higher than all others."
    return Plot("lag, ms", "correlation").line(1e3 * lag, value).svg(caption)


def _motions(data: Mapping[str, Array]) -> str:
    plot = Plot("time, s", "motion, standard deviations")
    began_s = float(min(np.min(data["tracker_s"]), np.min(data["image_s"])))
    for name, colour in (("tracker", LINE), ("image", SECOND)):
        value = np.asarray(data[name], np.float64)
        value = (value - value.mean()) / max(float(value.std()), 1e-9)
        plot.line(np.asarray(data[f"{name}_s"]) - began_s, value, name, colour=colour)
    return plot.svg("Both motions, the image's shifted by the lag: they must coincide.")


def _bends(data: Mapping[str, Array]) -> str:
    angles, bend, left = (np.asarray(data[name]) for name in ("angles_rad", "bend", "left_out_mm"))
    main = int(np.ptp(angles, axis=0).argmax())
    name = ("orbital angle, °", "angulation, °")[main]
    x = np.rad2deg(angles[:, main])
    plot = Plot(name, "deviation, mm")
    for axis, colour in enumerate((LINE, SECOND, GOOD)):
        plot.dots(x, bend[:, 3 + axis], "along " + "xyz"[axis], colour=colour)
    deviation = plot.svg("Deviation of the source from an ideal arc, in the carm frame.")
    known = np.isfinite(left)
    errors = Plot(name, "error, mm", zero=True).dots(x[known], left[known], colour=BAD)
    return deviation + errors.svg("Error of the source at every angle when that angle is left out.")


def _markers(data: Mapping[str, Array]) -> str:
    points = np.asarray(data["markers_mm"])
    plot = Plot("first axis, mm", "second axis, mm", square=True).dots(points[:, 0], points[:, 1])
    plot.names(points[:, 0], points[:, 1], [str(n) for n in range(len(points))])
    return plot.svg("The spheres, seen along their third axis.")


def _flat(data: Mapping[str, FloatArray]) -> str:
    captions = {"dark": "Dark counts.", "gain": "Gain.", "bad": "Bad pixels, white."}
    return "".join(figure(_image(np.asarray(data[name])), text) for name, text in captions.items())


def _beads(data: Mapping[str, Array]) -> str:
    """A shot: beads found (green), their expected positions (yellow), and residuals 40 times enlarged (red)."""
    shown, share = _shown(data["counts"])
    for at in data["expected_px"]:
        if np.isfinite(at).all() and np.abs(at).max() < 1e5:
            cv2.circle(shown, _place(at * share), 9, (40, 190, 220), 1, cv2.LINE_AA)
    for at, off in zip(data["found_px"], data["off_px"], strict=True):
        cv2.drawMarker(shown, _place(at * share), (90, 200, 60), cv2.MARKER_CROSS, 9, 1, cv2.LINE_AA)
        cv2.line(shown, _place(at * share), _place((at + off * _LONGER) * share), (60, 60, 230), 1, cv2.LINE_AA)
    return embedded(shown, exact=False)


def _holes(data: Mapping[str, Array]) -> str:
    """A picture of a plate: holes (green), how the correction moves them (yellow), residuals enlarged (red)."""
    shown, share = _shown(data["counts"])
    for at, off, shift in zip(data["found_px"], data["off_px"], data["shift_px"], strict=True):
        cv2.line(shown, _place(at * share), _place((at + shift) * share), (40, 190, 220), 1, cv2.LINE_AA)
        cv2.line(shown, _place(at * share), _place((at + off * _LONGER) * share), (60, 60, 230), 1, cv2.LINE_AA)
        cv2.circle(shown, _place(at * share), 1, (90, 200, 60), -1, cv2.LINE_AA)
    return embedded(shown, exact=False)


def _shown(counts: Array) -> tuple[Array, float]:
    """A picture in grey, for colours to be drawn on, and its size over that of the counts."""
    counts = np.asarray(counts, np.float32)
    share = _IMAGE_PX / max(counts.shape)
    low, high = np.percentile(counts, (0.5, 99.5))
    grey = np.clip((counts - low) / max(float(high - low), 1.0) * 255, 0, 255).astype(np.uint8)
    return cv2.cvtColor(
        cv2.resize(grey, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR
    ), share


def _place(at_px: Array) -> tuple[int, int]:
    return round(float(at_px[0])), round(float(at_px[1]))


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
}
_OF_SHOTS: dict[str, tuple[Callable[[Any], str], str]] = {
    "beads": (_beads, "beads found (green), expected (yellow), residuals 40 times enlarged (red)"),
    "holes": (_holes, "holes named (green), how the correction moves them (yellow), residuals 40 times enlarged (red)"),
}
"""Name of a picture -> how it is drawn, and what its colours are."""
