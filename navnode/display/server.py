"""The page's web server: assets from the package, one WebSocket per viewer."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from navnode.config import Config
from navnode.display import control, messages, metrics, uploads
from navnode.display.connections import Connections
from navnode.display.scene import NODE_SILENT_NS, Scene, blob, mesh_blob, volume_blob
from navnode.display.web import asset, refuse_other_origins, serving
from navnode.errors import PeerError
from navnode.loop import bus, topics
from navnode.types import NodeState, Volume, VolumeUpdate

__all__ = ["Display", "run_display"]

log = logging.getLogger(__name__)
_HERE = Path(__file__).parent

_EVERY_S = 0.02
"""Between scenes: a pose waits no longer for the next one. Half of it gains nothing where browsers draw in software."""
_IN_FLIGHT = 2
"""Largest number of scenes that a page has not acknowledged; more would only queue and age."""

_MAX_VIEWERS = 16
_INCOMPLETE_NS = 1_000_000_000
"""A volume that the node has sent and that has not come for this long is asked for again."""
_ALIVE_S = 0.5
"""Between signs of life."""


class Display:
    """Serves all viewers from one scene.

    Args:
        address: ZeroMQ address of the node's outputs.
    """

    def __init__(self, config: Config, address: str) -> None:
        self._config = config
        volume_from = "ct" if config.volume.ct else "bones" if config.bones_alone else "xrays"
        self._scene = Scene(case=config.case, volume_from=volume_from)
        self._blobs: dict[str, tuple[int, bytes]] = {}
        self._gone: dict[str, tuple[int, bytes]] = {}
        self._versions = 0
        self._grid: Volume | None = None
        """Where the voxels of the volume that is navigated in lie; not their values."""
        self._node = bus.Subscriber(address, topics.bound_of(*topics.TO_DISPLAYS))
        self._viewers = 0
        self.connections = Connections()

    def application(self) -> web.Application:
        """The web application with all routes."""
        app = web.Application(middlewares=[self.connections.middleware])
        app.router.add_get("/", self._page)
        app.router.add_get("/static/{name}", self._asset)
        app.router.add_get("/ws", self._viewer)
        app.router.add_get("/metrics", self._metrics)
        messages.add(app)
        control.add(app, self._config, self._refuse)
        uploads.add(app, lambda: self._grid, self._refuse)
        for page in entry_points(group="navnode.pages"):  # pages of packages that import navnode, such as calibration
            page.load()(app, self._config, self._refuse)
        return app

    def _refuse(self, request: web.Request) -> None:
        refuse_other_origins(request, self._config.display)

    async def listen(self) -> None:
        """Receive from the node until cancelled."""
        complete_ns = time.monotonic_ns()
        while True:
            try:
                while (output := self._node.next()) is not None:
                    if isinstance(output, VolumeUpdate):
                        await asyncio.to_thread(self._on_volume, output)
                    else:
                        self._on_output(output, self._node.sent_ns)
            except PeerError as error:
                log.warning("node: %s", error)
            now_ns = time.monotonic_ns()
            if not self._node.lacks_volume:
                complete_ns = now_ns
            elif now_ns - complete_ns > _INCOMPLETE_NS:  # dropped while this process stood still
                complete_ns = now_ns
                self._node.ask_again()
            await asyncio.sleep(0.01)

    def _on_output(self, output: object, sent_ns: int) -> None:
        if isinstance(output, NodeState):
            output = replace(output, dropped={**output.dropped, "page": self._node.dropped.total()})
            # A node without a volume withdraws those that were shown.
            if not output.volume:
                self._forget("navigation")
                self._grid = None
            if not output.volumes or self._scene.replaces(output):
                self._forget("reconstruction")
        self._scene.on_output(output, min(sent_ns, time.monotonic_ns()))

    def _forget(self, role: str) -> None:
        for kind in ("volume", "mesh"):
            name = f"{kind}/{role}"
            if name in self._blobs:
                self._versions += 1
                del self._blobs[name]
                self._gone[name] = self._versions, blob("gone", {"of": kind, "role": role})

    def _on_volume(self, update: VolumeUpdate) -> None:
        if update.role == "navigation":
            nothing = np.broadcast_to(np.float32(0), update.volume.voxels.shape)
            self._grid = replace(update.volume, voxels=nothing)
        self._versions += 1
        self._blobs[f"volume/{update.role}"] = self._versions, volume_blob(update)
        self._gone.pop(f"volume/{update.role}", None)
        if update.bone is not None:
            self._versions += 1
            self._blobs[f"mesh/{update.role}"] = self._versions, mesh_blob(update, update.bone)
            self._gone.pop(f"mesh/{update.role}", None)

    async def _page(self, _: web.Request) -> web.Response:
        return asset(_HERE, "index.html")

    async def _asset(self, request: web.Request) -> web.Response:
        return asset(_HERE, request.match_info["name"])

    async def _metrics(self, request: web.Request) -> web.Response:
        self._refuse(request)
        return web.Response(body=metrics.text(self._state), headers={"Content-Type": metrics.CONTENT_TYPE})

    def _state(self) -> NodeState | None:
        """The node's state; None: the node is silent."""
        return self._scene.state if time.monotonic_ns() - self._scene.state_ns <= NODE_SILENT_NS else None

    async def _viewer(self, request: web.Request) -> web.WebSocketResponse:
        self._refuse(request)
        if self._viewers >= _MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text="too many viewers")
        socket = web.WebSocketResponse(heartbeat=2.0, max_msg_size=1 << 16, compress=False)
        await socket.prepare(request)
        self._viewers += 1
        viewer = _Viewer(socket)
        sending = asyncio.create_task(self._feed(viewer))
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                viewer.acknowledged(message.data)
        finally:
            self._viewers -= 1
            sending.cancel()
        return socket

    async def _feed(self, viewer: _Viewer) -> None:
        try:
            await self._feed_forever(viewer)
        except ConnectionError:
            pass  # the viewer left
        except Exception:
            log.exception("sending to a viewer failed")
            await viewer.close()

    async def _feed_forever(self, viewer: _Viewer) -> None:
        while True:
            if viewer.in_flight < _IN_FLIGHT:
                for name, (version, data) in [*self._blobs.items(), *self._gone.items()]:
                    if viewer.lacks(name, version):
                        await viewer.send_blob(data)
                for slot, station in list(self._scene.stations.items()):
                    about = {"slot": slot, "timestamp_ns": str(station.timestamp_ns)}
                    if viewer.lacks(f"view/{slot}", station.timestamp_ns):
                        await viewer.send_blob(blob("view", about, station.jpeg()))
                await viewer.send_scene(self._scene.describe(time.monotonic_ns()))
            await asyncio.sleep(_EVERY_S)


