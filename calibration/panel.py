"""The calibration panel of the display's page: coverage, figures and verdict while the operator moves the tool.

It listens to the node's sources itself, so that it gets raw tracker poses and never delays the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
from aiohttp import web

from calibration import inputs, recordings
from calibration.fitting import from_middle_deg
from calibration.heard import Heard, record
from calibration.inputs import Files
from calibration.patient import patient, touched_in_order
from calibration.phantom import steady_places, tips_in_patient
from calibration.pivot import pivot
from calibration.verdict import Calibration, plain
from navnode.clock import now_ns
from navnode.config import Config, matrix
from navnode.display.web import asset
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.igtl import Arrival, Client, Message
from navnode.types import Matrix

__all__ = ["Panel", "add"]

log = logging.getLogger(__name__)

_EVERY_S = 0.5
_MOST_ROWS = 400
_LONGEST_S = 300.0


@dataclass
class _Run:
    """One measurement, running or finished."""

    routine: str
    tool: str
    devices: list[str]
    heard: Heard = field(default_factory=Heard)
    verdict: Calibration[Any] | None = None
    running: bool = True
    problem: str = ""
    saved: str = ""


class _Figure(msgspec.Struct, frozen=True):
    """A gate and its figure; the worst if there are several."""

    name: str
    value: float | None
    gate: float


class _RunState(msgspec.Struct, frozen=True):
    """A measurement, for the page."""

    routine: str
    tool: str
    running: bool
    problem: str
    saved: str
    samples: dict[str, int]
    """Device -> number of samples."""
    passed: bool
    reason: str
    figures: list[_Figure]
    coverage: list[tuple[float, float, float]]
    """Directions of the tool about their mean: degrees to the side and up, and 1 if the pose is used."""
    points: dict[str, float | None]
    """Label -> error, mm."""


class _State(msgspec.Struct, frozen=True):
    """State of the panel, for the page."""

    tools: list[str]
    points: bool
    """Whether points are planned."""
    run: _RunState | None


class Panel:
    """The panel's state and routes.

    Args:
        refuse: raises for requests from other origins.
    """

    def __init__(self, config: Config, refuse: Callable[[web.Request], None]) -> None:
        self._config, self._refuse = config, refuse
        self._run: _Run | None = None
        self._task: asyncio.Task[None] | None = None

    def add_to(self, app: web.Application) -> None:
        """Add the routes below ``/calibration/``."""
        app.router.add_get("/calibration/", self._page)
        app.router.add_get("/calibration/state", self._state)
        app.router.add_get("/calibration/{name}", self._asset)
        app.router.add_post("/calibration/start", self._start)
        app.router.add_post("/calibration/stop", self._stop)
        app.router.add_post("/calibration/save", self._save)
        app.on_cleanup.append(self._cleanup)

    async def _page(self, _: web.Request) -> web.Response:
        return asset("calibration", "panel.html")

    async def _asset(self, request: web.Request) -> web.Response:
        return asset("calibration", request.match_info["name"])

    async def _state(self, request: web.Request) -> web.Response:
        self._refuse(request)
        return self._answer()

    def _answer(self) -> web.Response:
        return web.json_response(msgspec.to_builtins(self.state()))

    def state(self) -> _State:
        """The state for the page."""
        run = self._run
        return _State(
            [tool.name for tool in self._config.tools],
            bool(self._config.calibration.points),
            None if run is None else _run_state(run),
        )

    async def _start(self, request: web.Request) -> web.Response:
        self._refuse(request)
        try:
            asked = msgspec.json.decode(await request.read(), type=dict[str, str])
            run = self._prepared(asked.get("routine", ""), asked.get("tool", ""))
        except (msgspec.DecodeError, ConfigError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        await self._end()
        self._run = run
        self._task = asyncio.create_task(self._collect(run))
        return self._answer()

    def _prepared(self, routine: str, tool: str) -> _Run:
        device = next((each.device for each in self._config.tools if each.name == tool), None)
        if device is None:
            raise ConfigError(f"unknown tool {tool!r}")
        if routine == "pivot":
            return _Run(routine, tool, [device])
        if routine == "patient":
            if not self._config.calibration.points:
                raise ConfigError("calibration.points names no file with planned points")
            return _Run(routine, tool, [device, self._config.devices.patient])
        raise ConfigError(f"{routine!r} is not available here; available: pivot, patient")

    async def _stop(self, request: web.Request) -> web.Response:
        self._refuse(request)
        await self._end()
        return self._answer()

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._run is not None:
            self._run.running = False

    async def _cleanup(self, _: web.Application) -> None:
        await self._end()

    async def _collect(self, run: _Run) -> None:
        """Listen to all sources, and judge the samples twice a second."""
        wanted = set(run.devices)

        def keep(message: Message, arrival: Arrival) -> None:
            record(run.heard, message, arrival.received_ns, wanted)

        clients = [Client(source.host, source.port, keep, tls=source.client_tls) for source in self._config.sources]
        listening = [asyncio.create_task(client.run()) for client in clients]
        try:
            for _ in range(round(_LONGEST_S / _EVERY_S)):
                await asyncio.sleep(_EVERY_S)
                if all(run.heard.times_s.get(device) for device in run.devices):
                    try:
                        run.verdict = await asyncio.to_thread(self._judged, run)
                        run.problem = ""
                    except (ConfigError, CalibrationError) as error:
                        run.problem = str(error)
        finally:
            run.running = False
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    def _judged(self, run: _Run) -> Calibration[Any]:
        series = run.heard.series(run.devices[0], _MOST_ROWS if run.routine == "pivot" else None)
        if run.routine == "pivot":
            return pivot(series.poses)
        assert series.times_s is not None
        marker = recordings.at_times(run.heard.series(run.devices[1]), series.times_s)
        planned = inputs.points(Path(self._config.calibration.points), Files())
        places = steady_places(tips_in_patient(series.poses, marker.poses, self._tip_mm(run.tool)))
        return patient(planned, touched_in_order(planned, places))

    def _tip_mm(self, tool: str) -> Matrix:
        section = next(each for each in self._config.tools if each.name == tool)
        at_ns = self._config.calibration.as_of_ns or now_ns()
        path, kept = section.pivot, self._folder() / f"pivot-{tool}.json"
        if not path and kept.exists():  # saved by this panel
            path, at_ns = str(kept), now_ns()
        if path:
            return np.array(artifacts.usable(path, artifacts.PIVOT, at_ns, device=tool).result.tip_mm)
        return matrix(section.marker_from_tooltip)[:3, 3]

    async def _save(self, request: web.Request) -> web.Response:
        self._refuse(request)
        run = self._run
        if run is None or run.verdict is None or not run.verdict.passed:
            raise web.HTTPConflict(text="only a calibration that passed can be saved")
        of_tool = run.verdict.kind.of_tool
        artifact = run.verdict.artifact(now_ns(), device=run.tool if of_tool else "")
        name = f"pivot-{run.tool}.json" if of_tool else "patient.json"
        try:
            self._folder().mkdir(parents=True, exist_ok=True)
            artifacts.write(self._folder() / name, artifact)
        except (OSError, ConfigError) as error:
            raise web.HTTPInternalServerError(text=str(error)) from error
        run.saved = str(self._folder() / name)
        return self._answer()

    def _folder(self) -> Path:
        folder = self._config.calibration.folder
        return Path(folder) if folder else platformdirs.user_data_path("navnode") / "calibrations"


def add(app: web.Application, config: Config, refuse: Callable[[web.Request], None]) -> None:
    """Mount the panel; the display finds this function by the entry point ``navnode.pages``."""
    Panel(config, refuse).add_to(app)


def _run_state(run: _Run) -> _RunState:
    verdict = run.verdict
    return _RunState(
        routine=run.routine,
        tool=run.tool,
        running=run.running,
        problem=run.problem,
        saved=run.saved,
        samples={device: len(run.heard.times_s.get(device, [])) for device in run.devices},
        passed=verdict is not None and verdict.passed,
        reason=verdict.reason if verdict is not None else "",
        figures=_figures(verdict) if verdict is not None else [],
        coverage=_coverage(verdict) if verdict is not None else [],
        points=plain(verdict.quality.get("fre_mm") or {}) if verdict is not None else {},
    )


def _figures(verdict: Calibration[Any]) -> list[_Figure]:
    """Every gate with its figure; the worst if there are several."""
    rows = []
    for key, limit in verdict.gates.items():
        value = plain(verdict.quality.get(key))
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            value = max([part for part in value if part is not None], default=None)
        rows.append(_Figure(key, value, limit))
    return rows


def _coverage(verdict: Calibration[Any]) -> list[tuple[float, float, float]]:
    data = dict(verdict.pictures).get("directions")
    if data is None:
        return []
    flat, used = from_middle_deg(np.asarray(data["directions"])), np.asarray(data["used"])
    return [(round(float(x), 2), round(float(y), 2), float(ok)) for (x, y), ok in zip(flat, used, strict=True)]
