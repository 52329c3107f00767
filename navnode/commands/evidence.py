"""``navnode evidence``: what an installation is made of, what its tests and measurements came to, signed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from navnode.commands.command import command
from navnode.commands.ui import Ui
from navnode.errors import ConfigError
from navnode.evidence.requests import EvidenceRequest

if TYPE_CHECKING:
    from navnode.evidence.contents import Evidence

app = typer.Typer()
_STEPS = 9
"""Calibrations, materials, six runs, page and signature."""


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

    Takes up to ten minutes, and measures best while nothing else runs. Ends with 1 if something failed.
    From a checkout it runs tests and the golden session as well; what was not run is named. Research use only.
    """
    try:
        from navnode.evidence import pack, seal
    except ImportError as error:
        raise ConfigError(f"evidence needs the extra 'evidence': pip install 'navnode[evidence]' ({error})") from error
    if request.check is not None:
        problems = seal.broken(request.check, request.trusted)
        line = "; ".join(problems) if problems else "signed, and nothing changed since"
        ui.answer({"check": str(request.check), "problems": problems}, f"{request.check}: {line}")
        if problems:
            raise typer.Exit(1)
        return
    made = pack.make(request, time.time_ns(), ui.steps(_STEPS))
    ui.show(made, lambda each: _draw(each, request))
    if not made.passed:
        raise typer.Exit(1)


def _draw(made: Evidence, request: EvidenceRequest) -> None:
    out = Console()
    for ran in made.steps:
        why = f": {ran.why}" if ran.why else ""
        out.print(f"{ran.outcome:8} {ran.title} ({ran.seconds:.0f} s){why}", markup=False, highlight=False)
    held = sum(each.holds for each in made.risks)
    out.print(f"{held} of {len(made.risks)} risks have tests of their control that passed", markup=False)
    for problem in made.problems:
        out.print(f"failed: {problem}", markup=False, highlight=False)
    assert request.out is not None
    out.print(f"{request.out / 'evidence.html'}, signed", markup=False, highlight=False)
