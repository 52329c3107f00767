"""The reference of topics, from their one table."""

from __future__ import annotations

import inspect
import math

from navnode.loop.topics import TOPICS
from sitepages.markdown import code, inline, table

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """One page with the table of ``navnode/loop/topics.py``."""
    text = (
        "# Topics\n\nEverything that passes through the loop, in the order in which a frame passes it: how it waits, "
        "how old it may become, and what a session keeps of it. Drops are counted by topic.\n\n"
    )
    rows = []
    for topic in TOPICS.values():
        age = "" if math.isinf(topic.max_age_ms) else f"{topic.max_age_ms:g} ms"
        waits = f"{topic.queue}, {topic.bound}" if topic.bound else str(topic.queue)
        about = inline((inspect.getdoc(topic.kind) or "").partition("\n\n")[0])
        rows.append((code(topic.name), code(topic.kind.__name__), waits, age, str(topic.recorded), about))
    return {"topics.md": text + table(("topic", "type", "waits, at most", "stale after", "recorded", ""), rows)}
