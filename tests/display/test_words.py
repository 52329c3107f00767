"""Every text of the pages stands in the table of languages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

PAGES = {
    "navnode.display": ("index.html", "waiting.html"),
    "calibration": ("panel.html",),
}
SAME_EVERYWHERE = {"navnode", "navnode: calibration", "⤢", "–", "1", "2", "4", "mm", "°", *"RLAPSI"}
CLASSES = {"ring pass"}
MEANT_FOR_THE_TABLE = {"the node is silent", "no connection", "no pose from the tracker"}
"""What the page itself finds wrong, in the words of the node: advice.js translates them."""
MODULES = [
    (package, each.name)
    for package in PAGES
    for each in (files(package) / "static").iterdir()
    if each.name.endswith(".js") and each.name not in ("texts.js", "words.js", "models.js")
]


class Texts(HTMLParser):
    """Texts that nothing replaces, and attributes that are read out or shown."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._replaced = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._replaced = "data-text" in given
        self.found += [
            value for name, value in given.items() if name in ("title", "aria-label", "placeholder") and value
        ]

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._replaced:
            self.found.append(data.strip())


@pytest.mark.parametrize(("package", "page"), [(package, page) for package, pages in PAGES.items() for page in pages])
def test_no_page_has_texts_of_its_own(package, page):
    read = Texts()
    read.feed((files(package) / "static" / page).read_text())
    assert set(read.found) <= SAME_EVERYWHERE


@pytest.mark.parametrize(("package", "module"), MODULES)
def test_no_module_has_texts_of_its_own(package, module):
    source = (files(package) / "static" / module).read_text()
    source = re.sub(r"`#version 300 es.*?`", "", source, flags=re.DOTALL)  # programs of the graphics card
    source = re.sub(r"^\s*//.*$|\s// .*$|^import .*$", "", source, flags=re.MULTILINE)
    source = re.sub(r"\$\{[^{}]*\}", "", source)
    quoted = [each[1:-1] for each in re.findall(r"\"[^\"\n]*\"|'[^'\n]*'|`[^`]*`", source)]
    words = {each for each in quoted if re.search(r"[A-Za-z]{2,} [a-z]{2,}", each)}
    sentences = {each for each in words if not re.search(r"^\.|[=;{}<>\[\]#]|, ", each)}
    assert sentences <= MEANT_FOR_THE_TABLE | CLASSES


def test_the_test_finds_a_text():
    read = Texts()
    read.feed('<p data-text="x">fine</p><button title="Not translated">Neither is this</button>')
    assert read.found == ["Not translated", "Neither is this"] and MODULES
