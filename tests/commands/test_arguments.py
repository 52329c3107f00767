"""Wrong arguments and what cannot be started are one line, and no traceback."""

from __future__ import annotations

import json
import socket

import pytest

from navnode import config
from tests.invoke import run_navnode


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "missing.toml"], 2, "missing.toml"),
        (["demo", "--seconds", "0"], 2, "seconds"),
        (["demo", "--size", "300"], 2, "size_px"),
        (["demo", "--headless", "--seconds", "1", "--ct", "missing.nii.gz"], 2, "missing.nii.gz"),
        (["nonsense"], 2, "nonsense"),
        (["simulate", "--rate", "99"], 2, "rate"),
    ],
)
def test_wrong_arguments_are_named(arguments, code, said):
    done = run_navnode(*arguments)
    assert done.returncode == code and said in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_wrong_key_stops_the_start(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(config.find("demo.toml").read_text().replace("confirm_frames", "confirm_frame"))
    done = run_navnode("run", str(path))
    assert done.returncode == 2 and "did you mean 'confirm_frames'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_in_use_is_one_line(procedural_ct):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        size = ("--ct", "procedural", "--size", "256", "--rate", "10")
        done = run_navnode("demo", "--headless", "--seconds", "1", *size, "--port", port)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr.splitlines()[-1] and "in use" in done.stderr


def test_doctor_and_help():
    found = json.loads(run_navnode("doctor", "--json").stdout)
    assert found["uses"]["projector"].startswith("native") and found["cpu"]["cores"] >= 1
    for command in ("demo", "simulate", "run", "doctor"):
        assert "Example" in run_navnode(command, "--help").stdout