class _Viewer:
    """One open page: what was sent to it, and what it acknowledged."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._has: dict[str, int] = {}
        self._sent = self._acknowledged = 0
        self._sent_ms: dict[int, int] = {}
        """Number -> when a scene was sent that is not acknowledged."""
        self._round_trip_ms: int | None = None
        """Of the scene that was acknowledged last; None: none was."""

    @property
    def in_flight(self) -> int:
        return self._sent - self._acknowledged

    def acknowledged(self, text: str) -> None:
        try:
            number = int(json.loads(text)["ack"])
        except (ValueError, KeyError, TypeError):
            return
        self._acknowledged = max(self._acknowledged, min(number, self._sent))
        now_ms = time.monotonic_ns() // 1_000_000
        for each in [each for each in self._sent_ms if each <= self._acknowledged]:
            self._round_trip_ms = now_ms - self._sent_ms.pop(each)

    def lacks(self, name: str, version: int) -> bool:
        """Whether the page lacks this version, which is then marked as sent."""
        if self._has.get(name) == version:
            return False
        self._has[name] = version
        return True

    async def close(self) -> None:
        await self._socket.close()

    async def send_blob(self, data: bytes) -> None:
        await self._socket.send_bytes(data)

    async def send_scene(self, scene: dict[str, Any]) -> None:
        self._sent += 1
        sent_ms = self._sent_ms[self._sent] = time.monotonic_ns() // 1_000_000
        about = {"kind": "scene", "number": self._sent, "sent_ms": sent_ms, "round_trip_ms": self._round_trip_ms}
        await self._socket.send_str(json.dumps({**about, **scene}))


async def run_display(
    config: Config, address: str, ready: Callable[[str], None], alive: Callable[[], None] = lambda: None
) -> None:
    """Serve the page until cancelled.

    Args:
        address: ZeroMQ address of the node's outputs.
        ready: called with the port once the page is served.
        alive: called twice a second while pages are answered.

    Raises:
        ConfigError: the port is in use.
    """
    display = Display(config, address)
    async with serving(display.application(), display.connections, config.display, "display.port"):
        ready(str(config.display.port))
        await asyncio.gather(display.listen(), _repeat(alive))


async def _repeat(alive: Callable[[], None]) -> None:
    while True:
        alive()
        await asyncio.sleep(_ALIVE_S)
