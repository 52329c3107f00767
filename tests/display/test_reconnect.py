"""What an open page keeps when another server answers, and what it makes of messages that waited on the way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web

from navnode.display.server import Display
from navnode.types import VolumeUpdate
from tests.browser import CHROMIUM, Browser
from tests.conftest import find_free_port
from tests.display.stage import VALID, Stage, click, phantom, tube
from tests.loop.theatre import configuration
from tests.patience import until_async

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

LIGHT = """(() => {
  const { width, height } = document.getElementById('gl');
  const pen = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d');
  pen.drawImage(document.getElementById('gl'), 0, 0);
  return pen.getImageData(0, 0, width, height).data.filter((value, at) => at % 4 === 0 && value > 60).length;
})()"""
"""How many pixels of the slices and of the bone are not black."""

SHADES = """(() => {
  const copy = Object.assign(document.createElement('canvas'), { width: 96, height: 96 }), pen = copy.getContext('2d');
  pen.drawImage(document.getElementById('gl'), 0, 0, 96, 96);
  return [...pen.getImageData(0, 0, 96, 96).data].filter((_, at) => at % 4 === 0);
})()"""
"""What slices and bone show, coarsely."""


def served(name: str, port: int, volume: str = "phantom") -> tuple[Stage, web.AppRunner]:
    display = Display(configuration(case={"name": name}), f"ipc:///tmp/navnode-test-no-{name}")
    stage = Stage(display)
    stage.tools, stage.more = {}, {"volume": volume, "epoch": hash(name)}
    return stage, web.AppRunner(display.application(), access_log=None)


async def listening(runner: web.AppRunner, port: int) -> None:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


@pytest.mark.long
def test_the_next_patients_node_finds_nothing_of_the_last_one(tmp_path):
    async def story() -> None:
        port = find_free_port()
        first, runner = served("A", port)
        first.display._on_volume(VolumeUpdate(phantom(), tube(), "navigation", VALID, "CT", 0))
        stages = [first]

        async def speak() -> None:
            while True:
                stages[0].show()
                await asyncio.sleep(0.04)

        speaking = asyncio.create_task(speak())
        await listening(runner, port)
        async with Browser() as browser:
            await browser.open(f"http://127.0.0.1:{port}/")
            await browser.wait_for(f"!document.body.classList.contains('silent') && {LIGHT} > 1000")
            await browser.evaluate("document.getElementById('measure').click()")
            await runner.cleanup()
            stages[0], runner = served("B", port, volume="")
            await listening(runner, port)
            named = "document.getElementById('case-name').textContent === 'B'"
            await browser.wait_for(f"{named} && !document.body.classList.contains('silent')")
            await browser.wait_for(f"{LIGHT} === 0", 10)
            assert await browser.evaluate("document.getElementById('hint').hidden"), "it asks nothing of the old one"
            hu = np.where(phantom().voxels > 0, np.float32(900), np.float32(-1000))
            other = dataclasses.replace(phantom(), voxels=hu)
            stages[0].more["volume"] = "B"
            stages[0].display._on_volume(VolumeUpdate(other, None, "navigation", VALID, "CT", 0))
            await browser.wait_for(f"{LIGHT} > 1000", 10)
            await browser.screenshot(tmp_path / "b.png")
        await runner.cleanup()
        speaking.cancel()

    asyncio.run(story())


class Network:
    """Between a browser and a server: it carries everything in order, as late as it is told, or nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.delay_s = 0.0
        """From the server to the browser."""
        self.swallows = False
        self.connections = list[asyncio.StreamWriter]()

    async def between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._port)
        self.connections.extend((writer, outer))
        await asyncio.gather(self._carry(reader, outer, late=0.0), self._carry(inner, writer, late=1.0))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, late: float) -> None:
        loop, at_s = asyncio.get_running_loop(), 0.0
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                at_s = max(at_s, loop.time() + late * self.delay_s)
                if not self.swallows:
                    loop.call_at(at_s, sink.write, data)


