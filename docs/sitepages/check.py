"""Checks a built site: every link within it leads somewhere, and no page loads anything from another server.

python docs/sitepages/check.py site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["faults"]

_LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"), ("video", "src")}
_NO_RESOURCE = {"canonical", "author", "next", "prev", "index", "search"}
"""Relations of ``<link>`` that no browser loads."""


class _Page(HTMLParser):
    """What a page has and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name in ("href", "src"):
            if name in given:
                self.targets.append(given[name])
                if (tag, name) in _LOADED and given.get("rel") not in _NO_RESOURCE:
                    self.loaded.append(given[name])


def faults(folder: Path) -> list[str]:
    """What is wrong with the site in a folder, one line each.

    Raises:
        FileNotFoundError: there is no site.
    """
    pages = {path.resolve(): _Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        raise FileNotFoundError(f"{folder} has no pages")
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        found += [f"{name} loads {target}" for target in page.loaded if urlsplit(target).netloc]
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not place.is_file():
                found.append(f"{name}: no such page: {target}")
            elif place in pages and parts.fragment and unquote(parts.fragment) not in pages[place].anchors:
                found.append(f"{name}: no such place on the page: {target}")
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print("\n".join(wrong) if wrong else "all links lead somewhere, and nothing is loaded from elsewhere")
    sys.exit(bool(wrong))
