"""Slices, X-rays and 3-D on the page: wheel, drag and keys act on the picture under them, in a browser."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import numpy as np
import pytest

from navnode.types import Volume, VolumeUpdate, invalid
from tests.browser import CHROMIUM
from tests.conftest import slow
from tests.display.stage import VALID, click, drill, key, picture, staged

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

SPAN_MM = 220.0
GREYS = """(pane) => {
  const gl = document.getElementById('gl'), section = document.querySelector('.space');
  const box = document.querySelector(`[data-pane=${pane}]`), ratio = gl.width / section.clientWidth;
  const copy = document.createElement('canvas'), pen = copy.getContext('2d');
  [copy.width, copy.height] = [24, 24];
  const place = [box.offsetLeft, box.offsetTop, box.offsetWidth, box.offsetHeight].map((px) => px * ratio);
  pen.drawImage(gl, ...place, 0, 0, 24, 24);
  return [...pen.getImageData(0, 0, 24, 24).data].filter((_, at) => at % 4 === 0);
}"""


async def greys(browser, pane: str) -> np.ndarray:
    """What a pane shows, coarsely, after the next scenes are drawn."""
    await asyncio.sleep(0.35)
    return np.array(await browser.evaluate(f"({GREYS})('{pane}')"), float)


async def middle(browser, pane: str) -> tuple[float, float, float]:
    """Centre of a pane and mm per px in it before any zoom."""
    left, top, width, height = await browser.evaluate(
        f"(({{left, top, width, height}}) => [left, top, width, height])"
        f"(document.querySelector('[data-pane={pane}]').getBoundingClientRect())"
    )
    return left + width / 2, top + height / 2, SPAN_MM / (min(width, height) - 2)


CENTROID = """(pane) => {
  const gl = document.getElementById('gl'), box = document.querySelector(`[data-pane=${pane}]`);
  const pen = Object.assign(document.createElement('canvas'), { width: gl.width, height: gl.height }).getContext('2d');
  pen.drawImage(gl, 0, 0);
  const corner = [box.offsetLeft + box.clientLeft, box.offsetTop + box.clientTop];
  const { data, width } = pen.getImageData(...corner, box.clientWidth, box.clientHeight);
  let sum = 0, across = 0, down = 0;
  for (let at = 0; at < data.length; at += 4) {
    const light = Math.max(0, data[at] - 60), pixel = at / 4;
    sum += light;
    across += light * (pixel % width + 0.5);
    down += light * (Math.floor(pixel / width) + 0.5);
  }
  return [across / sum - box.clientWidth / 2, down / sum - box.clientHeight / 2];
}"""
"""How far what is bright in a pane is from its middle, px."""

CROSSHAIR = """(pane) => {
  const marks = document.getElementById('marks'), box = document.querySelector(`[data-pane=${pane}]`);
  const [x, y] = [box.offsetLeft + box.clientLeft, box.offsetTop + box.clientTop];
  const [w, h] = [box.clientWidth, box.clientHeight];
  const along = (left, top, wide, high, of) => {
    [left, top, wide, high] = [left, top, wide, high].map(Math.round);
    const { data } = marks.getContext('2d').getImageData(left, top, wide, high);
    const sums = new Array(Math.max(wide, high)).fill(0);
    for (let at = 0; at < wide * high; at++) sums[of(at % wide, Math.floor(at / wide))] += data[4 * at + 3];
    const most = sums.indexOf(Math.max(...sums)), near = [most - 1, most, most + 1].filter((place) => sums[place]);
    const all = near.reduce((sum, place) => sum + sums[place], 0);
    return near.reduce((sum, place) => sum + sums[place] * (place + 0.5), 0) / all;
  };
  const [left, top] = [Math.round(x + w / 2) - 12, Math.round(y + h / 2) - 12];
  const across = along(left, y + 0.7 * h, 24, 0.1 * h, (column) => column);
  const down = along(x + 0.7 * w, top, 0.1 * w, 24, (_, row) => row);
  return [left + across - x - w / 2, top + down - y - h / 2];
}"""
"""How far the crosshair of a pane is from its middle, px."""


def test_marks_lie_where_the_volume_is():
    """A slice that follows a tool has its tip in the middle; so must the voxel be that lies there."""
    spot = np.full((51, 51, 51), -1000, np.float32)
    spot[24:27, 24:27, 24:27] = 2000
    volume_from_index = np.diag([4.0, 4.0, 4.0, 1.0])
    volume_from_index[:3, 3] = -100.0

    async def look(browser, stage) -> None:
        stage.tools = {"Drill": (drill((0.0, 0.0, 0.0)), VALID)}
        shown = Volume(spot, volume_from_index, "spot")
        stage.display._on_volume(VolumeUpdate(shown, None, "navigation", VALID, "CT", 0))
        for pane in ("axial", "coronal", "sagittal"):
            await browser.wait_for(f"Math.abs(({CENTROID})('{pane}')[0]) < 0.3", 20)
            voxel, crosshair = [await browser.evaluate(f"({each})('{pane}')") for each in (CENTROID, CROSSHAIR)]
            assert np.abs(np.subtract(voxel, crosshair)).max() < 0.3, (pane, voxel, crosshair)

    staged(look)


def test_slices_do_not_follow_another_tool_when_the_chosen_one_is_lost():
    async def look(browser, stage) -> None:
        stage.tools = {"Drill": (drill(), VALID), "Probe": (drill((60.0, 30.0, 50.0)), VALID)}
        before = await greys(browser, "axial")
        stage.tools["Drill"] = (None, invalid("not seen by the tracker"))
        await browser.wait_for("document.getElementById('state').textContent === 'INVALID'", 10)
        assert np.abs(await greys(browser, "axial") - before).max() < 3

    staged(look)


def test_two_clicks_enlarge_a_slice_and_move_nothing():
    async def look(browser, stage) -> None:
        x, y, _ = await middle(browser, "coronal")
        await click(browser, x + 30, y + 20)
        await click(browser, x + 30, y + 20, count=2)
        await browser.wait_for("document.querySelector('main').dataset.layout === '1'", 10)
        assert await browser.evaluate("document.getElementById('follow').getAttribute('aria-pressed')") == "true"
        x, y, _ = await middle(browser, "coronal")
        await browser.evaluate("document.getElementById('measure').click()")
        assert await browser.evaluate("document.getElementById('follow').getAttribute('aria-pressed')") == "false"
        for off in (0, 80):
            await click(browser, x + off, y)
        await click(browser, x + 80, y, count=2)
        measured = await browser.evaluate("import('/static/measure.js').then((module) => module.lastMeasured())")
        assert measured > 10 and await browser.evaluate("document.querySelector('main').dataset.layout") == "1"

    staged(look)


def test_a_picture_that_was_overtaken_is_shown_with_its_own_description():
    tried = """import('/static/xray.js').then(({ XrayView }) => {
      const view = new XrayView(document.getElementById('view-1'));
      const stamp = (ms) => `${1_700_000_000_000_000_000n + BigInt(ms) * 1_000_000n}`;
      const at = (ms, live) => ({ timestamp_ns: stamp(ms), age_s: 0.1, live, at: ms });
      const [first, next, late] = [at(0, true), at(200, false), at(1500, true)];
      const before = view.decoded(first);
      Object.assign(view, { picture: {}, timestamp: first.timestamp_ns });
      const shown = [before, view.decoded(first), view.decoded(next), view.decoded(late)];
      return shown.map((each) => each && [each.at, each.age_s, each.live]);
    })"""

    async def look(browser, stage) -> None:
        none, same, older, gone = await browser.evaluate(tried)
        assert none is None and gone is None and same == [0, 0.1, True]
        assert older[0] == 0 and older[1] == pytest.approx(0.3) and older[2] is False

    staged(look)


async def wheel(browser, x: float, y: float, delta: float, *, ctrl: bool = False) -> None:
    await browser.call(
        "Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta, modifiers=2 if ctrl else 0
    )


async def drag(browser, x: float, y: float, dx: float, dy: float, button: str = "left") -> None:
    mask = {"left": 1, "right": 2}[button]
    await browser.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button=button, clickCount=1)
    for part in (0.3, 0.7, 1.0):
        at = {"x": x + part * dx, "y": y + part * dy}
        await browser.call("Input.dispatchMouseEvent", type="mouseMoved", button=button, buttons=mask, **at)
    await browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + dx, y=y + dy, button=button)


def changed(before: np.ndarray, after: np.ndarray) -> bool:
    return bool(np.abs(before - after).mean() > 1.0)


@pytest.mark.long
def test_wheel_zoom_and_drag_act_on_the_slice_under_them_only():
    async def look(browser, stage) -> None:
        await browser.evaluate("document.getElementById('follow').click()")
        names = ("axial", "coronal", "sagittal")
        x, y, _ = await middle(browser, "coronal")
        for act in ("zoom", "pan"):
            before = {name: await greys(browser, name) for name in names}
            await (wheel(browser, x, y, -400, ctrl=True) if act == "zoom" else drag(browser, x, y, 60, 35))
            after = {name: await greys(browser, name) for name in names}
            assert [changed(before[name], after[name]) for name in names] == [False, True, False], act
        # The wheel goes through the slices; the others show it by their crosshair, and stay.
        before = {name: await greys(browser, name) for name in names}
        await wheel(browser, x, y, -800)
        after = {name: await greys(browser, name) for name in names}
        assert [changed(before[name], after[name]) for name in names] == [False, True, False]
        assert await browser.evaluate("document.getElementById('follow').getAttribute('aria-pressed')") == "false"
        assert await browser.evaluate("scrollX === 0 && scrollY === 0 && visualViewport.scale === 1")

    staged(look)


def test_the_bone_turns_alone():
    async def look(browser, stage) -> None:
        before = {name: await greys(browser, name) for name in ("bone", "sagittal")}
        assert before["bone"].max() > 60
        x, y, _ = await middle(browser, "bone")
        await drag(browser, x, y, 90, 60)
        after = {name: await greys(browser, name) for name in before}
        assert changed(before["bone"], after["bone"]) and not changed(before["sagittal"], after["sagittal"])

    staged(look)


@pytest.mark.long
def test_following_brings_the_slices_back_to_the_tip():
    async def look(browser, stage) -> None:
        at_tip = await greys(browser, "axial")
        x, y, _ = await middle(browser, "axial")
        await click(browser, x + 50, y + 60)
        await drag(browser, x, y, -70, 40)
        assert changed(at_tip, await greys(browser, "axial"))
        await browser.evaluate("document.getElementById('follow').click()")
        assert not changed(at_tip, await greys(browser, "axial"))

    staged(look)


def test_grey_values_by_preset_and_by_right_drag():
    async def look(browser, stage) -> None:
        x, y, _ = await middle(browser, "axial")
        shown = [await greys(browser, "axial")]
        for preset in ("soft", "lung"):
            choice = f"(w => {{ w.value = '{preset}'; w.dispatchEvent(new Event('change')); }})"
            await browser.evaluate(f"{choice}(document.getElementById('window'))")
            shown.append(await greys(browser, "axial"))
        await drag(browser, x, y, 10, 70, "right")
        shown.append(await greys(browser, "axial"))
        assert all(changed(a, b) for a, b in pairwise(shown))
        # Soft tissue, 40 HU, is the middle of its window, and air is black in it.
        assert abs(np.median(shown[1][(shown[1] > 20) & (shown[1] < 235)]) - 127) < 8 and shown[1].min() == 0

    staged(look)


def test_distances_are_measured_between_two_clicks(tmp_path):
    async def look(browser, stage) -> None:
        await browser.evaluate("document.getElementById('measure').click()")
        x, y, mm = await middle(browser, "sagittal")
        await click(browser, x - 40, y - 30)
        await click(browser, x + 40, y + 30)
        measured = await browser.evaluate("import('/static/measure.js').then((module) => module.lastMeasured())")
        assert abs(measured - 100 * mm) < 0.5 * mm
        assert await browser.evaluate("document.getElementById('measure').getAttribute('aria-pressed')") == "false"
        await picture(browser, tmp_path / "measured.png")
        assert stage.asked == []

    staged(look)


@pytest.mark.parametrize("size", [(1024, 768), slow((1280, 800)), (1920, 1080)])
@pytest.mark.long
def test_layouts(size, tmp_path):
    seen = "[...document.querySelectorAll('.pane')].filter((n) => n.checkVisibility()).map((n) => n.dataset.pane)"

    async def look(browser, stage) -> None:
        x, y, _ = await middle(browser, "sagittal")
        await click(browser, x, y)
        for layout, expected in (
            ("1", ["sagittal"]),
            ("2", ["sagittal", "bone"]),
            ("xray", ["sagittal", "bone"]),
            ("4", ["axial", "coronal", "sagittal", "bone"]),
        ):
            await browser.evaluate(f"document.querySelector('[data-layout-to=\"{layout}\"]').click()")
            assert await browser.evaluate(seen) == expected
            await picture(browser, tmp_path / f"{layout}.png")
            assert (await greys(browser, "sagittal")).max() > 200
            wide = "((n) => n.clientWidth * n.clientHeight)(document.querySelector('{}'))"
            areas = [await browser.evaluate(wide.format(name)) for name in (".views", ".space")]
            assert (areas[0] > areas[1]) == (layout == "xray")
            assert await browser.evaluate("document.documentElement.scrollHeight <= innerHeight")

    staged(look, size=size)


def test_keys_do_what_the_mouse_does():
    async def look(browser, stage) -> None:
        await browser.evaluate("document.querySelector('[data-pane=axial]').focus()")
        before = await greys(browser, "axial")
        for _ in range(4):
            await key(browser, "+")
        zoomed = await greys(browser, "axial")
        assert changed(before, zoomed)
        await key(browser, "0")
        assert not changed(before, await greys(browser, "axial"))
        await browser.evaluate("document.getElementById('measure').click()")
        await browser.evaluate("document.querySelector('[data-pane=axial]').focus()")
        await key(browser, "Enter")
        for _ in range(7):
            await key(browser, "ArrowLeft")
        await key(browser, "Enter")
        measured = await browser.evaluate("import('/static/measure.js').then((module) => module.lastMeasured())")
        assert abs(measured - 7.0) < 0.01

    staged(look)


def test_letters_are_drawn_only_while_the_orientation_is_known(tmp_path):
    words = json.dumps(["R", "L", "A", "P", "S", "I"])
    spy = f"""(() => {{ window.drawn = new Set(); const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {{
          if ({words}.includes(text)) drawn.add(text); return draw.call(this, text, ...rest); }}; }})()"""

    async def look(browser, stage) -> None:
        await browser.evaluate(spy)
        await asyncio.sleep(0.4)
        assert sorted(await browser.evaluate("[...drawn]")) == sorted(json.loads(words))
        stage.more = {"oriented": False}
        await asyncio.sleep(0.5)
        await browser.evaluate("drawn.clear()")
        await picture(browser, tmp_path / "unknown.png")
        assert await browser.evaluate("[...drawn]") == []

    staged(look)


BONE_ALONE = {"bodies": [{"name": "Femur", "file": "femur.nii.gz"}], "reconstruction": {"enabled": False}}


@pytest.mark.parametrize(
    ("more", "state", "registration", "said"),
    [
        ({}, {}, VALID, "The CT is being prepared"),
        ({"ct": ""}, {}, invalid("no volume yet: 1 of 3 views"), "No volume yet: 1 of 3 X-rays"),
        ({"ct": ""}, {}, invalid("no X-ray registered yet"), "No volume yet: the first X-rays make it"),
        ({"ct": ""}, {"worker_alive": False}, invalid("x"), "No volume: the reconstruction does not run"),
        ({"ct": "", **BONE_ALONE}, {}, VALID, "No slices: each bone has a volume of its own"),
    ],
)
@pytest.mark.long
def test_why_there_is_no_volume(more, state, registration, said):
    async def look(browser, stage) -> None:
        stage.registration, stage.more = registration, {"volume": "", "volumes": 0, **state}
        await browser.wait_for(f"document.getElementById('space-why').textContent === '{said}'", 10)
        # It stays, and takes the place of what there is none of.
        await asyncio.sleep(0.2)
        assert await browser.evaluate("document.getElementById('space-why').textContent") == said
        assert await browser.evaluate("document.getElementById('space-why').getBoundingClientRect().height") > 0

    staged(look, volume=False, **more)


XRAY = """(slot) => {
  const canvas = document.querySelector(`#view-${slot} canvas`), copy = document.createElement('canvas');
  [copy.width, copy.height] = [32, 24];
  const pen = copy.getContext('2d');
  pen.drawImage(canvas, 0, 0, 32, 24);
  return [...pen.getImageData(0, 0, 32, 24).data].filter((_, at) => at % 4 === 0);
}"""


async def xrays(browser) -> list[np.ndarray]:
    """What both X-rays show, coarsely, after the next scenes are drawn."""
    await asyncio.sleep(0.35)
    return [np.array(await browser.evaluate(f"({XRAY})({slot})"), float) for slot in (0, 1)]


@pytest.mark.long
def test_xrays_zoom_and_pan_under_the_pointer_and_by_key(tmp_path):
    async def look(browser, stage) -> None:
        stage.tools = {}
        await browser.wait_for("document.getElementById('view-1').className === 'view held'", 10)
        left, top, width, height = await browser.evaluate(
            "(({left, top, width, height}) => [left, top, width, height])"
            "(document.querySelector('#view-0 canvas').getBoundingClientRect())"
        )
        x, y = left + width / 2, top + height / 2
        fit = await xrays(browser)
        await wheel(browser, x + 40, y - 30, -400)
        near = await xrays(browser)
        assert [changed(a, b) for a, b in zip(fit, near, strict=True)] == [True, False]
        await picture(browser, tmp_path / "near.png")
        await drag(browser, x, y, -60, 40)
        panned = await xrays(browser)
        assert [changed(a, b) for a, b in zip(near, panned, strict=True)] == [True, False]
        await key(browser, "0")
        assert not changed(fit[0], (await xrays(browser))[0])
        await browser.evaluate("document.querySelector('#view-1 canvas').focus()")
        await key(browser, "+")
        await key(browser, "+")
        keyed = await xrays(browser)
        assert [changed(a, b) for a, b in zip(fit, keyed, strict=True)] == [False, True]
        await click(browser, x, y, count=1)
        await click(browser, x, y, count=2)
        assert await browser.evaluate("document.querySelector('main').dataset.layout") == "xray"

    staged(look)


def test_what_is_under_the_pointer_of_an_xray_stays_there():
    stays = """import('/static/xray.js').then(({ XrayView }) => {
      const figure = document.getElementById('view-0').cloneNode(true);
      document.getElementById('view-0').after(figure);
      const view = new XrayView(figure), at = [90, 60];
      view.size_px = [256, 200];
      const under = () => { const [l, t, w, h] = view.box; return [(at[0] - l) / w, (at[1] - t) / h]; };
      view.zoom(0.25, [100, 70]);
      const before = under();
      view.zoom(0.6, at);
      const after = under();
      view.zoom(1e9, at);
      figure.remove();
      return [...before, ...after, view.nearer, ...view.middle];
    })"""

    async def look(browser, _) -> None:
        *under, nearer, u, v = await browser.evaluate(stays)
        assert np.allclose(under[:2], under[2:], atol=1e-9)
        assert (nearer, u, v) == (1, 0.5, 0.5)

    staged(look)


SIDES = {"A": [0, 1, 0], "P": [0, -1, 0], "L": [-1, 0, 0], "R": [1, 0, 0], "S": [0, 0, 1], "I": [0, 0, -1]}


@pytest.mark.long
def test_3d_is_seen_from_the_patients_sides_by_button_and_key(tmp_path):
    cameras = """Promise.all([import('/static/bone.js'), import('/static/vectors.js')]).then(([{ FROM }, { orbit }]) =>
      Object.fromEntries(Object.entries(FROM).map(([side, turn]) => [side, orbit(turn)])))"""

    async def look(browser, stage) -> None:
        found = await browser.evaluate(cameras)
        for side, out in SIDES.items():
            up = [0, 1, 0] if side in "SI" else [0, 0, 1]
            assert np.allclose(found[side]["back"], out, atol=2e-3) and np.allclose(found[side]["up"], up, atol=2e-3)
        seen = {"": await greys(browser, "bone")}
        for side in SIDES:
            await browser.evaluate(f"document.querySelector('[data-from={side}]').click()")
            seen[side] = await greys(browser, "bone")
        await picture(browser, tmp_path / "feet.png")
        assert all(np.abs(a - b).max() > 20 for a, b in pairwise(seen.values()))
        await browser.evaluate("document.querySelector('[data-pane=bone]').focus()")
        await key(browser, "a")
        assert not changed(await greys(browser, "bone"), seen["A"])
        stage.more = {"oriented": False}
        await browser.wait_for("document.querySelector('[data-from=A]').hidden", 5)
        await key(browser, "l")
        assert not changed(await greys(browser, "bone"), seen["A"])

    staged(look)
