"""What the messages of the node mean and what to do: one table, served as a page, and found by what was said."""

from __future__ import annotations

import functools
import html
import re
import tomllib
from importlib.resources import files

import msgspec
from aiohttp import web

from navnode.display.web import headers

__all__ = ["ELLIPSIS", "MessageEntry", "add", "entries", "find", "page"]

ELLIPSIS = "…"
"""Stands for what changes in a message."""
_MOST_CHARACTERS = 2000
"""Of a message that is looked up."""


class MessageEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Messages with one meaning."""

    id: str
    """Anchor on the page, and on that of the documentation."""
    group: str
    title: str
    says: tuple[str, ...]
    """The texts of the code; :data:`ELLIPSIS` stands for what changes."""
    means: str
    do: str
    """Both are Markdown: links and code."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: tuple[MessageEntry, ...]


@functools.cache
def entries() -> tuple[MessageEntry, ...]:
    """All entries, in the order of the table."""
    text = (files("navnode.display") / "messages.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _Table).message


@functools.cache
def _patterns() -> tuple[tuple[int, re.Pattern[str], MessageEntry], ...]:
    """(number of characters that are fixed, pattern, entry), the most telling first."""
    found = []
    for entry in entries():
        for text in entry.says:
            parts = [re.escape(part) for part in text.strip(ELLIPSIS + " ,;:").split(ELLIPSIS)]
            # Fewer fixed characters than a word say nothing: "it is …" is in every second message.
            if (fixed := sum(map(len, text.replace(ELLIPSIS, "").split()))) > 6:
                found.append((fixed, re.compile("[^;]{1,200}?".join(parts)), entry))
    return tuple(sorted(found, key=lambda each: -each[0]))


def find(said: str) -> MessageEntry | None:
    """The entry of a message; of several that fit, the one of which most is fixed. None: it is not in the table."""
    said = said[:_MOST_CHARACTERS]
    return next((entry for _, pattern, entry in _patterns() if pattern.search(said)), None)


def page(said: str = "") -> str:
    """All entries as one page of HTML.

    Args:
        said: a message; its entry comes first.
    """
    found = find(said) if said else None
    body = ""
    if said:
        known = _article(found, "found") if found else "<p>This message is not in the list.</p>"
        body += f"<section><p class=said>{html.escape(said[:_MOST_CHARACTERS])}</p>{known}</section>"
    for group in dict.fromkeys(entry.group for entry in entries()):
        articles = (_article(entry, entry.id) for entry in entries() if entry.group == group)
        body += f"<h2>{html.escape(group)}</h2>{''.join(articles)}"
    return _PAGE.format(body=body)


def add(app: web.Application) -> None:
    """Serve the page at ``/messages``; ``?said=`` looks a message up."""
    app.router.add_get("/messages", _messages)


async def _messages(request: web.Request) -> web.Response:
    text = page(request.query.get("said", ""))
    return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers())


def _article(entry: MessageEntry, anchor: str) -> str:
    says = "".join(f"<li>{html.escape(text)}</li>" for text in entry.says)
    return (
        f'<article id="{html.escape(anchor)}"><h3>{html.escape(entry.title)}</h3><p>{_plain(entry.means)}</p>'
        f"<p><b>What to do.</b> {_plain(entry.do)}</p>"
        f"<details><summary>Messages</summary><ul>{says}</ul></details></article>"
    )


def _plain(text: str) -> str:
    """Markdown of one line as HTML; links lead to the documentation, which is not here, and become their words."""
    text = html.escape(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>navnode: messages</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/messages.css">
</head>
<body>
<main>
<h1>Messages</h1>
<p>What the node says, what it means, and what to do. Research use only. Not a medical device.</p>
{body}
</main>
</body>
</html>
"""
