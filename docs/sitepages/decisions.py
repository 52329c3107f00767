"""The list of decisions, from the decisions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from sitepages.markdown import table, toctree

__all__ = ["Decision", "each_decision", "pages"]

_FOLDER = Path(__file__).parent.parent / "decisions"
_HEAD = re.compile(r"# (?P<number>\d+)\. (?P<title>.+)\n\nStatus: (?P<status>.+?) · Date: (?P<date>\d{4}-\d\d-\d\d)\n")


class Decision(NamedTuple):
    """What stands at a decision's head."""

    name: str
    """Of its file, without the ending."""
    number: int
    title: str
    status: str
    date: str
    """ISO 8601."""


def each_decision() -> list[Decision]:
    """All decisions by number.

    Raises:
        ValueError: one does not begin with its number and title, status and date; names the file.
    """
    found = []
    for path in sorted(_FOLDER.glob("[0-9]*.md")):
        head = _HEAD.match(path.read_text())
        if not head or int(head["number"]) != int(path.name[:4]):
            raise ValueError(
                f"{path.name} must begin with '# {int(path.name[:4])}. TITLE' and 'Status: … · Date: YYYY-MM-DD'"
            )
        found.append(Decision(path.stem, int(head["number"]), head["title"], head["status"], head["date"]))
    return found


def pages() -> dict[str, str]:
    """A table of all decisions."""
    every = each_decision()
    text = (
        "# Decisions\n\nWhat was decided about the design, why, and what was left for it. A decision that no longer "
        "holds stays, and says which one replaced it.\n\n"
    )
    rows = [
        (str(each.number), f"[{each.title}](../decisions/{each.name}.md)", each.status, each.date) for each in every
    ]
    text += table(("", "decision", "status", "date"), rows)
    return {"decisions.md": text + toctree((f"../decisions/{each.name}" for each in every), hidden=True)}
