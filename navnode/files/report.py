"""Parts of reports: percentiles, tables and figures, in one look. The HTML is self-contained."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Sequence

import cv2
import msgspec
import numpy as np

from navnode.types import Array

__all__ = [
    "BAD",
    "GOOD",
    "Html",
    "LINE",
    "Percentiles",
    "SECOND",
    "STYLE",
    "WIDTH",
    "embedded",
    "figure",
    "percentiles",
    "table",
]

WIDTH = 460
"""Of a plot, px."""
GOOD, BAD, INK, LINE, SECOND = "#1f8a57", "#c23b32", "#1d2430", "#2f6fb3", "#c98a1b"
STYLE = f"""
body{{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:{INK}}}
table{{border-collapse:collapse;margin:1rem 0}}td,th{{padding:.25rem .8rem;border-bottom:1px solid #d8dde5}}
th:first-child{{text-align:left}}td:nth-child(n+2){{text-align:right;font-variant-numeric:tabular-nums}}
figure{{display:inline-block;margin:.5rem;vertical-align:top}}img{{max-width:100%}}
figcaption{{font-size:13px;color:#56606e;max-width:34rem}}
.head{{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;align-items:center}}.head p{{margin:0}}
.result{{font-size:1.25rem}}.result b{{font-variant-numeric:tabular-nums}}
.quiet,code{{color:#56606e;font-size:13px}}
.good{{color:{GOOD}}}.bad{{color:{BAD}}}.shots{{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:.5rem}}
@media print{{body{{margin:0;font-size:11px}}figure{{break-inside:avoid}}}}
.verdict{{font-size:1.3rem;padding:.6rem 1rem;border-radius:.4rem;color:white;display:inline-block}}
svg{{max-width:100%;height:auto}}svg text{{font-family:system-ui,sans-serif}}
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


def figure(content: str, caption: str) -> str:
    """An HTML figure with its caption."""
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def embedded(image: Array, *, exact: bool = True) -> str:
    """An 8-bit image (H, W) or (H, W, 3), embedded in the page.

    Args:
        exact: as PNG; otherwise as JPEG, which is a tenth of it for X-rays.
    """
    kind = "png" if exact else "jpeg"
    _, data = cv2.imencode(f".{kind}", image)
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}">'
