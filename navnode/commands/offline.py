"""``navnode project``, ``register``, ``read`` and ``reconstruct``: files in, files out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from navnode.commands.command import command
from navnode.commands.ui import Ui, say, standard_output
from navnode.offline.requests import (
    BodiesRequest,
    ModelRequest,
    PlanRequest,
    PrintRequest,
    ProjectRequest,
    ReadRequest,
    ReconstructRequest,
    RegisterRequest,
    SampleRequest,
)

if TYPE_CHECKING:  # modules that read files are loaded only when a command runs
    from navnode.offline.bodies import BodiesReport, ListReport
    from navnode.offline.model_report import ModelReport
    from navnode.offline.plans import PlansReport
    from navnode.offline.registering import CalibrationReport, RegistrationReport

app = typer.Typer()


@command(
    app,
    SampleRequest,
    example=(
        "navnode sample tryout   (then, in tryout, the examples of project, register ...)",
        "navnode sample mine --ct chest.nii.gz",
    ),
)
def sample(request: SampleRequest, ui: Ui) -> None:
    """Write a CT, X-rays of it and views.json, to try other commands on.

    The CT is drawn, or your own (--ct). stations.json has the same X-rays without poses: of each it says only whether
    it is AP, lateral or oblique.

    Their names are those in the examples of project, register, reconstruct, read, and of model with --views: these run
    in this folder. Examples with a jig, stated angles, label maps or DICOM need files of your own.
    """
    from navnode.offline import sample as made

    report = made.sample(request, ui.progress("X-raying"))
    ui.answer(report, f"{report.ct}, {report.views} and {len(report.images)} X-rays; next: cd {request.out}")


@command(app, ProjectRequest, example="navnode project --volume ct.nii.gz --views views.json --out xrays --i0 60000")
def project(request: ProjectRequest, ui: Ui) -> None:
    """Render the views' X-ray images of a CT."""
    from navnode.offline import projecting

    report = projecting.project(request, ui.progress("Rendering"))
    ui.answer(report, f"{len(report.images)} images in {request.out}")


@command(
    app,
    RegisterRequest,
    example=(
        "navnode register --volume ct.nii.gz --views views.json --search --json",
        "navnode register --volume ct.nii.gz --views stations.json --overlays overlays",
        "navnode register --volume ct.nii.gz --bodies labels.nii.gz --views views.json",
        "navnode register --bodies radius.nii.gz --bodies ulna.nii.gz --views views.json",
        "navnode register --volume ct.nii.gz --views views.json --calibrate --out carm.json",
    ),
)
def register(request: RegisterRequest, ui: Ui) -> None:
    """2D/3D registration: where did the C-arm stand?

    Each view starts at its volume_from_carm, or else at its "station" ("AP", "lateral", ...) or its landmarks.
    With --bodies the views' poses are those of calibrated cameras, and every bone is found by itself: bodies of a
    label map within 15 mm and 15 degrees of where the CT has them, others, and all with --search, anywhere.
    With --calibrate the C-arm may be known only roughly; --carm uses the geometry that was found.
    """
    if request.bodies:
        from navnode.offline import bodies

        ui.show(bodies.register_bodies(request, ui.progress("Registering")), _draw_bodies)
        return
    from navnode.offline import registering

    if request.calibrate:
        report = registering.calibrate(request, ui.progress("Calibrating"))
        ui.show(report, _draw_calibration)
        if request.out is not None and not report.out:
            typer.echo(f"navnode: {request.out}: not written, {report.status} ({report.reason})", err=True)
            raise typer.Exit(1)
        return
    ui.show(registering.register(request, ui.progress("Registering")), _draw_registration)


@command(
    app,
    BodiesRequest,
    name="bodies",
    example=(
        "navnode bodies labels.nii.gz --volume ct.nii.gz --out bodies.toml",
        "navnode bodies radius.nii.gz",
    ),
)
def list_bodies(request: BodiesRequest, ui: Ui) -> None:
    """Show the bones of a label map or a list.

    Each of them register --bodies can find by itself.
    """
    from navnode.offline import bodies

    ui.show(bodies.list_bodies(request), _draw_list)


