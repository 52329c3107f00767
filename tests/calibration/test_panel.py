"""The calibration page of the display: the guide, as an operator sees it."""

import asyncio
import contextlib
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from calibration import (
    carm,
    flatfield,
    flex,
    handeye,
    patient,
    phantom,
    pivot,
    room,
    spin,
    temporal,
    tool,
    verdict,
)
from calibration.panel import Panel
from navnode import config
from navnode import geometry as g
from navnode.clock import now_ns
from navnode.config import SourceSection
from navnode.display.server import Display
from navnode.files import artifacts
from tests.axe import needs_axe, serious
from tests.browser import CHROMIUM, Browser
from tests.calibration.scenes import TIP, pivoting, touching
from tests.calibration.test_collect import streaming
from tests.conftest import find_free_port
from tests.patience import OutOfPatienceError


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

    async def shown_in(self, browser):
        """Open the page, and wait until it lists what can be measured."""
        await browser.open(f"http://127.0.0.1:{self.port}/calibration/")
        await browser.wait_for("document.querySelectorAll('#steps li').length >= 9")

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
        raise OutOfPatienceError(state)


def test_a_pivot_from_the_page_is_kept_when_it_passed(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served:
            assert (await served.post("keep"))[0] == 409
            assert (await served.post("begin", {"step": "pivot-Saw"}))[0] == 400
            assert (await served.post("begin", {"step": "magic"}))[0] == 400
            assert (await served.post("begin", {"step": "pivot-Drill", "tool": "Saw"}))[0] == 400
            status, text = await served.post("begin", {"step": "patient"})
            assert status == 400 and text == "calibration.points is not set in the configuration"
            assert (await served.post("begin", {"step": "pivot-Drill"}))[0] == 200
            run = await served.until(lambda run: run["complete"])
            assert (await served.post("keep"))[0] == 409  # it is still measured
            assert len(run["coverage"]["places"]) > 20 and run["share"] == 1.0
            figures = {row["key"]: row for row in run["verdicts"][0]["figures"]}
            tilt = figures["axis_spread_rad"]
            assert tilt["unit"] == "°" and tilt["at_least"] and tilt["kept"] and tilt["value"] > tilt["limit"] > 20
            assert (await served.post("stop"))[1]["run"]["running"] is False
            await served.until(lambda run: not run["judging"])
            status, state = await served.post("keep")
            assert status == 200 and state["run"]["kept"] == ["pivot-Drill"]
            step = next(step for step in state["steps"] if step["name"] == "pivot-Drill")
            assert step["state"] == "kept" and step["used"] == "next_start"
            kept = artifacts.usable(step["path"], artifacts.PIVOT, now_ns(), device="Drill")
            assert np.linalg.norm(np.subtract(kept.result.tip_mm, TIP)) < 0.3

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(0)))) as port:
        asyncio.run(story(port))


def test_several_who_press_measure_at_once_leave_one_measurement_which_ends(tmp_path):
    async def story():
        panel = Panel(node(tmp_path, find_free_port()), lambda request: None)
        listening = []

        async def listen(run, **_):
            listening.append(run)
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)  # closes its connections
                listening.remove(run)

        panel._guide.listen = listen
        app = web.Application()
        panel.add_to(app)
        async with TestServer(app) as server, ClientSession() as session:

            async def post(path):
                async with session.post(
                    server.make_url(f"/calibration/{path}"), json={"step": "pivot-Drill"}
                ) as answer:
                    return answer.status

            assert await post("begin") == 200
            assert await asyncio.gather(*(post("begin") for _ in range(4))) == [200] * 4
            await asyncio.sleep(0.2)
            assert listening == [panel._guide.run]
            assert await asyncio.gather(post("begin"), post("stop"), post("begin"), post("discard")) == [200] * 4
            assert await post("stop") == 200
            assert not listening
            assert await post("begin") == 200
        assert not listening

    asyncio.run(story())


def test_forms_of_other_sites_calibrate_nothing(tmp_path):
    async def story():
        async with Served(node(tmp_path, find_free_port())) as served:
            for path in ("begin", "stop", "keep", "discard", "skip"):
                for kind in ("text/plain", "application/x-www-form-urlencoded"):
                    answer = await served.session.post(
                        f"/calibration/{path}", data=b"{}", headers={"Content-Type": kind}
                    )
                    assert answer.status == 415

    asyncio.run(story())


def test_what_is_discarded_is_not_kept(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served:
            await served.post("begin", {"step": "pivot-Drill"})
            await served.until(lambda run: run["complete"])
            assert (await served.post("discard"))[1]["run"]["discarded"]
            assert (await served.post("keep"))[0] == 409
            assert not (tmp_path / "kept").exists()

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(3)))) as port:
        asyncio.run(story(port))


def test_a_step_is_left_out_and_taken_back(tmp_path):
    async def story():
        async with Served(node(tmp_path, find_free_port())) as served:
            state = (await served.post("skip", {"step": "flex", "skipped": True}))[1]
            out = {step["name"] for step in state["steps"] if step["skipped"]}
            assert out == {"carm", "flex", "handeye"}  # one measurement
            state = (await served.post("skip", {"step": "carm", "skipped": False}))[1]
            assert not any(step["skipped"] for step in state["steps"])
            assert (await served.post("skip", {"step": "none"}))[0] == 400

    asyncio.run(story())


