"""``navnode replay``: a session again, at its pace or as fast as it goes and compared."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import UNSET
from rich.console import Console
from rich.table import Table

from navnode import __version__, config
from navnode.clock import now_ns
from navnode.commands.keyboard import keyboard
from navnode.commands.options import (
    Json,
    Session,
    Threads,
    address,
    messages,
    percent,
    print_json,
)
from navnode.commands.supervised import free_port, run_supervised, tell
from navnode.config import Config, PlayerSection, SourceSection
from navnode.errors import ConfigError, DamagedError, RecordingError
from navnode.loop.calibrations import Calibrations
from navnode.recording import Recording
from navnode.recording import compare as comparing
from navnode.recording import edit as editing
from navnode.recording import regression as replaying
from navnode.recording.container import Channel
from navnode.recording.format import FORMAT, JSON
from navnode.recording.regression import Mode, ReplayReport
from navnode.recording.writer import ContainerWriter

app = typer.Typer()


_AFTER_S = 3.0
"""A replay that ends by itself goes on so long, so that what goes stale is in its figures."""


@app.command(
    epilog="Examples:  navnode replay session.mcap   |   navnode replay session.mcap --lockstep --json   |   "
    "navnode replay session.mcap --as-consumed --reference session.mcap   |   "
    "navnode replay session.mcap --serve 18945 --rate 0.5 --loop"
)
def replay(
    session: Session,
    lockstep: Annotated[
        bool, typer.Option("--lockstep", help="As fast as it goes; the same outputs every time.")
    ] = False,
    as_consumed: Annotated[
        bool, typer.Option("--as-consumed", help="Exactly the steps that the node took, in their order.")
    ] = False,
    rate: Annotated[float | None, typer.Option("--rate", help="Times as fast as it was; without it 1.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    start: Annotated[float, typer.Option("--start", min=0, help="Seconds into the session.")] = 0.0,
    duration: Annotated[float | None, typer.Option("--duration", min=0, help="Only so many seconds.")] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", metavar="PATTERN", help="Such as 'in/TRANSFORM/*'; repeat.")
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Wait for the first key.")] = False,
    original_stamps: Annotated[
        bool, typer.Option("--original-stamps", help="Time stamps as they were, not as if it happened now.")
    ] = False,
    serve: Annotated[
        str | None,
        typer.Option("--serve", metavar="[HOST:]PORT", help="Only serve it over OpenIGTLink, without a node."),
    ] = None,
    configuration: Annotated[
        Path | None, typer.Option("--config", metavar="NODE.toml", help="Another than it was recorded with.")
    ] = None,
    ct: Annotated[
        str | None, typer.Option("--ct", metavar="FILE", help="Where the CT is, if it is not where it was.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="OLD.mcap", help="Compare with what came out there.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare with the reference that is kept beside it.")] = False,
    update_reference: Annotated[
        str | None, typer.Option(metavar="REASON", help="Keep what comes out now as the reference, and why.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="NEW.mcap", help="Write what comes out; for --reference later.")
    ] = None,
    tolerance: Annotated[
        list[str] | None, typer.Option("--tolerance", metavar="FIELD=VALUE", help="Of a comparison; repeat.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="FIELD", help="Not compared; repeat.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="No tolerance at all: bit by bit.")] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="End a paced replay by itself.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Paced: without the page.")] = False,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Paced: for consoles.")] = None,
    page_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Paced: of the page.")] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Run a session again: at its pace with page and consoles, or as fast as it goes and compared.

    At its pace the keyboard is listened to: space pauses, . goes to the next X-ray, arrows go 5 s back or on, b runs
    5 s as fast as it goes, q ends it.
    """
    recording = Recording(session)
    mode = _mode(recording, lockstep, as_consumed, reference, check, update_reference, out, rate)
    if mode is Mode.PACED:
        settings = config.convert(
            {
                "file": str(session.absolute()), "rate": 1.0 if rate is None else rate, "loop": loop, "start_s": start,
                "duration_s": duration, "topics": topics or [], "original_stamps": original_stamps, "paused": paused,
            }, PlayerSection, "arguments",
        )  # fmt: skip
        if serve is not None:
            _serve(settings, serve, seconds)
            return
        with replaying.unpacked() as folder:
            loaded = replaying.configuration(recording, configuration_of(configuration), folder)
            _paced(recording, loaded, settings, ct, seconds, headless, (port, page_port), as_json)
        return
    if loop or serve is not None or start or duration is not None or topics or paused:
        raise ConfigError(f"--{mode.value} takes the whole session: --start, --duration, --topic, --loop, --serve and "
                          "--paused are for a replay at its pace (see navnode cut)")  # fmt: skip
    report = _run_again(
        recording, mode, configuration, ct, threads, _reference(session, reference, check),
        _tolerances(tolerance, exact), frozenset({*(ignore or ()), *(() if exact else comparing.IGNORED)}), out,
        update_reference,
    )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report.damage:
        raise DamagedError(report.damage)
    if report.comparison is not UNSET and report.comparison.first is not None:
        first = report.comparison.first
        where = f"first at step {first.cause}, {first.topic}: {first.what}"
        raise RecordingError(f"{session}: differs from the reference; {where}")


