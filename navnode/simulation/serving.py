"""Serves the virtual operating room alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path

import msgspec

from navnode.config import SimulatorSection
from navnode.errors import ConfigError
from navnode.igtl import Image, Server
from navnode.simulation import practice, room
from navnode.simulation.pushing import Pusher
from navnode.simulation.requests import SimulateRequest
from navnode.simulation.scenario import carm_of_size

__all__ = ["ALL", "OPERATION", "SimulateReport", "simulate"]

OPERATION = "operation"
"""The scene that is not for calibration."""
ALL = "all"
"""Every scene of calibration, one after another."""


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
    """Serve an operation or calibration scenes until the time limit or the end of the last scene.

    A calibration scene begins when a client connects, so that it sees the whole motion, and ends when all have left.

    Args:
        rendered: renders an operation's frames, see :func:`navnode.simulation.room.prepare`.
        say: receives the address when the server starts, and a line when a scene ends.

    Raises:
        ConfigError: there is no such scene, or its settings cannot be used.
    """
    known = (OPERATION, ALL, *practice.SCENES)
    if request.scene not in known and not set(request.scene.split(",")) <= set(practice.SCENES):
        raise ConfigError(f"--scene {request.scene}: no such scene; choose from {', '.join(known)}")
    settings = request.settings()
    scenes = practice.Practice(settings.size_px, settings.seed)
    if request.references is not None:
        scenes.write_references(request.references)
    with contextlib.ExitStack() as stack:
        pusher = None
        if (store := request.store()) is not None:
            pusher = stack.enter_context(Pusher(*store, carm_of_size(settings.size_px), say))
        return _played(request, settings, scenes, pusher, rendered, say)


def _played(
    request: SimulateRequest,
    settings: SimulatorSection,
    scenes: practice.Practice,
    pusher: Pusher | None,
    rendered: Callable[[SimulatorSection], Path],
    say: Callable[[str], None],
) -> SimulateReport:
    """Serve until the end.

    Args:
        pusher: sends X-rays by DICOM; None: they go out over OpenIGTLink.
    """
    if request.scene == OPERATION:
        simulated = room.Room(room.load(rendered(settings), settings), settings)
        if pusher is not None:
            simulated.send_xray = pusher.push
        asyncio.run(_serve(simulated.server, simulated.run, request.seconds, say))
        return SimulateReport(port=request.port, frames=simulated.frames_sent, seconds=request.seconds)
    names = practice.SCENES if request.scene == ALL else tuple(request.scene.split(","))
    audience = _Audience()
    server = Server(
        settings.host,
        settings.port,
        name="Room",
        on_joined=lambda _: audience.joined.set(),
        on_left=lambda _, why: audience.look(server),
    )
    push = None if pusher is None else pusher.push
    playing = partial(_practise, server, audience, scenes, names, request.repeat, push, say)
    asyncio.run(_serve(server, playing, request.seconds, say))
    return SimulateReport(port=request.port, frames=0, seconds=request.seconds)


class _Audience:
    """Whether anybody watches a scene."""

    def __init__(self) -> None:
        self.joined, self.left = asyncio.Event(), asyncio.Event()

    def look(self, server: Server) -> None:
        """Note that a client has left."""
        if not server.peers:
            self.left.set()


async def _practise(
    server: Server,
    audience: _Audience,
    scenes: practice.Practice,
    names: Sequence[str],
    repeat: bool,
    send_xray: Callable[[Image], None] | None,
    say: Callable[[str], None],
) -> None:
    for name in itertools.cycle(names) if repeat else names:
        say(f"{name}: waits for a client.")
        await audience.joined.wait()
        say(f"{name}: begins.")
        audience.joined.clear()
        audience.left.clear()
        playing = asyncio.create_task(room.practise(server, scenes.messages(name), send_xray))
        leaving = asyncio.create_task(audience.left.wait())
        try:
            await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
                say(f"{name}: ends.")
            else:
                say(f"{name}: all clients have left.")
        finally:
            playing.cancel()
            leaving.cancel()
        if repeat and server.peers:  # who watches sees it again
            audience.joined.set()


async def _serve(
    server: Server, stream: Callable[[], Coroutine[None, None, None]], seconds: float | None, say: Callable[[str], None]
) -> None:
    await server.start()
    say(f"Virtual operating room on port {server.port}; Ctrl-C ends it.")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stream(), seconds)
