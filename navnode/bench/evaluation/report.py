"""Totals of an evaluation, and its report: what became better and what worse."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from navnode import __version__
from navnode.bench.evaluation.rows import FigureSums, Row, ScoredRow
from navnode.files.plots import Plot
from navnode.files.report import BAD, GOOD, STYLE, Html, table
from navnode.simulation.score import WRONG_MM, ErrorSpread

__all__ = ["damage_of", "figure_of", "judged", "page", "totals"]

_COMPARED = (
    ("registered", "share of X-rays registered", 1.0, 0.005),
    ("valid", "share of X-rays VALID", 1.0, 0.005),
    ("tre_mm", "target error, mm, median", -1.0, 0.05),
    ("tip_error_mm", "tool tip error, mm, median", -1.0, 0.05),
    ("wrong_while_valid", f"shown VALID, off by over {WRONG_MM:g} mm", -1.0, 0.0),
    ("psnr_db", "volumes compared with the CT, dB", 1.0, 0.1),
    ("realtime_factor", "speed relative to real time", 0.0, 0.0),
)
"""Key, description, 1 if more is better, -1 if less is, 0 if neither; and the largest difference that is none."""
_LEAST_PAIRS = 5
"""Sessions from which on their scatter says what is chance."""
_COUNTED = (
    ("sessions", "sessions", 0.0, 0.0),
    ("failed", "failed", -1.0, 0.0),
    ("compared", "done with all (means are over these)", 0.0, 0.0),
)


def totals(rows: Sequence[Row]) -> dict[str, FigureSums]:
    """Totals by label. Means are over sessions done with all labels, as others would compare different sessions."""
    labels = list(dict.fromkeys(row.label for row in rows))
    done = [{row.session for row in rows if row.label == label and row.status == "done"} for label in labels]
    common = set.intersection(*done) if done else set()
    return {label: _sums([row for row in rows if row.label == label], common) for label in labels}


def _sums(rows: Sequence[Row], common: set[str]) -> FigureSums:
    sums: dict[str, float | None] = {}
    for key, *_ in _COMPARED:
        values = [value for row in rows if row.session in common and (value := figure_of(row, key)) is not None]
        whole = key == "wrong_while_valid"
        sums[key] = (sum(values) if whole else round(float(np.mean(values)), 4)) if values else None
    failed = sum(row.status != "done" for row in rows)
    return FigureSums(sessions=len(rows), failed=failed, compared=len(common), **sums)


def figure_of(row: Row, key: str) -> float | None:
    """A row's figure as one number."""
    value: float | ErrorSpread | None = getattr(row, key, None)
    return value.median if isinstance(value, ErrorSpread) else value


def damage_of(row: Row) -> str:
    """Damage of a row's session, or ''."""
    if row.status != "damaged":
        return ""
    return row.damage if isinstance(row, ScoredRow) else row.reason


def page(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """The report as one HTML page: what is better and what is worse, session by session."""
    by: dict[str, dict[str, Row]] = {}
    for row in rows:
        by.setdefault(row.session, {})[row.label] = row
    parts = [
        "<!doctype html><meta charset=utf-8><title>Evaluation</title>",
        f"<style>{STYLE}</style><h1>{len(by)} session{'s' if len(by) != 1 else ''} replayed</h1>",
        f"<p class=result>{html.escape(_result(totals(rows), by, labels))}</p>",
        f"<p class=quiet>navnode {__version__}; research use only, not a medical device</p>",
        "<h2>Means</h2>",
        _means(totals(rows), by, labels),
        "<h2>Session by session</h2>",
        _sessions(by, labels),
    ]
    if len(labels) == 2:
        parts += [_scatter(by, labels, key, name) for key, name, *_ in _COMPARED[:4]]
    return "\n".join(parts)


def _result(sums: Mapping[str, FigureSums], by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    """The evaluation in one line: what failed, and the figures that differ, or the target error."""
    failed = sum(sums[label].failed for label in labels)
    parts = [f"{failed} failed" if failed else "none failed"]
    for key, name, better, least in _COMPARED:
        values = [getattr(sums[label], key) for label in labels]
        verdict = judged(values, better, max(least, _chance(by, labels, key)))
        if verdict.startswith("<b") or (key == "tre_mm" and None not in values):
            word = " (better)" if "better" in verdict else " (worse)" if "worse" in verdict else ""
            parts.append(f"{name}: {' → '.join(map(_number, values))}{word}")
    return "; ".join(parts)


def _means(sums: Mapping[str, FigureSums], by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    rows = []
    for key, name, better, least in (*_COUNTED, *_COMPARED):
        values = [getattr(sums[label], key) for label in labels]
        verdict = judged(values, better, max(least, _chance(by, labels, key)))
        rows.append([name, *map(_number, values), verdict])
    return table(("figure", *labels, ""), rows)


def _chance(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str) -> float:
    """Half of the 95 % interval of the mean difference between two labels, in the figure's unit, from sessions that ran
    with both; 0 where there are too few to tell, and for counts, each of which matters."""
    if len(labels) != 2 or key == "wrong_while_valid":
        return 0.0
    differences = [b - a for a, b in _pairs(by, labels, key)]
    if len(differences) < _LEAST_PAIRS:
        return 0.0
    return float(1.96 * np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _pairs(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str) -> list[tuple[float, float]]:
    """A figure of every session that has it with both labels."""
    found = []
    for rows in by.values():
        if len(rows) == 2:
            a, b = (figure_of(rows[label], key) for label in labels[:2])
            if a is not None and b is not None:
                found.append((a, b))
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def judged(values: Sequence[float | None], better: float, least: float) -> Html:
    """Better or worse, or why neither is said.

    Args:
        values: the figure before and after.
        better: 1 if more is better, -1 if less is, 0 if neither.
        least: the largest difference that is none, in the figure's unit.
    """
    before, after = values if len(values) == 2 else (None, None)
    if before is None or after is None or not better or before == after:
        return Html()
    if abs(after - before) <= least:
        return Html(f"<span class=quiet>the same within {least:.2g}</span>")
    gained = (after - before) * better > 0
    return Html(f'<b style="color:{GOOD if gained else BAD}">{"better" if gained else "worse"}</b>')


def _sessions(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str]) -> str:
    rows = []
    for session, by_label in by.items():
        for row in (by_label[label] for label in labels if label in by_label):
            figures = [_number(figure_of(row, key)) for key, *_ in _COMPARED]
            more = [row.damage, *row.notes] if isinstance(row, ScoredRow) else []
            remarks = "; ".join(dict.fromkeys(filter(None, [row.reason, *more])))
            rows.append([PurePosixPath(session).name, row.label, *figures, remarks])
    return table(("session", "with", *(name for _, name, *_ in _COMPARED), ""), rows)


def _scatter(by: Mapping[str, Mapping[str, Row]], labels: Sequence[str], key: str, name: str) -> str:
    """One against the other; a point is a session."""
    pairs = _pairs(by, labels, key)
    if len(pairs) < 2:
        return ""
    points = np.array(pairs, np.float64)
    both = np.array([points.min(), points.max()])
    plot = Plot(labels[0], labels[1]).line(both, both, "equal", colour="#9aa4b2", dashed=True)
    return plot.dots(points[:, 0], points[:, 1], "a session").svg(name)
