"""What a room needs, what is kept of it, and how `calibrate all` guides through it."""

from __future__ import annotations

import asyncio
import re
import weakref

import msgspec
import numpy as np
import pytest

from calibration import guide as guide_
from calibration import heard as heard_
from calibration import results, samples
from calibration.guide import Guide
from calibration.heard import Heard, record
from calibration.room import Need, Room, State, Used
from calibration.verdict import Calibration
from navnode import config
from navnode.clock import now_ns
from navnode.files import artifacts
from navnode.igtl import Image, Point, PointElement, Transform
from navnode.loop.calibrations import with_kept
from navnode.recording import Recorder
from tests.calibration.scenes import TIP, pivoting
from tests.calibration.test_collect import streaming
from tests.conftest import find_free_port
from tests.invoke import call

NS = 20_000_000


def room_toml(tmp_path, port=1, **keys):
    """The demo's configuration, which keeps calibrations in a folder of its own."""
    text = config.find("demo.toml").read_text()
    text = re.sub(r"^port = 18945$", f"port = {port}", text, flags=re.M)
    lines = "".join(f'{key} = "{value}"\n' for key, value in {"folder": "kept", **keys}.items())
    assert "[calibration]" in text
    path = tmp_path / "room.toml"
    path.write_text(text.replace("[calibration]\n", f"[calibration]\n{lines}", 1))
    return path


def recorded(path, device, poses):
    recorder = Recorder(path, {})
    began = now_ns()
    for n, pose in enumerate(poses):
        at = began + n * NS
        recorder.record(Transform(device=device, timestamp_ns=at, matrix=pose, version=2), at)
    recorder.stop()
    return path


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """A tool turned about its tip, recorded twice."""
    folder, rng = tmp_path_factory.mktemp("turned"), np.random.default_rng(4)
    return [recorded(folder / f"{n}.mcap", "DrillToTracker", pivoting(300, rng)) for n in range(2)]


def calibrate(path, *arguments):
    code, document, error = call("calibrate", "all", path, *arguments, "--json")
    return code, document, error


def state(document, name):
    return next(step for step in document["steps"] if step["name"] == name)


def test_a_step_is_kept_used_and_not_measured_again(tmp_path, turned):
    path = room_toml(tmp_path)
    code, told, error = calibrate(path, "--recording", f"pivot-Drill={turned[0]}")
    assert code == 1 and "pivot-Drill" not in told["lacking"] and "carm" in told["lacking"], error
    step = state(told, "pivot-Drill")
    assert step["state"] == "kept" and step["used"] == "next_start"
    tip = step["found"][0]
    assert tip["key"] == "tip" and np.linalg.norm(np.subtract(tip["values"], TIP)) < 0.2 and 0 < tip["within"] < 0.2
    loaded = with_kept(config.load(path))
    assert loaded.tools[0].pivot == step["path"], "a node that starts now goes by it"
    assert "pivot-Drill" not in [each.name for each in [Guide(loaded).next()] if each]


def test_the_difference_from_the_one_before_is_said(tmp_path, turned):
    path = room_toml(tmp_path)
    calibrate(path, "--recording", f"pivot-Drill={turned[0]}")
    code, _, error = calibrate(path, "--recording", f"pivot-Drill={turned[1]}", "--report", tmp_path / "reports")
    assert code == 1 and "the same within repetition" in error
    page = (tmp_path / "reports" / "pivot-Drill.html").read_text()
    assert page.index("PASS") < page.index("tip ") < page.index("pass mark") and "covariance" not in page


def test_what_fails_is_said_in_degrees_and_not_kept(tmp_path):
    few = recorded(
        tmp_path / "few.mcap", "DrillToTracker", pivoting(200, np.random.default_rng(5), cone=0.05, turn=0.05)
    )
    path = room_toml(tmp_path)
    code, told, error = calibrate(path, "--recording", f"pivot-Drill={few}")
    assert code == 1 and told["failed"] == ["pivot-Drill"] and state(told, "pivot-Drill")["state"] == "missing"
    assert re.search(
        r"FAIL  Tip of Drill\n.*the largest (rotation|tilt) between two poses: [\d.]+° \(≥ 20.1°\); tilt", error
    )
    assert not (tmp_path / "kept").exists()


def test_steps_are_left_out_with_the_consequence(tmp_path):
    path = room_toml(tmp_path)
    _, told, _ = calibrate(path, "--skip", "flex", "--state")
    assert state(told, "flex")["skipped"] and "flex" not in told["lacking"]
    again = calibrate(path, "--state")[1]
    assert state(again, "flex")["skipped"], "it is remembered"


