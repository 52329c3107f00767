"""Makes the evidence: runs its steps, charts calibrations, lists materials and hashes, draws the page, signs all."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

import navnode
from navnode.errors import ConfigError
from navnode.evidence import page, seal
from navnode.evidence.bill import bill, closure
from navnode.evidence.charts import Chart, read_folders
from navnode.evidence.contents import Evidence, Outcome
from navnode.evidence.requests import EvidenceRequest
from navnode.evidence.risks import Verified, risks, verified
from navnode.evidence.steps import Ran, run, steps

__all__ = ["make"]

_LEFT_FOR_THE_REST_S = 15.0


def make(request: EvidenceRequest, now_ns: int, progress: Callable[[str], None]) -> Evidence:
    """Make the evidence in ``request.out``.

    Args:
        now_ns: time, Unix epoch.
        progress: called with the name of what begins.

    Raises:
        ConfigError: the folder exists, a key or folder is not as it must be.
    """
    assert request.out is not None
    began, out = time.monotonic(), request.out
    key = seal.private_key(request.key or seal.default_key())
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: must be a new folder ({error.strerror})") from error
    progress("Calibrations of past cases")
    charts, refused = read_folders(request.calibrations)
    progress("Materials")
    (out / "bom.json").write_text(bill(), encoding="utf-8")
    ran = []
    junit = (out / "risks.xml").resolve()
    for step in steps(junit, request.traps):
        progress(step.title)
        left = 60 * request.minutes - (time.monotonic() - began) - _LEFT_FOR_THE_REST_S
        ran.append(run(step, out, left))
    progress("Page and signature")
    untested = [Verified(risk=risk, passed=0, failed=[], skipped=0) for risk in risks()]
    tested = verified(junit, risks()) if junit.exists() else untested
    problems, lacking = _problems(ran, tested, charts, refused), _lacking(ran, tested)
    outcome = Outcome.FAILED if problems else Outcome.INCOMPLETE if lacking else Outcome.PASSED
    evidence = Evidence(
        navnode=navnode.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        made_ns=now_ns,
        packages=len(closure()),
        files_sha256=_own_hash(Path(navnode.__file__).parent),
        steps=ran,
        risks=tested,
        charts=charts,
        refused=refused,
        outcome=outcome,
        passed=outcome is Outcome.PASSED,
        problems=problems,
        lacking=lacking,
        elapsed_s=round(time.monotonic() - began, 1),
    )
    (out / "evidence.json").write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=1))
    (out / "evidence.html").write_text(page.drawn(evidence), encoding="utf-8")
    seal.seal(out, key, navnode.__version__, now_ns, outcome)
    return evidence


def _problems(ran: Sequence[Ran], tested: Sequence[Verified], charts: Sequence[Chart], refused: list[str]) -> list[str]:
    """What failed."""
    found = [f"{each.title}: {each.why}" for each in ran if each.outcome == "failed"]
    found += [f"risk {each.risk.id}: a test of its control failed" for each in tested if each.failed]
    found += [f"calibration {each.kind} {each.device}: drift" for each in charts if each.alarmed]
    return found + [f"calibration not readable: {each}" for each in refused]


def _lacking(ran: Sequence[Ran], tested: Sequence[Verified]) -> list[str]:
    """What is neither passed nor failed, and so keeps the whole from having passed."""
    found = [f"{each.title}: {each.outcome} ({each.why})" for each in ran if each.outcome in ("not run", "unfinished")]
    return found + [
        f"risk {each.risk.id}: no test of its control passed" for each in tested if not (each.holds or each.failed)
    ]


def _own_hash(package: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(path.relative_to(package).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
