"""Files that are dropped on the page: plans of entry and target, read with the checks of the command line."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from aiohttp import web

from navnode.errors import ConfigError
from navnode.files.plans import import_plans
from navnode.types import Plan, Volume

__all__ = ["MOST_BYTES", "add"]

MOST_BYTES = 1 << 20
"""Of a file; plans have a few kilobytes."""
_MOST_PLANS = 32
_LONGEST_NAME, _LONGEST_STEM = 200, 60
_STEM = "plan"
_MARKUPS, _OWN = ".mrk.json", ".json"


def add(app: web.Application, volume: Callable[[], Volume | None], refuse: Callable[[web.Request], None]) -> None:
    """Add the route ``/plans``: the body is a file, ``name`` its name; answers with the plans that it holds.

    Args:
        volume: returns the volume that is navigated in, or a coarser copy; its voxels are not looked at.
        refuse: raises an HTTP error for requests from other origins.
    """

    async def plans(request: web.Request) -> web.Response:
        refuse(request)
        if (request.content_length or 0) > MOST_BYTES:
            raise web.HTTPRequestEntityTooLarge(MOST_BYTES, request.content_length or 0)
        content = bytearray()
        async for part in request.content.iter_any():
            content += part
            if len(content) > MOST_BYTES:
                raise web.HTTPRequestEntityTooLarge(MOST_BYTES, len(content))
        name = request.query.get("name", "")[-_LONGEST_NAME:]
        try:
            found = await asyncio.to_thread(_read, name, bytes(content), volume())
        except ConfigError as error:
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
        document = {"plans": [msgspec.to_builtins(plan) for plan in found]}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    app.router.add_post("/plans", plans)


def _read(name: str, content: bytes, volume: Volume | None) -> list[Plan]:
    """Raises :class:`ConfigError`, with the name that the viewer knows the file by."""
    shown = "".join(each for each in name.replace("\\", "/").rsplit("/", 1)[-1] if each.isprintable()) or "the file"
    lower = shown.lower()
    if not lower.endswith(_OWN):
        raise ConfigError(f"{shown}: plans are .mrk.json files of 3D Slicer, or our own .json")
    suffix = _MARKUPS if lower.endswith(_MARKUPS) else _OWN
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{_STEM}{suffix}"
        path.write_bytes(content)
        try:
            found = list(import_plans(path, volume, coarser=True).plans)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), shown)) from error
    if not 0 < len(found) <= _MOST_PLANS:
        raise ConfigError(f"{shown}: {len(found)} plans; 1 to {_MOST_PLANS} are expected")
    if suffix == _MARKUPS:
        # Plans of markups are named after their file.
        stem = shown[: -len(_MARKUPS)][:_LONGEST_STEM] or _STEM
        found = [replace(plan, name=stem + plan.name.removeprefix(_STEM)) for plan in found]
    return found
