"""The programs of examples/, run as their users run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from navnode.igtl import BlockingServer, Transform
from tests.conftest import GOLDEN
from tests.invoke import call

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here_and_explains_itself():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"session.py", "pyigtl_console.py", "register_files.py"}
    for name in names:
        assert f"python examples/{name}" in example(name, "--help")


def test_a_session_of_what_arrived():
    told = example("session.py", GOLDEN)
    assert "DrillToTracker" in told and "X-rays, mean counts" in told


def test_a_session_of_a_node_is_drawn(recorded, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `analysis` is not installed")
    picture = tmp_path / "session.png"
    told = example("session.py", recorded, "--plot", picture)
    assert "tool/Drill: " in told and "drawn" in told
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_console_shows_what_is_ok_and_nothing_else():
    """The server withholds nothing here: the example itself must."""
    at = np.eye(4)
    at[:3, 3] = 12.5, -30.0, 84.0
    with BlockingServer("127.0.0.1", 0) as server:
        program = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "pyigtl_console.py"), "--port", str(server.port), "--seconds", "4"],
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
    assert "R 12.5  A -30.0  S 84.0 mm, VALID" in told and "R 0.0" not in told
    shown, withheld = (int(word) for word in told.splitlines()[-1].replace(",", "").split() if word.isdigit())
    assert shown > 5 and withheld > 5


def test_registration_of_files(tmp_path, procedural_ct):
    code, _, error = call("sample", tmp_path / "tryout", "--json")
    assert code == 0, error
    told = example("register_files.py", tmp_path / "tryout/ct.nii.gz", tmp_path / "tryout/views.json")
    start, found = (float(line.split()[1]) for line in told.splitlines() if line.startswith(("start:", "found:")))
    assert start > 3 and found < 0.5, told
