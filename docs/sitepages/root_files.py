"""Pages of the files at the repository's root; their links are for readers there, and are changed here."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["pages"]

_ROOT = Path(__file__).parent.parent.parent
_NAMES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "LICENSE": "license.md",
    "SECURITY.md": "security.md",
}
_PLACES = _NAMES | {"docs/decisions/": "decisions.md"}


def pages() -> dict[str, str]:
    """One page for each file."""
    return {name: _linked((_ROOT / path).read_text(), path) for path, name in _NAMES.items()}


def _linked(text: str, path: str) -> str:
    if not path.endswith(".md"):
        return f"# License\n\n```none\n{text}```\n"

    def placed(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        return f"]({_PLACES.get(target, '../' + target.removeprefix('docs/'))}{anchor})"

    return re.sub(r"\]\((?!https?://|#)(?P<target>[^)#]+)(?P<anchor>#[^)]*)?\)", placed, text)
