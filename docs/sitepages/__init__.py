"""Pages that are generated whenever the documentation is built: references of what the code itself says.

Each module makes the pages of one reference as text, without Sphinx: ``pages()`` maps names below ``docs/reference`` to
contents.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sitepages import commands, configuration, decisions, messages, performance, python_api, root_files, topics

__all__ = ["pages", "write"]

_REFERENCES = (commands, configuration, topics, decisions, messages, performance, python_api, root_files)


def pages() -> dict[str, str]:
    """All generated pages: path below the folder of references -> content."""
    return {name: text for reference in _REFERENCES for name, text in reference.pages().items()}


def write(folder: Path) -> None:
    """Write all generated pages. Unchanged ones keep their time, so that they are not built again; others go."""
    wanted = {folder / name: text for name, text in pages().items()}
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    for path in [each for each in folder.iterdir() if each.is_dir() and not any(each.rglob("*.*"))]:
        shutil.rmtree(path)
