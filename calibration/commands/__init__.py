"""``navnode calibrate``: thin commands around the routines, in the order in which they are listed."""

from __future__ import annotations

import typer

from navnode.commands.command import command

from .. import SUMMARY
from ..requests import AllRequest, CheckRequest, ExportRequest, ImportRequest, ShowRequest
from . import all as all_
from . import carm, detector, exchange, kept, patient, tools
from .options import add_routine

app = typer.Typer(
    name="calibrate",
    help=SUMMARY,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ALL = (
    "navnode calibrate all node.toml",
    "navnode calibrate all node.toml --only pivot-Drill --skip flex",
    "navnode calibrate all node.toml --recording carm=shots.mcap --recording temporal=sweep.mcap",
    "navnode calibrate all node.toml --state --json",
)
command(app, AllRequest, name="all", example=_ALL)(all_.all_)
for routine, example in (
    (tools.pivot, "pivot stylus.npy --of Stylus --out stylus.json"),
    (tools.spin, "spin drill.npy --pivot drill-pivot.json --out drill-axis.json"),
    (carm.plate, "plate --views plate.json --spacing-mm 5 --out plate.json"),
    (carm.carm, "carm --views shots.json --phantom beads.json --out carm.json"),
    (carm.handeye, "handeye --marker marker.npy --xray shots.json --out handeye.json"),
    (carm.flex, "flex --views sweep.json --at angles.csv --out flex.json"),
    (
        patient.patient,
        "patient --volume-points planned.csv --patient-points touched.csv --targets targets.csv --out patient.json",
    ),
    (
        detector.temporal,
        "temporal --tracker marker.csv --frames shots.npy --frame-times times.csv --out latency.json",
    ),
    (detector.flatfield, "flatfield --dark dark.npy --flat flat.npy --out detector.npz"),
    (
        patient.phantom,
        "phantom --targets targets.csv --stylus s.npy --patient-marker p.npy --tip stylus.json "
        "--volume-from-patient patient.json",
    ),
    (tools.tool, "tool spheres.csv --of Drill --out drill-marker.json"),
):
    add_routine(app, routine, example)

_IMPORT = "navnode calibrate import PlusDeviceSet.xml --json"
_EXPORT = "navnode calibrate export stylus.json --out PlusDeviceSet.xml"
command(app, ImportRequest, name="import", example=_IMPORT)(exchange.import_)
command(app, ExportRequest, example=_EXPORT, json=False)(exchange.export)
command(app, ShowRequest, example="navnode calibrate show stylus.json")(kept.show)
command(app, CheckRequest, example="navnode calibrate check stylus.json handeye.json")(kept.check)
