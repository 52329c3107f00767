"""``navnode calibrate carm``, ``handeye`` and ``flex``: the C-arm."""

from __future__ import annotations

from navnode.files.artifacts import CArmResult, FlexResult, HandEyeResult

from .. import carm as carm_
from .. import documents, inputs, sources
from .. import flex as flex_
from .. import handeye as handeye_
from ..requests import CArmRequest, FlexRequest, HandEyeRequest
from ..verdict import Calibration
from .call import Call


def carm(request: CArmRequest, call: Call) -> Calibration[CArmResult]:
    """Source, detector and distortion, from shots of a bead phantom."""
    beads = documents.bead_phantom(request.phantom, call.files)
    return carm_.carm(
        sources.phantom_shots(call.sources, request.views, request.nominal),
        beads.ids,
        beads.positions_mm,
        beads.diameters_mm,
        distortion=request.distortion,
        per_shot=request.per_shot,
        gates=call.gates,
        seed=request.seed,
        threads=request.threads,
        progress=call.progress("Looking for beads"),
    )


def handeye(request: HandEyeRequest, call: Call) -> Calibration[HandEyeResult]:
    """Where the tracked marker on the C-arm is, seen from the X-ray source."""
    markers, xrays = sources.markers_and_xrays(call.sources, request.marker, request.xray)
    moving = call.sources.poses_if_any("phantom-marker", request.phantom_marker)
    known = request.phantom_marker_from_phantom
    return handeye_.handeye(
        markers,
        xrays,
        None if moving is None else moving.poses,
        None if known is None else inputs.matrix(known, call.files),
        gates=call.gates,
        seed=request.seed,
    )


def flex(request: FlexRequest, call: Call) -> Calibration[FlexResult]:
    """How the C-arm bends: its geometry at any angle."""
    shots = documents.bent_shots(request.views, call.files, call.now_ns)
    angles = None if request.at is None else inputs.angles(request.at, call.files)
    return flex_.flex(*shots, angles, gates=call.gates)