@pytest.mark.long
def test_live_a_room_that_says_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(guide_, "_NOTHING_S", 1.0)
    path = room_toml(tmp_path, find_free_port())
    code, told, error = calibrate(path, "--only", "pivot-Drill")
    assert code == 1 and told["failed"] == ["pivot-Drill"]
    assert "nothing received from DrillToTracker (cannot connect" in error


@pytest.mark.long
def test_live_it_ends_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(guide_, "_LEAST_S", {})
    with streaming(("DrillToTracker", pivoting(6000, np.random.default_rng(6)))) as port:
        code, told, error = calibrate(room_toml(tmp_path, port), "--only", "pivot-Drill")
    assert state(told, "pivot-Drill")["state"] == "kept" and told["failed"] == [], error
    assert code == 1, "others are lacking"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "pivot-Saw"), "'pivot-Saw' is no step of this room; there are: "),
        (("--recording", "carm"), "STEP=SESSION is expected"),
        (("--skip", "everything"), "is no step of this room"),
        (("--recording", "pivot-Drill=nowhere.mcap"), "nowhere.mcap: there is no such file"),
    ],
)
def test_wrong_options_are_named(tmp_path, arguments, said):
    code, _, error = calibrate(room_toml(tmp_path), *arguments)
    assert code == 2 and said in error


def test_a_room_knows_what_it_needs(tmp_path):
    room = Room(config.load(room_toml(tmp_path)))
    needs = {step.name: step.need for step in room.steps}
    assert needs["flatfield"] is Need.OPTIONAL and needs["pivot-Drill"] is Need.ADVISED
    bare = msgspec.structs.replace(
        room.config.tools[0], marker_from_tooltip=config.ToolSection(name="D", device="D").marker_from_tooltip
    )
    room = Room(msgspec.structs.replace(room.config, tools=(bare,)))
    assert {step.name: step.need for step in room.steps}["pivot-Drill"] is Need.NEEDED
    assert ("key", "calibration.points") in [
        (lack.code, lack.what) for lack in room.lacks(room.step("patient"), "Drill")
    ]
    assert ("first", "pivot-Drill") in [(lack.code, lack.what) for lack in room.lacks(room.step("patient"), "Drill")]


def test_expired_calibrations_are_refused_and_measured_again(tmp_path):
    (tmp_path / "kept").mkdir()
    old = artifacts.Artifact(
        kind="pivot",
        status="PASS",
        result=artifacts.PivotResult((1.0, 2.0, 3.0)),
        device="Drill",
        created_ns=1,
        expires_ns=2,
    )
    artifacts.write(tmp_path / "kept" / "pivot-Drill.json", old)
    guide = Guide(with_kept(config.load(room_toml(tmp_path))))
    kept = guide.room.kept(guide.room.step("pivot-Drill"))
    assert kept.state is State.REFUSED and "expired" in kept.reason
    assert guide.next().name == "pivot-Drill"


def test_a_calibration_of_another_kind_is_refused(tmp_path):
    (tmp_path / "kept").mkdir()
    other = artifacts.Artifact(kind="temporal", status="PASS", result=artifacts.ImageLagResult(5_000_000))
    artifacts.write(tmp_path / "kept" / "handeye.json", other)
    room = Room(config.load(room_toml(tmp_path)))
    kept = room.kept(room.step("handeye"))
    assert kept.state is State.REFUSED and "of kind 'temporal', not 'handeye'" in kept.reason


def test_used_from_when(tmp_path, turned):
    path = room_toml(tmp_path)
    calibrate(path, "--recording", f"pivot-Drill={turned[0]}")
    loaded, replace = with_kept(config.load(path)), msgspec.structs.replace
    running = replace(loaded, calibration=replace(loaded.calibration, as_of_ns=now_ns()))
    room = Room(running)
    step = room.step("pivot-Drill")
    assert room.kept(step).used is Used.NOW
    assert room.used(step, now_ns() + 1) is Used.NEXT_START, "it was kept after the node began"
    nowhere = Room(replace(config.load(path), calibration=replace(loaded.calibration, folder="")))
    assert nowhere.used(nowhere.step("pivot-Drill"), 1) is Used.NEVER


def test_dark_and_flat_images_are_told_apart(tmp_path):
    rng = np.random.default_rng(7)
    heard = Heard()
    for n, level in enumerate([100] * 6 + [9000] + [20000] * 6):  # one while the beam was switched
        heard.add("XRay", (n + 1) * NS, frame=rng.poisson(level, (64, 64)).astype(np.uint16), angles=None)
    room = Room(config.load(room_toml(tmp_path)))
    step = room.step("flatfield")
    found = samples.judged(room, step, "", heard, {}, final=True)
    assert found.passed, found.reason
    assert found.quality["n_dark"] == 6 and found.quality["n_flat"] == 6
    assert samples.coverage(room, step, heard, {}).labels == [("dark", True), ("flat", True)]