def _mode(
    recording: Recording, lockstep: bool, as_consumed: bool, reference: Path | None, check: bool,
    update_reference: str | None, out: Path | None, rate: float | None,
) -> Mode:  # fmt: skip
    if rate is not None and not 0 < rate <= 100:
        raise ConfigError(f"--rate {rate:g}: over 0 and at most 100")
    if sum((lockstep, as_consumed, rate is not None)) > 1:
        raise ConfigError("give one of --lockstep, --as-consumed and --rate")
    if check and reference is not None:
        raise ConfigError("give --check or --reference, not both")
    if update_reference is not None and not update_reference.strip():
        raise ConfigError("--update-reference needs a reason")
    if lockstep or as_consumed:
        return Mode.LOCKSTEP if lockstep else Mode.AS_CONSUMED
    if reference is not None:
        return _mode_of(Recording(reference))
    if check:
        return _mode_of(Recording(_kept_reference(recording.path)))
    return Mode.LOCKSTEP if update_reference is not None or out is not None else Mode.PACED


def _mode_of(recording: Recording) -> Mode:
    """In which mode a reference came about: live is what as-consumed repeats."""
    told = recording.metadata.get("replay", Mode.AS_CONSUMED.value)
    if told not in list(Mode):
        raise RecordingError(f"{recording.path}: came about by {told!r}, which this version does not know")
    return Mode(told)


def _reference_path(session: Path) -> Path:
    return session.with_name(f"{session.stem}.reference{session.suffix}")


def _kept_reference(session: Path) -> Path:
    path = _reference_path(session)
    if not path.exists():
        raise ConfigError(f"{path}: there is no reference; --update-reference REASON makes one")
    return path


def _reference(session: Path, given: Path | None, check: bool) -> Recording | None:
    path = _kept_reference(session) if check else given
    return None if path is None else Recording(path)


def _tolerances(given: list[str] | None, exact: bool) -> dict[str, float]:
    found = {} if exact else dict(comparing.TOLERANCES)
    for each in given or ():
        name, equals, text = each.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            equals = ""
        if not equals or not name or not 0 <= found[name] < float("inf"):
            raise ConfigError(f"--tolerance {each}: FIELD=VALUE, and not negative")
    return found


def configuration_of(path: Path | None) -> Config | None:
    return None if path is None else Calibrations.load(config.load(path), now_ns()).config


def _run_again(
    recording: Recording, mode: Mode, configuration: Path | None, ct: str | None, threads: int,
    reference: Recording | None, tolerances: dict[str, float], ignored: frozenset[str], out: Path | None,
    update: str | None,
) -> ReplayReport:  # fmt: skip
    """A replay that is not paced."""
    comparison = None
    with ExitStack() as stack:
        folder = stack.enter_context(replaying.unpacked())
        loaded = replaying.configuration(recording, configuration_of(configuration), folder)
        run = replaying.Rerun(recording, prepared(loaded, ct), mode, threads=threads)
        writing = _targets(recording, mode, out, update, stack)

        def outputs() -> Iterator[comparing.RecordedOutput]:
            with percent(f"Replaying {recording.path.name}") as progress:
                for number, (step, written) in enumerate(run.steps()):
                    for each in written:
                        for writer in writing:
                            channel = Channel(each.topic, JSON)
                            writer.add(channel, (each.data,), each.time_ns, each.time_ns, each.cause)
                    yield from written
                    if number % 256 == 0:
                        progress((step.time_ns - recording.start_ns) / max(recording.end_ns - recording.start_ns, 1))

        if reference is None:
            deque(outputs(), maxlen=0)
        else:
            between = _mode_of(reference) is not mode
            if between:
                ignored |= comparing.NOT_BETWEEN_MODES
            was = comparing.outputs_of(reference)
            comparison = comparing.compare(
                was, outputs(), by_cause=not between, tolerances=tolerances, ignored=ignored, format=reference.format
            )
        report = run.report()
    report = msgspec.structs.replace(report, out=None if out is None else str(out))
    if comparison is None or report.damage:  # what comes after the damage is missing, and that says nothing
        return report
    if comparison.first is not None:
        report = msgspec.structs.replace(report, picture=_picture(recording, loaded, comparison.first))
    return msgspec.structs.replace(report, comparison=comparison.report())


