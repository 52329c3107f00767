"""The programs of examples/, run as their users run them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from navnode.files import artifacts
from navnode.files.meshes import read_mesh
from navnode.files.volumes import read_volume
from navnode.igtl import BlockingServer, Transform
from tests.calibration.scenes import TIP, pivoting
from tests.conftest import GOLDEN
from tests.invoke import call

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_every_example_is_run_here_and_explains_itself():
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    programs = {
        "calibrate.py",
        "session.py",
        "console.py",
        "pyigtl_console.py",
        "register_files.py",
        "reconstruct_files.py",
        "drr_simpleitk.py",
        "tomography.py",
    }
    assert names == programs | {"own_loss.py", "console.cpp"}
    for name in programs:
        assert f"python examples/{name}" in example(name, "--help")


def test_a_tip_is_calibrated_and_kept_only_if_it_passed(tmp_path):
    poses, kept = tmp_path / "poses.npy", tmp_path / "drill.json"
    np.save(poses, pivoting(200, np.random.default_rng(3)))
    told = example("calibrate.py", poses, "--keep", kept)
    assert "standard error of the tip" in told and f"kept as {kept}" in told
    assert np.allclose(artifacts.read(kept).result.tip_mm, TIP, atol=0.2)
    np.save(poses, pivoting(200, np.random.default_rng(3), cone=0.05, turn=0.05))
    failed = subprocess.run(
        [sys.executable, str(EXAMPLES / "calibrate.py"), str(poses), "--keep", str(tmp_path / "no.json")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert failed.returncode == 1 and failed.stderr.startswith("spread: ")
    assert not (tmp_path / "no.json").exists()


def test_a_session_of_what_arrived():
    told = example("session.py", GOLDEN)
    assert "DrillToTracker" in told and "X-rays, mean counts" in told


@pytest.mark.long
def test_a_session_of_a_node_is_drawn(recorded, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `analysis` is not installed")
    picture = tmp_path / "session.png"
    told = example("session.py", recorded, "--plot", picture)
    assert "tool/Drill: " in told and "drawn" in told
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["console.py", "pyigtl_console.py"])
@pytest.mark.long
def test_a_console_shows_what_is_ok_and_nothing_else(name):
    """The server withholds nothing here: the example itself must."""
    at = np.eye(4)
    at[:3, 3] = 12.5, -30.0, 84.0
    with BlockingServer("127.0.0.1", 0) as server:
        program = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), "--port", str(server.port), "--seconds", "4"],
            stdout=subprocess.PIPE,
            text=True,
        )
        number = 0
        while program.poll() is None:
            number += 1
            status = "OK" if number % 2 else "INVALID"
            matrix, metadata = (at, {"TransformStatus": status, "Validity": "VALID"}) if number % 2 else (np.eye(4), {})
            metadata = metadata or {"TransformStatus": status, "Validity": status}
            server.publish(Transform(device="DrillToVolume", matrix=matrix, metadata=metadata, timestamp_ns=number))
            try:
                program.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        told = program.stdout.read()
    assert "R 12.5  A -30.0  S 84.0 mm" in told and "VALID" in told and "R 0.0" not in told
    shown, withheld = (int(word) for word in told.splitlines()[-1].replace(",", "").split() if word.isdigit())
    assert shown > 5 and withheld > 5


@pytest.mark.long
def test_registration_of_files(tmp_path, procedural_ct):
    code, _, error = call("sample", tmp_path / "tryout", "--json")
    assert code == 0, error
    told = example("register_files.py", tmp_path / "tryout/ct.nii.gz", tmp_path / "tryout/views.json")
    start, found = (float(line.split()[1]) for line in told.splitlines() if line.startswith(("start:", "found:")))
    assert start > 3 and found < 0.5, told


def test_reconstruction_of_files(tmp_path, procedural_ct):
    code, _, error = call("sample", tmp_path / "tryout", "--json")
    assert code == 0, error
    out, mesh = tmp_path / "volume.nii.gz", tmp_path / "bone.stl"
    told = example(
        *("reconstruct_files.py", tmp_path / "tryout/views.json", "--out", out, "--mesh", mesh),
        *("--method", "sart", "--size", 48, "--spacing-mm", 6),
    )
    assert told.startswith("DEGRADED: 3 views over 90 degrees") and "sart by" in told
    volume, ct = read_volume(out), read_volume(procedural_ct)
    assert volume.voxels.shape == (48, 48, 48)
    # Within 60 mm of the middle, which every view sees: where the CT has bone, it is denser than in soft tissue.
    k, j, i = np.indices(volume.voxels.shape).reshape(3, -1)
    ct_from_index = np.linalg.inv(ct.volume_from_index) @ volume.volume_from_index
    at = np.round(ct_from_index @ np.stack([i, j, k, np.ones_like(i)]))[:3].astype(int)
    within = ((at >= 0) & (at < np.array(ct.voxels.shape[::-1])[:, None])).all(axis=0)
    within &= np.linalg.norm((np.stack([i, j, k]) - 23.5) * 6.0, axis=0) < 60
    hu = ct.voxels[tuple(at[::-1, within])]
    made = volume.voxels.ravel()[within]
    assert made[hu > 300].mean() > made[np.abs(hu) < 100].mean() + 50
    assert len(read_mesh(mesh).triangles) > 100


@pytest.mark.long
def test_a_loss_of_ones_own_finds_the_pose(tmp_path, procedural_ct):
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    code, _, error = call("sample", tmp_path / "tryout", "--json")
    assert code == 0, error
    told = example("own_loss.py", tmp_path / "tryout/ct.nii.gz", tmp_path / "tryout/views.json", "--steps", 100)
    across_mm = [float(each) for each in re.findall(r"([\d.]+) mm across", told)]
    turned_deg = [float(each) for each in re.findall(r"([\d.]+) degrees off", told)]
    assert across_mm[0] > 3 and across_mm[-1] < 0.3
    assert turned_deg[0] > 2 and turned_deg[-1] < 0.2


def test_a_ct_of_simpleitk_becomes_a_picture(tmp_path, procedural_ct):
    import SimpleITK as sitk

    out = tmp_path / "drr.png"
    told = example("drr_simpleitk.py", procedural_ct, "--out", out, "--orbital-deg", 20, "--size", 96)
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    assert told.startswith(f"{out}: 96 x 96") and shown.max() == 255 and shown.std() > 20


@pytest.mark.parametrize("solver", ["scipy", "deepinv", "cil"])
def test_solvers_of_others_find_a_volume(solver):
    pytest.importorskip(solver, reason=f"{solver} is not installed")
    told = example("tomography.py", "--by", solver)
    assert float(re.search(r"([\d.]+) % off", told)[1]) < 25


@pytest.mark.long
def test_a_console_in_cpp_shows_what_comes_and_withdraws_what_no_longer_does(tmp_path):
    if not shutil.which("g++") or not Path("/usr/include/openigtlink/igtlClientSocket.h").exists():
        pytest.skip("g++ or the OpenIGTLink C++ library is not installed")
    text = (EXAMPLES / "console.cpp").read_text()
    line = (
        re.search(r"g\+\+ .*", text)[0]
        .replace("examples/", f"{EXAMPLES}/")
        .replace("-o console", f"-o {tmp_path}/console")
    )
    subprocess.run(shlex.split(line), check=True)
    at = np.eye(4)
    at[:3, 3] = 12.5, -30.0, 84.0
    with BlockingServer("127.0.0.1", 0) as server:
        program = subprocess.Popen(
            [tmp_path / "console", "127.0.0.1", str(server.port), "4"], stdout=subprocess.PIPE, text=True
        )
        began_s = time.monotonic()
        while program.poll() is None:
            if time.monotonic() - began_s < 2:
                server.publish(Transform(device="DrillToVolume", matrix=at, timestamp_ns=time.time_ns()))
            server.publish(Transform(device="SawToVolume", matrix=np.eye(4), timestamp_ns=time.time_ns()))
            time.sleep(0.02)
        told = program.stdout.read().splitlines()
    assert told[0] == "tip at R 12.5  A -30.0  S 84.0 mm" and not any("R 0.0" in line for line in told)
    assert told[-2] == "not shown" and int(told[-1].split()[0]) > 20
    assert program.returncode == 0
