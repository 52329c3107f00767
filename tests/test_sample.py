"""`navnode sample`, and the examples of --help in its folder, word for word."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from navnode.files.views import read_views
from navnode.files.volumes import read_volume
from tests.invoke import call

COMMANDS = ("project", "register", "reconstruct", "model", "read")
NEEDS_MORE = re.compile(r"\.dcm|jig|labels\.nii|radius\.nii|--landmarks|carm\.json --patient-mm")
"""What the folder does not have: DICOM, a jig, label maps; and a C-arm that another example writes."""
SLOW = re.compile(r"--search|stations\.json|--calibrate|^navnode model|^navnode reconstruct")


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


def test_stations_say_the_station_and_no_pose(folder):
    known, noted = read_views(folder / "views.json"), read_views(folder / "stations.json")
    assert [view.station for view in noted] == ["ap", "lateral", "oblique"]
    assert all(view.volume_from_carm is None for view in noted)
    assert [view.path for view in noted] == [view.path for view in known]
    assert [view.carm for view in noted] == [view.carm for view in known]


def test_a_ct_of_ones_own_is_x_rayed(tmp_path, procedural_ct):
    code, report, error = call("sample", tmp_path / "mine", "--ct", procedural_ct, "--size", 64, "--json")
    assert code == 0, error
    assert read_views(report["views"])[0].counts().shape == (64, 64)
    assert read_volume(report["ct"]).voxels.shape == read_volume(procedural_ct).voxels.shape
    code, _, error = call("sample", tmp_path / "none", "--ct", tmp_path / "no.nii.gz")
    assert code == 2 and "no.nii.gz" in error
    assert not (tmp_path / "none").exists()


def test_overlays_draw_what_may_be_used_and_nothing_else(folder, tmp_path):
    """A view far from the patient is INVALID: its X-ray comes alone."""
    document = msgspec.json.decode((folder / "views.json").read_bytes())
    far = copy.deepcopy(document["views"][0])
    far["volume_from_carm"][0][3] += 400.0
    views = tmp_path / "views.json"
    for view in (entries := [document["views"][0], far]):
        view["image"] = str(folder / view["image"])
    views.write_bytes(msgspec.json.encode({**document, "views": entries}))
    code, report, error = call(
        *("register", "--volume", folder / "ct.nii.gz", "--views", views, "--overlays", tmp_path / "drawn", "--json")
    )
    assert code == 0, error
    assert [view["status"] for view in report["views"]] == ["VALID", "INVALID"]
    right, wrong = (cv2.imread(path) for path in report["overlays"])
    assert right.shape == (512, 1024, 3) and wrong.shape == (512, 512, 3)
    outlines = [(picture == (60, 220, 255)).all(axis=-1) for picture in (right, wrong)]
    assert outlines[0][:, :512].mean() > 0.01 and not outlines[1].any()


def test_overlays_are_of_a_whole_ct(folder, tmp_path):
    for option in ("--calibrate", "--bodies"):
        given = [option, folder / "ct.nii.gz"] if option == "--bodies" else [option]
        code, _, error = call(
            *("register", "--volume", folder / "ct.nii.gz", "--views", folder / "views.json", *given),
            *("--overlays", tmp_path / "drawn"),
        )
        assert code == 2 and "--overlays excludes" in error


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