@pytest.mark.parametrize("named", [False, True], ids=["tip in numbers", "tip in a file"])
@pytest.mark.long
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
            assert (await served.post("begin", {"step": "patient", "tool": "Drill"}))[0] == 200
            run = await served.until(lambda run: run["complete"])
            assert set(run["verdicts"][0]["points"]) == set(volume)
            assert [label for label, done in run["coverage"]["labels"] if done] == list(volume)

    with streaming(("PatientToTracker", [marker] * 9000), ("DrillToTracker", stylus)) as port:
        asyncio.run(story(port))


def test_other_sites_cannot_use_it(tmp_path):
    async def story():
        async with Served(node(tmp_path, find_free_port())) as served:
            foreign = {"Origin": "http://elsewhere.example"}
            body = {"step": "pivot-Drill"}
            assert (await served.post("begin", body, headers=foreign))[0] == 403
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
            await served.post("begin", {"step": "pivot-Drill"})
            run = await served.until(lambda run: run["running"])
            assert run["samples"] == {"DrillToTracker": 0} and not run["complete"]
            await served.post("stop")
            run = await served.until(lambda run: run["problem"])
            assert run["problem"].startswith("nothing received from DrillToTracker")

    asyncio.run(story())


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@needs_chromium
@pytest.mark.long
def test_the_page_is_worked_by_keys_alone(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served, Browser() as browser:
            await served.shown_in(browser)
            await press(browser, "ArrowUp")
            await browser.wait_for(
                "document.querySelector('[aria-current=step] .name').textContent === 'Marker of Drill'"
            )
            await press(browser, "ArrowDown")
            await browser.wait_for("document.getElementById('title').textContent === 'Tip of Drill'")
            await press(browser, "Enter")
            await browser.wait_for("document.getElementById('measure').textContent === 'Stop'")
            await browser.wait_for("document.querySelectorAll('#coverage circle.used').length > 20")
            assert await browser.evaluate("document.getElementById('coverage').getBoundingClientRect().height") > 100
            await browser.wait_for("document.getElementById('advice').textContent.startsWith('Passed')")
            await browser.screenshot(tmp_path / "panel.png")
            await press(browser, "k")
            await browser.wait_for("document.getElementById('advice').textContent.startsWith('Kept')")
            assert "next start" in await browser.evaluate("document.getElementById('advice').textContent")
            assert not [e for e in browser.errors if "GPU stall" not in e], browser.errors

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(2)))) as port:
        asyncio.run(story(port))


@needs_chromium
@pytest.mark.long
@pytest.mark.parametrize(
    ("ends", "told"), [("stream", "Nothing comes any more"), ("server", "The source does not answer")]
)
def test_a_source_that_ends_in_the_middle_is_told_on_the_page(tmp_path, ends, told):
    poses = pivoting(6000, np.random.default_rng(8))
    hardly_tilted = [poses[n % 40] for n in range(100_000)]
    served_by = contextlib.ExitStack()

    async def story(port):
        async with Served(node(tmp_path, port)) as served, Browser() as browser:
            await served.shown_in(browser)
            await served.post("begin", {"step": "pivot-Drill"})
            await served.until(lambda run: run["samples"]["DrillToTracker"] > 50)
            if ends == "stream":
                hardly_tilted.clear()
            else:
                await asyncio.to_thread(served_by.close)
            advice = "document.getElementById('advice')"
            await browser.wait_for(f"{advice}.className === 'bad'", 20)
            said = await browser.evaluate(f"{advice}.textContent")
            assert said.startswith(told), said
            assert (await served.until(lambda run: True))["running"], "what was measured so far is not thrown away"

    with served_by:
        asyncio.run(story(served_by.enter_context(streaming(("DrillToTracker", hardly_tilted)))))


@needs_chromium
@pytest.mark.long
def test_enter_chooses_the_step_that_has_the_focus_and_no_result_is_lost_to_it(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served, Browser() as browser:
            await served.shown_in(browser)
            await served.post("begin", {"step": "pivot-Drill"})
            await served.until(lambda run: run["complete"])
            await served.post("stop")
            await served.until(lambda run: not run["judging"])
            step = "[...document.querySelectorAll('#steps button')].find((n) => n.innerText.includes('{}'))"
            await browser.evaluate(step.format("Tip of Drill") + ".click()")
            await browser.wait_for("document.getElementById('advice').textContent.startsWith('Passed')")
            await browser.evaluate(step.format("Axis of Drill") + ".focus()")
            await press(browser, "Enter")
            await asyncio.sleep(1.0)
            assert await browser.evaluate("document.getElementById('keep').disabled") is False, "measured anew"
            await browser.evaluate(step.format("Axis of Drill") + ".click()")
            await browser.evaluate("document.getElementById('measure').click()")
            await browser.wait_for(
                "document.getElementById('advice').textContent === 'Keep or discard Tip of Drill first'"
            )
            await browser.evaluate(step.format("Tip of Drill") + ".click()")
            await press(browser, "d")
            await browser.wait_for("document.getElementById('discard').textContent.startsWith('Really')")
            assert not (await served.until(lambda run: True))["discarded"]
            await asyncio.sleep(0.5)
            await press(browser, "d")
            await served.until(lambda run: run["discarded"], 10)

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(3)))) as port:
        asyncio.run(story(port))


