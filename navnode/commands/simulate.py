"""``navnode simulate``: the virtual operating room alone."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from navnode import config
from navnode.commands.options import (
    Ct,
    Json,
    Threads,
    messages,
    print_json,
)
from navnode.config import SimulatorSection
from navnode.errors import ConfigError

app = typer.Typer()


@app.command(epilog="Example:  navnode simulate --port 18945 --ct chest.nii.gz")
def simulate(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to serve on.")] = 18945,
    ct: Ct = None,
    size: Annotated[int, typer.Option("--size", help="Detector pixels: 256, 512 or 1024.")] = 512,
    rate: Annotated[float, typer.Option("--rate", min=1, max=30, help="X-ray frames per second.")] = 15.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise.")] = 0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Stop by itself.")] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="The hardware is not what its maker says: something to calibrate.")
    ] = False,
    scene: Annotated[
        str,
        typer.Option(
            help="operation; or what comes before, in a room with errors: pivot, spin, beads, sweep, points, targets."
        ),
    ] = "operation",
    references: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the phantom, planned points, targets and the nominal C-arm there."),
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Only the virtual operating room: an OpenIGTLink server with X-rays, tracker poses and the truth."""
    from navnode.igtl import Server
    from navnode.simulation import practice, room

    known = ("operation", *practice.SCENES)
    if scene not in known:
        raise ConfigError(f"--scene {scene}: there is no such scene; there are: {', '.join(known)}")
    settings = simulator_section(
        port=port, ct=ct or "sample", size_px=size, frame_rate_hz=rate, seed=seed, errors=errors
    )
    prepared = practice.Practice(settings.size_px, settings.seed)
    if references is not None:
        prepared.write_references(references)
    simulated = None
    if scene == "operation":
        simulated = room.Room(room.load(room.prepare(settings, messages, threads), settings), settings)
    server = simulated.server if simulated is not None else Server(settings.host, settings.port, name="Room")

    async def serve() -> None:
        await server.start()
        messages.print(f"Virtual operating room on port {server.port}; Ctrl-C ends it.", highlight=False)
        with contextlib.suppress(TimeoutError):
            if simulated is not None:
                await asyncio.wait_for(simulated.run(), seconds)
            else:
                await asyncio.wait_for(room.practise(server, prepared.messages(scene)), seconds)
                messages.print("The scene is over.")

    asyncio.run(serve())
    if as_json:
        print_json({"port": port, "frames": simulated.frames_sent if simulated else 0, "seconds": seconds})


def simulator_section(**given: Any) -> SimulatorSection:
    """Checked settings from the command line."""
    return config.convert(given, SimulatorSection, "arguments")
