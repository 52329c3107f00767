"""Plots of reports, drawn by matplotlib as SVG: one look, round ticks, legends.

Matplotlib is optional: without it, a report says so where a plot would be.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from navnode.files.report import BAD, GOOD, INK, LINE, SECOND, figure
from navnode.types import Array, Matrix

__all__ = ["COLOURS", "Plot", "shares"]

COLOURS = (LINE, SECOND, GOOD, BAD, "#7d55d9", "#56606e")
"""Of series, in their order."""
_SIZE_IN = (4.3, 2.4)
_SQUARE_IN = (2.6, 2.4)
_LEGEND_IN = 2.0
_MOST_POINTS = 800
_MOST_INSIDE = 3
"""Names in a legend that stands within the axes."""
_STYLE = {
    "font.size": 8.5,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "navnode",  # the same data give the same page
    "axes.edgecolor": "#8a94a1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e8ee",
    "xtick.color": "#56606e",
    "ytick.color": "#56606e",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Plot:
    """A plot, drawn when its SVG is asked for.

    Args:
        x_name, y_name: names of the axes, with units.
        zero: start the y axis at 0.
        square: of equal scales, for places.
    """

    def __init__(self, x_name: str, y_name: str, *, zero: bool = False, square: bool = False) -> None:
        self._names, self._zero, self._square = (x_name, y_name), zero, square
        self._parts: list[Callable[[Any], None]] = []
        self._labels = 0

    def _add(self, draw: Callable[[Any], None], label: str) -> Plot:
        self._labels += bool(label)
        self._parts.append(draw)
        return self

    def line(self, x: Matrix, y: Matrix, label: str = "", *, colour: str = LINE, dashed: bool = False) -> Plot:
        """A line through points, x and y (N,), thinned out if there are many."""
        some = slice(None, None, max(len(x) // _MOST_POINTS, 1))
        style = "--" if dashed else "-"
        return self._add(lambda axes: axes.plot(x[some], y[some], style, color=colour, lw=1.3, label=label), label)

    def dots(self, x: Matrix, y: Matrix, label: str = "", *, colour: str = LINE) -> Plot:
        """Points, x and y (N,), thinned out if there are many; nothing without any."""
        if not len(x):
            return self
        some = slice(None, None, max(len(x) // (2 * _MOST_POINTS), 1))
        return self._add(
            lambda axes: axes.scatter(x[some], y[some], s=9, color=colour, alpha=0.75, lw=0, label=label), label
        )

    def bars(self, edges: Matrix, counts: Matrix, label: str = "", *, colour: str = LINE) -> Plot:
        """A histogram: edges (N + 1,) and counts (N,)."""
        return self._add(
            lambda axes: axes.stairs(counts, edges, fill=True, color=colour, alpha=0.8, label=label), label
        )

    def limit(self, y: float, label: str) -> Plot:
        """A dashed line across, at a limit y of the unit of the y axis."""
        return self._add(lambda axes: axes.axhline(y, color=BAD, lw=1, ls="--", label=label), label)

    def names(self, x: Matrix, y: Matrix, texts: list[str]) -> Plot:
        """Texts beside points, x and y (N,)."""

        def draw(axes: Any) -> None:
            for a, b, text in zip(x, y, texts, strict=True):
                axes.annotate(text, (a, b), xytext=(5, 3), textcoords="offset points", fontsize=8)

        return self._add(draw, "")

    def rings(self, radii: tuple[float, ...], unit: str) -> Plot:
        """Circles about the origin, with radii of the unit of both axes."""

        def draw(axes: Any) -> None:
            turn = np.linspace(0, 2 * np.pi, 120)
            for radius in radii:
                axes.plot(radius * np.cos(turn), radius * np.sin(turn), color="#d8dde5", lw=1)
                axes.annotate(f"{radius:g}{unit}", (0, radius), fontsize=7.5, color="#56606e")
            axes.grid(visible=False)

        return self._add(draw, "")

    def svg(self, caption: str) -> str:
        """The plot, in a figure with a caption."""
        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure
        except ImportError:
            return figure("<p>Not drawn: plots need matplotlib, pip install 'navnode[analysis]'.</p>", caption)
        with mpl.rc_context(_STYLE):
            wide, high = _SQUARE_IN if self._square else _SIZE_IN
            beside = _LEGEND_IN if self._labels > _MOST_INSIDE else 0.0
            drawn = Figure(figsize=(wide + beside, high), layout="constrained")
            axes = drawn.subplots()
            for part in self._parts:
                part(axes)
            axes.set(xlabel=self._names[0], ylabel=self._names[1])
            if self._zero:
                axes.set_ylim(bottom=0)
            if self._square:
                axes.set_aspect("equal", adjustable="datalim")
            if self._labels > _MOST_INSIDE:
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
            elif self._labels:
                axes.legend(loc="best")
            written = io.StringIO()
            drawn.savefig(written, format="svg", metadata=_NO_METADATA, transparent=True)
        return figure(_inline(written.getvalue(), caption), caption)


def _inline(document: str, caption: str) -> str:
    """An SVG document as a part of HTML, which needs neither its declarations nor its name spaces."""
    content = document[document.index("<svg") :]
    content = re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.S)
    content = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", content)
    return content.replace("<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1)


def shares(values: Array) -> tuple[Matrix, Matrix]:
    """Edges (N + 1,) and counts (N,) of a histogram of values (M,), at least one."""
    counts, edges = np.histogram(values, bins=min(24, max(len(values) // 3, 4)))
    return edges, counts.astype(np.float64)
