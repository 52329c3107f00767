"""What reports are made of: percentiles, tables, plots as SVG; an HTML file needs nothing beside it, so that the core
install is enough.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Sequence

import cv2
import msgspec
import numpy as np

from navnode.types import Array, Matrix

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
    """How values are spread."""

    p50: float
    p95: float
    p99: float
    max: float
    count: int


def percentiles(values: Collection[float], digits: int = 3) -> Percentiles:
    """Of some values, at least one, in their unit; rounded."""
    p50, p95, p99, worst = np.percentile(list(values), [50, 95, 99, 100]).round(digits).tolist()
    return Percentiles(p50=p50, p95=p95, p99=p99, max=worst, count=len(values))


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are text, or :class:`Html`."""

    def row(cells: Sequence[str], tag: str) -> str:
        shown = (cell if isinstance(cell, Html) else html.escape(cell) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(each, 'td') for each in rows)}</table>"


class Axes:
    """A plot's frame: data to places in it, ticks, and the SVG around what is drawn.

    Args:
        x, y: all that is drawn.
        zero: the axis of y begins at 0.
    """

    def __init__(self, x: Matrix, y: Matrix, *, zero: bool = False) -> None:
        finite_x, finite_y = x[np.isfinite(x)], y[np.isfinite(y)]
        low = np.array([finite_x.min(initial=0.0) if not len(finite_x) else finite_x.min(),
                        0.0 if zero or not len(finite_y) else finite_y.min()])  # fmt: skip
        high = np.array([finite_x.max() if len(finite_x) else 1.0, finite_y.max() if len(finite_y) else 1.0])
        wide = np.where(high - low > 1e-12, high - low, 1.0)
        self._low, self._high = low, low + wide * [1.0, 1.05]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value is drawn."""
        share = (np.array([x, y]) - self._low) / (self._high - self._low)
        return LEFT + share[0] * (WIDTH - LEFT - 10), (HEIGHT - BELOW) * (1 - share[1]) + 4

    def svg(self, parts: Sequence[str], x_name: str, y_name: str, caption: str) -> str:
        """The whole plot."""
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


def figure(content: str, caption: str) -> str:
    """A picture with its caption."""
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def dot(at: tuple[float, float], colour: str, radius: float = 2.5) -> str:
    """A point."""
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{colour}" fill-opacity=".75"/>'


def curve(axes: Axes, x: Matrix, y: Matrix, colour: str) -> str:
    """A line; of many points some."""
    some = slice(None, None, max(len(x) // 800, 1))
    points = " ".join("{:.1f},{:.1f}".format(*axes.at(a, b)) for a, b in zip(x[some], y[some], strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def embedded(picture: Array) -> str:
    """A picture, 8 bits, in the page itself."""
    _, data = cv2.imencode(".png", picture)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}">'