@command(
    app, PlanRequest, example="navnode plan L4-left.mrk.json L4-right.mrk.json --volume ct.nii.gz --out plans.json"
)
def plan(request: PlanRequest, ui: Ui) -> None:
    """Check plans of entry and target in a CT, and write them for a node.

    The first one is the one that is aimed at.
    """
    from navnode.offline import plans

    ui.show(plans.plan(request), _draw_plans)


@command(app, ReadRequest, example="navnode read xray.png --pixel-mm 0.4 --out read.png")
def read(request: ReadRequest, ui: Ui) -> None:
    """Show what the node takes for bone and lung in one X-ray.

    The picture has the X-ray on the left, and on the right millimetres of solid bone in colours, with outlines.
    """
    from navnode.offline import reading

    found = reading.read(request)
    bone = f"bone on {found.bone_share:.0%} of the image, {found.bone_mm:.0f} mm thick (± {found.error_mm:.0f} mm)"
    if found.kinds:
        bone += " (" + ", ".join(f"{kind} {share:.0%}" for kind, share in found.kinds.items()) + ")"
    ui.answer(found, f"{bone}; lung on {found.lung_share:.0%}; {found.engine}, {found.elapsed_ms:.0f} ms")


@command(app, ReconstructRequest, example="navnode reconstruct --views views.json --out volume.nii.gz --mesh bone.stl")
def reconstruct(request: ReconstructRequest, ui: Ui) -> None:
    """Make a volume from views with poses."""
    from navnode.offline import reconstructing

    report = reconstructing.reconstruct(request, ui.progress("Reconstructing"))
    how = f"{report.method} ({report.engine}), {report.elapsed_ms:.0f} ms; {report.status}: {report.reason}"
    ui.answer(report, f"{request.out}: {how}")


@command(
    app,
    ModelRequest,
    name="model",
    example=(
        "navnode model --views views.json --out knee",
        "navnode model ap.dcm lateral.dcm --jig measured.json --out knee",
        "navnode model ap.dcm lateral.dcm --jig measured.json --landmarks moved.mrk.json --out knee-2",
        "navnode model ap.dcm lateral.dcm --angles '0 90' --out knee",
        "navnode model ap.png lateral.png --angles '0 90' --carm carm.json --patient-mm 800 --out knee",
    ),
)
def make_model(request: ModelRequest, ui: Ui) -> None:
    """Make a surface of every bone that two to sixteen X-rays show.

    Writes STL and PLY of every bone, the volume, report.json, and report.html, which says how far to trust them. The
    pictures' poses are those of a set of views, or stated angles: these leave scale and angle open, and the report says
    by how much. Where the pictures contradict each other, no model is written, and the exit status is 1. Research use
    only.
    """
    from navnode.offline import model

    made = model.model(request, ui.progress("Modelling"))
    ui.show(made, _draw_model)
    if made.status == "INVALID":
        raise typer.Exit(1)


@command(
    app,
    PrintRequest,
    name="print",
    example=(
        "navnode print knee/femur.stl --out print.stl --wall-mm 3 --label 'femur L'",
        "navnode print knee/femur.stl --out half.stl --cut '0 0 120 0 0 -1' --scale 0.5",
    ),
)
def print_bone(request: PrintRequest, ui: Ui) -> None:
    """Make a bone ready to print: hollow, cut, scaled, with an engraved label.

    What is written is watertight, points outwards and does not cross itself; else nothing is, and the reason is said. A
    hollow without a cut is closed: give it a hole where powder or resin must run out. Research use only.
    """
    from navnode.offline import printing

    report = printing.print_bone(request)
    size = " x ".join(f"{extent:.0f}" for extent in report.size_mm)
    ui.answer(report, f"{report.out}: {size} mm, {report.volume_cm3:.1f} cm3 of material, {report.triangles} triangles")


_AS_STATED = "sigma: for the geometry as stated; where the focal length is 1 % off, depth is 1 % of the distance off"


def _draw_registration(report: RegistrationReport) -> None:
    table = Table("view", "status", "similarity", "sigma (mm)", "ms", "reason")
    for index, view in enumerate(report.views):
        sigma = "  ".join(f"{value:.2f}" for value in view.sigma.translation_mm)
        figures = (f"{view.similarity:.3f}", sigma, f"{view.elapsed_ms:.0f}")
        table.add_row(str(index), view.status, *figures, view.reason)
    standard_output().print(table)
    standard_output().print(_AS_STATED, highlight=False)
    if isinstance(report.overlays, list):
        say(f"{len(report.overlays)} pictures in {Path(report.overlays[0]).parent}")


