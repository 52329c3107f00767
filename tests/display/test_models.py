"""The page that makes models: what the server takes and refuses, one run from pictures to files, and a browser."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from navnode.config import DisplaySection
from navnode.display import models
from navnode.display.models import Desk
from navnode.jig import jig_for, read_jig, write_jig
from navnode.projector import Projector
from navnode.simulation.beads import Beads, exposed, rendered
from tests.browser import CHROMIUM, Browser
from tests.invoke import call
from tests.patience import OutOfPatienceError, until_async
from tests.test_model import limb
from tests.test_model_jig import CARM, JIG, camera

BYTES = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """ap.png and lateral.png of a limb beside the jig, blank.png without one."""
    folder = tmp_path_factory.mktemp("pictures")
    bone, beads = Projector(limb()), Beads(JIG.positions_mm, np.full(len(JIG.ids), JIG.diameter_mm))
    for name, degrees in (("ap", 3.0), ("lateral", 88.0)):
        line = bone.render(CARM, camera(degrees)) + rendered(beads, CARM, camera(degrees))
        cv2.imwrite(str(folder / f"{name}.png"), exposed(line, np.random.default_rng(round(degrees))))
    noise = np.random.default_rng(0).poisson(3000, (256, 256)).astype(np.uint16)
    cv2.imwrite(str(folder / "blank.png"), noise)
    cv2.imwrite(str(folder / "other.png"), noise.T.copy())
    return folder


class Served:
    """A desk and a client of it."""

    def __init__(self, folder: Path, keep: Path | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.desk = folder, Desk(DisplaySection(), folder, keep)

    async def __aenter__(self) -> Served:
        self._server = TestServer(self.desk.application(), host="127.0.0.1")
        await self._server.start_server()
        self.url = str(self._server.make_url("/"))
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self._server.close()

    async def post(self, path: str, body: bytes = b"{}", headers: dict[str, str] = JSON) -> tuple[int, str]:
        async with self.session.post(self.url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def get(self, path: str, **more) -> tuple[int, bytes, dict]:
        async with self.session.get(self.url + path, **more) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    async def state(self) -> dict:
        return json.loads((await self.get("state"))[1])

    async def add(self, *paths: Path) -> None:
        for path in paths:
            assert (await self.post("pictures", path.read_bytes(), BYTES))[0] == 200

    async def until_ended(self) -> dict:
        for _ in range(1200):
            if not (run := (await self.state())["run"])["running"]:
                return run
            await asyncio.sleep(0.1)
        raise OutOfPatienceError("the run did not end")


def serve(story, tmp_path: Path, keep: Path | None = None) -> None:
    async def run() -> None:
        async with Served(tmp_path / "desk", keep) as served:
            await story(served)

    asyncio.run(run())


def test_only_its_own_page_may_use_it_and_no_other_may_frame_it(tmp_path):
    async def story(served):
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            assert (await served.get("state", headers=headers))[0] == 403
            for path in ("pictures", "run", "clear", "cancel", "jig"):
                assert (await served.post(path, b"x", BYTES | headers))[0] == 403
        # A form of another site can send these types without asking first.
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert (await served.post("pictures", b"\x89PNG", {"Content-Type": kind}))[0] == 415
            assert (await served.post("run", b"{}", {"Content-Type": kind}))[0] == 415
        _, page, headers = await served.get("")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert b"Research use only" in page and b"http" not in page

    serve(story, tmp_path)


def test_what_is_no_picture_or_too_large_is_refused_and_leaves_nothing(tmp_path, pictures, monkeypatch):
    async def story(served):
        assert await served.post("pictures", b"", BYTES) == (400, "the file is empty")
        status, text = await served.post("pictures", b"MZ and more", BYTES)
        assert status == 415 and "not an X-ray that is read" in text
        monkeypatch.setattr(models, "_MOST_BYTES", 1000)
        assert (await served.post("pictures", b"\x89PNG" + bytes(2000), BYTES))[0] == 413

        async def unstated():
            yield b"\x89PNG" + bytes(2000)

        assert (await served.post("pictures", unstated(), BYTES))[0] == 413
        monkeypatch.setattr(models, "_MOST_BYTES", 1 << 20)
        monkeypatch.setattr(models, "MOST_PICTURES", 2)
        await served.add(pictures / "blank.png", pictures / "other.png")
        assert (await served.post("pictures", (pictures / "blank.png").read_bytes(), BYTES))[0] == 409
        assert sorted(path.name for path in served.folder.iterdir()) == ["picture-1.png", "picture-2.png"]
        assert (await served.post("pictures/1/remove"))[0] == 200
        assert (await served.post("pictures/1/remove"))[0] == 404
        assert [each["number"] for each in (await served.state())["pictures"]] == [2]
        for path in ("shown/1/preview-1.jpg", "result/1/report.json", "result/1/..%2f..%2fpicture-2.png"):
            assert (await served.get(path))[0] == 404

    serve(story, tmp_path)


def test_a_jig_is_chosen_or_brought(tmp_path):
    write_jig(tmp_path / "mine.json", jig_for(seed=3, name="mine"))

    async def story(served):
        shipped = Path(__file__).parents[2] / "launch" / "jigs" / "limb-140-240.json"
        assert np.array_equal(read_jig(shipped).positions_mm, jig_for().positions_mm)
        assert (await served.state())["jig"]["name"] == jig_for().name
        assert (await served.post("jig", (tmp_path / "mine.json").read_bytes(), BYTES))[0] == 200
        state = await served.state()
        assert state["jig"]["name"] == "mine" and set(state["jigs"]) == {"mine", jig_for().name}
        assert (await served.post(f"jig/{jig_for().name}"))[0] == 200
        assert (await served.post("jig/none"))[0] == 404
        status, text = await served.post("jig", b'{"schema": "navnode/jig/1"}', BYTES)
        assert status == 400 and "jig.json" in text and str(served.folder) not in text

    serve(story, tmp_path)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{}", "1 pictures; a model needs 2"),
        (b'{"pixel_mm": 90}', "pixel_mm"),
        (b'{"out": "/tmp/x"}', "unknown field"),
        (b"[]", "Expected"),
        (b'{"use_jig": false, "angles": "0 north"}', "1 pictures"),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path, pictures, body, said):
    async def story(served):
        await served.add(pictures / "blank.png")
        status, text = await served.post("run", body)
        assert status == 400 and said in text
        assert (await served.state())["run"] is None

    serve(story, tmp_path)


def test_pictures_without_a_jig_say_so_in_plain_words(tmp_path, pictures):
    async def story(served):
        await served.add(pictures / "blank.png", pictures / "other.png")
        assert (await served.post("run"))[0] == 200
        assert (await served.post("run"))[0] == 409
        assert (await served.post("pictures", b"\x89PNG", BYTES))[0] == 409
        run = await served.until_ended()
        assert run["report"] is None and not run["files"]
        assert "picture-1.png: " in run["failed"] and "picture-2.png: " in run["failed"]
        assert str(served.folder) not in run["failed"]
        assert [each["number"] for each in run["beads"]] == [1, 2] and not run["beads"][0]["beads"]
        assert (await served.get(f"shown/1/{run['beads'][0]['preview']}"))[1].startswith(b"\xff\xd8")

    serve(story, tmp_path)


def test_a_run_can_be_cancelled_and_everything_cleared(tmp_path, pictures):
    async def story(served):
        await served.add(pictures / "ap.png", pictures / "lateral.png")
        assert (await served.post("run"))[0] == 200
        await asyncio.sleep(0.3)
        assert (await served.post("cancel"))[0] == 200
        run = await served.until_ended()
        assert run["failed"] == "cancelled" and run["report"] is None
        process = served.desk._run._process
        assert process is not None and process.returncode is not None
        assert (await served.post("clear"))[0] == 200
        assert list(served.folder.iterdir()) == [] and (await served.state())["pictures"] == []

    serve(story, tmp_path)


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.02])
def test_a_run_that_is_being_started_can_be_cancelled(tmp_path, pictures, delay_s):
    async def story(served):
        await served.add(pictures / "ap.png", pictures / "lateral.png")
        assert (await served.post("run"))[0] == 200
        await asyncio.sleep(delay_s)
        assert (await served.post("cancel"))[0] == 200
        run = await served.until_ended()
        assert run["failed"] == "cancelled" and run["report"] is None and not run["files"]

    serve(story, tmp_path)


def test_a_picture_that_arrives_as_all_are_removed_does_not_stay(tmp_path, pictures):
    content, cleared = (pictures / "blank.png").read_bytes(), asyncio.Event()

    async def story(served):
        async def slowly():
            yield content[:100]
            await cleared.wait()
            yield content[100:]

        async def added():
            async with served.session.post(served.url + "pictures", data=slowly(), headers=BYTES) as answer:
                return answer.status

        adding = asyncio.create_task(added())
        await until_async(lambda: (served.folder / "arriving").exists())
        assert (await served.post("clear"))[0] == 200
        cleared.set()
        assert await adding == 409
        assert (await served.state())["pictures"] == [] and list(served.folder.iterdir()) == []

    serve(story, tmp_path)


def test_what_is_left_alone_is_forgotten(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(models, "_FORGOTTEN_AFTER_S", 0.2)
    monkeypatch.setattr(models, "_LOOKED_AT_EVERY_S", 0.05)

    async def story(served):
        await served.add(pictures / "blank.png")
        forgetting = asyncio.create_task(served.desk.forget_when_left())
        await asyncio.sleep(0.6)
        forgetting.cancel()
        assert list(served.folder.iterdir()) == []

    serve(story, tmp_path)


@pytest.mark.long
def test_a_run_gives_files_and_is_kept_if_asked(tmp_path, pictures):
    async def story(served):
        await served.add(pictures / "ap.png", pictures / "lateral.png")
        beads = [{"picture": 1, "no_beads_px": [[5, 5]]}]
        assert (await served.post("run", json.dumps({"pixel_mm": 0.4, "beads": beads}).encode()))[0] == 200
        run = await served.until_ended()
        assert run["failed"] == "" and run["report"]["status"] == "DEGRADED"
        assert [len(each["beads"]) >= 50 for each in run["beads"]] == [True, True] and len(run["bones"]) == 2
        _, page, headers = await served.get("result/1/report.html")
        assert b"DEGRADED" in page and "sandbox allow-scripts" in headers["Content-Security-Policy"]
        together = await asyncio.gather(*(served.get("result/1/all.zip") for _ in range(3)))
        assert len({packed for _, packed, _ in together}) == 1, "nobody gets a part of it"
        _, packed, headers = together[0]
        assert "attachment" in headers["Content-Disposition"]
        assert sorted(zipfile.ZipFile(io.BytesIO(packed)).namelist()) == run["files"]
        for _ in range(50):
            if kept := (await served.state())["run"]["kept"]:
                break
            await asyncio.sleep(0.1)
        assert sorted(path.name for path in Path(kept).iterdir()) == run["files"]
        refused = b'{"use_jig": false, "angles": "0 9o", "pixel_mm": 0.4, "distance_mm": 1000}'
        assert (await served.post("run", refused))[0] == 400
        after = (await served.state())["run"]
        assert after["files"] == run["files"], "what cannot be run costs nothing"
        assert (await served.get("result/1/report.html"))[0] == 200
        assert (await served.post("clear"))[0] == 200 and list(served.folder.iterdir()) == []

    serve(story, tmp_path, tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_others_see_it_only_if_that_was_asked_for():
    code, _, error = call("serve-models", "--host", "0.0.0.0")
    assert code == 2 and "--insecure" in error and len(error.strip().splitlines()) == 1


async def choose(browser: Browser, *paths: Path) -> None:
    document = await browser.call("DOM.getDocument")
    found = await browser.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#files")
    await browser.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path) for path in paths])


CLICK = """(() => {{
  const svg = document.querySelector('svg[data-picture="1"]'), place = svg.getBoundingClientRect();
  const at = {{ bubbles: true, clientX: place.left + {x}, clientY: place.top + {y} }};
  svg.dispatchEvent(new MouseEvent('click', at));
}})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.long
def test_in_a_browser_a_bead_is_taken_out_by_a_click_and_the_report_is_shown(tmp_path, pictures):
    async def story(served):
        async with Browser() as browser:
            await browser.call(
                "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True
            )
            await browser.open(served.url)
            await browser.wait_for("document.getElementById('jig').options.length === 1")
            await choose(browser, pictures / "ap.png", pictures / "lateral.png")
            await browser.wait_for("!document.getElementById('run').disabled")
            await browser.evaluate("document.getElementById('run').click()")
            await browser.wait_for("document.querySelectorAll('#figures svg').length === 2")
            await browser.evaluate("document.getElementById('cancel').click()")
            await browser.wait_for("document.getElementById('say').textContent === 'Cancelled.'")
            (bead,) = (await served.state())["run"]["beads"][0]["beads"][:1]
            width = await browser.evaluate("document.querySelector('svg[data-picture=\"1\"]').clientWidth")
            scale = width / CARM.width_px
            await browser.evaluate(CLICK.format(x=(bead["u_px"] + 0.5) * scale, y=(bead["v_px"] + 0.5) * scale))
            await browser.wait_for("document.querySelectorAll('circle.drop').length === 1")
            await browser.evaluate("document.getElementById('again').click()")
            await browser.wait_for("!document.getElementById('result').hidden")
            await browser.wait_for("document.getElementById('report').src.endsWith('report.html')")
            run = (await served.state())["run"]
            assert run["report"]["status"] == "DEGRADED"
            assert bead["id"] not in [each["id"] for each in run["beads"][0]["beads"]]
            assert await browser.evaluate("document.documentElement.scrollWidth") <= 390
            await browser.screenshot(tmp_path / "phone.png")
            assert browser.errors == []

    serve(story, tmp_path)
