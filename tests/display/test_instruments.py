"""Instruments, recording and screenshots on the page, in a browser."""

from __future__ import annotations

import asyncio

import pytest

from navnode.types import RecordingState, Status, Validity, invalid
from tests.browser import CHROMIUM
from tests.display.stage import click, drill, picture, staged
from tests.patience import until_async

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def test_tools_are_listed_with_how_they_are_and_one_is_chosen(tmp_path):
    async def look(browser, stage) -> None:
        stage.tools["Saw"] = (None, invalid("not seen by the tracker"))
        stage.tools["Probe"] = (drill(), Validity(Status.DEGRADED, "it has just come back"))
        rows = "[...document.querySelectorAll('#tool-list li')]"
        rows += ".map((n) => [...n.children].filter((c) => !c.hidden).map((c) => c.textContent))"
        await browser.wait_for(f"{rows}.length === 3", 10)
        assert await browser.evaluate(rows) == [
            ["Drill", "●", "VALID"],
            ["Saw", "■", "Tool not seen by the tracker"],
            ["Probe", "▲", "The tool is in doubt"],
        ]
        pressed = "[...document.querySelectorAll('#tool-list .aim')].map((n) => n.getAttribute('aria-pressed'))"
        assert await browser.evaluate(pressed) == ["true", "false", "false"]
        await browser.evaluate("document.querySelectorAll('#tool-list .aim')[2].click()")
        await browser.wait_for("document.getElementById('tool-said').textContent === 'SetTool done'", 10)
        assert stage.asked == [("SetTool", {"Tool": "Probe"})]
        stage.more = {"active_tool": "Probe"}
        await browser.wait_for("document.getElementById('state-of').textContent === 'Probe'", 10)
        assert await browser.evaluate("document.getElementById('state').textContent") == "DEGRADED"
        await picture(browser, tmp_path / "tools.png")

    staged(look)


async def clicked_twice(browser, stage, button: str, asks: str, sent: tuple[str, dict[str, str]]) -> None:
    """The first click asks, and sends nothing, be it a double one; the second, once that could be read, sends."""
    await browser.evaluate(f"{button}.click(), {button}.click()")
    await browser.wait_for(f"{button}?.textContent === {asks!r}", 10)
    assert not stage.asked
    await asyncio.sleep(0.5)
    await browser.evaluate(f"{button}.click()")
    await until_async(lambda: stage.asked)
    assert stage.asked == [sent]


def test_which_tool_it_is_is_confirmed_by_a_second_click():
    async def look(browser, stage) -> None:
        stage.tools["Drill"] = (None, invalid("it may be Probe, which is not seen"))
        button = "document.querySelector('#tool-list .confirm:not([hidden])')"
        await browser.wait_for(f"{button}?.textContent === 'It is Drill'", 10)
        await clicked_twice(browser, stage, button, "Really Drill?", ("ConfirmTool", {"Tool": "Drill"}))
        stage.tools["Drill"] = (drill(), Validity(Status.VALID))
        await browser.wait_for(f"!{button}", 10)
        assert await browser.evaluate("document.querySelector('#tool-list span').textContent") == "VALID"
        assert len(stage.asked) == 1, "and nothing is asked any more"

    staged(look)


def test_a_tip_is_held_against_a_point_that_is_clicked(tmp_path):
    async def look(browser, stage) -> None:
        text, hidden = "document.getElementById('{}').textContent", "document.getElementById('{}').hidden"
        await browser.wait_for(f"{text.format('touch-point')} === 'Check tip'", 10)
        assert await browser.evaluate(hidden.format("touch"))
        await browser.evaluate("document.getElementById('touch-point').click()")
        await browser.wait_for(f"{text.format('hint')}.startsWith('Click the known point')", 10)
        assert await browser.evaluate("document.getElementById('follow').getAttribute('aria-pressed')") == "false"
        pane = "document.querySelector('[data-pane=axial]').getBoundingClientRect()"
        x, y = await browser.evaluate(f"[{pane}.x + {pane}.width * 0.4, {pane}.y + {pane}.height * 0.4]")
        await click(browser, x, y)
        await browser.wait_for(f"{text.format('touch')} === 'Measure Drill' && !{hidden.format('touch')}", 10)
        assert "Hold the tip of Drill" in await browser.evaluate(text.format("touch-said"))
        stage.says["CheckTip"] = "Drill is 1.3 mm from the point, expected up to 2.1 mm"
        said = "Drill: 1.3 mm from the point, expected up to 2.1 mm"
        await browser.evaluate("document.getElementById('touch').click()")
        await browser.wait_for(f"{text.format('touch-said')} === '{said}'", 10)
        ((name, parameters),) = stage.asked
        assert name == "CheckTip" and parameters["Tool"] == "Drill" and len(parameters["Point"].split()) == 3
        await picture(browser, tmp_path / "touch.png")
        stage.says["CheckTip"] = "Drill is 5.2 mm from the point, more than the 2.1 mm expected (it is in doubt)"
        await browser.evaluate("document.getElementById('touch').click()")
        await browser.wait_for("document.getElementById('touch-said').className === 'refused'", 10)
        said = await browser.evaluate(text.format("touch-said"))
        assert "5.2 mm from the point, more than the 2.1 mm expected" in said and said.endswith("(it is in doubt)")
        stage.answers["CheckTip"] = "Drill moved by 4.0 mm while its tip was measured: hold it still on the point"
        await browser.evaluate("document.getElementById('touch').click()")
        await browser.wait_for(f"{text.format('touch-said')}.includes('hold it still')", 10)
        stage.more = {"active_tool": "Saw"}  # what was measured was another tool's
        await browser.wait_for(f"{text.format('touch')} === 'Measure Saw'", 10)
        assert "Hold the tip of Saw" in await browser.evaluate(text.format("touch-said"))

    staged(look)


