"""``navnode evaluate``: many sessions replayed and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from navnode.commands.options import (
    Json,
    Threads,
    messages,
    print_json,
    write_text,
)
from navnode.commands.replay import configuration_of
from navnode.errors import ConfigError, DamagedError

if TYPE_CHECKING:  # loaded when something is evaluated
    from navnode.bench.evaluation import Row

app = typer.Typer()


@app.command(
    epilog="Examples:  navnode evaluate archive/   |   navnode evaluate archive/ --against new.toml --out both   |   "
    "navnode evaluate archive/ --baseline old/rows.jsonl   |   navnode evaluate archive/ --scheduler tcp://head:8786"
)
def evaluate(
    archive: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", help="Sessions, or folders of them.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Rows and report; what is there already is not done again.")
    ] = Path("evaluation"),
    configuration: Annotated[
        Path | None, typer.Option("--config", metavar="NODE.toml", help="In place of those they were recorded with.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="NODE.toml", help="Also with this one, and compared.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="ROWS.jsonl", help="Compare with what another version came to."),
    ] = None,
    ct: Annotated[str, typer.Option("--ct", metavar="FILE", help="The CT of all, where it is not where it was.")] = "",
    scheduler: Annotated[
        str, typer.Option("--scheduler", metavar="ADDRESS", help="tcp://HOST:PORT of a Dask scheduler; else here.")
    ] = "",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes here.")] = 1,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Replay many sessions in lockstep and score them; compare two configurations or versions.

    Scored are registration against the truth where a session holds one, validity, volumes against the CT, and speed. A
    session that fails is a row; an evaluation that was interrupted goes on where it was.
    """
    from navnode.bench import evaluation

    if against is not None and baseline is not None:
        raise ConfigError("give --against or --baseline, not both")
    given = {"as recorded" if configuration is None else configuration.stem: _encoded_config(configuration)}
    if against is not None:
        given[against.stem if against.stem not in given else f"{against.stem} (against)"] = _encoded_config(against)
    paths = evaluation.sessions_in(archive)
    tasks = [
        evaluation.Task(str(path.absolute()), label, data, ct, threads)
        for path in paths for label, data in given.items()
    ]  # fmt: skip
    earlier = [] if baseline is None else _baseline(baseline, paths)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task("Replaying", total=len(tasks))

        def done(row: Row, count: int, total: int) -> None:
            bar.update(task, completed=count, description=Path(row.session).name)
            if row.status == "failed":
                messages.print(f"{row.session}: {row.reason}", markup=False, highlight=False)

        rows = evaluation.evaluate(tasks, out, scheduler=scheduler, workers=workers, progress=done)
    labels = [*(["baseline"] if earlier else []), *given]
    write_text(out / evaluation.REPORT, evaluation.page([*earlier, *rows], labels))
    sums = evaluation.totals([*earlier, *rows])
    page = out / evaluation.REPORT
    if as_json:
        print_json(evaluation.EvaluationReport(totals=sums, rows=rows, report=str(page)))
    else:
        table = Table("", *labels)
        for key in evaluation.FigureSums.__struct_fields__:
            values = (getattr(sums[label], key) for label in labels)
            table.add_row(key, *("-" if value is None else f"{value:g}" for value in values))
        Console().print(table)
        messages.print(f"{page}", markup=False, highlight=False)
    if damage := list(dict.fromkeys(filter(None, map(evaluation.damage_of, rows)))):
        more = f" (and {len(damage) - 1} more, see {page})" if len(damage) > 1 else ""
        raise DamagedError(f"{damage[0]}{more}")


def _encoded_config(path: Path | None) -> bytes:
    given = configuration_of(path)
    return b"" if given is None else msgspec.json.encode(given)


def _baseline(path: Path, sessions: list[Path]) -> list[Row]:
    """Rows of another evaluation, of the same sessions; by their names, as archives move."""
    from navnode.bench import evaluation

    if not path.exists():
        raise ConfigError(f"--baseline {path}: there is no such file")
    names = {session.name: str(session.absolute()) for session in sessions}
    found = {
        row.session: msgspec.structs.replace(row, label="baseline", session=names[Path(row.session).name])
        for row in evaluation.read_rows(path)
        if Path(row.session).name in names
    }
    if not found:
        raise ConfigError(f"--baseline {path}: holds none of these sessions")
    return list(found.values())
