"""``navnode run``: the node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from navnode import config
from navnode.clock import now_ns
from navnode.commands.options import (
    Json,
    Record,
    messages,
    print_json,
)
from navnode.commands.supervised import recorded, run_supervised, tell
from navnode.config import Config
from navnode.errors import ConfigError
from navnode.loop.calibrations import Calibrations
from navnode.security import curve

app = typer.Typer()


@app.command(epilog="Example:  navnode run launch/demo.toml")
def run(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Such as those in launch/.")],
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Stop by itself and report.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=0, help="For registration; 0: all cores.")] = None,
    record: Record = None,
    as_json: Json = False,
) -> None:
    """The node: registration, reconstruction worker and display, from a configuration."""
    loaded = recorded(config.load(configuration), record)
    Calibrations.load(loaded, now_ns())  # here, so that what cannot be used is named before anything starts
    if check:
        _check_files(loaded)
        messages.print(f"{configuration}: fine", markup=False, highlight=False)
        if as_json:
            print_json({"configuration": str(configuration), "status": "fine"})
        return
    if threads is not None:
        registration = msgspec.structs.replace(loaded.registration, threads=threads)
        loaded = msgspec.structs.replace(loaded, registration=registration)
    if loaded.volume.ct:  # here, where fetching it can be seen
        from navnode.simulation.sample_ct import resolve_ct

        ct = str(resolve_ct(loaded.volume.ct, messages))
        loaded = msgspec.structs.replace(loaded, volume=msgspec.structs.replace(loaded.volume, ct=ct))
    tell(run_supervised(loaded, None, seconds, as_json, None), as_json, seconds)


def _check_files(loaded: Config) -> None:
    """Whether what a configuration names is there."""
    ct = loaded.volume.ct
    if config.is_ct_file(ct) and not Path(ct).exists():
        raise ConfigError(f"volume.ct: {ct}: there is no such file or folder")
    remote = loaded.reconstruction.remote
    if remote is not None:
        curve.check(Path(remote.key), Path(remote.worker_key))
    if loaded.console.tls is not None:
        loaded.console.tls.server_context()
    for source in loaded.sources:
        if source.tls is not None:
            source.tls.client_context()
