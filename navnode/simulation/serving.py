"""Serves the virtual operating room alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec

from navnode.config import SimulatorSection
from navnode.errors import ConfigError
from navnode.igtl import Server
from navnode.simulation import practice, room
from navnode.simulation.requests import SimulateRequest

__all__ = ["OPERATION", "SimulateReport", "simulate"]

OPERATION = "operation"
"""The scene that is not for calibration."""


class SimulateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was served."""

    port: int
    frames: int
    """X-rays of an operation; those of calibration scenes are not counted."""
    seconds: float | None
    """Requested time limit."""


def simulate(
    request: SimulateRequest, rendered: Callable[[SimulatorSection], Path], say: Callable[[str], None]
) -> SimulateReport:
    """Serve an operation or a calibration scene until the time limit or the end of the scene.

    Args:
        rendered: renders an operation's frames, see :func:`navnode.simulation.room.prepare`.
        say: receives the address when the server starts, and a line when a scene ends.

    Raises:
        ConfigError: there is no such scene, or its settings cannot be used.
    """
    known = (OPERATION, *practice.SCENES)
    if request.scene not in known:
        raise ConfigError(f"--scene {request.scene}: no such scene; choose from {', '.join(known)}")
    settings = request.settings()
    scenes = practice.Practice(settings.size_px, settings.seed)
    if request.references is not None:
        scenes.write_references(request.references)
    if request.scene == OPERATION:
        simulated = room.Room(room.load(rendered(settings), settings), settings)
        asyncio.run(_serve(simulated.server, simulated.run(), request.seconds, say))
        return SimulateReport(port=request.port, frames=simulated.frames_sent, seconds=request.seconds)
    server = Server(settings.host, settings.port, name="Room")
    asyncio.run(_serve(server, _practise(server, scenes, request.scene, say), request.seconds, say))
    return SimulateReport(port=request.port, frames=0, seconds=request.seconds)


async def _practise(server: Server, scenes: practice.Practice, scene: str, say: Callable[[str], None]) -> None:
    await room.practise(server, scenes.messages(scene))
    say("End of the scene.")


async def _serve(
    server: Server, streaming: Coroutine[None, None, None], seconds: float | None, say: Callable[[str], None]
) -> None:
    await server.start()
    say(f"Virtual operating room on port {server.port}; Ctrl-C ends it.")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(streaming, seconds)