def _draw_calibration(report: CalibrationReport) -> None:
    _draw_registration(report)
    if report.status == "INVALID":
        standard_output().print(f"INVALID: {report.reason}", highlight=False)
        return
    (u, v), (sigma_u, sigma_v) = report.carm["principal_point_px"], report.sigma_pp_px
    lines = [
        f"{report.status}{': ' if report.reason else ''}{report.reason}",
        f"focal length {report.focal_px[0]:.1f} px: with the stated pixel spacing, the detector is "
        f"{report.carm['source_to_detector_mm']:.1f} mm (± {report.sigma_sdd_mm:.1f}) from the source",
        f"principal point {u:.1f}, {v:.1f} px (± {sigma_u:.1f}, {sigma_v:.1f}); pictures read {report.reading}",
    ]
    if report.sigma_located_mm is not None:
        lines.append(f"points that the pictures locate: ± {report.sigma_located_mm:.2f} mm")
    if report.out:
        lines.append(f"written: {report.out}")
    for line in lines:
        standard_output().print(line, highlight=False)


def _draw_bodies(report: BodiesReport) -> None:
    table = Table("body", "status", "similarity", "sigma (mm)", "views apart (mm)", "reason")
    for body in report.bodies:
        sigma = "  ".join(f"{value:.2f}" for value in body.sigma_translation_mm)
        similarity = "  ".join("-" if value is None else f"{value:.2f}" for value in body.similarity)
        apart = "-" if body.views_apart_mm is None else f"{body.views_apart_mm:.2f}"
        table.add_row(body.name, body.status, similarity, sigma, apart, body.reason)
    standard_output().print(table)
    standard_output().print(f"compared by {report.likeness}", highlight=False)


def _draw_plans(report: PlansReport) -> None:
    table = Table("plan", "length (mm)", "entry (mm, RAS)", "target (mm, RAS)", "view along it")
    for plan in report.plans:
        entry, target = ("  ".join(f"{value:.1f}" for value in each) for each in (plan.entry_mm, plan.target_mm))
        table.add_row(plan.name, f"{plan.length_mm:.1f}", entry, target, plan.view)
    standard_output().print(table)
    if report.out:
        standard_output().print(f"written: {report.out}", highlight=False)


def _draw_list(report: ListReport) -> None:
    table = Table("body", "voxels", "size (mm)", "center (mm, RAS)", "reason")
    for body in report.bodies:
        size, center = ("  ".join(f"{value:.0f}" for value in each) for each in (body.size_mm, body.center_mm))
        table.add_row(body.name, str(body.voxels), size, center, body.reason)
    standard_output().print(table)
    if report.out:
        standard_output().print(f"written: {report.out}", highlight=False)


def _draw_model(report: ModelReport) -> None:
    from navnode.offline.model_page import angle_text

    standard_output().print(f"{report.status}: {report.reason}", highlight=False)
    if report.bones:
        table = Table("bone", "length (mm)", "volume (cm3)", "expected error (mm)", "outside the pictures")
        for bone in report.bones:
            length = f"{bone.length_mm:.0f}" if bone.whole else f"at least {bone.length_mm:.0f}"
            low, high = bone.error_95_mm or (float("nan"), float("nan"))
            error = "unknown" if bone.error_mm is None else f"{bone.error_mm:.1f} ({low:.1f} to {high:.1f})"
            name = f"{bone.name} (doubtful)" if bone.doubt else bone.name
            table.add_row(name, length, f"{bone.volume_cm3:.0f}", error, "" if bone.whole else "goes on")
        standard_output().print(table)
    if report.angles:
        table = Table("bone", "angle", "degrees (95 %)")
        for angle in report.angles:
            table.add_row(angle.bone, angle.name, angle_text(angle))
        standard_output().print(table)
    standard_output().print(
        f"{report.out}/{report.page}, {report.elapsed_ms / 1e3:.1f} s; {report.use}", highlight=False
    )
