"""Commands for recorded sessions: record, replay, compare, look into, repair, cut, convert, score."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from navnode import __version__, calibrated, config
from navnode.clock import now_ns
from navnode.config import Config, PlayerSection, SourceSection
from navnode.errors import ConfigError, RecordingError, WireError
from navnode.igtl import BlockingClient
from navnode.live import free_port, run_supervised, tell
from navnode.options import Json, Threads, messages, percent, print_json
from navnode.recording import compare as comparing
from navnode.recording import edit as editing
from navnode.recording import replay as replaying
from navnode.recording.container import Channel, Writer
from navnode.recording.reader import Recording
from navnode.recording.replay import Mode
from navnode.recording.session import FORMAT, JSON
from navnode.recording.writer import MAX_FILE_BYTES, Recorder

app = typer.Typer()


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path}: {'a folder, no session' if path.is_dir() else 'there is no such file'}")
    return path


Session = Annotated[
    Path,
    typer.Argument(metavar="FILE.mcap", help="A recorded session; further parts are found.", callback=_there),
]
_LATER_S = 5.0
"""How far the arrow keys go."""
_AFTER_S = 3.0
"""A replay that ends by itself goes on so long, so that what goes stale is in its figures."""
_KEYS = {
    " ": ("ReplayPause", ""), ".": ("ReplayStep", ""), "b": ("ReplayBurst", "<Command Seconds='5'/>"),
    "\x1b[C": ("ReplaySeek", f"<Command Seconds='+{_LATER_S:g}'/>"),
    "\x1b[D": ("ReplaySeek", f"<Command Seconds='-{_LATER_S:g}'/>"),
}  # fmt: skip


@app.command(epilog="Example:  navnode record --source 127.0.0.1:18945 --out session.mcap")
def record(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    source: Annotated[str, typer.Option("--source", metavar="HOST:PORT", help="An OpenIGTLink server.")] = (
        "127.0.0.1:18944"
    ),
    configuration: Annotated[
        Path | None,
        typer.Option("--config", metavar="NODE.toml", help="Of the node it is for: kept with it, so that it replays."),
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="Stop by itself.")] = None,
    max_file_mb: Annotated[
        int, typer.Option("--max-file-mb", min=16, help="Then a further file begins, FILE.001.mcap and so on.")
    ] = MAX_FILE_BYTES >> 20,
    as_json: Json = False,
) -> None:
    """Record what a server sends, byte by byte as it comes, until Ctrl-C."""
    from navnode.igtl import Client
    from navnode.recording.tape import about

    host, port = address(source, "--source")
    if os.path.lexists(out):
        raise RecordingError(f"{out}: exists already; a recording never replaces one")
    loaded = None if configuration is None else calibrated.applied(config.load(configuration), now_ns())
    recorder = Recorder(out, about(loaded, from_start=True), max_file_bytes=max_file_mb << 20)

    async def listen() -> None:
        messages.print(f"Recording {source} to {out}; Ctrl-C ends it.", markup=False, highlight=False)
        client = Client(
            host, port, lambda message, at: None, tap=lambda message, raw, at: recorder.take(message, at, raw)
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.run(), seconds)

    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(listen())
    finally:
        told = recorder.stop()
    if not recorder.messages:
        out.unlink()
        raise RecordingError(f"nothing came from {source}; nothing is recorded")
    if as_json:
        print_json({"out": str(out), "messages": recorder.messages, "lost": recorder.lost})
    else:
        messages.print(told, markup=False, highlight=False)


# --- replay ----------------------------------------------------------------------------------------------------------


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
            loaded = replaying.configuration(recording, _given(configuration), folder)
            _paced(recording, loaded, settings, ct, seconds, headless, (port, page_port), as_json)
        return
    if loop or serve is not None or start or duration is not None or topics or paused:
        raise ConfigError(f"--{mode.value} takes the whole session: --start, --duration, --topic, --loop, --serve and "
                          "--paused are for a replay at its pace (see navnode cut)")  # fmt: skip
    report, comparison = _run_again(
        recording, mode, configuration, ct, threads, _reference(session, reference, check),
        _tolerances(tolerance, exact), frozenset({*(ignore or ()), *(() if exact else comparing.IGNORED)}), out,
        update_reference,
    )  # fmt: skip
    if comparison is not None:
        report["comparison"] = comparison.document()
    if as_json:
        print_json(report)
    else:
        _tell_replay(report)
    if report["damage"]:
        raise RecordingError(report["damage"])
    if comparison is not None and not comparison.same:
        first = comparison.first
        assert first is not None
        raise RecordingError(f"{session}: differs from the reference; first at step {first.cause}, {first.topic}: "
                             f"{first.what}")  # fmt: skip


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


def _given(path: Path | None) -> Config | None:
    return None if path is None else calibrated.applied(config.load(path), now_ns())


def _run_again(
    recording: Recording, mode: Mode, configuration: Path | None, ct: str | None, threads: int,
    reference: Recording | None, tolerances: dict[str, float], ignored: frozenset[str], out: Path | None,
    update: str | None,
) -> tuple[dict[str, Any], comparing.Comparison | None]:  # fmt: skip
    """A replay that is not paced: its report, and how it compares."""
    report = replaying.Report(mode)
    comparison = None
    with ExitStack() as stack:
        folder = stack.enter_context(replaying.unpacked())
        loaded = replaying.configuration(recording, _given(configuration), folder)
        loading_s = time.perf_counter()
        run = replaying.Replay(recording, prepared(loaded, ct), threads=threads)
        loading_s = time.perf_counter() - loading_s
        writing = _targets(recording, mode, out, update, stack)

        def outputs() -> Iterator[comparing.Output]:
            with percent(f"Replaying {recording.path.name}") as progress:
                for step in run.lockstep() if mode is Mode.LOCKSTEP else run.as_consumed():
                    for topic, data in report.take(step):
                        each = comparing.Output(topic, step.number, step.time_ns, data)
                        for writer in writing:
                            channel = Channel(topic, JSON)
                            writer.add(channel, (data,), step.time_ns, step.time_ns, step.number)
                        yield each
                    if report.steps % 256 == 0:
                        progress((step.time_ns - recording.start_ns) / max(recording.end_ns - recording.start_ns, 1))

        began_s, damage = time.perf_counter(), ""
        try:
            if reference is None:
                for _ in outputs():
                    pass
            else:
                between = _mode_of(reference) is not mode
                comparison = comparing.compare(
                    comparing.outputs_of(reference), outputs(), by_cause=not between, tolerances=tolerances,
                    ignored=ignored | comparing.NOT_BETWEEN_MODES if between else ignored,
                )  # fmt: skip
        except RecordingError as error:
            if not report.steps:
                raise
            run.found.note(str(error))
            damage = "" if recording.unfinished_only else str(error)
        elapsed_s = time.perf_counter() - began_s
    document = report.document(run.found, recording.seconds, elapsed_s)
    if comparison is not None and comparison.first is not None:
        document["picture"] = _picture(recording, loaded, comparison.first)
    document["damage"] = damage
    return {**document, "loading_s": round(loading_s, 3), "out": None if out is None else str(out)}, comparison


def prepared(loaded: Config, ct: str | None) -> replaying.Prepared:
    """With the CT of a configuration, or the one that is given in its place.

    Raises:
        ConfigError: it is not there.
    """
    from navnode.simulation.sample_ct import load_ct

    wanted = ct or loaded.volume.ct
    if not wanted:
        return replaying.Prepared(loaded, None)
    if wanted not in ("sample", "procedural") and not Path(wanted).exists():
        raise ConfigError(f"{wanted}: the CT of this session is not there; give it with --ct")
    return replaying.Prepared(loaded, load_ct(wanted, messages))


def _targets(recording: Recording, mode: Mode, out: Path | None, update: str | None, stack: ExitStack) -> list[Writer]:
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


def _tell_replay(report: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    comparison = report.pop("comparison", None)
    for key, value in report.items():
        if value in (None, [], ""):
            continue
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(f"[bold]{key}[/]", shown)
    Console().print(table)
    if comparison is None:
        return
    topics = sorted({*comparison["compared"], *comparison["missing"], *comparison["extra"]})
    rows = Table("topic", "compared", "different", "missing", "extra")
    for topic in topics:
        rows.add_row(topic, *(str(comparison[k].get(topic, 0)) for k in ("compared", "different", "missing", "extra")))
    Console().print(rows)
    Console().print("The same." if comparison["same"] else "Not the same.")


# --- at its pace -----------------------------------------------------------------------------------------------------


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

    with _keyboard((host, port)):
        asyncio.run(serve())


def _paced(
    recording: Recording, loaded: Config, settings: PlayerSection, ct: str | None, seconds: float | None,
    headless: bool, ports: tuple[int | None, int | None], as_json: bool,
) -> None:  # fmt: skip
    """A node, and the session as its source."""
    change = msgspec.structs.replace
    volume = ct or loaded.volume.ct
    if volume not in ("", "sample", "procedural") and not Path(volume).exists():
        raise ConfigError(f"{volume}: the CT of this session is not there; give it with --ct")
    settings = change(settings, port=free_port(settings.host))
    loaded = change(
        loaded,
        sources=(SourceSection(host=settings.host, port=settings.port),),
        volume=change(loaded.volume, ct=volume),
        console=change(loaded.console, port=ports[0] or loaded.console.port),
        display=change(loaded.display, enabled=not headless, port=ports[1] or loaded.display.port),
        recording=change(loaded.recording, file="", replayed_ns=max(recording.start_ns, 0)),
        reconstruction=change(loaded.reconstruction, remote=None),
    )
    if as_json and seconds is None and not settings.loop:  # a program waits for the figures
        length_s = min(recording.seconds - settings.start_s, settings.duration_s or float("inf"))
        seconds = length_s / settings.rate + _AFTER_S
    keyboard = _keyboard((settings.host, settings.port))
    tell(run_supervised(loaded, settings, seconds, as_json, keys=keyboard), as_json, seconds)


@contextlib.contextmanager
def _keyboard(player: tuple[str, int]) -> Iterator[Callable[[], bool]]:
    """Keys of the terminal go to the player as commands; tells whether it shall be over."""
    over = threading.Event()
    if not sys.stdin.isatty():
        yield over.is_set
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        threading.Thread(target=_listen, args=(player, over), name="keyboard", daemon=True).start()
        yield over.is_set
    finally:
        over.set()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _listen(player: tuple[str, int], over: threading.Event) -> None:
    paused = False
    while not over.is_set():
        if not select.select([sys.stdin], [], [], 0.2)[0]:
            continue
        key = sys.stdin.read(1)
        if key == "\x1b":
            key += sys.stdin.read(2)
        if key == "q":
            over.set()
        name, text = _KEYS.get(key, ("", ""))
        if key == " ":
            name, paused = ("ReplayResume" if paused else "ReplayPause"), not paused
        if name:
            paused = paused or name == "ReplayStep"
            with contextlib.suppress(OSError, WireError), BlockingClient(*player) as client:
                client.command(name, text)


def address(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT.

    Raises:
        ConfigError: it is none; names the option.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{option} {text}: HOST:PORT")
    return host, int(port)


# --- look into, repair, cut, merge -----------------------------------------------------------------------------------


@app.command(epilog="Example:  navnode inspect session.mcap --report session.html --trace perfetto.json")
def inspect(
    session: Session,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="PAGE.html", help="Plots, timeline and tables, as a page.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="T.json", help="Where frames' time went, for ui.perfetto.dev.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is in a session: topics, rates, gaps, latencies, and how long what could be trusted."""
    from navnode.recording import look
    from navnode.recording.spans import chrome_trace

    with percent(f"Reading {session.name}") as progress:
        found = look.look(Recording(session), progress)
    document = found.document()
    if report is not None:
        _write_new(report, look.page(found))
    if trace is not None:
        if not found.spans:
            raise RecordingError(f"{session}: holds no spans; they are of a node's recording")
        _write_new(trace, json.dumps(chrome_trace(found.spans)))
    if as_json:
        print_json(document)
    else:
        _tell_inspection(document)
    if found.damage:
        raise RecordingError(found.damage)


