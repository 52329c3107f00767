"""What the page may have done: recordings, and the player of a replay. As commands of OpenIGTLink, as a console's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from xml.sax.saxutils import quoteattr

import msgspec
from aiohttp import web

from navnode.config import Config
from navnode.errors import WireError
from navnode.igtl import BlockingClient

_NODE = ("StartRecording", "StopRecording")
_PLAYER = ("ReplayPause", "ReplayResume", "ReplayStep", "ReplaySeek", "ReplayBurst", "ReplayRate", "ReplayState")
_TIMEOUT_S = 3.0


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command and its parameters."""

    name: str
    parameters: dict[str, str] = {}


def add(app: web.Application, config: Config, refuse: Callable[[web.Request], None]) -> None:
    """The route ``/command``.

    Args:
        refuse: raises for requests that come from other origins.
    """

    async def command(request: web.Request) -> web.Response:
        refuse(request)
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="application/json is expected")
        try:
            asked = msgspec.json.decode(await request.read(), type=Asked)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        if asked.name in _NODE:
            where = config.console.host, config.console.port
            if config.console.tls is not None:
                raise web.HTTPServiceUnavailable(text="the console port asks for certificates; record from a console")
        elif asked.name in _PLAYER and config.sources:
            where = config.sources[0].host, config.sources[0].port
        else:
            raise web.HTTPNotFound(text=f"{asked.name!r} is not a command of this page")
        done, text = await asyncio.to_thread(_run_command, where, asked)
        return web.json_response({"done": done, "text": text})

    app.router.add_post("/command", command)


def _run_command(where: tuple[str, int], asked: Asked) -> tuple[bool, str]:
    parameters = "".join(f" {key}={quoteattr(value)}" for key, value in asked.parameters.items() if key.isidentifier())
    try:
        with BlockingClient(*where) as client:
            reply = client.command(asked.name, f"<Command{parameters}/>", timeout_s=_TIMEOUT_S)
    except (OSError, WireError) as error:
        return False, str(error)
    return reply.metadata.get("Status") == "SUCCESS", reply.metadata.get("Message", reply.text)