def test_that_the_carms_marker_was_not_bumped_is_said_by_a_second_click_where_it_is_asked():
    async def look(browser, stage) -> None:
        await browser.wait_for("document.getElementById('state').textContent === 'VALID'", 10)
        assert await browser.evaluate("document.getElementById('accept').hidden")
        asks = "X-rays since show the patient elsewhere: which marker moved shows from 40 degrees aside"
        stage.registration = Validity(Status.DEGRADED, f"the C-arm's marker was hidden, and {asks}")
        button = "document.querySelector('#accept:not([hidden])')"
        await browser.wait_for(f'{button}?.textContent === "C-arm\'s marker not bumped"', 10)
        really = "Really C-arm's marker not bumped?"
        await clicked_twice(browser, stage, button, really, ("RegistrationAccept", {}))
        stage.registration = Validity(Status.VALID)
        await browser.wait_for(f"!{button}", 10)

    staged(look)


def test_the_record_button_says_where_the_file_is():
    async def look(browser, stage) -> None:
        await browser.wait_for("!document.getElementById('record').hidden", 10)
        await browser.evaluate("document.getElementById('record').click()")
        await until_async(lambda: stage.asked == [("StartRecording", {})])
        stage.more = {"recording": RecordingState("/cases/L4.mcap")}
        await browser.wait_for(
            "document.getElementById('record-amount').textContent.startsWith('/cases/L4.mcap: 0')", 10
        )
        assert await browser.evaluate("document.getElementById('record').textContent") == "■ Stop recording"
        assert await browser.evaluate("document.getElementById('record-said').textContent") == ""
        stage.more = {"recording": RecordingState("/cases/L4.mcap", failure="the disk is full")}
        await browser.wait_for("document.getElementById('record-amount').textContent.includes('the disk is full')", 10)
        assert await browser.evaluate("document.getElementById('record').className") == "failed"

    staged(look)


def test_a_screenshot_holds_the_pictures_and_no_name(tmp_path):
    spy = """(() => { window.drawn = []; const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
          drawn.push(text); return draw.call(this, text, ...rest); }; })()"""

    async def look(browser, stage) -> None:
        await browser.evaluate(spy)
        await asyncio.sleep(0.5)
        taken = """import('/static/screenshot.js').then(({ compose }) => { const c = compose(), p = c.getContext('2d');
            const data = p.getImageData(0, 0, c.width, c.height).data;
            return [c.width, c.height, new Set(data.filter((_, at) => at % 4 === 0)).size]; })"""
        width, height, shades = await browser.evaluate(taken)
        main = await browser.evaluate("((n) => [n.offsetWidth, n.offsetHeight])(document.querySelector('main'))")
        assert width == main[0] and height > main[1] and shades > 50
        # Names stand beside the canvases, never on them; what is past is marked, and the state written below.
        drawn = await browser.evaluate("drawn")
        assert not any("Smith" in text or "Drill" in text for text in drawn)
        assert any("HELD" in text for text in drawn) and any(text.startswith("VALID  ·") for text in drawn)
        await browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        await browser.evaluate("document.getElementById('screenshot').click()")
        for _ in range(50):
            files = list(tmp_path.glob("navnode-*.png"))
            if files:
                break
            await asyncio.sleep(0.1)
        assert files and files[0].read_bytes().startswith(b"\x89PNG")

    staged(look, case={"name": "Smith", "side": "left"})
