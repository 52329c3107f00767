"""``navnode demo``: everything on this machine."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from navnode import config
from navnode.commands.options import (
    Ct,
    Json,
    Record,
    Threads,
    messages,
)
from navnode.commands.simulate import simulator_section
from navnode.commands.supervised import recorded, run_supervised, tell
from navnode.config import Config, SimulatorSection

app = typer.Typer()


@app.command(epilog="Example:  navnode demo --headless --seconds 30 --json")
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="Without the page.")] = False,
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="Stop by itself and report.")] = None,
    ct: Ct = None,
    ctless: Annotated[bool, typer.Option("--ctless", help="Without a CT: the first X-rays give the volume.")] = False,
    size: Annotated[int, typer.Option("--size", help="Detector pixels: 256, 512 or 1024.")] = 512,
    rate: Annotated[float, typer.Option("--rate", min=1, max=30, help="X-ray frames per second.")] = 15.0,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port for consoles.")] = 18944,
    page_port: Annotated[int, typer.Option("--page-port", min=1, max=65535, help="Port of the page.")] = 8080,
    simulator_port: Annotated[
        int, typer.Option("--simulator-port", min=1, max=65535, help="Port of the operating room.")
    ] = 18945,
    threads: Threads = 0,
    record: Record = None,
    as_json: Json = False,
) -> None:
    """Show a navigated operation: virtual operating room, node and display on this machine."""
    # Imported here: only a demo scores itself against a simulator.
    from navnode.simulation import room
    from navnode.simulation.sample_ct import resolve_ct

    given = simulator_section(port=simulator_port, ct=ct or "sample", size_px=size, frame_rate_hz=rate)
    # The recording's file is looked at before the CT, which may have to be fetched.
    loaded = recorded(config.load(config.shipped("ctless.toml" if ctless else "demo.toml")), record)
    simulator = msgspec.structs.replace(given, ct=str(resolve_ct(given.ct, messages)))
    loaded = demo_config(loaded, simulator, headless, (port, page_port), threads, ctless)
    # Rendering happens here, where its progress can be seen; the processes find it done.
    prepared = room.prepare(simulator, messages, threads)
    report = run_supervised(loaded, simulator, seconds, as_json, room.load_scenario(prepared))
    tell(report, as_json, seconds)


def demo_config(
    loaded: Config,
    simulator: SimulatorSection,
    headless: bool,
    ports: tuple[int, int],
    threads: int,
    ctless: bool,
) -> Config:
    """launch/demo.toml with what the command line changes."""
    from navnode.simulation.scenario import carm_of_size

    carm = carm_of_size(simulator.size_px)
    replace = msgspec.structs.replace
    demo = replace(
        loaded,
        carm=replace(
            loaded.carm,
            width_px=carm.width_px,
            height_px=carm.height_px,
            pixel_spacing_mm=carm.pixel_spacing_mm,
            principal_point_px=carm.principal_point_px,
        ),
        volume=loaded.volume if ctless else replace(loaded.volume, ct=simulator.ct),
        registration=replace(loaded.registration, threads=threads),
        sources=(replace(loaded.sources[0], port=simulator.port),),
        console=replace(loaded.console, port=ports[0]),
        display=replace(loaded.display, port=ports[1], enabled=loaded.display.enabled and not headless),
    )
    return config.convert(msgspec.to_builtins(demo), Config, "arguments")  # checked as a whole: ports, say
