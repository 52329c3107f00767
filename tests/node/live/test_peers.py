"""Consoles of a running node: what they hear, what they command, and what is refused."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time

import numpy as np
import pyigtl
import pytest

from navnode import __version__
from navnode.errors import RecordingError
from navnode.igtl import BlockingClient, Image, PolyData, Start, StatusMessage, TrackingData, Transform, encode
from navnode.recording import Recording
from navnode.recording.recording import Recorded
from navnode.recording.summary import summarize
from tests.conftest import needs_cpp, peer_program
from tests.node.live.consoles import SIZE_PX, Listener, state_of, until

pytestmark = pytest.mark.long


def _triangles(listener: Listener) -> int:
    """Of the newest bone; a new console is first told that there is none."""
    models = listener.of("BoneModel")
    return len(models[-1].triangles) if models else 0


def test_a_console_gets_every_device(live):
    supervisor, listener = live
    until(lambda: _triangles(listener) > 1000 and listener.of("Volume"), supervisor)
    assert isinstance(listener.of("XRay")[-1], Image) and listener.of("XRay")[-1].voxels.shape == (1, SIZE_PX, SIZE_PX)
    assert isinstance(listener.of("Volume")[-1], Image) and listener.of("Volume")[-1].metadata["Validity"] == "DEGRADED"
    assert isinstance(listener.of("BoneModel")[-1], PolyData)
    assert isinstance(listener.of("NodeStatus")[-1], StatusMessage)
    for device in ("DrillToVolume", "CArmToVolume", "PatientToVolume"):
        assert isinstance(listener.of(device)[-1], Transform)
        assert {"Validity", "AgeMs", "TransformStatus"} <= set(listener.of(device)[-1].metadata)


def test_lists_of_tools_go_to_those_who_ask(live):
    supervisor, listener = live
    assert not listener.of("Tools")
    with BlockingClient("127.0.0.1", supervisor.config.console.port) as client:
        client.send(Start(kind="TDATA", device="Tools", resolution_ms=0))
        listed = next(message for message in client if isinstance(message, TrackingData))
    assert [element.name for element in listed.elements] == ["Drill"]


def test_the_tip_is_where_the_simulator_says(live):
    supervisor, listener = live
    truth = Listener(supervisor.config.sources[0].port)

    def errors_mm() -> list[float]:
        true = {m.timestamp_ns: m.matrix for m in truth.of("TruthDrillToVolume")}
        heard = [m for m in listener.of("DrillToVolume") if m.metadata["TransformStatus"] == "OK"]
        pairs = [(m.matrix, true[m.timestamp_ns]) for m in heard if m.timestamp_ns in true]
        return [float(np.linalg.norm(found[:3, 3] - known[:3, 3])) for found, known in pairs]

    until(lambda: len(errors_mm()) > 200, supervisor)
    truth.stop()
    assert np.median(errors_mm()) < 2.0 and max(errors_mm()) < 5.0


def test_pyigtl_as_a_console(live):
    supervisor, _ = live
    client = pyigtl.OpenIGTLinkClient("127.0.0.1", supervisor.config.console.port)
    transform = client.wait_for_message("DrillToVolume", 60)
    assert transform is not None and np.allclose(transform.matrix[3], (0, 0, 0, 1))
    volume = client.wait_for_message("Volume", 60)
    assert volume is not None and volume.image.shape == (48, 48, 48)
    xray = client.wait_for_message("XRay", 60)
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
        assert answer("SetTool", '<Command Tool="Drill"/>') == ("SUCCESS", "The slices follow Drill")
        assert answer("StopRecording") == ("FAIL", "no recording is under way")
        assert answer("StartRecording", '<Command OutputFilename="../escape"/>')[0] == "FAIL"
        status, text = answer("StartRecording", '<Command OutputFilename="live"/>')
        assert status == "SUCCESS" and "recording to" in text
        assert answer("StartRecording")[0] == "FAIL"
        assert answer("CheckTip", '<Command Tool="Drill"/>') == ("FAIL", "Point must be three numbers: R A S in mm")
        until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
        tip = "{:.1f} {:.1f} {:.1f}".format(*listener.of("DrillToVolume")[-1].matrix[:3, 3])
        status, touched = answer("CheckTip", f'<Command Tool="Drill" Point="{tip}"/>')
        assert (status == "SUCCESS") is ("mm from the point" in touched) and touched.startswith("Drill "), touched
        before = len(listener.of("DrillToVolume"))
        assert answer("RegistrationReject")[0] == "SUCCESS"
        until(
            lambda: "INVALID" in {m.metadata["TransformStatus"] for m in listener.of("DrillToVolume")[before:]},
            supervisor,
        )
        until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
        assert answer("TakeView")[0] == "SUCCESS"
        frames = len(listener.of("XRay"))  # the registration may be back at once; more is asked for below
        until(lambda: len(listener.of("XRay")) > frames + 10, supervisor)
        status, text = answer("StopRecording")
        assert status == "SUCCESS"
        status, reconnecting = answer("Reconnect")
        source = supervisor.config.sources[0]
        assert (status, reconnecting) == ("SUCCESS", f"reconnecting {source.host}:{source.port}")
        until(lambda: any("on request" in notice for notice in state_of(supervisor).notices), supervisor)
        until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
    entries: list[Recorded] = []

    def whole() -> bool:
        with contextlib.suppress(RecordingError):  # still being written
            entries[:] = Recording(text.split(": ")[0])
            return True
        return False

    until(whole, supervisor)
    topics = [entry.topic for entry in entries]
    assert topics.count("in/TRANSFORM/DrillToTracker") > 50 and topics.count("in/IMAGE/XRay") > 5
    steps = [entry.content for entry in entries if entry.topic == "step"]
    noted = [step["operation"] for step in steps if step["kind"] == "OperatorCommand"]
    assert noted == ["CheckTip", "RegistrationReject", "TakeView"]
    assert touched in [told for _, told in summarize(Recording(text.split(": ")[0])).commands]


@needs_cpp
def test_the_cpp_library_as_a_console(live):
    supervisor, _ = live
    command = [str(peer_program("receiver")), "127.0.0.1", str(supervisor.config.console.port), "4"]
    for _ in range(15):  # it reports what it got last, and the room hides the drill now and then
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        seen = {line["device"]: line for line in map(json.loads, lines)}
        if seen["POLYDATA/DrillAxis"]["lines"] and seen["POLYDATA/BoneModel"]["polygons"]:
            break
    assert {line["device"]: line["errors"] for line in seen.values() if line["errors"]}.keys() <= {"TDATA/Tools"}
    assert seen["TRANSFORM/DrillToVolume"]["count"] > 10
    assert seen["IMAGE/XRay"]["size"] == [SIZE_PX, SIZE_PX, 1]
    assert seen["IMAGE/Volume"]["size"] == [48, 48, 48] and seen["IMAGE/Volume"]["spacing"] == [7, 7, 7]
    assert seen["POLYDATA/BoneModel"]["polygons"] > 1000 and seen["POLYDATA/DrillAxis"]["lines"] == 2
    assert seen["POINT/DrillTip"]["points"] == 1 and seen["TDATA/Tools"]["tools"] == 1
    assert seen["STATUS/NodeStatus"]["name"] in ("VALID", "DEGRADED")


def test_what_a_console_pushes_is_refused_and_the_loop_goes_on(live):
    supervisor, listener = live

    stamp = time.time_ns()
    not_a_number = np.full((4, 4), np.nan)
    with socket.create_connection(("127.0.0.1", supervisor.config.console.port)) as console:
        for matrix in (not_a_number, np.diag([2.0, 2, 2, 1])):
            console.sendall(encode(Transform(device="DrillToTracker", timestamp_ns=stamp, matrix=matrix)))
        picture = np.zeros((1, 20, 30), np.uint16)
        console.sendall(encode(Image(device="XRay", timestamp_ns=stamp, voxels=picture, ras_from_index=np.eye(4))))
        until(lambda: any("XRay" in n and "sources alone" in n for n in state_of(supervisor).notices), supervisor)
    assert any("DrillToTracker" in n and "sources alone" in n for n in state_of(supervisor).notices)
    heard = len(listener.of("DrillToVolume"))
    until(lambda: len(listener.of("DrillToVolume")) > heard + 50, supervisor)
    until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
