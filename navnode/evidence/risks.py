"""The list of risks, and which tests verify their controls; outcomes come from pytest's report (JUnit XML)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from defusedxml import ElementTree

from navnode.errors import ConfigError

__all__ = ["Risk", "Verified", "risks", "verified"]


class Risk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One risk and its control, in words."""

    id: str
    cause: str
    control: str


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A risk, and what the tests of its control came to."""

    risk: Risk
    passed: int
    failed: list[str]
    skipped: int

    @property
    def holds(self) -> bool:
        """Whether tests ran and none failed."""
        return self.passed > 0 and not self.failed


def risks() -> list[Risk]:
    """All risks, in the order of the list."""
    listed = tomllib.loads((Path(__file__).parent / "risks.toml").read_text("utf-8"))
    return msgspec.convert(listed["risk"], list[Risk])


def verified(report: Path, listed: Sequence[Risk]) -> list[Verified]:
    """What the tests of every risk came to.

    Args:
        report: of pytest, whose tests name their risks as properties (tests/conftest.py).

    Raises:
        ConfigError: it is no such report.
    """
    try:
        cases = ElementTree.parse(report).getroot().iter("testcase")
        outcomes = [(case, _outcome(case)) for case in cases]
    except (OSError, ElementTree.ParseError) as error:
        raise ConfigError(f"{report}: not a report of tests ({error})") from error
    passed = {risk.id: 0 for risk in listed}
    skipped = dict(passed)
    failed: dict[str, list[str]] = {risk.id: [] for risk in listed}
    for case, outcome in outcomes:
        for found in case.iterfind("properties/property[@name='risk']"):
            risk = found.get("value", "")
            if risk not in passed:
                raise ConfigError(f"{report}: a test verifies the unknown risk {risk!r}")
            if outcome == "failed":
                failed[risk].append(f"{case.get('classname')}.{case.get('name')}")
            elif outcome == "skipped":
                skipped[risk] += 1
            else:
                passed[risk] += 1
    return [
        Verified(risk=risk, passed=passed[risk.id], failed=failed[risk.id], skipped=skipped[risk.id]) for risk in listed
    ]


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"
