"""The page while everything is being prepared, and how the display's own takes over, in a browser."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import msgspec
import pytest

from navnode.config import DisplaySection
from navnode.display.scene import Scene
from navnode.display.server import run_display
from navnode.display.waiting import WaitingPage
from navnode.errors import ConfigError
from tests.browser import CHROMIUM, Browser
from tests.conftest import find_free_port
from tests.display.stage import picture
from tests.loop.theatre import configuration


def asked(port: int) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/preparing", timeout=5) as answer:
        return dict(json.load(answer))


def test_it_says_what_is_prepared_and_how_far_and_gives_the_port_back():
    port = find_free_port()
    with WaitingPage(DisplaySection(port=port)) as page:
        assert asked(port) == {"what": "", "done": 0, "total": 0}
        page.tell(3, 80, "Rendering X-rays (once)")
        assert asked(port) == {"what": "Rendering X-rays (once)", "done": 3, "total": 80}
        with pytest.raises(ConfigError, match="in use"), WaitingPage(DisplaySection(port=port)):
            pass
        page.give_way()
        with WaitingPage(DisplaySection(port=port)):
            assert asked(port)["done"] == 0
    with pytest.raises(OSError):  # nobody is there
        asked(port)


def test_where_there_is_no_page_nothing_is_served():
    port = find_free_port()
    with WaitingPage(DisplaySection(port=port, enabled=False)) as page, pytest.raises(OSError):
        page.tell(1, 2, "x")
        asked(port)


def test_a_node_that_was_never_heard_is_starting_and_not_lost():
    assert Scene().describe(10**12)["registration"] == {"status": "INVALID", "reason": "the node is starting"}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_displays_own_page_takes_over(tmp_path):
    port = find_free_port()
    own = configuration()
    own = msgspec.structs.replace(own, display=msgspec.structs.replace(own.display, port=port))

    async def story() -> None:
        async with Browser() as browser:
            with WaitingPage(own.display) as page:
                await browser.open(f"http://127.0.0.1:{port}/")
                page.tell(20, 80, "Rendering X-rays (once)")
                await browser.wait_for("document.getElementById('count')?.textContent === '20 / 80'", 10)
                assert "virtual room" in await browser.evaluate("document.getElementById('what').textContent")
                assert await browser.evaluate("document.getElementById('share').position") == 0.25
                await picture(browser, tmp_path / "waiting.png")
            await browser.wait_for("document.getElementById('what').textContent === 'The node is starting'", 10)
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(run_display(own, "ipc:///tmp/navnode-test-no-node", ready.set_result))
            await ready
            said = "document.querySelector('#silence strong')?.textContent"
            await browser.wait_for(f"{said} === 'The node is starting'", 20)
            await picture(browser, tmp_path / "starting.png")
            serving.cancel()

    asyncio.run(story())