def _write_new(path: Path, text: str) -> None:
    if os.path.lexists(path):
        raise ConfigError(f"{path}: exists already; nothing is replaced")
    _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _tell_inspection(document: dict[str, Any]) -> None:
    out = Console()
    told = {
        "start": document["start"], "seconds": document["seconds"], "whole": document["whole"],
        "lost": document["lost"], "clock jumps": document["clock_jumps"], "dropped": document["dropped"],
        "versions": document["versions"],
    }  # fmt: skip
    head = Table.grid(padding=(0, 2))
    for key, value in told.items():
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        head.add_row(f"[bold]{key}[/]", shown)
    out.print(head)
    topics = Table("topic", "messages", "Hz", "MB", "longest gap s")
    for name, row in document["topics"].items():
        hz = "" if row["hz"] is None else f"{row['hz']:g}"
        topics.add_row(name, str(row["messages"]), hz, f"{row['bytes'] / 1e6:.2f}", f"{row['longest_gap_s']:g}")
    out.print(topics)
    if document["latency_ms"]:
        table = Table("latency, ms", "p50", "p95", "p99", "max", "count")
        for name, row in document["latency_ms"].items():
            table.add_row(name, *(f"{row[key]:g}" for key in ("p50", "p95", "p99", "max", "count")))
        out.print(table)
    for name, shares in document["validity"].items():
        out.print(f"{name}: " + "   ".join(f"{status} {share:.1%}" for status, share in shares.items()))
    for gap in document["gaps"][:10]:
        out.print(f"gap: {gap['topic']} {gap['seconds']:g} s at {gap['at_s']:g} s", highlight=False)


