"""The list of what was measured, from the pages on which it stands: command, machine and date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sitepages.markdown import code, table

__all__ = ["Measured", "each_measured", "pages"]

_DOCS = Path(__file__).parent.parent
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
    """One page: a table of all sections."""
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
    return {"performance.md": text + table(("figures", "measured by", "machine", "date"), rows)}
