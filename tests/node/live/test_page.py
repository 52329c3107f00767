"""The page of a running node, in a browser."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.long


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page(live, tmp_path):
    supervisor, _ = live

    async def look() -> None:
        async with Browser() as browser:
            await browser.open(f"http://127.0.0.1:{supervisor.config.display.port}/")
            await browser.wait_for("!document.body.classList.contains('silent')")
            await browser.evaluate("document.getElementById('details-open').click()")
            await browser.wait_for("document.body.innerText.includes('Registration VALID')")
            await browser.wait_for("document.body.innerText.includes('LIVE')")
            text = await browser.evaluate("document.body.innerText")
            assert "Not a medical device" in text and "Drill" in text
            # Something is drawn in every quarter: slices, bone and X-ray are not one colour.
            for canvas in ("#gl", "#view-0 canvas"):
                varied = f"""(() => {{ const c = document.querySelector('{canvas}');
                    const s = document.createElement('canvas'); s.width = s.height = 64;
                    const p = s.getContext('2d'); p.drawImage(c, 0, 0, 64, 64);
                    return new Set(p.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 === 0)).size > 20; }})()"""
                await browser.wait_for(varied)
            await browser.screenshot(tmp_path / "page.png")
            assert not [e for e in browser.errors if "GPU stall" not in e], browser.errors
            assert await browser.evaluate(
                "performance.getEntriesByType('resource').every(e => e.name.startsWith(location.origin))"
            )
            # The page notices by itself: its server is stopped dead, not closed.
            os.kill(supervisor.pid("display"), signal.SIGSTOP)
            try:
                await browser.wait_for("document.body.classList.contains('silent')")
                assert "Nothing on this page is current" in await browser.evaluate("document.body.innerText")
                assert await browser.evaluate("document.getElementById('state').textContent") == "INVALID"
            finally:
                os.kill(supervisor.pid("display"), signal.SIGCONT)
            await browser.wait_for("!document.body.classList.contains('silent')")

    asyncio.run(look())
