"""``navnode evidence``: what an installation is made of, what its tests and measurements came to, signed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from navnode.commands.command import command
from navnode.commands.ui import Ui, standard_output
from navnode.errors import ConfigError
from navnode.evidence.requests import EvidenceRequest

if TYPE_CHECKING:
    from navnode.evidence.contents import Evidence
    from navnode.evidence.seal import Manifest

app = typer.Typer()
_STEPS = 9
"""Calibrations, materials, six runs, page and signature."""
_FAILED, _INCOMPLETE = 1, 3
"""Exit codes; 2 is that of wrong options."""


@command(
    app,
    EvidenceRequest,
    example=(
        "navnode evidence --out evidence",
        "navnode evidence --out evidence --calibrations cases --minutes 20 --traps 90",
        "navnode evidence --check evidence --trusted site.pub.pem",
    ),
)
def evidence(request: EvidenceRequest, ui: Ui) -> None:
    """Make signed evidence of this installation: materials, risks and their tests, figures, drift of calibrations.

    Takes up to ten minutes, and measures best while nothing else runs. Ends with 0 if all ran and passed, with 1 if
    something failed, with 3 if nothing failed but not all ran, as is so without a checkout. Research use only.
    """
    try:
        from navnode.evidence import pack, seal
    except ImportError as error:
        raise ConfigError(f"evidence needs the extra 'evidence': pip install 'navnode[evidence]' ({error})") from error
    if request.check is not None:
        problems = seal.broken(request.check, request.trusted)
        _answer(ui, request.check, problems, "" if problems else _stated(seal.signed(request.check)))
        return
    made = pack.make(request, time.time_ns(), ui.steps(_STEPS))
    ui.show(made, lambda each: _draw(each, request))
    if not made.passed:
        raise typer.Exit(_FAILED if made.problems else _INCOMPLETE)


def _answer(ui: Ui, checked: Path, problems: Sequence[str], outcome: str) -> None:
    line = "; ".join(problems) if problems else f"signed, and nothing changed since; it says: {outcome}"
    ui.answer({"check": str(checked), "problems": problems, "outcome": outcome}, f"{checked}: {line}")
    if problems:
        raise typer.Exit(1)


def _stated(manifest: Manifest) -> str:
    """What evidence says of its installation; before there was an outcome, "passed" meant that nothing failed."""
    return manifest.outcome or ("nothing failed" if manifest.passed else "failed")


def _draw(made: Evidence, request: EvidenceRequest) -> None:
    out = standard_output()
    for ran in made.steps:
        why = f": {ran.why}" if ran.why else ""
        out.print(f"{ran.outcome:10} {ran.title} ({ran.seconds:.0f} s){why}", highlight=False)
    held = sum(each.holds for each in made.risks)
    out.print(f"{held} of {len(made.risks)} risks have tests of their control that passed")
    for problem in made.problems:
        out.print(f"failed: {problem}", highlight=False)
    for each in made.lacking:
        out.print(f"not verified: {each}", highlight=False)
    assert request.out is not None
    out.print(f"{made.outcome}: {request.out / 'evidence.html'}, signed", highlight=False)
