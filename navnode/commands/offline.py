"""``navnode project``, ``register`` and ``reconstruct``: files in, files out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from navnode.commands.options import (
    Json,
    Threads,
    percent,
    print_report,
)
from navnode.errors import ConfigError
from navnode.reconstruction import Method
from navnode.types import GRID_SIZE, GRID_SIZES, GRID_SPACING_MM, GRID_SPACINGS_MM, Effort

app = typer.Typer()


VolumeOption = Annotated[
    Path, typer.Option("--volume", metavar="CT", help="A CT that SimpleITK reads, or a DICOM folder.")
]


ViewsOption = Annotated[Path, typer.Option("--views", metavar="V.json", help="A set of views, navnode/views/1.")]


@app.command("project", epilog="Example:  navnode project --volume ct.nii.gz --views views.json --out xrays --i0 60000")
def project_command(
    volume: VolumeOption,
    views: ViewsOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the images.")],
    i0: Annotated[
        float | None, typer.Option("--i0", min=1, max=65535, help="Write counts of this open beam, not line integrals.")
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Render the views' X-ray images of a CT."""
    from navnode.offline import files as offline

    with percent("Rendering") as progress:
        report = offline.project(volume, views, out, i0, threads, progress)
    print_report(report, as_json, f"{len(report.images)} images in {out}")


@app.command("register", epilog="Example:  navnode register --volume ct.nii.gz --views views.json --search --json")
def register_command(
    volume: VolumeOption,
    views: ViewsOption,
    joint: Annotated[bool, typer.Option("--joint", help="The views share one rigid motion of the patient.")] = False,
    search: Annotated[bool, typer.Option("--search", help="The starts may be far off.")] = False,
    track: Annotated[
        bool, typer.Option("--track", help="A sequence: each view starts from the result before it.")
    ] = False,
    landmarks: Annotated[
        Path | None,
        typer.Option("--landmarks", metavar="L.json", help="Points named in volume and views, as starts."),
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """2D/3D registration: where did the C-arm stand?

    Each view's volume_from_carm is the start; without one, its "station" ("AP", "lateral", ...) or its landmarks are.
    """
    from navnode.offline import files as offline

    if joint and track:
        raise ConfigError("--joint and --track exclude each other")
    effort = Effort.SEARCH if search else Effort.FIND
    with percent("Registering") as progress:
        report = offline.register(
            volume, views, effort=effort, joint=joint, track=track, landmarks=landmarks, threads=threads,
            progress=progress,
        )  # fmt: skip
    if not as_json:
        table = Table("view", "status", "similarity", "sigma (mm)", "ms", "reason")
        for index, view in enumerate(report.views):
            sigma = "  ".join(f"{value:.2f}" for value in view.sigma.translation_mm)
            figures = (f"{view.similarity:.3f}", sigma, f"{view.elapsed_ms:.0f}")
            table.add_row(str(index), view.status, *figures, view.reason)
        Console().print(table)
    print_report(report, as_json, "")


@app.command(
    "reconstruct", epilog="Example:  navnode reconstruct --views views.json --out volume.nii.gz --mesh bone.stl"
)
def reconstruct_command(
    views: ViewsOption,
    out: Annotated[Path, typer.Option("--out", metavar="VOL.nii.gz", help="NIfTI, NRRD or MHA, HU.")],
    size: Annotated[
        int, typer.Option("--size", min=GRID_SIZES[0], max=GRID_SIZES[1], help="Voxels along each axis.")
    ] = GRID_SIZE,
    spacing_mm: Annotated[
        float, typer.Option("--spacing-mm", min=GRID_SPACINGS_MM[0], max=GRID_SPACINGS_MM[1], help="Voxel size.")
    ] = GRID_SPACING_MM,
    center_mm: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--center-mm", help="Middle of the volume, RAS; default: where the principal rays meet."),
    ] = None,
    mesh: Annotated[
        Path | None, typer.Option("--mesh", metavar="BONE.stl", help="Also the bone surface: STL, PLY or OBJ.")
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option("--uncertainty", metavar="U.nii.gz", help="Also half of every voxel's 95 % interval, HU."),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option("--prior", metavar="CT", help="A CT in the views' frame; what they contradict is changed."),
    ] = None,
    prior_map: Annotated[
        Path | None,
        typer.Option("--prior-map", metavar="M.nii.gz", help="Also 1 where a voxel rests on the prior alone, else 0."),
    ] = None,
    dicom: Annotated[
        Path | None,
        typer.Option("--dicom", metavar="DIR", help="Also a DICOM series, marked derived and not for diagnosis."),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method", help="auto: prior if there is one; learned if its model is the better one; else sart."
        ),
    ] = Method.AUTO,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Networks of your own, from `navnode train`.")
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """A volume from views with poses."""
    from navnode.offline import files as offline

    with percent("Reconstructing") as progress:
        report = offline.reconstruct_views(
            views, out, size=size, spacing_mm=spacing_mm, center_mm=center_mm, method=method, model=model,
            mesh=mesh, uncertainty=uncertainty, prior=prior, prior_map=prior_map, dicom=dicom,
            threads=threads, progress=progress,
        )  # fmt: skip
    how = f"{report.method} ({report.engine}), {report.elapsed_ms:.0f} ms; {report.status}: {report.reason}"
    print_report(report, as_json, f"{out}: {how}")
