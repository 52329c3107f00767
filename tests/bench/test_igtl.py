"""The benchmarks measure what they say; how quick it was is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from navnode.bench import igtl
from tests.conftest import needs_cpp, peer_program


@pytest.mark.parametrize("scenario", igtl.SCENARIOS, ids=lambda scenario: scenario.kind)
@pytest.mark.long
def test_everything_that_is_sent_arrives(scenario):
    figures = igtl._measure(scenario, "navnode", 0.2, None)
    assert figures.delivered == 1 and figures.cpu_ms > 0
    assert all(value > 0 for value in msgspec.to_builtins(figures).values())


@needs_cpp
def test_the_peer_speaks_the_same_scenarios():
    figures = igtl._measure(igtl.SCENARIOS[2], "C++", 0.4, peer_program("bench"))
    assert figures.delivered == 1 and 0 < figures.p50_ms < 1_000


def test_a_missing_peer_is_named():
    command = [sys.executable, "-m", "navnode", "bench", "igtl", "--peer", "/nowhere/bench"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "/nowhere/bench" in done.stderr


@pytest.mark.slow
def test_the_report_is_one_json_document():
    command = [sys.executable, "-m", "navnode", "bench", "igtl", "--json", "--seconds", "0.2"]
    report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert {"navnode", "pyigtl"} <= set(report["implementations"])
    assert report["ratios"]["TRANSFORM round trip, pyigtl"] > 0
