"""A step that fails, takes too long or cannot run is said to be so; nothing of it stays."""

import math

import msgspec
import pytest

from navnode.evidence import steps
from navnode.evidence.steps import Step, run


@pytest.fixture(autouse=True)
def without_sources(monkeypatch):
    """Steps then run in the folder of the evidence."""
    monkeypatch.setattr(steps, "checkout", lambda: None)


GOOD = {"status_counts": {"VALID": 5}, "tre_mm": {"median": 0.2}}


def step(tmp_path, program: str, name: str = "loop") -> Step:
    (tmp_path / "program.py").write_text(program)
    return Step(name=name, title="It", command=["program"])


@pytest.mark.parametrize(
    ("program", "outcome", "why"),
    [
        (f"import json; print(json.dumps({GOOD}))", "passed", ""),
        (f"import json; print(json.dumps({GOOD | {'tre_mm': {'median': 3.0}}}))", "failed", "median error 3.00 mm"),
        ("raise SystemExit(3)", "failed", "ended with 3"),
        ("print('no report')", "failed", "lacks"),
    ],
)
def test_it_is_judged_by_its_report(tmp_path, program, outcome, why):
    ran = run(step(tmp_path, program), tmp_path, 60)
    assert ran.outcome == outcome and why in ran.why
    assert (tmp_path / "loop.json").exists() == ("json" in program)


@pytest.mark.parametrize(
    ("longest_s", "left_s", "outcome", "why"),
    [(math.inf, 1.0, "unfinished", "ended after 1 s"), (1.0, 60.0, "failed", "did not end within 1 s")],
    ids=["no time is left", "it hangs"],
)
def test_what_takes_too_long_is_ended_with_its_children(tmp_path, longest_s, left_s, outcome, why):
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    hanging = msgspec.structs.replace(step(tmp_path, program), longest_s=longest_s)
    ran = run(hanging, tmp_path, left_s)
    assert ran.outcome == outcome and why in ran.why and ran.seconds < 30


def test_every_step_but_the_one_that_the_user_makes_long_may_hang_only_for_so_long(tmp_path):
    unbounded = [each.name for each in steps.steps(tmp_path / "risks.xml", 9) if each.longest_s == math.inf]
    assert unbounded == ["trust"]


def test_what_cannot_run_is_not_run(tmp_path):
    missing = Step(name="golden", title="It", command=["nothing"], why_not="no sources")
    assert run(missing, tmp_path, 60).why == "no sources"
    assert run(step(tmp_path, ""), tmp_path, 0.0).outcome == "not run"


@pytest.mark.parametrize(
    ("kind", "hits", "of", "fails"),
    [
        ("turned", 0, 1, False),
        ("turned", 1, 400, True),
        ("wrong geometry", 1, 1, False),
        ("wrong geometry", 18, 400, False),
        ("wrong geometry", 40, 400, True),
        ("wrong geometry", 2, 2, True),
        ("moved bone", 1, 10, False),
        ("moved bone", 3, 10, True),
    ],
)
def test_what_was_wrong_and_valid_fails_if_it_is_more_than_is_known_of_the_version(kind, hits, of, fails):
    said = steps._trust({"by_kind": {"mirrored": {"hits": 0, "of": of}, kind: {"hits": hits, "of": of}}})
    assert (f"{hits} of {of}" in said) == fails and bool(said) == fails
