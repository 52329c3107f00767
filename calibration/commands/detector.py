"""``navnode calibrate temporal`` and ``flatfield``: when and what the detector says."""

from __future__ import annotations

from navnode.files.artifacts import FlatFieldResult, ImageLagResult

from .. import flatfield as flatfield_
from .. import inputs, sources
from .. import temporal as temporal_
from ..requests import FlatFieldRequest, TemporalRequest
from ..verdict import Calibration
from .call import Call


def temporal(request: TemporalRequest, call: Call) -> Calibration[ImageLagResult]:
    """How much later images are stamped than tracker poses."""
    moved = sources.tracker_motion(call.sources, request.tracker)
    seen = sources.image_motion(call.sources, request.signal, request.frames, request.frame_times)
    return temporal_.temporal(*moved, *seen, max_lag_s=request.max_lag_s, gates=call.gates)


def flatfield(request: FlatFieldRequest, call: Call) -> Calibration[FlatFieldResult]:
    """What the detector adds: dark, gain, bad pixels."""
    darks, flats = inputs.stack(request.dark, call.files), inputs.stack(request.flat, call.files)
    return flatfield_.flatfield(darks, flats, saturation=request.saturation, gates=call.gates)
