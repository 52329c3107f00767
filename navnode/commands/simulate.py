"""``navnode simulate``: the virtual operating room alone."""

from __future__ import annotations

import typer

from navnode.commands.command import command
from navnode.commands.fetch import rendered
from navnode.commands.ui import Ui, say
from navnode.simulation.requests import SimulateRequest

app = typer.Typer()


@command(app, SimulateRequest, example="navnode simulate --port 18945 --ct chest.nii.gz")
def simulate(request: SimulateRequest, ui: Ui) -> None:
    """Run only the virtual operating room: an OpenIGTLink server with X-rays, tracker poses and the truth."""
    from navnode.simulation import serving

    report = serving.simulate(request, lambda settings: rendered(settings, request.threads), say)
    ui.show(report, lambda _: None)
