"""``navnode replay``: replays a session, at its own pace or as fast as possible with a comparison."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import typer
from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from navnode import config
from navnode.commands.command import command
from navnode.commands.fetch import load_ct
from navnode.commands.keyboard import keyboard
from navnode.commands.supervised import free_port, run_supervised, show_figures
from navnode.commands.ui import Ui, say, standard_output
from navnode.config import Config, PlayerSection, SourceSection
from navnode.config.fields import Address
from navnode.recording import Recording, regression
from navnode.recording import replay as replaying
from navnode.recording.node_config import load_configuration
from navnode.recording.regression import ReplayReport
from navnode.recording.requests import Mode, ReplayRequest

app = typer.Typer()

_AFTER_S = 3.0
"""A replay that ends by itself runs on this long, so that its figures include what goes stale at the end."""
_EXAMPLES = (
    "navnode replay session.mcap",
    "navnode replay session.mcap --lockstep --json",
    "navnode replay session.mcap --as-consumed --reference session.mcap",
    "navnode replay session.mcap --serve 18945 --rate 0.5 --loop",
)


@command(app, ReplayRequest, example=_EXAMPLES)
def replay(request: ReplayRequest, ui: Ui) -> None:
    """Replay a session: at its own pace with page and consoles, or as fast as possible with a comparison.

    Keys at its own pace: space pauses, . steps to the next X-ray, arrows jump 5 s back or forward, b runs 5 s as fast
    as possible, q quits.
    """
    mode, address = replaying.mode_of(request), request.served_at()
    if mode is not Mode.PACED:
        report = replaying.replay(request, mode, load_ct, ui.progress(f"Replaying {request.session.name}"))
        ui.show(report, _draw)
        replaying.raise_if_wrong(report, request.session)
    elif address is not None:
        _serve(request, address)
    else:
        _run(request, ui)


def _draw(report: ReplayReport) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in msgspec.to_builtins(report).items():
        if key == "comparison" or value in (None, [], ""):
            continue
        shown = "   ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(Text(key, "bold"), shown)
    standard_output().print(table)
    comparison = report.comparison
    if comparison is UNSET:
        return
    rows = Table("topic", "compared", "different", "missing", "extra")
    for topic in sorted({*comparison.compared, *comparison.missing, *comparison.extra}):
        counts = (comparison.compared, comparison.different, comparison.missing, comparison.extra)
        rows.add_row(topic, *(str(count.get(topic, 0)) for count in counts))
    standard_output().print(rows)
    standard_output().print("The outputs agree." if comparison.same else "The outputs differ.")


def _player(request: ReplayRequest, address: Address) -> PlayerSection:
    """Checked settings of a paced replay."""
    settings = {
        "file": str(request.session.absolute()),
        "rate": 1.0 if request.rate is None else request.rate,
        "loop": request.loop,
        "start_s": request.start_s,
        "duration_s": request.duration_s,
        "topics": request.topics,
        "original_stamps": request.original_stamps,
        "paused": request.paused,
        "host": address.host,
        "port": address.port,
    }
    return config.convert(settings, PlayerSection, "arguments")


def _serve(request: ReplayRequest, address: Address) -> None:
    """Serve the session alone, until it ends or Ctrl-C."""
    from navnode.recording.player import play

    settings = _player(request, address)

    def ready(port: int) -> None:
        say(f"REPLAY of {settings.file} on {address.host}:{port}; Ctrl-C ends it.")

    async def serve() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(play(settings, ready), request.seconds)

    with keyboard(address):
        asyncio.run(serve())


def _run(request: ReplayRequest, ui: Ui) -> None:
    """Run a node with the session as its source."""
    recording = Recording(request.session)
    settings = _player(request, Address("127.0.0.1", free_port("127.0.0.1")))
    seconds = request.seconds
    if ui.as_json and seconds is None and not settings.loop:  # a program waits for the figures
        length_s = min(recording.seconds - settings.start_s, settings.duration_s or float("inf"))
        seconds = length_s / settings.rate + _AFTER_S
    with regression.attachments_folder() as folder:
        recorded = regression.configuration(recording, load_configuration(request.config), folder)
        loaded = _as_source(request, recording, recorded, settings)
        keys = keyboard((settings.host, settings.port))
        show_figures(run_supervised(loaded, settings, seconds, ui.as_json, keys=keys), ui.as_json, seconds)


def _as_source(request: ReplayRequest, recording: Recording, recorded: Config, player: PlayerSection) -> Config:
    """The configuration with a player as its only source, and the command line's changes."""
    change = msgspec.structs.replace
    console, display, calibration = recorded.console, recorded.display, recorded.calibration
    return change(
        recorded,
        sources=(SourceSection(host=player.host, port=player.port),),
        volume=regression.volume_of(recorded, request.ct),
        console=change(console, port=request.port or console.port),
        display=change(display, enabled=not request.headless, port=request.page_port or display.port),
        recording=change(recorded.recording, file=""),
        calibration=change(calibration, as_of_ns=calibration.as_of_ns or max(recording.start_ns, 0)),
        reconstruction=change(recorded.reconstruction, remote=None),
    )
