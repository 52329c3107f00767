"""References made of the code say what the code says, all of it; and the check of a built site finds what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

import sitepages
from sitepages import check, commands, configuration, decisions, performance, python_api, topics

from navnode.config import Config, RegistrationSection, TrustSection
from navnode.loop.topics import TOPICS
from tests.invoke import call

ROOT = Path(__file__).parent.parent.parent


def test_every_command_has_its_options_and_examples():
    pages = commands.pages()
    every = dict(commands.each_command())
    assert {"run", "register", "calibrate pivot", "bench loop"} <= every.keys()
    for name, command in every.items():
        page = pages[f"commands/{name.split()[0]}.md"]
        section = re.split(rf"^#+ navnode {name}$", page, flags=re.M)[1].partition("\n## navnode ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert all(f"`{flag}`" in section for flag in parameter.opts), (name, parameter.name)
        if command.epilog:
            assert f"    navnode {name}" in section, name


def test_hidden_commands_have_no_page():
    assert not [name for name in commands.pages() if "/_" in name]


def test_limits_and_defaults_of_options_are_those_of_the_command():
    row = next(line for line in commands.pages()["commands/register.md"].splitlines() if "`--threads`" in line)
    assert "at least 0" in row and row.endswith("| `0` |")
    code, _, error = call("register", "--volume", "x", "--views", "y", "--threads", -1)
    assert code == 2 and "0" in error


def test_every_key_of_the_configuration_is_there_with_an_anchor():
    page = configuration.pages()["configuration.md"]
    keys = list(configuration.each_key())
    assert len(keys) > 100 and "registration.confirm_frames" in keys and "sources.tls.key" in keys
    for key in keys:
        assert f"`{key.rpartition('.')[2]}`{{#" in page, key
    anchors = re.findall(r"\{#([^}]+)\}|^\(([a-z0-9-]+)\)=", page, flags=re.M)
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize(
    ("section", "key", "low", "high"),
    [(RegistrationSection, "confirm_frames", 1, 100), (TrustSection, "frozen_after", 0, 1000)],
)
def test_ranges_are_those_that_are_enforced(section, key, low, high):
    row = next(line for line in configuration.pages()["configuration.md"].splitlines() if line.startswith(f"| `{key}`"))
    assert f"integer {low} to {f'{high:,}'.replace(',', ' ')}" in row
    assert f"| `{getattr(section(), key)}` |" in row
    for value in (low, high):
        msgspec.convert({key: value}, section)
    for value in (low - 1, high + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({key: value}, section)


def test_required_keys_and_units_are_said():
    page = configuration.pages()["configuration.md"]
    required = {field.name for field in msgspec.structs.fields(Config) if field.required}
    assert required == {"carm"}
    assert "| `width_px`{#carm-width-px} | **required** | integer | px |" in page
    assert re.search(r"`degraded_after_s`\{#[^}]+\} \| `15` \| number over 0 to 600 \| s \|", page)


def test_every_topic_stands_in_the_table():
    page = topics.pages()["topics.md"]
    assert all(f"| `{topic.name}` | `{topic.kind.__name__}` |" in page for topic in TOPICS.values())


def test_decisions_have_numbers_status_and_date():
    every = decisions.each_decision()
    assert len(every) == len(list((ROOT / "docs/decisions").glob("*.md")))
    assert len({decision.number for decision in every}) == len(every)
    assert all("2024" < decision.date < "2100" for decision in every)
    assert all(decision.title in decisions.pages()["decisions.md"] for decision in every)


def test_a_decision_without_its_date_is_named(tmp_path, monkeypatch):
    (tmp_path / "0001-x.md").write_text("# 1. X\n\nText.\n")
    monkeypatch.setattr(decisions, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"0001-x\.md must begin"):
        decisions.each_decision()


def test_every_page_with_figures_is_in_the_list_of_performance():
    page = performance.pages()["performance.md"]
    with_figures = {
        path.name
        for path in (ROOT / "docs").glob("*.md")
        if re.search("^## (Measured|Figures)$", path.read_text(), re.M)
    }
    assert {"sessions.md", "registration.md"} <= with_figures
    assert all(f"](../{name}#" in page for name in with_figures)
    readme = next(each for each in performance.each_measured() if each.page == "reference/readme.md")
    assert "navnode demo --headless --seconds 30 --json" in readme.commands and len(readme.dates) == 2


def test_python_names_what_packages_list_once():
    pages = python_api.pages()
    named = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)", "".join(pages.values()), flags=re.M)
    assert {"navnode.igtl.decode", "navnode.projector.Projector", "navnode.registration.register"} <= set(named)
    assert len(named) == len(set(named))


def test_pages_are_written_once_and_old_ones_go(tmp_path):
    sitepages.write(tmp_path)
    page = tmp_path / "configuration.md"
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "old.md").write_text("old")
    before = page.stat().st_mtime_ns
    sitepages.write(tmp_path)
    assert page.stat().st_mtime_ns == before
    assert not (tmp_path / "gone").exists()


def test_the_check_finds_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#not">2</a><a href="c.html">3</a><a href="https://example.org">4</a>'
        '<script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<p id="there">5</p>')
    assert check.faults(tmp_path) == [
        "a.html loads https://example.org/x.js",
        "a.html: no such place on the page: b.html#not",
        "a.html: no such page: c.html",
    ]
    with pytest.raises(FileNotFoundError):
        check.faults(tmp_path / "none")


def test_the_list_of_examples_is_whole():
    text = (ROOT / "docs/examples.md").read_text()
    listed = re.findall(r"^\| `([\w.]+)` \|", text, flags=re.M)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_file())
