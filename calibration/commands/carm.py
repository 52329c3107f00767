"""``navnode calibrate carm``, ``handeye`` and ``flex``: the C-arm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import carm as carm_
from calibration import distortion as distortion_
from calibration import documents, inputs, sources
from calibration import flex as flex_
from calibration import handeye as handeye_
from calibration.commands.call import Call
from calibration.verdict import Calibration
from navnode.files.artifacts import CArmResult, FlexResult, HandEyeResult
from navnode.projector.native import default_threads


def carm(
    call: Call,
    phantom: Annotated[Path, typer.Option("--phantom", metavar="PH.json", help="navnode/phantom/1: its beads.")],
    views: Annotated[
        Path | None, typer.Option("--views", metavar="V.json", help="Shots of the phantom; carm as its maker says.")
    ] = None,
    nominal: Annotated[
        Path | None,
        typer.Option("--carm", metavar="C.json", help="navnode/carm/1, as its maker says; for shots from elsewhere."),
    ] = None,
    distortion: Annotated[
        str,
        typer.Option(help=f"auto: the simplest that explains shots left out; or {', '.join(distortion_.MODELS)}."),
    ] = "auto",
    per_shot: Annotated[
        bool,
        typer.Option("--per-shot", help="Distance and principal point of every shot by itself, too: what flex needs."),
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Threads for computing; 0: all cores.")] = 0,
) -> Calibration[CArmResult]:
    """Source, detector and distortion, from shots of a bead phantom."""
    beads = documents.bead_phantom(phantom, call.files)
    shots = sources.phantom_shots(call.sources, views, nominal)
    with call.progress("Looking for beads") as progress:
        return carm_.carm(
            shots,
            beads.ids,
            beads.positions_mm,
            beads.diameters_mm,
            distortion=distortion,
            per_shot=per_shot,
            gates=call.gates,
            seed=call.seed,
            threads=threads or default_threads(),
            progress=progress,
        )


def handeye(
    call: Call,
    marker: Annotated[Path | None, typer.Option("--marker", metavar="POSES", help="tracker_from_marker.")] = None,
    xray: Annotated[
        Path | None,
        typer.Option("--xray", metavar="POSES|V.json", help="phantom_from_carm; or what `calibrate carm` wrote."),
    ] = None,
    phantom_marker: Annotated[
        Path | None,
        typer.Option("--phantom-marker", metavar="POSES", help="tracker_from_phantom_marker, if the phantom moves."),
    ] = None,
    phantom_marker_from_phantom: Annotated[
        Path | None,
        typer.Option(
            "--phantom-marker-from-phantom", metavar="M.npy", help="If it is known; three rows are enough then."
        ),
    ] = None,
) -> Calibration[HandEyeResult]:
    """Where the tracked marker on the C-arm is, seen from the X-ray source."""
    markers, xrays = sources.markers_and_xrays(call.sources, marker, xray)
    moving = call.sources.poses_if_any("phantom-marker", phantom_marker)
    known = phantom_marker_from_phantom
    return handeye_.handeye(
        markers,
        xrays,
        None if moving is None else moving.poses,
        None if known is None else inputs.matrix(known, call.files),
        gates=call.gates,
        seed=call.seed,
    )


def flex(
    call: Call,
    views: Annotated[
        Path,
        typer.Option(
            "--views",
            metavar="V.json",
            help="Shots of a fixed phantom, each with carm, volume_from_carm and angles_rad; or what "
            "`calibrate carm --per-shot` wrote.",
        ),
    ],
    at: Annotated[
        Path | None,
        typer.Option("--at", metavar="ANGLES.csv", help="orbital_rad,angulation_rad where the geometry is wanted."),
    ] = None,
) -> Calibration[FlexResult]:
    """How the C-arm bends: its geometry at any angle."""
    shots = documents.bent_shots(views, call.files, call.now_ns)
    return flex_.flex(*shots, None if at is None else inputs.angles(at, call.files), gates=call.gates)
