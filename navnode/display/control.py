"""Commands that the page may send, by OpenIGTLink as consoles do: for recordings, sources, plans, the active tool,
which one a tool is and where its tip is, what the operator knows of markers, and a replay's player."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from xml.sax.saxutils import quoteattr

import msgspec
from aiohttp import web

from navnode.config import Config
from navnode.display.web import asked_for
from navnode.errors import WireError
from navnode.igtl import BlockingClient
from navnode.types import Operation, PlanOperation

__all__ = ["PageCommand", "add"]

_RECORDING = "StartRecording", "StopRecording", "Reconnect"
_NODE = (
    *_RECORDING,
    Operation.ACCEPT_REGISTRATION.value,
    Operation.SET_TOOL.value,
    Operation.CONFIRM_TOOL.value,
    Operation.CHECK_TIP.value,
    *(operation.value for operation in PlanOperation),
)
_PLAYER = ("ReplayPause", "ReplayResume", "ReplayStep", "ReplaySeek", "ReplayBurst", "ReplayRate", "ReplayState")
_TIMEOUT_S = 3.0


class PageCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command from the page."""

    name: str
    parameters: dict[str, str] = {}


def add(app: web.Application, config: Config, refuse: Callable[[web.Request], None]) -> None:
    """Add the route ``/command`` to the page's server.

    Args:
        refuse: raises an HTTP error for requests from other origins.
    """

    async def command(request: web.Request) -> web.Response:
        refuse(request)
        page_command = await asked_for(request, PageCommand)
        if page_command.name in _NODE:
            address = config.console.host, config.console.port
            if config.console.tls is not None:
                raise web.HTTPServiceUnavailable(text="the console port requires certificates; use a console")
        elif page_command.name in _PLAYER and config.sources:
            address = config.sources[0].host, config.sources[0].port
        else:
            raise web.HTTPNotFound(text=f"{page_command.name!r} is not a command of this page")
        done, text = await asyncio.to_thread(_run_command, address, page_command)
        return web.json_response({"done": done, "text": text})

    app.router.add_post("/command", command)


def _run_command(address: tuple[str, int], command: PageCommand) -> tuple[bool, str]:
    """Send a command; returns whether it succeeded, and the answer's text."""
    parameters = "".join(
        f" {key}={quoteattr(value)}" for key, value in command.parameters.items() if key.isidentifier()
    )
    try:
        with BlockingClient(*address) as client:
            reply = client.command(command.name, f"<Command{parameters}/>", timeout_s=_TIMEOUT_S)
    except (OSError, WireError) as error:
        return False, str(error)
    return reply.metadata.get("Status") == "SUCCESS", reply.metadata.get("Message", reply.text)
