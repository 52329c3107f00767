"""``navnode calibrate temporal`` and ``flatfield``: when and what the detector says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import flatfield as flatfield_
from calibration import inputs, sources
from calibration import temporal as temporal_
from calibration.commands.call import Call
from calibration.verdict import Calibration
from navnode.files.artifacts import FlatFieldResult, ImageLagResult


def temporal(
    call: Call,
    tracker: Annotated[
        Path | None, typer.Option(metavar="POSES|CSV", help="Poses with times, or timestamp_s,value.")
    ] = None,
    signal: Annotated[Path | None, typer.Option(metavar="CSV", help="The image's motion: timestamp_s,value.")] = None,
    frames: Annotated[
        Path | None, typer.Option(metavar="S.npy", help="Pictures (N, H, W) in which motion is found.")
    ] = None,
    frame_times: Annotated[Path | None, typer.Option(metavar="CSV", help="timestamp_s of every picture.")] = None,
    max_lag_s: Annotated[float, typer.Option("--max-lag-s", help="Search so far, both ways.")] = 0.5,
) -> Calibration[ImageLagResult]:
    """How much later images are stamped than tracker poses."""
    moved = sources.tracker_motion(call.sources, tracker)
    seen = sources.image_motion(call.sources, signal, frames, frame_times)
    return temporal_.temporal(*moved, *seen, max_lag_s=max_lag_s, gates=call.gates)


def flatfield(
    call: Call,
    dark: Annotated[Path, typer.Option(metavar="D.npy", help="(N, H, W) without X-rays, or a folder of PNG.")],
    flat: Annotated[
        Path, typer.Option(metavar="F.npy", help="(N, H, W) with nothing in the beam, or a folder of PNG.")
    ],
    saturation: Annotated[float | None, typer.Option(min=1, help="Counts from which on a pixel is saturated.")] = None,
) -> Calibration[FlatFieldResult]:
    """What the detector adds: dark, gain, bad pixels."""
    darks, flats = inputs.stack(dark, call.files), inputs.stack(flat, call.files)
    return flatfield_.flatfield(darks, flats, saturation=saturation, gates=call.gates)
