"""Plans on the page: what one aims with, how plans come and go, in a browser."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import numpy as np
import pytest

from navnode.planning.deviation import deviation
from navnode.types import Plan, PlanDeviation, Status, Validity, invalid
from tests.browser import CHROMIUM
from tests.display.stage import PLAN, VALID, click, drill, picture, staged
from tests.patience import until_async

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

OTHER = Plan("L5 <b>right</b>", (-20.0, -60.0, -40.0), (-5.0, -10.0, -30.0))
FIGURES = "[...document.querySelectorAll('#aim dd b')].map((n) => n.textContent)"
HALVES = "[...document.querySelectorAll('#aim dt i')].map((n) => n.textContent)"


def aim(stage, pose: np.ndarray | None, validity: Validity = VALID) -> None:
    """A tool somewhere, and what the node says about it."""
    stage.tools = {"Drill": (pose, validity)}
    stage.more = {"plans": (PLAN, OTHER), "active_plan": PLAN.name}
    numbers = {field.name: None for field in dataclasses.fields(PlanDeviation) if field.name.endswith(("_mm", "_rad"))}
    if pose is not None:
        numbers = dataclasses.asdict(deviation(PLAN, pose, np.eye(3) * 4e-6, np.eye(3) * 0.09))
    stage.deviation = PlanDeviation(plan=PLAN.name, tool="Drill", validity=validity, **numbers)


def box(selector: str) -> str:
    """Left, top, width and height of what a CSS selector finds, px."""
    rectangle = f"document.querySelector('{selector}').getBoundingClientRect()"
    return f"(({{left, top, width, height}}) => [left, top, width, height])({rectangle})"


@pytest.mark.long
def test_deviation_is_shown_while_the_tool_is_usable_and_blank_otherwise(tmp_path):
    async def look(browser, stage) -> None:
        assert await browser.evaluate("document.getElementById('aim').hidden")
        aim(stage, drill(off_rad=0.05))
        await browser.wait_for("!document.getElementById('aim').hidden", 10)
        await browser.wait_for(f"{FIGURES}[1] === '2.9'", 10)
        lateral, _, depth = (float(each) for each in await browser.evaluate(FIGURES))
        shown = stage.deviation
        assert abs(lateral - shown.lateral_mm) < 0.06 and abs(depth - shown.depth_mm) < 0.06
        assert (await browser.evaluate(HALVES))[0] == "± 0.6"
        await picture(browser, tmp_path / "valid.png")
        doubt = Validity(Status.DEGRADED, "expected error 3.2 mm; X-rays from another side would help")
        aim(stage, drill(off_rad=0.05), doubt)
        await browser.wait_for("document.getElementById('aim-mark').textContent.includes('DEGRADED')", 10)
        assert (await browser.evaluate(FIGURES))[1] == "2.9"
        await picture(browser, tmp_path / "degraded.png")
        aim(stage, None, invalid("not seen by the tracker"))
        await browser.wait_for(f"{FIGURES}.every((text) => text === '–')", 10)
        assert await browser.evaluate(f"{HALVES}.every((text) => text === '± –')")
        assert "Tool not seen by the tracker" in await browser.evaluate("document.getElementById('aim').innerText")
        await picture(browser, tmp_path / "invalid.png")

    staged(look)


def test_the_target_view_agrees_with_the_deviation():
    pose = drill(tip_mm=(17.0, -38.0, 9.0), off_rad=0.06)
    expected = deviation(PLAN, pose, np.eye(3), np.eye(3))
    ends = [pose[:3, 3].tolist(), (pose[:3, 3] - 120 * pose[:3, 2]).tolist()]

    async def look(browser, _) -> None:
        plan = json.dumps({"entry_mm": PLAN.entry_mm, "target_mm": PLAN.target_mm})
        measured = f"{json.dumps(ends)}.map((end) => offLine({plan}, end))"
        off = f"import('/static/target.js').then(({{ offLine }}) => {measured})"
        tip, back = np.array(await browser.evaluate(off))
        assert abs(np.linalg.norm(tip) - expected.lateral_mm) < 1e-6
        assert abs(np.linalg.norm(tip - back) - 120 * np.sin(expected.angle_rad)) < 1e-6

    staged(look)


def test_plans_are_chosen_hidden_and_removed_only_if_asked_twice(tmp_path):
    async def look(browser, stage) -> None:
        aim(stage, drill())
        button = "[...document.querySelectorAll('#plan-list .{}')][{}]"
        await browser.wait_for("document.querySelectorAll('#plan-list li').length === 2", 10)
        assert await browser.evaluate(button.format("aim", 1) + ".textContent") == OTHER.name
        await browser.evaluate(button.format("aim", 1) + ".click()")
        await until_async(lambda: stage.asked == [("PlanActivate", {"Plan": OTHER.name})])
        await browser.evaluate(button.format("gone", 1) + ".click()")
        await asyncio.sleep(0.5)
        assert len(stage.asked) == 1
        await browser.evaluate(button.format("gone", 1) + ".click()")
        await until_async(lambda: stage.asked[1:] == [("PlanRemove", {"Plan": OTHER.name})])
        await browser.evaluate(button.format("see", 1) + ".click()")
        await browser.wait_for(button.format("see", 1) + ".getAttribute('aria-pressed') === 'false'", 10)
        await picture(browser, tmp_path / "hidden.png")
        await browser.evaluate(button.format("aim", 0) + ".click()")
        await until_async(lambda: stage.asked[2:] == [("PlanActivate", {})])
        assert await browser.evaluate("document.getElementById('plan-said').textContent") == ""
        # Texts of others are texts.
        assert await browser.evaluate("document.querySelectorAll('#side b b, #plan-list b').length") == 0

    staged(look)


def test_a_plan_is_made_by_two_clicks_on_slices_and_refused_in_words():
    async def look(browser, stage) -> None:
        await browser.evaluate("document.getElementById('follow').click(); document.getElementById('plan-new').click()")
        assert "entry" in await browser.evaluate("document.getElementById('hint').textContent")
        left, top, width, height = await browser.evaluate(box("[data-pane=axial]"))
        mm = 220 / min(width - 2, height - 2)
        await click(browser, left + width / 2, top + height / 2)
        assert "target" in await browser.evaluate("document.getElementById('hint').textContent")
        await click(browser, left + width / 2 + 40, top + height / 2 - 30)
        await browser.wait_for("!document.getElementById('plan-form').hidden", 5)
        stage.answers = {"PlanAdd": "plan 'x': its entry lies outside the volume"}
        await browser.evaluate("document.getElementById('plan-name').value = 'x'")
        await browser.evaluate("document.querySelector('#plan-form button').click()")
        await browser.wait_for("document.getElementById('plan-said').textContent.includes('outside the volume')", 10)
        stage.answers = {}
        await browser.evaluate("document.querySelector('#plan-form button').click()")
        await browser.wait_for("document.getElementById('plan-form').hidden", 10)
        name, told = stage.asked[-1]
        entry, target = (np.array([float(x) for x in told[end].split()]) for end in ("Entry", "Target"))
        assert name == "PlanAdd" and told["Plan"] == "x"
        # Axial: patient right is on the left, anterior on top.
        assert np.allclose(target - entry, [-40 * mm, 30 * mm, 0], atol=0.1)
        await browser.evaluate("document.getElementById('plan-new').click()")
        await browser.evaluate("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
        assert await browser.evaluate("document.getElementById('hint').hidden")
        assert await browser.evaluate("document.getElementById('plan-form').hidden")

    staged(look)


def test_new_plan_while_one_waits_for_its_name_begins_anew():
    async def look(browser, stage) -> None:
        left, top, width, height = await browser.evaluate(box("[data-pane=axial]"))
        for _ in range(2):
            await browser.evaluate("document.getElementById('plan-new').click()")
            assert await browser.evaluate("document.getElementById('plan-form').hidden")
            for off in (0, 30):
                await click(browser, left + width / 2 + off, top + height / 2)
            await browser.wait_for("!document.getElementById('plan-form').hidden", 5)
        await browser.evaluate("document.querySelector('#plan-form button').click()")
        await until_async(lambda: len(stage.asked) == 1)

    staged(look)


@pytest.mark.long
def test_the_figures_stay_in_sight_while_the_panel_scrolls(tmp_path):
    async def look(browser, stage) -> None:
        aim(stage, drill(off_rad=0.05))
        await browser.wait_for("!document.getElementById('aim').hidden", 10)
        assert await browser.evaluate("side.scrollHeight - side.clientHeight > 100"), "there is something to scroll"
        await browser.evaluate("side.scrollTop = 1e4")
        seen = """[...document.querySelectorAll('#aim dd b')].every((n) => {
          const {top, bottom, left} = n.getBoundingClientRect(), panel = side.getBoundingClientRect();
          const inside = top >= panel.top && bottom <= panel.bottom;
          return inside && document.elementFromPoint(left + 2, (top + bottom) / 2) === n;
        })"""
        await picture(browser, tmp_path / "scrolled.png")
        assert await browser.evaluate(seen)

    staged(look, size=(1280, 720))


@pytest.mark.long
def test_names_of_plans_take_two_lines():
    async def look(browser, stage) -> None:
        aim(stage, drill())
        long = "L5 right pedicle, second attempt, after breach of the first"
        named = [dataclasses.replace(OTHER, name=name) for name in ("Femur neck screw 2", long)]
        stage.more = {"plans": (PLAN, *named), "active_plan": PLAN.name}
        buttons = "[...document.querySelectorAll('#plan-list .aim')]"
        await browser.wait_for(f"{buttons}.length === 3", 10)
        cut = await browser.evaluate(f"{buttons}.map((n) => n.scrollHeight > n.clientHeight + 1)")
        heights = await browser.evaluate(f"{buttons}.map((n) => n.clientHeight)")
        assert cut == [False, False, True] and max(heights) <= 1.2 * min(heights)

    staged(look, size=(1280, 800))


def test_the_plan_that_is_aimed_at_is_drawn_over_the_others():
    drawn = """import('/static/plans.js').then(({ shownPlans }) =>
        shownPlans({ plans: [{ name: 'a', active: true }, { name: 'b', active: false }] }).map(({ name }) => name))"""

    async def look(browser, stage) -> None:
        assert await browser.evaluate(drawn) == ["b", "a"]

    staged(look)


async def silenced(browser, stage) -> None:
    """Two plans are shown; then the node falls silent."""
    aim(stage, drill())
    await browser.wait_for("document.querySelectorAll('#plan-list li').length === 2", 10)
    stage.speaking = False
    await browser.wait_for("document.body.classList.contains('silent')", 20)


def markup(target_mm: tuple[float, float, float]) -> str:
    """A file of 3D Slicer with one line, from the plan's entry."""
    points = [
        {"label": label, "position": position, "positionStatus": "defined"}
        for label, position in (("entry", PLAN.entry_mm), ("target", target_mm))
    ]
    return json.dumps({"markups": [{"type": "Line", "coordinateSystem": "RAS", "controlPoints": points}]})


