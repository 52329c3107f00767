"""Every message that the node can say has an entry, every entry its messages; an entry is found by what was said."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from navnode.display import messages
from tests.browser import CHROMIUM
from tests.display.stage import VALID, drill, picture, staged
from tests.display.test_status_strip import HIDDEN, REASONS

ROOT = Path(__file__).parent.parent.parent
SPEAKING = [
    *("loop/*.py", "display/scene.py", "display/control.py", "display/uploads.py", "planning/deviation.py"),
    *("registration/**/*.py", "node/*.py"),
    *("reconstruction/answer.py", "reconstruction/choice.py", "reconstruction/methods.py", "reconstruction/bones.py"),
    *("recording/recorder.py", "recording/tap.py", "xray/counts.py", "xray/correction.py", "xray/distortion.py"),
    *("config/bases.py", "config/load.py", "config/sections.py", "config/sources.py", "config/fields.py"),
    *("security/*.py", "files/artifacts.py", "geometry.py"),
    *(f"gateways/{name}.py" for name in ("dicom", "objects", "pictures", "video")),
]
"""Where the node's messages are made: verdicts, notices, answers, the configuration's errors, and those of --check."""
NO_MESSAGES = {
    # errors between the node's own processes, and of the code
    *("a message of the wrong number or size of parts", "a message of an unknown topic", "not an array", "topic …: …"),
    *("a message without its number", "all transforms must be 4x4"),
    *("call begin() first", "derivatives of … parameters"),
    # words within messages, names, and help
    *("VALID up to … mm", "… mm, VALID up to … mm", "last step … mm, VALID up to … mm", "residual …, VALID up to …"),
    *("similarity …, VALID from …", "…, VALID from …", "…, here …, VALID from … apart", "… of the image"),
    "each alone looks … more like it, VALID up to …",
    *("ahead of", "by time", "the file", "navnode …", "a command", "console …", "Plan …"),
    *("consoles …", "page …", "worker …", "gateway …", "DICOM …"),
    *("left lateral", "right lateral", "… views: … ms; …"),
    *(
        "no engine",
        "… (classical)",
        "…, bone in …",
        "…, mirrored",
        "X-ray …",
        "node: …",
        "a source's port",
        "a gateway's port",
    ),
    *("a listen_port", " - at `$", "tracker, or the reference", "carm to marker", "patient marker to volume (RAS)"),
    *("volume (RAS)", "detector mode", "principal point", "focal length (or pixel size)", "as they are", "over …"),
    *("mirrored left to right", "mirrored top to bottom", "turned by … degrees"),
    *("Threads for computing; 0: all cores.", "A CT that SimpleITK reads, a DICOM folder, 'sample' or 'procedural'."),
    # offline: errors of arguments of `reconstruct`
    *("a prior CT and the method 'prior' belong together", "only the learned method uses a model, not …"),
}
LOGS = ("log.", "re.", "LocalError", "msgspec.Meta")


def templates(path: Path) -> Iterator[str]:
    """Texts of several words in a module, with … for what changes; not docstrings, patterns and what is only logged."""
    tree = ast.parse(path.read_text())
    silent: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(id(node.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(LOGS):
            silent |= {id(part) for part in ast.walk(node)}
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = re.sub(r"\{[^}]*\}", "…", node.value)
        else:
            continue
        if " " in text.strip() and re.search("[A-Za-z]", text) and not text.startswith("^"):
            yield text


@pytest.fixture(scope="module")
def said() -> set[str]:
    paths = [path for pattern in SPEAKING for path in (ROOT / "navnode").glob(pattern)]
    assert len(paths) > 60
    return {text for path in paths for text in templates(path)}


def test_every_message_has_an_entry(said):
    known = {text for entry in messages.entries() for text in entry.says} | NO_MESSAGES
    assert sorted(said - known) == []
    assert sorted(NO_MESSAGES - said) == []


def test_every_entry_has_its_messages(said):
    assert sorted({text for entry in messages.entries() for text in entry.says} - said) == []


def test_a_message_stands_once_and_every_entry_says_what_to_do():
    entries = messages.entries()
    says = [text for entry in entries for text in entry.says]
    twice = {text for text in says if says.count(text) > 1}
    assert twice <= {"… is not a rigid transform", "…: cannot be read (…)"}
    assert len({entry.id for entry in entries}) == len(entries)
    for entry in entries:
        assert re.fullmatch("[a-z0-9-]+", entry.id) and entry.means.endswith(".") and entry.do[-1] in ".?", entry.id


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("registration lost: the patient's marker slides: 2.1 mm in a few seconds, as X-rays show", "patient-moved"),
        ("the clock of DrillToTracker was set; an X-ray would confirm that nothing moved", "clock-set"),
        ("the patient's marker jumped by 6 mm; an X-ray would confirm that it has not moved", "patient-moved"),
        (
            "the C-arm's marker jumped, and X-rays since show the patient elsewhere: "
            "which marker moved shows from 40 degrees aside",
            "carm-marker-moved",
        ),
        ("image and volume do not match (similarity 0.31)", "match"),
        ("XRay: an X-ray is one plane of one value per pixel, not (2, 4)", "wrong-image"),
        ("node.toml: unknown key 'consol' (did you mean 'console'?)", "unknown-key"),
        ("volume.ct: /data/ct.nii.gz: no such file or folder", "file-missing"),
        ("confirming the registration, 2 of 5 frames", "confirming"),
        ("Drill and Probe are exchanged; confirm which is which", "exchanged"),
        ("learned: 4 views over 88 degrees: shapes are approximate, HU are not calibrated", "reservation"),
        ("it moves: 2.0 mm in a few seconds", "bone-moved"),
        ("node ended (killed by SIGKILL); restarting it", "process-ended"),
        ("the C-arm's geometry does not fit the image: its principal point is not what is stated", "geometry"),
        ("the image does not show whether the C-arm's geometry is as stated", "geometry-not-shown"),
        ("parts of the patient have moved against each other since the CT", "patient-bent"),
        ("carm.json: expired 12 days ago; calibrate again", "calibration-refused"),
    ],
)
def test_a_message_finds_its_entry(reason, entry):
    found = messages.find(reason)
    assert found is not None and found.id == entry


def test_reasons_with_advice_on_the_page_have_an_entry():
    assert [reason for reason in REASONS if messages.find(reason) is None] == []


def test_what_nobody_says_finds_nothing():
    for text in ("", "all is well", "…", "a" * 100_000, "<script>alert(1)</script>", "; " * 5000):
        assert messages.find(text) is None


def test_the_page_begins_with_what_was_said():
    said, everything = asyncio.run(_pages({"said": "no X-ray registered for 31 s <b>"}, {}))
    assert said.index("no X-ray registered for 31 s &lt;b&gt;") < said.index(
        '<article id="found"><h3>No X-ray for some'
    )
    assert "<b>" not in said.replace("<b>What to do.</b>", "")
    assert said.count("<article") == len(messages.entries()) + 1
    assert 'id="found"' not in everything and 'id="no-xray-yet"' in everything
    assert not re.search(r"\]\(", everything), "Markdown was left"


async def _pages(*queries: dict[str, str]) -> list[str]:
    """The page of messages, as it answers each query."""
    app = web.Application()
    messages.add(app)
    texts = []
    async with TestClient(TestServer(app)) as client:
        for query in queries:
            answer = await client.get("/messages", params=query)
            assert answer.status == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
            texts.append(await answer.text())
    return texts


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.long
def test_a_reason_on_the_page_leads_to_its_entry(tmp_path):
    async def look(browser, stage) -> None:
        stage.registration = HIDDEN
        stage.tools = {"Drill": (drill(), VALID)}
        stage.more = {"notices": ("source 10.0.0.2:18944 vanished",)}
        await browser.evaluate("document.getElementById('details-open').click()")
        await browser.wait_for("document.querySelectorAll('#details a.message[href]').length === 2", 10)
        sizes = (
            "[...document.querySelectorAll('#details a.message[href]')].map((a) => a.getBoundingClientRect().height)"
        )
        assert min(await browser.evaluate(sizes)) >= 44
        await picture(browser, tmp_path / "details.png")
        places = await browser.evaluate("[...document.querySelectorAll('#details a.message[href]')].map((a) => a.href)")
        for place, title in zip(places, ("The patient's marker is not seen", "A source is gone"), strict=True):
            await browser.open(place)
            await browser.wait_for("document.readyState === 'complete'", 10)
            assert await browser.evaluate("document.querySelector('#found h3').textContent") == title
            assert await browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            await picture(browser, tmp_path / "entry.png")

    staged(look)
