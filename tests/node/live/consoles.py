"""A node on ports of its own, and a console that listens to it."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import msgspec

from navnode import config
from navnode.config import Config, SimulatorSection
from navnode.igtl import Client, Message
from navnode.node.supervisor import Supervisor
from navnode.simulation.scenario import carm_of_size
from navnode.types import NodeState
from tests import patience
from tests.conftest import find_free_port

SIZE_PX, RATE_HZ = 256, 10.0


def settings_for(port: int) -> SimulatorSection:
    return SimulatorSection(port=port, ct="procedural", size_px=SIZE_PX, frame_rate_hz=RATE_HZ)


def node_config(name: str, simulator_port: int) -> Config:
    """A shipped configuration on ports of its own, for the small detector."""
    loaded, replace = config.load(name), msgspec.structs.replace
    carm = carm_of_size(SIZE_PX)
    return replace(
        loaded,
        carm=replace(
            loaded.carm,
            width_px=SIZE_PX,
            height_px=SIZE_PX,
            pixel_spacing_mm=carm.pixel_spacing_mm,
            principal_point_px=carm.principal_point_px,
        ),
        volume=replace(loaded.volume, ct=loaded.volume.ct and "procedural"),
        sources=(replace(loaded.sources[0], port=simulator_port),),
        reconstruction=replace(loaded.reconstruction, size=48, spacing_mm=7.0),
        console=replace(loaded.console, port=find_free_port()),
        display=replace(loaded.display, port=find_free_port()),
        recording=replace(loaded.recording, folder=str(Path(os.environ["XDG_CACHE_HOME"]) / "sessions")),
    )


class Listener:
    """A console that keeps everything it hears."""

    def __init__(self, port: int) -> None:
        self.heard: list[Message] = []
        self._loop = asyncio.new_event_loop()
        client = Client("127.0.0.1", port, lambda message, _: self.heard.append(message))
        self._task = self._loop.create_task(client.run())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def of(self, device: str) -> list[Message]:
        return [message for message in self.heard if message.device == device]

    def status(self, device: str) -> str:
        return self.of(device)[-1].metadata.get("TransformStatus", "") if self.of(device) else "nothing yet"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.05, self._loop.stop)


def state_of(supervisor: Supervisor, timeout_s: float = 60.0) -> NodeState:
    """The node's newest state; on a busy machine it may have to be waited for."""
    return patience.until(supervisor.watch, timeout_s, "the node is silent", every_s=0.02)


def until(condition, supervisor: Supervisor, timeout_s: float = 120.0) -> None:
    def watched() -> object:
        supervisor.watch()  # restarts what ended
        return condition()

    patience.until(watched, timeout_s, supervisor.watch, every_s=0.05)
