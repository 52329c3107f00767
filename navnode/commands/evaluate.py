"""``navnode evaluate``: replays and scores many sessions."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from navnode.bench.requests import EvaluateRequest
from navnode.commands.command import command
from navnode.commands.ui import Ui, say, standard_output

if TYPE_CHECKING:  # loaded only when the command runs
    from navnode.bench.evaluation import EvaluationReport, Row

app = typer.Typer()

_EXAMPLES = (
    "navnode evaluate archive/",
    "navnode evaluate archive/ --against new.toml --out both",
    "navnode evaluate archive/ --baseline old/rows.jsonl",
    "navnode evaluate s3://bucket/site1 --workers 4",
    "navnode evaluate archive/ --scheduler tcp://head:8786",
)


@command(app, EvaluateRequest, example=_EXAMPLES)
def evaluate(request: EvaluateRequest, ui: Ui) -> None:
    """Replay many sessions in lockstep and score them; compare two configurations or versions.

    Scores registration against the truth if a session contains it, validity, volumes against the CT, and speed. A
    session that fails gets a row as well, and the command ends with 1; an interrupted evaluation
    resumes where it stopped. Sessions of a store are fetched one by one into temporary files; its own configuration
    has its address and credentials (AWS_ENDPOINT_URL, ~/.aws).
    """
    from navnode.bench import evaluation

    counted = ui.counted("Replaying")

    def progress(row: Row, done: int, total: int) -> None:
        counted(done, total, PurePosixPath(row.session).name)
        if row.status == "failed":
            say(f"{row.session}: {row.reason}")

    report = evaluation.evaluate(request, progress)
    ui.show(report, _draw)
    evaluation.raise_if_damaged(report)
    if any(row.status != "done" for row in report.rows):
        raise typer.Exit(1)  # why is said above, and in the report


def _draw(report: EvaluationReport) -> None:
    sums = report.totals
    table = Table("", *sums)
    for key in next(iter(sums.values())).__struct_fields__:
        values = (getattr(each, key) for each in sums.values())
        table.add_row(key, *("-" if value is None else f"{value:g}" for value in values))
    standard_output().print(table)
    say(report.report)
