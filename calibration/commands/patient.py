"""``navnode calibrate patient`` and ``phantom``: points that are touched."""

from __future__ import annotations

from navnode.files.artifacts import PatientResult, PhantomResult
from navnode.files.meshes import read_mesh

from .. import documents, inputs, sources
from .. import patient as patient_
from .. import phantom as phantom_
from ..requests import PatientRequest, PhantomRequest
from ..verdict import Calibration
from .call import Call


def patient(request: PatientRequest, call: Call) -> Calibration[PatientResult]:
    """Where the patient is: points touched, paired by their labels, and a surface."""
    planned_mm, files = inputs.points(request.volume_points, call.files), call.files
    tip_mm = documents.tip_mm(request.tip, request.pivot, files, call.now_ns)
    given = request.patient_points, request.stylus, request.patient_marker
    touched_mm = sources.touched_points(call.sources, planned_mm, *given, tip_mm)
    return patient_.patient(
        planned_mm,
        touched_mm,
        surface_points_mm=None if request.surface is None else inputs.cloud(request.surface, files),
        mesh=None if request.mesh is None else read_mesh(files.read(request.mesh), request.mesh_units),
        targets_mm=None if request.targets is None else inputs.points(request.targets, files),
        fle_mm=request.fle_mm,
        gates=call.gates,
    )


def phantom(request: PhantomRequest, call: Call) -> Calibration[PhantomResult]:
    """Verify the whole chain on fresh targets: they are touched in their order, and nothing is fitted."""
    targets_mm = inputs.points(request.targets, call.files)
    stylus, marker = request.stylus, request.patient_marker
    if request.measured is not None:
        measured_mm = sources.measured_points(call.sources, request.measured, stylus, marker)
        return phantom_.phantom(targets_mm, measured_mm, gates=call.gates)
    tip_mm = documents.tip_mm(request.tip, request.pivot, call.files, call.now_ns)
    stream = sources.stream_of_touches(call.sources, stylus, marker, tip_mm, request.volume_from_patient)
    return phantom_.phantom_from_stream(targets_mm, *stream, gates=call.gates)