def test_spheres_come_from_points(tmp_path):
    rng = np.random.default_rng(8)
    spheres = np.array([[0.0, 0, 0], [60, 0, 0], [0, 45, 0], [80, 50, 10]])
    heard = Heard()
    for n in range(60):
        places = [PointElement("", tuple(at)) for at in spheres + rng.normal(0, 0.1, spheres.shape)]
        record(heard, Point(device="Spheres", timestamp_ns=(n + 1) * NS, points=tuple(places)), 0, {"Spheres"})
    room = Room(config.load(room_toml(tmp_path, spheres="Spheres")))
    found = samples.judged(room, room.step("tool-Drill"), "", heard, {}, final=True)
    assert found.passed and len(found.result.markers_mm) == 4, found.reason


def test_a_difference_matters_only_beyond_repetition():
    def of(tip, sigma):
        return Calibration(artifacts.PIVOT, artifacts.PivotResult(tip), {"sigma_tip_mm": [sigma] * 3}, {})

    old = artifacts.Artifact(
        kind="pivot",
        status="PASS",
        result=artifacts.PivotResult((0.0, 0.0, 100.0)),
        quality={"sigma_tip_mm": [0.05] * 3},
    )
    (same,), (other,) = (results.changes(of((0.0, 0.0, 100.0 + off), 0.05), old) for off in (0.05, 0.5))
    assert same.limit == pytest.approx(1.96 * 0.05 * np.sqrt(2)) and not same.matters and other.matters
    assert "the same within repetition" in results.change_in_words(same)
    assert "more than repetition explains" in results.change_in_words(other)
    assert results.changes(of((0.0, 0.0, 1.0), 0.05), None) == []


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (1234.6, "1235"), (0.000123, "0.000123"), (47.123, "47.1"), (float("nan"), "–")]
)
def test_numbers_are_short_and_never_in_powers_of_ten(value, shown):
    assert results.brief(value) == shown


def test_the_terminal_says_what_is_lacking(tmp_path):
    from typer.testing import CliRunner

    from navnode import cli

    ran = CliRunner().invoke(cli.app, ["calibrate", "all", str(room_toml(tmp_path)), "--state"])
    assert ran.exit_code == 1
    lines = ran.stdout.splitlines()
    assert any(re.match(r"pivot-Drill +advised", line) for line in lines)
    assert any(line.startswith("lacking: patient: ") and "calibration.points is not set" in line for line in lines)


def xrays(heard, count, size=(32, 16), kind=np.uint16):
    for n in range(count):
        voxels = np.full((1, *size), n, kind)
        at_ns = NS * (len(heard.times_s.get("XRay", [])) + 1)
        image = Image(device="XRay", timestamp_ns=at_ns, voxels=voxels, ras_from_index=np.eye(4))
        record(heard, image, 0, {"XRay"})


def test_images_are_held_by_bytes_and_judged_without_a_copy(monkeypatch):
    monkeypatch.setattr(heard_, "_MOST_IMAGE_BYTES", 10 * 1024)
    heard = Heard()
    xrays(heard, 10)
    first = heard.pictures("XRay")
    assert heard.left_out == "" and [int(image[0, 0]) for image in first.counts] == list(range(10))
    assert np.shares_memory(first.counts, heard.pictures("XRay").counts) and not first.counts.flags.writeable
    xrays(heard, 3)
    assert heard.taken("XRay") == len(heard.times_s["XRay"]) == len(heard.pictures("XRay").counts) == 10
    assert heard.left_out == "some images of XRay are left out: they are more than 10, which are all that is held"


@pytest.mark.parametrize("other", [{"size": (16, 32)}, {"kind": np.uint8}], ids=["size", "type"])
def test_images_of_another_kind_are_left_out_and_told(other):
    heard = Heard()
    xrays(heard, 2)
    xrays(heard, 1, **other)
    xrays(heard, 1)
    assert len(heard.pictures("XRay").counts) == 3 and "differ in size or type" in heard.left_out


@pytest.mark.parametrize("way", ["conclude", "discard"])
def test_what_was_measured_is_let_go_and_its_number_is_not(tmp_path, way):
    guide = Guide(config.load(room_toml(tmp_path)))
    run = guide.begin(guide.room.step("flatfield"))
    xrays(run.heard, 40)
    xrays(run.heard, 1, size=(8, 8))
    images = weakref.ref(run.heard._images["XRay"])
    if way == "discard":
        guide.discard(run)
    else:
        asyncio.run(guide.conclude(run))
        assert "flatfield" in run.verdicts
    assert images() is None and run.heard.taken("XRay") == 0 and run.counts() == (40,)
    assert "differ in size" in guide.state().run.problem
