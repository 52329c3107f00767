"""The calibration page of the display: the guide, for whoever calibrates.

It listens to the node's sources itself, so that it gets raw tracker poses and never delays the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from navnode.config import Config
from navnode.display.web import asked_for, asset
from navnode.errors import CalibrationError, ConfigError

from .guide import Guide, Run

__all__ = ["Panel", "add"]

_HERE = Path(__file__).parent
_LONGEST_S = 600.0


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page asks."""

    step: str = ""
    tool: str = ""
    """That touches points; '': the first."""
    skipped: bool = True


class Panel:
    """The page's routes.

    Args:
        refuse: raises for requests from other origins.
    """

    def __init__(self, config: Config, refuse: Callable[[web.Request], None]) -> None:
        self._guide, self._refuse = Guide(config), refuse
        self._measuring: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        """Who begins or ends a measurement: what another request has just begun would not be ended by anybody."""

    def add_to(self, app: web.Application) -> None:
        """Add the routes below ``/calibration/``."""
        app.router.add_get("/calibration/", self._page)
        app.router.add_get("/calibration/state", self._state)
        app.router.add_get("/calibration/{name}", self._asset)
        for name, act in (
            ("begin", self._begin),
            ("stop", self._stop),
            ("keep", self._keep),
            ("discard", self._discard),
            ("skip", self._skip),
        ):
            app.router.add_post(f"/calibration/{name}", act)
        app.on_cleanup.append(self._cleanup)

    async def _page(self, _: web.Request) -> web.Response:
        return asset(_HERE, "panel.html")

    async def _asset(self, request: web.Request) -> web.Response:
        return asset(_HERE, request.match_info["name"])

    async def _state(self, request: web.Request) -> web.Response:
        self._refuse(request)
        return await self._answer()

    async def _answer(self) -> web.Response:
        state = await asyncio.to_thread(self._guide.state)
        return web.json_response(msgspec.to_builtins(state))

    async def _asked(self, request: web.Request) -> _Asked:
        self._refuse(request)
        return await asked_for(request, _Asked)

    async def _begin(self, request: web.Request) -> web.Response:
        asked = await self._asked(request)
        async with self._one_at_a_time:
            await self._end()
            try:
                run = self._guide.begin(self._guide.room.step(asked.step), asked.tool)
            except (ConfigError, CalibrationError) as error:
                raise web.HTTPBadRequest(text=str(error)) from error
            self._measuring = asyncio.create_task(self._measure(run))
        return await self._answer()

    async def _measure(self, run: Run) -> None:
        await self._guide.listen(run, seconds=_LONGEST_S)
        await self._guide.conclude(run)

    async def _stop(self, request: web.Request) -> web.Response:
        await self._asked(request)
        async with self._one_at_a_time:
            run = self._guide.run
            await self._end()
            if run is not None and not run.kept and not run.discarded:
                self._measuring = asyncio.create_task(self._guide.conclude(run))
        return await self._answer()

    async def _end(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)
            self._measuring = None

    async def _cleanup(self, _: web.Application) -> None:
        async with self._one_at_a_time:
            await self._end()

    async def _keep(self, request: web.Request) -> web.Response:
        await self._asked(request)
        run = self._guide.run
        if run is None or run.running or run.judging:
            raise web.HTTPConflict(text="nothing that was measured waits to be kept")
        try:
            await asyncio.to_thread(self._guide.keep, run)
        except ConfigError as error:
            raise web.HTTPConflict(text=str(error)) from error
        return await self._answer()

    async def _discard(self, request: web.Request) -> web.Response:
        await self._asked(request)
        async with self._one_at_a_time:
            await self._end()
            if self._guide.run is not None and not self._guide.run.kept:
                self._guide.discard(self._guide.run)
        return await self._answer()

    async def _skip(self, request: web.Request) -> web.Response:
        asked = await self._asked(request)
        try:
            step = self._guide.room.step(asked.step)
            for each in self._guide.room.together(step):
                self._guide.room.skip(each, asked.skipped)
        except ConfigError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return await self._answer()


def add(app: web.Application, config: Config, refuse: Callable[[web.Request], None]) -> None:
    """Mount the page; the display finds this function by the entry point ``navnode.pages``."""
    Panel(config, refuse).add_to(app)
