"""A node with gateways: started, watched, restarted, and told as what they are."""

from __future__ import annotations

import os
import signal
import threading

import msgspec
import pytest

from navnode import config
from navnode.igtl import BlockingClient, Image
from navnode.igtl.conventions import DOSE_KEY, EXPOSURE_KEY
from navnode.node.supervisor import Supervisor, gateways
from navnode.types import Status
from tests import patience
from tests.conftest import find_free_port
from tests.gateways.objects import picture, xray
from tests.gateways.test_dicom import associated, sent
from tests.gateways.test_video import numbered, written

PATIENCE_S = 60.0


def node(*sources: dict) -> config.Config:
    return config.parse(
        {
            "carm": {
                "width_px": 64,
                "height_px": 48,
                "pixel_spacing_mm": [1.0, 1.0],
                "source_to_detector_mm": 1000.0,
                "principal_point_px": [31.5, 23.5],
            },
            "console": {"port": find_free_port()},
            "display": {"enabled": False},
            "reconstruction": {"method": "sart"},
            "sources": list(sources),
        },
        "test",
    )


def until(supervisor, condition):
    def fulfilled():
        state = supervisor.watch()
        return state if state is not None and condition(state) else None

    return patience.until(fulfilled, PATIENCE_S, supervisor.watch, every_s=0.1)


@pytest.fixture
def video(tmp_path):
    film = [numbered(n % 25, (48, 64)) for n in range(400)]
    return written(tmp_path / "x.avi", film)


def test_gateways_are_named_by_their_type_and_place():
    loaded = node({"port": 18945}, {"type": "video", "device": "0"}, {"type": "dicom"})
    assert list(gateways(loaded)) == ["video-2", "dicom-3"]


@pytest.mark.long
def test_a_gateway_that_dies_or_hangs_is_started_again_and_the_node_lives_on(video):
    loaded = node({"type": "video", "device": str(video), "port": find_free_port()})
    told = []
    with Supervisor(loaded, None, told.append) as supervisor:
        supervisor.start()
        node_pid = supervisor.pid("node")
        first = until(supervisor, lambda state: state.frames_received > 5)
        assert set(first.sources.values()) == {""}
        os.kill(supervisor.pid("video-1"), signal.SIGKILL)
        until(supervisor, lambda _: any("video-1 ended (killed by SIGKILL); restarting it" in line for line in told))
        until(supervisor, lambda state: set(state.sources.values()) == {""} and supervisor.restarts()["video-1"] == 1)
        count = until(supervisor, lambda _: True).frames_received
        until(supervisor, lambda state: state.frames_received > count + 5)
        os.kill(supervisor.pid("video-1"), signal.SIGSTOP)
        until(supervisor, lambda _: any("video-1 hangs; killing it" in line for line in told))
        until(supervisor, lambda _: supervisor.restarts()["video-1"] == 2)
        assert supervisor.pid("node") == node_pid and supervisor.restarts()["node"] == 0


@pytest.mark.long
def test_what_a_gateway_tells_reaches_the_operator_and_its_pictures_the_node(tmp_path):
    dicom = {"type": "dicom", "port": find_free_port(), "listen_port": find_free_port()}
    film = {"type": "video", "device": str(tmp_path / "missing.avi"), "port": find_free_port()}
    loaded = node(dicom, film)
    told = []
    with Supervisor(loaded, None, told.append) as supervisor:
        supervisor.start()
        until(supervisor, lambda state: any("missing.avi: cannot be opened" in notice for notice in state.notices))
        assert sent(loaded.sources[0], xray(picture()), xray(picture(1))) == [0, 0]
        until(supervisor, lambda state: state.frames_received == 2)
        assert sent(loaded.sources[0], xray(picture(2), PixelIntensityRelationship="LOG")) == [0xC000]
        state = until(supervisor, lambda state: any("CARM1" in notice and "LOG" in notice for notice in state.notices))
        assert state.dose.frames == 2
    assert any("missing.avi" in line for line in told)


@pytest.mark.long
def test_xrays_pushed_by_dicom_are_registered_like_any_others():
    """The virtual room's X-rays by DICOM, its poses by OpenIGTLink: VALID, and every exposure counted once."""
    loaded = config.load("demo.toml")
    change = msgspec.structs.replace
    room = config.SimulatorSection(port=find_free_port(), frame_rate_hz=10.0, ct="procedural")
    dicom = config.DicomSource(port=find_free_port(), listen_port=find_free_port())
    loaded = change(
        loaded,
        volume=change(loaded.volume, ct="procedural"),
        devices=change(loaded.devices, xray="CArm"),  # the room's own X-rays are nobody's
        sources=(change(loaded.sources[0], port=room.port), dicom),
        console=change(loaded.console, port=find_free_port()),
        display=change(loaded.display, enabled=False),
    )
    pushed, ended = [], threading.Event()

    def push() -> None:
        association = associated(dicom)
        with BlockingClient("127.0.0.1", room.port) as client:
            while not ended.is_set():
                image = client.receive(0.5)
                if isinstance(image, Image) and image.device == "XRay" and EXPOSURE_KEY in image.metadata:
                    said = {key: image.metadata[key] for key in (EXPOSURE_KEY, DOSE_KEY)}
                    pushed.append(association.send_c_store(xray(image.voxels[0], image.timestamp_ns, **said)).Status)
        association.release()

    with Supervisor(loaded, room) as supervisor:
        supervisor.start()
        pushing = threading.Thread(target=push)
        pushing.start()
        try:
            until(supervisor, lambda state: state.registration.status is Status.VALID)
        finally:
            ended.set()
            pushing.join()
        state = until(supervisor, lambda state: state.frames_received == len(pushed))
        assert set(pushed) == {0} and state.dose.frames == len(pushed) and state.dose.gy_cm2 > 0
