"""``navnode demo``: everything on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from navnode import config
from navnode.commands.command import command
from navnode.commands.fetch import Watch, ct_path, rendered
from navnode.commands.supervised import Record, run_supervised, show_figures
from navnode.commands.ui import Ui
from navnode.config import Config, SimulatorSection
from navnode.config.fields import Ct, Threads, option
from navnode.recording.node_config import with_recording

if TYPE_CHECKING:  # slow to load: the page answers first
    from navnode.simulation.scenario import Scenario

app = typer.Typer()


class DemoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Show a navigated operation on this machine."""

    headless: Annotated[bool, option("Do not serve the page.")] = False
    seconds: Annotated[float, option("Stop after this many seconds, and report.", ge=1)] | None = None
    ct: Ct | None = None
    ctless: Annotated[bool, option("Work without a CT: reconstruct the volume from the first X-rays.")] = False
    size: Annotated[int, option("Detector pixels: 256, 512 or 1024.")] = 512
    rate: Annotated[float, option("X-ray frames per second.", ge=1, le=60)] = 15.0
    port: Annotated[int, option("Port for consoles.", ge=1, le=65535)] = 18944
    page_port: Annotated[int, option("Port of the page.", ge=1, le=65535)] = 8080
    simulator_port: Annotated[int, option("Port of the operating room.", ge=1, le=65535)] = 18945
    threads: Threads = 0
    record: Annotated[Path, Record] | None = None

    def simulator(self, *, more_tools: int = 0) -> SimulatorSection:
        """The operating room's settings.

        Args:
            more_tools: number of tools besides the drill.

        Raises:
            ConfigError: the simulator has no detector of this size.
        """
        return config.convert(
            {
                "port": self.simulator_port,
                "ct": self.ct or "sample",
                "size_px": self.size,
                "frame_rate_hz": self.rate,
                "more_tools": more_tools,
            },
            SimulatorSection,
            "arguments",
        )


@command(app, DemoRequest, example="navnode demo --headless --seconds 30 --json")
def demo(request: DemoRequest, ui: Ui) -> None:
    """Show a navigated operation: virtual operating room, node and display on this machine."""
    from navnode.display.waiting import WaitingPage  # here: only what serves a page needs a server

    # The recording's file is checked before the CT, which may have to be fetched.
    shipped = config.load(config.shipped("ctless.toml" if request.ctless else "demo.toml"))
    loaded = with_recording(shipped, request.record)
    display = msgspec.structs.replace(shipped.display, port=request.page_port, enabled=not request.headless)
    with WaitingPage(display) as page:
        loaded, simulator, truth = prepared(loaded, request, page.tell)
        report = run_supervised(loaded, simulator, request.seconds, ui.as_json, truth, before=page.give_way)
    show_figures(report, ui.as_json, request.seconds)


def prepared(loaded: Config, request: DemoRequest, tell: Watch) -> tuple[Config, SimulatorSection, Scenario]:
    """The node's configuration, the room, and its truth; fetches and renders what is not there yet.

    Args:
        tell: called with what is prepared, and how far.
    """
    settings = request.simulator()
    demo_config(loaded, settings, request)  # refuses what is wrong before anything is fetched
    # Rendering happens here, where its progress is visible; the processes then find it in the cache.
    simulator = msgspec.structs.replace(settings, ct=str(ct_path(settings.ct, tell)))
    scenario_folder = rendered(simulator, request.threads, tell)
    from navnode.simulation import room  # here, as it is slow to load: the page answers first

    return demo_config(loaded, simulator, request), simulator, room.load_scenario(scenario_folder)


def demo_config(loaded: Config, simulator: SimulatorSection, request: DemoRequest) -> Config:
    """The shipped configuration with the command line's changes."""
    from navnode.simulation.scenario import carm_of_size

    carm = carm_of_size(simulator.size_px)
    replace = msgspec.structs.replace
    enabled = loaded.display.enabled and not request.headless
    demo = replace(
        loaded,
        carm=replace(
            loaded.carm,
            width_px=carm.width_px,
            height_px=carm.height_px,
            pixel_spacing_mm=carm.pixel_spacing_mm,
            principal_point_px=carm.principal_point_px,
        ),
        volume=loaded.volume if request.ctless else replace(loaded.volume, ct=simulator.ct),
        registration=replace(loaded.registration, threads=request.threads),
        sources=(replace(loaded.sources[0], port=simulator.port),),
        console=replace(loaded.console, port=request.port),
        display=replace(loaded.display, port=request.page_port, enabled=enabled),
    )
    return config.convert(msgspec.to_builtins(demo), Config, "arguments")  # checks rules across sections, such as ports
