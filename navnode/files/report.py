"""Parts of reports: percentiles, tables, and plots as SVG. The HTML is self-contained and needs no optional package."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Sequence

import cv2
import msgspec
import numpy as np

from navnode.types import Array, Matrix

__all__ = [
    "Axes",
    "BAD",
    "GOOD",
    "Html",
    "LINE",
    "Percentiles",
    "SECOND",
    "STYLE",
    "WIDTH",
    "curve",
    "dot",
    "embedded",
    "figure",
    "percentiles",
    "table",
]

WIDTH, HEIGHT, LEFT, BELOW = 460, 240, 52, 34
GOOD, BAD, INK, LINE, SECOND = "#1f8a57", "#c23b32", "#1d2430", "#2f6fb3", "#c98a1b"
STYLE = f"""
body{{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:{INK}}}
table{{border-collapse:collapse;margin:1rem 0}}td,th{{padding:.25rem .8rem;border-bottom:1px solid #d8dde5}}
td:nth-child(n+2){{text-align:right;font-variant-numeric:tabular-nums}}
figure{{display:inline-block;margin:.5rem;vertical-align:top}}img{{max-width:100%}}
figcaption{{font-size:13px;color:#56606e;max-width:34rem}}
.verdict{{font-size:1.3rem;padding:.6rem 1rem;border-radius:.4rem;color:white;display:inline-block}}
svg text{{font:11px system-ui,sans-serif;fill:#56606e}}
"""


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of some values."""

    p50: float
    p95: float
    p99: float
    max: float
    count: int


def percentiles(values: Collection[float], digits: int = 3) -> Percentiles:
    """Percentiles of at least one value, rounded, in the unit of the values."""
    p50, p95, p99, worst = np.percentile(list(values), [50, 95, 99, 100]).round(digits).tolist()
    return Percentiles(p50=p50, p95=p95, p99=p99, max=worst, count=len(values))


class Html(str):
    """Text that is already markup."""

    __slots__ = ()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; cells are text or :class:`Html`."""

    def row(cells: Sequence[str], tag: str) -> str:
        shown = (cell if isinstance(cell, Html) else html.escape(cell) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(each, 'td') for each in rows)}</table>"


class Axes:
    """Axes of a plot: they map data to positions, and draw ticks and labels.

    Args:
        x, y: all data to be drawn.
        zero: start the y axis at 0.
    """

    def __init__(self, x: Matrix, y: Matrix, *, zero: bool = False) -> None:
        (left, right), (bottom, top) = _range(x), _range(y)
        low, high = np.array([left, 0.0 if zero else bottom]), np.array([right, top])
        wide = np.where(high - low > 1e-12, high - low, 1.0)
        self._low, self._high = low, low + wide * [1.0, 1.05]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Position of a value in the drawing, px."""
        share = (np.array([x, y]) - self._low) / (self._high - self._low)
        return LEFT + share[0] * (WIDTH - LEFT - 10), (HEIGHT - BELOW) * (1 - share[1]) + 4

    def svg(self, parts: Sequence[str], x_name: str, y_name: str, caption: str) -> str:
        """The finished plot: axes around ``parts``, in a figure with a caption."""
        lines = []
        for share in np.linspace(0, 1, 5):
            x, y = self._low + share * (self._high - self._low)
            px, py = self.at(x, y)
            lines.append(f'<line x1="{LEFT}" y1="{py:.1f}" x2="{WIDTH - 10}" y2="{py:.1f}" stroke="#e4e8ee"/>')
            lines.append(f'<text x="{LEFT - 5}" y="{py + 4:.1f}" text-anchor="end">{y:.3g}</text>')
            lines.append(f'<text x="{px:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{x:.3g}</text>')
        lines.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">{html.escape(x_name)}</text>')
        lines.append(f'<text x="{LEFT + 6}" y="14">{html.escape(y_name)}</text>')
        body = "".join([*lines, *parts])
        return figure(f'<svg width="{WIDTH}" height="{HEIGHT}">{body}</svg>', caption)


def _range(values: Matrix) -> tuple[float, float]:
    """Smallest and largest finite value; 0 and 1 if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def figure(content: str, caption: str) -> str:
    """An HTML figure with its caption."""
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def dot(at: tuple[float, float], colour: str, radius: float = 2.5) -> str:
    """An SVG circle of a radius in px that marks a point."""
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{colour}" fill-opacity=".75"/>'


def curve(axes: Axes, x: Matrix, y: Matrix, colour: str) -> str:
    """An SVG line through points, x and y (N,), thinned out if there are many."""
    some = slice(None, None, max(len(x) // 800, 1))
    points = " ".join("{:.1f},{:.1f}".format(*axes.at(a, b)) for a, b in zip(x[some], y[some], strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def embedded(image: Array) -> str:
    """An 8-bit image (H, W) or (H, W, 3), embedded in the page."""
    _, data = cv2.imencode(".png", image)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}">'
