"""The reference of messages, from the table that the node itself serves."""

from __future__ import annotations

import re

from navnode.display.messages import entries
from sitepages.markdown import code

__all__ = ["pages"]

_INTRODUCTION = """# Messages

What the node says beside everything that is not VALID, in its notices, in answers to commands, and when it refuses to
start: what it means, and what to do. … stands for what changes. A running node serves this list itself, at `/messages`
of its page; a reason on the page, *Details*, leads to its entry.

"""


def pages() -> dict[str, str]:
    """One page with every entry; its place is ``message-ID``."""
    text = _INTRODUCTION
    for group in dict.fromkeys(entry.group for entry in entries()):
        text += f"## {group}\n\n"
        for entry in (each for each in entries() if each.group == group):
            says = "".join(f"- {code(said.strip())}\n" for said in entry.says)
            text += f"(message-{entry.id})=\n### {entry.title}\n\n{_linked(entry.means)}\n\n"
            text += f"**What to do.** {_linked(entry.do)}\n\n{says}\n"
    return {"messages.md": text}


def _linked(text: str) -> str:
    """Links of the table are relative to ``docs/``."""
    return re.sub(r"\]\(([^)]+)\)", r"](../\1)", text).replace("](../reference/", "](")
