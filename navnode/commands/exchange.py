"""``navnode export`` and ``import``: exchange sessions with other programs."""

from __future__ import annotations

import msgspec
import typer

from navnode.commands.command import command
from navnode.commands.edit import WrittenReport
from navnode.commands.ui import Ui
from navnode.recording import Recording
from navnode.recording.node_config import load_calibrations
from navnode.recording.requests import ExportRequest, ImportRequest

app = typer.Typer()

_EXAMPLES = (
    "navnode export session.mcap --out sequence.igs.mha",
    "navnode export session.mcap --out xray.seq.nrrd",
    "navnode export session.mcap --out scene/room.mrml",
    "navnode export session.mcap --out tables/",
    "navnode export session.mcap --out foxglove.mcap",
    "navnode export session.mcap --out trace.json",
)


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """Files that were written."""

    out: list[str]


@command(app, ExportRequest, example=_EXAMPLES)
def export(request: ExportRequest, ui: Ui) -> None:
    """Export a session for other programs, without identifying data except text burned into images."""
    from navnode.recording import export as exporting

    source = exporting.piece(
        Recording(request.session),
        xray=request.device,
        start_s=request.start_s,
        duration_s=request.duration_s,
        absolute=request.absolute,
    )
    paths = exporting.export(source, request.out, ui.progress(f"Exporting {request.session.name}"))
    ui.done(ExportReport(out=[str(path) for path in paths]), "\n".join(map(str, paths)))


@command(
    app,
    ImportRequest,
    name="import",
    example="navnode import scan.igs.mha --out session.mcap --config node.toml --device XRay",
)
def import_session(request: ImportRequest, ui: Ui) -> None:
    """Import another program's image sequence as a session."""
    from navnode.recording import export as exporting

    count = exporting.import_sequence(request.sequence, request.out, load_calibrations(request.config), request.device)
    ui.done(WrittenReport(out=str(request.out), messages=count), f"{request.out}: {count} messages")
