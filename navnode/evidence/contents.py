"""What evidence consists of, as ``evidence.json`` holds it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from navnode.evidence.charts import Chart
from navnode.evidence.risks import Verified
from navnode.evidence.steps import Ran

__all__ = ["Evidence", "Outcome"]


class Outcome(StrEnum):
    """What evidence, as a whole, says of an installation."""

    PASSED = "passed"
    """Everything ran, and nothing failed."""
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    """Nothing failed, but something did not run, or not to its end: it says nothing of that."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence came to."""

    schema: str = "navnode/evidence/1"
    use: str = "Research use only. Not a medical device; conformity with IEC 62304 or ISO 14971 is not claimed."
    navnode: str
    python: str
    system: str
    made_ns: int
    packages: int
    files_sha256: str
    """Of all files of the package navnode, their names included."""
    steps: list[Ran]
    risks: list[Verified]
    charts: list[Chart]
    refused: list[str]
    """Calibrations that could not be read, and why."""
    outcome: Outcome
    passed: bool
    """Whether the outcome is ``passed``."""
    problems: list[str]
    """What failed."""
    lacking: list[str]
    """What did not run, or not to its end."""
    elapsed_s: float
