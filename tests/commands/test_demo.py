"""The demonstration, from its start to its report."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial

import pytest
from typer.testing import CliRunner

from navnode import cli
from navnode.errors import ConfigError
from navnode.simulation import sample_ct
from tests.conftest import find_free_port, slow
from tests.invoke import run_navnode

pytestmark = pytest.mark.long


def demo(port: int, *more: str) -> dict:
    room = ("--ct", "procedural", "--size", "256", "--rate", "10")
    done = run_navnode("demo", "--headless", "--json", *room, "--port", str(port), *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_demo_reports_its_figures(procedural_ct, free_port):
    report = demo(free_port, "--seconds", "15")  # its depth takes X-rays to settle, and slow machines register few
    assert report["frames"] >= 10 and report["fps"] > 0
    assert report["tre_mm"]["median"] < 0.3 and report["wrong_while_valid"] == 0
    assert set(report["latency_ms"]) == set(report["overlay_latency_ms"]) == {"p50", "p99", "max"}
    assert report["status_counts"]["VALID"] > 0 and report["backend"]["projector"].startswith("native")
    assert {"xray", "pose", "rejected", "console"} <= set(report["dropped"])


@pytest.mark.slow  # what it shows is shown without processes by tests/loop and tests/test_offline.py
def test_demo_without_a_ct(procedural_ct, free_port):
    # The first volume takes SART a dozen seconds of idle time, and of a slow and busy machine four times that.
    report = demo(free_port, "--seconds", "60", "--ctless")
    assert report["volumes"] >= 1 and report["status_counts"]["VALID"] == 0
    assert report["status_counts"]["DEGRADED"] > 0
    assert report["tre_mm"]["median"] < 3.0 and report["wrong_while_valid"] == 0


def test_a_recording_that_exists_is_refused_before_a_ct_is_fetched(tmp_path, monkeypatch):
    there = tmp_path / "there.mcap"
    there.touch()
    monkeypatch.setattr(sample_ct, "resolve_ct", lambda *arguments: pytest.fail("the CT was asked for"))
    result = CliRunner().invoke(cli.app, ["demo", "--headless", "--seconds", "1", "--record", str(there)])
    assert isinstance(result.exception, ConfigError) and f"{there}: exists already" in str(result.exception)


@pytest.mark.parametrize("as_json", [False, slow(True)])
def test_ctrl_c_sums_up_what_ran(procedural_ct, tmp_path, as_json):
    command = [sys.executable, "-m", "navnode", "demo", "--headless", "--size", "256", "--port", str(find_free_port())]
    command += ["--simulator-port", str(find_free_port()), "--ct", "procedural"]
    if as_json:
        command += ["--seconds", "60", "--json"]
    before, after, pipe = [], [], subprocess.PIPE
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, preexec_fn=heeds) as demo:
        for line in demo.stderr:
            (after if before and before[-1].startswith("registration ") else before).append(line)
            if line is before[-1] and line.startswith("registration "):
                demo.send_signal(signal.SIGINT)
        document = demo.stdout.read()
        assert demo.wait() == 130, before
    if as_json:
        assert json.loads(document)["wrong_while_valid"] == 0
        return
    assert any(line.startswith("status_counts") for line in after), after
    assert any(line.startswith("wrong_while_valid") for line in after)
