"""What was measured, from the pages on which it stands, and how ratios to peers went from version to version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from navnode.bench import history
from navnode.files.plots import COLOURS, Plot
from sitepages.markdown import code, table

__all__ = ["Measured", "each_measured", "pages"]

_DOCS = Path(__file__).parent.parent
_HISTORY = _DOCS.parent / "benchmarks" / "history.jsonl"
_SECTION = re.compile(r"^## (?P<title>Measured|Figures)\n(?P<text>.*?)(?=^## |\Z)", re.M | re.S)
_DATE = re.compile(
    r"\b\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December) \d{4}"
)
_COMMAND = re.compile(r"`((?:make \w+ && )?navnode (?:bench|demo)[^`]*)`")
_MACHINE = re.compile(
    r"\b(?:AMD EPYC|AVX-512|AVX2|\d-core machine|two (?:shared )?cores|2 threads|load of \d to \d|no GPU|H100)\b", re.I
)


class Measured(NamedTuple):
    """A section of figures."""

    page: str
    """Its file, relative to ``docs/``."""
    title: str
    """Of the page."""
    anchor: str
    commands: tuple[str, ...]
    machines: tuple[str, ...]
    dates: tuple[str, ...]


def each_measured() -> Iterator[Measured]:
    """Every section of figures, the README's first."""
    for path in (_DOCS.parent / "README.md", *sorted(_DOCS.glob("*.md"))):
        text = path.read_text()
        if found := _SECTION.search(text):
            flat = " ".join(found["text"].split())
            title = "The node as a whole" if path.name == "README.md" else text.partition("\n")[0].removeprefix("# ")
            every = (tuple(dict.fromkeys(pattern.findall(flat))) for pattern in (_COMMAND, _MACHINE, _DATE))
            name = "reference/readme.md" if path.name == "README.md" else path.name
            yield Measured(name, title, found["title"].lower(), *every)


def pages() -> dict[str, str]:
    """One page: a table of all sections, and the history by kind of machine."""
    text = (
        "# Performance\n\nFigures stand beside what they are about, with the machine and the day on which they were "
        "measured; where this table has none, none was written down. The commands measure again, beside other "
        "implementations where there are any.\n\n"
    )
    rows = [
        (
            f"[{each.title}](../{each.page}#{each.anchor})".replace("(../reference/", "("),
            ", ".join(map(code, each.commands)),
            ", ".join(each.machines),
            ", ".join(each.dates),
        )
        for each in each_measured()
    ]
    listed = table(("figures", "measured by", "machine", "date"), rows)
    return {"performance.md": text + listed + "".join(_history(history.read(_HISTORY)))}


def _history(entries: Sequence[history.Entry]) -> Iterator[str]:
    yield (
        "\n## History\n\n`navnode bench all --history benchmarks/history.jsonl` adds a run. Ratios are to peers in the "
        "same run, and can be compared from day to day; times cannot, where machines are shared. CI measures ratios "
        "again, and fails where one falls by more than a fifth, and by more than twice what repeats differ by.\n"
    )
    for machine in dict.fromkeys(entry.machine for entry in entries):
        mine = [entry for entry in entries if entry.machine == machine]
        last = mine[-1]
        drawn = _plot(mine).svg(f"Runs on this kind of machine, {mine[0].at} to {last.at}")
        yield f"\n### {machine}\n\n```{{raw}} html\n{drawn}\n```\n\n"
        rows = [
            (name, f"{each.value:g} {each.unit}", f"± {each.spread:.0%}", each.peer)
            for name, each in last.figures.items()
        ]
        yield f"The newest run, navnode {last.navnode}, medians of {last.runs}:\n\n"
        yield table(("", "median", "repeats differ by", "times as fast as"), rows)


def _plot(entries: Sequence[history.Entry]) -> Plot:
    plot = Plot("run", "times as fast as the peer", zero=True)
    names = dict.fromkeys(name for entry in entries for name, figure in entry.figures.items() if figure.peer)
    for name, colour in zip(names, COLOURS, strict=False):
        runs = [number for number, entry in enumerate(entries, 1) if name in entry.figures]
        ratios = np.array([entries[number - 1].figures[name].value for number in runs])
        at = np.array(runs, np.float64)
        plot.line(at, ratios, name, colour=colour).dots(at, ratios, colour=colour)
    return plot
