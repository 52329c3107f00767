"""What is run for the evidence: commands that anybody can run again, each in a process of its own, bounded in time."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import navnode

__all__ = ["Ran", "Step", "checkout", "run", "steps"]

_KNOWN_RATES = {"wrong geometry": 18 / 400, "moved bone": 6 / 400}
"""Trap -> share that was VALID and wrong when this version was measured (docs/safety.md); of all others: none."""
_UNLIKELY = 0.01
"""A count that comes by chance less often than this is more than the known rate."""
_MOST_MEDIAN_MM = 1.0
"""Of the demo against the simulator's truth."""
_LONGEST_S = 480.0
"""Of a step whose length is not the user's choice: beyond it, it hangs. The longest took 373 s, on two busy cores."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something to run."""

    name: str
    title: str
    command: list[str]
    """Without the interpreter: a module and its arguments."""
    longest_s: float = math.inf
    """A step that takes longer hangs, and so failed; infinite: how long it takes is the user's choice."""
    why_not: str = ""
    """Why it cannot be run here."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a step came to."""

    name: str
    title: str
    command: str
    outcome: str
    """``passed``, ``failed``, ``not run``, or ``unfinished``: it began, and no time was left."""
    why: str
    seconds: float
    report: Any = None
    """What it printed as JSON."""


def checkout() -> Path | None:
    """The folder of the sources with their tests, if navnode runs from there."""
    root = Path(navnode.__file__).parent.parent
    return root if (root / "tests" / "conftest.py").is_file() and (root / "pyproject.toml").is_file() else None


def steps(junit: Path, traps: int) -> list[Step]:
    """All steps, the quick ones first.

    Args:
        junit: where the tests write their report.
        traps: of the bench of trust; 0: none.
    """
    root = checkout()
    missing = "" if root else "the tests are in the sources: run it from a checkout"
    golden = "tests/recording/golden/room"
    replay = ["replay", f"{golden}.mcap", "--lockstep", "--reference", f"{golden}.reference.mcap", "--json"]
    tested = _files_with_risks(root) if root else []
    pytest = ["pytest", "-q", "-m", "risk and not slow", "-p", "no:cacheprovider", f"--junitxml={junit}", *tested]
    demo = ["demo", "--headless", "--seconds", "20", "--ct", "procedural", "--json"]
    bench = ["bench", "trust", "--ct", "procedural", "--traps", str(traps), "--json"]
    return [
        _navnode("machine", "This machine", ["doctor", "--json"], longest_s=_LONGEST_S),
        _navnode("golden", "Golden session, replayed and compared", replay, longest_s=_LONGEST_S, why_not=missing),
        _navnode("loop", "The live loop against the simulator's truth", demo, longest_s=_LONGEST_S),
        Step(
            name="risks", title="Tests of the controls of risks", command=pytest, longest_s=_LONGEST_S, why_not=missing
        ),
        _navnode("projector", "Projector", ["bench", "projector", "--repeats", "1", "--json"], longest_s=_LONGEST_S),
        _navnode("trust", "Traps that must not be VALID", bench, why_not="" if traps else "--traps 0"),
    ]


def run(step: Step, folder: Path, seconds: float) -> Ran:
    """Run a step; what it prints goes to NAME.log and NAME.json.

    Args:
        seconds: what is left for it. It is ended then, or after its own longest time, which is a failure.
    """
    shown = "python -m " + " ".join(step.command)
    if step.why_not or seconds <= 0:
        why = step.why_not or "no time was left; see --minutes"
        return Ran(name=step.name, title=step.title, command=shown, outcome="not run", why=why, seconds=0.0)
    began = time.monotonic()
    log = folder / f"{step.name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and no argument but those in `steps`
            [sys.executable, "-m", *step.command],
            cwd=checkout() or folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=min(seconds, step.longest_s))
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            too_long = step.longest_s <= seconds
            return Ran(
                name=step.name,
                title=step.title,
                command=shown,
                outcome="failed" if too_long else "unfinished",
                why=f"did not end within {step.longest_s:g} s"
                if too_long
                else f"ended after {seconds:.0f} s; see --minutes",
                seconds=time.monotonic() - began,
            )
    report = _json(output)
    if report is not None:
        (folder / f"{step.name}.json").write_bytes(msgspec.json.format(json.dumps(report).encode(), indent=1))
    why = _problem(step.name, process.returncode, report)
    return Ran(
        name=step.name,
        title=step.title,
        command=shown,
        outcome="failed" if why else "passed",
        why=why,
        seconds=time.monotonic() - began,
        report=report,
    )


def _navnode(
    name: str, title: str, arguments: Sequence[str], *, longest_s: float = math.inf, why_not: str = ""
) -> Step:
    return Step(name=name, title=title, command=["navnode", *arguments], longest_s=longest_s, why_not=why_not)


def _files_with_risks(root: Path) -> list[str]:
    """Test files that name a risk: collecting the others would take most of the time."""
    files = sorted((root / "tests").rglob("test_*.py"))
    return [str(file.relative_to(root)) for file in files if b"mark.risk(" in file.read_bytes()]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step with all that it started: first so that it can tidy up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _json(output: bytes) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        return None


def _problem(name: str, code: int, report: Any) -> str:
    """Why a step failed; empty: it did not."""
    if code != 0:
        return f"ended with {code}; see {name}.log"
    if name in _JUDGES:
        try:
            return _JUDGES[name](report)
        except (KeyError, TypeError) as error:
            return f"its report lacks {error}"
    return ""


def _golden(report: Any) -> str:
    return "" if report["comparison"]["same"] else "it came out differently"


def _loop(report: Any) -> str:
    median = report["tre_mm"]["median"]
    if not report["status_counts"]["VALID"]:
        return "nothing became VALID"
    return "" if median <= _MOST_MEDIAN_MM else f"median error {median:.2f} mm"


def _trust(report: Any) -> str:
    wrong = {
        kind: f"{rate['hits']} of {rate['of']}"
        for kind, rate in report["by_kind"].items()
        if rate["hits"] and _at_least(rate["hits"], rate["of"], _KNOWN_RATES.get(kind, 0.0)) < _UNLIKELY
    }
    return f"VALID and wrong: {wrong}" if wrong else ""


def _at_least(hits: int, of: int, rate: float) -> float:
    """Probability of so many hits, or more, at this rate (binomial distribution)."""
    return 1.0 - sum(math.comb(of, k) * rate**k * (1.0 - rate) ** (of - k) for k in range(hits))


_JUDGES: dict[str, Callable[[Any], str]] = {"golden": _golden, "loop": _loop, "trust": _trust}