@app.command(epilog="Example:  navnode recover torn.mcap --out whole.mcap")
def recover(
    session: Session,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    as_json: Json = False,
) -> None:
    """A session that was torn or damaged, as far as it can be read, as a whole one again."""
    with percent(f"Recovering {session.name}") as progress:
        kept = editing.recover(session, out, progress)
    document = {
        "out": [str(path) for path in kept.paths or ()], "messages": kept.messages, "lost_bytes": kept.lost_bytes,
        "damaged_chunks": kept.damaged,
    }  # fmt: skip
    _told(document, f"{out}: {kept.messages} messages; {kept.lost_bytes} bytes could not be read", as_json)


@app.command(epilog="Example:  navnode cut session.mcap --start 60 --duration 20 --deidentify --out piece.mcap")
def cut(
    session: Session,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    start: Annotated[float, typer.Option("--start", min=0, help="Seconds into the session.")] = 0.0,
    duration: Annotated[float | None, typer.Option("--duration", min=0, help="Seconds; else to the end.")] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", metavar="PATTERN", help="Such as 'in/*'; repeat. Else all.")
    ] = None,
    deidentify: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            help="Without texts, names of files and machines, and metadata that are not numbers of X-ray or tracker. "
            "Times, and what is written into pictures, stay.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """A piece of a session, or some of its topics, as a session of its own."""
    kept = editing.cut(
        Recording(session), out, start_s=start, duration_s=duration, topics=topics or (), identified=not deidentify
    )
    _told({"out": str(out), "messages": kept.messages}, f"{out}: {kept.messages} messages", as_json)


@app.command(epilog="Example:  navnode merge tracker.mcap xray.mcap --out session.mcap")
def merge(
    sessions: Annotated[list[Path], typer.Argument(metavar="FILE.mcap...", help="Recorded with one clock.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mcap", help="Must not exist.")],
    as_json: Json = False,
) -> None:
    """What came in, of several sessions, as one."""
    if len(sessions) < 2:
        raise ConfigError("merge needs two sessions or more")
    kept = editing.merge([Recording(path) for path in sessions], out)
    _told({"out": str(out), "messages": kept.messages}, f"{out}: {kept.messages} messages", as_json)


def _told(document: dict[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        messages.print(line, markup=False, highlight=False)


# --- other programs --------------------------------------------------------------------------------------------------


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
    _told({"out": [str(path) for path in paths]}, "\n".join(map(str, paths)), as_json)


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

    loaded = None if configuration is None else calibrated.applied(config.load(configuration), now_ns())
    count = exporting.import_sequence(sequence, out, loaded, device)
    _told({"out": str(out), "messages": count}, f"{out}: {count} messages", as_json)


# --- many of them ----------------------------------------------------------------------------------------------------


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
    from navnode import evaluation

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

        def done(row: dict[str, Any], count: int, total: int) -> None:
            bar.update(task, completed=count, description=Path(row["session"]).name)
            if row["status"] == "failed":
                messages.print(f"{row['session']}: {row['reason']}", markup=False, highlight=False)

        rows = evaluation.evaluate(tasks, out, scheduler=scheduler, workers=workers, progress=done)
    labels = [*(["baseline"] if earlier else []), *given]
    _write_text(out / evaluation.REPORT, evaluation.page([*earlier, *rows], labels))
    sums = evaluation.totals([*earlier, *rows])
    if as_json:
        print_json({"totals": sums, "rows": rows, "report": str(out / evaluation.REPORT)})
        return
    table = Table("", *labels)
    for key in next(iter(sums.values())):
        table.add_row(key, *("-" if sums[label][key] is None else f"{sums[label][key]:g}" for label in labels))
    Console().print(table)
    messages.print(f"{out / evaluation.REPORT}", markup=False, highlight=False)


def _encoded_config(path: Path | None) -> bytes:
    given = _given(path)
    return b"" if given is None else msgspec.json.encode(given)


def _baseline(path: Path, sessions: list[Path]) -> list[dict[str, Any]]:
    """Rows of another evaluation, of the same sessions; by their names, as archives move."""
    from navnode import evaluation

    if not path.exists():
        raise ConfigError(f"--baseline {path}: there is no such file")
    names = {session.name: str(session.absolute()) for session in sessions}
    found = {
        row["session"]: {**row, "label": "baseline", "session": names[Path(row["session"]).name]}
        for row in evaluation.read_rows(path) if Path(row["session"]).name in names
    }  # fmt: skip
    if not found:
        raise ConfigError(f"--baseline {path}: holds none of these sessions")
    return list(found.values())
