"""docs/calibration.md, followed to the letter: from nothing to a node that is VALID, in the virtual operating room."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from navnode import cli
from navnode.clock import now_ns
from navnode.files import artifacts
from navnode.recording import Recorder
from navnode.simulation import practice
from tests.conftest import find_free_port
from tests.documents import followed

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent.parent
BEGAN_NS = now_ns()
SCENES = {
    "pivot-Drill": "pivot",
    "spin-Drill": "spin",
    "carm": "beads",
    "temporal": "sweep",
    "patient": "points",
    "phantom": "targets",
}
"""Step -> its scene."""


def commands() -> list[str]:
    """The command lines of the section, in their order."""
    text = (ROOT / "docs/calibration.md").read_text()
    section = re.split(r"^## ", text, flags=re.M)
    found = next(part for part in section if part.startswith("From scratch"))
    return [line.strip() for line in found.splitlines() if line.startswith("    ")]


def test_the_document_has_commands():
    lines = commands()
    assert any(line.startswith("navnode calibrate all ") for line in lines)
    assert any(line.startswith("navnode run ") for line in lines)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Every scene, recorded; the sweep in small pictures, which take less time to draw."""
    folder = tmp_path_factory.mktemp("sessions")
    for scene in practice.SCENES:
        recorder = Recorder(folder / f"{scene}.mcap", {})
        for at_ns, message in practice.Practice(128 if scene == "sweep" else 512).messages(scene):
            stamped = msgspec.structs.replace(message, timestamp_ns=message.timestamp_ns + BEGAN_NS, version=2)
            recorder.record(stamped, at_ns + BEGAN_NS)
        recorder.stop()
    return folder


def navnode(line: str, *more: object):
    """A command of the document, with further options."""
    words = shlex.split(line.rstrip(" &"))[1:]
    words = [name for word in words for name in sorted(map(str, Path().glob(word))) or [word]]
    return CliRunner().invoke(cli.app, [*words, *map(str, more)])


def test_the_document_from_recordings(tmp_path, sessions, monkeypatch):
    """Each line is run; the room is not heard, but taken from recordings of its scenes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    done = []
    for line in commands():
        if not line.startswith("navnode "):
            subprocess.run(["bash", "-ec", line], check=True, cwd=tmp_path)
            monkeypatch.chdir(tmp_path / re.search(r"cd (\w+)", line)[1])
        elif line.startswith("navnode simulate --scene all"):
            ran = navnode(line, "--port", find_free_port(), "--seconds", 1)
            assert ran.exit_code == 0, ran.stderr
        elif line.startswith("navnode calibrate all"):
            given = [
                part for step, scene in SCENES.items() for part in ("--recording", f"{step}={sessions}/{scene}.mcap")
            ]
            ran = navnode(line, *given, "--json")
            assert ran.exit_code == 0, ran.stderr
            answer = json.loads(ran.stdout)
            assert answer["lacking"] == [] and answer["failed"] == []
            kept = {step["name"] for step in answer["steps"] if step["state"] == "kept"}
            assert kept == {*SCENES, "flex", "handeye"}
            assert {s["used"] for s in answer["steps"] if s["name"] in kept} == {"next_start", "verifies"}
        elif line.startswith("navnode calibrate check"):
            ran = navnode(line)
            assert ran.exit_code == 0 and ran.stdout.count("fine") == len(SCENES) + 2, ran.stdout
        elif line.startswith("navnode run"):
            ran = navnode(line, "--check")
            assert ran.exit_code == 0, ran.stderr
        done.append(line)
    assert done == commands()
    phantom = artifacts.read(Path("calibration/phantom.json"))
    assert phantom.quality["tre_mm"]["median"] < 0.5


WRAPPER = """#!{python}
import os, sys
words = sys.argv[1:]
if words[0] == "simulate":
    words += ["--port", "{port}"] + ([] if "--scene" in words else ["--ct", "procedural", "--rate", "10"])
if words[0] == "run":
    words += ["--seconds", "60", "--json"]
os.execv({python!r}, [{python!r}, "-m", "navnode", *words])
"""
"""The document's `navnode`: other ports, no download, and an end."""


@pytest.mark.slow
def test_the_document_to_the_letter(tmp_path):
    launch, port = tmp_path / "launch", find_free_port()
    shutil.copytree(ROOT / "launch", launch)
    text = (launch / "calibration-demo.toml").read_text().replace('ct = "sample"', 'ct = "procedural"')
    for old in (18945, 18944, 8080):
        text = text.replace(f"port = {old}", f"port = {port if old == 18945 else find_free_port()}")
    (launch / "calibration-demo.toml").write_text(text)
    script = "\n".join(["trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *commands()])
    began_s = time.monotonic()
    said = followed(tmp_path, script, {"navnode": WRAPPER.format(python=sys.executable, port=port)}, 900)
    report = json.loads(said.splitlines()[-1])
    assert report["status_counts"].get("VALID", 0) > 100, report
    assert time.monotonic() - began_s < 600
