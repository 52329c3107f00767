"""``navnode archive``: puts sessions where they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from navnode.commands.command import command
from navnode.commands.ui import Ui, say, standard_output
from navnode.recording.requests import ArchiveRequest

if TYPE_CHECKING:  # loaded only when the command runs
    from navnode.recording.archive import ArchiveReport

app = typer.Typer()

_EXAMPLES = (
    "navnode archive sessions/ --to s3://bucket/site1 --policy policy.toml --dry-run",
    "navnode archive room.mcap --to s3://bucket/site1",
    "navnode archive sessions/ --to /mnt/archive --older-than-days 30 --max-total-gb 500",
)


@command(app, ArchiveRequest, example=_EXAMPLES)
def archive(request: ArchiveRequest, ui: Ui) -> None:
    """Put sessions into an archive on S3 or elsewhere: by policy, checked, without what may identify people.

    Damaged sessions stay out. Each gets the SHA-256 of its content for a name and a manifest beside it; what is there
    already is not sent again. Times stay, and so does text within images. The store's own configuration has its
    address and credentials (AWS_ENDPOINT_URL, ~/.aws). Exit code 1: a session is damaged, or did not arrive.
    """
    from navnode.recording import archive as archiving

    report = archiving.archive(request, ui.counted("Archiving"))
    ui.show(report, _draw)
    if {"damaged", "failed"} & set(report.counts):
        raise typer.Exit(1)  # why is said in the rows


def _draw(report: ArchiveReport) -> None:
    table = Table("session", "X-rays", "s", "MB", "", "why, or its name there")
    for row in report.rows:
        figures = ("" if value is None else f"{value:g}" for value in (row.xrays, row.seconds))
        size = f"{row.size_bytes / 1e6:.1f}" if row.size_bytes else ""
        table.add_row(Path(row.session).name, *figures, size, row.outcome.value, row.reason or row.sha256)
    standard_output().print(table)
    counted = ", ".join(f"{number} {outcome}" for outcome, number in report.counts.items())
    sent = f"{report.sent_bytes / 1e6:.1f} MB sent, {report.archive_bytes / 1e9:.3g} GB there"
    say(f"{report.to}: {counted}; {sent}")