async def press(browser, key):
    await browser.evaluate(
        f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }}))"
    )


WORDS = """import('/calibration/words.js').then(({ WORDS }) => WORDS)"""


@needs_chromium
def test_every_word_is_there_in_every_language_and_fits(tmp_path):
    """Whatever the server may name has words; no size of window has to be scrolled sideways."""

    async def look():
        async with Served(node(tmp_path, find_free_port())) as served, Browser() as browser:
            await served.shown_in(browser)
            words = await browser.evaluate(WORDS)
            for width, height in ((1280, 800), (1920, 1080), (1024, 768)):
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                await browser.call("Emulation.setDeviceMetricsOverride", **metrics)
                for language in ("en", "de", "zh"):
                    await browser.evaluate(
                        f"{{ const c = document.getElementById('language'); c.value = '{language}';"
                        "c.dispatchEvent(new Event('change')); }"
                    )
                    assert await browser.evaluate("document.documentElement.lang") == language
                    wide = "document.scrollingElement.scrollWidth <= innerWidth && [...document.querySelectorAll("
                    wide += "'main, nav, button')].every((e) => e.scrollWidth <= e.clientWidth + 1)"
                    assert await browser.evaluate(wide), (width, language)
            return words

    words = asyncio.run(look())
    assert all(len(texts) == 3 and all(text.strip() for text in texts) for texts in words.values())
    modules = (carm, flatfield, flex, handeye, patient, phantom, pivot, spin, temporal, tool)
    gates = [gate for module in modules for gate in module.GATES]
    wanted = {f"figure.{gate.key}" for gate in gates} | {f"code.{gate.code}" for gate in gates}
    sources = "".join(Path(module.__file__).read_text() for module in (*modules, verdict))
    wanted |= {f"code.{code}" for code in re.findall(r'f?"([a-z_]+): [^"]', sources)}
    wanted |= {f"{part}.{kind.name}" for kind in artifacts.KINDS for part in ("title", "without")}
    wanted |= {f"task.{measurement}" for measurement in room.MEASUREMENTS}
    wanted |= {f"used.{used}" for used in room.Used} | {f"need.{need}" for need in room.Need}
    assert wanted <= set(words), sorted(wanted - set(words))


@needs_axe
@needs_chromium
def test_axe_finds_nothing_serious(tmp_path):
    async def story(port):
        async with Served(node(tmp_path, port)) as served, Browser() as browser:
            await served.shown_in(browser)
            found = {"before": await serious(browser)}
            await served.post("begin", {"step": "pivot-Drill"})
            await browser.evaluate("[...document.querySelectorAll('#steps button')][1].click()")
            await browser.wait_for("document.querySelectorAll('#coverage circle.used').length > 20")
            found["measuring"] = await serious(browser)
            await served.post("stop")
            await browser.wait_for("!document.getElementById('keep').disabled")
            found["measured"] = await serious(browser)
            assert found == {"before": [], "measuring": [], "measured": []}

    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(6)))) as port:
        asyncio.run(story(port))


SHOT = """((shot) => {
  const real = window.fetch;
  window.fetch = async (path, ...more) => {
    const answer = await real(path, ...more);
    if (path !== 'state') return answer;
    const run = { measurement: 'shots', steps: ['carm', 'flex', 'handeye'], tool: '', running: true, judging: false,
      problem: '', samples: { XRay: 3, Marker: 3 }, shot,
      coverage: { kind: 'angles', places: [[0, 0, true]], labels: [] },
      share: 0.25, complete: false, verdicts: [], kept: [], discarded: false };
    return new Response(JSON.stringify({ ...(await answer.json()), run }));
  };
})"""


SHOTS = (
    "{number: 1, beads: 24, of: 26, residual_px: 1.7044}",
    "{number: 2, beads: 0, of: 26, residual_px: null}",
)


@needs_chromium
def test_the_residual_of_the_newest_shot_is_said_while_shots_come(tmp_path):
    async def look():
        async with Served(node(tmp_path, find_free_port())) as served, Browser() as browser:
            await served.shown_in(browser)
            await browser.evaluate(
                "[...document.querySelectorAll('#steps button')].find((n) => n.innerText.includes('geometry')).click()"
            )
            for shot in SHOTS:
                await browser.evaluate(f"{SHOT}({shot})")
                before = said[-1] if said else ""
                await browser.wait_for(f"document.getElementById('shot').textContent !== '{before}'", 10)
                said.append(await browser.evaluate("document.getElementById('shot').textContent"))
            await browser.screenshot(tmp_path / "shot.png")

    said = []
    asyncio.run(look())
    assert "24 of 26 beads, residual 1.7 px" in said[0]
    assert "the phantom is not recognised" in said[1] and "residual" not in said[1]