async def drop(browser, files: dict[str, str]) -> None:
    """Drop files on the page: name -> content."""
    await browser.evaluate(
        """((files) => { const data = new DataTransfer();
        for (const [name, content] of Object.entries(files)) data.items.add(new File([content], name));
        dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true })); })"""
        f"({json.dumps(files)})"
    )


def test_plans_that_a_node_lost_are_named():
    async def look(browser, stage) -> None:
        await silenced(browser, stage)
        assert await browser.evaluate("document.getElementById('plan-said').textContent") == "", "it may come back"
        stage.more, stage.speaking = {}, True
        said = "document.getElementById('plan-said').textContent"
        await browser.wait_for(f"{said} !== ''", 10)
        names = f"{PLAN.name}, {OTHER.name}"
        assert await browser.evaluate(said) == f"The node started anew; plans are gone: {names}"
        assert await browser.evaluate("document.querySelectorAll('#plan-list li').length") == 0

    staged(look)


def test_a_plan_that_a_node_lost_and_another_one_that_it_aims_at_are_named():
    async def look(browser, stage) -> None:
        await silenced(browser, stage)
        stage.more = {"plans": (OTHER,), "active_plan": OTHER.name}
        stage.speaking = True
        said = "document.getElementById('plan-said').textContent"
        await browser.wait_for(f"{said} !== ''", 10)
        gone, other = (await browser.evaluate(said)).split("\n")
        assert gone == f"The node started anew; plans are gone: {PLAN.name}"
        assert other == f"The node started anew, and aims at {OTHER.name}, no longer at {PLAN.name}"

    staged(look)