@contextlib.asynccontextmanager
async def seen_through(delay_s: float = 0.0) -> AsyncIterator[tuple[Browser, Network]]:
    """A page with a volume, in a browser behind a network."""
    port = find_free_port()
    stage, runner = served("A", port)
    stage.display._on_volume(VolumeUpdate(phantom(), tube(), "navigation", VALID, "CT", 0))
    network = Network(port)
    network.delay_s = delay_s

    async def speak() -> None:
        while True:
            stage.show()
            await asyncio.sleep(0.04)

    speaking = asyncio.create_task(speak())
    await listening(runner, port)
    proxy = await asyncio.start_server(network.between, "127.0.0.1", 0)
    async with Browser() as browser:
        await browser.open(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/")
        yield browser, network
    proxy.close()
    for each in network.connections:
        each.close()
    await runner.cleanup()
    speaking.cancel()


@pytest.mark.long
def test_a_network_on_which_everything_takes_two_seconds_shows_nothing_as_current():
    """What comes is as late as what came before, from the first message on."""

    async def story() -> None:
        state = "document.getElementById('state').textContent"
        async with seen_through(delay_s=2.0) as (browser, network):
            await browser.wait_for(f"{state} === 'INVALID'", 30)
            seen = set()
            for _ in range(80):
                seen.add(await browser.evaluate(state))
                await asyncio.sleep(0.1)
            assert seen == {"INVALID"}
            network.delay_s = 0.0
            await browser.wait_for(f"{state} === 'VALID'", 30)

    asyncio.run(story())


@pytest.mark.long
def test_a_network_that_swallows_everything_for_a_while_is_left_and_what_was_chosen_stays():
    """It closes nothing, as a cable that is pulled; the same volume then comes once more."""

    async def story() -> None:
        async with seen_through() as (browser, network):
            await browser.wait_for(f"!document.body.classList.contains('silent') && {LIGHT} > 1000")
            left, top = await browser.evaluate(
                "((b) => [b.left + b.width / 2, b.top + b.height / 2])"
                "(document.querySelector('[data-pane=axial]').getBoundingClientRect())"
            )
            middle = np.array(await browser.evaluate(SHADES))
            await click(browser, left + 25, top + 15)
            await asyncio.sleep(0.5)
            chosen = np.array(await browser.evaluate(SHADES))
            assert np.abs(chosen - middle).mean() > 1, "other slices than those through the middle"
            network.swallows = True
            await browser.wait_for("document.body.classList.contains('silent')", 20)
            old = list(network.connections)
            await until_async(lambda: len(network.connections) > len(old), 30)
            assert not any(each.is_closing() for each in old[:1]), "nobody but the page ended the connection"
            network.swallows = False
            await browser.wait_for(f"!document.body.classList.contains('silent') && {LIGHT} > 1000", 40)
            await asyncio.sleep(0.5)
            assert np.abs(np.array(await browser.evaluate(SHADES)) - chosen).mean() < 0.2

    asyncio.run(story())


def test_how_long_a_message_waited_is_told_though_clocks_differ():
    tried = """import('/static/delay.js').then(({ Delay }) => {
      const delay = new Delay(), come = (sent, now) => Math.round(delay.of(sent, now));
      return [come(5e6, 100), come(5e6 + 20, 130), come(5e6 + 40, 140), come(5e6 + 60, 2160), come(5e6 + 2080, 2181),
              come(5e6 + 3.6e6, 100 + 3.6e6 * 1.00005)];
    })"""

    async def story() -> None:
        port = find_free_port()
        _, runner = served("A", port)
        await listening(runner, port)
        async with Browser() as browser:
            await browser.open(f"http://127.0.0.1:{port}/")
            await browser.wait_for("document.readyState === 'complete'")
            waited_ms = await browser.evaluate(tried)
        await runner.cleanup()
        assert waited_ms[:3] == [0, 10, 0], "one is the quickest, by whatever clock"
        assert waited_ms[3] == 2000 and waited_ms[4] <= 2, "a stall, and what came behind it"
        assert waited_ms[5] == 0, "an hour of clocks that are 50 ppm apart is no delay"

    asyncio.run(story())
