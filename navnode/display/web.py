"""What all of navnode's pages need of a web server: assets, headers, refusals, and one that listens."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from navnode.config import DisplaySection
from navnode.display.connections import Connections
from navnode.errors import ConfigError

__all__ = ["asked_for", "asset", "headers", "refuse_other_origins", "serving"]

_Asked = TypeVar("_Asked")
_CONTENT_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-src {frames}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def headers(*, frames: bool = False) -> dict[str, str]:
    """Headers of a page and what belongs to it: nothing from elsewhere, nothing kept, in no other page's frame.

    Args:
        frames: whether the page may show others of its own server in frames.
    """
    return {
        "Content-Security-Policy": _POLICY.format(frames="'self'" if frames else "'none'"),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def asset(package: Path, name: str, *, frames: bool = False) -> web.Response:
    """A file of a package's folder ``static``.

    Args:
        package: the folder of the package.
        frames: see :func:`headers`.

    Raises:
        HTTPNotFound: there is none of this name, or of a kind that pages do not have.
    """
    suffix = name[name.rfind(".") :]
    file = package / "static" / name
    if "/" in name or name.startswith(".") or suffix not in _CONTENT_TYPES or not file.is_file():
        raise web.HTTPNotFound
    return web.Response(
        body=file.read_bytes(), content_type=_CONTENT_TYPES[suffix], charset="utf-8", headers=headers(frames=frames)
    )


def refuse_other_origins(request: web.Request, section: DisplaySection) -> None:
    """Refuse requests from pages of other sites, also through a rebound DNS name.

    Raises:
        HTTPForbidden: it is one.
    """
    asked = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    try:
        host = urlsplit(f"//{asked}").hostname or ""
        foreign = origin is not None and urlsplit(origin).netloc != asked
    except ValueError:
        raise web.HTTPForbidden(text="the name of the host is not readable") from None
    if foreign or not _is_own(host, section):
        raise web.HTTPForbidden(
            text="this page is served to its own origin only; other names of this machine go into display.names"
        )


def _is_own(host: str, section: DisplaySection) -> bool:
    """Whether a name, in lower case, is one that the page is reached by, and no DNS of others can lead here."""
    if host in {"localhost", "127.0.0.1", "::1", section.host.lower(), *map(str.lower, section.names)}:
        return True
    if not section.insecure:
        return False
    machine = socket.gethostname().lower()
    if host in {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True  # an address is no name that could be bound to another one


async def asked_for(request: web.Request, kind: type[_Asked]) -> _Asked:
    """What a page asks in JSON.

    Raises:
        HTTPUnsupportedMediaType: it is not sent as JSON, which forms of other sites cannot do.
        HTTPBadRequest: it is not what is expected.
    """
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="application/json is expected")
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=str(error)) from error


@asynccontextmanager
async def serving(
    application: web.Application, connections: Connections, section: DisplaySection, option: str
) -> AsyncIterator[int]:
    """Serve an application within the block; yields the port.

    Args:
        connections: whose middleware the application has.
        option: what errors call the port.

    Raises:
        ConfigError: the port is in use.
    """
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, section.host, section.port).start()
        except OSError as error:
            reason = "is in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
            raise ConfigError(f"{option} {section.port} on {section.host} {reason}") from error
        assert runner.server is not None
        watching = asyncio.create_task(connections.watch(runner.server))
        try:
            yield int(runner.addresses[0][1])
        finally:
            watching.cancel()
    finally:
        await runner.cleanup()
