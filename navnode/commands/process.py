"""One of the supervised processes; started by :mod:`navnode.node.supervisor`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import typer

from navnode.commands.options import messages
from navnode.config import Config, PlayerSection, SimulatorSection
from navnode.errors import ConfigError
from navnode.node.processes import die_with, output_address, say_ready, worker_address
from navnode.node.supervisor import read_config, read_room

app = typer.Typer()
# What a process does not need it does not load: the imports stand in the branches.


@app.command("_process", hidden=True)
def process(name: str, folder: Path, parent: int) -> None:
    """One of the supervised processes."""
    die_with(parent)
    logging.getLogger().setLevel(logging.INFO)
    loaded = read_config(folder)
    if name == "worker":
        from navnode.node.worker import run_beside_the_loop
        from navnode.reconstruction.methods import Method, engine_name

        method = Method(loaded.reconstruction.method)
        say_ready(engine_name(method))
        run_beside_the_loop(worker_address(folder), method)
    elif name == "node":
        _run_node(loaded, folder)
    elif name == "display":
        from navnode.display.server import run_display

        asyncio.run(run_display(loaded, output_address(folder), say_ready))
    elif name in ("simulator", "player"):
        _run_room(read_room(folder))
    else:
        raise ConfigError(f"there is no process {name!r}")


def _run_node(loaded: Config, folder: Path) -> None:
    from navnode.node.node import Node, prepare_interpreter, serve
    from navnode.simulation.sample_ct import load_ct

    prepare_interpreter()
    volume = load_ct(loaded.volume.ct, messages) if loaded.volume.ct else None
    asyncio.run(serve(Node(loaded, volume, worker_address(folder), output_address(folder))))


def _run_room(settings: SimulatorSection | PlayerSection) -> None:
    if isinstance(settings, PlayerSection):
        from navnode.recording.player import play

        asyncio.run(play(settings, lambda port: say_ready(str(port))))
        return
    from navnode.simulation import room

    async def serve() -> None:
        simulated = room.Room(room.load(room.prepare(settings, messages), settings), settings)
        await simulated.server.start()
        say_ready(str(simulated.server.port))
        await simulated.run()

    asyncio.run(serve())
