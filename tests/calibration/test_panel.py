"""The panel beside the display's page: what an operator sees while turning a tool."""

import asyncio

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, web

from navnode import config
from navnode import geometry as g
from navnode.clock import now_ns
from navnode.config import SourceSection
from navnode.display.server import Display
from navnode.files import artifacts
from tests.browser import CHROMIUM, Browser
from tests.calibration.scenes import TIP, pivoting, touching
from tests.calibration.test_collect import streaming
from tests.conftest import find_free_port


def node(tmp_path, port, **more):
    loaded, replace = config.load("demo.toml"), msgspec.structs.replace
    return replace(
        loaded,
        sources=(SourceSection(port=port),),
        calibration=replace(loaded.calibration, folder=str(tmp_path / "kept"), **more),
        display=replace(loaded.display, port=find_free_port()),
    )


class Served:
    """The display's pages, without a node behind them."""

    def __init__(self, given):
        self.display = Display(given, f"tcp://127.0.0.1:{find_free_port()}")
        self.port = given.display.port

    async def __aenter__(self):
        self.runner = web.AppRunner(self.display.application())
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.session = ClientSession(f"http://127.0.0.1:{self.port}")
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.runner.cleanup()

    async def post(self, path, body=None, **more):
        async with self.session.post(f"/calibration/{path}", json=body or {}, **more) as answer:
            return answer.status, await (answer.json() if answer.status == 200 else answer.text())

    async def until(self, good, seconds=60.0):
        for _ in range(round(seconds / 0.2)):
            async with self.session.get("/calibration/state") as answer:
                state = await answer.json()
            if state["run"] and good(state["run"]):
                return state["run"]
            await asyncio.sleep(0.2)
        raise AssertionError(state)


def test_a_pivot_from_the_page_is_kept_when_it_passed(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served:
            assert (await served.post("save"))[0] == 409
            assert (await served.post("start", {"routine": "pivot", "tool": "Saw"}))[0] == 400
            assert (await served.post("start", {"routine": "magic", "tool": "Drill"}))[0] == 400
            assert (await served.post("start", {"routine": "patient", "tool": "Drill"}))[0] == 400
            assert (await served.post("start", {"routine": "pivot", "tool": "Drill"}))[0] == 200
            run = await served.until(lambda run: run["passed"])
            assert len(run["coverage"]) > 20 and {row["name"] for row in run["figures"]} >= {"rms_mm", "spread_rad"}
            assert (await served.post("stop"))[1]["run"]["running"] is False
            status, state = await served.post("save")
            assert status == 200
            kept = artifacts.usable(state["run"]["saved"], artifacts.PIVOT, now_ns(), device="Drill")
            assert np.linalg.norm(np.subtract(kept.result.tip_mm, TIP)) < 0.3

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(0)))) as port:
        asyncio.run(story(port))


@pytest.mark.parametrize("named", [False, True], ids=["tip in numbers", "tip in a file"])
def test_points_of_the_patient_from_the_page(tmp_path, named):
    rng = np.random.default_rng(1)
    volume = {f"p{n}": at for n, at in enumerate(rng.uniform(-60, 60, (5, 3)))}
    lines = ["label,x_mm,y_mm,z_mm", *(f"{k},{v[0]},{v[1]},{v[2]}" for k, v in volume.items())]
    (tmp_path / "planned.csv").write_text("\n".join(lines))
    truth = g.exp(np.array([0.5, 0.2, 1, 100, 20, 30.0]))
    marker = g.exp(np.array([0.1, 0.2, 0.1, 100, 0, -1500.0]))
    given = node(tmp_path, 1, points=str(tmp_path / "planned.csv"))
    tip = config.matrix(given.tools[0].marker_from_tooltip)[:3, 3]
    if named:
        tip = TIP
        found = artifacts.Artifact(kind="pivot", status="PASS", result=artifacts.PivotResult(artifacts.vector(TIP)))
        artifacts.write(tmp_path / "tip.json", found)
        tools = (msgspec.structs.replace(given.tools[0], pivot=str(tmp_path / "tip.json")), *given.tools[1:])
        given = msgspec.structs.replace(given, tools=tools)
    path = g.transform(marker @ g.inverse(truth), touching(list(volume.values()), rng))
    stylus = [g.rigid(None, tuple(at - tip)) for at in path]
    stylus += [stylus[-1]] * 5000

    async def story(port):
        changed = msgspec.structs.replace(given, sources=(SourceSection(port=port),))
        async with Served(changed) as served:
            assert (await served.post("start", {"routine": "patient", "tool": "Drill"}))[0] == 200
            run = await served.until(lambda run: run["passed"])
            assert set(run["points"]) == set(volume)

    with streaming(("PatientToTracker", [marker] * 9000), ("DrillToTracker", stylus)) as port:
        asyncio.run(story(port))


def test_other_sites_cannot_use_it(tmp_path):
    async def story():
        async with Served(node(tmp_path, find_free_port())) as served:
            foreign = {"Origin": "http://elsewhere.example"}
            body = {"routine": "pivot", "tool": "Drill"}
            assert (await served.post("start", body, headers=foreign))[0] == 403
            async with served.session.get("/calibration/state", headers={"Host": "elsewhere.example"}) as answer:
                assert answer.status == 403
            async with served.session.get("/calibration/../server.py") as answer:
                assert answer.status == 404
            async with served.session.get("/calibration/panel.py") as answer:
                assert answer.status == 404

    asyncio.run(story())


def test_a_tool_that_is_silent_is_told(tmp_path):
    async def story():
        async with Served(node(tmp_path, find_free_port())) as served:
            await served.post("start", {"routine": "pivot", "tool": "Drill"})
            run = await served.until(lambda run: run["running"])
            assert run["samples"] == {"DrillToTracker": 0} and not run["passed"]

    asyncio.run(story())


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_panel_in_a_browser(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served, Browser() as browser:
            await browser.open(f"http://127.0.0.1:{served.port}/calibration/")
            await browser.wait_for("document.getElementById('tool').value === 'Drill'")
            await browser.evaluate("document.querySelector('[data-routine=pivot]').click()")
            await browser.wait_for("document.getElementById('say').textContent.startsWith('PASS')")
            await browser.wait_for("document.querySelectorAll('#coverage circle.used').length > 20")
            await browser.screenshot(tmp_path / "panel.png")
            await browser.evaluate("document.getElementById('save').click()")
            await browser.wait_for("document.getElementById('say').textContent.includes('kept as')")
            assert not [e for e in browser.errors if "GPU stall" not in e], browser.errors

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(2)))) as port:
        asyncio.run(story(port))
