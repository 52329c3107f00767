"""What people mistype, mix up or name oddly: refused in one line, printed as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from navnode.files.meshes import write_mesh
from navnode.files.views import ViewFile, write_views
from navnode.files.volumes import write_volume
from navnode.simulation.scenario import carm_of_size
from navnode.types import Mesh, Volume
from tests.invoke import call, run_navnode
from tests.reconstruction.balls import ball

LONG = "n" * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    write_volume(ball(), folder / "ct.nii.gz")
    return folder


def line_of(start_mm: tuple[float, float, float], end_mm: tuple[float, float, float]) -> str:
    points = [{"label": name, "position": at} for name, at in (("entry", start_mm), ("target", end_mm))]
    markup = {"type": "Line", "coordinateSystem": "RAS", "controlPoints": points}
    return json.dumps({"markups": [markup]})


@pytest.mark.parametrize(
    "arguments",
    [
        ("read", f"{LONG}.png"),
        ("bodies", f"{LONG}.seg.nrrd", "--volume", "ct.nii.gz"),
        ("inspect", f"{LONG}.mcap"),
        ("run", f"{LONG}.toml", "--check"),
        ("plan", "left.mrk.json", "--volume", f"{LONG}.nii.gz"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_is_too_long(folder, arguments):
    done = run_navnode(*(str(folder / word) if "." in word else word for word in arguments))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "too long" in done.stderr and done.stderr.count("\n") == 1


def test_a_name_that_is_no_utf_8(folder):
    name = os.fsencode(folder) + b"/l\xff.nii.gz"
    Path(os.fsdecode(name)).write_bytes((folder / "ct.nii.gz").read_bytes())
    listed = folder / "list.toml"
    command = [sys.executable, "-m", "navnode", "bodies", name, "--volume", folder / "ct.nii.gz", "--out", listed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("run", "--check"), ("doctor",)], ids=" ".join)
def test_toml_that_is_nested_too_deeply(tmp_path, command):
    (tmp_path / "deep.toml").write_text("a = " + "[" * 20_000 + "]" * 20_000)
    code, _, error = call(command[0], tmp_path / "deep.toml", *command[1:])
    assert code == 2 and "nested too deeply" in error


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_of_another_ct_is_not_taken_over(folder, tmp_path):
    (tmp_path / "left.mrk.json").write_text(line_of((0, 0, 0), (10, 10, 10)))
    made = call("plan", tmp_path / "left.mrk.json", "--volume", folder / "ct.nii.gz", "--out", tmp_path / "plans.json")
    assert made[0] == 0, made[2]
    other = ball()
    write_volume(Volume(other.voxels[:-4], other.volume_from_index, "other"), tmp_path / "other.nii.gz")
    code, _, error = call(
        "plan", tmp_path / "plans.json", "--volume", tmp_path / "other.nii.gz", "--out", tmp_path / "again.json"
    )
    assert code == 2 and "plans.json" in error and not (tmp_path / "again.json").exists()


def test_a_plan_in_metres_is_asked_about(folder, tmp_path):
    (tmp_path / "left.mrk.json").write_text(line_of((0, 0, 0), (0.01, 0.01, 0.01)))
    code, _, error = call("plan", tmp_path / "left.mrk.json", "--volume", folder / "ct.nii.gz")
    assert code == 2 and "in metres?" in error


def test_numbers_that_no_float_holds(folder, tmp_path):
    text = line_of((0, 0, 0), (10, 10, 10)).replace("10", "1" + "0" * 400, 1)
    (tmp_path / "huge.mrk.json").write_text(text)
    code, _, error = call("plan", tmp_path / "huge.mrk.json", "--volume", folder / "ct.nii.gz")
    assert code == 2 and "three finite numbers" in error


def test_names_in_brackets_are_printed(folder, tmp_path):
    for side in ("[left]", "[/right]"):
        (tmp_path / f"L4 {side}.mrk.json".replace("/", "")).write_text(line_of((0, 0, 0), (10, 10, 10)))
    done = run_navnode("plan", *map(str, tmp_path.glob("*.mrk.json")), "--volume", str(folder / "ct.nii.gz"))
    assert done.returncode == 0 and "L4 [left]" in done.stdout and "L4 [right]" in done.stdout


# --- starts ----------------------------------------------------------------------------------------------------------


def view(folder: Path, name: str, volume_from_carm: np.ndarray | None) -> Path:
    carm, picture = carm_of_size(64), folder / f"{name}.npy"
    np.save(picture, np.full((64, 64), 900, np.uint16))
    write_views(folder / f"{name}.json", [ViewFile(name, picture, carm, volume_from_carm, None, 0)])
    return folder / f"{name}.json"


def test_a_start_in_metres_is_asked_about(folder, tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = 0.0, 0.0, -0.7
    code, _, error = call(
        "register", "--volume", folder / "ct.nii.gz", "--views", view(tmp_path, "metres", pose), "--threads", 1
    )
    assert code == 2 and "not in metres?" in error


@pytest.mark.parametrize(
    ("scale", "apart_px", "said"), [(1.0, 0.0, "no pose explains them"), (0.001, 9.0, "are they in metres?")]
)
def test_landmarks_that_leave_no_pose(folder, tmp_path, scale, apart_px, said):
    points = {
        name: [x * scale for x in at]
        for name, at in {"a": (0, 0, 0), "b": (30, 0, 0), "c": (0, 30, 10), "d": (20, 20, 30)}.items()
    }
    pixels = (
        {name: [30 + apart_px * k, 30.0 - k * k] for k, name in enumerate(points)}
        if apart_px
        else {name: [32.0, 32.0] for name in points}
    )
    document = {"schema": "navnode/landmarks/1", "points_mm": points, "views": [pixels]}
    (tmp_path / "landmarks.json").write_text(json.dumps(document))
    code, _, error = call(
        "register",
        "--volume",
        folder / "ct.nii.gz",
        "--views",
        view(tmp_path, "marked", None),
        "--landmarks",
        tmp_path / "landmarks.json",
        "--threads",
        1,
    )
    assert code == 2 and said in error and "landmarks.json" in error


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "v.nii.gz", "--mesh", "bone.xyz"), "is written as .stl"),
        (("--out", "v.nii.gz", "--mesh", "nowhere/bone.stl"), "its folder does not exist"),
        (("--out", "nowhere/v.nii.gz"), "its folder does not exist"),
        (("--out", "v.xyz"), "is written as .nii.gz"),
    ],
)
def test_what_cannot_be_written_is_not_computed(tmp_path, arguments, said):
    words = [str(tmp_path / word) if not word.startswith("--") else word for word in arguments]
    code, _, error = call("reconstruct", "--views", tmp_path / "views.json", *words)
    assert code == 2 and said in error and not list(tmp_path.iterdir())


def test_a_mesh_of_another_kind_is_refused(tmp_path):
    mesh = Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.uint32))
    with pytest.raises(Exception, match="is written as"):
        write_mesh(mesh, tmp_path / "mesh.xyz")