def test_that_a_plan_is_not_kept_or_replaces_another_one_is_said():
    async def look(browser, stage) -> None:
        aim(stage, drill())
        await browser.wait_for("document.querySelectorAll('#plan-list li').length === 2", 10)
        stage.says["PlanAdd"] = "plan 'x' from a command is known; but it is not kept: plans.json cannot be written"
        said = "document.getElementById('plan-said').textContent"
        await drop(browser, {"x.mrk.json": markup((0.0, 0.0, 0.0))})
        await browser.wait_for(f"{said} !== ''", 10)
        assert await browser.evaluate(said) == "x: but it is not kept: plans.json cannot be written"
        del stage.says["PlanAdd"]
        await drop(browser, {f"{PLAN.name}.mrk.json": markup((0.0, 0.0, 0.0))})
        await browser.wait_for(f"{said}.startsWith('{PLAN.name}')", 10)
        assert await browser.evaluate(said) == f"{PLAN.name}: replaced the plan of that name"
        assert [told["Plan"] for _, told in stage.asked] == ["x", PLAN.name]

    staged(look)


def test_a_file_that_is_dropped_becomes_plans():
    async def look(browser, stage) -> None:
        await drop(browser, {"notes.txt": "hello", "Pedicle.mrk.json": markup(PLAN.target_mm)})
        await until_async(lambda: stage.asked)
        assert stage.asked == [
            ("PlanAdd", {"Plan": "Pedicle", "Entry": "20.00 -60.00 10.00", "Target": "5.00 -10.00 0.00"})
        ]
        said = await browser.evaluate("document.getElementById('plan-said').textContent")
        assert said.startswith("notes.txt: plans are"), "what was refused is said beside what was taken"
        browser.errors.clear()  # Chromium logs the refusal.

    staged(look)
