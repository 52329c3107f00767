"""``navnode jig``: a jig of beads beside a limb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from navnode.commands.command import command
from navnode.commands.ui import Ui, say, standard_output
from navnode.jig.requests import JigCheckRequest, JigMakeRequest

if TYPE_CHECKING:  # OpenCV is loaded only when the command runs
    from navnode.jig.measured import JigReport

app = typer.Typer()
jig = typer.Typer(
    help="Make and check a jig of beads, which gives ordinary X-rays their geometry.", no_args_is_help=True
)
app.add_typer(jig, name="jig")


@command(jig, JigMakeRequest, example="navnode jig make --out my-jig --limb-mm 120", json=False)
def make(request: JigMakeRequest, ui: Ui) -> None:
    """Lay out a jig for a limb: its file, parts to print, a drawing in real size, and what to buy."""
    from navnode.jig import printed

    made = printed.make(request)
    say(f"{request.out}: {made.name}, {len(made.ids)} beads of {made.diameter_mm:g} mm")
    for part in made.parts:
        say(f"  {part.count} x {part.name}" + (f" ({part.file})" if part.file else ""))


@command(
    jig,
    JigCheckRequest,
    example="navnode jig check my-jig/jig.json *.dcm --distance U1a:U1g:225.8 --out measured.json",
)
def check(request: JigCheckRequest, ui: Ui) -> None:
    """Measure a built jig from 4 or more X-rays of it alone, turned by 90 degrees in all."""
    from navnode.jig import measured

    ui.show(measured.check(request, ui.progress("Measuring")), _draw)
    if request.out is not None:
        say(f"{request.out}: the jig as measured")


def _draw(report: JigReport) -> None:
    table = Table.grid(padding=(0, 2))
    for key, value in (
        ("jig", f"{report.name}: {report.beads} beads measured"),
        ("pictures", f"{report.used} of {report.pictures}"),
        ("residual", f"{report.residual_px:.2f} px"),
        ("beads known to", f"{report.sigma_mm:.3f} mm"),
        ("off the layout", f"{report.off_mm:.2f} mm rms; {report.worst} by {report.worst_mm:.2f} mm"),
        ("scale", report.scale),
    ):
        table.add_row(Text(key, "bold"), value)
    standard_output().print(table)
    for line in (*report.refused, *(f"{name}: seen too rarely, left out" for name in report.left_out)):
        say(line)
