"""The whole thing as its users meet it: processes, real peers, a browser, and processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyigtl
import pytest
from rich.console import Console

from navnode import __version__, config
from navnode.config import Config, SimulatorSection
from navnode.errors import RecordingError
from navnode.igtl import BlockingClient, Client, Image, Message, PolyData, StatusMessage, TrackingData, Transform
from navnode.node.supervisor import Supervisor
from navnode.recording import Recording
from navnode.recording.recording import Recorded
from navnode.simulation import room
from navnode.simulation.scenario import carm_of_size
from navnode.types import NodeState, Status
from tests.browser import CHROMIUM, Browser
from tests.conftest import find_free_port, needs_cpp, peer_program

SIZE_PX, RATE_HZ = 256, 10.0
quiet = Console(quiet=True)


def settings_for(port: int) -> SimulatorSection:
    return SimulatorSection(port=port, ct="procedural", size_px=SIZE_PX, frame_rate_hz=RATE_HZ)


def node_config(name: str, simulator_port: int) -> Config:
    """A shipped configuration on ports of its own, for the small detector."""
    loaded, replace = config.load(name), msgspec.structs.replace
    carm = carm_of_size(SIZE_PX)
    return replace(
        loaded,
        carm=replace(
            loaded.carm, width_px=SIZE_PX, height_px=SIZE_PX, pixel_spacing_mm=carm.pixel_spacing_mm,
            principal_point_px=carm.principal_point_px,
        ),
        volume=replace(loaded.volume, ct=loaded.volume.ct and "procedural"),
        sources=(replace(loaded.sources[0], port=simulator_port),),
        reconstruction=replace(loaded.reconstruction, size=48, spacing_mm=7.0),
        console=replace(loaded.console, port=find_free_port()),
        display=replace(loaded.display, port=find_free_port()),
        recording=replace(loaded.recording, folder=str(Path(os.environ["XDG_CACHE_HOME"]) / "sessions")),
    )  # fmt: skip


class Listener:
    """A console that keeps everything it hears."""

    def __init__(self, port: int) -> None:
        self.heard: list[Message] = []
        self._loop = asyncio.new_event_loop()
        client = Client("127.0.0.1", port, lambda message, _: self.heard.append(message))
        self._task = self._loop.create_task(client.run())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def of(self, device: str) -> list[Message]:
        return [message for message in self.heard if message.device == device]

    def status(self, device: str) -> str:
        return self.of(device)[-1].metadata.get("TransformStatus", "") if self.of(device) else "nothing yet"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.05, self._loop.stop)


def until(condition, supervisor: Supervisor, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out; node: {supervisor.watch()}"
        supervisor.watch()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def live(procedural_ct) -> Iterator[tuple[Supervisor, Listener]]:
    """Simulator, worker, node and display, registered and confirmed."""
    simulator = settings_for(find_free_port())
    room.prepare(simulator, quiet)
    with Supervisor(node_config("demo.toml", simulator.port), simulator) as supervisor:
        supervisor.start()
        listener = Listener(supervisor.config.console.port)
        until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
        yield supervisor, listener
        listener.stop()


def test_a_console_gets_every_device(live):
    supervisor, listener = live
    until(lambda: listener.of("BoneModel") and listener.of("Volume"), supervisor)
    assert isinstance(listener.of("XRay")[-1], Image) and listener.of("XRay")[-1].voxels.shape == (1, SIZE_PX, SIZE_PX)
    assert isinstance(listener.of("Volume")[-1], Image) and listener.of("Volume")[-1].metadata["Validity"] == "DEGRADED"
    assert isinstance(listener.of("Tools")[-1], TrackingData)
    assert isinstance(listener.of("BoneModel")[-1], PolyData) and len(listener.of("BoneModel")[-1].triangles) > 1000
    assert isinstance(listener.of("NodeStatus")[-1], StatusMessage)
    for device in ("DrillToVolume", "CArmToVolume", "PatientToVolume"):
        assert isinstance(listener.of(device)[-1], Transform)
        assert {"Validity", "AgeMs", "TransformStatus"} <= set(listener.of(device)[-1].metadata)


def test_the_tip_is_where_the_simulator_says(live):
    supervisor, listener = live
    truth = Listener(supervisor.config.sources[0].port)
    time.sleep(3)
    truth.stop()
    true = {m.timestamp_ns: m.matrix for m in truth.of("TruthDrillToVolume")}
    found = [
        m for m in listener.of("DrillToVolume") if m.timestamp_ns in true and m.metadata["TransformStatus"] == "OK"
    ]
    errors = [np.linalg.norm(m.matrix[:3, 3] - true[m.timestamp_ns][:3, 3]) for m in found]
    assert len(errors) > 100 and np.median(errors) < 2.0 and max(errors) < 5.0


def test_pyigtl_as_a_console(live):
    supervisor, _ = live
    client = pyigtl.OpenIGTLinkClient("127.0.0.1", supervisor.config.console.port)
    transform = client.wait_for_message("DrillToVolume", 10)
    assert transform is not None and np.allclose(transform.matrix[3], (0, 0, 0, 1))
    volume = client.wait_for_message("Volume", 10)
    assert volume is not None and volume.image.shape == (48, 48, 48)
    xray = client.wait_for_message("XRay", 10)
    assert xray is not None and xray.image.shape == (1, SIZE_PX, SIZE_PX)
    client.stop()


def test_a_console_commands_the_node(live):
    supervisor, listener = live
    with BlockingClient("127.0.0.1", supervisor.config.console.port) as client:

        def answer(name: str, text: str = "") -> tuple[str, str]:
            said = client.command(name, text).metadata
            return said["Status"], said["Message"]

        assert answer("Version") == ("SUCCESS", f"navnode {__version__}")
        assert "DrillToVolume (TRANSFORM)" in answer("ListDevices")[1]
        assert answer("SetTool", '<Command Tool="Saw"/>')[0] == "FAIL"
        assert answer("SetTool", '<Command Tool="Drill"/>') == ("SUCCESS", "the slices follow Drill")
        assert answer("StopRecording") == ("FAIL", "no recording is under way")
        assert answer("StartRecording", '<Command OutputFilename="../escape"/>')[0] == "FAIL"
        status, text = answer("StartRecording", '<Command OutputFilename="live"/>')
        assert status == "SUCCESS" and "recording to" in text
        assert answer("StartRecording")[0] == "FAIL"
        before = len(listener.of("DrillToVolume"))
        assert answer("RegistrationReject")[0] == "SUCCESS"
        until(
            lambda: "INVALID" in {m.metadata["TransformStatus"] for m in listener.of("DrillToVolume")[before:]},
            supervisor,
        )
        until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
        assert answer("TakeView")[0] == "SUCCESS"
        time.sleep(1.0)  # the registration may be back at once; something to record is asked for below
        status, text = answer("StopRecording")
        assert status == "SUCCESS"
    entries: list[Recorded] = []

    def whole() -> bool:
        with contextlib.suppress(RecordingError):  # still being written
            entries[:] = Recording(text.split(": ")[0])
            return True
        return False

    until(whole, supervisor, 10)
    topics = [entry.topic for entry in entries]
    assert topics.count("in/TRANSFORM/DrillToTracker") > 50 and topics.count("in/IMAGE/XRay") > 5
    steps = [entry.content for entry in entries if entry.topic == "step"]
    noted = [step["operation"] for step in steps if step["kind"] == "OperatorCommand"]
    assert noted == ["RegistrationReject", "TakeView"]


@needs_cpp
def test_the_cpp_library_as_a_console(live):
    supervisor, _ = live
    command = [str(peer_program("receiver")), "127.0.0.1", str(supervisor.config.console.port), "4"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    seen = {line["device"]: line for line in map(json.loads, lines)}
    assert {line["device"]: line["errors"] for line in seen.values() if line["errors"]}.keys() <= {"TDATA/Tools"}
    assert seen["TRANSFORM/DrillToVolume"]["count"] > 100
    assert seen["IMAGE/XRay"]["size"] == [SIZE_PX, SIZE_PX, 1]
    assert seen["IMAGE/Volume"]["size"] == [48, 48, 48] and seen["IMAGE/Volume"]["spacing"] == [7, 7, 7]
    assert seen["POLYDATA/BoneModel"]["polygons"] > 1000 and seen["POLYDATA/DrillAxis"]["lines"] == 2
    assert seen["POINT/DrillTip"]["points"] == 1 and seen["TDATA/Tools"]["tools"] == 1
    assert seen["STATUS/NodeStatus"]["name"] in ("VALID", "DEGRADED")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page(live, tmp_path):
    supervisor, _ = live

    async def look() -> None:
        async with Browser() as browser:
            await browser.open(f"http://127.0.0.1:{supervisor.config.display.port}/")
            await browser.wait_for("!document.body.classList.contains('silent')")
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
                await browser.wait_for(varied, 20)
            await browser.screenshot(tmp_path / "page.png")
            assert not [e for e in browser.errors if "GPU stall" not in e], browser.errors
            assert await browser.evaluate(
                "performance.getEntriesByType('resource').every(e => e.name.startsWith(location.origin))"
            )
            # The page notices by itself: its server is stopped dead, not closed.
            os.kill(supervisor.pid("display"), signal.SIGSTOP)
            try:
                await browser.wait_for("document.body.classList.contains('silent')", 4)
                assert "Nothing on this page is current" in await browser.evaluate("document.body.innerText")
            finally:
                os.kill(supervisor.pid("display"), signal.SIGCONT)
            await browser.wait_for("!document.body.classList.contains('silent')", 10)

    asyncio.run(look())


def test_bad_input_is_refused_and_the_loop_goes_on(live):
    supervisor, listener = live

    async def push() -> None:
        from navnode.igtl import encode

        _, writer = await asyncio.open_connection("127.0.0.1", supervisor.config.console.port)
        stamp = time.time_ns()
        not_a_number = np.full((4, 4), np.nan)
        for matrix in (not_a_number, np.diag([2.0, 2, 2, 1])):
            writer.write(encode(Transform(device="DrillToTracker", timestamp_ns=stamp, matrix=matrix)))
        writer.write(
            encode(
                Image(
                    device="XRay", timestamp_ns=stamp, voxels=np.zeros((1, 20, 30), np.uint16), ras_from_index=np.eye(4)
                )
            )
        )
        await writer.drain()
        await asyncio.sleep(0.5)
        writer.close()

    asyncio.run(push())
    until(lambda: any("30 x 20" in n for n in supervisor.watch().notices), supervisor, 5)
    notices = " ".join(supervisor.watch().notices)
    assert "no rigid transform" in notices or "numbers" in notices
    heard = len(listener.of("DrillToVolume"))
    until(lambda: len(listener.of("DrillToVolume")) > heard + 50, supervisor, 10)
    until(lambda: listener.status("DrillToVolume") == "OK", supervisor, 10)


def test_a_killed_worker_comes_back(live):
    supervisor, listener = live
    killed = supervisor.pid("worker")
    os.kill(killed, signal.SIGKILL)
    until(lambda: supervisor.pid("worker") != killed and supervisor.watch().worker_alive, supervisor, 20)
    assert supervisor.restarts()["worker"] == 1
    assert listener.status("PatientToVolume") == "OK"


def test_a_killed_simulator_turns_everything_invalid_until_it_is_confirmed_anew(live):
    supervisor, listener = live
    until(lambda: supervisor.watch().registration.status is Status.VALID, supervisor, 30)
    os.kill(supervisor.pid("simulator"), signal.SIGKILL)
    until(
        lambda: listener.status("DrillToVolume") == "INVALID" and listener.status("PatientToVolume") == "INVALID",
        supervisor,
        5,
    )
    before = len(listener.of("DrillToVolume")) - 1
    time.sleep(0.4)
    assert {m.metadata["Validity"] for m in listener.of("DrillToVolume")[before:]} == {"INVALID"}
    until(lambda: listener.status("DrillToVolume") == "OK", supervisor, 40)
    assert supervisor.restarts()["simulator"] == 1


def test_a_killed_node_comes_back(live):
    supervisor, listener = live
    last = supervisor.watch()
    assert last is not None
    os.kill(supervisor.pid("node"), signal.SIGKILL)
    until(lambda: supervisor.restarts()["node"] == 1, supervisor, 20)
    heard = len(listener.heard)
    # A console may be back only when all is confirmed anew; what the node has said from its start is in its states.
    states: list[NodeState] = []

    def confirmed() -> bool:
        state = supervisor.watch()
        if state is not None and state.now_ns > last.now_ns and state.epoch != last.epoch:
            states.append(state)
        return bool(states) and states[-1].registration.usable

    until(confirmed, supervisor, 60)
    assert not states[0].registration.usable  # it knows nothing of what the last one knew
    assert not any(tool.usable for tool in states[0].tools.values())
    confirm_frames = supervisor.config.registration.confirm_frames
    assert all(state.frames_registered >= confirm_frames for state in states if state.registration.usable)
    until(
        lambda: any(
            m.metadata.get("TransformStatus") == "OK" for m in listener.heard[heard:] if m.device == "DrillToVolume"
        ),
        supervisor,
        60,
    )


def run_navnode(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "navnode", *arguments], capture_output=True, text=True, timeout=timeout_s
    )


def demo(port: int, *more: str) -> dict:
    done = run_navnode(
        "demo",
        "--headless",
        "--json",
        "--ct",
        "procedural",
        "--size",
        "256",
        "--rate",
        "10",
        "--port",
        str(port),
        *more,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_demo_reports_its_figures(procedural_ct, free_port):
    report = demo(free_port, "--seconds", "12")
    assert report["frames"] > 20 and report["fps"] > 2
    assert report["tre_mm"]["median"] < 2.0 and report["wrong_while_valid"] == 0
    assert set(report["latency_ms"]) == set(report["overlay_latency_ms"]) == {"p50", "p99", "max"}
    assert report["status_counts"]["VALID"] > 20 and report["backend"]["projector"].startswith("native")
    assert {"xray", "pose", "rejected", "console"} <= set(report["dropped"])


def test_demo_without_a_ct(procedural_ct, free_port):
    # The first volume takes SART a dozen seconds of idle time, and of a busy machine twice that.
    report = demo(free_port, "--seconds", "34", "--ctless")
    assert report["volumes"] >= 1 and report["status_counts"]["VALID"] == 0
    assert report["status_counts"]["DEGRADED"] > 10
    assert report["tre_mm"]["median"] < 3.0 and report["wrong_while_valid"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "missing.toml"], 2, "missing.toml"),
        (["demo", "--seconds", "0"], 2, "seconds"),
        (["demo", "--size", "300"], 2, "size_px"),
        (["demo", "--headless", "--seconds", "1", "--ct", "missing.nii.gz"], 2, "missing.nii.gz"),
        (["nonsense"], 2, "nonsense"),
        (["simulate", "--rate", "99"], 2, "rate"),
    ],
)
def test_wrong_arguments_are_named(arguments, code, said):
    done = run_navnode(*arguments)
    assert done.returncode == code and said in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_wrong_key_stops_the_start(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(config.find("demo.toml").read_text().replace("confirm_frames", "confirm_frame"))
    done = run_navnode("run", str(path))
    assert done.returncode == 2 and "did you mean 'confirm_frames'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_in_use_is_one_line(live):
    supervisor, _ = live
    done = run_navnode("demo", "--headless", "--seconds", "1", "--ct", "procedural", "--size", "256", "--rate", "10",
                       "--port", str(supervisor.config.console.port))  # fmt: skip
    assert done.returncode == 2
    assert f"port {supervisor.config.console.port}" in done.stderr.splitlines()[-1] and "in use" in done.stderr


def test_doctor_and_help():
    found = json.loads(run_navnode("doctor", "--json").stdout)
    assert found["uses"]["projector"].startswith("native") and found["cpu"]["cores"] >= 1
    for command in ("demo", "simulate", "run", "doctor"):
        assert "Example" in run_navnode(command, "--help").stdout
