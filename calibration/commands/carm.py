"""``navnode calibrate plate``, ``carm``, ``handeye`` and ``flex``: the C-arm."""

from __future__ import annotations

from navnode.files.artifacts import CArmResult, FlexResult, HandEyeResult, PlateResult

from .. import carm as carm_
from .. import documents, inputs, sources
from .. import flex as flex_
from .. import handeye as handeye_
from .. import plate as plate_
from ..lattice import Lattice
from ..requests import CArmRequest, FlexRequest, HandEyeRequest, PlateRequest
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
        plate=None if request.plate is None else documents.plate(request.plate, call.files, call.now_ns),
        gates=call.gates,
        seed=request.seed,
        threads=request.threads,
        progress=call.progress("Looking for beads"),
    )


def plate(request: PlateRequest, call: Call) -> Calibration[PlateResult]:
    """Distortion at any angle, from pictures of a plate of holes or beads that is fixed to the intensifier."""
    return plate_.plate(
        sources.plate_pictures(call.sources, request.views, request.nominal),
        Lattice(request.lattice, request.spacing_mm),
        fixed=request.fixed,
        gates=call.gates,
        threads=request.threads,
        progress=call.progress("Looking for holes"),
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
