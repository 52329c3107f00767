"""``navnode carm``: how a C-arm shows its X-rays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from navnode.commands.command import command
from navnode.commands.ui import Ui, say, standard_output
from navnode.gateways.requests import CArmSetupRequest

if TYPE_CHECKING:  # OpenCV is loaded only when the command runs
    from navnode.gateways.setup import CArmFindings

app = typer.Typer()
carm = typer.Typer(help="Find out how a C-arm shows X-rays in its video.", no_args_is_help=True)
app.add_typer(carm, name="carm")

_SETUP = "navnode carm setup --input /dev/video0 --standard pal --out carm.toml --picture carm.png"


@command(carm, CArmSetupRequest, example=_SETUP)
def setup(request: CArmSetupRequest, ui: Ui) -> None:
    """Watch a C-arm's video while X-rays are taken, and write its preset: field, text, curve, holds, orientation.

    Take X-rays from several directions, and hold the last one for some seconds.
    """
    from navnode.gateways.presets import set_up

    findings = set_up(request, ui.progress("Watching"))
    ui.show(findings, _draw_findings)
    say(f"{request.out}: the preset; name it in the source that is this video, preset = '{request.out.name}'")


def _draw_findings(findings: CArmFindings) -> None:
    table = Table.grid(padding=(0, 2))
    for key, value in findings.preset().items():
        table.add_row(Text(key, "bold"), str(value))
    table.add_row(
        Text("exposures", "bold"), f"{findings.exposures_per_s:g} a second; {findings.steps} steps of brightness"
    )
    table.add_row(Text("held", "bold"), f"{100 * findings.held_share:.0f} % of the pictures")
    standard_output().print(table)
    for line in findings.lines:
        say(line)
