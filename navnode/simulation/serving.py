"""The virtual operating room alone, served to whoever connects."""

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

OPERATION = "operation"


class SimulateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was served."""

    port: int
    frames: int
    """X-rays of an operation; what comes before it is not counted."""
    seconds: float | None
    """After which it should stop."""


def simulate(
    request: SimulateRequest, rendered: Callable[[SimulatorSection], Path], say: Callable[[str], None]
) -> SimulateReport:
    """Serve an operation, or a scene before it, until the time or the scene is over.

    Args:
        rendered: an operation's frames, see :func:`navnode.simulation.room.prepare`.
        say: told where it serves, and when a scene is over.

    Raises:
        ConfigError: there is no such scene, or its settings cannot be used.
    """
    known = (OPERATION, *practice.SCENES)
    if request.scene not in known:
        raise ConfigError(f"--scene {request.scene}: there is no such scene; there are: {', '.join(known)}")
    settings = request.settings()
    prepared = practice.Practice(settings.size_px, settings.seed)
    if request.references is not None:
        prepared.write_references(request.references)
    if request.scene == OPERATION:
        simulated = room.Room(room.load(rendered(settings), settings), settings)
        asyncio.run(_serve(simulated.server, simulated.run(), request.seconds, say))
        return SimulateReport(port=request.port, frames=simulated.frames_sent, seconds=request.seconds)
    server = Server(settings.host, settings.port, name="Room")
    asyncio.run(_serve(server, _practise(server, prepared, request.scene, say), request.seconds, say))
    return SimulateReport(port=request.port, frames=0, seconds=request.seconds)


async def _practise(server: Server, prepared: practice.Practice, scene: str, say: Callable[[str], None]) -> None:
    await room.practise(server, prepared.messages(scene))
    say("The scene is over.")


async def _serve(
    server: Server, what: Coroutine[None, None, None], seconds: float | None, say: Callable[[str], None]
) -> None:
    await server.start()
    say(f"Virtual operating room on port {server.port}; Ctrl-C ends it.")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(what, seconds)
