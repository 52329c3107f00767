"""``navnode calibrate patient`` and ``phantom``: points that are touched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import documents, inputs, sources
from calibration import patient as patient_
from calibration import phantom as phantom_
from calibration.commands import options
from calibration.commands.call import Call
from calibration.verdict import Calibration
from navnode.files.artifacts import PatientResult, PhantomResult
from navnode.files.volumes import read_mesh


def patient(
    call: Call,
    volume_points: options.Points,
    patient_points: Annotated[
        Path | None, typer.Option(metavar="CSV", help="label,x_mm,y_mm,z_mm in the patient marker's frame.")
    ] = None,
    stylus: Annotated[
        Path | None,
        typer.Option(metavar="POSES", help="tracker_from_stylus while the points are touched in their order, instead."),
    ] = None,
    patient_marker: Annotated[
        Path | None, typer.Option(metavar="POSES", help="tracker_from_patient, same rows as --stylus.")
    ] = None,
    tip: options.Tip = None,
    pivot: options.Pivot = None,
    surface: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Points touched on the bone, patient frame.")
    ] = None,
    mesh: Annotated[Path | None, typer.Option(metavar="M.stl", help="The bone in the volume.")] = None,
    targets: Annotated[Path | None, typer.Option(metavar="CSV", help="Where the error matters.")] = None,
    fle_mm: Annotated[float | None, typer.Option(help="Localisation error of a point, rms, if it is known.")] = None,
) -> Calibration[PatientResult]:
    """Where the patient is: points touched, paired by their labels, and a surface."""
    planned_mm = inputs.points(volume_points, call.files)
    tip_mm = documents.tip_mm(tip, pivot, call.files, call.now_ns)
    touched_mm = sources.touched_points(call.sources, planned_mm, patient_points, stylus, patient_marker, tip_mm)
    return patient_.patient(
        planned_mm,
        touched_mm,
        surface_points_mm=None if surface is None else inputs.cloud(surface, call.files),
        mesh=None if mesh is None else read_mesh(call.files.read(mesh)),
        targets_mm=None if targets is None else inputs.points(targets, call.files),
        fle_mm=fle_mm,
        gates=call.gates,
    )


def phantom(
    call: Call,
    targets: options.Points,
    measured: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Measured places in the volume, by label.")
    ] = None,
    stylus: Annotated[
        Path | None, typer.Option(metavar="POSES", help="tracker_from_stylus while the targets are touched.")
    ] = None,
    patient_marker: Annotated[
        Path | None, typer.Option(metavar="POSES", help="tracker_from_patient, same rows.")
    ] = None,
    tip: options.Tip = None,
    pivot: options.Pivot = None,
    volume_from_patient: Annotated[
        Path | None, typer.Option(metavar="M.npy|PATIENT.json", help="The patient's registration.")
    ] = None,
) -> Calibration[PhantomResult]:
    """Verify the whole chain on fresh targets: they are touched in their order, and nothing is fitted."""
    targets_mm = inputs.points(targets, call.files)
    if measured is not None:
        measured_mm = sources.measured_points(call.sources, measured, stylus, patient_marker)
        return phantom_.phantom(targets_mm, measured_mm, gates=call.gates)
    tip_mm = documents.tip_mm(tip, pivot, call.files, call.now_ns)
    stream = sources.stream_of_touches(call.sources, stylus, patient_marker, tip_mm, volume_from_patient)
    return phantom_.phantom_from_stream(targets_mm, *stream, gates=call.gates)
