"""``navnode export`` and ``import``: sessions and other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode import config
from navnode.clock import now_ns
from navnode.commands.options import (
    Json,
    Session,
    WrittenReport,
    done,
    percent,
)
from navnode.loop.calibrations import Calibrations
from navnode.recording import Recording

app = typer.Typer()


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which files were written."""

    out: list[str]


@app.command(
    epilog="Examples:  navnode export session.mcap --out sequence.igs.mha   |   navnode export session.mcap --out "
    "tables/   |   navnode export session.mcap --out foxglove.mcap   |   navnode export session.mcap --out trace.json"
)
def export(
    session: Session,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Its ending tells the form. .igs.mha, .mha, .nrrd: sequence of PLUS and Slicer; .mcap: Foxglove; "
            ".json: Perfetto; none: a folder of CSV, PNG and NIfTI.",
        ),
    ],
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="Whose pictures, if there are several.")] = "",
    start: Annotated[float, typer.Option("--start", min=0, help="Seconds into the session.")] = 0.0,
    duration: Annotated[float | None, typer.Option("--duration", min=0, help="Seconds; else to the end.")] = None,
    absolute: Annotated[
        bool, typer.Option("--absolute-times", help="Times as they were; else from the session's beginning on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A session for other programs; without what tells whose it is, unless it is written into the pictures."""
    from navnode.recording import export as exporting

    source = exporting.piece(
        Recording(session), xray=device, start_s=start, duration_s=duration, absolute=absolute
    )  # fmt: skip
    with percent(f"Exporting {session.name}") as progress:
        paths = exporting.export(source, out, progress)
    done(ExportReport(out=[str(path) for path in paths]), "\n".join(map(str, paths)), as_json)


@app.command(
    "import", epilog="Example:  navnode import scan.igs.mha --out session.mcap --config node.toml --device XRay"
)
def import_command(
    sequence: Annotated[Path, typer.Argument(metavar="FILE", help=".mha, .igs.mha or .nrrd of PLUS or Slicer.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    configuration: Annotated[
        Path | None, typer.Option("--config", metavar="NODE.toml", help="Of the node that shall replay it.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="What its pictures are called.")] = "XRay",
    as_json: Json = False,
) -> None:
    """An image sequence of another program as a session."""
    from navnode.recording import export as exporting

    loaded = None if configuration is None else Calibrations.load(config.load(configuration), now_ns())
    count = exporting.import_sequence(sequence, out, loaded, device)
    done(WrittenReport(out=str(out), messages=count), f"{out}: {count} messages", as_json)
