"""Wrong arguments and what cannot be started are one line, and no traceback."""

from __future__ import annotations

import json
import socket

import pytest
from typer.testing import CliRunner

from navnode import cli, config
from tests.conftest import find_free_port
from tests.invoke import call, run_navnode


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
    found, _, error = call(*arguments)
    assert found == code and said in error and "Traceback" not in error


def test_a_wrong_key_stops_the_start(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(config.find("demo.toml").read_text().replace("confirm_frames", "confirm_frame"))
    done = run_navnode("run", str(path))
    assert done.returncode == 2 and "did you mean 'confirm_frames'" in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.long
def test_a_port_in_use_is_one_line(procedural_ct):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, room = str(taken.getsockname()[1]), ("--ct", "procedural", "--size", "256", "--rate", "10")
        ports = ("--port", port, "--simulator-port", str(find_free_port()))
        done = run_navnode("demo", "--headless", "--ctless", "--seconds", "1", *room, *ports)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr.splitlines()[-1] and "in use" in done.stderr


@pytest.mark.long
def test_a_room_on_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_navnode("simulate", "--scene", "pivot", "--port", port)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_doctor_says_what_computes():
    found = json.loads(run_navnode("doctor", "--json").stdout)
    assert found["uses"]["projector"].startswith("native") and found["cpu"]["cores"] >= 1


def test_doctor_says_what_a_configuration_would_use_and_lacks(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "node.toml"
        given = config.find("demo.toml").read_text().replace("port = 18944", f"port = {port}")
        keys = (
            '[reconstruction.remote]\nkey = "no.key_secret"\nworker_key = "no.key"\nhost = "127.0.0.1"\nport = 18946\n'
        )
        path.write_text(given.replace("[reconstruction]\n", '[reconstruction]\nmethod = "sart"\n') + keys)
        found = json.loads(run_navnode("doctor", str(path), "--json").stdout)
    assert found["ports"][f"consoles {port}"] == "in use" and found["ports"]["page 8080"]
    assert found["uses"]["reconstruction"] == "SART (classical)"
    assert "no.key_secret" in found["lacks"]["files"]


@pytest.mark.parametrize("command", ["demo", "simulate", "run", "doctor"])
def test_help_shows_an_example(command):
    assert "Example" in CliRunner().invoke(cli.app, [command, "--help"]).stdout
