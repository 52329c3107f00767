"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "inline", "table", "toctree"]

_BLOCK = "```"


def code(text: str) -> str:
    """Text as code within a line."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def inline(text: str) -> str:
    """A docstring or help text within one line, code as code and everything else as it is."""
    text = " ".join(text.split())
    text = re.sub(r":(?:class|mod|func|meth|data|attr|exc):`~?([^`]+)`", r"``\1``", text)
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(code(part.strip("`")) if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]<>#|])", r"\\\1", text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown of one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def toctree(names: Iterable[str], *, hidden: bool = False) -> str:
    """A list of pages that belong below this one."""
    options = ":hidden:\n" if hidden else ":maxdepth: 1\n"
    return f"{_BLOCK}{{toctree}}\n{options}\n" + "".join(f"{name}\n" for name in names) + f"{_BLOCK}\n"
