"""The page's server without a node: a test says what the node reports, and looks at the page in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
from aiohttp.test_utils import TestServer

from navnode import config
from navnode import geometry as g
from navnode.display.server import Display
from navnode.igtl import Handler, Server
from navnode.igtl.plus import CommandError
from navnode.simulation.scenario import Scenario, carm_of_size
from navnode.types import (
    Frame,
    Mesh,
    NodeState,
    Output,
    Plan,
    PlanDeviation,
    RegisteredFrame,
    Status,
    ToolPose,
    Validity,
    Volume,
    VolumeUpdate,
)
from tests.browser import Browser
from tests.loop.theatre import configuration

VALID = Validity(Status.VALID)
CARM = carm_of_size(256)
ROOM = Scenario(isocentre_mm=np.array([0.0, 0.0, 0.0]), targets_mm=np.zeros((1, 3)))
PLAN = Plan("L4 left", (20.0, -60.0, 10.0), (5.0, -10.0, 0.0))


def phantom() -> Volume:
    """A box of soft tissue with a column of bone that is not symmetric, 200 mm wide, around the origin."""
    k, j, i = np.mgrid[0:50, 0:50, 0:50] * 4.0 - 98.0
    hu = np.where((np.abs(i) < 80) & (np.abs(j) < 60), 40.0, -1000.0)
    hu = np.where(np.hypot(i - 8, j + 20) < 18 + 4 * np.sin(k / 9), 900.0, hu)
    volume_from_index = np.diag([4.0, 4.0, 4.0, 1.0])
    volume_from_index[:3, 3] = -98.0
    return Volume(hu.astype(np.float32), volume_from_index, "phantom")


def tube() -> Mesh:
    """An open tube around the phantom's bone."""
    angle, height = np.meshgrid(np.linspace(0, 2 * np.pi, 24, endpoint=False), np.linspace(-90, 90, 10))
    points = np.stack([8 + 18 * np.cos(angle), -20 + 18 * np.sin(angle), height], axis=-1).reshape(-1, 3)
    row, column = np.mgrid[0:9, 0:24]
    a, b = row * 24 + column, row * 24 + (column + 1) % 24
    triangles = np.stack([a, b, a + 24, b, b + 24, a + 24], axis=-1).reshape(-1, 3)
    return Mesh(points.astype(np.float32), triangles.astype(np.uint32))


class Stage:
    """What the node reports, repeated as often as a node would; change it, and look at the page.

    ``asked`` holds the commands that came from the page, with their parameters.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, str] = {}
        """By command: what the node says no with."""
        self.says: dict[str, str] = {}
        """By command: what else the node says than that it is done."""
        self.registration = VALID
        self.tools: dict[str, tuple[np.ndarray | None, Validity]] = {"Drill": (drill(), VALID)}
        self.frames: dict[int, bool] = {0: True, 1: False}
        """By slot: whether it is live."""
        self.deviation: PlanDeviation | None = None
        self.speaking = True
        self.more: dict[str, object] = {}
        """Further fields of the node's state."""
        self._frames = {slot: _xray(slot) for slot in self.frames}
        self._told: set[int] = set()

    def show(self) -> None:
        """Tell the page's server everything once."""
        if not self.speaking:
            return
        for output in self._outputs():
            self.display._on_output(output, time.monotonic_ns())

    def _outputs(self) -> list[Output]:
        now = time.monotonic_ns()
        active = next(iter(self.tools), "")
        sources = {"room:18945": ""}
        state = NodeState(
            self.registration,
            {name: validity for name, (_, validity) in self.tools.items()},
            *(sources, "SART", True, "phantom", 120, 118, 14.2, 0, {}, {}, (), now, 1, active),
            target_sigma_mm=0.82,
        )
        outputs: list[Output] = [dataclasses.replace(state, **self.more)]
        outputs += [ToolPose(name, pose, validity, now) for name, (pose, validity) in self.tools.items()]
        if self.deviation is not None:
            outputs.append(self.deviation)
        for slot, live in sorted(self.frames.items(), key=lambda item: item[1]):
            if live or slot not in self._told:
                self._told.add(slot)
                outputs.append(self._frames[slot])
        return outputs


