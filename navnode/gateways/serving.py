"""Serves what one source takes in as OpenIGTLink images, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from navnode.config import DicomSource, Source, VideoSource
from navnode.config.sources import LOOPBACK
from navnode.errors import ConfigError
from navnode.gateways.outlet import Intake, Outlet
from navnode.igtl import Server

__all__ = ["GatewayReport", "intake_of", "serve"]

_LOOK_S = 0.5


class GatewayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway served."""

    source: str
    port: int
    pictures: int
    held: int = 0
    """Pictures left out because they showed the exposure before once more."""
    refused: int = 0
    problem: str = ""
    """What was wrong at the end, or ''."""


def intake_of(source: Source) -> Intake:
    """What takes a source in; loads only the libraries that it needs.

    Raises:
        ConfigError: the source needs no gateway, or its files or port cannot be used.
    """
    match source:
        case DicomSource():
            from navnode.gateways.dicom import DicomIntake

            return DicomIntake(source)
        case VideoSource():
            from navnode.gateways.video import VideoIntake

            return VideoIntake(source)
    raise ConfigError("OpenIGTLink needs no gateway")


async def serve(
    source: Source,
    device: str,
    *,
    seconds: float | None = None,
    on_ready: Callable[[int], None] = lambda port: None,
    on_alive: Callable[[], None] = lambda: None,
) -> GatewayReport:
    """Serve a source until cancelled, or for some time; either way its figures are returned.

    Args:
        device: name of the images.
        seconds: how long; None: without end.
        on_ready: called with the port once clients can connect.
        on_alive: called twice a second while the source's threads move.

    Raises:
        ConfigError: a port is in use, or the source cannot be used.
    """
    intake = intake_of(source)
    loop = asyncio.get_running_loop()
    async with Server(LOOPBACK, source.port, name="Gateway") as server:
        outlet = Outlet(server, device, loop)
        intake.start(outlet)
        try:
            on_ready(server.port)
            end_s = None if seconds is None else loop.time() + seconds
            while end_s is None or loop.time() < end_s:
                await asyncio.sleep(_LOOK_S if end_s is None else min(_LOOK_S, max(0.01, end_s - loop.time())))
                if intake.lives():
                    on_alive()
        except asyncio.CancelledError:  # it is ended by hand, or told to end
            pass
        finally:
            await asyncio.to_thread(intake.stop)
    return GatewayReport(
        source=str(source.__struct_config__.tag),
        port=server.port,
        pictures=outlet.pictures,
        held=outlet.held,
        refused=outlet.refused,
        problem=outlet.problem,
    )
