"""One of the supervised processes; started by :mod:`navnode.node.supervisor`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import typer

from navnode.commands.fetch import load_ct, rendered
from navnode.config import PlayerSection, Source
from navnode.errors import ConfigError
from navnode.node.processes import die_with, output_address, say_alive, say_ready, serve_until_told, worker_address
from navnode.node.supervisor import (
    calibrations_folder,
    gateways,
    plays_a_session,
    read_config,
    read_dose,
    read_source_process,
)

app = typer.Typer()
# Imports stand in the functions, so that a process loads only what it needs.


@app.command("_process", hidden=True)
def process(name: str, folder: Path, parent: int) -> None:
    """One of the supervised processes."""
    die_with(parent)
    logging.getLogger().setLevel(logging.INFO)
    if name in _PROCESSES:
        _PROCESSES[name](folder)
    elif (source := gateways(read_config(folder)).get(name)) is not None:
        _run_gateway(source, read_config(folder).devices.xray)
    else:
        raise ConfigError(f"no such process: {name!r}")


def _run_worker(folder: Path) -> None:
    from navnode.node.worker import run_beside_the_loop
    from navnode.reconstruction.choice import Method, engine_name

    method = Method(read_config(folder).reconstruction.method)
    say_ready(engine_name(method))
    run_beside_the_loop(worker_address(folder), method)


def _run_node(folder: Path) -> None:
    loaded = read_config(folder)
    with ThreadPoolExecutor(1) as beside:  # decompressing and importing take as long
        reading = beside.submit(load_ct, loaded.volume) if loaded.volume.ct else None
        from navnode.node.node import Node, prepare_interpreter, serve

        volume = reading.result() if reading is not None else None
    prepare_interpreter()
    replayed = plays_a_session(folder)
    if replayed:
        from navnode.recording.recording import Recording

        settings = read_source_process(folder)
        assert isinstance(settings, PlayerSection)
        Recording(settings.file).check_ct(volume)
    addresses = worker_address(folder), output_address(folder)
    calibrations, dose = calibrations_folder(folder), read_dose(folder)
    node = Node(loaded, volume, *addresses, calibrations, replayed=replayed, dose_before=dose)
    serve_until_told(serve(node))


def _run_display(folder: Path) -> None:
    from navnode.display.server import run_display

    serve_until_told(run_display(read_config(folder), output_address(folder), say_ready, say_alive))


def _run_gateway(source: Source, device: str) -> None:
    from navnode.gateways.serving import serve

    serve_until_told(serve(source, device, on_ready=lambda port: say_ready(str(port)), on_alive=say_alive))


def _run_source_process(folder: Path) -> None:
    settings = read_source_process(folder)
    if isinstance(settings, PlayerSection):
        from navnode.recording.player import play

        serve_until_told(play(settings, lambda port: say_ready(str(port))))
        return
    from navnode.simulation import room

    async def serve() -> None:
        simulated = room.Room(room.load(rendered(settings), settings), settings)
        await simulated.server.start()
        say_ready(str(simulated.server.port))
        await simulated.run()

    serve_until_told(serve())


_PROCESSES: dict[str, Callable[[Path], None]] = {
    "worker": _run_worker,
    "node": _run_node,
    "display": _run_display,
    "simulator": _run_source_process,
    "player": _run_source_process,
}
