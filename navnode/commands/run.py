"""``navnode run``: runs the node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode import config
from navnode.commands.command import command
from navnode.commands.fetch import ct_path
from navnode.commands.supervised import Record, run_supervised, show_figures
from navnode.commands.ui import Ui
from navnode.config import Config, is_ct_file
from navnode.config.fields import argument, option
from navnode.loop.calibrations import with_kept
from navnode.node import readiness
from navnode.recording.node_config import with_recording

app = typer.Typer()


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Run a node."""

    config: Annotated[Path, argument("Configuration of the node, such as those in launch/.", "CONFIG.toml")]
    seconds: Annotated[float, option("Stop after this many seconds, and report.", ge=1)] | None = None
    check: Annotated[bool, option("Only check the configuration.")] = False
    threads: Annotated[int, option("Threads for registration; 0: all cores.", ge=0)] | None = None
    record: Annotated[Path, Record] | None = None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """A usable configuration."""

    configuration: str
    status: str = "fine"


@command(app, RunRequest, example="navnode run launch/demo.toml")
def run(request: RunRequest, ui: Ui) -> None:
    """Run the node: registration, reconstruction worker and display, from a configuration."""
    loaded = with_recording(with_kept(config.load(request.config)), request.record)
    readiness.check_calibrations(loaded)  # here, to name an unusable calibration before anything starts
    if request.check:
        readiness.check_files(loaded)
        ui.done(CheckReport(configuration=str(request.config)), f"{request.config}: fine")
        return
    report = run_supervised(_prepared(loaded, request), None, request.seconds, ui.as_json, None)
    show_figures(report, ui.as_json, request.seconds)


def _prepared(loaded: Config, request: RunRequest) -> Config:
    """The configuration with the command line's changes and the path of its CT; fetching it shows progress."""
    change = msgspec.structs.replace
    if request.threads is not None:
        loaded = change(loaded, registration=change(loaded.registration, threads=request.threads))
    if not loaded.volume.ct:
        return loaded
    if is_ct_file(loaded.volume.ct):
        path = ct_path(loaded.volume.ct)
    else:
        from navnode.display.waiting import WaitingPage  # here: only what may take long needs a page of its own

        with WaitingPage(loaded.display) as page:
            path = ct_path(loaded.volume.ct, page.tell)
    return change(loaded, volume=change(loaded.volume, ct=str(path)))
