"""`navnode sample`, and the examples of --help in its folder, word for word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from navnode.files.views import read_views
from tests.invoke import call

COMMANDS = ("project", "register", "reconstruct", "model", "read")
NEEDS_MORE = re.compile(r"\.dcm|jig|labels\.nii|radius\.nii|--landmarks|carm\.json --patient-mm")
"""What the folder does not have: DICOM, a jig, label maps; and a C-arm that another example writes."""
SLOW = re.compile(r"--search|--calibrate|^navnode model|^navnode reconstruct")


def examples(command: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The examples of a command's --help."""
    monkeypatch.setenv("COLUMNS", "4000")
    monkeypatch.setenv("TERMINAL_WIDTH", "4000")
    from typer.testing import CliRunner

    from navnode import cli

    text = CliRunner().invoke(cli.app, [command, "--help"]).stdout
    line = " ".join(text[re.search(r"Examples?: ", text).start() :].split())
    return [each.strip() for each in line.split(": ", 1)[1].split(" | ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, procedural_ct) -> Path:
    out = tmp_path_factory.mktemp("sample") / "tryout"
    code, report, error = call("sample", out, "--json")
    assert code == 0, error
    assert len(report["images"]) == 3
    return out


def test_the_pictures_are_small_and_the_views_are_three(folder):
    views = read_views(folder / "views.json")
    assert [view.counts().shape for view in views] == [(256, 256)] * 3
    directions = np.array([view.pose()[:3, 2] for view in views])
    assert abs(directions[0] @ directions[1]) < 0.01, "AP and lateral are not at right angles"
    assert sum(path.stat().st_size for path in folder.glob("*.png")) < 800_000


def test_a_folder_with_files_is_not_touched(folder):
    before = sorted(path.name for path in folder.iterdir())
    code, _, error = call("sample", folder)
    assert code == 2 and "not an empty folder" in error
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_of_its_own(command, monkeypatch):
    found = examples(command, monkeypatch)
    assert found and all(example.startswith(f"navnode {command} ") for example in found)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> int:
    every = [example for command in COMMANDS for example in examples(command, monkeypatch)]
    monkeypatch.chdir(folder)
    mine = [e for e in every if not NEEDS_MORE.search(e) and bool(SLOW.search(e)) is slow]
    for number, example in enumerate(mine):
        words = shlex.split(example)[1:]
        if words[0] == "model":  # two examples write into one folder, which must be new
            words[words.index("--out") + 1] += str(number)
        code, _, error = call(*words)
        assert code == 0, f"{example}: {error}"
    return len(mine)


def test_the_fast_examples_run_literally(folder, monkeypatch):
    assert run(folder, monkeypatch, slow=False) >= 2
    assert (folder / "xrays" / "views.json").exists() and (folder / "read.png").exists()


@pytest.mark.slow
def test_the_slow_examples_run_literally(folder, monkeypatch):
    assert run(folder, monkeypatch, slow=True) >= 3
    assert (folder / "volume.nii.gz").exists() and (folder / "carm.json").exists()