def prepared(loaded: Config, ct: str | None) -> replaying.ReplaySetup:
    """With the CT of a configuration, or the one that is given in its place.

    Raises:
        ConfigError: it is not there.
    """
    from navnode.simulation.sample_ct import load_ct

    wanted = replaying.ct_of(loaded, ct)
    return replaying.ReplaySetup(loaded, load_ct(wanted, messages) if wanted else None)


def _targets(
    recording: Recording, mode: Mode, out: Path | None, update: str | None, stack: ExitStack
) -> list[ContainerWriter]:
    """Sessions that shall hold what comes out."""
    wanted = [] if out is None else [(out, False)]
    wanted += [] if update is None else [(_reference_path(recording.path), True)]
    found = []
    for path, replace in wanted:
        writer = stack.enter_context(editing.written(path, replace=replace))
        about = {"replay": mode.value, "of": recording.metadata.get("session", ""), "version": __version__}
        writer.describe("navnode", {"format": str(FORMAT), "part": "0", "reason": update or "", **about})
        found.append(writer)
    return found


def _picture(recording: Recording, loaded: Config, first: comparing.Difference) -> str | None:
    """The X-ray at the first difference, as a file in the working directory."""
    image = comparing.picture(recording, loaded.devices.xray, first.time_ns)
    if image is None:
        return None
    path = Path(f"{recording.path.stem}.difference.png")
    comparing.write_picture(path, image, f"step {first.cause} {first.topic}: {first.what}")
    return str(path)


def _show(report: ReplayReport) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in msgspec.to_builtins(report).items():
        if key == "comparison" or value in (None, [], ""):
            continue
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(f"[bold]{key}[/]", shown)
    Console().print(table)
    found = report.comparison
    if found is UNSET:
        return
    rows = Table("topic", "compared", "different", "missing", "extra")
    for topic in sorted({*found.compared, *found.missing, *found.extra}):
        counts = (found.compared, found.different, found.missing, found.extra)
        rows.add_row(topic, *(str(count.get(topic, 0)) for count in counts))
    Console().print(rows)
    Console().print("The same." if found.same else "Not the same.")


def _serve(settings: PlayerSection, where: str, seconds: float | None) -> None:
    from navnode.recording.player import play

    host, port = address(where if ":" in where else f"127.0.0.1:{where}", "--serve")
    settings = config.convert(
        {**msgspec.structs.asdict(settings), "host": host, "port": port}, PlayerSection, "arguments"
    )

    def ready(port: int) -> None:
        messages.print(f"REPLAY of {settings.file} on {host}:{port}; Ctrl-C ends it.", markup=False, highlight=False)

    async def serve() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(play(settings, ready), seconds)

    with keyboard((host, port)):
        asyncio.run(serve())


def _paced(
    recording: Recording, loaded: Config, settings: PlayerSection, ct: str | None, seconds: float | None,
    headless: bool, ports: tuple[int | None, int | None], as_json: bool,
) -> None:  # fmt: skip
    """A node, and the session as its source."""
    change = msgspec.structs.replace
    volume = replaying.ct_of(loaded, ct)
    settings = change(settings, port=free_port(settings.host))
    loaded = change(
        loaded,
        sources=(SourceSection(host=settings.host, port=settings.port),),
        volume=change(loaded.volume, ct=volume),
        console=change(loaded.console, port=ports[0] or loaded.console.port),
        display=change(loaded.display, enabled=not headless, port=ports[1] or loaded.display.port),
        recording=change(loaded.recording, file=""),
        calibration=change(loaded.calibration, as_of_ns=loaded.calibration.as_of_ns or max(recording.start_ns, 0)),
        reconstruction=change(loaded.reconstruction, remote=None),
    )
    if as_json and seconds is None and not settings.loop:  # a program waits for the figures
        length_s = min(recording.seconds - settings.start_s, settings.duration_s or float("inf"))
        seconds = length_s / settings.rate + _AFTER_S
    keys = keyboard((settings.host, settings.port))
    tell(run_supervised(loaded, settings, seconds, as_json, keys=keys), as_json, seconds)