def drill(
    tip_mm: tuple[float, float, float] = (14.0, -40.0, 6.0), towards: Plan = PLAN, off_rad: float = 0.03
) -> np.ndarray:
    """volume_from_tool of a drill at a point, along a plan but for an angle."""
    along = np.array(towards.target_mm) - np.array(towards.entry_mm)
    along /= np.linalg.norm(along)
    first = np.cross(along, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    rotation = np.stack([first, np.cross(along, first), along], axis=1)
    return g.rigid(g.rotation_exp(first * off_rad) @ rotation, tip_mm)


def _xray(slot: int) -> RegisteredFrame:
    v, u = np.mgrid[0:256, 0:256]
    line = np.exp(-(((u - 118 - 20 * slot) / 30.0) ** 2)) + 0.3 * (np.hypot(u - 128, v - 90) < 60)
    counts = np.random.default_rng(slot).poisson(20000 * np.exp(-2 * line)).astype(np.uint16)
    frame = Frame(counts, 7 + slot, 7 + slot, 1)
    return RegisteredFrame(frame, CARM, ROOM.volume_from_carm(9.0 * slot), VALID, 0.02, 0.99, slot, 7 + slot)


Look = Callable[[Browser, Stage], Awaitable[None]]


def staged(
    look: Look,
    *,
    size: tuple[int, int] = (1280, 800),
    language: str = "en",
    volume: bool = True,
    **more: object,
) -> None:
    """Run ``look(browser, stage)`` with a page open at a size in px; ``more`` goes into the configuration.

    Args:
        volume: whether the page's server has a volume.
    """

    async def story() -> None:
        async with _served(volume, **more) as (stage, url), Browser() as browser:
            width, height = size
            await browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            await browser.call("Page.enable")
            script = f"Object.defineProperty(navigator, 'languages', {{get: () => ['{language}']}})"
            await browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)
            await browser.open(url)
            await browser.wait_for("!document.body.classList.contains('silent')")
            await look(browser, stage)
            faults = [each for each in browser.errors if "GPU stall" not in each and "WebGL" not in each]
            assert not faults, faults

    asyncio.run(story())


@contextlib.asynccontextmanager
async def _served(volume: bool, **more: object) -> AsyncIterator[tuple[Stage, str]]:
    stages: list[Stage] = []

    def heard(name: str) -> Handler:
        def answer(parameters: dict[str, str]) -> str:
            stages[0].asked.append((name, parameters))
            if refusal := stages[0].answers.get(name):
                raise CommandError(refusal)
            return stages[0].says.get(name, f"{name} done")

        return answer

    plans, tools = ("PlanAdd", "PlanActivate", "PlanRemove"), ("SetTool", "ConfirmTool", "CheckTip")
    names = (*plans, *tools, "RegistrationAccept", "StartRecording", "StopRecording", "Reconnect")
    console = Server("127.0.0.1", 0, commands={name: heard(name) for name in names})
    await console.start()
    own: config.Config = configuration(**more)
    own = msgspec.structs.replace(own, console=msgspec.structs.replace(own.console, port=console.port))
    display = Display(own, "ipc:///tmp/navnode-test-no-node")
    stages.append(Stage(display))
    if volume:
        display._on_volume(VolumeUpdate(phantom(), tube(), "navigation", VALID, "CT", 0))

    async def speak() -> None:
        while True:
            stages[0].show()
            await asyncio.sleep(0.04)

    speaking = asyncio.create_task(speak())
    try:
        async with TestServer(display.application(), host="127.0.0.1") as server:
            yield stages[0], str(server.make_url("/"))
    finally:
        speaking.cancel()
        await console.stop()


async def picture(browser: Browser, path: Path) -> Path:
    """A screenshot, after what was changed is drawn."""
    await asyncio.sleep(0.4)
    await browser.screenshot(path)
    return path


async def click(browser: Browser, x: float, y: float, button: str = "left", count: int = 1) -> None:
    """A click of the mouse at a place of the page, px."""
    for kind in ("mousePressed", "mouseReleased"):
        await browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=count)


async def key(browser: Browser, name: str) -> None:
    """A key pressed and let go, by its DOM name."""
    codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
    text = {"text": "\r"} if name == "Enter" else {"text": " "} if name == " " else {}
    for kind in ("keyDown", "keyUp"):
        await browser.call(
            "Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=codes.get(name, 0), **text
        )
